//! Moves the bytes of blobs: by presigned requests, or through the cell.

use crate::meta::{Channel, Route, Session};
use crate::metrics::TransferCounters;
use bytes::Bytes;
use sitefs_base::limits::CHUNK_SIZE;
use sitefs_base::metrics::Counter;
use sitefs_base::op::Location;
use sitefs_base::session::{FetchBlob, StoreBlob};
use sitefs_base::{Digest, Error, Generation, InodeId, Kind, Result};
use sitefs_blobstore::{Transfer, VerifiedBytes};
use sitefs_proto::pb::{FetchRequest, StoreRequest, blobs_client::BlobsClient};
use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

/// Fetches and stores blobs for one session.
pub struct CellBlobs {
    session: Arc<Session>,
    route: Arc<Route>,
    transfer: Transfer,
    large: Semaphore,
    /// Room for fetches that take long.
    long: Semaphore,
    /// Whether the object store answers, and the cell.
    store_doubt: Doubt,
    cell_doubt: Doubt,
    counters: TransferCounters,
}

/// How long a transfer through the cell is repeated while another node becomes its leader, and how often.
const ELECTION_MAX: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(100);
/// What a read gets of an object store that did not answer the last one in its time: many that wait in vain
/// would take the threads of those that need no store.
const DOUBTED_DEADLINE: Duration = Duration::from_secs(3);
/// How long after a fetch that waited in vain for its full time another one may do the same. The kernel asks
/// at once again for what was not read ahead.
const TRIAL_AFTER: Duration = Duration::from_secs(10);
/// Fetches that may take longer than [`DOUBTED_DEADLINE`] at a time: when an outage begins nothing is in doubt
/// yet. Each holds one of `mount::WAITERS_MAX` threads; the others are left for what needs no store.
const LONG_MAX: usize = 96;
/// Large commits that hold content in memory at a time; each holds up to 32 MiB.
const LARGE_COMMITS_MAX: usize = 4;

/// Whether somebody who has blobs answers at all.
struct Doubt {
    /// When a fetch last waited in vain for its full time, if none has succeeded since.
    since: Mutex<Option<Instant>>,
    /// Who tries for the full time.
    trial: Semaphore,
}

impl Doubt {
    fn none() -> Self {
        Self { since: Mutex::new(None), trial: Semaphore::new(1) }
    }

    /// What a fetch gets that has `left`; all of it in doubt only one at a time, now and then.
    fn limit(&self, left: Duration) -> (Duration, Option<SemaphorePermit<'_>>) {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(since) = since else { return (left, None) };
        let trial = if since.elapsed() < TRIAL_AFTER { None } else { self.trial.try_acquire().ok() };
        let limit = if trial.is_some() { left } else { left.min(DOUBTED_DEADLINE) };
        (limit, trial)
    }

    /// A fetch has ended, that found nobody (`is_away`), or did not have its full time (`is_short`).
    fn settle(&self, is_away: bool, is_short: bool) {
        if is_away && is_short {
            return;
        }
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = is_away.then(Instant::now);
    }
}

/// What comes of a transfer; `None` if it takes longer than `short` and `long` has no room for another.
async fn patiently<T>(
    short: Duration,
    long: &Semaphore,
    transfer: impl Future<Output = Result<T>>,
) -> Result<Option<T>> {
    let mut transfer = pin!(transfer);
    if let Ok(done) = timeout(short, &mut transfer).await {
        return done.map(Some);
    }
    let Ok(_room) = long.try_acquire() else { return Ok(None) };
    transfer.await.map(Some)
}

impl CellBlobs {
    /// Transfers for `session`, over `route` where the cell is the way.
    pub fn new(session: Arc<Session>, route: Arc<Route>) -> Self {
        let (large, long) = (Semaphore::new(LARGE_COMMITS_MAX), Semaphore::new(LONG_MAX));
        let (store_doubt, cell_doubt) = (Doubt::none(), Doubt::none());
        let (transfer, counters) = (Transfer::new(), TransferCounters::default());
        Self { session, route, transfer, large, long, store_doubt, cell_doubt, counters }
    }

    /// What it has counted.
    pub fn counters(&self) -> &TransferCounters {
        &self.counters
    }

