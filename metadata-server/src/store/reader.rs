//! Reads at one point of the store.

use super::{
    image::estimate,
    poison::Poison,
    recent::Recent,
    rocks::failed,
    scan::{merged, read_options, visited},
};
use crate::state::{Family, Read, Row};
use rocksdb::{DB, DBPinnableSlice, ReadOptions, Snapshot};
use sitefs_base::{Error, Result};
use std::{fmt, sync::Arc};

/// Reads rows as they were when it was made. It keeps those rows alive: hold it briefly.
#[derive(Clone)]
pub struct Reader {
    // `None` only when the store was closed by a failed installation of a snapshot.
    point: Option<Arc<Point>>,
    poison: Poison,
    recent: Option<Arc<Recent>>,
}

struct Point {
    sequence: u64,
    // Declared, and so dropped, before the database that it borrows from.
    snapshot: Snapshot<'static>,
    db: Arc<DB>,
}

impl Reader {
    pub(super) fn new(db: Option<Arc<DB>>, poison: Poison) -> Self {
        Self { point: db.map(|db| Arc::new(Point::new(db))), poison, recent: None }
    }

    /// Shares what others have read and written.
    pub(super) fn remembering(self, recent: &Arc<Recent>) -> Self {
        Self { recent: Some(Arc::clone(recent)), ..self }
    }

    /// The sequence number of the database when this reader was made.
    pub(super) fn sequence(&self) -> Result<u64> {
        Ok(self.point()?.sequence)
    }

    /// How many rows there are, about.
    pub fn rows_estimate(&self) -> u64 {
        self.point.as_ref().map_or(0, |point| estimate(&point.db))
    }

    fn point(&self) -> Result<&Point> {
        self.point.as_deref().ok_or_else(|| Error::fenced("the store is closed"))
    }
}

impl Point {
    #[allow(unsafe_code, reason = "a snapshot that owns its database cannot be said in safe Rust")]
    fn new(db: Arc<DB>) -> Self {
        let snapshot = db.snapshot();
        // SAFETY: the snapshot borrows the `DB` inside the `Arc`, whose address never changes. The
        // `Arc` stands beside it, is never replaced, and is dropped after it (field order). The
        // snapshot never leaves `Point`.
        let snapshot = unsafe { std::mem::transmute::<Snapshot<'_>, Snapshot<'static>>(snapshot) };
        Self { sequence: snapshot.sequence_number(), snapshot, db }
    }
}

impl Read for Reader {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let point = self.point()?;
        let recent = self.recent.as_ref().filter(|_| Recent::wants(family, key));
        if let Some(value) = recent.and_then(|recent| recent.get(family, key, point.sequence)) {
            return Ok(value);
        }
        let found = point.snapshot.get_cf(handle(&point.db, family)?, key);
        let value = found.map_err(|error| self.poison.set(failed("reading a row", error)))?;
        if let Some(recent) = recent {
            recent.learn(family, key, point.sequence, &value);
        }
        Ok(value)
    }

    fn get_many(&self, family: Family, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        let point = self.point()?;
        let mut options = ReadOptions::default();
        options.set_snapshot(&point.snapshot);
        let values = point.db.batched_multi_get_cf_opt(handle(&point.db, family)?, keys, false, &options);
        let value = |found: std::result::Result<Option<DBPinnableSlice<'_>>, rocksdb::Error>| match found {
            Ok(value) => Ok(value.map(|bytes| bytes.to_vec())),
            Err(error) => Err(self.poison.set(failed("reading rows", error))),
        };
        values.into_iter().map(value).collect()
    }

    fn scan(&self, family: Family, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Row>> {
        let point = self.point()?;
        let handle = handle(&point.db, family)?;
        let stored = point.snapshot.raw_iterator_cf_opt(handle, read_options(family, prefix));
        merged(stored, None, prefix, from, limit)
            .map_err(|error| self.poison.set(failed("scanning rows", error)))
    }

    fn visit(
        &self,
        family: Family,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<()> {
        let point = self.point()?;
        let handle = handle(&point.db, family)?;
        let stored = point.snapshot.raw_iterator_cf_opt(handle, read_options(family, prefix));
        visited(stored, prefix, from, limit, each)
            .map_err(|error| self.poison.set(failed("scanning rows", error)))
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sequence = self.point.as_ref().map(|point| point.sequence);
        f.debug_struct("Reader").field("sequence", &sequence).finish_non_exhaustive()
    }
}

/// The column family of `family`, which is there since the database was opened with it.
pub(super) fn handle(db: &DB, family: Family) -> Result<&rocksdb::ColumnFamily> {
    db.cf_handle(family.name())
        .ok_or_else(|| Error::internal(format!("the database has no family {}", family.name())))
}
