//! Verified reads of blobs: what is open, then the disk cache, then the cell or the object store.

mod ahead;
mod upkeep;

pub use ahead::Ahead;
pub use upkeep::{Fetched, Pace, look_after};

use super::loans::{Asked, Loan, Loans};
use super::transfer::CellBlobs;
use crate::meta::{Cx, Meta, Op, Stop};
use bytes::Bytes;
use lru::LruCache;
use sitefs_base::{
    Digest, Errno, Error, Generation, InodeId, Kind, Result,
    op::{Location, Uploaded},
};
use sitefs_blobstore::{CacheStats, CachedBlob, DiskCache, VerifiedBytes};
use std::{
    collections::HashMap,
    fs::File,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Blobs kept open at most, so that a read of one needs no look at the cache. They are pinned there.
const OPEN_MAX: u64 = 64;
/// Blobs up to this size are kept in memory when they were just written or fetched.
const IN_MEMORY_MAX: usize = 64 * 1024;
/// Blobs read ahead at a time, of all files; each is in memory until it is in the cache.
const AHEAD_MAX: usize = 8;
/// How long small content is uploaded after the cell had no room for it.
const HOT_PAUSE: Duration = Duration::from_secs(5);
/// The parts of the cache that may be pinned, by blobs kept open here and by those lent to the kernel: the rest
/// is always there for what comes in.
const OPEN_PART: u64 = 4;
const LENT_PART: u64 = 2;
/// How often a blob is opened again because its file was taken out of the cache meanwhile.
const ATTEMPTS: u32 = 3;
/// What fetching a blob may take in all. The kernel asks a second time for what was not read ahead, and has its
/// answer within 30 s of the first (DESIGN D27).
const FETCH_DEADLINE: Duration = Duration::from_secs(24);
/// What the second way to a blob gets at least.
const FALLBACK_MIN: Duration = Duration::from_secs(1);
/// Who waited for a fetch that failed does not try again himself, if it took so long.
const IN_VAIN: Duration = Duration::from_secs(2);
/// Uploads that are remembered, so that a commit that is tried again does not repeat them.
const UPLOADS_MAX: NonZeroUsize = non_zero(4096);

const fn non_zero(n: usize) -> NonZeroUsize {
    match NonZeroUsize::new(n) {
        Some(n) => n,
        None => NonZeroUsize::MIN,
    }
}

/// A blob that can be read.
#[derive(Clone)]
enum Blob {
    File(CachedBlob),
    Memory(Bytes),
}

impl Blob {
    /// Whether it is still what was verified.
    fn is_sound(&self) -> bool {
        match self {
            Self::File(cached) => cached.is_unchanged(),
            Self::Memory(_) => true,
        }
    }

    /// False: the file is no blob any more, and what was read is nothing.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<bool> {
        match self {
            Self::File(cached) => {
                let read = cached.read_exact_at(into, offset);
                read.map_err(|error| Error::io("reading a cached blob", error))
            }
            Self::Memory(bytes) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                let part = bytes.get(from..from.saturating_add(into.len()));
                into.copy_from_slice(part.ok_or_else(|| Error::corrupt("an extent goes beyond its blob"))?);
                Ok(true)
            }
        }
    }

    /// The bytes that it pins in the disk cache.
    fn pinned(&self) -> u64 {
        match self {
            Self::File(cached) => cached.len,
            Self::Memory(_) => 0,
        }
    }
}

/// The blobs that are kept open, the last used first; bounded in number, and in bytes of the disk cache.
struct OpenBlobs {
    blobs: LruCache<Digest, Blob>,
    pinned: u64,
    max_pinned: u64,
}

impl OpenBlobs {
    fn new(max: NonZeroUsize, max_pinned: u64) -> Self {
        Self { blobs: LruCache::new(max), pinned: 0, max_pinned }
    }

    fn get(&mut self, digest: &Digest) -> Option<&Blob> {
        self.blobs.get(digest)
    }

