//! Whole runs of garbage collection on a running cell.

use super::{
    blobs::{LEN, content},
    harness::{Mount, OPERATOR, TestCell, commit, config, place},
    store::TestStore,
};
use crate::{
    gc::{Gc, GcConfig, Report},
    server::{Server, ServerConfig},
    state::CommandBody,
};
use bytes::Bytes;
use sitefs_base::{
    Digest, Generation, InodeId, Kind, SiteId, SystemClock, VolumeId,
    op::{Grant, NewContent, Op, Uploaded},
};
use sitefs_blobstore::{Backend, ObjectKey, hash};
use sitefs_proto::{error_from_status, pb, pb::admin_client::AdminClient};
use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

const SITE: SiteId = SiteId::new(1);
const VOLUME: VolumeId = VolumeId::new(1);

/// Nothing happens by itself, and every grace is over in a moment.
fn quick() -> GcConfig {
    GcConfig {
        grace: Duration::from_millis(1),
        interval: Duration::from_secs(3600),
        uploads: Duration::from_millis(1),
        rate: 1_000_000,
    }
}

async fn start(gc: GcConfig) -> TestCell {
    start_in(tempfile::tempdir().unwrap(), gc).await
}

async fn start_in(data: tempfile::TempDir, gc: GcConfig) -> TestCell {
    let config = ServerConfig { gc, ..config(data.path()) };
    let server = Server::start(config, Arc::new(SystemClock)).await.unwrap();
    server.ensure_volume(&"acme/live".parse().unwrap(), 0, 0, 0o755).await.unwrap();
    TestCell { server, data }
}

/// The objects in a directory of blobs.
fn objects(dir: &Path) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let entries = entries.map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { objects(&path) } else { 1 }).sum()
}

impl TestCell {
    fn gc(&self) -> &Gc {
        &self.server.cell.gc
    }

    async fn run(&self) -> Report {
        self.gc().run(false, None).await.unwrap()
    }

    fn objects(&self) -> usize {
        objects(&self.data.path().join("blobs/b"))
    }

    /// Gives up all of the past that nothing pins.
    async fn forget_the_past(&self) {
        let began = self.server.cell.clock.now().secs();
        while self.server.cell.clock.now().secs() <= began + 1 {
            tokio::task::yield_now().await;
        }
        let body = CommandBody::MoveHorizon { volume: VOLUME, before: self.server.cell.clock.now() };
        self.server.cell.group.propose(body).await.unwrap();
    }

