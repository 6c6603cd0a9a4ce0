//! The frames of a session stream (DESIGN D19), in domain types.
//!
//! One bidirectional stream per mount carries everything in order: events up to a reply's seq
//! come before the reply.

use crate::{
    Errno, GroupId, Incarnation, InodeId, Moment, OpId, Seq, SessionId, SiteId, VolumeId, VolumeName,
    VolumeSettings,
    lock::{HeldLock, LockAnswer, LockRequest},
    op::{Answer, Credit, Event, OpEnvelope, OpResult, Query, Usage},
};
use std::time::Duration;

/// The protocol versions that this build speaks; the higher common one is used (DESIGN D9).
pub const PROTOCOL_MIN: u32 = 1;
/// See [`PROTOCOL_MIN`].
pub const PROTOCOL_MAX: u32 = 1;

/// What a mount sends.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(clippy::large_enum_variant, reason = "most frames are operations, and few are in memory at a time")]
pub enum ToCell {
    /// The first frame of a stream, and only that.
    Attach(Attach),
    /// A mutation; answered by [`ToMount::OpReply`] with the same op id.
    Op(OpEnvelope),
    /// A question; answered by [`ToMount::Answer`] with the same tag.
    Query {
        /// Chosen by the mount, unique among its unanswered questions.
        tag: u64,
        /// The question.
        query: Query,
    },
    /// Asks for a renewal of the lease.
    Ping {
        /// The mount's CLOCK_BOOTTIME when it sent this; echoed.
        client_time: Duration,
        /// Events up to here have been applied and acknowledged.
        acked: Seq,
        /// What this mount needs of its credit.
        credit: CreditUse,
    },
    /// Events up to here have been applied.
    Ack {
        /// The last one.
        seq: Seq,
    },
    /// The mount ends in order; its session may be forgotten at once.
    Detach,
    /// A question about locks; answered by [`ToMount::LockReply`] with the same tag.
    Lock(LockRequest),
    /// The question with this tag need not be answered when it is granted: if it still waits, its answer
    /// is `EINTR`.
    CancelLock {
        /// The question's tag.
        tag: u64,
    },
    /// The first frame about locks on a stream: what the mount has locked, all of it. Answered with what
    /// it still has.
    ReclaimLocks {
        /// As of a question.
        tag: u64,
        /// The locks.
        locks: Vec<HeldLock>,
    },
}

/// Who a mount is and what it wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attach {
    /// The lowest protocol version that the mount speaks.
    pub protocol_min: u32,
    /// The highest.
    pub protocol_max: u32,
    /// The volume.
    pub volume: VolumeName,
    /// The session's id, made by the client, the same over re-attachments.
    pub session: SessionId,
    /// The group incarnation that the mount knows, if it was attached before.
    pub incarnation: Option<Incarnation>,
    /// The last event that the mount has applied; events go on behind it.
    pub since: Option<Seq>,
    /// The identity that the mount claims; counts only where the server runs in insecure mode.
    pub claimed_identity: String,
    /// The moment that the mount shows; now if not set.
    pub moment: Option<Moment>,
    /// The credit that the mount counts on: what it has in use, and what it was told last that it
    /// may use, for it goes on writing while it attaches.
    pub in_use: Credit,
    /// Whether it takes in [`ToMount::Credit`].
    pub hears_credit: bool,
}

/// What a mount says of its credit (DESIGN D17).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CreditUse {
    /// The growth of working copies and creates that are not committed, those included whose reply is
    /// on its way, and what writers wait for.
    pub in_use: Credit,
    /// Of that, what writers wait for.
    pub wanted: Credit,
    /// How many frames with a credit the mount has taken in on this stream. Without it the cell could
    /// not know when what it takes back is no longer counted on.
    pub frames: u64,
}

