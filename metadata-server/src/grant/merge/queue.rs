//! Chunks that wait to be merged.

use crate::state::CrowdedChunk;
use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// Chunks remembered; those beyond are found again when something is appended to them.
const WAITING_MAX: usize = 4096;

/// A bounded queue in which each chunk stands once.
#[derive(Default)]
pub(in crate::grant) struct Queue {
    waiting: Mutex<Waiting>,
    added: Notify,
}

#[derive(Default)]
struct Waiting {
    order: VecDeque<CrowdedChunk>,
    known: HashSet<CrowdedChunk>,
}

impl Queue {
    pub fn add(&self, chunk: CrowdedChunk) {
        let mut waiting = self.lock();
        if waiting.order.len() < WAITING_MAX && waiting.known.insert(chunk) {
            waiting.order.push_back(chunk);
            self.added.notify_one();
        }
    }

    /// The chunk that has waited longest. For one caller at a time.
    pub async fn next(&self) -> CrowdedChunk {
        loop {
            if let Some(chunk) = self.take() {
                return chunk;
            }
            self.added.notified().await;
        }
    }

    fn take(&self) -> Option<CrowdedChunk> {
        let mut waiting = self.lock();
        let chunk = waiting.order.pop_front()?;
        waiting.known.remove(&chunk);
        Some(chunk)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
