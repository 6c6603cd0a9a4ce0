//! The metadata protocol in domain types: what a mount asks of its cell, and what it hears.
//!
//! Mutations ([`Op`]) go through the log and are executed exactly once per `(session, op id)`.
//! Queries are answered from applied state at a known seq. The wire forms live in `sitefs-proto`,
//! the log form in `sitefs-metadata`.

use crate::{
    Attr, Digest, Errno, Extent, FileKind, Generation, Inode, InodeId, Name, OpId, Seq, SessionId, Time,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A place in the tree: a directory and a name in it.
#[derive(Clone, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The directory.
    pub parent: InodeId,
    /// The name in it.
    pub name: Name,
}

/// A mutation with what makes it exactly-once (DESIGN D12).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OpEnvelope {
    /// The session that asks.
    pub session: SessionId,
    /// The number of this operation within the session.
    pub op: OpId,
    /// The client needs no reply of an operation below this number any more.
    pub ack_below: OpId,
    /// The operation.
    pub body: Op,
}

/// A mutation of one volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "most operations are commits, and few are in memory at a time")]
pub enum Op {
    /// New content, attributes and perhaps the first name of a file.
    Commit(Commit),
    /// Changes attributes; with `size`, truncates or extends.
    SetAttr {
        /// The inode.
        ino: InodeId,
        /// The changes.
        set: SetAttr,
    },
    /// Makes a directory.
    Mkdir {
        /// Where.
        at: Place,
        /// Its owner and mode.
        create: Create,
    },
    /// Makes a symbolic link.
    Symlink {
        /// Where.
        at: Place,
        /// What it points to.
        target: Bytes,
        /// Its owner.
        create: Create,
    },
    /// Makes an empty file, fifo, socket or device node.
    Mknod {
        /// Where.
        at: Place,
        /// What.
        kind: FileKind,
        /// The device number of a device node, else 0.
        rdev: u32,
        /// Its owner and mode.
        create: Create,
    },
    /// Gives an inode another name.
    Link {
        /// The inode; not a directory.
        ino: InodeId,
        /// The new name.
        at: Place,
    },
    /// Removes a name that is not a directory.
    Unlink {
        /// The name.
        at: Place,
    },
    /// Removes an empty directory.
    Rmdir {
        /// The name.
        at: Place,
    },
    /// Moves a name.
    Rename {
        /// From here.
        from: Place,
        /// To here.
        to: Place,
        /// What an existing target means.
        mode: RenameMode,
    },
    /// Sets an extended attribute. `system.posix_acl_access` also changes the mode.
    SetXattr {
        /// The inode.
        ino: InodeId,
        /// The full name, for example `user.a`.
        name: Bytes,
        /// The value.
        value: Bytes,
        /// What an existing attribute means.
        mode: XattrMode,
    },
    /// Removes an extended attribute.
    RemoveXattr {
        /// The inode.
        ino: InodeId,
        /// The full name.
        name: Bytes,
    },
    /// Reserves inode numbers for files that this session will create.
    AllocInodes {
        /// How many, at most [`crate::limits::INODE_RANGE`].
        count: u32,
    },
    /// Asks for permission to upload blobs that are about to be committed.
    Grant {
        /// The blobs wanted.
        blobs: Vec<BlobWanted>,
    },
    /// Adds bytes at the end that the file has when this is executed, so that appends of several
    /// mounts lose nothing and never conflict (DESIGN D5).
    Append {
        /// The file. Without names it takes no bytes and the append is dropped.
        ino: InodeId,
        /// 1 to [`crate::limits::HOT_MAX`] bytes.
        bytes: Bytes,
        /// When the program wrote, by the client's clock: as in [`Commit::changed`], and the mtime.
        changed: Option<Time>,
        /// Clear set-id bits because an unprivileged program wrote.
        kill_setid: bool,
    },
    /// Makes a range of a file read as zeros without moving data; the length stays.
    Punch {
        /// The file.
        ino: InodeId,
        /// Where the range begins, in bytes.
        offset: u64,
        /// Its length, at least 1; at most [`crate::limits::COMMIT_CHUNKS_MAX`] chunks.
        len: u64,
    },
    /// Copies a range of a file by reference, as copy_file_range(2) does by bytes. What lies behind
    /// the source's end, or beyond [`crate::limits::COMMIT_CHUNKS_MAX`] chunks, is not copied.
    CloneRange {
        /// The source.
        from: InodeId,
        /// Where the range begins in the source, in bytes.
        from_offset: u64,
        /// The target; may be the source if the ranges do not overlap.
        to: InodeId,
        /// Where the range begins in the target, in bytes.
        to_offset: u64,
        /// The length of the range in bytes.
        len: u64,
        /// If set, refuse with `ESTALE` unless the source's content version is this.
        expect_from_cver: Option<Seq>,
    },
}

