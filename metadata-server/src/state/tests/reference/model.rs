//! The whole group: volumes with every tree that they ever had, sessions, blobs and time. Every
//! command is executed by the model and by `state`, and both must agree.

use super::{
    blobs::Blobs,
    compare, reach,
    restores::Job,
    rules::{Act, Effect, Gives, Now, Verdict},
    tree::{Body, Node, Tree},
};
use crate::state::{
    Applied, Command, CommandBody, CrowdedChunk, MemoryView, Reply, VolumeLimits, apply, growth_bound,
    tests::{gc::Seen, harness::SITE, invariants},
    volumes_to_reap,
};
use sitefs_base::{
    Errno, FileKind, Generation, GroupId, Incarnation, InodeId, OpId, Seq, SessionId, SnapshotName, Time,
    VolumeId, VolumeName, VolumeSettings,
    limits::REPLY_WINDOW,
    op::{Change, Credit, Event, Extra, Grant, Op, OpEnvelope, Outcome},
};
use std::collections::{BTreeMap, BTreeSet};

pub const INCARNATION: Incarnation = Incarnation::new(1);
pub const VOLUMES: [VolumeId; 2] = [VolumeId::new(1), VolumeId::new(2)];

/// A reply that a retry gets again, with the inodes that it showed.
#[derive(Clone, Debug)]
enum Receipt {
    Refused(Errno),
    Done { outcome: Outcome, shown: BTreeSet<InodeId> },
}

#[derive(Clone, Debug, Default)]
struct Session {
    own: Vec<(u64, u32)>,
    receipts: BTreeMap<OpId, Receipt>,
    high_water: u64,
    ack_below: u64,
    last_used: Time,
}

/// A session that looks at the past.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    pub at: Seq,
    pub last_used: Time,
}

#[derive(Clone, Debug)]
pub struct Volume {
    pub name: VolumeName,
    pub now: Now,
    pub seq: Seq,
    pub limits: VolumeLimits,
    pub history_limit: Option<u64>,
    pub settings: VolumeSettings,
    pub deleted: bool,
    /// It was deleted and all its rows are gone.
    pub removed: bool,
    /// Restores under way.
    pub jobs: BTreeMap<InodeId, Job>,
    /// Inodes of copies that have no name yet or never got one: no mount knows them.
    pub unknown: BTreeSet<InodeId>,
    /// Every tree that the volume ever had, with the time of the command that made it.
    pub past: BTreeMap<Seq, (Tree, Time)>,
    sessions: BTreeMap<SessionId, Session>,
    pub horizon: Seq,
    pub snapshots: BTreeMap<SnapshotName, Seq>,
    /// Sessions that look at the past, and at which seq.
    pub readers: BTreeMap<SessionId, Reader>,
}

#[derive(Debug)]
pub struct Model {
    pub view: MemoryView,
    pub volumes: BTreeMap<VolumeId, Volume>,
    pub blobs: Blobs,
    pub last_at: Time,
    /// What the leader's clock says.
    pub clock: Time,
    /// Every command so far.
    pub log: Vec<Command>,
    /// How often which command had which reply.
    pub seen: BTreeMap<reach::Seen, u64>,
    /// By how much the last command that is no operation says that a volume has grown.
    pub grown: Credit,
    /// What the collector read some time ago and has not acted on.
    pub marked: Option<Seen>,
}

fn root(at: Time) -> Node {
    Node {
        kind: FileKind::Directory,
        mode: 0o755,
        uid: 1,
        gid: 2,
        rdev: 0,
        atime: at,
        mtime: at,
        ctime: at,
        cver: Seq::ZERO,
        xattrs: BTreeMap::new(),
        body: Body::Dir { parent: Some(InodeId::ROOT), entries: BTreeMap::new() },
    }
}

