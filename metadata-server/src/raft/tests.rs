//! A group of one node, crashed and reopened.

use super::{
    Group, GroupConfig,
    snapshots::Snapshots,
    types::{Raft, SnapshotDir},
};
use crate::{
    state::{CommandBody, Family, Read, Reply, Row, VolumeLimits},
    store::{Reader, Store, StoreOptions},
};
use sitefs_base::{
    Clock, Errno, GroupId, InodeId, Kind, Name, NodeId, OpId, Result, SessionId, SystemClock, Tasks,
    VolumeId,
    op::{Create, Credit, Op, OpEnvelope, Place},
};
use std::{fs, path::Path, sync::Arc};

struct Cell {
    dir: tempfile::TempDir,
    group: Group,
    tasks: Tasks,
}

fn config(dir: &Path) -> GroupConfig {
    let (node, group) = (NodeId::new(1), GroupId::new(1));
    GroupConfig { dir: dir.to_owned(), node, cell: "test".into(), group, peers: None }
}

fn open(dir: &Path) -> Result<Group> {
    Group::open(config(dir), Arc::new(SystemClock), Tasks::new())
}

impl Cell {
    fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    fn start_in(dir: tempfile::TempDir) -> Self {
        let tasks = Tasks::new();
        let group = Group::open(config(dir.path()), Arc::new(SystemClock), tasks.clone()).unwrap();
        Self { dir, group, tasks }
    }

    async fn reply(&self, body: CommandBody) -> Reply {
        self.group.propose(body).await.unwrap().reply.unwrap()
    }

    async fn volume(&self, name: &str) -> VolumeId {
        let limits = VolumeLimits { bytes: 1 << 40, inodes: 1 << 30 };
        let name = name.parse().unwrap();
        let volume =
            match self.reply(CommandBody::CreateVolume { name, limits, uid: 0, gid: 0, mode: 0o755 }).await {
                Reply::Volume(volume) => volume,
                other => panic!("{other:?}"),
            };
        self.reply(CommandBody::OpenSession { volume, session: SESSION, at: None }).await;
        volume
    }

    async fn mkdir(&self, volume: VolumeId, number: u64) {
        self.reply(mkdir(volume, number)).await;
    }

    /// What a kill of the process leaves, in another directory: the files as they are now.
    fn crashed_copy(&self) -> tempfile::TempDir {
        // RocksDB may exchange files in the background; a copy that saw that is none of one moment.
        loop {
            let (copy, before) = (tempfile::tempdir().unwrap(), names(self.dir.path()));
            copy_tree(self.dir.path(), copy.path());
            if names(self.dir.path()) == before && names(copy.path()) == before {
                return copy;
            }
        }
    }

    async fn stop(self) -> tempfile::TempDir {
        self.group.shutdown().await.unwrap();
        self.tasks.shutdown().await;
        self.dir
    }
}

pub(super) const SESSION: SessionId = SessionId::new(7);

pub(super) fn mkdir(volume: VolumeId, number: u64) -> CommandBody {
    let name = Name::new(format!("dir{number:06}").into_bytes()).unwrap();
    let create = Create { mode: 0o755, umask: 0o022, uid: 1, gid: 1 };
    let body = Op::Mkdir { at: Place { parent: InodeId::ROOT, name }, create };
    let op = OpId::new(number + 1);
    let envelope = OpEnvelope { session: SESSION, op, ack_below: OpId::new(1), body };
    CommandBody::Op { volume, envelope, credit: Credit::NONE }
}

/// Names and what is in directories, in an order that only depends on them.
fn names(dir: &Path) -> Vec<std::ffi::OsString> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            let inside = names(&entry.path()).into_iter();
            found.extend(inside.map(|name| Path::new(&entry.file_name()).join(name).into_os_string()));
        }
        found.push(entry.file_name());
    }
    found.sort();
    found
}

