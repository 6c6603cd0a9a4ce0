//! What a run has found and done.

use crate::state::Why;
use std::time::Duration;

/// Blobs or objects, and their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Count {
    pub blobs: u64,
    pub bytes: u64,
}

impl Count {
    pub fn add(&mut self, bytes: u64) {
        self.blobs += 1;
        self.bytes += bytes;
    }

    pub fn add_all(&mut self, blobs: u64, bytes: u64) {
        self.blobs += blobs;
        self.bytes += bytes;
    }
}

/// What a run came to. Of a dry run: what one would come to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Report {
    pub sites: u64,
    /// Rows that were looked at.
    pub rows: u64,
    /// Kept, because a row of now names them.
    pub live: Count,
    /// Kept, because history names them.
    pub history: Count,
    /// Kept, because a snapshot shows them.
    pub snapshot: Count,
    /// Kept, because a session of the past or a restore reads them.
    pub pin: Count,
    /// Kept, because their grace is not over; those that this run condemned are not among them.
    pub grace: Count,
    /// Nothing names them: their grace begins.
    pub condemned: Count,
    /// Their grace is over: given up.
    pub given_up: Count,
    /// Objects that wait to be deleted: replaced ones, and those that the store did not delete.
    pub waiting: u64,
    /// Objects that were deleted.
    pub deleted: u64,
    /// Uploads that were never committed.
    pub expired: u64,
    /// Objects that no row knew, deleted too.
    pub orphans: Count,
    /// Objects that no row knows, but young ones.
    pub young: Count,
    /// Objects that are none of this cell's blobs.
    pub foreign: u64,
    /// Blobs that a row names though they are condemned or given up: never to happen.
    pub wrong: u64,
    pub took: Duration,
    /// Why it ended early.
    pub error: Option<String>,
}

impl Report {
    pub(super) fn keep(&mut self, why: Why, len: u32) {
        let count = match why {
            Why::Live => &mut self.live,
            Why::History => &mut self.history,
            Why::Snapshot => &mut self.snapshot,
            Why::Pin => &mut self.pin,
        };
        count.add(u64::from(len));
    }
}

/// What a run is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Phase {
    /// Reads which blobs rows name.
    #[default]
    Mark,
    /// Compares the blobs with that.
    Sweep,
    /// Deletes objects.
    Delete,
    /// Looks for objects that no row knows.
    Orphans,
}

/// How far a run has come.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Progress {
    pub dry_run: bool,
    pub phase: Phase,
    /// About how many rows there are to look at.
    pub expected: u64,
    pub report: Report,
}
