//! The rows of a node that does not run: read where they are, with later changes in memory.

use super::{
    history::Needed,
    keyspace,
    meta::StoreMeta,
    reader::handle,
    rocks::{self, failed},
    scan::{Overlay, merged, read_options},
    state_db::{check_mark, read_meta},
};
use crate::state::{Family, Read, Row, View};
use rocksdb::{Cache, DB, Options};
use sitefs_base::{Error, Result};
use std::path::Path;

/// The block cache, in bytes: everything is read about once.
const CACHE: usize = 64 << 20;
/// Only names sizes; nothing is written.
const BUFFERS: usize = 4 << 20;

/// A state database that is only read. What is applied to it stays in memory.
pub struct Image {
    db: DB,
    written: [Overlay; Family::ALL.len()],
    meta: StoreMeta,
}

impl Image {
    /// Opens the database in `dir`. Nobody else may write there meanwhile.
    pub fn open(dir: &Path) -> Result<Self> {
        if !dir.join("CURRENT").exists() {
            return Err(Error::not_found(format!("{} holds no database", dir.display())));
        }
        let cache = Cache::new_hyper_clock_cache(CACHE, 0);
        let families = keyspace::families(&cache, BUFFERS, &Needed::default());
        let mut options = Options::default();
        options.set_max_open_files(rocks::open_files_max());
        let db = DB::open_cf_descriptors_read_only(&options, dir, families, false)
            .map_err(|error| failed(format!("opening {} to read it", dir.display()), error))?;
        check_mark(&db, dir)?;
        let meta = read_meta(&db)?;
        Ok(Self { db, written: Default::default(), meta })
    }

    /// The log position of the rows on disk, and the membership.
    pub fn meta(&self) -> &StoreMeta {
        &self.meta
    }

    /// How many rows there are, about.
    pub fn rows_estimate(&self) -> u64 {
        estimate(&self.db)
    }

    fn written(&self, family: Family) -> &Overlay {
        &self.written[family as usize]
    }
}

/// How many rows a database has, about.
pub(super) fn estimate(db: &DB) -> u64 {
    let of = |family: Family| {
        let handle = handle(db, family).ok()?;
        db.property_int_value_cf(handle, "rocksdb.estimate-num-keys").ok().flatten()
    };
    Family::ALL.into_iter().filter_map(of).sum()
}

impl Read for Image {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.written(family).get(key) {
            Some(value) => Ok(value.clone()),
            None => {
                let found = self.db.get_cf(handle(&self.db, family)?, key);
                found.map_err(|error| failed("reading a row", error))
            }
        }
    }

    fn get_many(&self, family: Family, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        let stored = self.db.batched_multi_get_cf(handle(&self.db, family)?, keys, false);
        let mut values = Vec::with_capacity(keys.len());
        for (key, stored) in keys.iter().zip(stored) {
            let stored = stored.map_err(|error| failed("reading rows", error))?;
            values.push(match self.written(family).get(key) {
                Some(value) => value.clone(),
                None => stored.map(|bytes| bytes.to_vec()),
            });
        }
        Ok(values)
    }

    fn scan(&self, family: Family, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Row>> {
        let stored = self.db.raw_iterator_cf_opt(handle(&self.db, family)?, read_options(family, prefix));
        merged(stored, Some(self.written(family)), prefix, from, limit)
            .map_err(|error| failed("scanning rows", error))
    }
}

impl View for Image {
    fn put(&mut self, family: Family, key: &[u8], value: Vec<u8>) {
        self.written[family as usize].insert(key.to_vec(), Some(value));
    }

    fn delete(&mut self, family: Family, key: &[u8]) {
        self.written[family as usize].insert(key.to_vec(), None);
    }
}
