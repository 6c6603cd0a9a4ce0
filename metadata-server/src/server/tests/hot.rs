//! Small blobs in the cell: limits, turns, and what draining costs (DESIGN D35).

use super::{
    blobs::until_true,
    harness::{Mount, TestCell, attach, commit},
    store::TestStore,
};
use crate::server::HotLimits;
use bytes::Bytes;
use sitefs_base::{Errno, op::NewContent};
use sitefs_blobstore::hash;
use std::sync::atomic::Ordering;

const LEN: usize = 10_000;

/// Commits a small file with content of its own.
async fn small(mount: &mut Mount, number: u32) -> Result<(), Errno> {
    let bytes = Bytes::from([number.to_le_bytes().to_vec(), vec![1; LEN - 4]].concat());
    let ino = mount.new_inode().await;
    let content = NewContent::Hot { digest: hash(&bytes), bytes };
    mount.op(commit(ino, format!("f{number}").as_bytes(), content)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_limit_of_a_site_small_content_is_sent_to_the_store() {
    let limits = HotLimits { site: 5 * LEN as u64, group: 1 << 30 };
    let (cell, store) = TestCell::start_on_test_store_holding(limits).await;
    TestStore::set(&store.down, true);
    let mut mount = cell.mount(1).await;
    for number in 0..5 {
        small(&mut mount, number).await.unwrap();
    }
    assert_eq!(small(&mut mount, 5).await, Err(Errno::EAGAIN), "upload it first");
    cell.server.ensure_volume(&"other/live".parse().unwrap(), 0, 0, 0o755).await.unwrap();
    let mut request = attach(2);
    request.volume = "other/live".parse().unwrap();
    request.claimed_identity = "sitefs://main/other/live?role=rw".to_owned();
    let mut other = cell.attach(request).await.unwrap();
    small(&mut other, 5).await.unwrap();
    let page = cell.server.metrics().page();
    assert!(page.contains("sitefs_cell_hot_refused_total 1"), "{page}");

    TestStore::set(&store.down, false);
    for attempt in 0.. {
        match small(&mut mount, 6).await {
            Ok(()) => break,
            Err(errno) => assert!(errno == Errno::EAGAIN && attempt < 1000, "{errno} {attempt}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    until_true(|| store.puts.lock().unwrap().len() == 7).await;
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_writes_much_does_not_keep_back_the_others() {
    let (cell, store) = TestCell::start_on_test_store().await;
    TestStore::set(&store.down, true);
    let mut busy = cell.mount(1).await;
    for number in 0..200 {
        small(&mut busy, number).await.unwrap();
    }
    cell.server.ensure_volume(&"other/live".parse().unwrap(), 0, 0, 0o755).await.unwrap();
    let mut request = attach(2);
    request.volume = "other/live".parse().unwrap();
    request.claimed_identity = "sitefs://main/other/live?role=rw".to_owned();
    let mut other = cell.attach(request).await.unwrap();
    for number in 1000..1010 {
        small(&mut other, number).await.unwrap();
    }
    store.puts.lock().unwrap().clear();
    TestStore::set(&store.down, false);
    until_true(|| store.puts.lock().unwrap().len() == 210).await;
    let puts = store.puts.lock().unwrap().clone();
    let busy_site = puts.iter().map(|key| key.site).min().unwrap();
    let last_of_other = puts.iter().rposition(|key| key.site != busy_site).unwrap();
    assert!(last_of_other < 64, "the other site waited for {last_of_other} blobs");
    // The oldest first, as far as uploads beside each other allow it.
    let busy: Vec<_> = puts.iter().filter(|key| key.site == busy_site).map(|key| key.generation).collect();
    let mut sorted = busy.clone();
    sorted.sort();
    let furthest = busy.iter().enumerate().map(|(at, own)| {
        let place = sorted.binary_search(own).unwrap();
        place.abs_diff(at)
    });
    assert!(furthest.max().unwrap() < 32);
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_small_files_cost_a_request_each() {
    let (cell, store) = TestCell::start_on_test_store().await;
    // These mounts never say which replies they have seen, and the cell keeps 1,024 of a session.
    for part in 0..4 {
        let mut mount = cell.mount(1 + u128::from(part)).await;
        for number in 0..250 {
            small(&mut mount, part * 250 + number).await.unwrap();
        }
    }
    until_true(|| store.puts.lock().unwrap().len() >= 1000).await;
    let drained = || cell.server.metrics().page().contains("sitefs_cell_drained_blobs_total 1000");
    until_true(drained).await;
    let requests = store.requests.load(Ordering::SeqCst);
    assert!(requests <= 1100, "{requests} requests");
    cell.stop().await;
}
