//! What a file tree is made of.

use crate::{Digest, InodeId, Seq, Time};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The kind of an inode; the numbers are part of the row and wire formats.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// Facts about an inode that spare a round trip.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
pub struct AttrFlags {
    /// The inode has at least one extended attribute (ACLs among them).
    pub has_xattrs: bool,
    /// The inode has an access ACL.
    pub has_access_acl: bool,
    /// The directory has a default ACL, which new entries inherit.
    pub has_default_acl: bool,
}

/// The attributes of an inode.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attr {
    /// The inode's number.
    pub ino: InodeId,
    /// Its kind.
    pub kind: FileKind,
    /// Permission bits, set-id bits and the sticky bit: 0o7777 at most.
    pub mode: u16,
    /// The owning user.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// The number of names; of a directory 2 plus its subdirectories.
    pub nlink: u32,
    /// The length in bytes; of a symlink the length of its target.
    pub size: u64,
    /// The bytes that content really takes: the size without holes.
    pub allocated: u64,
    /// The device number of a device node.
    pub rdev: u32,
    /// Last access, as far as it was set: reading does not move it.
    pub atime: Time,
    /// Last change of content, or of the entries of a directory.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
    /// The seq of the last change of content.
    pub cver: Seq,
    /// Facts that spare a round trip.
    pub flags: AttrFlags,
}

/// A run of a file that lies in one blob.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Extent {
    /// Where the run begins in the file, in bytes.
    pub offset: u64,
    /// Its length in bytes, at least 1.
    pub len: u32,
    /// The blob that holds it.
    pub digest: Digest,
    /// Where it begins in the blob, in bytes.
    pub blob_offset: u32,
}

impl Extent {
    /// The first byte of the file behind this run.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }
}

/// What an inode row holds beside the attributes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Content {
    /// Nothing: an empty file, a directory, a special file.
    Empty,
    /// A small file, whole.
    Inline(Bytes),
    /// The layout of a file of few extents, ascending and disjoint; what lies between is a hole.
    Extents(Vec<Extent>),
    /// The layout stands in chunk rows.
    Chunked,
    /// The target of a symbolic link.
    Target(Bytes),
}

/// An inode as readers see it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Inode {
    /// Its attributes.
    pub attr: Attr,
    /// Its content, or where that is found.
    pub content: Content,
}
