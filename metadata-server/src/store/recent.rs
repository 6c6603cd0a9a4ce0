//! Rows that nearly every command and question reads: the counters, volumes, sessions, directories.
//!
//! What is remembered of a row is its latest value, and since which sequence number of the database it
//! is stored: readers of an older point do not get it. While a batch is being written, and for readers
//! from before it, nothing is learnt.

use crate::state::Family;
use lru::LruCache;
use std::{
    fmt,
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Rows of each kind that are remembered, some 2 MiB.
const ROWS_MAX: NonZeroUsize = match NonZeroUsize::new(8192) {
    Some(rows) => rows,
    None => NonZeroUsize::MIN,
};

/// The latest values of a few rows.
pub(super) struct Recent(Mutex<State>);

struct State {
    meta: Rows,
    directories: Rows,
    /// The sequence number of the database behind the last batch.
    settled: u64,
    /// A batch is being written.
    writing: bool,
}

type Rows = LruCache<Vec<u8>, Known>;

struct Known {
    since: u64,
    value: Option<Vec<u8>>,
}

/// A row as a batch leaves it.
pub(super) type Written = (Family, Vec<u8>, Option<Vec<u8>>);

impl Recent {
    /// Whether a row is of the kind that is remembered: counters, group, volumes, sessions and their
    /// inode numbers, and what every change of its entries changes in a directory.
    pub(super) fn wants(family: Family, key: &[u8]) -> bool {
        match family {
            Family::Meta => key.first().is_some_and(|tag| b"CGVSRE".contains(tag)),
            Family::Small => key.get(8) == Some(&b'A'),
            _ => false,
        }
    }

    /// The value of a row that [`Self::wants`] approves, if it is known at sequence number `at`.
    pub(super) fn get(&self, family: Family, key: &[u8], at: u64) -> Option<Option<Vec<u8>>> {
        let mut state = self.lock();
        let known = state.rows(family).get(key).filter(|known| known.since <= at)?;
        Some(known.value.clone())
    }

    /// A row has been read at sequence number `at`.
    pub(super) fn learn(&self, family: Family, key: &[u8], at: u64, value: &Option<Vec<u8>>) {
        let mut state = self.lock();
        if !state.writing && at >= state.settled {
            state.rows(family).put(key.to_vec(), Known { since: at, value: value.clone() });
        }
    }

    /// A batch is about to be written: what it changes is not known until it is.
    pub(super) fn begin(&self, rows: &[Written]) {
        let mut state = self.lock();
        state.writing = true;
        for (family, key, _) in rows {
            state.rows(*family).pop(key);
        }
    }

    /// The batch is written, and the database is at `sequence`.
    pub(super) fn end(&self, sequence: u64, rows: Vec<Written>) {
        let mut state = self.lock();
        state.writing = false;
        state.settled = sequence;
        for (family, key, value) in rows {
            state.rows(family).put(key, Known { since: sequence, value });
        }
    }

    /// Forgets everything: it is another database now.
    pub(super) fn clear(&self) {
        *self.lock() = State::default();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn rows(&mut self, family: Family) -> &mut Rows {
        if family == Family::Meta { &mut self.meta } else { &mut self.directories }
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            meta: LruCache::new(ROWS_MAX),
            directories: LruCache::new(ROWS_MAX),
            settled: 0,
            writing: false,
        }
    }
}

impl Default for Recent {
    fn default() -> Self {
        Self(Mutex::new(State::default()))
    }
}

impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recent").field("settled", &self.lock().settled).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"Vvolume";

    fn value(text: &str) -> Option<Vec<u8>> {
        Some(text.as_bytes().to_vec())
    }

    fn get(recent: &Recent, at: u64) -> Option<Option<Vec<u8>>> {
        recent.get(Family::Meta, KEY, at)
    }

    #[test]
    fn a_reader_never_gets_a_row_from_after_its_point() {
        let recent = Recent::default();
        recent.learn(Family::Meta, KEY, 5, &value("old"));
        assert_eq!(get(&recent, 5), Some(value("old")));
        assert_eq!(get(&recent, 4), None);
        let rows = vec![(Family::Meta, KEY.to_vec(), value("new"))];
        recent.begin(&rows);
        assert_eq!(get(&recent, 5), None, "being written");
        recent.end(9, rows);
        assert_eq!((get(&recent, 8), get(&recent, 9)), (None, Some(value("new"))));
    }

    #[test]
    fn what_was_read_before_a_batch_is_not_learnt_after_it() {
        let recent = Recent::default();
        let rows = vec![(Family::Meta, KEY.to_vec(), None)];
        recent.begin(&rows);
        recent.learn(Family::Meta, KEY, 5, &value("old"));
        assert_eq!(get(&recent, 9), None);
        recent.end(9, rows);
        recent.learn(Family::Meta, KEY, 8, &value("old"));
        assert_eq!(get(&recent, 9), Some(None), "removed");
        recent.clear();
        assert_eq!(get(&recent, 9), None);
    }
}