impl Volume {
    pub fn new(name: VolumeName, at: Time, limits: VolumeLimits) -> Self {
        let mut tree = Tree::default();
        tree.insert(InodeId::ROOT, root(at));
        let past = BTreeMap::from([(Seq::ZERO, (tree.clone(), at))]);
        let (leftovers, awake) = (BTreeSet::new(), false);
        let now = Now { tree, next_ino: InodeId::ROOT.get() + 1, leftovers, awake };
        Self {
            name,
            now,
            history_limit: None,
            settings: VolumeSettings::default(),
            deleted: false,
            removed: false,
            jobs: BTreeMap::new(),
            unknown: BTreeSet::new(),
            seq: Seq::ZERO,
            limits,
            past,
            sessions: BTreeMap::new(),
            horizon: Seq::ZERO,
            snapshots: BTreeMap::new(),
            readers: BTreeMap::new(),
        }
    }

    /// The last seq of every second in which there was one.
    pub fn seconds(&self) -> BTreeMap<i64, Seq> {
        self.past.iter().map(|(seq, (_, at))| (at.secs(), *seq)).collect()
    }

    /// The last seq before a second.
    pub fn before(&self, secs: i64) -> Option<Seq> {
        self.seconds().range(..secs).next_back().map(|(_, seq)| *seq)
    }

    pub fn pins(&self) -> BTreeSet<Seq> {
        let readers = self.readers.values().map(|reader| reader.at);
        let jobs = self.jobs.values().map(|job| job.seq);
        self.snapshots.values().copied().chain(readers).chain(jobs).collect()
    }

    /// The seqs of which history must know everything: pins, and the ends of seconds above the horizon.
    pub fn kept(&self) -> BTreeSet<Seq> {
        let ends = self.seconds().into_values().filter(|seq| *seq >= self.horizon);
        ends.chain(self.pins()).collect()
    }
}

impl Model {
    pub fn new(limits: VolumeLimits) -> Self {
        let mut model = Self {
            view: MemoryView::new(),
            volumes: BTreeMap::new(),
            blobs: Blobs::default(),
            last_at: Time::EPOCH,
            clock: Time::new(1_000, 0),
            log: Vec::new(),
            seen: BTreeMap::new(),
            grown: Credit::NONE,
            marked: None,
        };
        let group = GroupId::new(1);
        let init = CommandBody::Init { cell: "test".into(), group, incarnation: INCARNATION };
        assert_eq!(model.plain(init), Ok(Reply::Done));
        for (id, name) in VOLUMES.into_iter().zip(["acme/live", "acme/test"]) {
            assert_eq!(model.create_volume(&name.parse().unwrap(), limits), Some(id));
        }
        model
    }

    /// Applies a command to the rows. The clock moves on a little.
    fn real(&mut self, body: CommandBody) -> Applied {
        self.clock = self.clock.next();
        let command = Command { at: self.clock, body };
        let applied = apply(&mut self.view, &command).unwrap();
        self.saw(reach::seen(&command.body, &applied.reply));
        self.log.push(command);
        applied
    }

    /// Notes what came about.
    pub fn saw(&mut self, what: reach::Seen) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// When the command that comes next is executed.
    pub fn next_at(&self) -> Time {
        self.clock.next().max(self.last_at.next())
    }

    /// Executes a command without events, for which the model has no rules of its own.
    pub fn plain(&mut self, body: CommandBody) -> Result<Reply, Errno> {
        let (reply, event) = self.told(body);
        assert_eq!((event, self.grown), (None, Credit::NONE));
        reply
    }

    /// Executes a command that is no operation.
    pub fn told(&mut self, body: CommandBody) -> (Result<Reply, Errno>, Option<Event>) {
        let at = self.next_at();
        let applied = self.real(body);
        if applied.reply.is_ok() {
            self.last_at = at;
        }
        assert_eq!(applied.crowded, None);
        self.grown = applied.grown;
        (applied.reply, applied.event.map(|(_, event)| event))
    }

    /// Compares by how much the last command says that a volume has grown with what there is more.
    pub fn check_growth(&self, id: VolumeId, before: &Tree) {
        let grown = used(&self.volumes[&id].now.tree).less(used(before));
        assert_eq!(self.grown, grown, "what was used more");
    }