/// Copies a directory that is in use; once more from the beginning if a file goes away meanwhile.
fn copy_tree(from: &Path, to: &Path) {
    let copied = (0..10).any(|_| match try_copy_tree(from, to) {
        Ok(()) => true,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            fs::remove_dir_all(to).unwrap();
            false
        }
        Err(error) => panic!("copying {}: {error}", from.display()),
    });
    assert!(copied, "{} does not hold still", from.display());
}

fn try_copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => try_copy_tree(&entry.path(), &target)?,
            false => drop(fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}

fn rows(reader: &Reader) -> Vec<(Family, Vec<Row>)> {
    Family::ALL.map(|family| (family, reader.scan(family, b"", b"", usize::MAX).unwrap())).into()
}

fn dirs(reader: &Reader) -> usize {
    reader.scan(Family::Dentry, b"", b"", usize::MAX).unwrap().len()
}

#[tokio::test]
async fn a_group_serves_and_comes_back_after_a_clean_stop() {
    let cell = Cell::start();
    let info = cell.group.info();
    assert_eq!((info.cell.as_str(), info.group.get(), info.incarnation.get()), ("test", 1, 1));
    let mut events = cell.group.events();
    let volume = cell.volume("acme/live").await;
    cell.mkdir(volume, 1).await;
    let event = events.try_recv().unwrap();
    assert_eq!(event.0, volume);
    let status = cell.group.status();
    assert!(status.leads && status.quorum_age.is_some() && status.log_bytes > 0, "{status:?}");
    assert_eq!(status.last_log_index, status.applied);
    let before = rows(&cell.group.reader());
    let cell = Cell::start_in(cell.stop().await);
    assert_eq!(rows(&cell.group.reader()), before);
    assert_eq!(cell.group.info(), info);
    cell.mkdir(volume, 2).await;
}

#[tokio::test]
async fn a_kill_loses_nothing_acknowledged_and_replay_gives_the_same_rows() {
    let cell = Cell::start();
    let volume = cell.volume("acme/live").await;
    for number in 0..100 {
        cell.mkdir(volume, number).await;
    }
    assert!(cell.group.status().flushed < cell.group.status().applied);
    let before = rows(&cell.group.reader());
    let copy = Cell::start_in(cell.crashed_copy());
    assert_eq!(rows(&copy.group.reader()), before);
    // Again, from a state that is flushed half way.
    copy.group.inner().store.flush().unwrap();
    for number in 100..150 {
        copy.mkdir(volume, number).await;
    }
    let before = rows(&copy.group.reader());
    let again = Cell::start_in(copy.crashed_copy());
    assert_eq!(rows(&again.group.reader()), before);
    assert_eq!(dirs(&again.group.reader()), 150);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_share_entries_and_each_hears_its_own_reply() {
    let cell = Cell::start();
    let volume = cell.volume("acme/live").await;
    let before = cell.group.status().last_log_index;
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..500 {
        let group = cell.group.clone();
        callers.spawn(async move { (number, group.propose(mkdir(volume, number)).await.unwrap().reply) });
    }
    while let Some(done) = callers.join_next().await {
        let (number, reply) = done.unwrap();
        match reply {
            Ok(Reply::Op(outcome)) => assert!(outcome.ino.is_some()),
            other => panic!("{number}: {other:?}"),
        }
    }
    let entries = cell.group.status().last_log_index - before;
    assert!(entries < 400, "{entries} entries for 500 commands");
    assert_eq!(dirs(&cell.group.reader()), 500);
}

#[tokio::test]
async fn a_torn_end_of_the_log_is_dropped_but_damage_before_it_stops_the_node() {
    let cell = Cell::start();
    let volume = cell.volume("acme/live").await;
    for number in 0..20 {
        cell.mkdir(volume, number).await;
    }
    let torn = cell.crashed_copy();
    let wal = last_wal(torn.path());
    let bytes = fs::read(&wal).unwrap();
    // Half of a record after the last whole one, as a power cut in the middle of a write leaves it.
    let half = [bytes.as_slice(), &bytes[..20]].concat();
    fs::write(&wal, half).unwrap();
    let copy = Cell::start_in(torn);
    assert_eq!(dirs(&copy.group.reader()), 20);

    let damaged = cell.crashed_copy();
    let wal = last_wal(damaged.path());
    let mut bytes = fs::read(&wal).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::write(&wal, bytes).unwrap();
    let error = open(damaged.path()).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{}", error.chain());
}

fn last_wal(dir: &Path) -> std::path::PathBuf {
    let files = fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().path());
    let logs = files.filter(|path| path.extension().is_some_and(|end| end == "log"));
    logs.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

#[tokio::test]
async fn a_directory_in_use_or_of_another_cell_is_refused() {
    let cell = Cell::start();
    let error = open(cell.dir.path()).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.doing().contains("another process uses"), "{error}");
    let dir = cell.stop().await;
    let other = GroupConfig { cell: "other".into(), ..config(dir.path()) };
    let error = Group::open(other, Arc::new(SystemClock), Tasks::new()).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.doing().contains("test") && error.doing().contains("other"), "{error}");
}

