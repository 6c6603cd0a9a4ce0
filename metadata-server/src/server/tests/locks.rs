//! Locks between sessions: exclusion, waiting, and what becomes of them when streams and cells end.

use super::super::*;
use super::harness::{Mount, READER, TestCell, attach, attach_again, config, owner, place};
use sitefs_base::{
    Errno, InodeId, Seq, SystemClock,
    limits::LOCK_ABSENCE,
    lock::{
        ByteRange, HeldLock, LockAnswer, LockAsk,
        LockKind::{Exclusive, Shared},
        LockOwner, LockRequest,
    },
    op::Op,
    session::{Attach, ToCell, ToMount},
};
use tokio::time::timeout;

type Answered = Result<LockAnswer, Errno>;

const FILE: InodeId = InodeId::new(500);
const OWNER: LockOwner = LockOwner::new(1);
const DONE: Answered = Ok(LockAnswer::Done);

async fn send(mount: &Mount, tag: u64, ask: LockAsk) {
    let range = ByteRange::WHOLE;
    mount.send(ToCell::Lock(LockRequest { tag, ino: FILE, owner: OWNER, pid: 42, range, ask })).await;
}

async fn answer(mount: &mut Mount, wanted: u64) -> Answered {
    loop {
        match mount.next().await {
            Some(ToMount::LockReply { tag, result }) if tag == wanted => return result,
            Some(other) => mount.heard.push(other),
            None => panic!("the stream ended, heard {:?}", mount.heard),
        }
    }
}

async fn ask(mount: &mut Mount, tag: u64, question: LockAsk) -> Answered {
    send(mount, tag, question).await;
    answer(mount, tag).await
}

async fn reclaim(mount: &mut Mount, tag: u64, locks: Vec<HeldLock>) -> Answered {
    mount.send(ToCell::ReclaimLocks { tag, locks }).await;
    answer(mount, tag).await
}

fn held() -> Vec<HeldLock> {
    vec![HeldLock { ino: FILE, owner: OWNER, pid: 42, range: ByteRange::WHOLE, kind: Exclusive }]
}

