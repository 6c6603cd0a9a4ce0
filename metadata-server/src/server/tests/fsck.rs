//! Checks of cells that run and of those that do not, and the scrub.

use super::{harness::*, store::TestStore};
use crate::{
    fsck::{Scrub, Scrubber},
    server::check_stopped,
};
use bytes::Bytes;
use sitefs_base::{
    SystemClock,
    check::{CheckEvent, CheckFinding, CheckOptions, CheckSummary},
    op::NewContent,
};
use sitefs_blobstore::hash;
use sitefs_proto::{RepairAll, pb, pb::admin_client::AdminClient};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

pub fn everything() -> CheckOptions {
    CheckOptions {
        rows_per_second: None,
        snapshots: true,
        objects: true,
        deep: true,
        bytes_per_second: None,
        resume: None,
    }
}

/// Checks a stopped cell.
pub async fn stopped(data: &Path) -> (Vec<CheckFinding>, CheckSummary) {
    let (mut found, mut summary) = (Vec::new(), None);
    let tell = |event| match event {
        CheckEvent::Found(finding) => found.push(*finding),
        CheckEvent::Done(done) => summary = Some(done),
        CheckEvent::Progress(_) => {}
    };
    let token = CancellationToken::new();
    check_stopped(data, everything(), Arc::new(SystemClock), tell, token).await.unwrap();
    (found, summary.expect("it is done"))
}

async fn online(cell: &TestCell, options: CheckOptions) -> (Vec<CheckFinding>, CheckSummary) {
    let mut admin = AdminClient::connect(format!("http://{}", cell.server.admin_addr())).await.unwrap();
    let request = pb::CheckRequest { claimed_identity: OPERATOR.to_owned(), ..options.into() };
    let mut events = admin.check(request).await.unwrap().into_inner();
    let (mut found, mut summary) = (Vec::new(), None);
    while let Some(event) = events.message().await.unwrap() {
        match CheckEvent::try_from(event).unwrap() {
            CheckEvent::Found(finding) => found.push(*finding),
            CheckEvent::Done(done) => summary = Some(done),
            CheckEvent::Progress(_) => {}
        }
    }
    (found, summary.expect("it is done"))
}

fn kinds(found: &[CheckFinding]) -> Vec<&str> {
    found.iter().map(|finding| finding.kind.as_str()).collect()
}

