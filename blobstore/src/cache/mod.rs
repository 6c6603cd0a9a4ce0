//! The disk cache of one mount: blobs by digest, bounded in bytes, the longest unused leaves first.
//!
//! A blob is hashed when it comes in and again the first time that a process opens it; later opens
//! compare the identity of the file (DESIGN D26). All calls block on the disk, none hashes or writes
//! under a lock, and an open blob is never evicted.

mod files;
mod index;
mod open;
#[cfg(test)]
mod tests;

use crate::VerifiedBytes;
use bytes::Bytes;
use files::Files;
use index::{FileIdentity, Index};
pub use open::CachedBlob;
use open::OpenFile;
use sitefs_base::{Digest, Error, Kind, Result};
use std::{
    fs::File,
    io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// The bounds of a cache.
#[derive(Clone, Copy, Debug)]
pub struct CacheOptions {
    /// The most that blob files may take on disk, in bytes (whole blocks are counted).
    pub max_bytes: u64,
    /// What must stay free on the file system, in bytes: the cache shrinks before it goes below.
    pub min_free: u64,
}

/// What a cache holds and did since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CacheStats {
    /// Bytes of all blob files, in whole blocks.
    pub bytes: u64,
    /// Number of blobs.
    pub blobs: u64,
    /// Opens that found the blob.
    pub hits: u64,
    /// Opens that did not.
    pub misses: u64,
    /// Blobs that left for want of space.
    pub evictions: u64,
    /// Blobs whose file no longer had their digest.
    pub damaged: u64,
}

/// Blobs on the local disk.
#[derive(Debug)]
pub struct DiskCache {
    files: Files,
    options: CacheOptions,
    index: Mutex<Index>,
    hits: AtomicU64,
    misses: AtomicU64,
    evictions: AtomicU64,
    damaged: AtomicU64,
}

impl DiskCache {
    /// Opens the cache in `dir`, which is made if it is not there. One process at a time:
    /// [`sitefs_base::Kind::Conflict`] when another mount uses it.
    pub fn open(dir: impl AsRef<Path>, options: CacheOptions) -> Result<Self> {
        let cache = Self {
            files: Files::open(dir.as_ref())?,
            options,
            index: Mutex::new(Index::new()),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
        };
        for blob in cache.files.scan()? {
            cache.index().add(blob.digest, blob.len, None);
        }
        // Nothing is open yet, so the first always finds what to evict; a disk that others filled
        // may not be helped by us, and then the cache only takes nothing in.
        cache.make_room(0, 0)?;
        match cache.disk_shortfall(0).and_then(|short| cache.make_room(0, short)) {
            Err(error) if error.kind() != Kind::Limit => Err(error),
            _ => Ok(cache),
        }
    }

    /// Adds a blob. [`sitefs_base::Kind::Limit`] says that it was not kept, because open blobs or
    /// other users of the disk leave no room: the caller has the bytes and goes on without the cache.
    pub fn insert(&self, blob: &VerifiedBytes) -> Result<()> {
        let digest = blob.digest();
        if self.index().touch(&digest).is_some_and(|entry| entry.verified.is_some()) {
            return Ok(());
        }
        let len = blob.len() as u64;
        self.make_room(len, self.disk_shortfall(len)?)?;
        let added = self.write(blob);
        self.index().release(len);
        added.map_err(|error| Error::io(format!("adding {digest:?} to the cache"), error))
    }

    /// Opens a blob; `None` when it is not here or no longer what it must be. The first open in this
    /// process hashes the file.
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<CachedBlob>> {
        let opened = self.try_open(digest, false)?;
        let count = if opened.is_some() { &self.hits } else { &self.misses };
        count.fetch_add(1, Ordering::Relaxed);
        Ok(opened)
    }

    /// Hashes a blob again whatever is known of it, for the background check. False: it is gone.
    pub fn recheck(&self, digest: &Digest) -> Result<bool> {
        Ok(self.try_open(digest, true)?.is_some())
    }

    /// The whole blob.
    pub fn read_all(&self, blob: &CachedBlob) -> Result<Bytes> {
        self.read_at(blob, 0, usize::try_from(blob.len).unwrap_or(usize::MAX))
    }