    fn put(&mut self, digest: Digest, blob: Blob) {
        self.pinned += blob.pinned();
        if let Some((_, old)) = self.blobs.push(digest, blob) {
            self.pinned -= old.pinned();
        }
        while self.pinned > self.max_pinned
            && let Some((_, old)) = self.blobs.pop_lru()
        {
            self.pinned -= old.pinned();
        }
    }

    fn clear(&mut self) {
        self.blobs.clear();
        self.pinned = 0;
    }

    /// Gives up what is pinned in the disk cache; what is in memory stays.
    fn close_files(&mut self) {
        let files = self.blobs.iter().filter(|(_, blob)| matches!(blob, Blob::File(_)));
        let files: Vec<Digest> = files.map(|(digest, _)| *digest).collect();
        files.iter().for_each(|digest| self.pop(digest));
    }

    fn pop(&mut self, digest: &Digest) {
        if let Some(old) = self.blobs.pop(digest) {
            self.pinned -= old.pinned();
        }
    }
}

/// How many files the process may have open.
fn files_max() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many blobs are kept open: few where the process may have few files open.
fn open_max() -> NonZeroUsize {
    let max = (files_max() / 16).clamp(4, OPEN_MAX);
    non_zero(usize::try_from(max).unwrap_or(1))
}

/// Held by who fetches a blob; when that last took long and was in vain.
type Flight = Arc<Mutex<Option<Instant>>>;

/// Reads blobs of the mounted volume.
pub struct BlobReader {
    meta: Arc<Meta>,
    cell: CellBlobs,
    cache: DiskCache,
    open: Mutex<OpenBlobs>,
    loans: Loans,
    flights: Mutex<HashMap<Digest, Flight>>,
    uploads: Mutex<LruCache<Digest, Generation>>,
    scrub: upkeep::Scrub,
    /// Room for blobs that are read ahead.
    ahead: Arc<Semaphore>,
    /// When the cell last had no room for small content.
    hot_refused: Mutex<Option<Instant>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BlobReader {
    /// Reads through `cache`, and through `cell` what is not there.
    pub fn new(meta: Arc<Meta>, cell: CellBlobs, cache: DiskCache) -> Self {
        let open = Mutex::new(OpenBlobs::new(open_max(), cache.max_bytes() / OPEN_PART));
        let uploads = Mutex::new(LruCache::new(UPLOADS_MAX));
        let ahead = Arc::new(Semaphore::new(AHEAD_MAX));
        let (flights, scrub, hot_refused) = (Mutex::default(), upkeep::Scrub::default(), Mutex::default());
        let loans = Loans::new(files_max(), cache.max_bytes() / LENT_PART);
        Self { meta, cell, cache, open, loans, flights, uploads, scrub, ahead, hot_refused }
    }

    /// What is lent to the kernel.
    pub fn loans(&self) -> &Loans {
        &self.loans
    }

    /// Lends a blob of `len` bytes for a handle of `owner`, if it can be lent and is here: nothing is fetched.
    pub fn lend(&self, cx: Cx, owner: InodeId, digest: Digest, len: u64) -> Op<Option<Arc<Loan>>> {
        match self.loans.borrow(&digest, len, owner) {
            Asked::Lent(loan) => return Ok(Some(loan)),
            Asked::Refused => return Ok(None),
            Asked::Unknown if !self.cache.has(&digest) => return Ok(None),
            Asked::Unknown if cx == Cx::Fast => return Err(Stop::WouldBlock),
            Asked::Unknown => {}
        }
        let cached = self.cached(&digest);
        // It has been verified by now.
        let whole = cached.filter(|cached| cached.len == len);
        Ok(whole.and_then(|cached| self.loans.admit(digest, owner, cached)))
    }

    /// Takes a lent file out of the cache, to be written to as content of `owner`; nothing, if it is another
    /// inode's by now.
    pub fn take(&self, loan: &Arc<Loan>, owner: InodeId) -> Result<Option<File>> {
        // In this order: who finds no loan of the blob finds no such file in the cache either.
        let file = self.cache.take(loan.digest(), loan.blob())?;
        lock(&self.open).pop(loan.digest());
        Ok(self.loans.no_blob(loan, owner).then_some(file))
    }

    /// Transfers of blobs.
    pub fn cell(&self) -> &CellBlobs {
        &self.cell
    }

    /// The generation under which this mount has uploaded a blob, as far as it remembers.
    pub fn upload_of(&self, digest: &Digest) -> Option<Generation> {
        lock(&self.uploads).get(digest).copied()
    }

    /// A blob has been uploaded.
    pub fn uploaded(&self, upload: &Uploaded) {
        lock(&self.uploads).put(upload.digest, upload.generation);
    }

    /// The cell does not know these uploads any more: they have to be made again.
    pub fn forget_uploads(&self, uploads: &[Uploaded]) {
        let mut known = lock(&self.uploads);
        for Uploaded { digest, .. } in uploads {
            known.pop(digest);
        }
    }

    /// The cell had no room for small content: it is uploaded for a while (DESIGN D35).
    pub fn hot_refused(&self) {
        *lock(&self.hot_refused) = Some(Instant::now());
    }

    /// Whether the cell may take small content in a commit.
    pub fn cell_takes_hot(&self) -> bool {
        lock(&self.hot_refused).is_none_or(|at| at.elapsed() >= HOT_PAUSE)
    }

    /// What the cache holds and did.
    pub fn cache_stats(&self) -> CacheStats {
        self.cache.stats()
    }

    /// Reads `into.len()` bytes at `offset` of a blob that `ino` references.
    pub fn read(&self, cx: Cx, ino: InodeId, digest: Digest, offset: u64, into: &mut [u8]) -> Op<()> {
        for _ in 0..ATTEMPTS {
            let blob = match self.opened(&digest) {
                Some(blob) => blob,
                None if cx == Cx::Fast => return Err(Stop::WouldBlock),
                None => self.open(ino, digest)?,
            };
            let read = blob.read(offset, into);
            if !matches!(read, Ok(true)) {
                lock(&self.open).pop(&digest);
            }
            match read {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(%digest, error = error.chain(), "a blob cannot be read");
                    return Err(Errno::EIO.into());
                }
            }
        }
        tracing::error!(%digest, "a blob was taken out of the cache again and again while it was read");
        Err(Errno::EIO.into())
    }

