//! What one mount that sends all it can costs the mounts of other volumes (DESIGN D37).

use super::harness::{Mount, TestCell, attach, commit};
use bytes::Bytes;
use sitefs_base::{
    InodeId,
    op::{Extra, NewContent, Op},
    session::{Attach, ToCell, ToMount},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Operations that a mount may have under way.
const UNDER_WAY: usize = 64;
/// Commits that are measured.
const MEASURED: usize = 400;

fn hot(number: u64, len: usize) -> NewContent {
    let mut bytes = vec![0; len];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    NewContent::Hot { digest: sitefs_blobstore::hash(&bytes), bytes: Bytes::from(bytes) }
}

async fn numbers(mount: &mut Mount) -> InodeId {
    match mount.op(Op::AllocInodes { count: 1024 }).await.unwrap().extra {
        Extra::Inodes { first, .. } => first,
        other => panic!("{other:?}"),
    }
}

/// How long commits of 8 KiB take, one after the other.
async fn latencies(mount: &mut Mount, round: &str) -> Vec<Duration> {
    let first = numbers(mount).await;
    let mut took = Vec::new();
    for number in 0..MEASURED as u64 {
        let ino = InodeId::new(first.get() + number);
        let name = format!("{round}-{number}");
        let began = Instant::now();
        mount.op(commit(ino, name.as_bytes(), hot(number, 8192))).await.unwrap();
        took.push(began.elapsed());
    }
    took.sort();
    took
}

fn p99(took: &[Duration]) -> Duration {
    took[took.len() * 99 / 100]
}

/// Keeps as many commits of 64 KiB under way as a mount may, until it is told to stop.
async fn flood(mut mount: Mount, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) {
    let (mut number, mut under_way, mut first) = (0, 0, numbers(&mut mount).await);
    while !stop.load(Ordering::Relaxed) {
        while under_way < UNDER_WAY {
            if number % 1024 == 0 && number > 0 {
                // Its answer is waited for: what was under way is answered before.
                first = numbers(&mut mount).await;
                under_way = 0;
            }
            let ino = InodeId::new(first.get() + number % 1024);
            let body = commit(ino, format!("flood-{number}").as_bytes(), hot(number, 64 << 10));
            let mut envelope = mount.envelope(body);
            envelope.ack_below = sitefs_base::OpId::new(envelope.op.get().saturating_sub(512).max(1));
            mount.send(ToCell::Op(envelope)).await;
            (number, under_way) = (number + 1, under_way + 1);
        }
        if let Some(ToMount::OpReply { result, .. }) = mount.next().await {
            result.unwrap();
            under_way -= 1;
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: run it alone, in a release build"]
async fn a_flooding_mount_costs_the_others_at_most_twice_their_p99() {
    let cell = TestCell::start().await;
    let quiet = "acme/quiet".parse().unwrap();
    cell.server.ensure_volume(&quiet, 0, 0, 0o755).await.unwrap();
    let identity = "sitefs://main/acme/quiet?role=rw".to_owned();
    let request = Attach { volume: quiet, claimed_identity: identity, ..attach(1) };
    let mut mount = cell.attach(request).await.unwrap();
    latencies(&mut mount, "warm").await;
    let alone = latencies(&mut mount, "alone").await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let flooding = tokio::spawn(flood(cell.mount(2).await, stop.clone(), done.clone()));
    let began = Instant::now();
    let beside = latencies(&mut mount, "beside").await;
    let rate = done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    flooding.await.unwrap();
    let middle = |took: &[Duration]| took[took.len() / 2];
    println!(
        "alone p50 {:?} p99 {:?}; beside a flood of {rate:.0} commits of 64 KiB a second p50 {:?} p99 {:?}",
        middle(&alone),
        p99(&alone),
        middle(&beside),
        p99(&beside)
    );
    assert!(p99(&beside) <= p99(&alone) * 2);
    cell.stop().await;
}
