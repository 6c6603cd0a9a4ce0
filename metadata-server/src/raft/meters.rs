//! What the parts of a group measure while they work; [`crate::metrics`] gives it names.

use sitefs_base::metrics::{Histogram, LATENCY_US};
use std::sync::Arc;

/// Bounds for the number of commands in an entry.
const COMMANDS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

/// The measurements of a group.
#[derive(Clone, Debug)]
pub(crate) struct Meters {
    /// Commands in each entry that was proposed.
    pub(crate) entry_commands: Arc<Histogram>,
    /// Time to apply an entry to the store.
    pub(crate) apply: Arc<Histogram>,
    /// Time of a sync of the log.
    pub(crate) log_sync: Arc<Histogram>,
}

impl Meters {
    /// Nothing measured yet, but for syncs of a log that is open.
    pub(crate) fn new(log_sync: Arc<Histogram>) -> Self {
        Self {
            entry_commands: Arc::new(Histogram::of_count(COMMANDS)),
            apply: Arc::new(Histogram::of_time(LATENCY_US)),
            log_sync,
        }
    }
}
