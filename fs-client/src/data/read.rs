//! Verified reads of blobs: what is open, then the disk cache, then the cell or the object store.

mod ahead;
mod upkeep;

pub use ahead::Ahead;
pub use upkeep::{Fetched, Pace, look_after};

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
    num::NonZeroUsize,
    os::unix::fs::FileExt,
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

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        match self {
            Self::File(cached) => {
                let read = cached.file.read_exact_at(into, offset);
                read.map_err(|error| Error::io("reading a cached blob", error))
            }
            Self::Memory(bytes) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                let part = bytes.get(from..from.saturating_add(into.len()));
                into.copy_from_slice(part.ok_or_else(|| Error::corrupt("an extent goes beyond its blob"))?);
                Ok(())
            }
        }
    }
}

/// How many blobs are kept open: few where the process may have few files open.
fn open_max() -> NonZeroUsize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let max = (files.unwrap_or(u64::MAX) / 16).clamp(4, OPEN_MAX);
    non_zero(usize::try_from(max).unwrap_or(1))
}

type Flight = Arc<Mutex<()>>;

/// Reads blobs of the mounted volume.
pub struct BlobReader {
    meta: Arc<Meta>,
    cell: CellBlobs,
    cache: DiskCache,
    open: Mutex<LruCache<Digest, Blob>>,
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
        let open = Mutex::new(LruCache::new(open_max()));
        let uploads = Mutex::new(LruCache::new(UPLOADS_MAX));
        let ahead = Arc::new(Semaphore::new(AHEAD_MAX));
        let (flights, scrub, hot_refused) = (Mutex::default(), upkeep::Scrub::default(), Mutex::default());
        Self { meta, cell, cache, open, flights, uploads, scrub, ahead, hot_refused }
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
        let blob = match self.opened(&digest) {
            Some(blob) => blob,
            None if cx == Cx::Fast => return Err(Stop::WouldBlock),
            None => self.open(ino, digest)?,
        };
        blob.read(offset, into).map_err(|error| {
            tracing::error!(%digest, error = error.chain(), "a blob cannot be read");
            lock(&self.open).pop(&digest);
            Stop::Errno(Errno::EIO)
        })
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

    /// Runs `work` while nobody else does the same for this blob.
    fn in_flight<T>(&self, digest: Digest, work: impl FnOnce() -> T) -> T {
        let flight = Arc::clone(lock(&self.flights).entry(digest).or_default());
        let result = {
            let _alone = lock(&flight);
            work()
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
        let fetched = self.cell.fetch(ino, digest, location, cancel).or_else(|error| {
            if !matches!(error.kind(), Kind::Corrupt | Kind::NotFound | Kind::Denied) {
                return Err(error);
            }
            tracing::error!(%digest, error = error.chain(), "a blob arrived damaged; asking the cell for it");
            // What this mount has uploaded is not worth more than what there is.
            lock(&self.uploads).pop(&digest);
            self.cell.fetch(ino, digest, &Location::Cell, cancel)
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