    /// Runs until a condition holds.
    async fn run_until(&self, what: &str, done: impl Fn(&Report) -> bool) -> Report {
        let begun = Instant::now();
        loop {
            let report = self.run().await;
            if done(&report) {
                return report;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain for {what}: {report:?}");
        }
    }

    async fn admin(&self) -> AdminClient<tonic::transport::Channel> {
        AdminClient::connect(format!("http://{}", self.server.admin_addr())).await.unwrap()
    }
}

/// A file whose content is an object; the object's key.
async fn object(cell: &TestCell, mount: &mut Mount, name: &[u8], byte: u8) -> (InodeId, ObjectKey) {
    let (digest, bytes) = content(byte);
    let Grant::Upload { generation, .. } = mount.grant(digest).await else { panic!("an upload") };
    let key = ObjectKey { site: SITE, digest, generation };
    cell.server.cell.blobs.store(&key, hashed(digest, bytes)).await.unwrap();
    let made = mount.publish(name, digest, vec![Uploaded { digest, generation }]).await.unwrap();
    (made.ino.unwrap(), key)
}

fn hashed(digest: Digest, bytes: Bytes) -> sitefs_blobstore::VerifiedBytes {
    sitefs_blobstore::VerifiedBytes::check(digest, bytes).unwrap()
}

async fn hot(mount: &mut Mount, name: &[u8], byte: u8) {
    let bytes = Bytes::from(vec![byte; 2_000]);
    let ino = mount.new_inode().await;
    mount.op(commit(ino, name, NewContent::Hot { digest: hash(&bytes), bytes })).await.unwrap();
}

async fn unlink(mount: &mut Mount, name: &[u8]) {
    mount.op(Op::Unlink { at: place(name) }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_names_is_condemned_and_deleted_and_all_else_stays() {
    let cell = start(quick()).await;
    let mut mount = cell.mount(1).await;
    let (kept, key) = object(&cell, &mut mount, b"kept", 1).await;
    object(&cell, &mut mount, b"gone", 2).await;
    hot(&mut mount, b"small", 3).await;
    hot(&mut mount, b"small too", 4).await;
    unlink(&mut mount, b"gone").await;
    unlink(&mut mount, b"small").await;
    cell.forget_the_past().await;

    let plan = cell.gc().run(true, None).await.unwrap();
    assert_eq!((plan.condemned.blobs, plan.condemned.bytes), (2, LEN as u64 + 2_000));
    assert_eq!((plan.live.blobs, plan.wrong, plan.deleted), (2, 0, 0));
    let first = cell.run().await;
    assert_eq!((first.condemned, first.live), (plan.condemned, plan.live), "as the dry run said");
    let gone = cell.run_until("two blobs given up", |report| report.given_up.blobs == 2).await;
    assert_eq!((gone.live.blobs, gone.condemned.blobs), (2, 0));
    cell.run_until("nothing waiting", |report| report.waiting == 0 && report.young.blobs == 0).await;
    assert_eq!(mount.fetch(kept, key.digest).await.unwrap().len(), LEN);
    let last = cell.run().await;
    assert_eq!((last.live.blobs, last.grace.blobs, last.orphans.blobs, last.foreign), (2, 0, 0, 0));
    assert!(cell.objects() <= 2, "{} objects", cell.objects());
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_keeps_content_and_its_grace_begins_when_it_is_deleted() {
    let grace = Duration::from_secs(3600);
    let cell = start(GcConfig { grace, ..quick() }).await;
    let mut mount = cell.mount(1).await;
    object(&cell, &mut mount, b"a", 1).await;
    let (volume, name) = ("acme/live".parse().unwrap(), "s".parse().unwrap());
    cell.server.cell.create_snapshot(&volume, &name, None).await.unwrap();
    unlink(&mut mount, b"a").await;
    cell.forget_the_past().await;
    let report = cell.run().await;
    assert_eq!((report.snapshot.blobs, report.condemned.blobs), (1, 0));
    cell.server.cell.delete_snapshot(&volume, &name).await.unwrap();
    assert_eq!(cell.run().await.condemned.blobs, 1);
    let report = cell.run().await;
    assert_eq!((report.grace.blobs, report.given_up.blobs), (1, 0), "{report:?}");
    assert_eq!(cell.objects(), 1);
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_outlives_a_restart_and_status_says_so() {
    let cell = start(quick()).await;
    let mut admin = cell.admin().await;
    let pause = |paused| pb::PauseGcRequest { paused, claimed_identity: OPERATOR.to_owned() };
    admin.pause_gc(pause(true)).await.unwrap();
    assert_eq!(cell.gc().run(false, None).await.unwrap_err().kind(), Kind::Conflict);
    cell.gc().run(true, None).await.unwrap();
    let cell = start_in(cell.stop().await, quick()).await;
    let mut admin = cell.admin().await;
    let ask = pb::GcStatusRequest { claimed_identity: OPERATOR.to_owned() };
    let status = admin.gc_status(ask.clone()).await.unwrap().into_inner();
    assert!(status.paused && status.finished.is_none() && status.last.is_none());
    admin.pause_gc(pause(false)).await.unwrap();
    let run = pb::RunGcRequest { dry_run: false, rate: Some(10), claimed_identity: OPERATOR.to_owned() };
    let mut progress = admin.run_gc(run.clone()).await.unwrap().into_inner();
    let mut last = None;
    while let Some(far) = progress.message().await.unwrap() {
        last = Some(far);
    }
    let last = last.unwrap();
    assert!(last.done && last.report.is_some());
    let status = admin.gc_status(ask).await.unwrap().into_inner();
    assert!(!status.paused && status.finished.is_some() && status.last.is_some() && status.running.is_none());
    for (request, kind) in [
        (pb::RunGcRequest { rate: Some(0), ..run.clone() }, Kind::Invalid),
        (pb::RunGcRequest { claimed_identity: super::harness::WRITER.to_owned(), ..run }, Kind::Denied),
    ] {
        let error = admin.run_gc(request).await.map(drop).unwrap_err();
        assert_eq!(error_from_status(&error).kind(), kind);
    }
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_no_row_knows_are_deleted_when_they_are_old() {
    let data = tempfile::tempdir().unwrap();
    let long = Duration::from_secs(3600);
    let cell = start_in(data, GcConfig { uploads: long, ..quick() }).await;
    let mut mount = cell.mount(1).await;
    let (_, key) = object(&cell, &mut mount, b"a", 1).await;
    let (digest, bytes) = content(9);
    let Grant::Upload { generation, .. } = mount.grant(digest).await else { panic!("an upload") };
    let upload = ObjectKey { site: SITE, digest, generation };
    cell.server.cell.blobs.store(&upload, hashed(digest, bytes.clone())).await.unwrap();
    let stray = ObjectKey { digest, generation: Generation { counter: 0, ..generation }, ..upload };
    let foreign = ObjectKey { generation: Generation { counter: 1 << 40, ..generation }, ..stray };
    let dir = cell.data.path().join("blobs");
    for key in [&stray, &foreign] {
        fs::write(dir.join(key.to_string()), &bytes).unwrap();
    }
    fs::write(dir.join("b/notes"), b"mine").unwrap();
    let report = cell.run().await;
    assert_eq!((report.young.blobs, report.foreign, report.orphans.blobs), (1, 2, 0), "{report:?}");
    drop(mount);
    let cell = start_in(cell.stop().await, quick()).await;
    let report = cell.run_until("the old orphan", |report| report.orphans.blobs > 0).await;
    assert_eq!((report.orphans.blobs, report.foreign), (1, 2), "{report:?}");
    assert!(!dir_has(&cell, &stray) && dir_has(&cell, &foreign) && dir_has(&cell, &key));
    cell.run_until("the upload", |_| !dir_has(&cell, &upload)).await;
    assert!(cell.data.path().join("blobs/b/notes").exists());
    cell.stop().await;
}

fn dir_has(cell: &TestCell, key: &ObjectKey) -> bool {
    cell.data.path().join("blobs").join(key.to_string()).exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_does_not_delete_waits_for_the_next_run() {
    let (cell, store) = TestCell::start_on_test_store_with(quick()).await;
    let mut mount = cell.mount(1).await;
    let (_, key) = object(&cell, &mut mount, b"a", 1).await;
    unlink(&mut mount, b"a").await;
    cell.forget_the_past().await;
    cell.run_until("condemned", |report| report.condemned.blobs == 1).await;
    TestStore::set(&store.down, true);
    let begun = Instant::now();
    let report = loop {
        // One object is fewer than what ends a run early.
        let report = cell.run().await;
        if report.given_up.blobs == 1 {
            break report;
        }
        assert!(begun.elapsed() < Duration::from_secs(30));
    };
    assert_eq!((report.waiting, report.deleted, store.head(&key).await.unwrap()), (1, 0, Some(LEN as u64)));
    assert_eq!(cell.gc().meters.failures.get(), 1);
    TestStore::set(&store.down, false);
    let report = cell.run().await;
    assert_eq!((report.waiting, report.deleted, store.head(&key).await.unwrap()), (0, 1, None));
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_another_cell_is_left_alone() {
    let (cell, store) = TestCell::start_on_test_store_with(quick()).await;
    *store.owner.lock().unwrap() = Some("somebody else".to_owned());
    let error = cell.gc().run(false, None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    cell.gc().run(true, None).await.unwrap();
    *store.owner.lock().unwrap() = None;
    cell.run().await;
    assert!(store.owner.lock().unwrap().as_ref().is_some_and(|owner| owner.starts_with("sitefs-owner 1\n")));
    cell.run().await;
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_with_more_blobs_than_memory_holds_is_read_in_ranges() {
    let cell = start(quick()).await;
    let mut mount = cell.mount(1).await;
    for byte in 0..40 {
        hot(&mut mount, &[b'a' + byte], byte).await;
    }
    for byte in 0..20 {
        unlink(&mut mount, &[b'a' + byte]).await;
    }
    cell.forget_the_past().await;
    cell.gc().bound_marks(7);
    let report = cell.run().await;
    assert_eq!((report.live.blobs, report.condemned.blobs), (20, 20), "{report:?}");
    assert!(report.rows > 200, "the rows are read several times: {}", report.rows);
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_race_with_runs_and_every_file_reads_back() {
    let cell = start(GcConfig { uploads: Duration::from_secs(60), ..quick() }).await;
    let mut mount = cell.mount(1).await;
    let rate = Duration::from_secs(4);
    let begun = Instant::now();
    let mut round = 0u8;
    while begun.elapsed() < rate {
        let byte = round % 5;
        let name = [b'a' + byte];
        if round >= 5 {
            unlink(&mut mount, &name).await;
        }
        let (digest, bytes) = content(byte);
        let made = loop {
            let uploaded = match mount.grant(digest).await {
                Grant::Have => vec![],
                Grant::Upload { generation, .. } => {
                    let key = ObjectKey { site: SITE, digest, generation };
                    // Given up already, perhaps: then the commit says so.
                    cell.server.cell.blobs.store(&key, hashed(digest, bytes.clone())).await.unwrap();
                    vec![Uploaded { digest, generation }]
                }
            };
            let (published, collected) =
                tokio::join!(mount.publish(&name, digest, uploaded), cell.gc().run(false, None));
            assert_eq!(collected.unwrap().wrong, 0);
            match published {
                Ok(made) => break made,
                Err(errno) => assert_eq!(errno, sitefs_base::Errno::EAGAIN),
            }
        };
        assert_eq!(mount.fetch(made.ino.unwrap(), digest).await.unwrap(), bytes);
        if round.is_multiple_of(7) {
            cell.forget_the_past().await;
        }
        round = round.checked_add(1).unwrap_or(5);
    }
    cell.stop().await;
}
