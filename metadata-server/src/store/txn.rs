//! A transaction: everything one log entry changes, written as one batch.

use super::{
    churn::Churn,
    keyspace::{Life, life_of},
    meta::{LogPosition, StoreMeta},
    poison::Poison,
    reader::handle,
    recent::{Recent, Written},
    rocks::failed,
    scan::{Overlay, merged, read_options},
};
use crate::state::{Family, Read, Row, View};
use rocksdb::{DB, WriteBatch, WriteOptions};
use sitefs_base::Result;
use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    fmt,
};

/// The row, in the default column family, that holds the [`StoreMeta`].
pub(super) const META_KEY: &[u8] = b"meta";
/// Room for the rows of one command.
const BATCH_BYTES: usize = 4096;

/// Reads and writes rows; nothing is stored before [`super::Store::transact`] returns. Several
/// commands may use one transaction one after the other.
pub struct Txn<'store> {
    db: &'store DB,
    poison: &'store Poison,
    recent: &'store Recent,
    written: [Overlay; Family::ALL.len()],
    /// Rows written once that this transaction has removed and written again: what is stored of them must go.
    rewritten: HashSet<Vec<u8>>,
    /// Watched rows that were looked up before they were written: whether they are stored.
    stored: RefCell<HashMap<Vec<u8>, bool>>,
    pub(super) meta: StoreMeta,
}

impl<'store> Txn<'store> {
    pub(super) fn new(
        db: &'store DB,
        poison: &'store Poison,
        recent: &'store Recent,
        meta: StoreMeta,
    ) -> Self {
        let (rewritten, stored) = (HashSet::new(), RefCell::default());
        Self { db, poison, recent, written: Default::default(), rewritten, stored, meta }
    }

    /// Says which log entry the rows contain after this transaction.
    pub fn set_applied(&mut self, position: LogPosition) {
        self.meta.applied = Some(position);
    }

    /// Replaces the membership.
    pub fn set_membership(&mut self, membership: Vec<u8>) {
        self.meta.membership = membership;
    }

    pub(super) fn commit(mut self, churn: &mut Churn) -> Result<StoreMeta> {
        let batch = self.batch(churn)?;
        let rows = self.recent_rows();
        self.recent.begin(&rows);
        // After a failure nobody learns anything any more, and the node stops.
        let written = self.db.write_opt(batch, &no_wal());
        written.map_err(|error| self.poison.set(failed("writing to the state database", error)))?;
        self.recent.end(self.db.latest_sequence_number(), rows);
        Ok(self.meta)
    }

    /// What was written of the rows that are remembered.
    fn recent_rows(&mut self) -> Vec<Written> {
        let mut rows = Vec::new();
        for family in [Family::Meta, Family::Small] {
            let written = std::mem::take(&mut self.written[family as usize]).into_iter();
            let wanted = written.filter(|(key, _)| Recent::wants(family, key));
            rows.extend(wanted.map(|(key, value)| (family, key, value)));
        }
        rows
    }

    fn batch(&self, churn: &mut Churn) -> Result<WriteBatch> {
        let mut batch = WriteBatch::with_capacity_bytes(BATCH_BYTES);
        for (family, rows) in Family::ALL.into_iter().zip(&self.written) {
            if rows.is_empty() {
                continue;
            }
            let column = handle(self.db, family)?;
            for (key, value) in rows {
                // A deletion that is known to meet exactly one row vanishes together with it, at a
                // flush even: neither is left for scans to step over.
                let life = life_of(family, key);
                let meets_one = match life {
                    Life::Overwritten => false,
                    Life::WrittenOnce => value.is_none() || self.rewritten.contains(key),
                    Life::Watched => self.is_stored(family, key)?,
                };
                if meets_one {
                    batch.single_delete_cf(column, key);
                }
                if meets_one && family == Family::Dentry {
                    churn.deleted(key);
                }
                match value {
                    Some(value) => batch.put_cf(column, key, value),
                    None if life == Life::Overwritten => batch.delete_cf(column, key),
                    None => {}
                }
            }
        }
        batch.put(META_KEY, self.meta.encode()?);
        Ok(batch)
    }

    /// Whether a watched row is in the database, whatever this transaction wrote.
    fn is_stored(&self, family: Family, key: &[u8]) -> Result<bool> {
        if let Some(stored) = self.stored.borrow().get(key) {
            return Ok(*stored);
        }
        let found = self.db.get_pinned_cf(handle(self.db, family)?, key);
        let found = found.map(|found| found.is_some());
        found.map_err(|error| self.poison.set(failed("reading a row", error)))
    }
}

pub(super) fn no_wal() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options
}

impl Read for Txn<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>> {
        if let Some(value) = self.written[family as usize].get(key) {
            return Ok(value.clone());
        }
        let is_recent = Recent::wants(family, key);
        if is_recent && let Some(value) = self.recent.get(family, key, u64::MAX) {
            return Ok(value);
        }
        let value = self.db.get_cf(handle(self.db, family)?, key);
        let value = value.map_err(|error| self.poison.set(failed("reading a row", error)))?;
        if is_recent {
            // Nobody else writes, so this is the latest.
            self.recent.learn(family, key, self.db.latest_sequence_number(), &value);
        }
        if life_of(family, key) == Life::Watched {
            self.stored.borrow_mut().insert(key.to_vec(), value.is_some());
        }
        Ok(value)
    }

    fn scan(&self, family: Family, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Row>> {
        let stored = self.db.raw_iterator_cf_opt(handle(self.db, family)?, read_options(family, prefix));
        merged(stored, Some(&self.written[family as usize]), prefix, from, limit)
            .map_err(|error| self.poison.set(failed("scanning rows", error)))
    }
}

impl View for Txn<'_> {
    fn put(&mut self, family: Family, key: &[u8], value: Vec<u8>) {
        let before = self.written[family as usize].insert(key.to_vec(), Some(value));
        // Two rows of one key, and a deletion that meets one of them, would bring the other back.
        if before == Some(None) && life_of(family, key) == Life::WrittenOnce {
            self.rewritten.insert(key.to_vec());
        }
    }

    fn delete(&mut self, family: Family, key: &[u8]) {
        self.written[family as usize].insert(key.to_vec(), None);
    }
}

impl fmt::Debug for Txn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Txn").field("meta", &self.meta).finish_non_exhaustive()
    }
}
