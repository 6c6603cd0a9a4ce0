//! What the log carries, and what applying it gives.

use super::KeptBackups;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sitefs_base::{
    CellChange, Digest, Errno, Extent, Generation, GroupId, Incarnation, InodeId, Moment, OpId, Rates, Seq,
    SessionId, SiteId, SnapshotName, Time, VolumeChange, VolumeId, VolumeName,
    op::{BlobWanted, Credit, Event, OpEnvelope, Outcome, Place},
};

/// One entry for the state machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Command {
    /// Stamped by the leader: its clock, but later than every command before (DESIGN D8).
    pub at: Time,
    /// What to do.
    pub body: CommandBody,
}

/// What a command does.
#[allow(clippy::large_enum_variant, reason = "nearly every command is the large one, an operation")]
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CommandBody {
    /// Nothing; a new leader commits one before it serves (DESIGN D11).
    Noop,
    /// Makes an empty group; refused with `EEXIST` if there is one.
    Init {
        /// The cell's name.
        cell: String,
        /// The group's number.
        group: GroupId,
        /// The first incarnation.
        incarnation: Incarnation,
    },
    /// Makes a volume, and its site if that is new.
    CreateVolume {
        /// The name; `EEXIST` if taken.
        name: VolumeName,
        /// Its limits.
        limits: VolumeLimits,
        /// The owner of the root directory.
        uid: u32,
        /// The group of the root directory.
        gid: u32,
        /// The mode of the root directory.
        mode: u16,
    },
    /// Begins a session, or finds it again. Of a moment: `ENOENT`, `ESTALE` or `EINVAL` as
    /// [`seq_at`](super::seq_at) refuses it, `EDQUOT` if too many are pinned.
    OpenSession {
        /// The volume.
        volume: VolumeId,
        /// The session.
        session: SessionId,
        /// The moment that it reads, and pins while it lives. A session that is found again keeps
        /// its pin; `EINVAL` if it has none.
        at: Option<Moment>,
    },
    /// Forgets a session; its later operations are refused with `ESTALE`.
    CloseSession {
        /// The volume.
        volume: VolumeId,
        /// The session.
        session: SessionId,
    },
    /// Forgets the sessions that were last used before `before` (at most 1,000 per command).
    ExpireSessions {
        /// The moment.
        before: Time,
    },
    /// A mutation by a mount.
    Op {
        /// The volume.
        volume: VolumeId,
        /// The operation.
        envelope: OpEnvelope,
        /// Growth beyond the volume's limits that the leader has promised to the session (DESIGN D17).
        credit: Credit,
    },
    /// The bytes of a hot blob are in the object store now: its row says so, the bytes go.
    /// Does nothing unless the row still has this generation and is hot.
    Drained {
        /// The site.
        site: SiteId,
        /// The blob.
        digest: Digest,
        /// Its generation.
        generation: Generation,
    },
    /// The cell has read the object and its bytes have the right digest (DESIGN D33).
    Verified {
        /// The site.
        site: SiteId,
        /// The blob.
        digest: Digest,
        /// Its generation.
        generation: Generation,
    },
    /// The leader joins neighbouring extents of a file into one (DESIGN D5).
    Merged {
        /// The volume.
        volume: VolumeId,
        /// What it does.
        step: MergeStep,
    },
    /// Makes a snapshot, at a cost that does not depend on the volume's size. `EEXIST` if the name is
    /// taken, `EDQUOT` if there are too many.
    CreateSnapshot {
        /// The volume.
        volume: VolumeId,
        /// The snapshot's name.
        name: SnapshotName,
        /// A time of the past; now if not set.
        at: Option<Time>,
    },
    /// Forgets a snapshot; `ENOENT` if there is none of that name.
    DeleteSnapshot {
        /// The volume.
        volume: VolumeId,
        /// The snapshot's name.
        name: SnapshotName,
    },
    /// Moves the horizon of a volume: history before a time is dropped, and what is over the volume's
    /// history budget, but for pins. Never back, and not into the second that is under way.
    MoveHorizon {
        /// The volume.
        volume: VolumeId,
        /// Times from here on must stay readable, as far as the budget goes.
        before: Time,
    },
    /// Changes settings and limits of a volume.
    SetVolume {
        /// The volume; `ENOENT` if it is gone.
        volume: VolumeId,
        /// What changes; `EINVAL` if no volume could be so.
        change: VolumeChange,
    },
    /// Deletes a volume; [`Self::Reap`] removes its rows.
    DeleteVolume {
        /// The volume; `ENOENT` if it is gone.
        volume: VolumeId,
    },
    /// Removes about 1,000 rows that await removal; the reply says whether there are more.
    Reap {
        /// The volume.
        volume: VolumeId,
    },
    /// Begins to bring back something of the past. A file that is still in its place has its content
    /// and attributes back at once; of everything else a copy is begun that has no name yet.
    StartRestore {
        /// The volume.
        volume: VolumeId,
        /// What, and where to.
        restore: Restore,
    },
    /// Copies about 1,000 rows more; the reply says whether there are more.
    StepRestore {
        /// The volume.
        volume: VolumeId,
        /// The restore; `ENOENT` if there is none of this number.
        job: InodeId,
    },
    /// Ends a restore.
    EndRestore {
        /// The volume.
        volume: VolumeId,
        /// The restore; `ENOENT` if there is none of this number.
        job: InodeId,
        /// How.
        end: RestoreEnd,
    },
    /// The cell has read the blob and its bytes are wrong or not there (DESIGN D33).
    /// Does nothing unless the row still has this generation.
    Damaged {
        /// The site.
        site: SiteId,
        /// The blob.
        digest: Digest,
        /// Its generation.
        generation: Generation,
    },
    /// Makes a large file shorter by about 1,000 chunks, before an operation that would cut off more
    /// (see [`cuts`](super::cuts)). Does nothing if it is not longer than that.
    Shorten {
        /// The volume.
        volume: VolumeId,
        /// The file.
        ino: InodeId,
        /// Its length from now on.
        size: u64,
    },
    /// Finds a session again that was begun before; `ESTALE` if it is forgotten (DESIGN D12).
    ResumeSession {
        /// The volume.
        volume: VolumeId,
        /// The session.
        session: SessionId,
    },
    /// Changes settings of the cell.
    SetCell {
        /// What changes.
        change: CellChange,
    },
    /// Says which backups a place keeps now.
    BackupsKept {
        /// The place and its backups.
        kept: KeptBackups,
    },
    /// Raises the cell to a version of commands and behaviours (DESIGN D9); a node that does not know it stops.
    Upgrade {
        /// The version; `EINVAL` if the cell is beyond it.
        version: u16,
    },
    /// Says how fast the mounts of a volume may change it; `ENOENT` if there is no such volume.
    SetRates {
        /// The volume.
        volume: VolumeId,
        /// The rates.
        rates: Rates,
    },
}

