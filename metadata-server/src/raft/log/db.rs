//! The log database of a node.

use super::flusher::Flusher;
use crate::{
    raft::member::Birth,
    store::{Poison, rocks, rocks::failed},
};
use openraft::storage::LogFlushed;
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, LogLevel, Options,
    ReadOptions, WriteBatch, WriteOptions,
};
use sitefs_base::{Error, Random, Result, metrics::Histogram};
use std::{fmt, path::Path, sync::Arc};

/// The kind and format version of the database.
const MARK: &str = "sitefs-log 1";
const META: &str = "meta";
/// Written at each start; not as long as the key of a group's row.
const OPENED_KEY: &[u8] = b"opened";
/// Drawn when the database is made; as long as no key of a group's row either.
const BIRTH_KEY: &[u8] = b"birth!";
const MIB: usize = 1 << 20;

/// The log database of a node, for all its groups.
pub(in crate::raft) struct LogDb {
    db: Arc<DB>,
    flusher: Flusher,
    poison: Poison,
}

impl LogDb {
    /// Opens the database in `dir`, or makes one in a new or empty directory.
    pub(in crate::raft) fn open(dir: &Path, poison: Poison) -> Result<Arc<Self>> {
        let families = vec![
            ColumnFamilyDescriptor::new("default", family_options()),
            ColumnFamilyDescriptor::new(META, family_options()),
        ];
        let db = rocks::open(dir, MARK, &options(), families).map_err(explain)?;
        let db = Arc::new(db);
        let flusher = Flusher::start(db.clone(), poison.clone())?;
        Ok(Arc::new(Self { db, flusher, poison }))
    }

    /// The number of the last write; it only grows, over restarts too.
    pub(in crate::raft) fn position(&self) -> u64 {
        self.db.latest_sequence_number()
    }

    /// Writes something durably into the newest write-ahead log; the position after that write.
    pub(in crate::raft) fn begin(&self) -> Result<u64> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.meta_family()?, OPENED_KEY, []);
        self.write_sync(batch)?;
        Ok(self.position())
    }

    /// What was drawn when this database was made; drawn now if it has none.
    pub(in crate::raft) fn birth(&self, random: &dyn Random) -> Result<Birth> {
        if let Some(bytes) = self.meta(BIRTH_KEY)? {
            return Birth::from_bytes(&bytes);
        }
        let birth = Birth::new(random.next_u128());
        let mut batch = WriteBatch::default();
        batch.put_cf(self.meta_family()?, BIRTH_KEY, birth.to_bytes());
        self.write_sync(batch)?;
        Ok(birth)
    }

    pub(super) fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.db
            .get_cf(self.meta_family()?, key)
            .map_err(|error| self.fail("reading the log's position", error))
    }

    pub(super) fn put_meta(&self, batch: &mut WriteBatch, key: &[u8], value: &[u8]) -> Result<()> {
        batch.put_cf(self.meta_family()?, key, value);
        Ok(())
    }

    /// Writes `batch` where readers see it; it is durable after the next sync.
    pub(super) fn write(&self, batch: WriteBatch) -> Result<()> {
        self.poison.check()?;
        self.db.write(batch).map_err(|error| self.fail("writing to the log", error))
    }

    /// Writes `batch` and everything before it durably.
    pub(super) fn write_sync(&self, batch: WriteBatch) -> Result<()> {
        self.poison.check()?;
        let mut sync = WriteOptions::default();
        sync.set_sync(true);
        self.db.write_opt(batch, &sync).map_err(|error| self.fail("writing to the log durably", error))
    }

    /// Calls back once everything written so far is durable.
    pub(super) fn flush(&self, callback: LogFlushed<crate::raft::types::Types>) {
        self.flusher.flush(callback);
    }

    /// How long syncs take.
    pub(super) fn sync_times(&self) -> Arc<Histogram> {
        self.flusher.seconds.clone()
    }

    /// Hands the rows from `from` up to `end` to `row` until it says to stop.
    pub(super) fn read(
        &self,
        from: &[u8],
        end: Vec<u8>,
        mut row: impl FnMut(&[u8], &[u8]) -> Result<Next>,
    ) -> Result<()> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end);
        let mut iterator = self.db.raw_iterator_opt(options);
        iterator.seek(from);
        while let Some((key, value)) = iterator.item() {
            // The format mark shares this family; its key is shorter than any entry's.
            if key != rocks::FORMAT_KEY && row(key, value)? == Next::Stop {
                return Ok(());
            }
            iterator.next();
        }
        iterator.status().map_err(|error| self.fail("reading the log", error))
    }

    /// The last row below `end` that starts with `prefix`.
    pub(super) fn last(&self, prefix: &[u8], end: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let mut iterator = self.db.raw_iterator();
        iterator.seek_for_prev(end);
        let row = iterator.item().filter(|(key, _)| key.starts_with(prefix));
        let row = row.map(|(key, value)| (key.to_vec(), value.to_vec()));
        iterator.status().map_err(|error| self.fail("reading the end of the log", error))?;
        Ok(row)
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.db.get(key).map_err(|error| self.fail("reading a log entry", error))
    }

    fn meta_family(&self) -> Result<&ColumnFamily> {
        self.db.cf_handle(META).ok_or_else(|| Error::internal("the log database has no meta family"))
    }

    fn fail(&self, doing: &'static str, error: rocksdb::Error) -> Error {
        self.poison.set(failed(doing, error))
    }
}

/// Whether to go on reading.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    More,
    Stop,
}

impl fmt::Debug for LogDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogDb").field("path", &self.db.path()).finish_non_exhaustive()
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // A write that a crash tore at the end was never acknowledged and may go; anything else that is
    // broken must stop the node. The default would drop acknowledged entries after a bad one.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_max_total_wal_size(256 * MIB as u64);
    options.set_max_background_jobs(2);
    options.set_max_open_files(rocks::open_files_max());
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 * MIB);
    options.set_log_level(LogLevel::Warn);
    options
}

fn family_options() -> Options {
    let mut options = Options::default();
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(32 * MIB);
    options
}

fn explain(error: Error) -> Error {
    if error.kind() == sitefs_base::Kind::Corrupt {
        return error.while_doing(
            "the log is damaged before its end and may have lost acknowledged changes: \
             check the disk, then restore this node from its peers or from a backup",
        );
    }
    error
}
