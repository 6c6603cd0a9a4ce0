//! The rows of a subject, on a thread of their own.

use super::{
    Subject,
    pace::Pace,
    tell::{self, Teller},
};
use crate::state::{
    self, Read,
    check::{Finding, Options, Tally, Watch},
};
use sitefs_base::{Error, OsRandom, Random, Result};
use std::sync::Arc;

/// Hands on what a check says.
pub(super) struct Rows {
    pub rows: Arc<dyn Read + Send + Sync>,
    pub teller: Teller,
    pub pace: Pace,
    pub stage: &'static str,
    pub done: u64,
    pub total: u64,
}

impl Watch for Rows {
    fn rows(&mut self, rows: u64) -> Result<()> {
        self.done = self.done.saturating_add(rows);
        self.teller.progress(self.stage, self.done, self.total, None)?;
        self.pace.block(rows)
    }

    fn found(&mut self, finding: Finding) -> Result<()> {
        let volume = tell::volume_name(&self.rows, &finding);
        self.teller.found_blocking(tell::finding(&finding, volume))
    }
}

pub(super) async fn check(
    subject: &Subject,
    snapshots: bool,
    teller: &mut Teller,
    pace: Pace,
) -> Result<Tally> {
    let rows = subject.rows.clone();
    let mut watch = Rows {
        rows: rows.clone(),
        teller: teller.clone(),
        pace,
        stage: "rows",
        done: 0,
        total: subject.estimate,
    };
    let seed = (OsRandom.next_u64(), OsRandom.next_u64());
    let options = Options { seed, snapshots, hashes: true };
    let checked = tokio::task::spawn_blocking(move || state::check::check(&rows, options, &mut watch)).await;
    checked.map_err(|join| Error::internal("checking rows").because(join))?
}
