//! Random histories, executed by the model and by `state`.
//!
//! Each run says its first seed and how many histories there are; `SITEFS_SEED=N SITEFS_HISTORIES=M cargo
//! test -p sitefs-metadata` runs those again, here and through the store (`store/tests/crashes.rs`). A
//! history that fails is made shorter, and says its own seed.

use super::{
    leader::Plan,
    model::{self, Model, VOLUMES, Volume},
    reach,
    steps::{
        At, Clock, Committing, Doing, Expect, History, Promised, Step, Target, Upload, Writing, furniture,
        history,
    },
    tree::{ACCESS, DEFAULT, Node},
};
use crate::state::{Command, MemoryView, VolumeLimits, tests::slices::Slices};
use bytes::Bytes;
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner},
};
use sitefs_base::{
    Digest, Errno, Extent, FileKind, Generation, InodeId, Moment, Name, Seq, SessionId, SnapshotName, Time,
    VolumeAccess, VolumeChange, VolumeId,
    limits::CHUNK_SIZE,
    op::{
        BlobWanted, ChunkLayout, Commit, Create, Credit, Extra, Grant, NewContent, Op, OpEnvelope, Place,
        Publish, Uploaded,
    },
};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    io::Write,
    time::Duration,
};

/// Which of the two volumes each session has.
const SESSIONS: [usize; 3] = [0, 0, 1];
/// Which session a number means: the second volume has less to do.
const TURNS: [usize; 8] = [0, 0, 0, 0, 1, 1, 1, 2];
/// The blobs of a history; one is as long as a chunk, one is longer than bytes in a commit may be.
const BLOB_LENS: [u32; 6] = [100, 600, 4096, 1 << 22, 70_000, 513];

/// A mount as the cell sees it.
#[derive(Default)]
struct Client {
    next_op: u64,
    ack_below: u64,
    sent: Vec<OpEnvelope>,
    numbers: Vec<InodeId>,
    grants: BTreeMap<Digest, Generation>,
    open: bool,
    /// Whether it has sent something since it was closed.
    refused: bool,
}

/// A history in progress.
pub struct Run {
    pub model: Model,
    clients: Vec<Client>,
    /// The two volumes; the second one may be deleted and made anew.
    pub(super) volumes: [VolumeId; 2],
    pub(super) limits: VolumeLimits,
    /// Extents that the leader has read and will join: of which volume and file.
    pub(super) slow: Vec<Plan>,
    /// What the leader has promised for the operations that come next.
    promised: Credit,
    _slices: Slices,
}

pub fn digest(blob: u8) -> Digest {
    Digest::new([blob + 1; 64])
}

fn len(blob: u8) -> u32 {
    BLOB_LENS[blob as usize % BLOB_LENS.len()]
}

fn extent(chunk: u8, number: u8, blob: u8) -> Extent {
    let offset = u64::from(chunk) * CHUNK_SIZE + u64::from(number) * 60;
    Extent { offset, len: 50 - u32::from(number), digest: digest(blob), blob_offset: u32::from(number) * 7 }
}

impl Run {
    pub fn new(history: &History) -> Self {
        let limits = VolumeLimits { bytes: history.bytes, inodes: history.inodes };
        let (model, clients, slow) = (Model::new(limits), Vec::new(), Vec::new());
        let _slices = Slices::of(history.slice);
        let mut run =
            Self { model, clients, volumes: VOLUMES, limits, slow, promised: Credit::NONE, _slices };
        for who in 0..SESSIONS.len() {
            run.clients.push(Client { next_op: 1, ..Client::default() });
            run.open(who);
        }
        if history.furnished {
            furniture().iter().for_each(|doing| run.start(0, doing));
        }
        run
    }

    pub fn all(history: &History) -> Self {
        let mut run = Self::new(history);
        for step in &history.steps {
            run.take(step);
        }
        run.model.reap_all();
        run.model.check_past();
        run
    }

    fn session(who: usize) -> SessionId {
        SessionId::new(who as u128 + 7)
    }

    /// The volume of a session.
    fn of(&self, who: usize) -> VolumeId {
        self.volumes[SESSIONS[who]]
    }

    fn open(&mut self, who: usize) {
        self.clients[who].numbers.clear();
        self.model.open(self.of(who), Self::session(who));
        self.look();
    }