/// A blob that a client wants to upload.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BlobWanted {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes, 1 to [`crate::limits::CHUNK_SIZE`].
    pub len: u32,
}

/// Publishes content, attributes and perhaps a name in one mutation (DESIGN D4).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Commit {
    /// The inode: an existing one, or one of the session's range together with `create`.
    pub ino: InodeId,
    /// If set, refuse with `ESTALE` unless the inode's content version is this.
    pub expect_cver: Option<Seq>,
    /// New content, if it changed.
    pub content: Option<NewContent>,
    /// Changes of attributes. `set.size` must not be used here; `set.mtime` is the last write.
    pub set: SetAttr,
    /// When the last of these changes was made, by the client's clock: becomes the ctime, not after
    /// the time of execution and not before the one it had. Without it: the time of execution.
    pub changed: Option<Time>,
    /// Creates the inode if it does not exist.
    pub create: Option<Create>,
    /// Publishes the inode under this name.
    pub link: Option<Publish>,
    /// Blobs of `content` that this client has uploaded, with the generation granted for each.
    pub uploaded: Vec<Uploaded>,
}

/// A finished upload.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Uploaded {
    /// The blob.
    pub digest: Digest,
    /// The generation that was granted.
    pub generation: Generation,
}

/// The name under which a commit publishes a new inode.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Publish {
    /// The name.
    pub at: Place,
    /// If the name exists: refuse with `EEXIST` (true), or commit into the inode found (false).
    pub exclusive: bool,
}

/// The whole content of a file, or its changed chunks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum NewContent {
    /// The whole file, at most [`crate::limits::INLINE_MAX`] bytes.
    Inline(Bytes),
    /// The whole file as one blob that the cell keeps until it is in the object store.
    Hot {
        /// The digest of `bytes`, checked by the leader.
        digest: Digest,
        /// At most [`crate::limits::HOT_MAX`] bytes.
        bytes: Bytes,
    },
    /// Changed chunks of a file of `size` bytes. Unchanged chunks below `size` stay; everything
    /// from `size` on is dropped. A file that was inline counts as all chunks changed.
    Chunks {
        /// The new length in bytes.
        size: u64,
        /// Chunk number and its whole new layout; no extents means a hole.
        changed: Vec<ChunkLayout>,
    },
}

/// The extents of one chunk of [`crate::limits::CHUNK_SIZE`] bytes, ascending, disjoint and inside it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChunkLayout {
    /// The chunk's number: file offset / chunk size.
    pub chunk: u32,
    /// Its extents, with offsets in the file.
    pub extents: Vec<Extent>,
}

/// The owner and mode of a new inode.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Create {
    /// Permission bits as the program asked for them.
    pub mode: u16,
    /// The program's umask, used unless the directory has a default ACL.
    pub umask: u16,
    /// The program's user.
    pub uid: u32,
    /// The program's group, used unless the directory is set-group-id.
    pub gid: u32,
}

