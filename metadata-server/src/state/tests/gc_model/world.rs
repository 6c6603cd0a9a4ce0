//! The world of the model: rows, a store, requests on their way to it, clients, a collector.

use super::{
    super::{
        super::{rows::*, *},
        gc::{Seen, look},
        harness::{Cell, SITE, content, digest, extent, inline, root},
    },
    Bounds, Collection, Mistake, Step,
};
use sitefs_base::{Errno, Generation, Incarnation, InodeId, OpId, SessionId, Time, VolumeId, op::*};
use std::{
    collections::BTreeSet,
    hash::{Hash, Hasher},
    sync::{Arc, atomic::Ordering},
};

/// In ticks: how long a blob stays that nothing names, and how long a place may be used.
const GRACE: u8 = 2;
const LEASE: u8 = 1;
const SECOND: i64 = 2_000;
/// A tick is so short that nothing lives until the end of a second: history is not part of the model.
const TICK_NANOS: u32 = 1_000_000;
const SESSION: SessionId = SessionId::new(7);
const VOLUME: VolumeId = VolumeId::new(1);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Client {
    Idle,
    /// The cell said that it has the blob, of this generation.
    Has(Generation),
    /// It uploads.
    Putting(Generation),
    /// The cell has seen the object.
    Proven(Generation),
}

/// What the collector has read, and what of that it has proposed.
#[derive(Clone)]
struct Marked {
    seen: Arc<Seen>,
    condemned: bool,
    begun: bool,
}

#[derive(Clone)]
pub struct World {
    rows: Arc<MemoryView>,
    backup: Option<Arc<MemoryView>>,
    store: BTreeSet<Generation>,
    puts: BTreeSet<Generation>,
    deletes: BTreeSet<Generation>,
    answered: BTreeSet<Generation>,
    /// Objects that the store has lost by itself.
    lost: BTreeSet<Generation>,
    clients: Vec<Client>,
    files: Vec<InodeId>,
    marked: Option<Marked>,
    reader: Option<(Generation, u8)>,
    now: u8,
    left: Bounds,
    op: u64,
    key: Arc<Key>,
}

/// What tells worlds apart: rows without what only counts commands, in terms of ticks.
#[derive(PartialEq, Eq, Hash, Debug, Default)]
struct Key {
    rows: Rows,
    backup: Option<Rows>,
    store: [Vec<Generation>; 5],
    clients: Vec<(Option<Client>, bool)>,
    marked: Option<Plan>,
    reader: Option<(Generation, u8)>,
    now: u8,
    left: [u8; 7],
}

/// Of a mark: its incarnation, what it found, and whether that was proposed.
type Plan = (u32, [Vec<GcBlob>; 2], bool, bool);

#[derive(PartialEq, Eq, Hash, Debug, Default)]
struct Rows {
    drawn: Option<Generation>,
    /// State, generation, verified, named since the mark.
    blob: Option<(u8, Generation, bool, bool)>,
    uploads: Vec<(Generation, u32, bool)>,
    doomed: Vec<(Generation, u32)>,
    condemned: Vec<(Generation, u32)>,
    files: usize,
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.key.fmt(f)
    }
}

fn tick_of(time: Time) -> u32 {
    if time.secs() < SECOND { 0 } else { time.nanos() / TICK_NANOS }
}

fn blob_row(rows: &MemoryView) -> Option<BlobRow> {
    fetch(rows, Family::Blob, &keys::blob(SITE, &digest(1))).unwrap()
}

fn put_blob_row(rows: &mut MemoryView, row: &BlobRow) {
    rows.put(Family::Blob, &keys::blob(SITE, &digest(1)), encode(row).unwrap());
}

/// Which object a generation means.
fn object(generation: Generation, mistake: Mistake) -> Generation {
    match mistake {
        Mistake::KeyWithoutGeneration => Generation { incarnation: Incarnation::new(0), counter: 0 },
        _ => generation,
    }
}

impl World {
    pub fn new(left: Bounds) -> Self {
        let mut cell = Cell::new();
        let files = (0..left.clients).map(|file| cell.file(root(&file.to_string()))).collect();
        let mut world = Self {
            rows: Arc::new(cell.view),
            backup: None,
            store: BTreeSet::new(),
            puts: BTreeSet::new(),
            deletes: BTreeSet::new(),
            answered: BTreeSet::new(),
            lost: BTreeSet::new(),
            clients: vec![Client::Idle; left.clients],
            files,
            marked: None,
            reader: None,
            now: 0,
            left,
            op: 1_000,
            key: Arc::default(),
        };
        world.settle();
        world
    }