    /// Mounts see whether the cell still knows them.
    pub(super) fn look(&mut self) {
        for who in 0..self.clients.len() {
            self.clients[who].open = self.model.knows(self.of(who), Self::session(who));
        }
    }

    pub fn take(&mut self, step: &Step) {
        let volumes = self.volumes;
        let volume = |who: &u8| volumes[SESSIONS[TURNS[usize::from(*who) % TURNS.len()]]];
        let session = |who: &u8| TURNS[usize::from(*who) % TURNS.len()];
        match step {
            Step::Do(who, doing, promised) => {
                let who = session(who);
                // Without a session everything is refused alike: once is enough.
                if !self.clients[who].open && self.clients[who].refused {
                    self.reopen(who);
                }
                let volume = self.of(who);
                let is_read_only = self.model.volumes[&volume].settings.read_only.is_some();
                if is_read_only && std::mem::replace(&mut self.clients[who].refused, true) {
                    let access = Some(VolumeAccess::ReadWrite);
                    self.model.set_volume(volume, &VolumeChange { access, ..VolumeChange::default() });
                }
                self.clients[who].refused = is_read_only || !self.clients[who].open;
                self.promised = match promised {
                    Promised::Nothing => Credit::NONE,
                    Promised::Some(bytes, inodes) => {
                        Credit { bytes: u64::from(*bytes), inodes: u64::from(*inodes) }
                    }
                    Promised::Enough => Credit { bytes: 1 << 50, inodes: 1 << 20 },
                };
                self.start(who, doing);
            }
            Step::Retry(who, back) => {
                let (id, sent) = (volume(who), &self.clients[session(who)].sent);
                let again = sent.iter().rev().nth(usize::from(*back)).cloned();
                again.into_iter().for_each(|again| {
                    let _ = self.model.send(id, &again, Credit::NONE);
                });
            }
            Step::Acknowledge(who) => {
                let client = &mut self.clients[session(who)];
                client.ack_below = client.next_op;
            }
            Step::Clock(clock) => self.set_clock(*clock),
            Step::Reopen(who) => {
                self.close(session(who));
                self.reopen(session(who));
            }
            Step::FindAgain(who) => {
                let who = session(who);
                if self.clients[who].open {
                    self.model.open(self.of(who), Self::session(who));
                }
            }
            Step::Close(who) => self.close(session(who)),
            Step::Snapshot(of, name, back) => {
                let at = back.map(|back| self.back(back));
                self.model.snapshot(volume(of), snapshot(*name), at);
            }
            Step::DeleteSnapshot(of, name) => self.model.delete_snapshot(volume(of), snapshot(*name)),
            Step::LookBack(of, reader, moment) => {
                let moment = match moment {
                    Ok(name) => Moment::Snapshot(snapshot(*name)),
                    Err(back) => Moment::Time(self.back(*back)),
                };
                self.model.look_back(volume(of), Self::session(usize::from(*reader) + 100), moment);
            }
            Step::LookAway(of, reader) => {
                self.model.look_away(volume(of), Self::session(usize::from(*reader) + 100));
            }
            Step::MoveHorizon(of, back) => {
                let before = self.back(*back);
                self.model.move_horizon(volume(of), before);
            }
            Step::ChangeThePast(of, reader) => {
                let session = Self::session(usize::from(*reader) + 100);
                let envelope = model::envelope(session, (1, 0), Op::AllocInodes { count: 1 });
                let reply = self.model.send(volume(of), &envelope, Credit::NONE);
                assert!(matches!(reply, Err(Errno::EROFS | Errno::ESTALE)), "{reply:?}");
            }
            Step::Compact => self.model.compact(),
            Step::Expire(secs) => {
                let before = self.back(*secs);
                self.model.expire(before);
                self.look();
            }
            Step::Merge(merging) => self.merge(volume(&merging.volume), merging),
            Step::Reap(of) => drop(self.model.reap(volume(of))),
            Step::Restore(of, restoring) => self.restore(volume(of), restoring),
            Step::CopyMore(of, pick) => self.step_restore(volume(of), *pick),
            Step::EndRestore(of, pick, publish) => self.end_restore(volume(of), *pick, *publish),
            Step::SetVolume(of, change) => self.model.set_volume(volume(of), change),
            Step::DeleteOrMake => self.delete_or_make(),
            Step::Verified(pick) => self.verify(*pick),
            Step::Collect(how) => self.model.collect(*how),
            Step::Drained(pick) => {
                let hot = self.model.blobs.present.iter().filter(|(_, blob)| blob.hot);
                let hot: Vec<_> = hot.map(|(digest, blob)| (*digest, blob.generation)).collect();
                choose(&hot, *pick).into_iter().for_each(|(digest, generation)| {
                    self.model.drained(digest, generation);
                });
            }
        }
    }

