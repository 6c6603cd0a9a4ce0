//! How bytes travel through the cell.

use super::{
    harness::{Mount, TestCell, commit, owner, place},
    store::TestStore,
};
use bytes::Bytes;
use sitefs_base::{
    Digest, Errno, Error, Extent, Generation, GroupId, InodeId, Kind, SessionId,
    op::{
        AnswerBody, BlobWanted, ChunkLayout, Extra, Grant, Location, NewContent, Op, OpResult, Query,
        Uploaded,
    },
    session::{FetchBlob, StoreBlob, ToCell},
};
use sitefs_blobstore::{Backend, ObjectKey, hash};
use sitefs_proto::{error_from_status, pb, pb::blobs_client::BlobsClient};
use std::{path::Path, time::Duration};

pub const LEN: usize = 100_000;
const GROUP: GroupId = GroupId::new(1);

impl Mount {
    fn blobs(&self) -> BlobsClient<tonic::transport::Channel> {
        BlobsClient::new(self.channel.clone()).max_decoding_message_size(5 << 20)
    }

    pub async fn grant(&mut self, digest: Digest) -> Grant {
        let blobs = vec![BlobWanted { digest, len: u32::try_from(LEN).unwrap() }];
        match self.op(Op::Grant { blobs }).await.unwrap().extra {
            Extra::Grants(mut grants) => grants.pop().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    async fn upload_grant(&mut self, digest: Digest) -> Generation {
        match self.grant(digest).await {
            Grant::Upload { generation, target: Location::Cell } => generation,
            other => panic!("{other:?}"),
        }
    }

    async fn store(&self, digest: Digest, generation: Generation, bytes: Bytes) -> Result<(), Error> {
        let store = StoreBlob { session: self.session, digest, generation, bytes };
        let stored = self.blobs().store(pb::StoreRequest::from((GROUP, store))).await;
        stored.map(|_| ()).map_err(|status| error_from_status(&status))
    }

    pub async fn fetch(&self, ino: InodeId, digest: Digest) -> Result<Bytes, Error> {
        let fetch = FetchBlob { session: self.session, ino, digest };
        let fetched = self.blobs().fetch(pb::FetchRequest::from((GROUP, fetch))).await;
        fetched.map(|reply| reply.into_inner().data).map_err(|status| error_from_status(&status))
    }

    /// Publishes a file that consists of one blob.
    pub async fn publish(&mut self, name: &[u8], digest: Digest, uploaded: Vec<Uploaded>) -> OpResult {
        let ino = self.new_inode().await;
        self.op(chunked(ino, name, digest, uploaded)).await
    }
}

fn chunked(ino: InodeId, name: &[u8], digest: Digest, uploaded: Vec<Uploaded>) -> Op {
    let len = u32::try_from(LEN).unwrap();
    let extents = vec![Extent { offset: 0, len, digest, blob_offset: 0 }];
    let changed = vec![ChunkLayout { chunk: 0, extents }];
    let mut op = commit(ino, name, NewContent::Chunks { size: u64::from(len), changed });
    if let Op::Commit(commit) = &mut op {
        commit.uploaded = uploaded;
    }
    op
}

pub fn content(byte: u8) -> (Digest, Bytes) {
    let bytes = Bytes::from(vec![byte; LEN]);
    (hash(&bytes), bytes)
}

pub async fn until_true(done: impl Fn() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not happen within 10 s");
}

/// How many objects the directory backend holds.
pub fn objects(data: &Path) -> usize {
    fn files(dir: &Path) -> usize {
        let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
        entries.flatten().map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
    }
    files(&data.join("blobs/b"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_is_uploaded_once_and_shared() {
    let cell = TestCell::start().await;
    let mut mount = cell.mount(1).await;
    let (digest, bytes) = content(7);
    let generation = mount.upload_grant(digest).await;

    let uploaded = vec![Uploaded { digest, generation }];
    let early = mount.publish(b"a", digest, uploaded.clone()).await;
    assert_eq!(early.unwrap_err(), Errno::EAGAIN, "committed before it was uploaded");

    mount.store(digest, generation, bytes.clone()).await.unwrap();
    let made = mount.publish(b"a", digest, uploaded).await.unwrap();
    assert_eq!(mount.fetch(made.ino.unwrap(), digest).await.unwrap(), bytes);
    let resolve = Query::Resolve { ino: made.ino.unwrap(), digests: vec![digest, hash(b"other")] };
    let AnswerBody::Locations(places) = mount.ask(resolve).await.unwrap().body else { panic!("locations") };
    assert_eq!(places, [Some(Location::Cell), None]);

    // What this node hashed itself counts as verified, so others need not upload it.
    let mut granted = mount.grant(digest).await;
    for _ in 0..100 {
        if granted == Grant::Have {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        granted = mount.grant(digest).await;
    }
    assert_eq!(granted, Grant::Have);
    mount.publish(b"b", digest, Vec::new()).await.unwrap();
    assert_eq!(objects(cell.data.path()), 1);
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_with_another_digest_are_refused() {
    let cell = TestCell::start().await;
    let mut mount = cell.mount(1).await;
    let (digest, _) = content(1);
    let (_, other) = content(2);
    let generation = mount.upload_grant(digest).await;
    assert_eq!(mount.store(digest, generation, other).await.unwrap_err().kind(), Kind::Invalid);
    let short = Bytes::from_static(b"short");
    assert_eq!(mount.store(digest, generation, short).await.unwrap_err().kind(), Kind::Denied);
    assert_eq!(objects(cell.data.path()), 0);

    let ino = mount.new_inode().await;
    let wrong = NewContent::Hot { digest, bytes: Bytes::from(vec![3; 1000]) };
    assert_eq!(mount.op(commit(ino, b"hot", wrong)).await.unwrap_err(), Errno::EINVAL);
    assert_eq!(mount.lookup(b"hot").await.unwrap(), None);
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_blob_is_readable_before_and_after_it_is_drained() {
    let cell = TestCell::start().await;
    let mut mount = cell.mount(1).await;
    let ino = mount.new_inode().await;
    let bytes = Bytes::from(vec![9; 10_000]);
    let digest = hash(&bytes);
    mount.op(commit(ino, b"hot", NewContent::Hot { digest, bytes: bytes.clone() })).await.unwrap();
    assert_eq!(mount.fetch(ino, digest).await.unwrap(), bytes);
    until_true(|| objects(cell.data.path()) == 1).await;
    assert_eq!(mount.fetch(ino, digest).await.unwrap(), bytes);
    let never_committed = mount.fetch(ino, hash(b"other")).await.unwrap_err();
    assert_eq!(never_committed.kind(), Kind::NotFound);
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_attached_sessions_move_bytes() {
    let cell = TestCell::start().await;
    let mut mount = cell.mount(1).await;
    let (digest, bytes) = content(4);
    let generation = mount.upload_grant(digest).await;
    mount.session = SessionId::new(99);
    assert_eq!(mount.store(digest, generation, bytes).await.unwrap_err().kind(), Kind::Denied);
    assert_eq!(mount.fetch(InodeId::ROOT, digest).await.unwrap_err().kind(), Kind::Denied);
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_go_directly_to_a_store_that_signs() {
    let (cell, store) = TestCell::start_on_test_store().await;
    TestStore::set(&store.signs, true);
    let mut mount = cell.mount(1).await;
    let (digest, bytes) = content(5);
    let Grant::Upload { generation, target: Location::Url { url, headers, .. } } = mount.grant(digest).await
    else {
        panic!("a signed upload")
    };
    assert!(url.contains(&digest.to_string()), "{url}");
    assert_eq!(headers, [("x-signed".to_owned(), "PUT".to_owned())]);

    let uploaded = vec![Uploaded { digest, generation }];
    assert_eq!(mount.publish(b"a", digest, uploaded.clone()).await.unwrap_err(), Errno::EAGAIN);
    let key = sitefs_blobstore::ObjectKey { site: mount.attached.site, digest, generation };
    sitefs_blobstore::Backend::put(&*store, &key, bytes.slice(1..)).await.unwrap();
    assert_eq!(mount.publish(b"a", digest, uploaded.clone()).await.unwrap_err(), Errno::EAGAIN, "too short");
    sitefs_blobstore::Backend::delete(&*store, &key).await.unwrap();
    sitefs_blobstore::Backend::put(&*store, &key, bytes).await.unwrap();
    let made = mount.publish(b"a", digest, uploaded).await.unwrap();

    let resolve = Query::Resolve { ino: made.ino.unwrap(), digests: vec![digest] };
    let AnswerBody::Locations(places) = mount.ask(resolve).await.unwrap().body else { panic!("locations") };
    assert!(matches!(&places[..], [Some(Location::Url { url, .. })] if url.contains(&digest.to_string())));
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spoiled_bytes_reach_nobody() {
    let (cell, store) = TestCell::start_on_test_store().await;
    let mut mount = cell.mount(1).await;
    let (digest, bytes) = content(6);
    let generation = mount.upload_grant(digest).await;
    mount.store(digest, generation, bytes.clone()).await.unwrap();
    let made = mount.publish(b"a", digest, vec![Uploaded { digest, generation }]).await.unwrap();
    TestStore::set(&store.spoils, true);
    assert_eq!(mount.fetch(made.ino.unwrap(), digest).await.unwrap_err().kind(), Kind::Corrupt);
    TestStore::set(&store.spoils, false);
    assert_eq!(mount.fetch(made.ino.unwrap(), digest).await.unwrap(), bytes);
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hot_blobs_wait_for_a_store_that_is_down() {
    let (cell, store) = TestCell::start_on_test_store().await;
    TestStore::set(&store.down, true);
    let mut mount = cell.mount(1).await;
    for n in 0..10_u8 {
        let ino = mount.new_inode().await;
        let bytes = Bytes::from(vec![n; 5000]);
        let digest = hash(&bytes);
        let name = format!("hot{n}");
        mount
            .op(commit(ino, name.as_bytes(), NewContent::Hot { digest, bytes: bytes.clone() }))
            .await
            .unwrap();
        assert_eq!(mount.fetch(ino, digest).await.unwrap(), bytes, "the cell holds it");
    }
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(objects(cell.data.path()), 0);
    TestStore::set(&store.down, false);
    until_true(|| objects(cell.data.path()) == 10).await;
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_full_disk_uploads_are_refused_and_removing_goes_on() {
    let cell = TestCell::start().await;
    let mut mount = cell.mount(1).await;
    mount.create(b"old", b"content").await.unwrap();
    let (digest, bytes) = content(1);
    let generation = mount.upload_grant(digest).await;
    cell.server.cell().group.pretend_free(150 << 20);
    let error = mount.store(digest, generation, bytes.clone()).await.unwrap_err();
    assert_eq!((error.kind(), error.errno()), (Kind::Limit, Errno::ENOSPC));
    let mkdir = Op::Mkdir { at: place(b"new"), create: owner() };
    assert_eq!(mount.op(mkdir).await.unwrap_err(), Errno::ENOSPC);
    mount.op(Op::Unlink { at: place(b"old") }).await.unwrap();
    cell.server.cell().group.pretend_free(1 << 40);
    mount.store(digest, generation, bytes).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_that_the_store_does_not_take_keep_no_others_back() {
    let (cell, store) = TestCell::start_on_test_store().await;
    let blobs: Vec<_> = (0..19_u8).map(|n| Bytes::from(vec![n; 5000])).collect();
    // More than are tried before a step ends, and the first in the order of draining.
    let refused: Vec<_> = blobs[..16].iter().map(|bytes| hash(bytes)).collect();
    *store.refused.lock().unwrap() = refused;
    let mut mount = cell.mount(1).await;
    for (n, bytes) in blobs.into_iter().enumerate() {
        let (ino, digest) = (mount.new_inode().await, hash(&bytes));
        let hot = NewContent::Hot { digest, bytes };
        mount.op(commit(ino, format!("hot{n}").as_bytes(), hot)).await.unwrap();
    }
    until_true(|| objects(cell.data.path()) == 3).await;
    store.refused.lock().unwrap().clear();
    until_true(|| objects(cell.data.path()) == 19).await;
    cell.stop().await;
}

/// The key of an upload as a client that holds the grant writes it.
fn key(mount: &Mount, digest: Digest, generation: Generation) -> ObjectKey {
    ObjectKey { site: mount.attached.site, digest, generation }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_upload_replaces_garbage_that_was_committed_under_its_digest() {
    let (cell, store) = TestCell::start_on_test_store().await;
    let (mut bad, mut good) = (cell.mount(1).await, cell.mount(2).await);
    let (digest, bytes) = content(8);
    // The verifier does not get to it between the commits.
    let generation = bad.upload_grant(digest).await;
    Backend::put(&*store, &key(&bad, digest, generation), content(9).1).await.unwrap();
    bad.publish(b"bad", digest, vec![Uploaded { digest, generation }]).await.unwrap();

    let generation = good.upload_grant(digest).await;
    Backend::put(&*store, &key(&good, digest, generation), bytes.clone()).await.unwrap();
    let made = good.publish(b"good", digest, vec![Uploaded { digest, generation }]).await.unwrap();
    assert_eq!(good.fetch(made.ino.unwrap(), digest).await.unwrap(), bytes);
    assert_eq!(good.grant(digest).await, Grant::Have, "it is verified");

    // And garbage does not replace what is good.
    let (digest, bytes) = content(10);
    let generation = good.upload_grant(digest).await;
    Backend::put(&*store, &key(&good, digest, generation), bytes).await.unwrap();
    let late = bad.upload_grant(digest).await;
    Backend::put(&*store, &key(&bad, digest, late), content(9).1).await.unwrap();
    good.publish(b"next", digest, vec![Uploaded { digest, generation }]).await.unwrap();
    let refused = bad.publish(b"worse", digest, vec![Uploaded { digest, generation: late }]).await;
    assert_eq!(refused.unwrap_err(), Errno::EAGAIN);
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_cannot_outrun_the_look_for_its_upload() {
    let cell = TestCell::start().await;
    let mut mount = cell.mount(1).await;
    let (digest, _) = content(11);
    let last = mount.upload_grant(digest).await;
    let ino = mount.new_inode().await;
    for name in ["a", "b", "c", "d"] {
        // Sent together with the grant whose generation it guesses.
        let blobs = vec![BlobWanted { digest, len: u32::try_from(LEN).unwrap() }];
        let grant = mount.envelope(Op::Grant { blobs });
        let guess = Generation { counter: last.counter + 1, ..last };
        let op = chunked(ino, name.as_bytes(), digest, vec![Uploaded { digest, generation: guess }]);
        let commit = mount.envelope(op);
        mount.send(ToCell::Op(grant)).await;
        assert_eq!(mount.repeat(commit).await.unwrap_err(), Errno::EAGAIN);
    }
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_was_executed_is_answered_even_if_its_upload_cannot_be_found() {
    let (cell, store) = TestCell::start_on_test_store().await;
    let mut mount = cell.mount(1).await;
    let (digest, bytes) = content(12);
    let generation = mount.upload_grant(digest).await;
    let object = key(&mount, digest, generation);
    Backend::put(&*store, &object, bytes).await.unwrap();
    let ino = mount.new_inode().await;
    let op = chunked(ino, b"a", digest, vec![Uploaded { digest, generation }]);
    let envelope = mount.envelope(op);
    let first = mount.repeat(envelope.clone()).await.unwrap();
    Backend::delete(&*store, &object).await.unwrap();
    assert_eq!(mount.repeat(envelope).await.unwrap(), first);
    cell.stop_damaged().await;
}