    /// Up to `len` bytes from `offset`; fewer only at the end of the blob.
    pub fn read_at(&self, blob: &CachedBlob, offset: u64, len: usize) -> Result<Bytes> {
        let left = usize::try_from(blob.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len.min(left)];
        match blob.read_exact_at(&mut bytes, offset) {
            Ok(true) => Ok(bytes.into()),
            Ok(false) => Err(Error::unavailable("a file was taken out of the cache while it was open")),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(Error::corrupt("a file of the cache became shorter while it was open"))
            }
            Err(error) => Err(Error::io("reading from the cache", error)),
        }
    }

    /// Forgets a blob. Who has it open keeps it.
    pub fn remove(&self, digest: &Digest) -> Result<()> {
        self.index().remove(digest);
        self.files.remove_blob(digest)
    }

    /// Whether a blob is here, as far as is known without opening it.
    pub fn has(&self, digest: &Digest) -> bool {
        self.index().peek_mut(digest).is_some()
    }

    /// Takes an open blob's file out of the cache and gives it to the caller to be written. Nobody finds it
    /// under the digest any more, and readers that have it open still notice before they believe what they read.
    pub fn take(&self, digest: &Digest, blob: &CachedBlob) -> Result<File> {
        let doing = |error| Error::io(format!("taking {digest:?} out of the cache"), error);
        {
            let mut index = self.index();
            // Another file of the same digest may have come in since, and stays.
            let is_this = |entry: &mut index::Entry| {
                entry.held.upgrade().is_some_and(|held| Arc::ptr_eq(&held, &blob.file))
            };
            if index.peek_mut(digest).is_some_and(is_this) {
                // With the lock held: what is published behind it has another file.
                self.files.remove_blob(digest)?;
                index.remove(digest);
            }
        }
        blob.file.give_away().map_err(doing)
    }

    /// The most that the blobs may take, in bytes.
    pub fn max_bytes(&self) -> u64 {
        self.options.max_bytes
    }

    /// All blobs, the last used first.
    pub fn digests(&self) -> Vec<Digest> {
        self.index().digests()
    }

    /// What the cache holds and did.
    pub fn stats(&self) -> CacheStats {
        let (bytes, blobs) = {
            let index = self.index();
            (index.bytes(), index.len() as u64)
        };
        CacheStats {
            bytes,
            blobs,
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            evictions: self.evictions.load(Ordering::Relaxed),
            damaged: self.damaged.load(Ordering::Relaxed),
        }
    }

    /// The directory of the cache.
    pub fn dir(&self) -> &Path {
        self.files.dir()
    }

    // No code panics while it holds this lock, so a poisoned one is still consistent.
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Evicts until `len` more bytes fit and `to_free` bytes came free, and sets `len` aside.
    fn make_room(&self, len: u64, to_free: u64) -> Result<()> {
        let no_room = || Error::limit("the cache has no room: its blobs are open, or the disk is full");
        let victims = self.index().reserve(len, self.options.max_bytes, to_free).ok_or_else(no_room)?;
        self.evictions.fetch_add(victims.len() as u64, Ordering::Relaxed);
        let removed = victims.iter().map(|digest| self.files.remove_blob(digest)).fold(Ok(()), Result::and);
        if removed.is_err() {
            self.index().release(len);
        }
        removed
    }

    fn disk_shortfall(&self, len: u64) -> Result<u64> {
        let free =
            self.files.free().map_err(|error| Error::io("asking for the free space of the cache", error))?;
        Ok((self.options.min_free.saturating_add(index::on_disk(len))).saturating_sub(free))
    }

    fn write(&self, blob: &VerifiedBytes) -> io::Result<()> {
        let digest = blob.digest();
        let temp = self.files.write_temp(blob)?;
        let mut index = self.index();
        // Another thread may have added it meanwhile, and its file may be open: keep that one.
        if index.peek_mut(&digest).is_some_and(|entry| entry.verified.is_some()) {
            return Ok(());
        }
        let identity = self.files.publish(temp, &digest)?;
        index.add(digest, blob.len() as u64, Some(identity));
        Ok(())
    }

    fn try_open(&self, digest: &Digest, rehash: bool) -> Result<Option<CachedBlob>> {
        let Some(entry) = self.index().touch(digest).map(|entry| entry.clone()) else { return Ok(None) };
        let file = match entry.held.upgrade() {
            Some(file) => file,
            None => match self.files.open_blob(digest) {
                Ok(file) => Arc::new(OpenFile::new(file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.index().remove_admission(digest, entry.stamp);
                    return Ok(None);
                }
                Err(error) => return Err(Error::io(format!("opening {digest:?} in the cache"), error)),
            },
        };
        let doing = |error| Error::io(format!("verifying {digest:?} in the cache"), error);
        let identity = FileIdentity::of(file.file()).map_err(doing)?;
        let known = !rehash && entry.verified == Some(identity);
        if !known && files::hash_file(file.file()).map_err(doing)? != *digest {
            self.drop_damaged(digest, entry.stamp)?;
            return Ok(None);
        }
        Ok(Some(self.admit(digest, entry.stamp, identity, file)))
    }

    /// Notes that `file` is verified and open. An earlier opener's file is preferred, so that all
    /// share one descriptor and one pin.
    fn admit(&self, digest: &Digest, stamp: u64, identity: FileIdentity, file: Arc<OpenFile>) -> CachedBlob {
        let len = identity.size();
        if let Some(entry) = self.index().peek_mut(digest).filter(|entry| entry.stamp == stamp) {
            entry.verified = Some(identity);
            match entry.held.upgrade() {
                Some(shared) => return CachedBlob { file: shared, len },
                None => entry.held = Arc::downgrade(&file),
            }
        }
        CachedBlob { file, len }
    }

    fn drop_damaged(&self, digest: &Digest, stamp: u64) -> Result<()> {
        self.damaged.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%digest, "a file of the cache does not have its digest and is dropped");
        if self.index().remove_admission(digest, stamp) { self.files.remove_blob(digest) } else { Ok(()) }
    }
}
