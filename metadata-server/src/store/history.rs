//! Superseded rows that nobody needs are dropped by compactions (DESIGN D3).
//!
//! What is needed is read before a flush and counts from the end of that flush: a compaction never
//! goes by what a crash could take back. It also waits for the readers that were there before, since
//! compactions do not spare the rows of RocksDB's snapshots.

use crate::state::{Family, Retention};
use rocksdb::{
    CompactionDecision,
    compaction_filter::CompactionFilter,
    compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory},
};
use std::{
    ffi::CStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What history is needed, according to rows that no crash can take back. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Needed {
    shared: Arc<Mutex<Points>>,
}

#[derive(Default)]
struct Points {
    /// What compactions that start now go by.
    current: Point,
    /// A later point, until the readers from before it are gone.
    next: Option<Point>,
}

/// What is needed, and the sequence number of the database at which it was read.
#[derive(Clone, Default)]
struct Point {
    sequence: u64,
    retention: Arc<Retention>,
}

impl Needed {
    /// Begins anew with the rows that are on disk in a database that nobody reads yet.
    pub(super) fn opened(&self, sequence: u64, retention: Retention) {
        *self.lock() = Points { current: Point { sequence, retention: Arc::new(retention) }, next: None };
    }

    /// A flush that began after `retention` was read has succeeded.
    pub(super) fn flushed(&self, sequence: u64, retention: Retention) {
        let mut points = self.lock();
        let newest = points.next.as_ref().map_or(points.current.sequence, |next| next.sequence);
        // Of two flushes at a time the later one may end first.
        if sequence > newest {
            points.next = Some(Point { sequence, retention: Arc::new(retention) });
        }
    }

    /// Lets the next point count if every reader has at least its rows; `oldest` is the sequence
    /// number of the oldest reader.
    pub(super) fn settle(&self, oldest: Option<u64>) {
        let mut points = self.lock();
        let ready = |next: &mut Point| oldest.is_none_or(|oldest| oldest >= next.sequence);
        if let Some(next) = points.next.take_if(ready) {
            points.current = next;
        }
    }

    /// What compactions that start now go by.
    pub(super) fn current(&self) -> Arc<Retention> {
        self.lock().current.retention.clone()
    }

    /// Makes the filter of one history family.
    pub(super) fn filters(&self, family: Family) -> Filters {
        Filters { family, needed: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Points> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives each compaction of a family its filter.
pub(super) struct Filters {
    family: Family,
    needed: Needed,
}

impl CompactionFilterFactory for Filters {
    type Filter = Filter;

    fn create(&mut self, _context: CompactionFilterContext) -> Filter {
        Filter { family: self.family, retention: self.needed.current() }
    }

    fn name(&self) -> &CStr {
        c"sitefs-history"
    }
}

/// Drops what is not needed. What cannot be decoded stays, for the reader who will name it.
pub(super) struct Filter {
    family: Family,
    retention: Arc<Retention>,
}

impl CompactionFilter for Filter {
    fn filter(&mut self, _level: u32, key: &[u8], value: &[u8]) -> CompactionDecision {
        match self.retention.keeps(self.family, key, value) {
            Ok(false) => CompactionDecision::Remove,
            Ok(true) | Err(_) => CompactionDecision::Keep,
        }
    }

    fn name(&self) -> &CStr {
        c"sitefs-history"
    }
}