    fn reopen(&mut self, who: usize) {
        self.open(who);
        let client = &mut self.clients[who];
        (client.next_op, client.ack_below) = (1, 0);
        client.sent.clear();
    }

    fn close(&mut self, who: usize) {
        self.clients[who].open = false;
        self.model.close(self.of(who), Self::session(who));
    }

    fn verify(&mut self, pick: u8) {
        let blobs = &self.model.blobs;
        let uploads = blobs.uploads.iter().map(|(generation, upload)| (upload.digest, *generation));
        let present = blobs.present.iter().map(|(digest, blob)| (*digest, blob.generation));
        let all: Vec<_> = uploads.chain(present).collect();
        if let Some((digest, generation)) = choose(&all, pick) {
            self.model.verified(digest, generation);
        }
    }

    /// A time in the past, or just now.
    pub(super) fn back(&self, secs: u8) -> Time {
        let now = self.model.clock.max(self.model.last_at);
        Time::new(now.secs() - i64::from(secs), 5)
    }

    fn set_clock(&mut self, clock: Clock) {
        let now = self.model.clock;
        self.model.clock = match clock {
            Clock::NextSecond => now.plus(Duration::from_secs(1)),
            Clock::Seconds(secs) => now.plus(Duration::from_secs(secs.into())),
            Clock::Nanoseconds(nanos) => now.plus(Duration::from_nanos(nanos.into())),
            Clock::Back(secs) => Time::new(now.secs() - i64::from(secs), now.nanos()),
        };
    }

    fn op(&mut self, who: usize, body: Op) -> Option<Extra> {
        let client = &mut self.clients[who];
        let envelope = model::envelope(Self::session(who), (client.next_op, client.ack_below), body);
        client.next_op += 1;
        client.sent.push(envelope.clone());
        let (id, promised) = (self.of(who), self.promised);
        let extra = self.model.send(id, &envelope, promised).ok().map(|outcome| outcome.extra);
        match (&extra, &envelope.body) {
            (Some(Extra::Inodes { first, count }), _) => {
                let numbers = (0..u64::from(*count)).map(|more| InodeId::new(first.get() + more));
                self.clients[who].numbers.extend(numbers);
            }
            (Some(Extra::Grants(grants)), Op::Grant { blobs }) => {
                for (wanted, grant) in blobs.iter().zip(grants) {
                    if let Grant::Upload { generation, .. } = grant {
                        self.clients[who].grants.insert(wanted.digest, *generation);
                    }
                }
            }
            _ => {}
        }
        extra
    }

    /// Mostly files that exist; sometimes another inode, or one that is gone or of a volume with more.
    fn pick_ino(&self, who: usize, pick: u8) -> InodeId {
        let volume = &self.model.volumes[&self.of(who)];
        let is_wanted = |node: &Node| pick >= 170 || node.kind == FileKind::File;
        let alive: Vec<_> = known(volume).filter(|(_, node)| is_wanted(node)).map(|(ino, _)| ino).collect();
        let odd = InodeId::new(u64::from(pick % 10) + volume.now.next_ino.saturating_sub(9));
        match choose(&alive, pick) {
            Some(ino) if pick < 246 => ino,
            // Nobody guesses the number of a copy under way.
            _ if volume.unknown.contains(&odd) => InodeId::new(1 << 40),
            _ => odd,
        }
    }

