//! Files of the cache that are open.

use super::index::FileIdentity;
use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// A blob that is open: while it is held it is not evicted.
#[derive(Clone, Debug)]
pub struct CachedBlob {
    pub(super) file: Arc<OpenFile>,
    /// Its size in bytes.
    pub len: u64,
    pub(super) identity: FileIdentity,
}

impl CachedBlob {
    /// Whether the file is still the one that was hashed: somebody may have written to it, or taken it
    /// away. If not the blob has to be opened again.
    pub fn is_unchanged(&self) -> bool {
        FileIdentity::of(&self.file.file).is_ok_and(|now| now == self.identity)
    }

    /// Whether it was taken out of the cache: somebody writes to it.
    pub fn is_given_away(&self) -> bool {
        self.file.given_away.load(Ordering::SeqCst)
    }

    /// Fills `into` from `offset`. False says that the file was taken out of the cache: what was read may
    /// be anything.
    pub fn read_exact_at(&self, into: &mut [u8], offset: u64) -> io::Result<bool> {
        let read = self.file.file.read_exact_at(into, offset);
        // Read before the first write if it has not been given away by now.
        if self.is_given_away() {
            return Ok(false);
        }
        read.map(|()| true)
    }
}

impl AsFd for CachedBlob {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.file.as_fd()
    }
}

/// The file of a blob, open for reading.
#[derive(Debug)]
pub struct OpenFile {
    file: File,
    /// Somebody writes to it: it is no blob any more.
    given_away: AtomicBool,
}

impl OpenFile {
    pub fn new(file: File) -> Self {
        Self { file, given_away: AtomicBool::new(false) }
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// The same file, open for writing too.
    pub fn give_away(&self) -> io::Result<File> {
        self.given_away.store(true, Ordering::SeqCst);
        // It may have no name any more.
        File::options().read(true).write(true).open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}
