//! What a session promises.

use super::harness::{Mount, READER, TestCell, attach, attach_again, commit, owner, place};
use crate::state::CommandBody;
use bytes::Bytes;
use sitefs_base::{
    Errno, Extent, FileKind, InodeId, Kind, Seq, VolumeName,
    limits::CHUNK_SIZE,
    op::{AnswerBody, Change, ChunkLayout, Commit, NewContent, Op, OpEnvelope, Query, RenameMode, SetAttr},
    session::{Attach, Closing, CreditUse, ToCell, ToMount},
};
use sitefs_blobstore::VerifiedBytes;
use sitefs_proto::pb;
use std::time::Duration;

fn mkdir(name: &[u8]) -> Op {
    Op::Mkdir { at: place(name), create: owner() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_mount_commits_another_finds() {
    let cell = TestCell::start().await;
    let (mut one, mut two) = (cell.mount(1).await, cell.mount(2).await);
    assert_eq!(one.lookup(b"index.php").await.unwrap(), None);
    let made = one.create(b"index.php", b"<?php").await.unwrap();
    let found = two.lookup(b"index.php").await.unwrap().unwrap();
    assert_eq!((Some(found.attr.ino), found.attr.size), (made.ino, 5));
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_is_repeated_is_executed_once() {
    let cell = TestCell::start().await;
    let mut mount = cell.mount(1).await;
    let envelope = mount.envelope(mkdir(b"uploads"));
    let first = mount.repeat(envelope.clone()).await.unwrap();
    assert_eq!(mount.repeat(envelope.clone()).await.unwrap(), first);

    // Also on the next stream of the session.
    let (incarnation, seq) = (mount.attached.incarnation, mount.attached.seq);
    let mut again = cell.attach(attach_again(1, incarnation, seq)).await.unwrap();
    assert_eq!(again.attached.op_high_water, envelope.op);
    assert_eq!(again.repeat(envelope).await.unwrap(), first);
    assert!(matches!(mount.next().await, Some(ToMount::Closing(Closing::Unavailable { .. }))));
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_take_effect_in_the_order_in_which_they_were_sent() {
    let cell = TestCell::start().await;
    let mut mount = cell.mount(1).await;
    let ops: Vec<_> = (0..60).map(|n| mount.envelope(mkdir(format!("dir{n}").as_bytes()))).collect();
    for envelope in &ops {
        mount.send(ToCell::Op(envelope.clone())).await;
    }
    let mut seqs = vec![Seq::ZERO; ops.len()];
    for _ in &ops {
        let Some(ToMount::OpReply { op, result, .. }) = mount.next().await else { panic!("a reply") };
        let at = ops.iter().position(|envelope| envelope.op == op).unwrap();
        seqs[at] = result.unwrap().seq;
    }
    assert!(seqs.is_sorted_by(|a, b| a < b), "{seqs:?}");
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_before_the_reply_that_follows_them() {
    let cell = TestCell::start().await;
    let (mut one, mut two) = (cell.mount(1).await, cell.mount(2).await);
    for round in 0..20 {
        let name = format!("one{round}");
        one.op(mkdir(name.as_bytes())).await.unwrap();
        // A mutation and a question alike: what they saw must have been announced.
        if round % 2 == 0 {
            two.op(mkdir(format!("two{round}").as_bytes())).await.unwrap();
        } else {
            assert!(two.lookup(name.as_bytes()).await.unwrap().is_some());
        }
        let events = two.events();
        assert_eq!(events.len(), round + 1, "its own events are not sent back");
        let last = events.last().unwrap();
        assert_eq!(last.origin, one.session);
        assert!(last.changes.contains(&Change::Name(place(name.as_bytes()))), "{last:?}");
    }
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reserved_name_belongs_to_one_session() {
    let cell = TestCell::start().await;
    let (mut one, mut two) = (cell.mount(1).await, cell.mount(2).await);
    let reserve = || Query::Reserve { at: place(b"lock") };
    assert_eq!(one.ask(reserve()).await.unwrap().body, AnswerBody::Reserved);
    assert_eq!(one.ask(reserve()).await.unwrap().body, AnswerBody::Reserved);
    assert_eq!(two.ask(reserve()).await.unwrap_err(), Errno::EEXIST);

    one.create(b"lock", b"").await.unwrap();
    assert_eq!(one.ask(reserve()).await.unwrap_err(), Errno::EEXIST, "it exists now");
    one.op(Op::Unlink { at: place(b"lock") }).await.unwrap();
    assert_eq!(two.ask(reserve()).await.unwrap().body, AnswerBody::Reserved, "published and gone");

    two.send(ToCell::Detach).await;
    while two.next().await.is_some() {}
    assert_eq!(one.ask(reserve()).await.unwrap().body, AnswerBody::Reserved);
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reserved_name_is_taken_for_every_operation_of_others() {
    let cell = TestCell::start().await;
    let (mut one, mut two) = (cell.mount(1).await, cell.mount(2).await);
    let other = two.create(b"other", b"2").await.unwrap().ino.unwrap();
    let again = two.envelope(mkdir(b"lock"));
    two.repeat(again.clone()).await.unwrap();
    one.op(Op::Rmdir { at: place(b"lock") }).await.unwrap();
    assert_eq!(one.ask(Query::Reserve { at: place(b"lock") }).await.unwrap().body, AnswerBody::Reserved);

    let at = || place(b"lock");
    let rename = |mode| Op::Rename { from: place(b"other"), to: place(b"lock"), mode };
    let kind = FileKind::Fifo;
    for op in [
        mkdir(b"lock"),
        Op::Symlink { at: at(), target: "x".into(), create: owner() },
        Op::Mknod { at: at(), kind, rdev: 0, create: owner() },
        Op::Link { ino: other, at: at() },
        rename(RenameMode::Replace),
        rename(RenameMode::NoReplace),
    ] {
        assert_eq!(two.op(op).await.unwrap_err(), Errno::EEXIST);
    }
    assert_eq!(two.create(b"lock", b"2").await.unwrap_err(), Errno::EEXIST);
    two.repeat(again).await.expect("what was executed before is answered as before");
    assert_eq!(one.lookup(b"lock").await.unwrap(), None);
    one.create(b"lock", b"1").await.unwrap();
    assert_eq!(two.lookup(b"lock").await.unwrap().unwrap().attr.size, 1);
    two.op(rename(RenameMode::Replace)).await.expect("it is published: the reservation is over");
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_does_not_bind_a_file_that_had_the_name_before() {
    let cell = TestCell::start().await;
    let (mut one, mut two) = (cell.mount(1).await, cell.mount(2).await);
    let ino = two.new_inode().await;
    let publish = |text: &'static [u8]| commit(ino, b"tmp", NewContent::Inline(text.into()));
    two.op(publish(b"1")).await.unwrap();
    let rename = Op::Rename { from: place(b"tmp"), to: place(b"kept"), mode: RenameMode::Replace };
    one.op(rename).await.unwrap();
    assert_eq!(one.ask(Query::Reserve { at: place(b"tmp") }).await.unwrap().body, AnswerBody::Reserved);
    two.op(publish(b"22")).await.unwrap();
    assert_eq!(one.lookup(b"kept").await.unwrap().unwrap().attr.size, 2);
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_reads_and_its_mutations_are_refused() {
    let cell = TestCell::start().await;
    cell.mount(1).await.create(b"a", b"1").await.unwrap();
    let claimed_identity = READER.to_owned();
    let mut reader = cell.attach(Attach { claimed_identity, ..attach(2) }).await.unwrap();
    assert!(reader.attached.read_only);
    assert!(reader.lookup(b"a").await.unwrap().is_some());
    assert_eq!(reader.op(mkdir(b"b")).await.unwrap_err(), Errno::EROFS);
    assert_eq!(reader.ask(Query::Reserve { at: place(b"b") }).await.unwrap_err(), Errno::EROFS);
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_attach_is_refused_with_a_reason() {
    let cell = TestCell::start().await;
    let refused = async |request: Attach| match cell.attach(request).await.err() {
        Some(Closing::Refused { kind, reason }) => (kind, reason),
        other => panic!("{other:?}"),
    };
    let dev: VolumeName = "acme/dev".parse().unwrap();
    let claim = |text: &str| Attach { claimed_identity: text.to_owned(), ..attach(1) };
    let unknown = Attach { volume: dev, ..claim("sitefs://main/acme/dev?role=rw") };
    let (kind, reason) = refused(unknown).await;
    assert_eq!(kind, Kind::NotFound);
    assert!(reason.contains("sitefs volume create acme/dev"), "{reason}");
    assert_eq!(refused(claim("")).await.0, Kind::Denied);
    assert_eq!(refused(claim("sitefs://main/acme/dev?role=rw")).await.0, Kind::Denied);
    let newer = Attach { protocol_min: 99, protocol_max: 99, ..attach(1) };
    assert_eq!(refused(newer).await.0, Kind::Invalid);
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_comes_back_hears_what_it_missed() {
    let cell = TestCell::start().await;
    let mut one = cell.mount(1).await;
    let two = cell.mount(2).await;
    let (incarnation, since) = (two.attached.incarnation, two.attached.seq);
    drop(two);
    for n in 0..5 {
        one.op(mkdir(format!("missed{n}").as_bytes())).await.unwrap();
    }
    let mut two = cell.attach(attach_again(2, incarnation, since)).await.unwrap();
    assert!(two.attached.resumed);
    assert!(two.lookup(b"missed4").await.unwrap().is_some());
    let seqs: Vec<_> = two.events().iter().map(|event| event.seq.get() - since.get()).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5]);

    let never = Seq::new(since.get() + 1000);
    let two = cell.attach(attach_again(2, incarnation, never)).await.unwrap();
    assert!(!two.attached.resumed, "a seq that never was");
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_session_is_told_so() {
    let cell = TestCell::start().await;
    let mut mount = cell.mount(1).await;
    let incarnation = mount.attached.incarnation;
    mount.op(mkdir(b"a")).await.unwrap();
    mount.send(ToCell::Detach).await;
    assert_eq!(mount.next().await, None);
    let again = cell.attach(attach_again(1, incarnation, Seq::ZERO)).await;
    assert_eq!(again.err(), Some(Closing::SessionGone));
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attached_session_that_was_forgotten_is_not_begun_again() {
    let cell = TestCell::start().await;
    let mut mount = cell.mount(1).await;
    let envelope = mount.envelope(mkdir(b"a"));
    mount.repeat(envelope.clone()).await.unwrap();
    let before = cell.server.cell().clock.now().plus(Duration::from_secs(60));
    cell.server.cell().group.propose(CommandBody::ExpireSessions { before }).await.unwrap().reply.unwrap();
    cell.server.cell().touch_sessions().await;
    let next = mount.envelope(Op::Rmdir { at: place(b"a") });
    mount.send(ToCell::Op(next)).await;
    assert_eq!(mount.next().await, Some(ToMount::Closing(Closing::SessionGone)));
    let again = attach_again(1, mount.attached.incarnation, Seq::ZERO);
    assert_eq!(cell.attach(again).await.err(), Some(Closing::SessionGone));
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_is_cut_in_steps_and_the_operation_is_executed_once() {
    let cell = TestCell::start().await;
    let (mut one, mut two) = (cell.mount(1).await, cell.mount(2).await);
    let (ino, cver) = large_file(&mut one).await;
    let resize = |size| Op::SetAttr { ino, set: SetAttr { size: Some(size), ..SetAttr::default() } };
    let envelope = one.envelope(resize(1100 * CHUNK_SIZE));
    let cut = one.repeat(envelope.clone()).await.unwrap();
    assert_eq!(cut.attrs[0].size, 1100 * CHUNK_SIZE);
    assert!(cut.seq.get() > cver.get() + 1, "in steps");
    // Somebody makes it large again; the repeated operation cuts nothing.
    two.op(resize(9000 * CHUNK_SIZE)).await.unwrap();
    assert_eq!(one.repeat(envelope).await.unwrap().attrs[0].size, 9000 * CHUNK_SIZE);
    assert!(two.events().iter().any(|event| event.changes == [Change::Content(ino)]));

    // A commit for the version that is there is no conflict with its own steps.
    let there = two.lookup(b"large").await.unwrap().unwrap().attr.cver;
    let new = Commit { expect_cver: Some(there), link: None, create: None, ..new_content(ino, b"new") };
    let replaced = one.op(Op::Commit(new)).await.unwrap();
    assert_eq!((replaced.attrs[0].size, replaced.attrs[0].allocated), (3, 3));
    cell.stop().await;
}

fn new_content(ino: InodeId, bytes: &'static [u8]) -> Commit {
    match commit(ino, b"large", NewContent::Inline(Bytes::from_static(bytes))) {
        Op::Commit(commit) => commit,
        other => panic!("{other:?}"),
    }
}

/// A file with 5,120 chunk rows, which all name one small blob.
async fn large_file(mount: &mut Mount) -> (InodeId, Seq) {
    let blob = VerifiedBytes::of(Bytes::from(vec![7; 600]));
    let digest = blob.digest();
    let ino = mount.new_inode().await;
    let hot = NewContent::Hot { digest, bytes: Bytes::clone(&blob) };
    mount.op(commit(ino, b"large", hot)).await.unwrap();
    let mut seq = Seq::ZERO;
    for part in 0..5 {
        let chunk = |chunk: u32| {
            let offset = u64::from(chunk) * CHUNK_SIZE;
            ChunkLayout { chunk, extents: vec![Extent { offset, len: 600, digest, blob_offset: 0 }] }
        };
        let changed: Vec<_> = (part * 1024..(part + 1) * 1024).map(chunk).collect();
        let content = NewContent::Chunks { size: u64::from(part + 1) * 1024 * CHUNK_SIZE, changed };
        let new = Commit { content: Some(content), ..new_content(ino, b"") };
        seq = mount.op(Op::Commit(new)).await.unwrap().seq;
    }
    (ino, seq)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_cannot_be_is_refused_and_ends_nothing_else() {
    let cell = TestCell::start().await;
    let mut mount = cell.mount(1).await;
    let first = mount.envelope(mkdir(b"a"));
    mount.send(ToCell::Op(first.clone())).await;
    let bad = pb::OpEnvelope {
        session: Bytes::copy_from_slice(&mount.session.to_key()),
        op: first.op.next().get(),
        ack_below: 1,
        body: Some(pb::op_envelope::Body::Unlink(pb::Place { parent: 1, name: "a/b".into() })),
    };
    let frame = |frame| pb::ClientFrame { frame: Some(frame) };
    mount.send_raw(frame(pb::client_frame::Frame::Op(bad.clone()))).await;
    mount.send_raw(frame(pb::client_frame::Frame::Query(pb::AskQuery { tag: 99, query: None }))).await;
    let (mut done, mut refused, mut unanswered) = (false, false, false);
    while !(done && refused && unanswered) {
        match mount.next().await.expect("the stream goes on") {
            ToMount::OpReply { op, result, .. } if op == first.op => done = result.is_ok(),
            ToMount::OpReply { result, .. } => refused = result == Err(Errno::EINVAL),
            ToMount::Answer { tag: 99, result } => unanswered = result.is_err(),
            other => panic!("{other:?}"),
        }
    }
    // It was not executed: its number is still free.
    mount.repeat(OpEnvelope { op: first.op.next(), ..mount_op(&first, mkdir(b"b")) }).await.unwrap();

    let foreign = pb::OpEnvelope { session: Bytes::from_static(&[7; 16]), ..bad };
    mount.send_raw(frame(pb::client_frame::Frame::Op(foreign))).await;
    assert!(matches!(mount.next().await, Some(ToMount::Closing(Closing::Refused { .. }))));
    cell.stop().await;
}

fn mount_op(like: &OpEnvelope, body: Op) -> OpEnvelope {
    OpEnvelope { body, ..like.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_renews_the_lease_unless_events_stay_unacknowledged() {
    let cell = TestCell::start().await;
    let (mut one, mut two) = (cell.mount(1).await, cell.mount(2).await);
    let ping =
        |n, acked| ToCell::Ping { client_time: Duration::from_secs(n), acked, credit: CreditUse::default() };
    two.send(ping(7, two.attached.seq)).await;
    let Some(ToMount::Renew { client_time, watermark, usage, .. }) = two.next().await else {
        panic!("a renewal")
    };
    assert_eq!((client_time, watermark), (Duration::from_secs(7), two.attached.seq));
    assert!(usage.bytes_limit > 0);

    let seq = one.op(mkdir(b"a")).await.unwrap().seq;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    two.send(ping(8, two.attached.seq)).await;
    two.lookup(b"a").await.unwrap();
    assert!(!two.heard.iter().any(|frame| matches!(frame, ToMount::Renew { .. })), "{:?}", two.heard);
    two.send(ping(9, seq)).await;
    assert!(matches!(two.next().await, Some(ToMount::Renew { watermark, .. }) if watermark == seq));
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_says_goodbye() {
    let cell = TestCell::start().await;
    let mut mount = cell.mount(1).await;
    cell.stop().await;
    assert!(matches!(mount.next().await, Some(ToMount::Closing(Closing::Unavailable { .. }))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_is_far_behind_starts_afresh() {
    let cell = TestCell::start().await;
    let mut one = cell.mount(1).await;
    let two = cell.mount(2).await;
    let (incarnation, since) = (two.attached.incarnation, two.attached.seq);
    drop(two);
    for round in 0..70 {
        let ops: Vec<_> = (0..60).map(|n| one.envelope(mkdir(format!("{round}-{n}").as_bytes()))).collect();
        for envelope in &ops {
            one.send(ToCell::Op(OpEnvelope { ack_below: ops[0].op, ..envelope.clone() })).await;
        }
        for _ in &ops {
            let reply = one.next().await;
            assert!(matches!(reply, Some(ToMount::OpReply { result: Ok(_), .. })), "{reply:?}");
        }
    }
    let mut two = cell.attach(attach_again(2, incarnation, since)).await.unwrap();
    let first = two.next().await;
    assert!(matches!(first, Some(ToMount::Resync { floor }) if floor >= two.attached.seq), "{first:?}");
    let later = one.envelope(mkdir(b"later"));
    one.repeat(OpEnvelope { ack_below: later.op, ..later }).await.unwrap();
    assert!(matches!(two.next().await, Some(ToMount::Event(_))));
    cell.stop().await;
}
