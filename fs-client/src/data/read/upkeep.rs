//! The disk cache beside its use: blobs that are fetched before they are read, all dropped at once,
//! hashed again in the background, and few enough that others find room on the disk.

use super::{BlobReader, lock};
use crate::cache::MIN_FREE;
use crate::meta::Op;
use sitefs_base::{Clock, Digest, InodeId, Result};
use sitefs_blobstore::Dropped;
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Blobs fetched at a time for one request.
const PARALLEL: usize = 4;

/// How fast the cache is hashed again.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between looks at the free space of the disk.
    pub look: Duration,
    /// From the start of the mount, and from the end of one round, to the next round.
    pub rest: Duration,
    /// Bytes per second.
    pub bytes_per_second: u64,
}

impl Default for Pace {
    /// A round a day, slow enough that nobody feels it.
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self { look: Duration::from_secs(5), rest: day, bytes_per_second: 16 << 20 }
    }
}

/// What the background check has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubReport {
    /// Bytes hashed again.
    pub bytes: u64,
    /// How long ago the last whole round ended, if there was one.
    pub last_round: Option<Duration>,
}

#[derive(Debug, Default)]
pub(super) struct Scrub {
    bytes: AtomicU64,
    /// CLOCK_BOOTTIME at the end of the last round.
    ended: Mutex<Option<Duration>>,
}

/// What a prefetch did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fetched {
    /// Blobs that were in the cache already.
    pub known: u64,
    /// Blobs that were fetched.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl BlobReader {
    /// Brings blobs that `ino` names into the cache.
    pub fn prefetch(&self, ino: InodeId, digests: &[Digest]) -> Op<Fetched> {
        let mut seen = HashSet::new();
        let wanted: Vec<Digest> = digests.iter().copied().filter(|digest| seen.insert(*digest)).collect();
        let mut total = Fetched::default();
        for group in wanted.chunks(PARALLEL) {
            let fetched: Vec<Op<Option<u64>>> = std::thread::scope(|scope| {
                let start = |digest: &Digest| {
                    let digest = *digest;
                    scope.spawn(move || self.bring(ino, digest, &CancellationToken::new()))
                };
                let running: Vec<_> = group.iter().map(start).collect();
                let ended = |_| Err(sitefs_base::Errno::EIO.into());
                running.into_iter().map(|thread| thread.join().unwrap_or_else(ended)).collect()
            });
            for one in fetched {
                match one? {
                    None => total.known += 1,
                    Some(bytes) => (total.blobs, total.bytes) = (total.blobs + 1, total.bytes + bytes),
                }
            }
        }
        Ok(total)
    }

    /// Fetches a blob into the cache: its bytes, or `None` if it was there.
    pub(super) fn bring(&self, ino: InodeId, digest: Digest, cancel: &CancellationToken) -> Op<Option<u64>> {
        self.in_flight(digest, || {
            if cancel.is_cancelled() || self.cached(&digest).is_some() {
                return Ok(None);
            }
            let bytes = self.fetch(ino, digest, cancel)?;
            if let Err(error) = self.cache.insert(&bytes) {
                tracing::debug!(error = error.chain(), "a blob is not kept in the disk cache");
            }
            Ok(Some(bytes.len() as u64))
        })
    }

    /// Drops every cached blob that no read is using at this moment.
    pub fn drop_cached(&self) -> Result<Dropped> {
        self.loans.end_unused();
        lock(&self.open).clear();
        self.cache.drop_unused()
    }

    /// Makes room on a disk that others fill too: what was lent and nobody uses need not stay, nor what is
    /// only kept open.
    fn keep_free(&self) -> Result<()> {
        if self.cache.disk_free()? < MIN_FREE {
            self.loans.end_unused();
            lock(&self.open).close_files();
        }
        self.cache.keep_free()
    }

    /// Bytes that are free on the disk of the cache.
    pub fn cache_disk_free(&self) -> Result<u64> {
        self.cache.disk_free()
    }

    /// What the background check has done.
    pub fn scrubbed(&self, clock: &dyn Clock) -> ScrubReport {
        let ended = *lock(&self.scrub.ended);
        let last_round = ended.map(|at| clock.boottime().saturating_sub(at));
        ScrubReport { bytes: self.scrub.bytes.load(Ordering::Relaxed), last_round }
    }

    fn recheck(&self, digest: &Digest) -> u64 {
        let len = self.cache.recheck(digest).unwrap_or_else(|error| {
            tracing::warn!(error = error.chain(), "a file of the cache cannot be checked");
            None
        });
        self.scrub.bytes.fetch_add(len.unwrap_or(0), Ordering::Relaxed);
        len.unwrap_or(0)
    }
}

/// Keeps room on the disk and hashes the cache again and again, at that pace (DESIGN D26). Runs until
/// its owner stops it.
pub async fn look_after(blobs: Arc<BlobReader>, clock: Arc<dyn Clock>, pace: Pace) {
    let (mut round, mut due) = (Vec::new(), clock.boottime() + pace.rest);
    loop {
        let began = clock.boottime();
        keep_free(&blobs).await;
        if round.is_empty() && began >= due {
            round = blobs.cache.digests();
        }
        let was_busy = !round.is_empty();
        while let Some(digest) = round.pop() {
            let hashed = check(&blobs, digest).await;
            sleep(Duration::from_secs(1) * u32::try_from(hashed).unwrap_or(u32::MAX) / divisor(pace)).await;
            if clock.boottime().saturating_sub(began) >= pace.look {
                break;
            }
        }
        if was_busy && round.is_empty() {
            *lock(&blobs.scrub.ended) = Some(clock.boottime());
            due = clock.boottime() + pace.rest;
        }
        if round.is_empty() {
            sleep(pace.look).await;
        }
    }
}

fn divisor(pace: Pace) -> u32 {
    u32::try_from(pace.bytes_per_second).unwrap_or(u32::MAX).max(1)
}

async fn keep_free(blobs: &Arc<BlobReader>) {
    let own = Arc::clone(blobs);
    match tokio::task::spawn_blocking(move || own.keep_free()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error = error.chain(), "the disk cache cannot make room"),
        Err(join) => tracing::error!(error = %join, "making room in the disk cache"),
    }
}

/// Hashes one blob again; its bytes.
async fn check(blobs: &Arc<BlobReader>, digest: Digest) -> u64 {
    let own = Arc::clone(blobs);
    let checked = tokio::task::spawn_blocking(move || own.recheck(&digest)).await;
    checked.unwrap_or_else(|join| {
        tracing::error!(error = %join, "checking a blob of the disk cache");
        0
    })
}
