//! What the scrub has done.

use sitefs_base::Time;
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// Wrong objects that are remembered for people.
const BAD_SHOWN: usize = 16;

/// What the scrub has done, for the page of metrics.
#[derive(Debug, Default)]
pub(crate) struct Scrub {
    pub(super) objects: AtomicU64,
    pub(super) bytes: AtomicU64,
    bad: AtomicU64,
    whole: Mutex<Option<Time>>,
    shown: Mutex<Vec<String>>,
}

impl Scrub {
    /// Objects read since the start.
    pub fn objects(&self) -> u64 {
        self.objects.load(Ordering::Relaxed)
    }

    /// Bytes read since the start.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Objects found to be wrong or missing since the start.
    pub fn bad(&self) -> u64 {
        self.bad.load(Ordering::Relaxed)
    }

    /// When the last round that is whole began: every object that is as old was read since.
    pub fn whole_since(&self) -> Option<Time> {
        *self.whole.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last of these, with who uses them.
    pub fn shown(&self) -> Vec<String> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_whole(&self, since: Option<Time>) {
        *self.whole.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    pub(super) fn found_bad(&self, what: String) {
        self.bad.fetch_add(1, Ordering::Relaxed);
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.insert(0, what);
        shown.truncate(BAD_SHOWN);
    }
}
