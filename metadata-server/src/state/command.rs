//! What the log carries, and what applying it gives.

use serde::{Deserialize, Serialize};
use sitefs_base::{
    Digest, Errno, Generation, GroupId, Incarnation, Moment, OpId, Seq, SessionId, SiteId, SnapshotName,
    Time, VolumeId, VolumeName,
    op::{Event, OpEnvelope, Outcome},
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
}

/// The reply to a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Done.
    Done,
    /// To `CreateVolume`.
    Volume(VolumeId),
    /// To `OpenSession`.
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
}