    /// Waits for leave to hold the content of a large commit in memory.
    pub fn large_commit(&self) -> Result<SemaphorePermit<'_>> {
        let closed = |_| Error::internal("nobody closes this semaphore");
        self.session.runtime().block_on(self.large.acquire()).map_err(closed)
    }

    /// Runs `work` on the session's runtime; the caller's thread waits, at most for `limit`.
    fn wait<T>(
        &self,
        what: &'static str,
        limit: Duration,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.session.runtime().block_on(async {
            let late = |_| Error::unavailable(format!("{what} took longer than {limit:?}"));
            timeout(limit, work).await.map_err(late)?
        })
    }

    /// Repeats a call while the cell of several nodes has no leader, or this session is not attached to
    /// the new one yet. Who calls sets a limit to all of it.
    async fn of_the_leader<T, F: Future<Output = Result<T>>>(&self, call: impl Fn() -> F) -> Result<T> {
        let until = Instant::now() + ELECTION_MAX;
        loop {
            match call().await {
                Err(error)
                    if matches!(error.kind(), Kind::Unavailable | Kind::Denied)
                        && self.route.is_of_several()
                        && Instant::now() < until =>
                {
                    tokio::time::sleep(AGAIN).await;
                }
                done => return done,
            }
        }
    }

    fn client(&self) -> Result<BlobsClient<Channel>> {
        Ok(BlobsClient::new(self.route.channel()?)
            .max_decoding_message_size(sitefs_proto::MESSAGE_MAX)
            .max_encoding_message_size(sitefs_proto::MESSAGE_MAX))
    }

    fn group(&self) -> Result<sitefs_base::GroupId> {
        let attached = self.session.attached();
        attached
            .map(|attached| attached.group)
            .ok_or_else(|| Error::unavailable("the session is not attached"))
    }

    /// The bytes of a blob, verified, within `left`.
    /// Ends without them when `cancel` says so.
    pub fn fetch(
        &self,
        ino: InodeId,
        digest: Digest,
        from: &Location,
        cancel: &CancellationToken,
        left: Duration,
    ) -> Result<VerifiedBytes> {
        let doubt = match from {
            Location::Cell => &self.cell_doubt,
            Location::Url { .. } => &self.store_doubt,
        };
        let (limit, _trial) = doubt.limit(left);
        let transfer = async {
            match from {
                Location::Cell => {
                    let fetch = || async {
                        let fetch = FetchBlob { session: self.session.id(), ino, digest };
                        let request = FetchRequest::from((self.group()?, fetch));
                        let reply = self.client()?.fetch(request).await;
                        let reply = reply.map_err(|status| sitefs_proto::error_from_status(&status))?;
                        Ok(reply.into_inner().data)
                    };
                    self.of_the_leader(fetch).await
                }
                Location::Url { url, headers, .. } => {
                    self.transfer.get(url, headers, CHUNK_SIZE, limit).await
                }
            }
        };
        let fetched = self.wait("fetching a blob", limit, async {
            tokio::select! {
                fetched = patiently(DOUBTED_DEADLINE, &self.long, transfer) => fetched,
                () = cancel.cancelled() => Err(Error::unavailable("nobody needs the blob any more")),
            }
        });
        let Some(fetched) = fetched.transpose() else {
            self.counters.failed.inc();
            return Err(Error::unavailable("as many as may wait long for a blob do so already"));
        };
        if cancel.is_cancelled() && fetched.is_err() {
            return fetched.and_then(|bytes| VerifiedBytes::check(digest, bytes));
        }
        let is_away = fetched.as_ref().is_err_and(|error| error.kind() == Kind::Unavailable);
        doubt.settle(is_away, limit < left);
        let checked = fetched.and_then(|bytes| VerifiedBytes::check(digest, bytes));
        self.count(checked.as_ref().map(|bytes| bytes.len()), |counters| {
            (&counters.fetches, &counters.fetched_bytes)
        });
        checked
    }

    /// Uploads a blob to where it was granted, within `limit`.
    pub fn store(
        &self,
        digest: Digest,
        generation: Generation,
        bytes: Bytes,
        to: &Location,
        limit: Duration,
    ) -> Result<()> {
        let len = bytes.len();
        let stored = self.wait("uploading a blob", limit, async {
            match to {
                Location::Cell => {
                    let store = || async {
                        let (session, bytes) = (self.session.id(), bytes.clone());
                        let store = StoreBlob { session, digest, generation, bytes };
                        let request = StoreRequest::from((self.group()?, store));
                        let reply = self.client()?.store(request).await;
                        reply.map(drop).map_err(|status| sitefs_proto::error_from_status(&status))
                    };
                    self.of_the_leader(store).await
                }
                Location::Url { url, headers, .. } => {
                    self.transfer.put(url, headers, bytes, limit).await.map(drop)
                }
            }
        });
        self.count(stored.as_ref().map(|()| len), |counters| (&counters.uploads, &counters.uploaded_bytes));
        stored
    }

    fn count(
        &self,
        moved: std::result::Result<usize, &Error>,
        which: impl FnOnce(&TransferCounters) -> (&Counter, &Counter),
    ) {
        let Ok(len) = moved else { return self.counters.failed.inc() };
        let (blobs, bytes) = which(&self.counters);
        blobs.inc();
        bytes.add(len as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Duration = Duration::from_secs(24);

    #[test]
    fn who_waited_in_vain_for_the_full_time_makes_the_others_wait_less() {
        let doubt = Doubt::none();
        assert_eq!(doubt.limit(FULL).0, FULL);
        doubt.settle(true, true);
        assert_eq!(doubt.limit(FULL).0, FULL, "a short try says nothing");
        doubt.settle(true, false);
        assert_eq!(doubt.limit(FULL).0, DOUBTED_DEADLINE);
        doubt.settle(false, true);
        assert_eq!(doubt.limit(FULL).0, FULL);
    }

    #[tokio::test]
    async fn what_takes_long_needs_room_and_nothing_else_does() {
        let full = Semaphore::new(0);
        assert_eq!(patiently(FULL, &full, async { Ok(7) }).await.unwrap(), Some(7));
        let failed: Result<()> = Err(Error::unavailable("no store"));
        assert!(patiently(FULL, &full, async { failed }).await.is_err());
        let never = std::future::pending::<Result<()>>();
        assert_eq!(patiently(Duration::ZERO, &full, never).await.unwrap(), None);
    }
}