    /// A blob that is open, unless somebody touched its file since it was hashed.
    fn opened(&self, digest: &Digest) -> Option<Blob> {
        let blob = lock(&self.open).get(digest).cloned()?;
        if blob.is_sound() {
            return Some(blob);
        }
        lock(&self.open).pop(digest);
        None
    }

    fn open(&self, ino: InodeId, digest: Digest) -> Op<Blob> {
        let blob = self.in_flight(digest, || self.load(ino, digest))?;
        lock(&self.open).put(digest, blob.clone());
        Ok(blob)
    }

    /// Runs `work` while nobody else does the same for this blob. Those who waited for one that took long
    /// and failed fail with it: one after the other they would wait without an end.
    fn in_flight<T>(&self, digest: Digest, work: impl FnOnce() -> Op<T>) -> Op<T> {
        let came = Instant::now();
        let flight = Arc::clone(lock(&self.flights).entry(digest).or_default());
        let result = {
            let mut failed = lock(&flight);
            if failed.is_some_and(|at| at >= came) {
                Err(Errno::EIO.into())
            } else {
                let began = Instant::now();
                let result = work();
                // Who was told to stop has not failed.
                let is_failure = matches!(result, Err(stop) if stop != Stop::Errno(Errno::EINTR));
                *failed = (is_failure && began.elapsed() >= IN_VAIN).then(Instant::now);
                result
            }
        };
        let mut flights = lock(&self.flights);
        if Arc::strong_count(&flight) == 2 {
            flights.remove(&digest);
        }
        result
    }

