//! Mounts of the past.

use super::harness::{TestCell, attach, attach_again, commit, owner, place};
use bytes::Bytes;
use sitefs_base::{
    Content, Errno, Kind, Time,
    op::{AnswerBody, NewContent, Op, Query},
    session::{Attach, Attached, Closing, CreditUse, ToCell, ToMount},
};
use std::time::Duration;

fn attach_at(session: u128, moment: &str) -> Attach {
    Attach { moment: Some(moment.parse().unwrap()), ..attach(session) }
}

async fn snapshot(cell: &TestCell, name: &str) {
    let volume = "acme/live".parse().unwrap();
    cell.server.cell().create_snapshot(&volume, &name.parse().unwrap(), None).await.unwrap();
}

async fn delete(cell: &TestCell, name: &str) {
    let volume = "acme/live".parse().unwrap();
    cell.server.cell().delete_snapshot(&volume, &name.parse().unwrap()).await.unwrap();
}

fn inline(text: &'static str) -> Content {
    Content::Inline(Bytes::from_static(text.as_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_of_a_snapshot_sees_that_and_hears_nothing() {
    let cell = TestCell::start().await;
    let mut live = cell.mount(1).await;
    let ino = live.create(b"a", b"then").await.unwrap().ino.unwrap();
    snapshot(&cell, "before").await;
    let mut past = cell.attach(attach_at(2, "before")).await.unwrap();
    let Attached { at, seq, read_only, usage, .. } = past.attached.clone();
    assert!(at == Some(seq) && read_only, "{:?}", past.attached);

    live.op(commit(ino, b"a", NewContent::Inline(Bytes::from_static(b"now, longer")))).await.unwrap();
    live.create(b"b", b"new").await.unwrap();
    let found = past.lookup(b"a").await.unwrap().unwrap();
    assert_eq!(found.content, inline("then"));
    assert_eq!(past.lookup(b"b").await, Ok(None));
    let answer = past.ask(Query::Usage).await.unwrap();
    assert_eq!((answer.seq, answer.body), (seq, AnswerBody::Usage(usage)));
    assert_eq!(past.op(Op::Mkdir { at: place(b"d"), create: owner() }).await, Err(Errno::EROFS));

    past.send(ToCell::Ping { client_time: Duration::from_secs(7), acked: seq, credit: CreditUse::default() })
        .await;
    let Some(ToMount::Renew { watermark, usage: renewed, .. }) = past.next().await else { panic!() };
    assert_eq!((watermark, renewed), (seq, usage));
    assert!(past.heard.is_empty(), "{:?}", past.heard);
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_of_the_past_comes_back_to_the_same_seq() {
    let cell = TestCell::start().await;
    let mut live = cell.mount(1).await;
    live.create(b"a", b"then").await.unwrap();
    snapshot(&cell, "before").await;
    let past = cell.attach(attach_at(2, "before")).await.unwrap();
    let (incarnation, seq) = (past.attached.incarnation, past.attached.seq);
    live.op(Op::Unlink { at: place(b"a") }).await.unwrap();
    delete(&cell, "before").await;
    drop((live, past));
    let cell = TestCell::start_in(cell.stop().await).await;
    let again = Attach { moment: Some("before".parse().unwrap()), ..attach_again(2, incarnation, seq) };
    let mut past = cell.attach(again).await.unwrap();
    assert!(past.attached.resumed && past.attached.at == Some(seq), "{:?}", past.attached);
    assert_eq!(past.lookup(b"a").await.unwrap().unwrap().content, inline("then"));

    // It was the last that kept that moment.
    past.send(ToCell::Detach).await;
    assert!(past.next().await.is_none());
    let gone = cell.attach(attach_at(3, "before")).await.unwrap_err();
    assert!(matches!(gone, Closing::Refused { kind: Kind::NotFound, .. }), "{gone:?}");
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moments_that_cannot_be_shown_are_refused_by_kind() {
    let cell = TestCell::start().await;
    let refused = async |request: Attach| match cell.attach(request).await.unwrap_err() {
        Closing::Refused { kind, reason } => (kind, reason),
        other => panic!("{other:?}"),
    };
    for (moment, kind, words) in [
        ("never-made", Kind::NotFound, "no snapshot never-made of acme/live"),
        ("2001-01-01T00:00:00Z", Kind::NotFound, "did not exist yet"),
        ("2999-01-01T00:00:00Z", Kind::Invalid, "in the future"),
    ] {
        let (found, reason) = refused(attach_at(1, moment)).await;
        assert!(found == kind && reason.contains(words), "{found:?} {reason}");
    }
    cell.mount(1).await;
    snapshot(&cell, "s").await;
    let (kind, _) = refused(attach_at(1, "s")).await;
    assert_eq!(kind, Kind::Invalid, "a session of now stays one");
    cell.attach(attach_at(2, "s")).await.unwrap();
    let (kind, _) = refused(attach(2)).await;
    assert_eq!(kind, Kind::Invalid, "and one of the past, too");
    let volume = "acme/live".parse().unwrap();
    let at = Some(Time::new(99_999_999_999, 0));
    let error = cell.server.cell().create_snapshot(&volume, &"x".parse().unwrap(), at).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    let error = cell.server.cell().create_snapshot(&volume, &"s".parse().unwrap(), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::AlreadyExists);
    cell.stop().await;
}