    pub fn puts(&self) -> impl Iterator<Item = Generation> {
        self.puts.iter().copied()
    }

    pub fn deletes(&self) -> impl Iterator<Item = Generation> {
        self.deletes.iter().copied()
    }

    pub fn answered(&self) -> impl Iterator<Item = Generation> {
        self.answered.iter().copied()
    }

    /// What the collector may delete now and has not asked for yet.
    pub fn to_delete(&self, mistake: Mistake) -> Vec<Generation> {
        let over = self.grace_over(mistake);
        let due = |doomed: &Doomed| doomed.had_grace || over.is_some_and(|over| doomed.since <= over);
        let doomed = doomed(&*self.rows, SITE, None, 100).unwrap();
        let mut found: Vec<_> = doomed
            .iter()
            .filter(|doomed| due(doomed) && self.backups_allow(doomed.object.generation, mistake))
            .map(|doomed| object(doomed.object.generation, mistake))
            .collect();
        if mistake == Mistake::DeleteBeforeCommitted
            && let Some(marked) = &self.marked
        {
            found.extend(marked.seen.condemned().iter().map(|blob| blob.generation));
        }
        found.retain(|generation| !self.deletes.contains(generation));
        found
    }

    /// A restored backup must not bring back what names a deleted object, nor what may name it again.
    fn backups_allow(&self, generation: Generation, mistake: Mistake) -> bool {
        let Some(backup) = self.backup.as_ref().filter(|_| mistake != Mistake::DeleteInBackup) else {
            return true;
        };
        // With a new incarnation the restored cell will never name what was drawn after its backup.
        let unknown = drawn(&**backup).unwrap().is_some_and(|last| generation > last);
        let given_up = backup.get(Family::Blob, &keys::doomed(SITE, generation)).unwrap().is_some();
        let condemned = blob_row(backup)
            .is_some_and(|row| row.generation == generation && row.state == BlobState::Condemned);
        unknown || given_up || (condemned && mistake == Mistake::DeleteCondemnedInBackup)
    }

    /// The last moment whose grace is over.
    fn grace_over(&self, mistake: Mistake) -> Option<Time> {
        let grace = if mistake == Mistake::NoGrace { 0 } else { GRACE };
        let tick = self.now.checked_sub(grace)?;
        Some(Time::new(SECOND, u32::from(tick) * TICK_NANOS + TICK_NANOS - 1))
    }

    fn command(&mut self, body: CommandBody) -> Result<Reply, Errno> {
        let at = Time::new(SECOND, u32::from(self.now) * TICK_NANOS);
        let rows: &mut MemoryView = Arc::make_mut(&mut self.rows);
        apply(rows, &Command { at, body }).unwrap().reply
    }

    fn op(&mut self, body: Op) -> Result<Outcome, Errno> {
        self.op += 1;
        let op = OpId::new(self.op);
        let envelope = OpEnvelope { session: SESSION, op, ack_below: op, body };
        match self.command(CommandBody::Op { volume: VOLUME, envelope, credit: Credit::NONE })? {
            Reply::Op(outcome) => Ok(*outcome),
            other => panic!("{other:?}"),
        }
    }

    fn gc(&mut self, step: GcStep) -> Option<()> {
        match self.command(CommandBody::Gc(step)) {
            Ok(Reply::Gc(done)) if done.blobs > 0 => Some(()),
            _ => None,
        }
    }

    fn is_named(&self, client: usize) -> bool {
        let row: Option<InodeRow> =
            fetch(&*self.rows, Family::Inode, &keys::inode(VOLUME, self.files[client])).unwrap();
        row.is_some_and(|row| !row.extents().is_empty())
    }