/// A file whose content the cell drains; gives the file of its object.
async fn drained(cell: &TestCell, mount: &mut Mount, name: &[u8], bytes: Bytes) -> PathBuf {
    let (ino, digest) = (mount.new_inode().await, hash(&bytes));
    mount.op(commit(ino, name, NewContent::Hot { digest, bytes })).await.unwrap();
    let dir = cell.data.path().join("blobs/b/1").join(&digest.to_string()[..2]);
    let began = Instant::now();
    loop {
        let object = fs::read_dir(&dir)
            .into_iter()
            .flatten()
            .flatten()
            .find(|entry| entry.file_name().to_string_lossy().starts_with(&digest.to_string()));
        let waits = crate::state::hot_blobs(&cell.server.cell().group.reader(), None, 1).unwrap();
        if let (Some(object), true) = (object, waits.is_empty()) {
            return object.path();
        }
        assert!(began.elapsed() < Duration::from_secs(20), "it is not drained");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_found_in_a_cell_that_runs_nor_once_it_has_stopped() {
    let cell = TestCell::start().await;
    let mut mount = cell.mount(1).await;
    mount.create(b"small", b"content").await.unwrap();
    drained(&cell, &mut mount, b"hot", Bytes::from(vec![4; 9_000])).await;
    let (found, summary) = online(&cell, everything()).await;
    assert_eq!(found, []);
    assert_eq!((summary.volumes, summary.inodes, summary.blobs, summary.objects), (1, 3, 1, 1));
    assert_eq!(summary.bytes_read, 9_000);
    // A copy of a running node is what a crash leaves: the rest of the rows is in the log.
    let copy = tempfile::tempdir().unwrap();
    copy_dir(cell.data.path(), copy.path());
    let (found, crashed) = stopped(copy.path()).await;
    assert_eq!((found, crashed.inodes), (vec![], 3));
    assert!(crashed.replayed > 0, "{crashed:?}");
    let data = cell.stop().await;
    let (found, ended) = stopped(data.path()).await;
    assert_eq!((found, ended.inodes), (vec![], 3));
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target)
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_runs_is_not_checked_from_outside() {
    let cell = TestCell::start().await;
    let token = CancellationToken::new();
    let refused = check_stopped(cell.data.path(), everything(), Arc::new(SystemClock), |_| {}, token).await;
    assert_eq!(refused.unwrap_err().kind(), sitefs_base::Kind::Conflict);
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_objects_are_found_with_paths_and_a_repair_lets_others_store_them_again() {
    let cell = TestCell::start().await;
    let mut mount = cell.mount(1).await;
    let bytes = |of: u8| Bytes::from(vec![of; 5_000]);
    let lost = drained(&cell, &mut mount, b"lost", bytes(1)).await;
    let cut = drained(&cell, &mut mount, b"cut", bytes(2)).await;
    let changed = drained(&cell, &mut mount, b"changed", bytes(3)).await;
    fs::remove_file(lost).unwrap();
    fs::write(cut, [2; 70]).unwrap();
    fs::write(changed, [9; 5_000]).unwrap();
    let shallow = CheckOptions { deep: false, ..everything() };
    let (mut found, _) = online(&cell, shallow).await;
    found.sort_by(|a, b| a.kind.cmp(&b.kind));
    assert_eq!(kinds(&found), ["object-missing", "object-size"]);
    assert_eq!(found[0].path.as_deref(), Some("/lost"));
    assert_eq!(found[1].path.as_deref(), Some("/cut"));
    let (found, _) = online(&cell, everything()).await;
    let wrong: Vec<_> = found.iter().filter(|finding| finding.kind == "object-wrong").collect();
    assert!(wrong.iter().any(|finding| finding.path.as_deref() == Some("/changed")), "{found:?}");

    let repairs = found.into_iter().filter_map(|finding| finding.repair).map(|(_, repair)| repair).collect();
    let mut admin = AdminClient::connect(format!("http://{}", cell.server.admin_addr())).await.unwrap();
    let all = RepairAll { repairs, claimed_identity: OPERATOR.to_owned() };
    admin.repair(pb::RepairRequest::from(all)).await.unwrap();
    let (found, _) = online(&cell, everything()).await;
    assert_eq!(kinds(&found), ["blob-damaged"; 3]);
    for of in [1, 2, 3] {
        drained(&cell, &mut mount, b"again", bytes(of)).await;
    }
    assert_eq!(online(&cell, everything()).await.0, []);
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_operators_check_and_repair() {
    let cell = TestCell::start().await;
    let mut admin = AdminClient::connect(format!("http://{}", cell.server.admin_addr())).await.unwrap();
    let request = pb::CheckRequest { claimed_identity: WRITER.to_owned(), ..everything().into() };
    assert!(admin.check(request).await.is_err());
    let all = RepairAll { repairs: vec![], claimed_identity: WRITER.to_owned() };
    assert!(admin.repair(pb::RepairRequest::from(all)).await.is_err());
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scrub_notes_what_is_wrong_and_what_is_right_again() {
    let (cell, store) = TestCell::start_on_test_store().await;
    let mut mount = cell.mount(1).await;
    let bytes = Bytes::from(vec![6; 5_000]);
    let object = drained(&cell, &mut mount, b"file", bytes.clone()).await;
    let meters = Arc::new(Scrub::default());
    let place = tempfile::tempdir().unwrap();
    let round = async || {
        let backend = cell.server.cell().blobs.backend();
        let (group, clock) = (cell.server.cell().group.clone(), Arc::new(SystemClock));
        // A place of its own for each: it begins at once.
        let dir = tempfile::tempdir_in(place.path()).unwrap();
        Scrubber::new(group, backend, clock, dir.path(), meters.clone()).step().await.unwrap();
    };
    round().await;
    assert_eq!((meters.objects(), meters.bytes(), meters.bad()), (1, 5_000, 0));
    assert!(meters.whole_since().is_some());

    fs::write(&object, [7; 5_000]).unwrap();
    round().await;
    assert_eq!(meters.bad(), 1);
    let shown = meters.shown();
    assert!(shown[0].contains("used by /file"), "{shown:?}");
    let (found, _) = online(&cell, everything()).await;
    assert_eq!(kinds(&found), ["blob-damaged"]);
    round().await;
    assert_eq!(meters.bad(), 1, "it is told once");

    fs::write(&object, &bytes).unwrap();
    round().await;
    assert_eq!(online(&cell, everything()).await.0, [], "it is right again");
    TestStore::set(&store.down, true);
    cell.stop().await;
}
