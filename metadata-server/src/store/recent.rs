//! Rows that nearly every command reads: the counters, its volume, its session.

use crate::state::Family;
use std::collections::HashMap;

/// Rows that are remembered; when there are more, all are forgotten.
const ROWS_MAX: usize = 4096;

/// The latest values of a few rows, kept by the one writer.
#[derive(Debug, Default)]
pub(super) struct Recent {
    rows: HashMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Recent {
    /// Whether a row is of the kind that is remembered: counters, group, volumes, sessions.
    pub(super) fn wants(family: Family, key: &[u8]) -> bool {
        family == Family::Meta && key.first().is_some_and(|tag| b"CGVS".contains(tag))
    }

    /// The value of a row that [`Self::wants`] approves, if it is known.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        self.rows.get(key)
    }

    /// The row is stored with this value, or is not there.
    pub(super) fn set(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        if self.rows.len() >= ROWS_MAX {
            self.rows.clear();
        }
        self.rows.insert(key, value);
    }

    /// Forgets everything: other rows may be stored now.
    pub(super) fn clear(&mut self) {
        self.rows.clear();
    }
}
