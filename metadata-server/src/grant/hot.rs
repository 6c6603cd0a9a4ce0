//! How many bytes of small blobs the cell itself holds, and how many it may (DESIGN D35): leader memory.
//!
//! What comes in is counted when it is let in, and what left when it is counted again from the rows, every few
//! seconds. So the sum is a little too high at times, never too low for long. Appends are counted and not refused: what they
//! add to one file is bounded by its extents.

use super::Blobs;
use crate::state;
use sitefs_base::{Error, Result, SiteId, metrics::Counter};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How often it is counted, and for how much of the time at most.
const EVERY: Duration = Duration::from_secs(1);
const SHARE: u32 = 50;

/// What the cell holds of small files at most; beyond it they go to the object store before they are committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HotLimits {
    /// Of one site, in bytes.
    pub site: u64,
    /// Of all sites together, in bytes.
    pub group: u64,
}

impl Default for HotLimits {
    fn default() -> Self {
        Self { site: 512 << 20, group: 4 << 30 }
    }
}

/// What is held, and what became of it.
#[derive(Debug, Default)]
pub(crate) struct Hot {
    limits: HotLimits,
    held: Mutex<BTreeMap<SiteId, u64>>,
    /// Commits that were told to go to the object store.
    pub refused: Counter,
    /// Blobs that were moved to the object store.
    pub drained: Counter,
    /// Their bytes.
    pub drained_bytes: Counter,
    /// Attempts that failed.
    pub failed: Counter,
}

impl Hot {
    pub fn new(limits: HotLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// The limits.
    pub fn limits(&self) -> HotLimits {
        self.limits
    }

    /// Whether the cell takes `len` more bytes of a site; they count from now on.
    pub fn takes(&self, site: SiteId, len: usize) -> bool {
        let len = len as u64;
        let mut held = self.lock();
        let total: u64 = held.values().sum();
        let own = held.entry(site).or_default();
        let fits = *own + len <= self.limits.site && total + len <= self.limits.group;
        if fits {
            *own += len;
        } else {
            drop(held);
            self.refused.inc();
        }
        fits
    }

    /// A blob became an object.
    pub fn left(&self, len: usize) {
        self.drained.inc();
        self.drained_bytes.add(len as u64);
    }

    fn set(&self, found: BTreeMap<SiteId, u64>) {
        *self.lock() = found;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SiteId, u64>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts what the cell holds. Runs until its owner stops it.
pub(crate) async fn count_hot(blobs: Arc<Blobs>) {
    loop {
        let began = Instant::now();
        if let Err(error) = count(&blobs).await {
            tracing::debug!(error = error.chain(), "hot blobs are not counted");
        }
        tokio::time::sleep(EVERY.max(began.elapsed() * SHARE)).await;
    }
}

async fn count(blobs: &Arc<Blobs>) -> Result<()> {
    let own = blobs.clone();
    let counted = tokio::task::spawn_blocking(move || state::held_bytes(&own.group.reader())).await;
    blobs.hot.set(counted.map_err(|join| Error::internal("counting hot blobs").because(join))??);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_and_all_together_have_a_limit() {
        let hot = Hot::new(HotLimits { site: 100, group: 150 });
        let (one, two) = (SiteId::new(1), SiteId::new(2));
        assert!(hot.takes(one, 60) && hot.takes(one, 40));
        assert!(!hot.takes(one, 1), "the site is full");
        assert!(hot.takes(two, 50));
        assert!(!hot.takes(two, 1), "the group is full");
        assert_eq!(hot.refused.get(), 2);
        hot.set(BTreeMap::from([(two, 50)]));
        assert!(hot.takes(one, 100), "what left makes room");
    }
}