/// What the cell sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ToMount {
    /// The answer to a good [`Attach`].
    Attached(Attached),
    /// The answer to a mutation.
    OpReply {
        /// The operation.
        op: OpId,
        /// Its result.
        result: OpResult,
        /// The session's credit from now on, without what this operation used.
        credit: Credit,
    },
    /// The answer to a question.
    Answer {
        /// The question's tag.
        tag: u64,
        /// The answer, or the errno that the program sees.
        result: Result<Answer, Errno>,
    },
    /// A mutation by another session.
    Event(Event),
    /// The lease goes on.
    Renew {
        /// From the ping.
        client_time: Duration,
        /// How old the leader's contact with its quorum was when it answered.
        quorum_age: Duration,
        /// The volume's seq: a mount whose feed is behind it must not answer from caches.
        watermark: Seq,
        /// Space and inodes of the volume.
        usage: Usage,
        /// What operators chose about the volume.
        settings: VolumeSettings,
        /// The session's credit from now on: the most that it may have in use.
        credit: Credit,
    },
    /// The session's credit has changed while it was not asking, or its lease cannot be renewed now.
    Credit {
        /// The session's credit from now on: the most that it may have in use.
        credit: Credit,
        /// Space and inodes of the volume.
        usage: Usage,
        /// Whether somebody waits for what this mount gives back: it pings at once.
        answer: bool,
    },
    /// Events were lost: drop every cached row; the feed goes on behind `floor`.
    Resync {
        /// The seq from which the feed is complete.
        floor: Seq,
    },
    /// The stream ends; the reason says what to do.
    Closing(Closing),
    /// The answer to a question about locks. What others did before they unlocked was told before.
    LockReply {
        /// The question's tag.
        tag: u64,
        /// The answer, or the errno that the program sees.
        result: Result<LockAnswer, Errno>,
    },
}

/// What a mount learns at attach.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attached {
    /// The protocol version in use.
    pub protocol: u32,
    /// The cell's name.
    pub cell: String,
    /// The group that holds the volume.
    pub group: GroupId,
    /// The group's incarnation.
    pub incarnation: Incarnation,
    /// The site.
    pub site: SiteId,
    /// The volume.
    pub volume: VolumeId,
    /// The root directory.
    pub root: InodeId,
    /// The volume's seq; the feed goes on behind it, or behind `since` if it was resumed.
    pub seq: Seq,
    /// Whether events behind the mount's `since` follow; otherwise it must drop cached rows.
    pub resumed: bool,
    /// The highest op id that the cell has seen of this session; new ones must be above it.
    pub op_high_water: OpId,
    /// Whether the mount may not write.
    pub read_only: bool,
    /// Content up to this many bytes may be committed hot.
    pub hot_max: u32,
    /// Space and inodes of the volume.
    pub usage: Usage,
    /// The seq of the moment that the mount shows, if it asked for one: every answer holds at it, and
    /// no events come.
    pub at: Option<Seq>,
    /// What operators chose about the volume.
    pub settings: VolumeSettings,
    /// The session's credit: the most that it may have in use.
    pub credit: Credit,
}

/// Why a stream ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Closing {
    /// Ask the node at this address instead.
    NotHere {
        /// Its `HOST:PORT`, if known.
        leader: Option<String>,
    },
    /// The session was forgotten; begin a new one (operations are not repeated).
    SessionGone,
    /// Too many attach at once: come again later, but not sooner than this.
    Busy {
        /// How much later.
        retry_after: Duration,
    },
    /// The attach or a frame was refused; trying again will not help.
    Refused {
        /// What the caller should do.
        kind: crate::Kind,
        /// One line for people.
        reason: String,
    },
    /// The node is stopping or overloaded: try again later.
    Unavailable {
        /// One line for people.
        reason: String,
    },
}

/// Asks for the bytes of one blob through the cell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchBlob {
    /// An attached session of the volume.
    pub session: SessionId,
    /// The inode that references the blob.
    pub ino: InodeId,
    /// The blob.
    pub digest: crate::Digest,
}

/// Uploads the bytes of one blob through the cell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreBlob {
    /// An attached session of the volume.
    pub session: SessionId,
    /// The blob.
    pub digest: crate::Digest,
    /// The generation that was granted for this upload.
    pub generation: crate::Generation,
    /// Its bytes.
    pub bytes: bytes::Bytes,
}
