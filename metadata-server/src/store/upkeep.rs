//! Flushing, and dropping what nobody needs any more.

use super::{
    Store,
    history::Needed,
    meta::LogPosition,
    poison::Poison,
    reader::{Reader, handle},
    rocks::failed,
    scan::end_of,
    state_db::{handles, lock},
    txn::no_wal,
};
use crate::state::{self, Family, Retention};
use rocksdb::{CompactOptions, DB, FlushOptions, WaitForCompactOptions};
use sitefs_base::{Error, Result, VolumeId};
use std::sync::Arc;

/// Volumes that are compacted one by one; more of them are one whole compaction.
const RANGES_MAX: usize = 16;

impl Store {
    /// Writes all rows to disk and returns the log position that is safe now. History that nobody
    /// needs according to these rows is dropped from the next compactions on.
    pub fn flush(&self) -> Result<Option<LogPosition>> {
        let db = self.db()?;
        let applied = self.applied();
        let before = needed_now(&db, &self.shared.options.poison);
        lock(&self.shared.churn).clear();
        flush_all(&db, true)
            .map_err(|error| self.shared.options.poison.set(failed("flushing the state database", error)))?;
        let flushed = {
            let mut flushed = lock(&self.shared.flushed);
            *flushed = applied.max(*flushed);
            *flushed
        };
        let (sequence, retention) = before?;
        self.shared.needed.flushed(sequence, retention);
        settle(&db, &self.shared.needed);
        Ok(flushed)
    }

    /// Begins a flush in the background if a directory lost so many names that listings suffer.
    pub(super) fn flush_if_churned(&self, db: &DB) -> Result<()> {
        let mut churn = lock(&self.shared.churn);
        if !churn.is_due() {
            return Ok(());
        }
        churn.clear();
        flush_all(db, false).map_err(|error| {
            self.shared.options.poison.set(failed("beginning to flush the state database", error))
        })
    }

    /// Lets what the last flush found count as soon as no reader from before it is left. Cheap.
    pub fn settle(&self) -> Result<()> {
        settle(&*self.db()?, &self.shared.needed);
        Ok(())
    }

    /// What history compactions keep: as of a flush, never of rows that a crash could take back.
    pub fn needed(&self) -> Arc<Retention> {
        self.shared.needed.current()
    }

    /// Drops what is not needed of the history of these volumes from the disk, with the rows that
    /// deletions hide. May take minutes and reads much of the disk.
    pub fn compact_history(&self, volumes: &[VolumeId]) -> Result<()> {
        let ranges: Vec<Vec<u8>> = match volumes.len() {
            0 => return Ok(()),
            1..=RANGES_MAX => volumes.iter().map(|volume| volume.to_key().to_vec()).collect(),
            _ => vec![Vec::new()],
        };
        let db = self.db()?;
        let mut options = CompactOptions::default();
        // Other compactions may run beside it, or writes would have to wait for its end.
        options.set_exclusive_manual_compaction(false);
        for family in Family::ALL.into_iter().filter(|family| family.is_history()) {
            for prefix in &ranges {
                let start = (!prefix.is_empty()).then_some(prefix.as_slice());
                db.compact_range_cf_opt(handle(&db, family)?, start, end_of(prefix), &options);
            }
        }
        Ok(())
    }

    /// Removes all events of all volumes. Nothing else may be done with the database meanwhile.
    pub fn forget_feed(&self) -> Result<()> {
        let db = self.db()?;
        let feed = handle(&db, Family::Feed)?;
        // Longer than every key, and greater.
        let end = [0xff; 32];
        let removed = db.delete_range_cf_opt(feed, &[][..], &end[..], &no_wal());
        removed.map_err(|error| self.shared.options.poison.set(failed("removing the feed", error)))?;
        self.flush()?;
        db.compact_range_cf(feed, None::<&[u8]>, None::<&[u8]>);
        Ok(())
    }

    /// Compacts everything. Reads and writes the whole database.
    pub fn compact_all(&self) -> Result<()> {
        let db = self.db()?;
        for family in handles(&db)? {
            db.compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
        }
        Ok(())
    }

    /// Returns when no compaction is left to be done.
    pub fn wait_for_compactions(&self) -> Result<()> {
        let waited = self.db()?.wait_for_compact(&WaitForCompactOptions::default());
        waited.map_err(|error| self.shared.options.poison.set(failed("waiting for compactions", error)))
    }

    /// Ends compactions, so that the database can be closed soon. Rows can still be read.
    pub fn end_compactions(&self) -> Result<()> {
        self.db()?.cancel_all_background_work(true);
        Ok(())
    }

    /// Bytes on disk and in write buffers, roughly.
    pub fn size(&self) -> Result<u64> {
        let db = self.db()?;
        let mut bytes = 0;
        for family in handles(&db)? {
            for property in [
                "rocksdb.total-sst-files-size",
                "rocksdb.total-blob-file-size",
                "rocksdb.size-all-mem-tables",
            ] {
                let value = db
                    .property_int_value_cf(family, property)
                    .map_err(|error| failed("asking for the size of the state database", error))?;
                bytes += value.unwrap_or(0);
            }
        }
        Ok(bytes)
    }

    /// Fails, and from then on always, if the database met an error in the background.
    pub fn check(&self) -> Result<()> {
        let db = self.db()?;
        let errors = db.property_int_value("rocksdb.background-errors").ok().flatten().unwrap_or(0);
        match errors {
            0 => Ok(()),
            count => Err(self.shared.options.poison.set(Error::unavailable(format!(
                "the state database met {count} errors in the background: see {}",
                self.shared.dir.join("LOG").display()
            )))),
        }
    }
}

/// What is needed according to the rows of this moment, and its sequence number.
pub(super) fn needed_now(db: &Arc<DB>, poison: &Poison) -> Result<(u64, Retention)> {
    let reader = Reader::new(Some(db.clone()), poison.clone());
    Ok((reader.sequence()?, state::retention(&reader)?))
}

fn flush_all(db: &DB, wait: bool) -> Result<(), rocksdb::Error> {
    let mut options = FlushOptions::default();
    options.set_wait(wait);
    let handles: Vec<_> = Family::ALL.iter().filter_map(|family| db.cf_handle(family.name())).collect();
    let default = db.cf_handle("default");
    db.flush_cfs_opt(&default.into_iter().chain(handles).collect::<Vec<_>>(), &options)
}

fn settle(db: &DB, needed: &Needed) {
    let oldest = db.property_int_value("rocksdb.oldest-snapshot-sequence").ok().flatten();
    // Zero says that there is none. Without an answer everything may be read still.
    if let Some(oldest) = oldest {
        needed.settle((oldest != 0).then_some(oldest));
    }
}
