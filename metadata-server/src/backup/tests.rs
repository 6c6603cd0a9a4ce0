//! Backups of a group, what they survive, and what becomes of them.

use super::{
    keep::prune,
    names::{self, Names, all},
    restore::{RestoreFrom, Restored, restore},
    schedule::{Backups, Means},
};
use crate::{
    raft::{Group, GroupConfig},
    state::{self, CommandBody, Reply, VolumeLimits},
};
use sitefs_base::{
    BackupInfo, BackupTo, CellChange, Clock, Digest, Errno, GroupId, Incarnation, Kind, ManualClock, Name,
    NodeId, OpId, Result, SessionId, SystemClock, Tasks, Time, VolumeId,
    op::{Create, Credit, Op, OpEnvelope, Place},
};
use sitefs_blobstore::{Backend, BoxFuture, DirBackend, Listed, ObjectKey, Vault, hash};
use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tempfile::TempDir;

const SESSION: SessionId = SessionId::new(5);
const WHERE: NodeId = NodeId::new(1);

struct Cell {
    group: Group,
    backups: Backups,
    clock: Arc<ManualClock>,
    vault: DirBackend,
    dir: TempDir,
    next: u64,
}

fn open(data: &Path) -> Result<Group> {
    let group = GroupId::new(1);
    let config = GroupConfig { dir: data.to_owned(), node: WHERE, cell: "test".into(), group, peers: None };
    Group::open(config, Arc::new(SystemClock), Tasks::new())
}

