//! A transaction: everything one log entry changes, written as one batch.

use super::{
    churn::Churn,
    keyspace::{Life, life_of},
    meta::{LogPosition, StoreMeta},
    poison::Poison,
    reader::handle,
    rocks::failed,
    scan::{Overlay, merged, read_options},
};
use crate::state::{Family, Read, Row, View};
use rocksdb::{DB, WriteBatch, WriteOptions};
use sitefs_base::Result;
use std::{cell::RefCell, collections::HashMap, fmt};

/// The row, in the default column family, that holds the [`StoreMeta`].
pub(super) const META_KEY: &[u8] = b"meta";

/// Reads and writes rows; nothing is stored before [`super::Store::transact`] returns. Several
/// commands may use one transaction one after the other.
pub struct Txn<'store> {
    db: &'store DB,
    poison: &'store Poison,
    written: [Overlay; Family::ALL.len()],
    /// Watched rows that were looked up before they were written: whether they are stored.
    stored: RefCell<HashMap<Vec<u8>, bool>>,
    pub(super) meta: StoreMeta,
}

impl<'store> Txn<'store> {
    pub(super) fn new(db: &'store DB, poison: &'store Poison, meta: StoreMeta) -> Self {
        Self { db, poison, written: Default::default(), stored: RefCell::default(), meta }
    }

    /// Says which log entry the rows contain after this transaction.
    pub fn set_applied(&mut self, position: LogPosition) {
        self.meta.applied = Some(position);
    }

    /// Replaces the membership.
    pub fn set_membership(&mut self, membership: Vec<u8>) {
        self.meta.membership = membership;
    }

    /// Whether a watched row is in the database, whatever this transaction wrote.
    fn is_stored(&self, family: Family, key: &[u8]) -> Result<bool> {
        if let Some(stored) = self.stored.borrow().get(key) {
            return Ok(*stored);
        }
        let found = self.db.get_pinned_cf(handle(self.db, family)?, key);
        found.map(|found| found.is_some()).map_err(|error| self.poison.set(failed("reading a row", error)))
    }

    pub(super) fn commit(mut self, churn: &mut Churn) -> Result<StoreMeta> {
        let mut batch = WriteBatch::default();
        for family in Family::ALL {
            let rows = std::mem::take(&mut self.written[family as usize]);
            let column = handle(self.db, family)?;
            for (key, value) in rows {
                // A deletion that is known to meet exactly one row vanishes together with it, at a
                // flush even: neither is left for scans to step over.
                let is_stored = match life_of(family, &key) {
                    Life::Overwritten => false,
                    Life::WrittenOnce => value.is_none(),
                    Life::Watched => self.is_stored(family, &key)?,
                };
                if is_stored {
                    batch.single_delete_cf(column, &key);
                }
                match value {
                    Some(value) => batch.put_cf(column, &key, value),
                    None if life_of(family, &key) == Life::Overwritten => batch.delete_cf(column, &key),
                    None => {}
                }
                if is_stored && family == Family::Dentry {
                    churn.deleted(&key);
                }
            }
        }
        batch.put(META_KEY, self.meta.encode()?);
        self.db
            .write_opt(batch, &no_wal())
            .map_err(|error| self.poison.set(failed("writing to the state database", error)))?;
        Ok(self.meta)
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
        let value = self
            .db
            .get_cf(handle(self.db, family)?, key)
            .map_err(|error| self.poison.set(failed("reading a row", error)))?;
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
        self.written[family as usize].insert(key.to_vec(), Some(value));
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
