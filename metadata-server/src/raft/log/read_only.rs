//! The log of a node that does not run.

use super::entry::{decode, end_key, index_of, key};
use crate::{
    raft::types::Types,
    store::{rocks, rocks::failed},
};
use openraft::{Entry, LogId};
use rocksdb::{DB, DBRecoveryMode, Options, ReadOptions};
use sitefs_base::{Error, GroupId, Result};
use std::path::Path;

/// Hands the entries of `group` after `applied` to `each`: all if the node is alone in its group, otherwise
/// those that were known to be committed. Nothing is written.
pub(in crate::raft) fn entries_after(
    dir: &Path,
    group: GroupId,
    applied: Option<u64>,
    alone: bool,
    mut each: impl FnMut(Entry<Types>) -> Result<()>,
) -> Result<()> {
    let db = open(dir)?;
    let until = if alone { u64::MAX } else { committed(&db, group)?.unwrap_or(0) };
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(end_key(group));
    let mut rows = db.raw_iterator_opt(options);
    rows.seek(key(group, applied.map_or(0, |index| index + 1)));
    let mut next = applied.map(|index| index + 1);
    while let Some((key, value)) = rows.item() {
        if key != rocks::FORMAT_KEY {
            let index = index_of(key)?;
            if index > until {
                break;
            }
            if next.is_some_and(|next| next != index) {
                return Err(Error::corrupt(format!("the log goes on with entry {index}, after a gap")));
            }
            next = Some(index + 1);
            each(decode(index, value)?)?;
        }
        rows.next();
    }
    rows.status().map_err(|error| failed("reading the log", error))
}

fn open(dir: &Path) -> Result<DB> {
    if !dir.join("CURRENT").exists() {
        return Err(Error::corrupt(format!("{} holds no log: it was lost", dir.display())));
    }
    let mut options = Options::default();
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_max_open_files(rocks::open_files_max());
    DB::open_cf_for_read_only(&options, dir, ["default", "meta"], false)
        .map_err(|error| failed(format!("opening {} to read it", dir.display()), error))
}

fn committed(db: &DB, group: GroupId) -> Result<Option<u64>> {
    let handle =
        db.cf_handle("meta").ok_or_else(|| Error::internal("the log database has no meta family"))?;
    let [a, b, c, d] = group.to_key();
    let row =
        db.get_cf(handle, [a, b, c, d, b'C']).map_err(|error| failed("reading the log's position", error))?;
    let bad = || Error::corrupt("the log's row 'C' has an unknown form");
    let Some(row) = row else { return Ok(None) };
    let body = row.strip_prefix(&[1]).ok_or_else(bad)?;
    let id: Option<LogId<u64>> = postcard::from_bytes(body).map_err(|error| bad().because(error))?;
    Ok(id.map(|id| id.index))
}