    pub fn open(&mut self, volume: VolumeId, session: SessionId) {
        let last_used = self.next_at();
        let reply = self.plain(CommandBody::OpenSession { volume, session, at: None });
        let of = self.volumes.get_mut(&volume).unwrap();
        if of.deleted {
            return assert_eq!(reply, Err(Errno::ENOENT));
        }
        let known = of.sessions.entry(session).or_default();
        known.last_used = last_used;
        let op_high_water = OpId::new(known.high_water);
        assert_eq!(reply, Ok(Reply::Session { site: SITE, seq: of.seq, op_high_water, at: None }));
    }

    /// Whether the cell knows a session.
    pub fn knows(&self, volume: VolumeId, session: SessionId) -> bool {
        let of = &self.volumes[&volume];
        !of.deleted && of.sessions.contains_key(&session)
    }

    /// Sessions that nobody has used since `before` are forgotten.
    pub fn expire(&mut self, before: Time) {
        assert_eq!(self.plain(CommandBody::ExpireSessions { before }), Ok(Reply::Done));
        for volume in self.volumes.values_mut() {
            volume.sessions.retain(|_, session| session.last_used >= before);
            volume.readers.retain(|_, reader| reader.last_used >= before);
        }
        self.check_all();
    }

    pub fn close(&mut self, volume: VolumeId, session: SessionId) {
        self.plain(CommandBody::CloseSession { volume, session }).unwrap();
        self.volumes.get_mut(&volume).unwrap().sessions.remove(&session);
    }

    pub fn verified(&mut self, digest: sitefs_base::Digest, counter: u64) {
        let generation = Generation { incarnation: INCARNATION, counter };
        self.plain(CommandBody::Verified { site: SITE, digest, generation }).unwrap();
        self.blobs.verified(digest, counter);
    }

    pub fn drained(&mut self, digest: sitefs_base::Digest, counter: u64) {
        let generation = Generation { incarnation: INCARNATION, counter };
        self.plain(CommandBody::Drained { site: SITE, digest, generation }).unwrap();
        self.blobs.drained(digest, counter);
    }

    /// Sends an operation, and compares everything that can be seen afterwards.
    pub fn send(&mut self, id: VolumeId, envelope: &OpEnvelope, credit: Credit) -> Result<Outcome, Errno> {
        let before = self.volumes[&id].now.tree.clone();
        let at = self.next_at();
        let bound = growth_bound(&self.view, id, &envelope.body).unwrap();
        let expected = self.expect(id, (envelope, credit), at);
        let applied = self.real(CommandBody::Op { volume: id, envelope: envelope.clone(), credit });
        let grown = used(&self.volumes[&id].now.tree).less(used(&before));
        assert_eq!(applied.grown, grown, "what was used more");
        assert!(bound.covers(grown), "{grown:?} is more than could be: {bound:?}");
        let crowded = expected.0.as_ref().ok().and_then(|effect| effect.crowded);
        let crowded = crowded.map(|(ino, chunk)| CrowdedChunk { volume: id, ino, chunk });
        assert_eq!(applied.crowded, crowded, "what should be merged");
        if crowded.is_some() {
            self.saw(("merge", "asked for"));
        }
        let volume = &self.volumes[&id];
        if applied.reply.is_ok() && fits(&volume.limits, (&before, &volume.now.tree), Credit::NONE).is_err() {
            self.saw(("credit", "used"));
        }
        let reply = applied.reply.map(|reply| match reply {
            Reply::Op(outcome) => *outcome,
            other => panic!("{other:?} is no reply to an operation"),
        });
        let (verdict, executed) = expected;
        if executed {
            self.check_event(id, (&before, envelope.session), applied.event.map(|(_, event)| event));
        } else {
            assert_eq!(applied.event, None, "what is not executed is no event");
        }
        match (&reply, &verdict) {
            (Ok(outcome), Ok(effect)) => self.check_outcome(id, outcome, effect),
            _ => assert_eq!(reply.as_ref().err(), verdict.as_ref().err(), "the verdicts differ"),
        }
        if executed {
            self.keep_receipt(id, envelope, &reply);
        }
        self.check(id);
        reply
    }