impl Cell {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_in(dir).await
    }

    async fn start_in(dir: TempDir) -> Self {
        let data = dir.path().join("data");
        let group = tokio::task::spawn_blocking(move || open(&data).unwrap()).await.unwrap();
        let clock = Arc::new(ManualClock::new(SystemClock.now()));
        let blobs = Arc::new(DirBackend::open(dir.path().join("data/blobs")).unwrap());
        let backups = Backups::new(Means {
            group: group.clone(),
            node: WHERE,
            clock: clock.clone(),
            backend: "directory\n".to_owned(),
            blobs,
            bucket: None,
        });
        let vault = DirBackend::open(dir.path().join("vault")).unwrap();
        Self { group, backups, clock, vault, dir, next: 1 }
    }

    async fn reply(&self, body: CommandBody) -> Result<Reply, Errno> {
        self.group.propose(body).await.unwrap().reply
    }

    async fn volume(&self) -> VolumeId {
        let limits = VolumeLimits { bytes: 1 << 40, inodes: 1 << 30 };
        let name = "acme/live".parse().unwrap();
        let body = CommandBody::CreateVolume { name, limits, uid: 0, gid: 0, mode: 0o755 };
        let Ok(Reply::Volume(volume)) = self.reply(body).await else { panic!("no volume") };
        self.reply(CommandBody::OpenSession { volume, session: SESSION, at: None }).await.unwrap();
        volume
    }

    async fn mkdir(&mut self, name: &str) -> Result<Reply, Errno> {
        let at = Place { parent: sitefs_base::InodeId::ROOT, name: Name::new(name.as_bytes()).unwrap() };
        let create = Create { mode: 0o755, umask: 0, uid: 0, gid: 0 };
        let op = OpId::new(self.next);
        self.next += 1;
        let body = Op::Mkdir { at, create };
        let envelope = OpEnvelope { session: SESSION, op, ack_below: op, body };
        self.reply(CommandBody::Op { volume: VolumeId::new(1), envelope, credit: Credit::NONE }).await
    }

    async fn back_up(&self) -> BackupInfo {
        self.backups.make(Some(&self.dir.path().join("vault"))).await.unwrap()
    }

    fn names(&self) -> Names {
        Names::new("test", GroupId::new(1))
    }

    async fn files(&self, prefix: String) -> Vec<String> {
        all(&self.vault, &prefix).await.unwrap().into_iter().map(|file| file.key).collect()
    }

    async fn restore(&self, to: &str) -> Result<Restored> {
        restore(&self.vault, &RestoreFrom::default(), Some(&self.dir.path().join(to))).await
    }

    async fn reopen(&self, data: &str) -> Group {
        let data = self.dir.path().join(data);
        // What a group ran in the background before lets go of the directory in its own time.
        for _ in 0..100 {
            let data = data.clone();
            if let Ok(group) = tokio::task::spawn_blocking(move || open(&data)).await.unwrap() {
                return group;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::task::spawn_blocking(move || open(&data).unwrap()).await.unwrap()
    }
}

fn seq(group: &Group) -> u64 {
    state::volume_info(&group.reader(), VolumeId::new(1)).unwrap().unwrap().seq.get()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_group_has_the_rows_a_higher_incarnation_and_no_old_session() {
    let mut cell = Cell::start().await;
    let volume = cell.volume().await;
    cell.mkdir("before").await.unwrap();
    let applied = cell.group.status().applied;
    let made = cell.back_up().await;
    assert!(made.index >= applied);
    cell.mkdir("after").await.unwrap();
    let old = cell.group.info();
    let restored = cell.restore("new").await.unwrap();
    let group = cell.reopen("new").await;
    assert_eq!(restored.incarnation, Some(group.info().incarnation.get()));
    assert!(group.info().incarnation > old.incarnation);
    assert!(group.status().applied > made.index, "the log goes on behind the backup");
    assert!(seq(&group) > seq(&cell.group), "no seq is given twice");
    let lookup = |group: &Group, name: &str| {
        let at = Place { parent: sitefs_base::InodeId::ROOT, name: Name::new(name.as_bytes()).unwrap() };
        let answer = state::query(&group.reader(), volume, &sitefs_base::op::Query::Lookup { at });
        match answer.unwrap().unwrap().body {
            sitefs_base::op::AnswerBody::Inode(inode) => inode.is_some(),
            other => panic!("{other:?}"),
        }
    };
    assert!(lookup(&group, "before") && !lookup(&group, "after"));
    let resume = CommandBody::ResumeSession { volume, session: SESSION };
    assert_eq!(group.propose(resume).await.unwrap().reply, Err(Errno::ESTALE));
    let since = state::events_since(&group.reader(), volume, sitefs_base::Seq::new(1), 9).unwrap();
    assert_eq!(since, None, "no watcher of before is up to date");
    let twice = cell.restore("twice").await.unwrap();
    assert!(twice.incarnation > restored.incarnation, "two lives from one backup differ");
    group.shutdown().await.unwrap();
    drop(group);
    let again = cell.reopen("new").await;
    assert!(lookup(&again, "before"));
    again.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_last_backup_sent_is_not_sent_again() {
    let mut cell = Cell::start().await;
    cell.volume().await;
    for number in 0..50 {
        cell.mkdir(&format!("dir-{number}")).await.unwrap();
    }
    cell.back_up().await;
    let first = cell.files(cell.names().parts()).await;
    cell.clock.advance(Duration::from_secs(1));
    let second = cell.back_up().await;
    let new: Vec<String> = cell.files(cell.names().parts()).await;
    let new: Vec<&String> = new.iter().filter(|name| !first.contains(name)).collect();
    assert!(new.len() < first.len(), "{new:?} beside {first:?}");
    assert!(new.iter().all(|name| name.ends_with(&second.id)));
    assert_eq!(cell.backups.list(Some(&cell.dir.path().join("vault"))).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_backups_go_and_nothing_goes_that_a_kept_one_names() {
    let mut cell = Cell::start().await;
    cell.volume().await;
    let keep = CellChange { backup_keep_secs: Some(3600), ..CellChange::default() };
    cell.reply(CommandBody::SetCell { change: keep }).await.unwrap();
    let mut made = Vec::new();
    for number in 0..4 {
        cell.mkdir(&format!("dir-{number}")).await.unwrap();
        made.push(cell.back_up().await);
        cell.clock.advance(Duration::from_secs(1500));
    }
    let vault = cell.dir.path().join("vault");
    let left = cell.backups.list(Some(&vault)).await.unwrap();
    assert_eq!(left, made[1..], "the first is 4,500 s old");
    let oldest = state::oldest_backup(&cell.group.reader(), cell.clock.now()).unwrap().unwrap();
    assert_eq!(oldest.secs(), made[1].at.secs());
    for info in &left {
        let from = RestoreFrom { cell: None, id: Some(info.id.clone()) };
        restore(&cell.vault, &from, None).await.unwrap();
    }
    cell.clock.advance(Duration::from_secs(100_000));
    let last = cell.back_up().await;
    assert_eq!(cell.backups.list(Some(&vault)).await.unwrap(), [last], "the newest stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_backup_leaves_nothing_that_counts_and_another_node_that_is_busy_keeps_all_parts() {
    let mut cell = Cell::start().await;
    cell.volume().await;
    let first = cell.back_up().await;
    let names = cell.names();
    let orphan = names.part(&hash(b"x"), "20200101T000000Z-1-1-00000000");
    Vault::put(&cell.vault, &orphan, &hash(b"x"), bytes::Bytes::from_static(b"x")).await.unwrap();
    let busy = names.pending(NodeId::new(2), &first.id);
    Vault::put(&cell.vault, &busy, &hash(b""), bytes::Bytes::new()).await.unwrap();
    cell.mkdir("more").await.unwrap();
    cell.clock.advance(Duration::from_secs(1));
    cell.back_up().await;
    assert!(cell.files(names.parts()).await.contains(&orphan), "node 2 may count on it");
    cell.clock.advance(Duration::from_secs(25 * 3600));
    cell.back_up().await;
    assert!(!cell.files(names.parts()).await.contains(&orphan));
    assert_eq!(cell.files(names.pendings()).await, Vec::<String>::new());
}

/// A vault into which another node puts files when this one does something for the first time.
#[derive(Debug)]
struct Shared {
    vault: DirBackend,
    when: String,
    files: Mutex<Vec<String>>,
}

impl Shared {
    async fn did(&self, what: &str) -> Result<()> {
        if !what.starts_with(&self.when) {
            return Ok(());
        }
        let files = std::mem::take(&mut *self.files.lock().unwrap());
        for name in files {
            Vault::put(&self.vault, &name, &hash(b"x"), bytes::Bytes::from_static(b"x")).await?;
        }
        Ok(())
    }
}

impl Vault for Shared {
    fn put<'a>(
        &'a self,
        name: &'a str,
        digest: &'a Digest,
        bytes: bytes::Bytes,
    ) -> BoxFuture<'a, Result<()>> {
        Vault::put(&self.vault, name, digest, bytes)
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bytes::Bytes>> {
        Box::pin(async move {
            let found = Vault::get(&self.vault, name).await;
            self.did(&format!("get {name}")).await?;
            found
        })
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<()>> {
        Vault::remove(&self.vault, name)
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Listed>>> {
        Box::pin(async move {
            let found = Vault::list(&self.vault, prefix, after, limit).await;
            self.did(&format!("list {prefix}")).await?;
            found
        })
    }

    fn place(&self) -> String {
        self.vault.place()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_another_node_that_begins_while_old_ones_go_keeps_its_parts() {
    let cell = Cell::start().await;
    cell.volume().await;
    let first = cell.back_up().await;
    let (names, now) = (cell.names(), cell.clock.now());
    let orphan = names.part(&hash(b"x"), "20200101T000000Z-1-1-00000000");
    Vault::put(&cell.vault, &orphan, &hash(b"x"), bytes::Bytes::from_static(b"x")).await.unwrap();
    let id = names::id(Time::new(now.secs() + 1, 0), Incarnation::new(1), 9, 9);
    let (part, pending) = (names.part(&hash(b"x"), &id), names.pending(NodeId::new(2), &id));
    for (when, files) in [
        (format!("list {}", names.pendings()), vec![pending.clone(), part.clone()]),
        (format!("get {}", names.manifest(&first.id)), vec![part.clone(), names.manifest(&id)]),
    ] {
        let vault = Shared { vault: cell.vault.clone(), when: when.clone(), files: Mutex::new(files) };
        prune(&vault, &names, (Time::default(), now)).await.unwrap();
        assert!(vault.files.lock().unwrap().is_empty(), "nothing happened: {when}");
        assert!(cell.files(names.parts()).await.contains(&part), "{when}");
        for name in [&part, &pending, &names.manifest(&id)] {
            Vault::remove(&cell.vault, name).await.unwrap();
        }
    }
    prune(&cell.vault, &names, (Time::default(), now)).await.unwrap();
    assert!(!cell.files(names.parts()).await.contains(&orphan));
    restore(&cell.vault, &RestoreFrom::default(), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_or_missing_file_is_refused_by_name_and_the_restore_goes_on_when_it_is_back() {
    let cell = Cell::start().await;
    cell.volume().await;
    cell.back_up().await;
    let parts = cell.files(cell.names().parts()).await;
    for (number, part) in parts.iter().enumerate() {
        // Files that came whole into a directory are not fetched into it again.
        let new = format!("new-{number}");
        let path = cell.dir.path().join("vault").join(part);
        let whole = fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 1;
        fs::write(&path, damaged).unwrap();
        let error = cell.restore(&new).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.chain().contains(part), "{error:?}");
        fs::remove_file(&path).unwrap();
        let error = cell.restore(&new).await.unwrap_err();
        assert!(error.kind() == Kind::Corrupt && error.chain().contains(part), "{error:?}");
        assert!(open(&cell.dir.path().join(&new)).is_err(), "half a directory is no cell");
        fs::write(&path, whole).unwrap();
    }
    cell.restore("new-0").await.unwrap();
    assert_eq!(cell.restore("new-0").await.unwrap_err().kind(), Kind::AlreadyExists);
    cell.reopen("new-0").await.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_of_a_data_directory_are_in_the_backup() {
    let cell = Cell::start().await;
    cell.volume().await;
    let blobs = DirBackend::open(cell.dir.path().join("data/blobs")).unwrap();
    let generation = sitefs_base::Generation { incarnation: cell.group.info().incarnation, counter: 9 };
    let key = ObjectKey { site: sitefs_base::SiteId::new(1), digest: hash(b"blob"), generation };
    Backend::put(&blobs, &key, bytes::Bytes::from_static(b"blob")).await.unwrap();
    cell.back_up().await;
    cell.restore("new").await.unwrap();
    let restored = DirBackend::open(cell.dir.path().join("new/blobs")).unwrap();
    assert_eq!(Backend::get(&restored, &key).await.unwrap(), "blob");
    let copy = cell.files(cell.names().objects()).await.pop().unwrap();
    fs::write(cell.dir.path().join("vault").join(&copy), "blub").unwrap();
    let error = cell.restore("other").await.unwrap_err();
    assert!(error.kind() == Kind::Corrupt && error.chain().contains(&copy), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_cell_makes_no_backup_by_itself_until_it_is_told_where_and_leaves_marks_of_others() {
    let cell = Cell::start().await;
    cell.volume().await;
    let vault = cell.dir.path().join("vault");
    let to = Some(BackupTo::Directory(vault.display().to_string()));
    let set = CommandBody::SetCell { change: CellChange { backup_to: to, ..CellChange::default() } };
    cell.reply(set.clone()).await.unwrap();
    cell.backups.make_due().await.unwrap();
    cell.restore("new").await.unwrap();
    let group = cell.reopen("new").await;
    let nothing = CommandBody::SetCell { change: CellChange::default() };
    group.propose(nothing).await.unwrap().reply.unwrap();
    let names = cell.names();
    let pending = |incarnation, random| {
        let id = names::id(cell.clock.now(), incarnation, 1, random);
        names.pending(WHERE, &id)
    };
    let (old, new) = (cell.group.info().incarnation, group.info().incarnation);
    let (running, left) = (pending(old, 1), pending(new, 2));
    for mark in [&running, &left] {
        Vault::put(&cell.vault, mark, &hash(b""), bytes::Bytes::new()).await.unwrap();
    }
    let backups = Backups::new(Means {
        group: group.clone(),
        node: WHERE,
        clock: cell.clock.clone(),
        backend: "directory\n".to_owned(),
        blobs: Arc::new(DirBackend::open(cell.dir.path().join("new/blobs")).unwrap()),
        bucket: None,
    });
    cell.clock.advance(Duration::from_secs(4000));
    for error in [backups.make_due().await.unwrap_err(), backups.make(None).await.unwrap_err()] {
        assert_eq!(error.kind(), Kind::Conflict);
        assert!(error.chain().contains(&format!("--backup-to {}`", vault.display())), "{error:?}");
    }
    assert_eq!(backups.list(None).await.unwrap().len(), 1, "those of the life before");
    group.propose(set).await.unwrap().reply.unwrap();
    backups.make_due().await.unwrap();
    assert_eq!(backups.list(None).await.unwrap().len(), 2);
    assert_eq!(cell.files(names.pendings()).await, [running], "the life before is busy");
    drop(backups);
    group.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backups_are_made_by_themselves_only_where_they_outlive_the_cell() {
    let cell = Cell::start().await;
    cell.volume().await;
    cell.backups.make_due().await.unwrap();
    assert_eq!(cell.backups.make(None).await.unwrap_err().kind(), Kind::Invalid);
    let vault = cell.dir.path().join("vault");
    let to = Some(BackupTo::Directory(vault.display().to_string()));
    cell.reply(CommandBody::SetCell { change: CellChange { backup_to: to, ..CellChange::default() } })
        .await
        .unwrap();
    let count = async || cell.backups.list(None).await.unwrap().len();
    assert_eq!(count().await, 0);
    for (wait, there) in [(0, 1), (3000, 1), (600, 2)] {
        cell.clock.advance(Duration::from_secs(wait));
        cell.backups.make_due().await.unwrap();
        assert_eq!(count().await, there, "{wait} s later");
    }
}
