//! What a check of all rows costs.

use super::{Measured, cell::Cell, cpu, micros, note};
use rustix::time::ClockId::ThreadCPUTime;
use sitefs_base::{Error, Result};
use sitefs_metadata::state::check::{Finding, Options, Watch, check};

/// Counts; anything that is found ends the benchmark.
#[derive(Default)]
struct Count(u64);

impl Watch for Count {
    fn rows(&mut self, rows: u64) -> Result<()> {
        self.0 += rows;
        Ok(())
    }

    fn found(&mut self, finding: Finding) -> Result<()> {
        Err(Error::internal(format!("the check finds something: {finding:?}")))
    }
}

/// Checks the cell as it is.
pub(super) fn checked(found: &mut Vec<Measured>, cell: &Cell) -> Result<()> {
    let (reader, mut count) = (cell.store.reader(), Count::default());
    let options = Options { seed: (1, 2), snapshots: false, hashes: true };
    let (tally, time) = cpu(ThreadCPUTime, || check(&reader, options, &mut count))?;
    let inodes = tally.inodes.max(1);
    note(
        found,
        format!("check, per row of {} ({inodes} inodes)", count.0),
        "us",
        micros(time, count.0.max(1)),
        5.0,
    );
    note(found, "check, per inode with all its rows and history", "us", micros(time, inodes), None);
    Ok(())
}