    pub fn step(&mut self, step: Step, model: &Collection) -> Option<()> {
        let mistake = model.mistake;
        match step {
            Step::Want(client) => self.want(client, mistake),
            Step::Prove(client) => self.prove(client, mistake),
            Step::Commit(client) => self.commit(client, model),
            Step::Remove(client) => self.remove(client),
            Step::Crash(client) => {
                self.left.crashes = self.left.crashes.checked_sub(1)?;
                let was = std::mem::replace(&mut self.clients[client], Client::Idle);
                (was != Client::Idle).then_some(())
            }
            Step::LandPut(key) => {
                if self.rows_know(key, mistake) {
                    self.lost.remove(&key);
                } else if !self.store.contains(&key) {
                    model.reached.orphaned.fetch_add(1, Ordering::Relaxed);
                }
                self.store.insert(key).then_some(())
            }
            Step::Mark => self.mark(),
            Step::Condemn => self.condemn(mistake),
            Step::BeginDelete => self.begin_delete(mistake),
            Step::Issue(key) => self.deletes.insert(key).then_some(()),
            Step::LandDelete(key) => {
                let removed = self.store.remove(&key);
                (self.answered.insert(key) || removed).then_some(())
            }
            Step::Deleted(key) => self.deleted(key, mistake),
            Step::Expire => self.expire(),
            Step::Resolve => self.resolve(),
            Step::Damage => self.damage(mistake),
            Step::Backup => {
                self.left.backups = self.left.backups.checked_sub(1)?;
                self.backup = Some(self.rows.clone());
                Some(())
            }
            Step::Restore => self.restore(model),
            Step::Tick => {
                self.left.ticks = self.left.ticks.checked_sub(1)?;
                self.now += 1;
                self.reader = self.reader.filter(|(_, since)| self.now <= since + LEASE);
                Some(())
            }
        }
    }

    fn rows_know(&self, key: Generation, mistake: Mistake) -> bool {
        let known = |generation: Generation| object(generation, mistake) == key;
        blob_row(&self.rows).is_some_and(|row| known(row.generation))
            || self.clients.iter().any(|client| matches!(client, Client::Putting(of) if known(*of)))
    }

    fn want(&mut self, client: usize, mistake: Mistake) -> Option<()> {
        if self.clients[client] != Client::Idle {
            return None;
        }
        self.left.grants = self.left.grants.checked_sub(1)?;
        if mistake == Mistake::HaveWhileUploading
            && let Some((key, _)) =
                self.rows.scan(Family::Blob, &keys::uploads(SITE), &keys::uploads(SITE), 1).unwrap().first()
        {
            self.clients[client] = Client::Proven(keys::generation_of(key).unwrap());
            return Some(());
        }
        let blobs = vec![BlobWanted { digest: digest(1), len: 600 }];
        let Extra::Grants(grants) = self.op(Op::Grant { blobs }).unwrap().extra else { panic!() };
        self.clients[client] = match grants[0] {
            Grant::Have => Client::Has(blob_row(&self.rows)?.generation),
            Grant::Upload { generation, .. } => {
                self.puts.insert(object(generation, mistake));
                Client::Putting(generation)
            }
        };
        Some(())
    }

    /// The leader looks for the object and hashes it.
    fn prove(&mut self, client: usize, mistake: Mistake) -> Option<()> {
        let Client::Putting(generation) = self.clients[client] else { return None };
        let is_there = self.store.contains(&object(generation, mistake));
        if !is_there && mistake != Mistake::TrustTimedOutPut {
            return None;
        }
        self.command(CommandBody::Verified { site: SITE, digest: digest(1), generation }).unwrap();
        self.clients[client] = Client::Proven(generation);
        Some(())
    }

    fn commit(&mut self, client: usize, model: &Collection) -> Option<()> {
        let uploaded = match self.clients[client] {
            Client::Has(_) => vec![],
            Client::Proven(generation) => vec![Uploaded { digest: digest(1), generation }],
            Client::Idle | Client::Putting(_) => return None,
        };
        self.left.commits = self.left.commits.checked_sub(1)?;
        let before = blob_row(&self.rows);
        self.tamper(client, model.mistake);
        let changed = vec![ChunkLayout { chunk: 0, extents: vec![extent(0, 600, 1)] }];
        let new = NewContent::Chunks { size: 600, changed };
        let commit = Commit { uploaded, ..content(self.files[client], new) };
        let committed = self.op(Op::Commit(commit));
        self.clients[client] = Client::Idle;
        let count = match (&committed, before.map(|row| row.state)) {
            (Err(_), _) => &model.reached.refused,
            (Ok(_), Some(BlobState::Condemned)) => &model.reached.revived,
            (Ok(_), Some(BlobState::Damaged)) => &model.reached.replaced,
            (Ok(_), _) if !self.answered.is_empty() => &model.reached.again,
            (Ok(_), _) => return Some(()),
        };
        count.fetch_add(1, Ordering::Relaxed);
        Some(())
    }

