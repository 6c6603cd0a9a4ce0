//! One group's log, as openraft wants to use it.

#![allow(clippy::result_large_err, reason = "openraft's traits ask for its error")]

use super::{
    db::{LogDb, Next},
    entry::{decode, encode, end_key, index_of, key, offset},
};
use crate::raft::{
    machine::Holder,
    types::{Types, storage_error},
};
use openraft::{
    Entry, LogId, LogState, OptionalSend, RaftLogReader, StorageError, StorageIOError, Vote,
    storage::{LogFlushed, RaftLogStorage},
};
use rocksdb::WriteBatch;
use serde::{Serialize, de::DeserializeOwned};
use sitefs_base::{Error, GroupId, Result, metrics::Histogram};
use std::{
    fmt::Debug,
    ops::{Bound, RangeBounds},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Entries that one read for replication gives, in bytes; one entry at least.
const READ_MAX: u64 = 1 << 20;

/// The log of one group. Clones share it.
#[derive(Clone, Debug)]
pub(in crate::raft) struct GroupLog {
    db: Arc<LogDb>,
    group: GroupId,
    bytes: Arc<LogBytes>,
    purging: Arc<Mutex<Purging>>,
    // Only held: the group's shutdown waits until all holders are gone.
    _holder: Holder,
}

/// What of the log may go. Raft purges for a received snapshot while that is still being put in place of
/// the state: a crash in between would leave neither the entries nor the state.
#[derive(Debug, Default)]
struct Purging {
    /// The last entry that the state has durably.
    safe: Option<u64>,
    /// What is purged as soon as the state has it.
    wanted: Option<LogId<u64>>,
}

/// Positions in a log when all entries that ever were are laid end to end.
#[derive(Debug, Default)]
pub(in crate::raft) struct LogBytes {
    start: AtomicU64,
    end: AtomicU64,
    snapshot: AtomicU64,
}

impl LogBytes {
    /// Bytes of entries in the log.
    pub(in crate::raft) fn len(&self) -> u64 {
        self.end.load(Ordering::Relaxed).saturating_sub(self.start.load(Ordering::Relaxed))
    }

    /// Bytes of entries after the last snapshot.
    pub(in crate::raft) fn since_snapshot(&self) -> u64 {
        let from = self.snapshot.load(Ordering::Relaxed).max(self.start.load(Ordering::Relaxed));
        self.end.load(Ordering::Relaxed).saturating_sub(from)
    }
}

impl GroupLog {
    pub(in crate::raft) fn new(db: Arc<LogDb>, group: GroupId, holder: Holder) -> Result<Self> {
        let (bytes, purging) = (Arc::default(), Arc::default());
        let log = Self { db, group, bytes, purging, _holder: holder };
        log.measure()?;
        Ok(log)
    }

    /// How long the log is, kept up to date.
    pub(in crate::raft) fn bytes(&self) -> Arc<LogBytes> {
        self.bytes.clone()
    }

    /// How long syncs take.
    pub(in crate::raft) fn sync_times(&self) -> Arc<Histogram> {
        self.db.sync_times()
    }

    /// Says that a snapshot holds everything up to `index`.
    pub(in crate::raft) fn snapshot_made(&self, index: u64) -> Result<()> {
        let at = match self.db.get(&key(self.group, index + 1))? {
            Some(value) => offset(index + 1, &value)?,
            None => self.bytes.end.load(Ordering::Relaxed),
        };
        self.bytes.snapshot.fetch_max(at, Ordering::Relaxed);
        self.state_has(index)
    }

    /// Says that the state has everything up to `index` durably: so much may be purged.
    pub(in crate::raft) fn state_has(&self, index: u64) -> Result<()> {
        let mut purging = self.purging();
        purging.safe = purging.safe.max(Some(index));
        match purging.wanted.take_if(|wanted| wanted.index <= index) {
            Some(wanted) => self.purge_now(wanted),
            None => Ok(()),
        }
    }

    fn purging(&self) -> MutexGuard<'_, Purging> {
        self.purging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last entry that is not in the log any more.
    pub(in crate::raft) fn purged(&self) -> Result<Option<LogId<u64>>> {
        self.meta(b'P')
    }

    /// The index of the last entry, also if it was purged.
    pub(in crate::raft) fn end(&self) -> Result<Option<u64>> {
        Ok(self.state()?.last_log_id.map(|last| last.index))
    }

    /// The vote as it is on disk.
    pub(in crate::raft) fn durable_vote(&self) -> Result<Option<Vote<u64>>> {
        self.meta(b'V')
    }

    fn measure(&self) -> Result<()> {
        let end = match self.last()? {
            Some((index, value)) => offset(index, &value)? + value.len() as u64,
            None => self.meta::<u64>(b'E')?.unwrap_or(0),
        };
        self.bytes.end.store(end, Ordering::Relaxed);
        self.measure_start()
    }

    fn measure_start(&self) -> Result<()> {
        let mut start = self.bytes.end.load(Ordering::Relaxed);
        self.db.read(&key(self.group, 0), end_key(self.group), |key, value| {
            start = offset(index_of(key)?, value)?;
            Ok(Next::Stop)
        })?;
        self.bytes.start.store(start, Ordering::Relaxed);
        Ok(())
    }

    fn last(&self) -> Result<Option<(u64, Vec<u8>)>> {
        let row = self.db.last(&self.group.to_key(), &end_key(self.group))?;
        row.map(|(key, value)| Ok((index_of(&key)?, value))).transpose()
    }

    /// Some entries from `from` on; none behind the end.
    pub(in crate::raft) fn entries_from(&self, from: u64) -> Result<Vec<Entry<Types>>> {
        self.entries(&(from..), READ_MAX)
    }

    fn entries(&self, range: &impl RangeBounds<u64>, max_bytes: u64) -> Result<Vec<Entry<Types>>> {
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => key(self.group, index + 1).to_vec(),
            Bound::Excluded(index) => key(self.group, *index).to_vec(),
            Bound::Unbounded => end_key(self.group),
        };
        let mut entries = Vec::new();
        let mut bytes = 0;
        self.db.read(&key(self.group, from), end, |key, value| {
            entries.push(decode(index_of(key)?, value)?);
            bytes += value.len() as u64;
            Ok(if bytes < max_bytes { Next::More } else { Next::Stop })
        })?;
        Ok(entries)
    }

    fn append_batch(&self, entries: impl IntoIterator<Item = Entry<Types>>) -> Result<()> {
        let mut batch = WriteBatch::default();
        let mut end = self.bytes.end.load(Ordering::Relaxed);
        for entry in entries {
            let value = encode(&entry, end)?;
            end += value.len() as u64;
            batch.put(key(self.group, entry.log_id.index), value);
        }
        self.db.write(batch)?;
        self.bytes.end.store(end, Ordering::Relaxed);
        Ok(())
    }

    fn truncate_from(&self, index: u64) -> Result<()> {
        let mut batch = WriteBatch::default();
        batch.delete_range(key(self.group, index).to_vec(), end_key(self.group));
        self.db.write(batch)?;
        self.measure()
    }

    fn purge_to(&self, last: LogId<u64>) -> Result<()> {
        let mut purging = self.purging();
        if purging.safe < Some(last.index) {
            purging.wanted = purging.wanted.max(Some(last));
            return Ok(());
        }
        self.purge_now(last)
    }

    fn purge_now(&self, last: LogId<u64>) -> Result<()> {
        let mut batch = WriteBatch::default();
        batch.delete_range(key(self.group, 0), key(self.group, last.index + 1));
        self.put_meta(&mut batch, b'P', &last)?;
        // An emptied log must still know how long it was.
        self.put_meta(&mut batch, b'E', &self.bytes.end.load(Ordering::Relaxed))?;
        self.db.write(batch)?;
        // Its end stays, and Raft may be appending there.
        self.measure_start()
    }

    /// Makes an empty log one that begins behind `last`, as if a snapshot up to there had been installed.
    pub(in crate::raft) fn begin_behind(&self, last: LogId<u64>) -> Result<()> {
        let LogId { leader_id, .. } = last;
        let mut batch = WriteBatch::default();
        self.put_meta(&mut batch, b'V', &Vote::new(leader_id.term, leader_id.node_id))?;
        self.put_meta(&mut batch, b'C', &Some(last))?;
        self.put_meta(&mut batch, b'P', &last)?;
        self.put_meta(&mut batch, b'E', &0u64)?;
        self.db.write_sync(batch)
    }

    fn state(&self) -> Result<LogState<Types>> {
        let last_purged_log_id = self.purged()?;
        let last = self.last()?.map(|(index, value)| decode(index, &value)).transpose()?;
        let last_log_id = last.map(|entry| entry.log_id).or(last_purged_log_id);
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    fn meta<T: DeserializeOwned>(&self, tag: u8) -> Result<Option<T>> {
        let Some(bytes) = self.db.meta(&self.meta_key(tag))? else { return Ok(None) };
        let bad = || Error::corrupt(format!("the log's row {:?} has an unknown form", char::from(tag)));
        let (format, body) = bytes.split_first().ok_or_else(bad)?;
        if *format != META_FORMAT {
            return Err(bad());
        }
        postcard::from_bytes(body).map(Some).map_err(|error| bad().because(error))
    }

    fn put_meta<T: Serialize>(&self, batch: &mut WriteBatch, tag: u8, value: &T) -> Result<()> {
        let mut bytes = vec![META_FORMAT];
        let body = postcard::to_stdvec(value)
            .map_err(|error| Error::internal("encoding the log's position").because(error))?;
        bytes.extend(body);
        self.db.put_meta(batch, &self.meta_key(tag), &bytes)
    }

    fn meta_key(&self, tag: u8) -> [u8; 5] {
        let [a, b, c, d] = self.group.to_key();
        [a, b, c, d, tag]
    }

    fn save_vote_row(&self, vote: &Vote<u64>) -> Result<()> {
        let mut batch = WriteBatch::default();
        self.put_meta(&mut batch, b'V', vote)?;
        self.db.write_sync(batch)
    }

    // Not synced: it says less after a crash, and the entries themselves tell the rest.
    fn save_committed_row(&self, committed: Option<LogId<u64>>) -> Result<()> {
        let mut batch = WriteBatch::default();
        self.put_meta(&mut batch, b'C', &committed)?;
        self.db.write(batch)
    }
}

const META_FORMAT: u8 = 1;

type Stored<T> = std::result::Result<T, StorageError<u64>>;

fn reading<T>(result: Result<T>) -> Stored<T> {
    result.map_err(|error| storage_error(StorageIOError::read_logs, &error))
}

fn writing<T>(result: Result<T>) -> Stored<T> {
    result.map_err(|error| storage_error(StorageIOError::write_logs, &error))
}

impl RaftLogReader<Types> for GroupLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Stored<Vec<Entry<Types>>> {
        reading(self.entries(&range, u64::MAX))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Stored<Vec<Entry<Types>>> {
        reading(self.entries(&(start..end), READ_MAX))
    }
}

impl RaftLogStorage<Types> for GroupLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Stored<LogState<Types>> {
        reading(self.state())
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Stored<()> {
        self.save_vote_row(vote).map_err(|error| storage_error(StorageIOError::write_vote, &error))
    }

    async fn read_vote(&mut self) -> Stored<Option<Vote<u64>>> {
        self.meta(b'V').map_err(|error| storage_error(StorageIOError::read_vote, &error))
    }

    async fn save_committed(&mut self, committed: Option<LogId<u64>>) -> Stored<()> {
        writing(self.save_committed_row(committed))
    }

    async fn read_committed(&mut self) -> Stored<Option<LogId<u64>>> {
        reading(self.meta::<Option<LogId<u64>>>(b'C').map(Option::flatten))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Stored<()>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        writing(self.append_batch(entries))?;
        self.db.flush(callback);
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId<u64>) -> Stored<()> {
        writing(self.truncate_from(log_id.index))
    }

    async fn purge(&mut self, log_id: LogId<u64>) -> Stored<()> {
        writing(self.purge_to(log_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Poison;
    use openraft::{CommittedLeaderId, EntryPayload};

    #[test]
    fn nothing_is_purged_that_the_state_does_not_have() {
        let dir = tempfile::tempdir().unwrap();
        let db = LogDb::open(dir.path(), Poison::default()).unwrap();
        let log = GroupLog::new(db, GroupId::new(1), tokio::sync::mpsc::channel(1).0).unwrap();
        let at = |index: u64| LogId::new(CommittedLeaderId::new(1, 1), index);
        let entry = |index| Entry::<Types> { log_id: at(index), payload: EntryPayload::Blank };
        log.append_batch((0..4).map(entry)).unwrap();
        log.state_has(1).unwrap();
        log.purge_to(at(3)).unwrap();
        log.state_has(2).unwrap();
        assert_eq!(log.purged().unwrap(), None);
        assert_eq!(log.entries(&(0..9_u64), u64::MAX).unwrap().len(), 4);
        log.state_has(3).unwrap();
        assert_eq!(log.purged().unwrap(), Some(at(3)));
        assert_eq!(log.end().unwrap(), Some(3));
        assert_eq!(log.bytes().len(), 0);
    }
}
