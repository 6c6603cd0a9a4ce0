//! What a session asks and answers without a lease, and what it does not know.

use super::tests::{attached, is_about_locks};
use super::*;
use sitefs_base::op::Place;
use sitefs_base::{InodeId, ManualClock, Name, Time};
use std::time::Instant;
use tokio::sync::{mpsc::Receiver, oneshot};

const SECOND: Duration = Duration::from_secs(1);

struct World {
    clock: Arc<ManualClock>,
    session: Session,
    sent: Receiver<ToCell>,
    end: Option<oneshot::Sender<()>>,
    runtime: Option<std::thread::JoinHandle<()>>,
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.end.take());
        self.runtime.take().unwrap().join().unwrap();
    }
}

/// An attached session with a lease, and a runtime that goes on.
fn world(serve_stale: ServeStale) -> World {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    let (end, ended) = oneshot::channel();
    let thread = std::thread::spawn(move || drop(runtime.block_on(ended)));
    let clock = Arc::new(ManualClock::new(Time::EPOCH));
    let session = Session::new(SessionId::new(1), handle, clock.clone());
    let (link, mut sent) = mpsc::channel(16);
    let settings = VolumeSettings { serve_stale, ..VolumeSettings::default() };
    session.link_up(attached(settings.clone(), Credit::NONE), link);
    assert!(is_about_locks(&sent.try_recv().unwrap()));
    let world = World { clock, session, sent, end: Some(end), runtime: Some(thread) };
    world.renew(settings);
    world
}

impl World {
    fn renew(&self, settings: VolumeSettings) {
        let (client_time, quorum_age) = (self.clock.boottime(), Duration::ZERO);
        let (watermark, usage, credit) = (Seq::ZERO, Usage::default(), Credit::NONE);
        let renew = ToMount::Renew { client_time, quorum_age, watermark, usage, settings, credit };
        assert_eq!(self.session.receive(renew), None);
    }

    fn ask(&self, cx: Cx) -> Op<(Seq, AnswerBody)> {
        self.session.ask(cx, Query::Inode { ino: InodeId::ROOT })
    }
}

#[test]
fn a_question_without_a_lease_waits_shortly_and_only_until_the_cell_is_known_to_be_silent() {
    let world = world(ServeStale::Reads);
    assert!(world.session.has_lease() && !world.session.may_serve_stale());
    world.clock.advance(6 * SECOND);
    assert!(!world.session.has_lease() && world.session.may_serve_stale());
    assert_eq!(world.ask(Cx::Fast), Err(Stop::WouldBlock));
    let start = Instant::now();
    assert_eq!(world.ask(Cx::Slow), Err(Errno::EIO.into()));
    assert!((STALE_AFTER..2 * SECOND).contains(&start.elapsed()));
    let start = Instant::now();
    assert_eq!((world.ask(Cx::Slow), world.ask(Cx::Fast)), (Err(Errno::EIO.into()), Err(Errno::EIO.into())));
    assert!(start.elapsed() < STALE_AFTER / 2, "it is known already");
    world.renew(VolumeSettings::default());
    assert_eq!(world.ask(Cx::Fast), Err(Stop::WouldBlock), "the cell was heard");
}

#[test]
fn old_answers_are_given_for_a_day_and_only_where_operators_want_it() {
    let reads = world(ServeStale::Reads);
    reads.clock.advance(Duration::from_secs(24 * 3600));
    assert!(reads.session.may_serve_stale());
    reads.clock.advance(6 * SECOND);
    assert!(!reads.session.may_serve_stale());
    let off = world(ServeStale::Off);
    off.clock.advance(6 * SECOND);
    assert!(!off.session.may_serve_stale());
}

#[test]
fn what_must_not_begin_without_a_lease_waits_for_one_and_hears_eio() {
    let world = world(ServeStale::Reads);
    assert_eq!(world.session.wait_for_lease(Duration::ZERO), Ok(()));
    world.clock.advance(6 * SECOND);
    assert_eq!(world.session.wait_for_lease(Duration::from_millis(10)), Err(Errno::EIO));
    world.session.end(Errno::ESTALE);
    assert_eq!(world.session.wait_for_lease(10 * SECOND), Err(Errno::ESTALE));
}

#[test]
fn what_an_operation_touched_is_in_doubt_until_its_reply_comes() {
    let mut world = world(ServeStale::Reads);
    let at = Place { parent: InodeId::ROOT, name: Name::new(*b"dir").unwrap() };
    let touched = Change::Name(at.clone());
    let unlink = op::Op::Unlink { at };
    assert_eq!(world.session.mutate(unlink, Duration::from_millis(10)), Err(Errno::EIO));
    assert!(world.session.is_in_doubt(|change| *change == touched));
    assert!(!world.session.is_in_doubt(|change| matches!(change, Change::Attr(_))));
    let Some(ToCell::Op(OpEnvelope { op, .. })) = world.sent.blocking_recv() else { panic!("not sent") };
    let reply = ToMount::OpReply { op, result: Err(Errno::ENOENT), credit: Credit::NONE };
    assert_eq!(world.session.receive(reply), Some(vec![touched]));
    assert!(!world.session.is_in_doubt(|_| true));
}