/// Changes of attributes; `None` leaves one as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SetAttr {
    /// New permission bits.
    pub mode: Option<u16>,
    /// New owner; clears set-id bits of files.
    pub uid: Option<u32>,
    /// New group; clears set-id bits of files.
    pub gid: Option<u32>,
    /// New length in bytes.
    pub size: Option<u64>,
    /// New access time.
    pub atime: Option<SetTime>,
    /// New modification time.
    pub mtime: Option<SetTime>,
    /// Clear set-id bits because an unprivileged program wrote or truncated.
    pub kill_setid: bool,
}

impl SetAttr {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SetTime {
    /// The time at which the cell executes the operation.
    Now,
    /// Exactly this time, as `utimensat` gives it.
    At(Time),
    /// When a write happened by the client's clock: clamped to the time of execution.
    Written(Time),
}

/// What an existing target of a rename means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RenameMode {
    /// It is replaced.
    Replace,
    /// `EEXIST`.
    NoReplace,
    /// Both names swap their inodes; a missing target is `ENOENT`.
    Exchange,
}

/// What an existing extended attribute means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum XattrMode {
    /// Set in any case.
    Any,
    /// `EEXIST` if it exists.
    Create,
    /// `ENODATA` unless it exists.
    Replace,
}

/// The result of a mutation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The volume's seq after the operation; an operation that changed nothing leaves it.
    pub seq: Seq,
    /// The inode made, found or changed.
    pub ino: Option<InodeId>,
    /// The attributes, after the operation, of every inode that it touched and that still exists:
    /// the inode itself, its directories, a replaced target that has other names.
    pub attrs: Vec<Attr>,
    /// What some operations return beside.
    pub extra: Extra,
}

/// What some operations return beside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Extra {
    /// Nothing.
    None,
    /// The first number of the range reserved by [`Op::AllocInodes`], and its length.
    Inodes {
        /// The first number.
        first: InodeId,
        /// How many.
        count: u32,
    },
    /// The answers to [`Op::Grant`], in order.
    Grants(Vec<Grant>),
    /// The commit went to an inode without names and was dropped (DESIGN D4).
    Dropped,
    /// Where the bytes of an [`Op::Append`] landed.
    Appended {
        /// The offset in the file, in bytes.
        offset: u64,
    },
    /// How many bytes an [`Op::CloneRange`] copied.
    Cloned {
        /// The length in bytes.
        len: u64,
    },
}

/// The answer to one [`BlobWanted`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Grant {
    /// The store has it: commit without uploading.
    Have,
    /// Upload it, then name digest and generation in the commit.
    Upload {
        /// The generation drawn for this upload.
        generation: Generation,
        /// Where to send the bytes.
        target: Location,
    },
}

/// Where the bytes of a blob are sent or fetched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Location {
    /// Through the cell, on the session's channel.
    Cell,
    /// Directly, by a presigned request.
    Url {
        /// The full URL.
        url: String,
        /// Headers that must be sent exactly so.
        headers: Vec<(String, String)>,
        /// Until when it is valid, by the cell's clock.
        expires: Time,
    },
}

/// A question that changes nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Query {
    /// The inode under a name.
    Lookup {
        /// The name.
        at: Place,
    },
    /// An inode by number.
    Inode {
        /// The inode.
        ino: InodeId,
    },
    /// Many inodes by number.
    Inodes {
        /// The inodes, at most [`crate::limits::LISTING_PAGE`].
        inos: Vec<InodeId>,
    },
    /// Entries of a directory in byte order of their names.
    ReadDir {
        /// The directory.
        dir: InodeId,
        /// Names after this one; from the beginning if not set.
        after: Option<Name>,
        /// At most so many, up to [`crate::limits::LISTING_PAGE`].
        limit: u32,
    },
    /// Layout rows of a chunked file.
    Chunks {
        /// The inode.
        ino: InodeId,
        /// The content version whose rows are wanted if the inode is gone: history may have them.
        cver: Option<Seq>,
        /// The first chunk.
        first: u32,
        /// How many, at most [`crate::limits::COMMIT_CHUNKS_MAX`].
        count: u32,
    },
    /// All extended attributes.
    Xattrs {
        /// The inode.
        ino: InodeId,
    },
    /// Where blobs that the inode references can be read (DESIGN D34).
    Resolve {
        /// The inode whose layout names the digests, now or in retained history.
        ino: InodeId,
        /// The blobs.
        digests: Vec<Digest>,
    },
    /// Space and inodes used and allowed.
    Usage,
    /// Reserves a name for an exclusive create, in the leader's memory (DESIGN D14).
    Reserve {
        /// The name; `EEXIST` if it exists or somebody else has reserved it.
        at: Place,
    },
}

