//! Raft's own threads, so that no work of others delays a heartbeat (DESIGN D10).

use sitefs_base::{Error, Result};
use std::future::Future;
use tokio::runtime::{Builder, Handle, Runtime};

const THREADS: usize = 2;

/// A tokio runtime that may be dropped anywhere, also inside another runtime.
#[derive(Debug)]
pub(super) struct RaftRuntime(Option<Runtime>);

impl RaftRuntime {
    pub(super) fn start() -> Result<(Self, Handle)> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("sitefs-raft")
            .enable_all()
            .build()
            .map_err(|error| Error::io("starting Raft's threads", error))?;
        let handle = runtime.handle().clone();
        Ok((Self(Some(runtime)), handle))
    }
}

impl Drop for RaftRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Runs `future` on `runtime` and blocks this thread until it ends; unlike `block_on` it may be
/// called on a thread of another runtime.
pub(super) fn run<T: Send + 'static>(
    runtime: &Handle,
    future: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let (done, wait) = std::sync::mpsc::sync_channel(1);
    runtime.spawn(async move {
        // The other end waits below; it can only be gone with the whole process.
        let _ = done.send(future.await);
    });
    wait.recv().unwrap_or_else(|_| Err(Error::internal("a task of Raft's start ended without a result")))
}