/// What is brought back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Restore {
    /// The moment; `ESTALE` if history does not hold it exactly.
    pub seq: Seq,
    /// The inode at that moment.
    pub source: InodeId,
    /// The place where it is put.
    pub to: Place,
}

/// How a restore ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RestoreEnd {
    /// The whole copy gets its name; what had it becomes an orphan.
    Publish,
    /// The copy becomes an orphan.
    Abandon,
}

/// How far a restore has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RestoreState {
    /// The restore; `None` if all is done.
    pub job: Option<InodeId>,
    /// Files, directories and others copied.
    pub entries: u64,
    /// Bytes of content that they have.
    pub bytes: u64,
    /// Whether there is more to copy.
    pub more: bool,
}

/// A step of joining extents.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MergeStep {
    /// Draws a generation for a joined blob that is too large to travel in a command.
    Upload {
        /// The blob.
        blob: BlobWanted,
    },
    /// The joined blob takes the place of the extents, if they are still there as they were read.
    /// Readers see no difference, and the content version does not move.
    Replace {
        /// The file.
        ino: InodeId,
        /// The extents as they were read: at least two neighbours without a hole, in one chunk.
        old: Vec<Extent>,
        /// What they are joined to.
        new: Joined,
    },
}

/// A blob that holds what several extents held.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Joined {
    /// It comes with the command.
    Hot {
        /// The digest of `bytes`, computed by the leader.
        digest: Digest,
        /// At most [`sitefs_base::limits::HOT_MAX`] bytes.
        bytes: Bytes,
    },
    /// The leader has put it into the object store.
    Object {
        /// The blob.
        digest: Digest,
        /// The generation that was drawn for it; none if the store had it.
        generation: Option<Generation>,
    },
}

/// What a volume may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumeLimits {
    /// Bytes of content.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// What applying a command gave: the reply, and events for the watchers of volumes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// The reply, or the errno of the refusal.
    pub reply: Result<Reply, Errno>,
    /// At most one event per volume touched.
    pub event: Option<(VolumeId, Event)>,
    /// A chunk that should be merged. Losing this loses nothing: the next append says it again.
    pub crowded: Option<CrowdedChunk>,
    /// What the volume uses more than before; nothing if it uses less.
    pub grown: Credit,
}

/// A chunk with more extents than it should have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct CrowdedChunk {
    /// The volume.
    pub volume: VolumeId,
    /// The file.
    pub ino: InodeId,
    /// The chunk's number.
    pub chunk: u32,
}

/// The reply to a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Done.
    Done,
    /// To `CreateVolume`.
    Volume(VolumeId),
    /// To `OpenSession` and `ResumeSession`.
    Session {
        /// The site of the volume.
        site: SiteId,
        /// The volume's seq.
        seq: Seq,
        /// The highest op id executed for this session.
        op_high_water: OpId,
        /// The seq that it reads and pins, if it is one of the past.
        at: Option<Seq>,
    },
    /// To `Op`.
    Op(Box<Outcome>),
    /// To `CreateSnapshot`: the seq that it pins.
    Snapshot(Seq),
    /// To `MoveHorizon`.
    Horizon {
        /// Where the horizon is now.
        horizon: Seq,
        /// Whether rows below it are left, so that the command should be repeated.
        more: bool,
    },
    /// To `Reap`.
    Reaped {
        /// Whether there is more to remove.
        more: bool,
    },
    /// To `Shorten`: the file's content version, if this step made it.
    Shortened(Option<Seq>),
    /// To the commands of a restore.
    Restore(RestoreState),
    /// To [`MergeStep::Upload`]: the generation, or `None` if the store has the blob.
    Upload(Option<Generation>),
}
