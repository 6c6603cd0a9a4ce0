//! A cell without log and network: commands are applied to the store one by one.

use sitefs_base::{
    Digest, Error, GroupId, Incarnation, InodeId, OpId, Result, SessionId, Time, VolumeId, VolumeName, op::*,
};
use sitefs_metadata::{
    state::{self, Command, CommandBody, Reply, VolumeLimits},
    store::{LogPosition, Reader, Store, StoreOptions},
};
use std::{path::Path, time::Duration};

const SESSION: SessionId = SessionId::new(7);
/// Between two commands: a cell that does a thousand in a second.
const STEP: Duration = Duration::from_millis(1);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Replies that the mount still waits for.
const UNDER_WAY: u64 = 8;

/// A store with one volume and one session.
pub(super) struct Cell {
    pub(super) store: Store,
    pub(super) volume: VolumeId,
    now: Time,
    index: u64,
    next_op: u64,
    numbers: std::ops::Range<u64>,
}

impl Cell {
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let store = Store::open(dir, StoreOptions::default())?;
        let now = Time::new(1_800_000_000, 0);
        let mut cell = Self { store, volume: VolumeId::new(1), now, index: 0, next_op: 1, numbers: 0..0 };
        let (group, incarnation) = (GroupId::new(1), Incarnation::new(1));
        cell.command(CommandBody::Init { cell: "bench".to_owned(), group, incarnation })?;
        cell.volume = cell.new_volume("bench/live".parse()?)?;
        Ok(cell)
    }

    /// Makes a volume; operations go to it from now on.
    pub(super) fn new_volume(&mut self, name: VolumeName) -> Result<VolumeId> {
        let limits = VolumeLimits { bytes: 1 << 50, inodes: 1 << 40 };
        let body = CommandBody::CreateVolume { name, limits, uid: 33, gid: 33, mode: 0o755 };
        let Reply::Volume(volume) = self.command(body)? else { return Err(unexpected("a new volume")) };
        self.volume = volume;
        self.numbers = 0..0;
        self.command(CommandBody::OpenSession { volume, session: SESSION, at: None })?;
        Ok(volume)
    }

    /// Operations go to this volume again.
    pub(super) fn return_to(&mut self, volume: VolumeId) {
        self.volume = volume;
        self.numbers = 0..0;
    }

    pub(super) fn command(&mut self, body: CommandBody) -> Result<Reply> {
        self.now = self.now.plus(STEP);
        self.index += 1;
        let position = LogPosition { term: 1, node: 1, index: self.index };
        let command = Command { at: self.now, body };
        let applied = self.store.transact(|txn| {
            txn.set_applied(position);
            state::apply(txn, &command)
        })?;
        applied.reply.map_err(|errno| Error::refused(errno, "a command of the benchmark"))
    }

    pub(super) fn op(&mut self, body: Op) -> Result<Outcome> {
        let op = OpId::new(self.next_op);
        self.next_op += 1;
        let ack_below = OpId::new(op.get().saturating_sub(UNDER_WAY).max(1));
        let envelope = OpEnvelope { session: SESSION, op, ack_below, body };
        match self.command(CommandBody::Op { volume: self.volume, envelope, credit: Credit::NONE })? {
            Reply::Op(outcome) => Ok(*outcome),
            _ => Err(unexpected("an operation")),
        }
    }

    /// An inode number of this session.
    pub(super) fn number(&mut self) -> Result<InodeId> {
        if self.numbers.is_empty() {
            let count = sitefs_base::limits::INODE_RANGE;
            let Extra::Inodes { first, .. } = self.op(Op::AllocInodes { count })?.extra else {
                return Err(unexpected("inode numbers"));
            };
            self.numbers = first.get()..first.get() + u64::from(count);
        }
        self.numbers.next().map(InodeId::new).ok_or_else(|| unexpected("inode numbers"))
    }

    /// Permission to commit new blobs, at most 1,024, none of them seen before.
    pub(super) fn upload(&mut self, digests: &[Digest]) -> Result<Vec<Uploaded>> {
        self.upload_of(digests, FILE_LEN)
    }

    /// The same for blobs of `len` bytes.
    pub(super) fn upload_of(&mut self, digests: &[Digest], len: u32) -> Result<Vec<Uploaded>> {
        let blobs = digests.iter().map(|digest| BlobWanted { digest: *digest, len }).collect();
        let Extra::Grants(grants) = self.op(Op::Grant { blobs })?.extra else {
            return Err(unexpected("grants"));
        };
        let uploaded = digests.iter().zip(grants).map(|(digest, grant)| match grant {
            Grant::Upload { generation, .. } => Ok(Uploaded { digest: *digest, generation }),
            Grant::Have => Err(unexpected("a grant for a new blob")),
        });
        uploaded.collect()
    }

    /// The cell has read the blob's object and its bytes are right.
    pub(super) fn verified(&mut self, uploaded: &Uploaded) -> Result<()> {
        let Uploaded { digest, generation } = *uploaded;
        let site = sitefs_base::SiteId::new(1);
        self.command(CommandBody::Verified { site, digest, generation }).map(drop)
    }

    pub(super) fn mkdir(&mut self, at: Place) -> Result<InodeId> {
        made(self.op(Op::Mkdir { at, create: owner() })?)
    }

    pub(super) fn ask(&self, reader: &Reader, question: &Query) -> Result<AnswerBody> {
        let answer = state::query(reader, self.volume, question)?;
        answer.map(|answer| answer.body).map_err(|errno| Error::refused(errno, "a question of the benchmark"))
    }

    /// A week goes by, after which nothing of the history is kept.
    pub(super) fn forget_history(&mut self) -> Result<()> {
        self.now = self.now.plus(WEEK);
        let (volume, before) = (self.volume, self.now);
        while let Reply::Horizon { more: true, .. } =
            self.command(CommandBody::MoveHorizon { volume, before })?
        {}
        Ok(())
    }

    /// Everything on disk and nothing left to compact.
    pub(super) fn rest(&self) -> Result<()> {
        self.store.flush()?;
        self.store.wait_for_compactions()
    }
}

/// The length of every file that is one blob.
pub(super) const FILE_LEN: u32 = 100_000;

pub(super) fn owner() -> Create {
    Create { mode: 0o644, umask: 0o022, uid: 33, gid: 33 }
}

pub(super) fn made(outcome: Outcome) -> Result<InodeId> {
    outcome.ino.ok_or_else(|| unexpected("an inode"))
}

pub(super) fn unexpected(what: &str) -> Error {
    Error::internal(format!("the reply to {what} is of another kind"))
}
