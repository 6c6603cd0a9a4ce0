//! What the log carries, and what applying it gives.

use serde::{Deserialize, Serialize};
use sitefs_base::{
    Digest, Errno, Generation, GroupId, Incarnation, OpId, Seq, SessionId, SiteId, Time, VolumeId,
    VolumeName,
    op::{Credit, Event, OpEnvelope, Outcome},
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
    /// Begins a session, or finds it again.
    OpenSession {
        /// The volume.
        volume: VolumeId,
        /// The session.
        session: SessionId,
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
    /// What the volume uses more than before; nothing if it uses less.
    pub grown: Credit,
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
    },
    /// To `Op`.
    Op(Box<Outcome>),
}
