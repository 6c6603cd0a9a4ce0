//! The part of the disk that mounts may not fill, so that the node can go on (DESIGN D13).

use sitefs_base::{Clock, Error, Result};
use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// The reserve is a twentieth of the disk, but not more than this many bytes.
const RESERVE_MAX: u64 = 256 << 20;
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Watches the free space of the data directory.
#[derive(Debug)]
pub(super) struct Reserve {
    dir: PathBuf,
    // When it was looked at last, and whether space was short then.
    pub(super) seen: Mutex<Option<(Duration, bool)>>,
}

impl Reserve {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), seen: Mutex::new(None) }
    }

    /// Whether mutations by mounts must be refused; asks the disk at most once a second.
    pub(super) fn is_short(&self, clock: &dyn Clock) -> Result<bool> {
        let now = clock.boottime();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, short)) = *seen
            && now.saturating_sub(at) < CHECK_EVERY
        {
            return Ok(short);
        }
        let disk = rustix::fs::statvfs(&self.dir).map_err(|errno| {
            Error::io(format!("asking for the free space of {}", self.dir.display()), errno.into())
        })?;
        let short = below(disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize);
        if short && !seen.is_some_and(|(_, before)| before) {
            tracing::error!(dir = %self.dir.display(), "the disk is nearly full, mutations are refused");
        }
        *seen = Some((now, short));
        Ok(short)
    }
}

fn below(free: u64, total: u64) -> bool {
    free < RESERVE_MAX.min(total / 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_disks_keep_a_twentieth_and_large_ones_256_mib() {
        assert!(below(4, 100) && !below(5, 100));
        let terabyte = 1 << 40;
        assert!(below(RESERVE_MAX - 1, terabyte) && !below(RESERVE_MAX, terabyte));
    }
}
