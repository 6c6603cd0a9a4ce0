//! What a session does with what the cell tells it of the volume.

use super::*;
use sitefs_base::{GroupId, Incarnation, InodeId, SiteId, SystemClock, VolumeId, session::CreditUse};
use tokio::{runtime::Runtime, sync::mpsc::Receiver};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn bytes(bytes: u64) -> Credit {
    Credit { bytes, inodes: 0 }
}

fn usage(bytes_used: u64) -> Usage {
    Usage { bytes_used, bytes_limit: 100, inodes_used: 1, inodes_limit: 10 }
}

fn locked() -> VolumeSettings {
    VolumeSettings { read_only: Some("moving house".to_owned()), ..VolumeSettings::default() }
}

pub(super) fn attached(settings: VolumeSettings, credit: Credit) -> Attached {
    Attached {
        protocol: 1,
        cell: "main".to_owned(),
        group: GroupId::new(1),
        incarnation: Incarnation::new(1),
        site: SiteId::new(1),
        volume: VolumeId::new(1),
        root: InodeId::ROOT,
        seq: Seq::ZERO,
        resumed: false,
        op_high_water: OpId::new(0),
        read_only: false,
        hot_max: 0,
        at: None,
        usage: usage(0),
        settings,
        credit,
    }
}

fn renew(used: u64, settings: VolumeSettings, credit: Credit) -> ToMount {
    let (client_time, quorum_age) = (Duration::ZERO, Duration::ZERO);
    ToMount::Renew { client_time, quorum_age, watermark: Seq::ZERO, usage: usage(used), settings, credit }
}

/// Each stream begins with what is locked.
pub(super) fn is_about_locks(frame: &ToCell) -> bool {
    matches!(frame, ToCell::ReclaimLocks { .. })
}

/// A session with a stream, and the frames that it sends.
fn session(runtime: &Runtime, settings: VolumeSettings, credit: Credit) -> (Session, Receiver<ToCell>) {
    let session = Session::new(SessionId::new(1), runtime.handle().clone(), Arc::new(SystemClock));
    let (link, mut sent) = mpsc::channel(16);
    session.link_up(attached(settings, credit), link);
    assert!(is_about_locks(&sent.try_recv().unwrap()));
    (session, sent)
}

/// Answers pings until the session is gone; what they said was in use.
fn answer(session: &Session, mut sent: Receiver<ToCell>, answers: Vec<ToMount>) -> Vec<Credit> {
    let mut said = Vec::new();
    for answer in answers {
        match sent.blocking_recv() {
            Some(ToCell::Ping { credit, .. }) => said.push(credit.in_use),
            other => panic!("{other:?}"),
        }
        session.receive(answer);
    }
    said
}

#[test]
fn a_volume_is_read_only_for_as_long_as_the_cell_says_so() {
    let runtime = runtime();
    let (session, _sent) = session(&runtime, locked(), Credit::NONE);
    assert!(session.is_read_only());
    assert_eq!(session.status().settings, locked());
    session.receive(renew(0, VolumeSettings::default(), Credit::NONE));
    assert!(!session.is_read_only());
    session.receive(renew(0, locked(), Credit::NONE));
    assert!(session.is_read_only());
}

#[test]
fn a_writer_waits_until_others_give_back_what_it_needs() {
    let runtime = runtime();
    let (session, sent) = session(&runtime, VolumeSettings::default(), bytes(10));
    let open = VolumeSettings::default;
    let said = std::thread::scope(|scope| {
        let answers = [10, 20, 35].map(|told| renew(0, open(), bytes(told)));
        let cell = scope.spawn(|| answer(&session, sent, answers.into()));
        assert_eq!(session.wait_for_credit(bytes(35)), Ok(()));
        cell.join().unwrap()
    });
    assert_eq!(said, [bytes(35); 3], "what is wanted is said with every ping");
    assert_eq!(session.credits().said(), CreditUse { frames: 4, ..CreditUse::default() });
}

#[test]
fn credit_that_comes_unasked_ends_a_wait_and_is_answered_if_others_wait_for_it() {
    let runtime = runtime();
    let (session, mut sent) = session(&runtime, VolumeSettings::default(), bytes(10));
    let news = |told, answer| ToMount::Credit { credit: bytes(told), usage: usage(50), answer };
    session.receive(news(8, false));
    assert!(sent.try_recv().is_err());
    session.receive(news(5, true));
    let said = |frame| match frame {
        Some(ToCell::Ping { credit, .. }) => credit,
        other => panic!("{other:?}"),
    };
    let answer = said(sent.blocking_recv());
    assert_eq!(answer, CreditUse { frames: 3, ..CreditUse::default() });
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let wanting = said(sent.blocking_recv());
            assert_eq!((wanting.in_use, wanting.wanted), (bytes(20), bytes(20)));
            session.receive(news(20, true));
        });
        assert_eq!(session.wait_for_credit(bytes(20)), Ok(()));
    });
    assert_eq!(session.usage().bytes_used, 50);
}

#[test]
fn a_writer_that_gives_up_says_that_it_does_not_want_it_any_more() {
    let runtime = runtime();
    let (session, mut sent) = session(&runtime, VolumeSettings::default(), Credit::NONE);
    let wanted = std::thread::scope(|scope| {
        let cell = scope.spawn(|| {
            [99, 99, 0].map(|used| {
                let Some(ToCell::Ping { credit, .. }) = sent.blocking_recv() else { panic!() };
                session.receive(renew(used, VolumeSettings::default(), Credit::NONE));
                credit.wanted
            })
        });
        assert_eq!(session.wait_for_credit(bytes(2)), Err(Errno::EDQUOT));
        cell.join().unwrap()
    });
    assert_eq!(wanted, [bytes(2), bytes(2), Credit::NONE]);
}

#[test]
fn a_writer_waits_for_a_cell_that_restarts() {
    let runtime = runtime();
    let (session, mut sent) = session(&runtime, VolumeSettings::default(), Credit::NONE);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // It answers once and is gone for longer than a writer waits beside a cell that is there.
            assert!(matches!(sent.blocking_recv(), Some(ToCell::Ping { .. })));
            session.receive(renew(0, VolumeSettings::default(), Credit::NONE));
            session.link_down();
            let gone = std::time::Instant::now();
            while gone.elapsed() < CREDIT_WAIT + CREDIT_WAIT / 2 {
                std::thread::park_timeout(CREDIT_RETRY);
            }
            let (link, mut sent) = mpsc::channel(16);
            session.link_up(attached(VolumeSettings::default(), Credit::NONE), link);
            let first = std::iter::from_fn(|| sent.blocking_recv()).find(|frame| !is_about_locks(frame));
            let Some(ToCell::Ping { credit, .. }) = first else { panic!() };
            assert_eq!(credit.wanted, bytes(2));
            session.receive(renew(0, VolumeSettings::default(), bytes(2)));
        });
        assert_eq!(session.wait_for_credit(bytes(2)), Ok(()));
    });
}

#[test]
fn a_writer_hears_that_the_volume_is_full_or_that_nobody_answers() {
    let runtime = runtime();
    let (session, sent) = session(&runtime, VolumeSettings::default(), Credit::NONE);
    let full = || renew(99, VolumeSettings::default(), bytes(1));
    std::thread::scope(|scope| {
        scope.spawn(|| answer(&session, sent, vec![full(), full()]));
        assert_eq!(session.wait_for_credit(bytes(2)), Err(Errno::EDQUOT));
    });
    session.link_down();
    assert_eq!(session.wait_for_credit(bytes(2)), Err(Errno::EIO));
}