    /// What the model says, and whether the operation was executed or refused just now; the model's
    /// state is as afterwards.
    fn expect(
        &mut self,
        id: VolumeId,
        (envelope, credit): (&OpEnvelope, Credit),
        at: Time,
    ) -> (Verdict<Effect>, bool) {
        let volume = self.volumes.get_mut(&id).unwrap();
        if volume.deleted {
            return (Err(Errno::ESTALE), false);
        } else if volume.readers.contains_key(&envelope.session) {
            return (Err(Errno::EROFS), false);
        }
        let Some(session) = volume.sessions.get_mut(&envelope.session) else {
            return (Err(Errno::ESTALE), false);
        };
        let (op, ack) = (envelope.op.get(), envelope.ack_below.get());
        match session.receipts.get(&envelope.op) {
            Some(Receipt::Refused(errno)) => {
                self.last_at = at;
                return (Err(*errno), false);
            }
            Some(Receipt::Done { outcome, shown }) => {
                self.last_at = at;
                return (Ok(repeated(outcome, shown)), false);
            }
            None if op < session.ack_below || op < ack => return (Err(Errno::EINVAL), false),
            None if op - ack.max(session.ack_below) >= REPLY_WINDOW as u64 => {
                return (Err(Errno::EBUSY), false);
            }
            None => {}
        }
        self.last_at = at;
        session.last_used = at;
        session.high_water = session.high_water.max(op);
        session.ack_below = session.ack_below.max(ack);
        let below = OpId::new(ack);
        session.receipts.retain(|op, _| *op >= below);
        if volume.settings.read_only.is_some() && !matches!(envelope.body, Op::AllocInodes { .. }) {
            return (Err(Errno::EROFS), true);
        }
        let (mut now, mut blobs) = (volume.now.clone(), self.blobs.clone());
        let seq = volume.seq.next();
        let own = &mut session.own;
        let mut act = Act { now: &mut now, blobs: &mut blobs, own, volume: id, at, seq, crowded: None };
        let verdict = act.perform(&envelope.body);
        let crowded = act.crowded;
        let verdict = verdict.and_then(|effect| {
            fits(&volume.limits, (&volume.now.tree, &now.tree), credit)?;
            Ok(Effect { crowded, ..effect })
        });
        if let Ok(effect) = &verdict {
            volume.now = now;
            self.blobs = blobs;
            if effect.changed {
                volume.seq = seq;
                volume.past.insert(seq, (volume.now.tree.clone(), at));
            }
        }
        (verdict, true)
    }

    fn check_outcome(&self, id: VolumeId, outcome: &Outcome, effect: &Effect) {
        let tree = &self.volumes[&id].now.tree;
        let names = tree.names();
        assert_eq!(outcome.ino, effect.ino, "the inode of the reply");
        let mut told = BTreeSet::new();
        for attr in &outcome.attrs {
            assert!(told.insert(attr.ino), "{} is told twice", attr.ino);
            assert_eq!(*attr, tree.attr(attr.ino, &names), "attributes in the reply");
        }
        for ino in &effect.shown {
            assert!(tree.get(*ino).is_none() || told.contains(ino), "{ino} is missing in the reply");
        }
        assert_eq!(gives(&outcome.extra), effect.extra);
    }

    fn keep_receipt(&mut self, id: VolumeId, envelope: &OpEnvelope, reply: &Result<Outcome, Errno>) {
        let volume = self.volumes.get_mut(&id).unwrap();
        let receipt = match reply {
            Err(errno) => Receipt::Refused(*errno),
            Ok(outcome) if matches!(outcome.extra, Extra::Grants(_)) => return,
            Ok(outcome) => {
                assert_eq!(outcome.seq, volume.seq, "the seq of the reply");
                let shown = outcome.attrs.iter().map(|attr| attr.ino).collect();
                Receipt::Done { outcome: outcome.clone(), shown }
            }
        };
        let session = volume.sessions.get_mut(&envelope.session).unwrap();
        session.receipts.insert(envelope.op, receipt);
    }

