//! What a node that does not run would have after its start, without starting it.

use super::{
    DataDir,
    log::entries_after,
    types::{Membership, decode_membership},
};
use crate::{state, store::Image};
use openraft::{EntryPayload, StoredMembership};
use sitefs_base::{Error, GroupId, Result};
use std::path::Path;

/// v1 runs one group per cell.
const GROUP: GroupId = GroupId::new(1);

/// A stopped node.
pub(crate) struct Stopped {
    /// Its rows, with what the log has beyond them.
    pub image: Image,
    /// Entries of the log that were applied in memory.
    pub replayed: u64,
    /// Why the log could not be read to its end, if it could not: the rows end where it does.
    pub log_problem: Option<Error>,
    /// Who is in its group.
    pub(super) members: Membership,
    /// The last entry that the rows contain.
    pub(super) last: Option<u64>,
    /// Nobody starts the node while this is held.
    pub _lock: DataDir,
}

/// Reads a stopped node; one that runs is refused. Writes nothing. Memory: what the log has beyond the
/// last flush of the rows, which the node held in its write buffers.
pub(crate) fn stopped(dir: &Path) -> Result<Stopped> {
    read(DataDir::existing(dir)?, false)
}

/// The same in a directory that is locked. With `all_counts` everything in its log is taken for committed, as if
/// it were alone in its group.
pub(super) fn read(lock: DataDir, all_counts: bool) -> Result<Stopped> {
    if lock.snapshots().join("install").exists() {
        return Err(Error::unavailable(format!(
            "{} has a snapshot that is put in place at the next start: start the node first",
            lock.path().display()
        )));
    }
    let mut image = Image::open(&lock.state())?;
    let mut members = decode_membership(&image.meta().membership)?;
    let all = all_counts || members.membership().voter_ids().count() <= 1;
    let applied = image.meta().applied.map(|at| at.index);
    let (mut replayed, mut last) = (0, applied);
    let read = entries_after(&lock.log(), GROUP, applied, all, |entry| {
        match &entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Membership(new) => {
                members = StoredMembership::new(Some(entry.log_id), new.clone());
            }
            EntryPayload::Normal(payload) => {
                for command in payload.commands()? {
                    state::apply(&mut image, &command)?;
                }
            }
        }
        last = Some(entry.log_id.index);
        replayed += 1;
        Ok(())
    });
    Ok(Stopped { image, replayed, log_problem: read.err(), members, last, _lock: lock })
}
