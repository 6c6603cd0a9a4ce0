//! The part of the disk that mounts may not fill, so that the node can go on (DESIGN D13).

use sitefs_base::{Clock, Error, Result};
use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// The reserve is a twentieth of the disk, within these bounds: what the write buffers of log and
/// state hold must always fit, twice.
const RESERVE_MIN: u64 = 192 << 20;
const RESERVE_MAX: u64 = 256 << 20;
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// What a caller wants to use the disk for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// Something new: none of the reserve.
    Growth,
    /// Something that makes room in the end, such as removing a file: half of the reserve.
    Removal,
}

/// Watches the free space of the data directory.
#[derive(Debug)]
pub(super) struct Reserve {
    dir: PathBuf,
    seen: Mutex<Option<Seen>>,
}

/// What the disk said, and what was taken since.
#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Duration,
    free: u64,
    total: u64,
    /// Whether it was short already then, which was reported.
    short: bool,
}

impl Reserve {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), seen: Mutex::new(None) }
    }

    /// Whether the disk has no room for `bytes` of that use; asks the disk at most once a second.
    pub(super) fn is_short(&self, clock: &dyn Clock, what: Use, bytes: u64) -> Result<bool> {
        let now = clock.boottime();
        let mut slot = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = match *slot {
            Some(seen) if now.saturating_sub(seen.at) < CHECK_EVERY => seen,
            before => self.look(now, before)?,
        };
        let short = seen.free.saturating_sub(bytes) < floor(what, seen.total);
        if !short {
            // Until the disk is asked again, what was let in counts as written.
            seen.free = seen.free.saturating_sub(bytes);
        }
        *slot = Some(seen);
        Ok(short)
    }

    #[cfg(test)]
    pub(super) fn pretend_free(&self, at: Duration, free: u64) {
        let seen = Seen { at, free, total: 1 << 30, short: true };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
    }

    /// Bytes free now.
    pub(super) fn free(&self) -> Result<u64> {
        self.ask().map(|(free, _)| free)
    }

    /// Bytes free, and in all.
    pub(super) fn ask(&self) -> Result<(u64, u64)> {
        let disk = rustix::fs::statvfs(&self.dir).map_err(|errno| {
            Error::io(format!("asking for the free space of {}", self.dir.display()), errno.into())
        })?;
        Ok((disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize))
    }

    fn look(&self, now: Duration, before: Option<Seen>) -> Result<Seen> {
        let (free, total) = self.ask()?;
        let reserve = floor(Use::Growth, total);
        let short = free < reserve;
        if short && !before.is_some_and(|before| before.short) {
            let dir = self.dir.display();
            tracing::error!(%dir, free, reserve, "the disk is nearly full, mutations are refused");
        }
        Ok(Seen { at: now, free, total, short })
    }
}

/// What must stay free.
fn floor(what: Use, total: u64) -> u64 {
    let reserve = (total / 20).clamp(RESERVE_MIN, RESERVE_MAX);
    match what {
        Use::Growth => reserve,
        Use::Removal => reserve / 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitefs_base::{ManualClock, Time};

    #[test]
    fn the_reserve_holds_the_write_buffers_on_small_disks_and_stays_small_on_large_ones() {
        assert_eq!(floor(Use::Growth, 130 << 20), RESERVE_MIN);
        assert_eq!(floor(Use::Growth, 4400 << 20), 220 << 20);
        assert_eq!(floor(Use::Growth, 1 << 40), RESERVE_MAX);
        assert_eq!(floor(Use::Removal, 1 << 40), RESERVE_MAX / 2);
    }

    #[test]
    fn what_is_let_in_counts_at_once_and_removals_may_use_half_of_the_reserve() {
        let clock = ManualClock::new(Time::new(1_000_000, 0));
        let reserve = Reserve::new(Path::new("/"));
        let (free, total) = (RESERVE_MAX + 10, 1 << 40);
        *reserve.seen.lock().unwrap() = Some(Seen { at: clock.boottime(), free, total, short: false });
        let short = |what, bytes| reserve.is_short(&clock, what, bytes).unwrap();
        assert!(short(Use::Growth, 11), "it does not fit");
        assert!(!short(Use::Growth, 10));
        assert!(short(Use::Growth, 1), "the first is on its way to the disk");
        assert!(!short(Use::Removal, RESERVE_MAX / 2));
        assert!(short(Use::Removal, 1));
    }
}