    /// Everything that differs between the trees is told to the watchers.
    pub fn check_event(&self, id: VolumeId, (before, by): (&Tree, SessionId), event: Option<Event>) {
        let volume = &self.volumes[&id];
        let seq_moved = volume.past.get(&volume.seq).is_some_and(|(_, at)| *at == self.last_at);
        assert_eq!(event.is_some(), seq_moved, "an event for each seq");
        let Some(event) = event else {
            return assert_eq!(*before, volume.now.tree);
        };
        assert_eq!((event.seq, event.origin), (volume.seq, by));
        let changes = compare::changes(before, &volume.now.tree);
        for change in changes.into_iter().filter(|change| !volume.unknown.contains(&subject(change))) {
            let told = match &change {
                Change::Attr(ino) => event.changes.iter().any(|told| is_about(told, *ino)),
                other => event.changes.contains(other),
            };
            assert!(told, "{change:?} is missing in {:?}", event.changes);
        }
    }

    /// What can be seen now is as it must be.
    pub fn check(&self, id: VolumeId) {
        let volume = &self.volumes[&id];
        if volume.deleted {
            compare::gone(&self.view, id);
        } else {
            compare::now(&self.view, id, volume);
            invariants::check(&self.view, id);
        }
        compare::blobs(&self.view, &self.volumes, &self.blobs);
        compare::waiting(&self.view, &self.blobs);
        let listed = volumes_to_reap(&self.view, None, 100).unwrap();
        let awake = self.volumes.iter().filter(|(_, volume)| volume.now.awake).map(|(id, _)| *id);
        assert_eq!(listed, awake.collect::<Vec<_>>(), "what has rows to remove");
    }

    pub fn check_all(&self) {
        self.volumes.keys().for_each(|id| self.check(*id));
    }
}

pub fn used(tree: &Tree) -> Credit {
    Credit { bytes: tree.bytes(), inodes: tree.len() as u64 }
}

/// Whether a volume may hold what it would hold.
pub fn fits(limits: &VolumeLimits, (old, new): (&Tree, &Tree), credit: Credit) -> Verdict<()> {
    let (used, grown) = (used(new), used(new).less(used(old)));
    let full = |used: u64, limit: u64, grown: u64, credit: u64| used > limit && grown > credit;
    let full = full(used.bytes, limits.bytes, grown.bytes, credit.bytes)
        || full(used.inodes, limits.inodes, grown.inodes, credit.inodes);
    if full { Err(Errno::EDQUOT) } else { Ok(()) }
}

fn subject(change: &Change) -> InodeId {
    match change {
        Change::Attr(ino) | Change::Content(ino) | Change::Xattr(ino) => *ino,
        Change::Name(place) => place.parent,
    }
}

fn is_about(change: &Change, ino: InodeId) -> bool {
    match change {
        Change::Attr(of) | Change::Content(of) | Change::Xattr(of) => *of == ino,
        Change::Name(_) => false,
    }
}

fn gives(extra: &Extra) -> Gives {
    match extra {
        Extra::None => Gives::Nothing,
        Extra::Appended { offset } => Gives::Appended(*offset),
        Extra::Cloned { len } => Gives::Cloned(*len),
        Extra::Inodes { first, count } => Gives::Inodes(*first, *count),
        Extra::Dropped => Gives::Dropped,
        Extra::Grants(grants) => {
            let generation = |grant: &Grant| match grant {
                Grant::Have => None,
                Grant::Upload { generation, .. } => {
                    assert_eq!(generation.incarnation, INCARNATION);
                    Some(generation.counter)
                }
            };
            Gives::Grants(grants.iter().map(generation).collect())
        }
    }
}

/// The answer to a retry: as before, with the attributes as they are now.
fn repeated(outcome: &Outcome, shown: &BTreeSet<InodeId>) -> Effect {
    let shown = shown.iter().copied().collect();
    Effect { ino: outcome.ino, shown, extra: gives(&outcome.extra), ..Effect::default() }
}

pub fn envelope(session: SessionId, (op, ack_below): (u64, u64), body: Op) -> OpEnvelope {
    OpEnvelope { session, op: OpId::new(op), ack_below: OpId::new(ack_below), body }
}
