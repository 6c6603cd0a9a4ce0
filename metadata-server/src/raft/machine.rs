//! Applies committed entries to the store.

#![allow(clippy::result_large_err, reason = "openraft's traits ask for its error")]

use super::{
    log::GroupLog,
    member::Member,
    snapshots::{Built, Snapshots},
    types::{
        Membership, Replies, SnapshotDir, Types, decode_membership, encode_membership, log_id, position,
        storage_error,
    },
};
use crate::{
    state::{self, Applied},
    store::{Poison, Store, StoreMeta},
};
use openraft::{
    Entry, EntryPayload, LogId, OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageError,
    StorageIOError, StoredMembership, storage::RaftStateMachine,
};
use sitefs_base::{Error, Result, VolumeId, metrics::Histogram, op::Event};
use std::{convert::Infallible, sync::Arc, time::Instant};
use tokio::sync::{broadcast, mpsc};

/// Held by everything that openraft owns, so that a shutdown can wait until it has let go of the
/// databases: the receiver ends when the last one is dropped.
pub(super) type Holder = mpsc::Sender<Infallible>;

/// Where a watcher hears of events.
pub(super) type Events = broadcast::Sender<Arc<(VolumeId, Event)>>;

/// The state machine of one group.
#[derive(Clone)]
pub(super) struct Machine {
    pub(super) store: Store,
    pub(super) snapshots: Snapshots,
    pub(super) log: GroupLog,
    pub(super) events: Events,
    pub(super) poison: Poison,
    pub(super) holder: Holder,
    pub(super) apply_times: Arc<Histogram>,
}

impl Machine {
    fn apply_entry(&self, entry: Entry<Types>) -> Result<Replies> {
        let began = Instant::now();
        let applied = apply_to(&self.store, &entry).map_err(|error| self.poison.set(error))?;
        self.apply_times.took(began.elapsed());
        for event in applied.iter().filter_map(|applied| applied.event.clone()) {
            // Nobody listening is fine.
            let _ = self.events.send(Arc::new(event));
        }
        Ok(Replies { applied })
    }

    async fn build(&self) -> Result<Snapshot<Types>> {
        let machine = self.clone();
        // Flushing takes tens of milliseconds: not on a thread that has to send heartbeats.
        let built = tokio::task::spawn_blocking(move || machine.snapshots.build(&machine.store)).await;
        let built = built.map_err(|error| Error::internal("building a snapshot").because(error))??;
        if let Some(applied) = built.meta.applied {
            self.log.snapshot_made(applied.index)?;
        }
        snapshot(built)
    }

    async fn install(&self, expected: Option<LogId<u64>>, dir: SnapshotDir) -> Result<()> {
        let machine = self.clone();
        let installed = tokio::task::spawn_blocking(move || {
            machine.snapshots.install(&machine.store, &dir, expected.map(position))
        });
        installed.await.map_err(|error| Error::internal("installing a snapshot").because(error))??;
        expected.map_or(Ok(()), |last| self.log.snapshot_made(last.index))
    }
}

/// Changes the rows as an entry says, and their position with them.
pub(super) fn apply_to(store: &Store, entry: &Entry<Types>) -> Result<Vec<Applied>> {
    let applied = store.transact(|txn| {
        txn.set_applied(position(entry.log_id));
        match &entry.payload {
            EntryPayload::Blank => Ok(Vec::new()),
            EntryPayload::Membership(membership) => {
                let stored = StoredMembership::new(Some(entry.log_id), membership.clone());
                txn.set_membership(encode_membership(&stored)?);
                Ok(Vec::new())
            }
            EntryPayload::Normal(payload) => {
                payload.commands()?.iter().map(|command| state::apply(txn, command)).collect()
            }
        }
    });
    applied.map_err(|error| error.while_doing(format!("applying log entry {}", entry.log_id.index)))
}

fn snapshot(built: Built) -> Result<Snapshot<Types>> {
    let (last_log_id, last_membership) = split(&built.meta)?;
    let meta = SnapshotMeta { last_log_id, last_membership, snapshot_id: built.id };
    Ok(Snapshot { meta, snapshot: Box::new(SnapshotDir { path: built.path }) })
}

fn split(meta: &StoreMeta) -> Result<(Option<LogId<u64>>, Membership)> {
    Ok((meta.applied.map(log_id), decode_membership(&meta.membership)?))
}

type Stored<T> = std::result::Result<T, StorageError<u64>>;

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Stored<(Option<LogId<u64>>, Membership)> {
        split(&self.store.meta()).map_err(|error| storage_error(StorageIOError::read_state_machine, &error))
    }

    async fn apply<I>(&mut self, entries: I) -> Stored<Vec<Replies>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let apply = |entry: Entry<Types>| {
            let log_id = entry.log_id;
            self.apply_entry(entry)
                .map_err(|error| storage_error(|cause| StorageIOError::apply(log_id, cause), &error))
        };
        entries.into_iter().map(apply).collect()
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Stored<Box<SnapshotDir>> {
        let path = self.snapshots.begin_receiving();
        let path = path.map_err(|error| storage_error(StorageIOError::write, &error))?;
        Ok(Box::new(SnapshotDir { path }))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, Member>,
        snapshot: Box<SnapshotDir>,
    ) -> Stored<()> {
        let installed = self.install(meta.last_log_id, *snapshot).await;
        installed.map_err(|error| storage_error(StorageIOError::write, &self.poison.set(error)))
    }

    async fn get_current_snapshot(&mut self) -> Stored<Option<Snapshot<Types>>> {
        let current = self.snapshots.current().and_then(|built| built.map(snapshot).transpose());
        current.map_err(|error| storage_error(StorageIOError::read, &error))
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Stored<Snapshot<Types>> {
        self.build().await.map_err(|error| storage_error(StorageIOError::write, &self.poison.set(error)))
    }
}