fn is_in_the_way(answered: &Answered, whose: u32) -> bool {
    matches!(answered, Ok(LockAnswer::InTheWay { kind: Exclusive, pid, .. }) if *pid == whose)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_excludes_another_session_which_waits_until_it_is_given_back() {
    let cell = TestCell::start().await;
    let (mut one, mut two) = (cell.mount(1).await, cell.mount(2).await);
    assert_eq!(ask(&mut one, 1, LockAsk::Try(Exclusive)).await, DONE);
    assert_eq!(ask(&mut one, 2, LockAsk::Try(Exclusive)).await, DONE, "sent again");
    assert_eq!(ask(&mut two, 1, LockAsk::Try(Shared)).await, Err(Errno::EAGAIN));
    assert!(is_in_the_way(&ask(&mut two, 2, LockAsk::Test(Shared)).await, 0), "a process of another mount");
    send(&two, 3, LockAsk::Wait(Exclusive)).await;
    send(&two, 4, LockAsk::Wait(Exclusive)).await;
    two.send(ToCell::CancelLock { tag: 3 }).await;
    assert_eq!(answer(&mut two, 3).await, Err(Errno::EINTR), "given up");

    // What is done under the lock is heard before it is granted.
    let seq = one.op(Op::Mkdir { at: place(b"a"), create: owner() }).await.unwrap().seq;
    assert_eq!(ask(&mut one, 3, LockAsk::Unlock).await, DONE);
    assert_eq!(answer(&mut two, 4).await, DONE);
    assert_eq!(two.events().last().unwrap().seq, seq);
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_detaches_releases_its_locks_at_once() {
    let cell = TestCell::start().await;
    let (mut one, mut two) = (cell.mount(1).await, cell.mount(2).await);
    assert_eq!(ask(&mut one, 1, LockAsk::Try(Exclusive)).await, DONE);
    send(&two, 1, LockAsk::Wait(Shared)).await;
    one.send(ToCell::Detach).await;
    let granted = timeout(LOCK_ABSENCE / 2, answer(&mut two, 1)).await;
    assert_eq!(granted.expect("not after the time for absent ones"), DONE);
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_stays_away_loses_its_locks() {
    let cell = TestCell::start().await;
    let (mut one, mut two) = (cell.mount(1).await, cell.mount(2).await);
    let incarnation = one.attached.incarnation;
    assert_eq!(ask(&mut one, 1, LockAsk::Try(Exclusive)).await, DONE);
    send(&two, 1, LockAsk::Wait(Shared)).await;
    assert!(is_in_the_way(&ask(&mut two, 2, LockAsk::Test(Shared)).await, 0));
    drop(one);
    assert_eq!(answer(&mut two, 1).await, DONE, "granted when the other was away for long enough");
    let mut one = cell.attach(attach_again(1, incarnation, Seq::ZERO)).await.unwrap();
    assert_eq!(reclaim(&mut one, 2, held()).await, Ok(LockAnswer::Kept(vec![])), "too late");
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_comes_back_keeps_its_locks_and_asks_again() {
    let cell = TestCell::start().await;
    let (mut one, two) = (cell.mount(1).await, cell.mount(2).await);
    let (first, second) = (one.attached.incarnation, two.attached.incarnation);
    assert_eq!(ask(&mut one, 1, LockAsk::Try(Exclusive)).await, DONE);
    send(&two, 1, LockAsk::Wait(Exclusive)).await;
    drop(one);
    drop(two);
    let mut two = cell.attach(attach_again(2, second, Seq::ZERO)).await.unwrap();
    assert_eq!(reclaim(&mut two, 2, vec![]).await, Ok(LockAnswer::Kept(vec![])));
    send(&two, 1, LockAsk::Wait(Exclusive)).await;
    let mut one = cell.attach(attach_again(1, first, Seq::ZERO)).await.unwrap();
    assert_eq!(reclaim(&mut one, 2, held()).await, Ok(LockAnswer::Kept(held())));
    assert!(is_in_the_way(&ask(&mut two, 3, LockAsk::Test(Shared)).await, 0));
    // An unlock whose frame was lost with the stream shows in what is claimed.
    let mut one = cell.attach(attach_again(1, first, Seq::ZERO)).await.unwrap();
    assert_eq!(reclaim(&mut one, 3, vec![]).await, Ok(LockAnswer::Kept(vec![])));
    assert_eq!(answer(&mut two, 1).await, DONE);
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_survive_a_restart_and_nobody_gets_them_before_they_are_told_again() {
    let cell = TestCell::start().await;
    let (mut one, two) = (cell.mount(1).await, cell.mount(2).await);
    let (first, second) = (one.attached.incarnation, two.attached.incarnation);
    assert_eq!(ask(&mut one, 1, LockAsk::Try(Exclusive)).await, DONE);
    drop(one);
    drop(two);
    let listen = cell.server.local_addr();
    let data = cell.stop().await;
    let same = ServerConfig { listen, ..config(data.path()) };
    let server = Server::start(same, Arc::new(SystemClock)).await.unwrap();
    let cell = TestCell { server, data };
    let mut two = cell.attach(attach_again(2, second, Seq::ZERO)).await.unwrap();
    assert_eq!(reclaim(&mut two, 1, vec![]).await, Ok(LockAnswer::Kept(vec![])));
    send(&two, 2, LockAsk::Try(Exclusive)).await;
    send(&two, 3, LockAsk::Wait(Exclusive)).await;
    two.lookup(b"nothing").await.unwrap();
    assert!(!two.heard.iter().any(|frame| matches!(frame, ToMount::LockReply { .. })), "{:?}", two.heard);

    let mut one = cell.attach(attach_again(1, first, Seq::ZERO)).await.unwrap();
    assert_eq!(reclaim(&mut one, 2, held()).await, Ok(LockAnswer::Kept(held())));
    assert_eq!(answer(&mut two, 2).await, Err(Errno::EAGAIN));
    assert_eq!(ask(&mut one, 3, LockAsk::Unlock).await, DONE);
    assert_eq!(answer(&mut two, 3).await, DONE);
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_lock_too() {
    let cell = TestCell::start().await;
    let mut one = cell.mount(1).await;
    let claimed_identity = READER.to_owned();
    let mut reader = cell.attach(Attach { claimed_identity, ..attach(2) }).await.unwrap();
    assert_eq!(ask(&mut reader, 1, LockAsk::Try(Shared)).await, DONE);
    assert_eq!(ask(&mut one, 1, LockAsk::Try(Exclusive)).await, Err(Errno::EAGAIN));
    cell.stop().await;
}