#[tokio::test]
async fn after_a_snapshot_the_log_is_purged_and_the_group_comes_back_from_it() {
    let cell = Cell::start();
    let volume = cell.volume("acme/live").await;
    for number in 0..50 {
        cell.mkdir(volume, number).await;
    }
    snapshot_and_purge(&cell.group).await;
    assert_eq!(fs::read_dir(cell.dir.path().join("snapshots")).unwrap().count(), 1);
    let status = cell.group.status();
    assert!(status.log_bytes < 1000, "{status:?}");
    assert!(status.flushed >= status.applied - 1);
    for number in 50..60 {
        cell.mkdir(volume, number).await;
    }
    let before = rows(&cell.group.reader());
    let copy = Cell::start_in(cell.crashed_copy());
    assert_eq!(rows(&copy.group.reader()), before);
    snapshot_and_purge(&copy.group).await;
    assert_eq!(fs::read_dir(copy.dir.path().join("snapshots")).unwrap().count(), 1);
}

pub(super) async fn snapshot_and_purge(group: &Group) {
    let raft: &Raft = &group.inner().raft;
    let applied = group.status().applied;
    raft.trigger().snapshot().await.unwrap();
    let wait = raft.wait(Some(std::time::Duration::from_secs(10)));
    wait.metrics(|metrics| metrics.snapshot.is_some_and(|id| id.index >= applied), "snapshot").await.unwrap();
    raft.trigger().purge_log(applied).await.unwrap();
    wait.metrics(|metrics| metrics.purged.is_some_and(|id| id.index >= applied), "purge").await.unwrap();
}

#[tokio::test]
async fn a_snapshot_becomes_the_state_of_another_node_even_if_it_dies_on_the_way() {
    let cell = Cell::start();
    let volume = cell.volume("acme/live").await;
    cell.mkdir(volume, 1).await;
    let built = snapshots(cell.dir.path()).build(&cell.group.inner().store).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let target = snapshots(dir.path());
    let store = Store::open(&dir.path().join("state"), StoreOptions::default()).unwrap();
    let path = target.begin_receiving().unwrap();
    copy_tree(&built.path, &path);
    target.install(&store, &SnapshotDir { path }, built.meta.applied).unwrap();
    assert_eq!(rows(&store.reader()), rows(&cell.group.reader()));
    assert_eq!(target.current().unwrap().unwrap().id, built.id);
    drop(store);

    // It dies after the decision and before the directories have changed places.
    fs::remove_dir_all(dir.path().join("state")).unwrap();
    copy_tree(&built.path.join("state"), &dir.path().join("snapshots/install"));
    snapshots(dir.path());
    let store = Store::open(&dir.path().join("state"), StoreOptions::default()).unwrap();
    assert_eq!(store.applied(), built.meta.applied);
    assert!(!dir.path().join("snapshots/install").exists());
}

fn snapshots(dir: &Path) -> Snapshots {
    Snapshots::open(dir.join("snapshots"), dir.join("state")).unwrap()
}