/// The answer to a [`Query`], true at `seq`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The volume's seq at which the answer holds.
    pub seq: Seq,
    /// The answer itself.
    pub body: AnswerBody,
}

/// The answers, one per kind of question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AnswerBody {
    /// To `Lookup` (`None`: no such name, in a directory that exists) and `Inode`.
    Inode(Option<Inode>),
    /// To `Inodes`: those that exist, in order.
    Inodes(Vec<Inode>),
    /// To `ReadDir`.
    Entries {
        /// The directory's own attributes.
        dir: Attr,
        /// The parent of the directory; of the root itself.
        parent: InodeId,
        /// The entries.
        entries: Vec<Entry>,
        /// Whether these were the last ones.
        complete: bool,
    },
    /// To `Chunks`: only chunks that have extents.
    Chunks(Vec<ChunkLayout>),
    /// To `Xattrs`: names and values.
    Xattrs(Vec<(Bytes, Bytes)>),
    /// To `Resolve`, in order; `None` for a digest that the inode does not reference.
    Locations(Vec<Option<Location>>),
    /// To `Usage`.
    Usage(Usage),
    /// To `Reserve`.
    Reserved,
}

/// A directory entry with its inode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The name.
    pub name: Name,
    /// The inode.
    pub inode: Inode,
}

/// Space and inodes of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes of content, holes not counted.
    pub bytes_used: u64,
    /// The limit in bytes.
    pub bytes_limit: u64,
    /// Inodes.
    pub inodes_used: u64,
    /// The limit.
    pub inodes_limit: u64,
}

/// Space and inodes that a session may use without asking (DESIGN D17).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Credit {
    /// Bytes of content, holes not counted.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

impl Credit {
    /// Nothing.
    pub const NONE: Self = Self { bytes: 0, inodes: 0 };

    /// Whether both parts are at least as large as those of `other`.
    pub const fn covers(self, other: Self) -> bool {
        self.bytes >= other.bytes && self.inodes >= other.inodes
    }

    /// The sum of each part.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    /// Each part less that of `other`, at least nothing.
    #[must_use]
    pub fn less(self, other: Self) -> Self {
        self.with(other, u64::saturating_sub)
    }

    /// The smaller of each part.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        self.with(other, u64::min)
    }

    /// The larger of each part.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        self.with(other, u64::max)
    }

    fn with(self, other: Self, each: impl Fn(u64, u64) -> u64) -> Self {
        Self { bytes: each(self.bytes, other.bytes), inodes: each(self.inodes, other.inodes) }
    }
}

impl Usage {
    /// What is allowed in all.
    pub const fn limit(&self) -> Credit {
        Credit { bytes: self.bytes_limit, inodes: self.inodes_limit }
    }

    /// What is used.
    pub const fn used(&self) -> Credit {
        Credit { bytes: self.bytes_used, inodes: self.inodes_used }
    }
}

/// A committed mutation as other mounts hear of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Its position.
    pub seq: Seq,
    /// The session that did it.
    pub origin: SessionId,
    /// What is no longer as it was.
    pub changes: Vec<Change>,
}

/// Something that is no longer as it was.
#[derive(Clone, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
pub enum Change {
    /// A name leads to another inode, or to none.
    Name(Place),
    /// Attributes of an inode.
    Attr(InodeId),
    /// Content (and attributes) of an inode.
    Content(InodeId),
    /// Extended attributes (and attributes) of an inode.
    Xattr(InodeId),
}

/// The answer to a mutation: an outcome, or a refusal with the errno that the program sees.
pub type OpResult = Result<Outcome, Errno>;
