//! Attributes, content, inodes.

use super::{digest, digest_bytes, list, mode, need, short, time};
use crate::pb;
use sitefs_base::{
    Attr, AttrFlags, Content, Error, Extent, FileKind, Inode, InodeId, Result, Seq, limits, op::ChunkLayout,
};

/// While S3 is down a chunk may have so many extents (DESIGN D5).
const EXTENTS_MAX: usize = 1024;

impl From<FileKind> for pb::FileKind {
    fn from(kind: FileKind) -> Self {
        match kind {
            FileKind::File => Self::File,
            FileKind::Directory => Self::Directory,
            FileKind::Symlink => Self::Symlink,
            FileKind::Fifo => Self::Fifo,
            FileKind::Socket => Self::Socket,
            FileKind::CharDevice => Self::CharDevice,
            FileKind::BlockDevice => Self::BlockDevice,
        }
    }
}

pub(super) fn file_kind(raw: i32) -> Result<FileKind> {
    match pb::FileKind::try_from(raw) {
        Ok(pb::FileKind::File) => Ok(FileKind::File),
        Ok(pb::FileKind::Directory) => Ok(FileKind::Directory),
        Ok(pb::FileKind::Symlink) => Ok(FileKind::Symlink),
        Ok(pb::FileKind::Fifo) => Ok(FileKind::Fifo),
        Ok(pb::FileKind::Socket) => Ok(FileKind::Socket),
        Ok(pb::FileKind::CharDevice) => Ok(FileKind::CharDevice),
        Ok(pb::FileKind::BlockDevice) => Ok(FileKind::BlockDevice),
        Ok(pb::FileKind::Unspecified) | Err(_) => {
            Err(Error::invalid(format!("{raw} is not a kind of inode")))
        }
    }
}

impl From<Attr> for pb::Attr {
    fn from(attr: Attr) -> Self {
        Self {
            ino: attr.ino.get(),
            kind: pb::FileKind::from(attr.kind).into(),
            mode: attr.mode.into(),
            uid: attr.uid,
            gid: attr.gid,
            nlink: attr.nlink,
            size: attr.size,
            allocated: attr.allocated,
            rdev: attr.rdev,
            atime: Some(attr.atime.into()),
            mtime: Some(attr.mtime.into()),
            ctime: Some(attr.ctime.into()),
            cver: attr.cver.get(),
            has_xattrs: attr.flags.has_xattrs,
            has_access_acl: attr.flags.has_access_acl,
            has_default_acl: attr.flags.has_default_acl,
        }
    }
}

impl TryFrom<pb::Attr> for Attr {
    type Error = Error;
    fn try_from(attr: pb::Attr) -> Result<Self> {
        Ok(Self {
            ino: InodeId::new(attr.ino),
            kind: file_kind(attr.kind)?,
            mode: mode(attr.mode)?,
            uid: attr.uid,
            gid: attr.gid,
            nlink: attr.nlink,
            size: attr.size,
            allocated: attr.allocated,
            rdev: attr.rdev,
            atime: time(attr.atime)?,
            mtime: time(attr.mtime)?,
            ctime: time(attr.ctime)?,
            cver: Seq::new(attr.cver),
            flags: AttrFlags {
                has_xattrs: attr.has_xattrs,
                has_access_acl: attr.has_access_acl,
                has_default_acl: attr.has_default_acl,
            },
        })
    }
}

impl From<Extent> for pb::Extent {
    fn from(extent: Extent) -> Self {
        Self {
            offset: extent.offset,
            len: extent.len,
            digest: digest_bytes(&extent.digest),
            blob_offset: extent.blob_offset,
        }
    }
}

impl TryFrom<pb::Extent> for Extent {
    type Error = Error;
    fn try_from(extent: pb::Extent) -> Result<Self> {
        let in_blob = u64::from(extent.blob_offset) + u64::from(extent.len);
        let in_file = extent.offset.checked_add(u64::from(extent.len));
        if extent.len == 0 || in_blob > limits::CHUNK_SIZE || in_file.is_none_or(|end| end > limits::FILE_MAX)
        {
            return Err(Error::invalid(format!(
                "an extent of {} bytes at {} (in its blob at {}) is out of bounds",
                extent.len, extent.offset, extent.blob_offset
            )));
        }
        Ok(Self {
            offset: extent.offset,
            len: extent.len,
            digest: digest(&extent.digest)?,
            blob_offset: extent.blob_offset,
        })
    }
}

impl From<ChunkLayout> for pb::ChunkLayout {
    fn from(layout: ChunkLayout) -> Self {
        Self { chunk: layout.chunk, extents: layout.extents.into_iter().map(Into::into).collect() }
    }
}

impl TryFrom<pb::ChunkLayout> for ChunkLayout {
    type Error = Error;
    fn try_from(layout: pb::ChunkLayout) -> Result<Self> {
        Ok(Self {
            chunk: layout.chunk,
            extents: list(layout.extents, EXTENTS_MAX, "extents", Extent::try_from)?,
        })
    }
}

impl From<Inode> for pb::Inode {
    fn from(inode: Inode) -> Self {
        use pb::inode::Content as Wire;
        let content = match inode.content {
            Content::Empty => None,
            Content::Inline(bytes) => Some(Wire::Inline(bytes)),
            Content::Extents(extents) => {
                Some(Wire::Extents(pb::Extents { extents: extents.into_iter().map(Into::into).collect() }))
            }
            Content::Chunked => Some(Wire::Chunked(pb::Empty {})),
            Content::Target(target) => Some(Wire::Target(target)),
        };
        Self { attr: Some(inode.attr.into()), content }
    }
}

impl TryFrom<pb::Inode> for Inode {
    type Error = Error;
    fn try_from(inode: pb::Inode) -> Result<Self> {
        use pb::inode::Content as Wire;
        let content = match inode.content {
            None => Content::Empty,
            Some(Wire::Inline(bytes)) => Content::Inline(short(bytes, limits::INLINE_MAX, "inline content")?),
            Some(Wire::Extents(pb::Extents { extents })) => {
                Content::Extents(list(extents, EXTENTS_MAX, "extents", Extent::try_from)?)
            }
            Some(Wire::Chunked(pb::Empty {})) => Content::Chunked,
            Some(Wire::Target(target)) => {
                Content::Target(short(target, limits::SYMLINK_MAX, "a symlink target")?)
            }
        };
        Ok(Self { attr: need(inode.attr, "attributes")?.try_into()?, content })
    }
}