    fn load(&self, ino: InodeId, digest: Digest) -> Op<Blob> {
        if let Some(blob) = self.opened(&digest) {
            return Ok(blob);
        }
        match self.cached(&digest) {
            Some(cached) => Ok(Blob::File(cached)),
            None => Ok(self.admit(self.fetch(ino, digest, &CancellationToken::new())?)),
        }
    }

    fn cached(&self, digest: &Digest) -> Option<CachedBlob> {
        self.cache.open_blob(digest).unwrap_or_else(|error| {
            tracing::warn!(error = error.chain(), "the disk cache cannot be read");
            None
        })
    }

    /// Fetches from where the cell says; through the cell if that brought wrong bytes or none. The cell
    /// looks for itself then, and a blob that it finds damaged can be stored again (DESIGN D33).
    fn fetch(&self, ino: InodeId, digest: Digest, cancel: &CancellationToken) -> Op<VerifiedBytes> {
        let locations = self.meta.resolve(Cx::Slow, ino, vec![digest])?;
        let Some(Some(location)) = locations.first() else {
            tracing::error!(%digest, %ino, "the cell knows no place of a blob that the file needs");
            return Err(Errno::EIO.into());
        };
        let began = Instant::now();
        let fetched = self.cell.fetch(ino, digest, location, cancel, FETCH_DEADLINE).or_else(|error| {
            if !matches!(error.kind(), Kind::Corrupt | Kind::NotFound | Kind::Denied) {
                return Err(error);
            }
            tracing::error!(%digest, error = error.chain(), "a blob arrived damaged; asking the cell for it");
            // What this mount has uploaded is not worth more than what there is.
            lock(&self.uploads).pop(&digest);
            let left = FETCH_DEADLINE.saturating_sub(began.elapsed()).max(FALLBACK_MIN);
            self.cell.fetch(ino, digest, &Location::Cell, cancel, left)
        });
        fetched.map_err(|error| {
            if cancel.is_cancelled() {
                return Stop::Errno(Errno::EINTR);
            }
            tracing::error!(%digest, error = error.chain(), "a blob cannot be fetched");
            Stop::Errno(Errno::EIO)
        })
    }

    fn admit(&self, blob: VerifiedBytes) -> Blob {
        let digest = blob.digest();
        if let Err(error) = self.cache.insert(&blob) {
            tracing::debug!(error = error.chain(), "a blob is not kept in the disk cache");
        } else if blob.len() > IN_MEMORY_MAX
            && let Ok(Some(cached)) = self.cache.open_blob(&digest)
        {
            return Blob::File(cached);
        }
        Blob::Memory(blob.into_bytes())
    }

    /// Takes in a blob that this mount has just committed, so that reading it back fetches nothing.
    pub fn keep(&self, blob: &VerifiedBytes) {
        if blob.len() <= IN_MEMORY_MAX {
            lock(&self.open).put(blob.digest(), Blob::Memory(Bytes::clone(blob)));
        }
        if let Err(error) = self.cache.insert(blob) {
            tracing::debug!(error = error.chain(), "a blob is not kept in the disk cache");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitefs_blobstore::CacheOptions;

    #[test]
    fn what_is_only_kept_open_can_be_given_up_and_what_is_in_memory_stays() {
        let dir = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(dir.path(), CacheOptions { max_bytes: 1 << 20, min_free: 0 }).unwrap();
        let file = VerifiedBytes::of(vec![1; 4096].into());
        let memory = VerifiedBytes::of(vec![2; 100].into());
        cache.insert(&file).unwrap();
        let cached = cache.open_blob(&file.digest()).unwrap().unwrap();
        let mut open = OpenBlobs::new(non_zero(4), 1 << 20);
        open.put(file.digest(), Blob::File(cached));
        open.put(memory.digest(), Blob::Memory(Bytes::clone(&memory)));
        assert_eq!((cache.drop_unused().unwrap().blobs, open.pinned), (0, 4096));
        open.close_files();
        assert!(open.get(&file.digest()).is_none() && open.get(&memory.digest()).is_some());
        assert_eq!((cache.drop_unused().unwrap().blobs, open.pinned), (1, 0));
    }
}
