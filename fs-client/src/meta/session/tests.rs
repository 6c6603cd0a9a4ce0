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

/// A session with a stream, and the frames that it sends.
fn session(runtime: &Runtime, settings: VolumeSettings, credit: Credit) -> (Session, Receiver<ToCell>) {
    let session = Session::new(SessionId::new(1), runtime.handle().clone(), Arc::new(SystemClock));
    let (link, sent) = mpsc::channel(16);
    session.link_up(attached(settings, credit), link);
    (session, sent)
}

/// Answers pings until the session is gone; what they said was in use.
fn answer(session: &Session, mut sent: Receiver<ToCell>, answers: Vec<ToMount>) -> Vec<Credit> {
    let mut said = Vec::new();
    for answer in answers {
        match sent.blocking_recv() {
            Some(ToCell::Ping { credit: CreditUse { in_use, .. }, .. }) => said.push(in_use),
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
    assert_eq!(session.credits().said(), CreditUse { in_use: Credit::NONE, frames: 4 });
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