    /// Mostly a name that exists; `at.0` picks it.
    fn taken(&self, who: usize, at: At) -> Place {
        let volume = &self.model.volumes[&self.of(who)];
        let entries = |(dir, node): (InodeId, &Node)| {
            let names: Vec<_> =
                node.entries().into_iter().flat_map(|entries| entries.keys().cloned()).collect();
            names.into_iter().map(move |name| Place { parent: dir, name: Name::new(name).unwrap() })
        };
        let taken: Vec<Place> = known(volume).flat_map(entries).collect();
        if at.0 % 16 == 15 || taken.is_empty() {
            return self.place(who, at);
        }
        taken[usize::from(at.0) % taken.len()].clone()
    }

    fn place(&self, who: usize, At(dir, name): At) -> Place {
        let volume = &self.model.volumes[&self.of(who)];
        let dirs: Vec<_> = known(volume).filter(|(_, node)| node.is_dir()).map(|(ino, _)| ino).collect();
        let parent = if dir >= 245 { self.pick_ino(who, dir) } else { dirs[usize::from(dir) % dirs.len()] };
        Place { parent, name: name_of(name) }
    }

    fn start(&mut self, who: usize, doing: &Doing) {
        let ino = |pick: &u8| self.pick_ino(who, *pick);
        let place = |at: &At| self.place(who, *at);
        let body = match doing {
            Doing::Mkdir(at, create) => Op::Mkdir { at: place(at), create: create.clone() },
            Doing::Mknod(at, kind, create) => {
                Op::Mknod { at: place(at), kind: *kind, rdev: 259, create: create.clone() }
            }
            Doing::Symlink(at, target) => {
                let create = Create { mode: 0o777, umask: 0, uid: 1, gid: 1 };
                Op::Symlink { at: place(at), target: vec![b't'; usize::from(*target)].into(), create }
            }
            Doing::Link(pick, at) => Op::Link { ino: ino(pick), at: place(at) },
            Doing::Unlink(at) => Op::Unlink { at: self.taken(who, *at) },
            Doing::Rmdir(at) => Op::Rmdir { at: self.taken(who, *at) },
            Doing::Rename(from, to, mode) => {
                let to = if to.1 % 2 == 0 { place(to) } else { self.taken(who, *to) };
                Op::Rename { from: self.taken(who, *from), to, mode: *mode }
            }
            Doing::SetXattr(pick, name, value, mode) => {
                let (name, value) = (xattr_name(*name), value.clone());
                Op::SetXattr { ino: ino(pick), name, value, mode: *mode }
            }
            Doing::RemoveXattr(pick, name) => Op::RemoveXattr { ino: ino(pick), name: xattr_name(*name) },
            Doing::SetAttr(pick, set) => Op::SetAttr { ino: ino(pick), set: set.clone() },
            Doing::Commit(committing) => return self.commit(who, committing),
            Doing::Append(pick, count, len, changed, kill_setid) => {
                let (ino, changed, kill_setid) = (ino(pick), *changed, *kill_setid);
                for number in 0..*count {
                    let bytes = vec![number + b'a'; usize::from(*len)].into();
                    self.op(who, Op::Append { ino, bytes, changed, kill_setid });
                }
                return;
            }
            Doing::Punch(pick, offset, len) => Op::Punch { ino: ino(pick), offset: *offset, len: *len },
            Doing::Clone { from, from_offset, to, to_offset, len, expect } => Op::CloneRange {
                from: ino(from),
                from_offset: *from_offset,
                to: ino(to),
                to_offset: *to_offset,
                len: *len,
                expect_from_cver: self.expected(who, ino(from), *expect),
            },
            Doing::Alloc(count) => Op::AllocInodes { count: *count },
            Doing::Grant(blobs) => {
                let wanted = |blob: &u8| BlobWanted { digest: digest(*blob), len: len(*blob) };
                Op::Grant { blobs: blobs.iter().map(wanted).collect() }
            }
        };
        self.op(who, body);
    }