#[tokio::test]
async fn time_never_goes_back_even_if_the_clock_does() {
    let cell = Cell::start();
    cell.volume("acme/live").await;
    let last = crate::state::last_at(&cell.group.reader()).unwrap();
    let dir = cell.stop().await;
    let clock = sitefs_base::ManualClock::new(sitefs_base::Time::EPOCH);
    let group = Group::open(config(dir.path()), Arc::new(clock), Tasks::new()).unwrap();
    group.propose(CommandBody::Noop).await.unwrap();
    assert!(crate::state::last_at(&group.reader()).unwrap() > last);
}

#[tokio::test]
async fn what_one_entry_cannot_hold_is_refused_alone() {
    let cell = Cell::start();
    let volume = cell.volume("acme/live").await;
    let CommandBody::Op { volume, mut envelope, credit } = mkdir(volume, 1) else { unreachable!() };
    let name = vec![b'x'; sitefs_base::limits::ENTRY_PAYLOAD_MAX].into();
    envelope.body = Op::RemoveXattr { ino: InodeId::ROOT, name };
    let error = cell.group.propose(CommandBody::Op { volume, envelope, credit }).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Limit);
    cell.mkdir(volume, 1).await;
}

#[tokio::test]
async fn with_a_full_disk_mounts_are_refused_and_the_node_serves_on() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(sitefs_base::ManualClock::new(sitefs_base::Time::new(1_000_000, 0)));
    let group = Group::open(config(dir.path()), clock.clone(), Tasks::new()).unwrap();
    disk_has(&group, &*clock, 150 << 20);
    let volume = VolumeId::new(1);
    assert_eq!(group.propose(mkdir(volume, 1)).await.unwrap().reply, Err(Errno::ENOSPC));
    assert!(group.is_disk_short(1).unwrap(), "no room for content either");
    let reply = group.propose(rmdir(volume, 1)).await.unwrap().reply;
    assert_ne!(reply, Err(Errno::ENOSPC), "what frees space goes on");
    group.propose(CommandBody::Noop).await.unwrap().reply.unwrap();
    disk_has(&group, &*clock, 50 << 20);
    assert_eq!(group.propose(rmdir(volume, 1)).await.unwrap().reply, Err(Errno::ENOSPC));
    clock.advance(std::time::Duration::from_secs(2));
    let reply = group.propose(mkdir(volume, 1)).await.unwrap().reply;
    assert_ne!(reply, Err(Errno::ENOSPC), "the disk was looked at again");
}

fn disk_has(group: &Group, clock: &dyn Clock, free: u64) {
    group.inner().reserve.pretend_free(clock.boottime(), free);
}

fn rmdir(volume: VolumeId, number: u64) -> CommandBody {
    let CommandBody::Op { volume, mut envelope, credit } = mkdir(volume, number) else { unreachable!() };
    let Op::Mkdir { at, .. } = envelope.body else { unreachable!() };
    envelope.body = Op::Rmdir { at };
    CommandBody::Op { volume, envelope, credit }
}

#[tokio::test]
async fn with_a_full_disk_a_retry_is_answered_as_before() {
    let cell = Cell::start();
    let volume = cell.volume("acme/live").await;
    let first = cell.reply(mkdir(volume, 1)).await;
    let an_hour_ahead = SystemClock.boottime() + std::time::Duration::from_secs(3600);
    cell.group.inner().reserve.pretend_free(an_hour_ahead, 0);
    assert_eq!(cell.group.propose(mkdir(volume, 2)).await.unwrap().reply, Err(Errno::ENOSPC));
    assert_eq!(cell.reply(mkdir(volume, 1)).await, first);
}

#[tokio::test]
async fn a_storage_failure_ends_the_group_and_says_why() {
    let cell = Cell::start();
    let volume = cell.volume("acme/live").await;
    drop(cell.group.inner().poison.set(sitefs_base::Error::unavailable("fdatasync failed")));
    assert!(cell.group.poisoned().await.contains("fdatasync failed"));
    let error = cell.group.propose(mkdir(volume, 1)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Fenced);
    assert!(cell.group.status().poisoned.is_some());
}

