//! Files that the kernel reads by itself (passthrough): their ids at the FUSE device.
#![allow(
    unsafe_code,
    reason = "rustix and fuser have no safe calls for leases, and for ids that outlive an open"
)]

use super::convert::GENERATION;
use crate::data::{Lender, Loan};
use fuser::{BackingId, FileAttr, FileHandle, FopenFlags, ReplyCreate, ReplyOpen};
use sitefs_blobstore::CachedBlob;
use std::{
    fs::File,
    io,
    mem::ManuallyDrop,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

/// FUSE_DEV_IOC_BACKING_CLOSE: `_IOW(229, 2, u32)`.
const BACKING_CLOSE: libc::Ioctl = 0x4004_e502;

/// A FUSE device to which files are lent.
pub(super) struct Backing {
    device: OwnedFd,
}

impl Backing {
    /// Lends through `device`, if the kernel takes files of `dir` and says whether they are used.
    pub(super) fn lender(device: OwnedFd, dir: &Path) -> io::Result<Arc<dyn Lender>> {
        // The default of this signal ends the process. A lease lasts for a moment only, but while there is one
        // whoever opens the file (a backup of the cache, say) sends it.
        // SAFETY: no handler is set, and none of this process is replaced.
        if unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
        let backing = Self { device };
        let path = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
        let made = File::options().write(true).mode(0o400).custom_flags(libc::O_TMPFILE).open(dir)?;
        let file = File::open(path(&made))?;
        drop(made);
        let id = BackingId::create_raw(&backing.device, &file)?;
        // As what is lent is opened when somebody writes to it.
        let written = File::options().read(true).write(true).open(path(&file));
        let while_open = lease(&file);
        let can_be_written = written.map(drop);
        let alone = lease(&file);
        backing.end(id);
        can_be_written?;
        match (while_open, alone) {
            (Ok(false), Ok(true)) => Ok(Arc::new(backing)),
            (Err(error), _) | (_, Err(error)) => Err(error),
            _ => Err(io::Error::other("leases of its file system do not tell who has a file open")),
        }
    }
}

impl Lender for Backing {
    fn lend(&self, blob: &CachedBlob) -> io::Result<u32> {
        BackingId::create_raw(&self.device, blob)
    }

    fn end(&self, id: u32) {
        // SAFETY: the kernel reads the id from a pointer that is good for the call. Of an id that it does not
        // know, or when the mount is gone, it says so, and nothing is left to do.
        let _ = unsafe { libc::ioctl(self.device.as_raw_fd(), BACKING_CLOSE, &raw const id) };
    }

    fn is_used(&self, blob: &CachedBlob) -> bool {
        // What cannot be told counts as used.
        !lease(blob).unwrap_or(false)
    }
}

/// Whether `file`, which is open for reading, is open and mapped nowhere else: only then a lease for writing is
/// granted. (The kernel's own reference for an id is to the same open file.) It is given back at once.
fn lease(file: &impl AsFd) -> io::Result<bool> {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open for the call, and neither command takes a pointer.
    if unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_WRLCK) } == 0 {
        // SAFETY: as above.
        return match unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) } {
            0 => Ok(true),
            _ => Err(io::Error::last_os_error()),
        };
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EAGAIN) => Ok(false),
        error => Err(error),
    }
}

/// Answers an open: the kernel reads from what is lent.
pub(super) fn opened(reply: ReplyOpen, fh: u64, loan: &Loan) {
    // SAFETY: the id is of this session, and is closed when the loan is dropped and not with this value.
    let id = ManuallyDrop::new(unsafe { reply.wrap_backing(loan.id()) });
    // Not NOFLUSH: fcntl locks that this descriptor sets are released by its flush.
    reply.opened_passthrough(FileHandle(fh), FopenFlags::empty(), &id);
}

/// The same for a create that found a file.
pub(super) fn created(reply: ReplyCreate, entry: (Duration, FileAttr), fh: FileHandle, loan: &Loan) {
    // SAFETY: as above.
    let id = ManuallyDrop::new(unsafe { reply.wrap_backing(loan.id()) });
    reply.created_passthrough(&entry.0, &entry.1, GENERATION, fh, FopenFlags::empty(), &id);
}