    fn commit(&mut self, who: usize, committing: &Committing) {
        if matches!(committing.target, Target::New(..)) && self.clients[who].numbers.is_empty() {
            self.op(who, Op::AllocInodes { count: 2 });
        }
        let (ino, create, link) = match &committing.target {
            Target::Inode(pick) => (self.pick_ino(who, *pick), None, None),
            Target::New(number, at, exclusive) => {
                // A number is used again only now and then: a commit after the one that published it.
                let numbers = &mut self.clients[who].numbers;
                let ino = match numbers.len() {
                    0 => InodeId::new(99),
                    1 => numbers[0],
                    len if *number < 64 => numbers[usize::from(*number) % len],
                    _ => numbers.pop().unwrap(),
                };
                let create = Create { mode: 0o640, umask: 0o022, uid: 3, gid: 4 };
                let link = Publish { at: self.place(who, *at), exclusive: *exclusive };
                (ino, Some(create), Some(link))
            }
            Target::Odd(pick, at) => {
                let link = at.map(|at| Publish { at: self.place(who, at), exclusive: false });
                (self.pick_ino(who, *pick), None, link)
            }
        };
        let content = content(&committing.writing);
        let uploaded = self.upload(who, content.as_ref(), committing.upload);
        let expect_cver = self.expected(who, ino, committing.expect);
        let (set, changed) = (committing.set.clone(), committing.changed);
        self.op(who, Op::Commit(Commit { ino, expect_cver, content, set, changed, create, link, uploaded }));
    }

    fn expected(&self, who: usize, ino: InodeId, expect: Expect) -> Option<Seq> {
        let cver = self.model.volumes[&self.of(who)].now.tree.get(ino).map(|node| node.cver);
        match expect {
            Expect::Any => None,
            Expect::Right => cver,
            Expect::Stale => Some(Seq::new(cver.map_or(0, Seq::get) + 1)),
        }
    }

    /// Does about the blobs of `content` what a mount would do before the commit, or not.
    fn upload(&mut self, who: usize, content: Option<&NewContent>, upload: Upload) -> Vec<Uploaded> {
        let Some(NewContent::Chunks { changed, .. }) = content else {
            return Vec::new();
        };
        let mut digests: Vec<Digest> =
            changed.iter().flat_map(|layout| &layout.extents).map(|extent| extent.digest).collect();
        digests.sort();
        digests.dedup();
        let from = match upload {
            Upload::Nothing => return Vec::new(),
            Upload::Foreign => (who + 1) % SESSIONS.len(),
            Upload::Granted | Upload::Verified => who,
        };
        if from == who {
            let wanted = |digest: &Digest| BlobWanted { digest: *digest, len: len(digest.as_bytes()[0] - 1) };
            self.op(who, Op::Grant { blobs: digests.iter().map(wanted).collect() });
        }
        let granted = |digest: &Digest| {
            let generation = *self.clients[from].grants.get(digest)?;
            Some(Uploaded { digest: *digest, generation })
        };
        let uploaded: Vec<Uploaded> = digests.iter().filter_map(granted).collect();
        if matches!(upload, Upload::Verified) {
            for upload in &uploaded {
                self.model.verified(upload.digest, upload.generation.counter);
            }
        }
        uploaded
    }
}

/// What mounts can know of.
fn known(volume: &Volume) -> impl Iterator<Item = (InodeId, &Node)> {
    volume.now.tree.nodes().filter(|(ino, _)| !volume.unknown.contains(ino))
}

fn name_of(name: u8) -> Name {
    let name: &[u8] = match name {
        0..4 => &b"abcd"[usize::from(name)..=usize::from(name)],
        4 => b"\xff\xfe",
        5 => &[b'n'; 255],
        _ => b"a\x01",
    };
    Name::new(name).unwrap()
}

pub(super) fn choose<T: Copy>(all: &[T], pick: u8) -> Option<T> {
    all.get(usize::from(pick) % all.len().max(1)).copied()
}

pub(super) fn snapshot(name: u8) -> SnapshotName {
    ["one", "two", "three"][usize::from(name) % 3].parse().unwrap()
}