#[tokio::test]
async fn a_lost_state_behind_a_purged_log_is_refused() {
    let cell = Cell::start();
    cell.volume("acme/live").await;
    snapshot_and_purge(&cell.group).await;
    let dir = cell.stop().await;
    fs::remove_dir_all(dir.path().join("state")).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.doing().contains("the log begins after entry"), "{error}");
}

#[tokio::test]
async fn a_lost_log_is_refused_and_does_not_become_an_empty_cell() {
    let cell = Cell::start();
    cell.volume("acme/live").await;
    let lost = cell.crashed_copy();
    fs::remove_dir_all(lost.path().join("log")).unwrap();
    refused_as_damaged(lost.path(), "the log was lost");

    let emptied = cell.crashed_copy();
    fs::write(last_wal(emptied.path()), "").unwrap();
    refused_as_damaged(emptied.path(), "was lost or emptied");

    let removed = cell.crashed_copy();
    fs::remove_file(last_wal(removed.path())).unwrap();
    refused_as_damaged(removed.path(), "was lost or emptied");

    // Without the mark, as a version before it left the directory, and without a state.
    let bare = cell.crashed_copy();
    fs::write(bare.path().join("backend"), "directory\n").unwrap();
    fs::remove_file(bare.path().join("log.mark")).unwrap();
    for name in ["log", "state"] {
        fs::remove_dir_all(bare.path().join(name)).unwrap();
    }
    refused_as_damaged(bare.path(), "the log was lost");
}

#[tokio::test]
async fn a_log_that_ends_before_the_state_is_refused() {
    let cell = Cell::start();
    let volume = cell.volume("acme/live").await;
    let old = cell.crashed_copy();
    cell.mkdir(volume, 1).await;
    cell.group.inner().store.flush().unwrap();
    let newer = cell.crashed_copy();
    fs::remove_dir_all(newer.path().join("log")).unwrap();
    copy_tree(&old.path().join("log"), &newer.path().join("log"));
    refused_as_damaged(newer.path(), "the log ends at");
}

fn refused_as_damaged(dir: &Path, why: &str) {
    for _ in 0..2 {
        let error = open(dir).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{}", error.chain());
        assert!(error.doing().contains(why), "{error}");
    }
}

#[tokio::test]
async fn a_start_that_dies_before_it_made_the_log_can_be_repeated() {
    let dir = tempfile::tempdir().unwrap();
    drop(config(dir.path()).lock().unwrap());
    let cell = Cell::start_in(dir);
    // Killed right after the start, again and again.
    let again = Cell::start_in(cell.crashed_copy());
    Cell::start_in(again.crashed_copy()).volume("acme/live").await;
}

#[tokio::test]
async fn a_damaged_snapshot_is_made_anew() {
    let cell = Cell::start();
    let volume = cell.volume("acme/live").await;
    cell.mkdir(volume, 1).await;
    snapshot_and_purge(&cell.group).await;
    let dir = cell.stop().await;
    let snapshot = || fs::read_dir(dir.path().join("snapshots")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(snapshot().join("state/CURRENT")).unwrap();
    let group = open(dir.path()).unwrap();
    assert_eq!(dirs(&group.reader()), 1);
    assert!(snapshot().join("state/CURRENT").exists());
}

#[tokio::test]
async fn a_damaged_table_of_the_log_is_called_damage() {
    let cell = Cell::start();
    let volume = cell.volume("acme/live").await;
    for number in 0..200 {
        cell.mkdir(volume, number).await;
    }
    // The start after a kill writes what it replayed into tables.
    let cell = Cell::start_in(cell.crashed_copy());
    let dir = cell.stop().await;
    let files = fs::read_dir(dir.path().join("log")).unwrap().map(|entry| entry.unwrap().path());
    let tables = files.filter(|path| path.extension().is_some_and(|end| end == "sst"));
    let table = tables.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&table).unwrap();
    for byte in bytes.iter_mut().take(400) {
        *byte ^= 0x55;
    }
    fs::write(&table, bytes).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{}", error.chain());
}
