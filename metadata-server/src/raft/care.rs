//! Looks after a running group: snapshots by size, and failures that nobody waits for.

use super::{log::LogBytes, types::Raft};
use crate::store::{Poison, Store};
use openraft::error::Fatal;
use sitefs_base::Error;
use std::{sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// A snapshot is made after so many bytes of entries.
const SNAPSHOT_BYTES: u64 = 1 << 30;
const EVERY: Duration = Duration::from_secs(1);

/// The task that looks after a group.
pub(super) struct Care {
    pub(super) raft: Raft,
    pub(super) store: Store,
    pub(super) log_bytes: Arc<LogBytes>,
    pub(super) poison: Poison,
    pub(super) stop: CancellationToken,
}

impl Care {
    /// Looks once a second until the group stops or fails.
    pub(super) async fn run(self) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.poison.check().is_ok() {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                _ = ticks.tick() => self.look().await,
            }
        }
    }

    async fn look(&self) {
        let running = self.raft.metrics().borrow().running_state.clone();
        match running {
            Ok(()) | Err(Fatal::Stopped) => {}
            Err(fatal) => drop(self.poison.set(Error::fenced("Raft ended").because(fatal))),
        }
        // Its failure trips the poison, which ends this task and everything else.
        let _ = self.store.check();
        if self.log_bytes.since_snapshot() >= SNAPSHOT_BYTES {
            // Refused only when Raft has ended, which the next look reports.
            let _ = self.raft.trigger().snapshot().await;
        }
    }
}
