//! Appends of several mounts, and what the leader makes of their extents.

use super::{
    blobs::{objects, until_true},
    harness::{Mount, TestCell},
    store::TestStore,
};
use bytes::Bytes;
use sitefs_base::{
    Content, Extent, InodeId,
    limits::{CHUNK_SIZE, HOT_MAX, MERGE_ABOVE},
    op::{AnswerBody, Extra, Op, Query},
};
use tokio::task::JoinSet;

impl Mount {
    async fn append(&mut self, ino: InodeId, bytes: impl Into<Bytes>) -> u64 {
        let append = Op::Append { ino, bytes: bytes.into(), changed: None, kill_setid: false };
        match self.op(append).await.unwrap().extra {
            Extra::Appended { offset } => offset,
            other => panic!("{other:?}"),
        }
    }

    async fn extents(&mut self, ino: InodeId) -> Vec<Extent> {
        match self.ask(Query::Chunks { ino, cver: None, first: 0, count: 64 }).await.unwrap().body {
            AnswerBody::Chunks(chunks) => chunks.into_iter().flat_map(|chunk| chunk.extents).collect(),
            other => panic!("{other:?}"),
        }
    }

    async fn content_of(&mut self, ino: InodeId) -> Vec<u8> {
        let AnswerBody::Inode(Some(inode)) = self.ask(Query::Inode { ino }).await.unwrap().body else {
            panic!("no inode")
        };
        if let Content::Inline(bytes) = inode.content {
            return bytes.to_vec();
        }
        let mut content = vec![0; usize::try_from(inode.attr.size).unwrap()];
        for extent in self.extents(ino).await {
            let blob = self.fetch(ino, extent.digest).await.unwrap();
            let from = extent.blob_offset as usize;
            let part = &blob[from..from + extent.len as usize];
            content[usize::try_from(extent.offset).unwrap()..][..part.len()].copy_from_slice(part);
        }
        content
    }

    /// Waits until the file has at most so many extents.
    async fn merged(&mut self, ino: InodeId, most: usize) -> Vec<Extent> {
        for _ in 0..1500 {
            let extents = self.extents(ino).await;
            if extents.len() <= most {
                return extents;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("not merged within 15 s: {} extents", self.extents(ino).await.len());
    }
}

fn line(mount: usize, n: usize) -> String {
    format!("mount {mount} line {n:>180}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_that_append_at_once_lose_no_line_and_leave_few_extents_and_no_object() {
    let cell = TestCell::start().await;
    let mut first = cell.mount(100).await;
    let log = first.create(b"log", b"").await.unwrap().ino.unwrap();
    let mut mounts = Vec::new();
    for mount in 0..4 {
        mounts.push(cell.mount(mount as u128 + 1).await);
    }
    let mut writers = JoinSet::new();
    for (mount, mut writer) in mounts.into_iter().enumerate() {
        writers.spawn(async move {
            for n in 0..100 {
                writer.append(log, line(mount, n)).await;
            }
        });
    }
    while let Some(written) = writers.join_next().await {
        written.unwrap();
    }
    first.merged(log, MERGE_ABOVE + 16).await;
    let content = String::from_utf8(first.content_of(log).await).unwrap();
    let mut found: Vec<_> = content.lines().map(|line| format!("{line}\n")).collect();
    let mut expected: Vec<_> = (0..4).flat_map(|mount| (0..100).map(move |n| line(mount, n))).collect();
    found.sort();
    expected.sort();
    assert!(found == expected, "{} lines", found.len());
    assert_eq!(objects(cell.data.path()), 0, "a line is not worth an object");
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_chunk_becomes_one_object_and_waits_for_a_store_that_is_down() {
    let (cell, store) = TestCell::start_on_test_store().await;
    TestStore::set(&store.down, true);
    let mut mount = cell.mount(1).await;
    let log = mount.create(b"log", b"").await.unwrap().ino.unwrap();
    let pieces = usize::try_from(CHUNK_SIZE).unwrap() / HOT_MAX + 1;
    let mut expected = Vec::new();
    for n in 0..pieces {
        let piece = vec![u8::try_from(n).unwrap(); HOT_MAX];
        assert_eq!(mount.append(log, piece.clone()).await, expected.len() as u64);
        expected.extend(piece);
    }
    for n in 0..200 {
        mount.append(log, line(0, n)).await;
        expected.extend(line(0, n).into_bytes());
    }
    mount.merged(log, pieces + MERGE_ABOVE + 16).await;
    assert_eq!(objects(cell.data.path()), 0);
    TestStore::set(&store.down, false);
    let extents = mount.merged(log, MERGE_ABOVE + 17).await;
    assert_eq!((extents[0].offset, u64::from(extents[0].len)), (0, CHUNK_SIZE));
    assert!(mount.content_of(log).await == expected);
    let data = cell.data.path().to_owned();
    until_true(move || objects(&data) == 1).await;
    cell.stop().await;
}
