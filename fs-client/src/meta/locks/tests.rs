//! What a mount tells the cell of its locks, and what it tells its programs.

use super::*;
use sitefs_base::ManualClock;
use sitefs_base::lock::LockKind::Exclusive;
use std::sync::mpsc as channel;
use tokio::sync::mpsc::Receiver;

const FILE: InodeId = InodeId::new(9);
const OWNER: LockOwner = LockOwner::new(1);
const DONE: Result<LockAnswer, Errno> = Ok(LockAnswer::Done);

struct Mount {
    locks: Locks,
    clock: Arc<ManualClock>,
    told: channel::Sender<(u32, Result<LockAnswer, Errno>)>,
    heard: channel::Receiver<(u32, Result<LockAnswer, Errno>)>,
}

impl Mount {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::default());
        let (told, heard) = channel::channel();
        Self { locks: Locks::new(clock.clone()), clock, told, heard }
    }

    /// A stream, which begins with what is held.
    fn attach(&self) -> (Receiver<ToCell>, Vec<HeldLock>) {
        let (link, mut sent) = mpsc::channel(64);
        self.locks.link_up(link);
        match sent.try_recv().unwrap() {
            ToCell::ReclaimLocks { tag, locks } => {
                self.locks.receive(tag, Ok(LockAnswer::Kept(locks.clone())));
                (sent, locks)
            }
            other => panic!("{other:?}"),
        }
    }

    fn done(&self, name: u32) -> Done {
        let told = self.told.clone();
        Box::new(move |result| told.send((name, result)).unwrap())
    }

    /// A program asks, named by its thread.
    fn ask(&self, thread: u32, ask: LockAsk) {
        let range = ByteRange::WHOLE;
        let call = LockCall { ino: FILE, fh: 3, owner: OWNER, pid: 77, thread, range, ask };
        self.locks.ask(call, self.done(thread));
    }

    fn heard(&self) -> Vec<(u32, Result<LockAnswer, Errno>)> {
        self.heard.try_iter().collect()
    }
}

fn next(sent: &mut Receiver<ToCell>) -> LockRequest {
    match sent.try_recv() {
        Ok(ToCell::Lock(request)) => request,
        other => panic!("{other:?}"),
    }
}

fn own() -> HeldLock {
    HeldLock { ino: FILE, owner: OWNER, pid: 77, range: ByteRange::WHOLE, kind: Exclusive }
}

#[test]
fn what_is_held_is_told_on_every_stream_before_anything_else() {
    let mount = Mount::new();
    mount.ask(1, LockAsk::Try(Exclusive));
    let (mut sent, held) = mount.attach();
    assert_eq!(held, []);
    let request = next(&mut sent);
    mount.locks.receive(request.tag, DONE);
    assert_eq!(mount.heard(), [(1, DONE)]);
    mount.ask(2, LockAsk::Wait(Exclusive));
    next(&mut sent);
    let (mut sent, held) = mount.attach();
    assert_eq!(held, [own()]);
    assert_eq!(next(&mut sent).ask, LockAsk::Wait(Exclusive), "asked again");
    mount.ask(3, LockAsk::Unlock);
    mount.locks.link_down();
    assert_eq!(mount.heard(), [(3, DONE)], "not told any more as held, so it is free");
    assert_eq!(mount.attach().1, []);
}

#[test]
fn what_the_cell_does_not_keep_is_lost() {
    let mount = Mount::new();
    let (mut sent, _) = mount.attach();
    mount.ask(1, LockAsk::Try(Exclusive));
    mount.locks.receive(next(&mut sent).tag, DONE);
    let (link, mut sent) = mpsc::channel(8);
    mount.locks.link_up(link);
    let Ok(ToCell::ReclaimLocks { tag, locks }) = sent.try_recv() else { panic!("what is held") };
    assert_eq!(locks, [own()]);
    mount.locks.receive(tag, Ok(LockAnswer::Kept(Vec::new())));
    assert_eq!(mount.attach().1, []);
}

