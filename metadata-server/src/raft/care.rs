//! Looks after a running group: snapshots by size, regular flushes, history that nobody needs, and
//! failures that nobody waits for.

use super::{log::LogBytes, machine::Holder, types::Raft};
use crate::{
    state::Retention,
    store::{Poison, Store},
};
use openraft::error::Fatal;
use sitefs_base::{Error, Result};
use std::{sync::Arc, time::Duration};
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

/// A snapshot is made after so many bytes of entries.
const SNAPSHOT_BYTES: u64 = 1 << 30;
const EVERY: Duration = Duration::from_secs(1);
/// What moved horizons and pins let go of counts from the next flush on.
const FLUSH_EVERY: Duration = Duration::from_secs(600);
/// Volumes that let go of much are compacted so often at most.
const COMPACT_EVERY: Duration = Duration::from_secs(3600);

/// The task that looks after a group.
pub(super) struct Care {
    pub(super) raft: Raft,
    pub(super) store: Store,
    pub(super) log_bytes: Arc<LogBytes>,
    pub(super) poison: Poison,
    pub(super) stop: CancellationToken,
    pub(super) holder: Holder,
}

impl Care {
    /// Looks once a second until the group stops or fails.
    pub(super) async fn run(self) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut upkeep = Upkeep::new(self.store.clone(), self.holder.clone());
        while self.poison.check().is_ok() {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                _ = ticks.tick() => {
                    self.look().await;
                    upkeep.look(Instant::now()).await;
                }
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

/// Work on the database that takes long: one piece at a time, on a thread of its own. A shutdown
/// cuts it short and waits until it holds the database no more.
struct Upkeep {
    store: Store,
    holder: Holder,
    work: Option<JoinHandle<Result<()>>>,
    flushed_at: Instant,
    compacted_at: Instant,
    /// What was needed when history was last compacted.
    compacted: Arc<Retention>,
}

impl Upkeep {
    fn new(store: Store, holder: Holder) -> Self {
        let (now, compacted) = (Instant::now(), store.needed());
        Self { store, holder, work: None, flushed_at: now, compacted_at: now, compacted }
    }

    async fn look(&mut self, now: Instant) {
        // Its failure trips the poison.
        let _ = self.store.settle();
        if self.work.as_ref().is_some_and(|work| !work.is_finished()) {
            return;
        }
        self.finish().await;
        if now.duration_since(self.flushed_at) >= FLUSH_EVERY {
            self.flushed_at = now;
            if self.store.applied() > self.store.flushed() {
                self.start(|store| store.flush().map(drop));
            }
        } else if now.duration_since(self.compacted_at) >= COMPACT_EVERY {
            self.compacted_at = now;
            let needed = self.store.needed();
            let released = needed.released_since(&self.compacted);
            self.compacted = needed;
            self.start(move |store| store.compact_history(&released));
        }
    }

    fn start(&mut self, work: impl FnOnce(&Store) -> Result<()> + Send + 'static) {
        let (store, holder) = (self.store.clone(), self.holder.clone());
        self.work = Some(tokio::task::spawn_blocking(move || {
            let result = work(&store);
            drop((store, holder));
            result
        }));
    }

    /// Takes note of how the last work ended.
    async fn finish(&mut self) {
        if let Some(work) = self.work.take() {
            match work.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(error = error.chain(), "upkeep of the state database failed")
                }
                Err(error) => tracing::error!(%error, "upkeep of the state database ended in a panic"),
            }
        }
    }
}
