//! Credits as mounts see them: what a session was promised is never refused, and never too much.

use super::harness::{Mount, OPERATOR, TestCell, attach, attach_again, commit, owner, place};
use crate::{
    rpc::NewVolume,
    state::{CommandBody, VolumeLimits},
};
use bytes::Bytes;
use sitefs_base::{
    Errno, Moment, OpId, SessionId, Time,
    op::{Credit, NewContent, Op, OpEnvelope, OpResult, Usage},
    session::{Attach, Closing, CreditUse, ToCell, ToMount},
};
use sitefs_blobstore::VerifiedBytes;
use sitefs_proto::{error_from_status, manage::Restore, pb, pb::admin_client::AdminClient};
use std::time::Duration;

const KIB: u64 = 1024;
const LIMIT: u64 = 256 * KIB;

/// A cell with the volume acme/small of [`LIMIT`] bytes and 100 inodes.
async fn small() -> TestCell {
    let cell = TestCell::start().await;
    let limits = VolumeLimits { bytes: LIMIT, inodes: 100 };
    let new = NewVolume { limits, ..NewVolume::owned_by(0, 0, 0o755) };
    cell.server.cell().create_volume(&"acme/small".parse().unwrap(), new).await.unwrap();
    cell
}

fn to_small(attach: Attach) -> Attach {
    let claimed_identity = "sitefs://main/acme/small?role=rw".to_owned();
    Attach { volume: "acme/small".parse().unwrap(), claimed_identity, ..attach }
}

fn bytes(bytes: u64) -> Credit {
    Credit { bytes, inodes: 0 }
}

/// Says what is in use, and gives the credit and the use of the volume that the cell answers.
async fn ping(mount: &mut Mount, in_use: u64, frames: u64) -> (Credit, Usage) {
    let credit = CreditUse { in_use: bytes(in_use), frames, ..CreditUse::default() };
    mount.send(ToCell::Ping { client_time: Duration::ZERO, acked: mount.attached.seq, credit }).await;
    loop {
        match mount.next().await {
            Some(ToMount::Renew { credit, usage, .. }) => return (credit, usage),
            Some(_) => {}
            None => panic!("the stream ended"),
        }
    }
}