#[test]
fn a_killed_waiter_hears_what_the_cell_made_of_its_wait() {
    let mount = Mount::new();
    let (mut sent, _) = mount.attach();
    mount.ask(1, LockAsk::Wait(Exclusive));
    mount.ask(2, LockAsk::Wait(Exclusive));
    let (one, two) = (next(&mut sent).tag, next(&mut sent).tag);
    mount.locks.look_after(|_| false);
    assert!(sent.try_recv().is_err());
    mount.locks.look_after(|_| true);
    mount.locks.look_after(|_| true);
    assert_eq!(sent.try_recv(), Ok(ToCell::CancelLock { tag: one }));
    assert_eq!(sent.try_recv(), Ok(ToCell::CancelLock { tag: two }));
    assert!(sent.try_recv().is_err(), "once");
    mount.locks.receive(one, Err(Errno::EINTR));
    mount.locks.receive(two, DONE);
    assert_eq!(mount.heard(), [(1, Err(Errno::EINTR)), (2, DONE)], "the second was granted before");
    mount.locks.link_down();
    mount.ask(3, LockAsk::Wait(Exclusive));
    mount.locks.look_after(|_| true);
    assert_eq!(mount.heard(), [(3, Err(Errno::EINTR))], "nobody else has to know");
    assert!(!mount.locks.is_waited_for());
}

#[test]
fn a_question_that_does_not_wait_is_given_up_in_time_and_a_wait_is_not() {
    let mount = Mount::new();
    mount.ask(1, LockAsk::Try(Exclusive));
    mount.ask(2, LockAsk::Wait(Exclusive));
    mount.clock.advance(ANSWER_DEADLINE);
    mount.locks.look_after(|_| false);
    assert_eq!(mount.heard(), [(1, Err(Errno::ENOLCK))]);
    mount.locks.lost();
    assert_eq!(mount.heard(), [(2, Err(Errno::ENOLCK))], "the session is lost");
    mount.locks.end(Errno::ESTALE);
    mount.ask(3, LockAsk::Try(Exclusive));
    mount.ask(4, LockAsk::Unlock);
    assert_eq!(mount.heard(), [(3, Err(Errno::ESTALE)), (4, DONE)]);
}

#[test]
fn closing_gives_back_what_was_locked_and_asks_nobody_otherwise() {
    let mount = Mount::new();
    let (mut sent, _) = mount.attach();
    mount.locks.release(FILE, OWNER, mount.done(1));
    assert_eq!(mount.heard(), [(1, DONE)], "nothing was ever locked");
    mount.ask(2, LockAsk::Try(Exclusive));
    mount.locks.receive(next(&mut sent).tag, DONE);
    mount.locks.release(FILE, LockOwner::new(2), mount.done(3));
    assert_eq!(mount.heard(), [(2, DONE), (3, DONE)], "another process closes it");
    mount.locks.release(FILE, OWNER, mount.done(4));
    let request = next(&mut sent);
    assert_eq!((request.ask, request.range, request.owner), (LockAsk::Unlock, ByteRange::WHOLE, OWNER));
    mount.locks.receive(request.tag, DONE);
    assert_eq!(mount.heard(), [(4, DONE)]);
    mount.locks.closed(3);
    assert!(sent.try_recv().is_err(), "given back already");
    mount.ask(5, LockAsk::Wait(Exclusive));
    next(&mut sent);
    mount.locks.closed(3);
    assert_eq!(next(&mut sent).ask, LockAsk::Unlock, "flock ends with its open file");
}

#[test]
fn frames_without_room_keep_their_order() {
    let mount = Mount::new();
    let (link, mut sent) = mpsc::channel(1);
    mount.locks.link_up(link);
    mount.ask(1, LockAsk::Try(Exclusive));
    mount.ask(2, LockAsk::Unlock);
    assert!(matches!(sent.try_recv(), Ok(ToCell::ReclaimLocks { .. })));
    mount.locks.look_after(|_| false);
    assert_eq!(next(&mut sent).ask, LockAsk::Try(Exclusive));
    mount.locks.look_after(|_| false);
    assert_eq!(next(&mut sent).ask, LockAsk::Unlock);
}
