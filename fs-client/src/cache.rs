//! The disk cache as other processes see it: what it holds, dropping it, filling it. Without a mount
//! the directory itself tells.

use crate::data::Fetched;
use crate::fs::Fs;
use crate::meta::Stop;
use serde::Serialize;
use serde_json::json;
use sitefs_base::{Clock, Errno, Error, InodeId, Kind, Result};
use sitefs_blobstore::{CacheOptions, DiskCache, Dropped};
use std::path::{Path, PathBuf};

/// What stays free on the disk of a cache.
pub const MIN_FREE: u64 = 256 << 20;

/// What a cache holds.
#[derive(Clone, Debug, Serialize)]
pub struct CacheReport {
    /// Its directory.
    pub dir: PathBuf,
    /// Bytes of its blobs, in whole blocks.
    pub bytes: u64,
    /// Its blobs.
    pub blobs: u64,
    /// Bytes that are free on its disk.
    pub disk_free_bytes: u64,
    /// What the mount leaves free there.
    pub disk_free_min_bytes: u64,
    /// What the mount that uses it says; nothing without one.
    pub mount: Option<InUse>,
}

/// What only the mount that uses a cache knows.
#[derive(Clone, Debug, Serialize)]
pub struct InUse {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The most that the cache may hold.
    pub limit_bytes: u64,
    /// Blobs that were found here.
    pub hits: u64,
    /// Blobs that were not.
    pub misses: u64,
    /// Blobs that left for want of space.
    pub evictions: u64,
    /// Files that no longer had their digest.
    pub damaged: u64,
    /// Bytes that were hashed again in the background.
    pub scrubbed_bytes: u64,
    /// How long ago all of it had been hashed again, if that has happened.
    pub scrubbed_seconds_ago: Option<u64>,
}

/// The cache of the mount that `fs` serves.
pub fn report(fs: &Fs, clock: &dyn Clock, dir: &Path, mountpoint: &Path, limit: u64) -> Result<CacheReport> {
    let (stats, scrubbed) = (fs.blobs().cache_stats(), fs.blobs().scrubbed(clock));
    let mount = InUse {
        mountpoint: mountpoint.to_owned(),
        limit_bytes: limit,
        hits: stats.hits,
        misses: stats.misses,
        evictions: stats.evictions,
        damaged: stats.damaged,
        scrubbed_bytes: scrubbed.bytes,
        scrubbed_seconds_ago: scrubbed.last_round.map(|ago| ago.as_secs()),
    };
    Ok(CacheReport {
        dir: dir.to_owned(),
        bytes: stats.bytes,
        blobs: stats.blobs,
        disk_free_bytes: fs.blobs().cache_disk_free()?,
        disk_free_min_bytes: MIN_FREE,
        mount: Some(mount),
    })
}

/// A cache that no mount uses: [`Kind::Conflict`] if one does, [`Kind::NotFound`] if it is none.
pub struct Idle(DiskCache);

impl Idle {
    /// Opens the cache in `dir`, without changing what is there.
    pub fn open(dir: &Path) -> Result<Self> {
        if !dir.join("blobs").is_dir() {
            let shown = dir.display();
            return Err(Error::new(Kind::NotFound, format!("{shown} is no cache directory of a mount")));
        }
        DiskCache::open(dir, CacheOptions { max_bytes: u64::MAX, min_free: 0 }).map(Self)
    }

    /// What it holds.
    pub fn report(&self) -> Result<CacheReport> {
        let stats = self.0.stats();
        Ok(CacheReport {
            dir: self.0.dir().to_owned(),
            bytes: stats.bytes,
            blobs: stats.blobs,
            disk_free_bytes: self.0.disk_free()?,
            disk_free_min_bytes: MIN_FREE,
            mount: None,
        })
    }

    /// Removes all of it.
    pub fn drop_all(&self) -> Result<Dropped> {
        self.0.drop_unused()
    }
}

/// What a drop did, as JSON.
pub fn dropped_json(dropped: Dropped) -> String {
    let Dropped { blobs, bytes, kept } = dropped;
    json!({ "blobs": blobs, "bytes": bytes, "kept": kept }).to_string()
}

/// Prefetches and says what came of it, as JSON.
pub fn prefetch_json(fs: &Fs, ino: u64, offset: u64, len: u64) -> String {
    match fs.prefetch(InodeId::new(ino), offset, len) {
        Ok(done) => {
            let Fetched { known, blobs, bytes } = done;
            json!({ "known": known, "blobs": blobs, "bytes": bytes }).to_string()
        }
        Err(Stop::Errno(errno)) => json!({ "errno": errno.to_string() }).to_string(),
        Err(Stop::WouldBlock) => json!({ "errno": Errno::EAGAIN.to_string() }).to_string(),
    }
}