fn xattr_name(name: u8) -> Bytes {
    let names: [&'static [u8]; 7] =
        [b"user.a", b"user.b", ACCESS, DEFAULT, b"security.x", b"user.", b"system.other"];
    Bytes::from_static(names[usize::from(name) % names.len()])
}

fn content(writing: &Writing) -> Option<NewContent> {
    match writing {
        Writing::Nothing => None,
        Writing::Inline(len) => Some(NewContent::Inline(vec![b'i'; usize::from(*len)].into())),
        Writing::Hot(blob) => {
            let bytes = vec![*blob; (len(*blob) as usize).min(70_000)].into();
            Some(NewContent::Hot { digest: digest(*blob), bytes })
        }
        Writing::Many(chunk, count) => {
            let offset = |number: u8| u64::from(*chunk) * CHUNK_SIZE + u64::from(number) * 60;
            let extent =
                |number| Extent { offset: offset(number), len: 60, digest: digest(2), blob_offset: 7 };
            let changed = ChunkLayout { chunk: (*chunk).into(), extents: (0..*count).map(extent).collect() };
            Some(NewContent::Chunks { size: offset(*count), changed: vec![changed] })
        }
        Writing::Chunks(size, chunks) => {
            let mut layouts = BTreeMap::new();
            for (chunk, count, blob) in chunks {
                let extents = (0..*count).map(|number| extent(*chunk, number, *blob)).collect();
                layouts.insert(u32::from(*chunk), ChunkLayout { chunk: u32::from(*chunk), extents });
            }
            let changed: Vec<ChunkLayout> = layouts.into_values().collect();
            let end = changed.iter().flat_map(|layout| &layout.extents).map(Extent::end).max().unwrap_or(0);
            let size = match size {
                0 => end.saturating_sub(1),
                1 => end + 1000,
                2 => end + CHUNK_SIZE,
                3 => end + 3 * CHUNK_SIZE,
                4 => u64::MAX,
                _ => end,
            };
            Some(NewContent::Chunks { size, changed })
        }
    }
}

/// How many histories, of how many steps, from which seed on. The environment may ask for others.
pub(crate) struct Budget {
    pub histories: u64,
    pub steps: usize,
}

impl Budget {
    /// `SITEFS_HISTORIES` and `SITEFS_SEED` replace the number of histories and the first seed, which
    /// is told before the first history begins, also where the output of tests is captured.
    pub fn seeds(&self) -> std::ops::Range<u64> {
        let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
        let first = number("SITEFS_SEED").unwrap_or_else(|| RandomState::new().hash_one(0) >> 1);
        let histories = number("SITEFS_HISTORIES").unwrap_or(self.histories);
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("a test");
        writeln!(std::io::stderr(), "{test}: SITEFS_SEED={first} SITEFS_HISTORIES={histories}").unwrap();
        first..first + histories
    }
}

fn runner(seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { failure_persistence: None, max_shrink_iters: 4_000, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// Runs random histories; one that fails is made as short as it can be and shown with its seed.
pub(crate) fn prove(budget: &Budget, test: impl Fn(&History)) {
    for seed in budget.seeds() {
        let mut runner = runner(seed);
        let tree = history(budget.steps).new_tree(&mut runner).unwrap();
        let failed = runner.run_one(tree, |history| {
            test(&history);
            Ok(())
        });
        match failed {
            Ok(_) => {}
            Err(TestError::Fail(reason, history)) => {
                panic!("SITEFS_SEED={seed} SITEFS_HISTORIES=1 shows this again: {reason}\n{history:?}")
            }
            Err(aborted) => panic!("SITEFS_SEED={seed}: {aborted}"),
        }
    }
}

/// Rows that one command of [`random_cell`] removes or copies.
const CELL_SLICE: usize = 5;

/// While this lives, the commands of [`random_cell`] give the same again in this thread.
pub(crate) fn cell_slices() -> Slices {
    Slices::of(CELL_SLICE)
}

/// The rows after one random history, and its commands.
pub(crate) fn random_cell(seed: u64, steps: usize) -> (MemoryView, Vec<Command>) {
    let tree = history(steps).new_tree(&mut runner(seed)).unwrap();
    let history = History { slice: CELL_SLICE, ..tree.current() };
    let mut run = Run::new(&history);
    for step in &history.steps {
        run.take(step);
    }
    (run.model.view, run.model.log)
}

#[test]
fn random_histories_agree_with_the_model_now_and_in_the_past() {
    let (all, histories) = (RefCell::new(BTreeMap::new()), RefCell::new(0));
    prove(&Budget { histories: 4_000, steps: 60 }, |history| {
        reach::add(&mut all.borrow_mut(), &Run::all(history).model.seen);
        *histories.borrow_mut() += 1;
    });
    if *histories.borrow() >= 1_000 {
        reach::check(&all.borrow());
    }
}
