//! Between fuser's types and ours.

use crate::fs::{Caller, KEEP, Lifetime, Opened, View};
use fuser::{FileAttr, FileType, FopenFlags, Generation, INodeNo, Request, TimeOrNow};
use sitefs_base::op::{Create, Place, SetTime};
use sitefs_base::{Attr, Errno, FileKind, InodeId, Name, Time, lock::LockOwner};
use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The most that one request copies: its reply has 32 bits.
pub const COPY_MAX: u64 = 1 << 31;

/// The block size that programs are told.
pub const BLOCK: u32 = 4096;

/// Inode numbers are never used again, so all nodes are of one generation.
pub const GENERATION: Generation = Generation(0);

pub fn ttl(lifetime: Lifetime) -> Duration {
    match lifetime {
        Lifetime::UntilChanged => KEEP,
        Lifetime::None => Duration::ZERO,
    }
}

pub fn errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.get())
}

pub fn inode(ino: INodeNo) -> InodeId {
    InodeId::new(ino.0)
}

/// Who locks.
pub fn lock_owner(owner: fuser::LockOwner) -> LockOwner {
    LockOwner::new(owner.0)
}

/// A place in the tree; names that no directory can hold are refused as POSIX says.
pub fn place(parent: INodeNo, name: &OsStr) -> Result<Place, Errno> {
    let bytes = name.as_bytes();
    let name = Name::new(bytes).map_err(|_| match bytes.len() {
        0 => Errno::ENOENT,
        len if len > Name::MAX_LEN => Errno::ENAMETOOLONG,
        _ => Errno::EINVAL,
    })?;
    Ok(Place { parent: inode(parent), name })
}

pub fn kind(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// The kind in the type bits of a mode; mknod(2) takes 0 for a regular file.
pub fn kind_of_mode(mode: u32) -> Option<FileKind> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Some(FileKind::File),
        libc::S_IFIFO => Some(FileKind::Fifo),
        libc::S_IFSOCK => Some(FileKind::Socket),
        libc::S_IFCHR => Some(FileKind::CharDevice),
        libc::S_IFBLK => Some(FileKind::BlockDevice),
        _ => None,
    }
}

pub fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).unwrap_or(0)
}

/// Attributes under the number `ino`.
pub fn attr(attr: &Attr, ino: InodeId) -> FileAttr {
    let size = if attr.kind == FileKind::Directory { u64::from(BLOCK) } else { attr.size };
    FileAttr {
        ino: INodeNo(ino.get()),
        size,
        blocks: attr.allocated.div_ceil(512),
        atime: attr.atime.into(),
        mtime: attr.mtime.into(),
        ctime: attr.ctime.into(),
        crtime: Time::EPOCH.into(),
        kind: kind(attr.kind),
        perm: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK,
        flags: 0,
    }
}

/// Attributes for an entry reply: the number is the node's.
pub fn entry_attr(view: &View) -> FileAttr {
    attr(&view.attr, view.node)
}

/// Stands for "no such name" in an entry reply.
pub fn no_entry() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

pub fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(received_time(time)),
    }
}

/// A time that fuser 0.18 took from a request. Before 1970 it has subtracted the nanoseconds, which
/// the kernel counts forward from the whole second (a note in its `time.rs` says so).
fn received_time(time: SystemTime) -> Time {
    match UNIX_EPOCH.duration_since(time) {
        Ok(before) if before.subsec_nanos() > 0 => {
            Time::new(-i64::try_from(before.as_secs()).unwrap_or(i64::MAX), before.subsec_nanos())
        }
        _ => time.into(),
    }
}

/// Who asks.
pub fn caller(req: &Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid() }
}

/// Owner and mode of what is created.
pub fn create_args(req: &Request, mode: u32, umask: u32) -> Create {
    Create { mode: permissions(mode), umask: permissions(umask), uid: req.uid(), gid: req.gid() }
}

/// How the kernel handles an opened file.
pub fn open_flags(opened: &Opened) -> FopenFlags {
    if opened.direct {
        FopenFlags::FOPEN_DIRECT_IO
    } else if opened.keep_cache {
        FopenFlags::FOPEN_KEEP_CACHE
    } else {
        FopenFlags::empty()
    }
}
