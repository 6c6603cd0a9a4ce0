//! What a node that does not run would have after its start, without starting it.

use super::{DataDir, log::entries_after, types::decode_membership};
use crate::{state, store::Image};
use openraft::EntryPayload;
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
    /// Nobody starts the node while this is held.
    pub _lock: DataDir,
}

/// Reads a stopped node; one that runs is refused. Writes nothing. Memory: what the log has beyond the
/// last flush of the rows, which the node held in its write buffers.
pub(crate) fn stopped(dir: &Path) -> Result<Stopped> {
    let lock = DataDir::existing(dir)?;
    if lock.snapshots().join("install").exists() {
        return Err(Error::unavailable(format!(
            "{} has a snapshot that is put in place at the next start: start the node first",
            dir.display()
        )));
    }
    let mut image = Image::open(&lock.state())?;
    let members = decode_membership(&image.meta().membership)?;
    let alone = members.membership().voter_ids().count() <= 1;
    let applied = image.meta().applied.map(|at| at.index);
    let mut replayed = 0;
    let read = entries_after(&lock.log(), GROUP, applied, alone, |entry| {
        if let EntryPayload::Normal(payload) = &entry.payload {
            for command in payload.commands()? {
                state::apply(&mut image, &command)?;
            }
        }
        replayed += 1;
        Ok(())
    });
    Ok(Stopped { image, replayed, log_problem: read.err(), _lock: lock })
}
