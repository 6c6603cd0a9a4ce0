//! The thread that makes appended entries durable. Whatever was appended while it synced shares the
//! next sync.

use crate::{
    raft::types::Types,
    store::{Poison, rocks::failed},
};
use openraft::storage::LogFlushed;
use rocksdb::DB;
use sitefs_base::{
    Error, Result,
    metrics::{Histogram, LATENCY_US},
};
use std::{
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Instant,
};

/// Appends that may wait for one sync. Each group has at most a few under way.
const WAITING_MAX: usize = 1024;

/// The flusher of a log database; its thread ends when this is dropped.
#[derive(Debug)]
pub(super) struct Flusher {
    // Dropped first, which is what ends the thread.
    queue: Option<SyncSender<LogFlushed<Types>>>,
    thread: Option<JoinHandle<()>>,
    /// How long syncs take.
    pub(super) seconds: Arc<Histogram>,
}

impl Flusher {
    pub(super) fn start(db: Arc<DB>, poison: Poison) -> Result<Self> {
        let (queue, waiting) = sync_channel(WAITING_MAX);
        let seconds = Arc::new(Histogram::of_time(LATENCY_US));
        let thread = std::thread::Builder::new()
            .name("sitefs-log".into())
            .spawn({
                let seconds = seconds.clone();
                move || run(&db, &poison, &waiting, &seconds)
            })
            .map_err(|error| Error::io("starting the thread that syncs the log", error))?;
        Ok(Self { queue: Some(queue), thread: Some(thread), seconds })
    }

    /// Calls back once everything written so far is durable.
    pub(super) fn flush(&self, callback: LogFlushed<Types>) {
        let Some(queue) = &self.queue else { return };
        if let Err(refused) = queue.send(callback) {
            refused.0.log_io_completed(Err(std::io::Error::other("the thread that syncs the log has ended")));
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // It panicked or not: there is nothing left to do with it.
            let _ = thread.join();
        }
    }
}

fn run(db: &DB, poison: &Poison, waiting: &Receiver<LogFlushed<Types>>, seconds: &Histogram) {
    while let Ok(first) = waiting.recv() {
        let mut callbacks = vec![first];
        callbacks.extend(waiting.try_iter());
        let began = Instant::now();
        let synced = sync(db, poison);
        seconds.took(began.elapsed());
        for callback in callbacks {
            callback.log_io_completed(
                synced.as_ref().copied().map_err(|error| std::io::Error::other(error.chain())),
            );
        }
    }
}

/// A sync that failed is never tried again: what it should have written may be lost already.
fn sync(db: &DB, poison: &Poison) -> Result<()> {
    poison.check()?;
    db.flush_wal(true).map_err(|error| poison.set(failed("syncing the log", error)))
}