    /// What a wrong check at the commit would let through.
    fn tamper(&mut self, client: usize, mistake: Mistake) {
        let row = blob_row(&self.rows);
        match (mistake, self.clients[client]) {
            (Mistake::NoRecheckAtCommit, Client::Has(generation)) => {
                let known = BlobRow {
                    rest: digest(1).rest(),
                    state: BlobState::Present,
                    generation,
                    len: 600,
                    loc: Loc::Object,
                    verified: true,
                    last_ref: mark_of(&*self.rows).unwrap().unwrap(),
                    vols: vec![VOLUME],
                    tail: false,
                };
                put_blob_row(Arc::make_mut(&mut self.rows), &known);
            }
            (Mistake::UndeleteFromDeleting, _) => {
                if let Some(row) = row.filter(|row| row.state == BlobState::Deleting) {
                    let row = BlobRow { state: BlobState::Present, ..row };
                    put_blob_row(Arc::make_mut(&mut self.rows), &row);
                }
            }
            _ => {}
        }
    }

    fn remove(&mut self, client: usize) -> Option<()> {
        if !self.is_named(client) {
            return None;
        }
        self.op(Op::Commit(content(self.files[client], inline("")))).unwrap();
        Some(())
    }

    fn mark(&mut self) -> Option<()> {
        let seen = Arc::new(look(&self.rows, SITE));
        let found = seen.unnamed().len() + seen.condemned().len();
        self.marked = Some(Marked { seen, condemned: false, begun: false });
        (found > 0).then_some(())
    }

    fn condemn(&mut self, mistake: Mistake) -> Option<()> {
        let marked = self.marked.as_mut().filter(|marked| !marked.condemned)?;
        marked.condemned = true;
        let (mut mark, blobs) = (marked.seen.mark, marked.seen.unnamed());
        if mistake == Mistake::CondemnWithoutLastRef {
            mark = mark_of(&*self.rows).unwrap().unwrap();
        }
        self.gc(GcStep::Condemn { site: SITE, mark, blobs })
    }

    fn begin_delete(&mut self, mistake: Mistake) -> Option<()> {
        let before = self.grace_over(mistake)?;
        let marked = self.marked.as_mut().filter(|marked| !marked.begun)?;
        marked.begun = true;
        let (mark, blobs) = (marked.seen.mark, marked.seen.condemned());
        self.gc(GcStep::BeginDelete { site: SITE, mark, before, blobs })
    }

    fn deleted(&mut self, key: Generation, mistake: Mistake) -> Option<()> {
        let doomed = doomed(&*self.rows, SITE, None, 100).unwrap();
        let known = |doomed: &&Doomed| object(doomed.object.generation, mistake) == key;
        let objects = vec![doomed.iter().find(known)?.object];
        self.command(CommandBody::Gc(GcStep::Deleted { site: SITE, objects })).unwrap();
        Some(())
    }

    fn expire(&mut self) -> Option<()> {
        let before = Time::new(SECOND, u32::from(self.now) * TICK_NANOS);
        self.gc(GcStep::ExpireUploads { site: SITE, before })
    }

    fn resolve(&mut self) -> Option<()> {
        if self.reader.is_some() || !(0..self.files.len()).any(|file| self.is_named(file)) {
            return None;
        }
        self.left.reads = self.left.reads.checked_sub(1)?;
        let place = locate(&*self.rows, VOLUME, &[digest(1)]).unwrap()[0]?;
        self.reader = Some((place.generation, self.now));
        Some(())
    }

    fn damage(&mut self, mistake: Mistake) -> Option<()> {
        self.left.damages = self.left.damages.checked_sub(1)?;
        let generation = blob_row(&self.rows)?.generation;
        let key = object(generation, mistake);
        if !self.store.remove(&key) {
            return None;
        }
        self.lost.insert(key);
        self.command(CommandBody::Damaged { site: SITE, digest: digest(1), generation }).unwrap();
        Some(())
    }