/// Writes a new file of so many KiB.
async fn write(mount: &mut Mount, name: &str, kib: usize) -> OpResult {
    let ino = mount.new_inode().await;
    let bytes = VerifiedBytes::of(Bytes::from(vec![name.len() as u8; kib * 1024]));
    let content = NewContent::Hot { digest: bytes.digest(), bytes: Bytes::clone(&bytes) };
    mount.op(commit(ino, name.as_bytes(), content)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_session_was_promised_another_cannot_use() {
    let cell = small().await;
    let mut one = cell.attach(to_small(attach(1))).await.unwrap();
    assert_eq!(one.attached.credit, Credit { bytes: LIMIT, inodes: 99 });
    let (told, _) = ping(&mut one, LIMIT - 30 * KIB, 1).await;
    assert_eq!(told.bytes, LIMIT);
    let mut two = cell.attach(to_small(attach(2))).await.unwrap();
    assert_eq!(two.attached.credit.bytes, 0);
    assert_eq!(
        write(&mut two, "two", 40).await.unwrap_err(),
        Errno::EDQUOT,
        "though hardly anything is used"
    );

    // What the first does not need comes back as soon as it has heard so.
    assert_eq!(ping(&mut one, LIMIT - 30 * KIB, 2).await.0.bytes, LIMIT - 15 * KIB);
    ping(&mut one, LIMIT - 30 * KIB, 3).await;
    assert!(ping(&mut two, 0, 1).await.0.bytes >= 7 * KIB);
    for (name, kib) in [("a", 60), ("bb", 60), ("ccc", 60), ("dddd", 46)] {
        write(&mut one, name, kib).await.unwrap();
    }
    assert_eq!(write(&mut two, "two", 40).await.unwrap_err(), Errno::EDQUOT);
    let used = ping(&mut two, 0, 2).await.1.bytes_used;
    assert_eq!(used, LIMIT - 30 * KIB);
    two.op(Op::Unlink { at: place(b"a") }).await.unwrap();
    write(&mut two, "two", 40).await.unwrap();
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_takes_nothing_that_a_session_was_promised() {
    let cell = small().await;
    let hears = Attach { hears_credit: true, ..to_small(attach(1)) };
    let mut one = cell.attach(hears).await.unwrap();
    for (name, kib) in [("a", 60), ("bb", 40)] {
        write(&mut one, name, kib).await.unwrap();
    }
    let begun = cell.server.cell().clock.now().secs();
    while cell.server.cell().clock.now().secs() == begun {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let at = Moment::Time(Time::new(begun + 1, 0));
    let restore = async |name: &str| {
        let mut admin = AdminClient::connect(format!("http://{}", cell.server.admin_addr())).await.unwrap();
        let restore = Restore {
            name: "acme/small".parse().unwrap(),
            path: name.into(),
            at: at.clone(),
            dry_run: false,
            claimed_identity: OPERATOR.to_owned(),
        };
        let mut told = admin.restore(pb::RestoreRequest::from(restore)).await.unwrap().into_inner();
        loop {
            match told.message().await {
                Ok(Some(progress)) if progress.done => return Ok(progress.bytes),
                Ok(progress) => assert!(progress.is_some(), "a last word"),
                Err(status) => return Err(error_from_status(&status)),
            }
        }
    };
    for name in [b"a".as_slice(), b"bb"] {
        one.op(Op::Unlink { at: place(name) }).await.unwrap();
    }
    // The attach and six replies told it its credit. All but 50 KiB are in use, and nothing of it is committed.
    let mut frames = 7;
    assert_eq!(ping(&mut one, LIMIT - 50 * KIB, frames).await.0.bytes, LIMIT);
    frames += 1;
    let refused = restore("a").await.unwrap_err();
    assert_eq!(refused.named_errno(), Some(Errno::EDQUOT), "{refused}");
    assert!(refused.chain().contains("--bytes-limit"), "{refused}");

    // Less is in use: it is asked to give the rest back, and the limit is not passed.
    assert_eq!(ping(&mut one, 150 * KIB, frames).await.1.bytes_used, 0, "nothing was begun");
    frames += 1;
    let restored = tokio::select! {
        restored = restore("bb") => restored,
        () = idles(&mut one, 150 * KIB, &mut frames) => panic!("it goes on"),
    };
    assert_eq!(restored.unwrap(), 40 * KIB);
    let (told, usage) = ping(&mut one, 150 * KIB, frames).await;
    assert_eq!(usage.bytes_used, 40 * KIB);
    assert!(told.bytes >= 150 * KIB && told.bytes + usage.bytes_used <= LIMIT, "{told:?}");
    cell.stop().await;
}

/// Does what a mount does that has so much in use and nothing to do: says so when it is asked.
async fn idles(mount: &mut Mount, in_use: u64, frames: &mut u64) {
    loop {
        match mount.next().await {
            Some(ToMount::Credit { answer, .. }) => {
                *frames += 1;
                let credit = CreditUse { in_use: bytes(in_use), frames: *frames, ..CreditUse::default() };
                let ping = ToCell::Ping { client_time: Duration::ZERO, acked: mount.attached.seq, credit };
                if answer {
                    mount.send(ping).await;
                }
            }
            Some(ToMount::Renew { .. }) => *frames += 1,
            Some(_) => {}
            None => panic!("the stream ended"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_what_another_needs_is_asked_at_once() {
    let cell = small().await;
    let hears = |session| Attach { hears_credit: true, ..to_small(attach(session)) };
    let mut one = cell.attach(hears(1)).await.unwrap();
    assert_eq!(ping(&mut one, 0, 1).await.0.bytes, LIMIT);
    let mut two = cell.attach(hears(2)).await.unwrap();
    assert_eq!(two.attached.credit.bytes, 0);
    let Some(ToMount::Credit { credit, answer: true, .. }) = one.next().await else { panic!() };
    assert_eq!(credit.bytes, LIMIT / 2);
    ping(&mut one, 0, 3).await;
    assert_eq!(ping(&mut two, 0, 1).await.0.bytes, LIMIT / 2);

    // An operation that needs more than its session holds waits for what the other does not use.
    let mut frames = 4;
    for name in ["a", "bb", "ccc"] {
        tokio::select! {
            written = write(&mut two, name, 64) => drop(written.unwrap()),
            () = idles(&mut one, 10 * KIB, &mut frames) => {}
        }
    }
    assert_eq!(write(&mut two, "dddd", 64).await.unwrap_err(), Errno::EDQUOT, "10 KiB are in use");
    tokio::select! {
        written = write(&mut two, "eeeee", 54) => drop(written.unwrap()),
        () = idles(&mut one, 10 * KIB, &mut frames) => {}
    }
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_does_not_know_such_frames_is_asked_nothing() {
    let cell = small().await;
    let mut one = cell.attach(to_small(attach(1))).await.unwrap();
    assert_eq!(ping(&mut one, 0, 1).await.0.bytes, LIMIT);
    let mut two = cell.attach(to_small(attach(2))).await.unwrap();
    assert_eq!(ping(&mut two, 0, 1).await.0.bytes, 0);
    let credit = CreditUse { frames: 2, ..CreditUse::default() };
    let ping = ToCell::Ping { client_time: Duration::ZERO, acked: one.attached.seq, credit };
    one.send(ping).await;
    assert!(matches!(one.next().await, Some(ToMount::Renew { .. })));
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inodes_are_counted_like_bytes() {
    let cell = small().await;
    let mut one = cell.attach(to_small(attach(1))).await.unwrap();
    for n in 0..99 {
        one.op(Op::Mkdir { at: place(format!("d{n}").as_bytes()), create: owner() }).await.unwrap();
    }
    let more = Op::Mkdir { at: place(b"more"), create: owner() };
    assert_eq!(one.op(more.clone()).await.unwrap_err(), Errno::EDQUOT);
    one.op(Op::Rmdir { at: place(b"d7") }).await.unwrap();
    one.op(more).await.unwrap();
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_gives_its_credit_back() {
    let cell = small().await;
    let mut one = cell.attach(to_small(attach(1))).await.unwrap();
    ping(&mut one, LIMIT, 1).await;
    let mut two = cell.attach(to_small(attach(2))).await.unwrap();
    assert_eq!(ping(&mut two, 0, 1).await.0.bytes, 0);
    one.send(ToCell::Detach).await;
    while one.next().await.is_some() {}
    assert_eq!(ping(&mut two, 0, 2).await.0.bytes, LIMIT);
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_what_was_in_use_is_not_refused_even_if_others_filled_the_volume() {
    let cell = small().await;
    let mut one = cell.attach(to_small(attach(1))).await.unwrap();
    let ino = one.new_inode().await;
    let (told, _) = ping(&mut one, 50 * KIB, 1).await;
    let (incarnation, seq) = (one.attached.incarnation, one.attached.seq);
    let cell = TestCell::start_in(cell.stop().await).await;
    let mut two = cell.attach(to_small(attach(2))).await.unwrap();
    for n in 1..=4 {
        write(&mut two, &"f".repeat(n), 64).await.unwrap();
    }
    let known = attach_again(1, incarnation, seq);
    let mut one = cell.attach(to_small(Attach { in_use: told, ..known })).await.unwrap();
    let content = VerifiedBytes::of(Bytes::from(vec![1; 50 * 1024]));
    let content = NewContent::Hot { digest: content.digest(), bytes: Bytes::clone(&content) };
    one.op(commit(ino, b"written before", content)).await.unwrap();
    let (credit, usage) = ping(&mut one, 0, 1).await;
    assert_eq!((usage.bytes_used, credit.bytes), (LIMIT + 50 * KIB, 0));
    assert_eq!(write(&mut two, "more", 1).await.unwrap_err(), Errno::EDQUOT);
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_a_restart_gets_the_same_reply_even_in_a_full_volume() {
    let cell = small().await;
    let mut one = cell.attach(to_small(attach(1))).await.unwrap();
    for n in 1..=3 {
        write(&mut one, &"f".repeat(n), 64).await.unwrap();
    }
    let ino = one.new_inode().await;
    let content = VerifiedBytes::of(Bytes::from(vec![1; 64 * 1024]));
    let content = NewContent::Hot { digest: content.digest(), bytes: Bytes::clone(&content) };
    let envelope = one.envelope(commit(ino, b"last", content));
    let first = one.repeat(envelope.clone()).await.unwrap();
    let mkdir = one.envelope(Op::Mkdir { at: place(b"dir"), create: owner() });
    let made = one.repeat(mkdir.clone()).await.unwrap();
    let (incarnation, seq) = (one.attached.incarnation, one.attached.seq);
    let cell = TestCell::start_in(cell.stop().await).await;
    let mut one = cell.attach(to_small(attach_again(1, incarnation, seq))).await.unwrap();
    let again = one.repeat(envelope).await.unwrap();
    assert_eq!((again.seq, again.ino), (first.seq, first.ino));
    assert_eq!(one.repeat(mkdir).await.unwrap(), made);
    assert_eq!(ping(&mut one, 0, 3).await.1.bytes_used, LIMIT);
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_an_expired_session_is_not_executed() {
    let cell = small().await;
    let mut one = cell.attach(to_small(attach(1))).await.unwrap();
    let before = Time::new(i64::MAX / 2, 0);
    cell.server.cell().group.propose(CommandBody::ExpireSessions { before }).await.unwrap();
    let mkdir = one.envelope(Op::Mkdir { at: place(b"late"), create: owner() });
    one.send(ToCell::Op(mkdir)).await;
    assert_eq!(one.next().await, Some(ToMount::Closing(Closing::SessionGone)));
    let mut two = cell.attach(to_small(attach(2))).await.unwrap();
    assert_eq!(two.lookup(b"late").await.unwrap(), None);
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_too_many_unanswered_operations_is_refused_more() {
    let cell = small().await;
    let mut one = cell.attach(to_small(attach(1))).await.unwrap();
    let body = Op::Mkdir { at: place(b"far"), create: owner() };
    let numbered = |op, ack_below| OpEnvelope {
        session: SessionId::new(1),
        op: OpId::new(op),
        ack_below: OpId::new(ack_below),
        body: body.clone(),
    };
    assert_eq!(one.repeat(numbered(1025, 1)).await.unwrap_err(), Errno::EBUSY);
    assert_eq!(one.lookup(b"far").await.unwrap(), None);
    one.repeat(numbered(1025, 2)).await.unwrap();
    cell.stop().await;
}
