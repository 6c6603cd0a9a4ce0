//! A failed sync or write is final: the node stops with the reason (DESIGN D13).

use sitefs_base::{Error, Kind, Result};
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};
use tokio_util::sync::CancellationToken;

/// Remembers the first fatal failure of a node's storage; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Poison {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    reason: OnceLock<String>,
    damage: AtomicBool,
    tripped: CancellationToken,
}

impl Poison {
    /// Records the failure and gives back the error to return; only the first reason is kept.
    pub fn set(&self, error: Error) -> Error {
        let reason = error.chain();
        if error.kind() == Kind::Corrupt {
            self.shared.damage.store(true, Ordering::Relaxed);
        }
        if self.shared.reason.set(reason.clone()).is_ok() {
            tracing::error!(reason, "storage failed, this node stops");
            self.shared.tripped.cancel();
        }
        Error::fenced("the storage of this node failed").because(error)
    }

    /// Refuses with `Fenced` once something has failed.
    pub fn check(&self) -> Result<()> {
        match self.reason() {
            None => Ok(()),
            Some(reason) => Err(Error::fenced(format!("this node has stopped: {reason}"))),
        }
    }

    /// Why the node must stop, if it must.
    pub fn reason(&self) -> Option<&str> {
        self.shared.reason.get().map(String::as_str)
    }

    /// Whether stored bytes were found to be wrong.
    pub fn is_damage(&self) -> bool {
        self.shared.damage.load(Ordering::Relaxed)
    }

    /// Returns when the node must stop.
    pub async fn tripped(&self) {
        self.shared.tripped.cancelled().await;
    }
}