    fn restore(&mut self, model: &Collection) -> Option<()> {
        self.rows = self.backup.take()?;
        if model.mistake != Mistake::RepeatedGeneration {
            let group: GroupRow = fetch(&*self.rows, Family::Meta, keys::GROUP).unwrap()?;
            let incarnation = Incarnation::new(group.incarnation.get() + 1);
            let group = encode(&GroupRow { incarnation, ..group }).unwrap();
            Arc::make_mut(&mut self.rows).put(Family::Meta, keys::GROUP, group);
        }
        self.reader = None;
        model.reached.restored.fetch_add(1, Ordering::Relaxed);
        Some(())
    }

    pub fn names_what_is_there(&self, mistake: Mistake) -> bool {
        let Some(row) =
            blob_row(&self.rows).filter(|_| (0..self.files.len()).any(|file| self.is_named(file)))
        else {
            return (0..self.files.len()).all(|file| !self.is_named(file));
        };
        matches!(row.state, BlobState::Present | BlobState::Damaged) && self.has(row.generation, mistake)
    }

    pub fn reads_what_is_there(&self, mistake: Mistake) -> bool {
        self.reader.is_none_or(|(generation, _)| self.has(generation, mistake))
    }

    fn has(&self, generation: Generation, mistake: Mistake) -> bool {
        let key = object(generation, mistake);
        self.store.contains(&key) || self.lost.contains(&key)
    }

    /// Works out what this world is, for comparison.
    pub fn settle(&mut self) {
        let mark = self.marked.as_ref().map(|marked| marked.seen.mark);
        let list = |set: &BTreeSet<Generation>| set.iter().copied().collect();
        let mut clients: Vec<_> = self
            .clients
            .iter()
            .enumerate()
            .map(|(number, client)| (Some(*client), self.is_named(number)))
            .collect();
        clients.sort_unstable();
        let Bounds { clients: _, grants, commits, ticks, crashes, damages, backups, reads } = self.left;
        self.key = Arc::new(Key {
            rows: project(&self.rows, mark),
            backup: self.backup.as_ref().map(|rows| project(rows, mark)),
            store: [&self.store, &self.puts, &self.deletes, &self.answered, &self.lost].map(list),
            clients,
            marked: self.marked.as_ref().map(|marked| {
                let Marked { seen, condemned, begun } = marked;
                (seen.mark.incarnation.get(), [seen.unnamed(), seen.condemned()], *condemned, *begun)
            }),
            reader: self.reader,
            now: self.now,
            left: [grants, commits, ticks, crashes, damages, backups, reads],
        });
    }
}

fn project(rows: &MemoryView, mark: Option<Mark>) -> Rows {
    let mut found = Rows { drawn: drawn(rows).unwrap(), ..Rows::default() };
    for (key, value) in rows.rows(Family::Blob) {
        match key[8] {
            b'B' => {
                let row: BlobRow = decode(Family::Blob, &key, &value).unwrap();
                let since = mark.is_some_and(|mark| row.last_ref > mark);
                found.blob = Some((row.state as u8, row.generation, row.verified, since));
            }
            b'U' => {
                let row: UploadRow = decode(Family::Blob, &key, &value).unwrap();
                let generation = keys::generation_of(&key).unwrap();
                found.uploads.push((generation, tick_of(row.granted_at), row.verified));
            }
            _ => {
                let row: DoomedRow = decode(Family::Blob, &key, &value).unwrap();
                found.doomed.push((keys::generation_of(&key).unwrap(), tick_of(row.since)));
            }
        }
    }
    for (key, value) in rows.scan(Family::Meta, keys::CONDEMNED, keys::CONDEMNED, 100).unwrap() {
        let row: CondemnedRow = decode(Family::Meta, &key, &value).unwrap();
        let generation = keys::part(&key, keys::CONDEMNED.len() + 8).map(Generation::from_key).unwrap();
        found.condemned.push((generation, tick_of(row.since)));
    }
    let names =
        |(key, value): &Row| !decode::<InodeRow>(Family::Inode, key, value).unwrap().extents().is_empty();
    found.files = rows.rows(Family::Inode).iter().filter(|row| names(row)).count();
    found
}
