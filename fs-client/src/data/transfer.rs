//! Moves the bytes of blobs: by presigned requests, or through the cell. With [`crate::meta`]'s
//! session stream, the only user of tonic in this crate.

use crate::meta::{Channel, Route, Session};
use crate::metrics::TransferCounters;
use bytes::Bytes;
use sitefs_base::limits::{CHUNK_SIZE, CONTENT_DEADLINE};
use sitefs_base::metrics::Counter;
use sitefs_base::op::Location;
use sitefs_base::session::{FetchBlob, StoreBlob};
use sitefs_base::{Digest, Error, Generation, InodeId, Kind, Result};
use sitefs_blobstore::{Transfer, VerifiedBytes};
use sitefs_proto::pb::{FetchRequest, StoreRequest, blobs_client::BlobsClient};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

/// Fetches and stores blobs for one session.
pub struct CellBlobs {
    session: Arc<Session>,
    route: Arc<Route>,
    transfer: Transfer,
    large: Semaphore,
    counters: TransferCounters,
}

/// How long a transfer through the cell is repeated while another node becomes its leader, and how often.
const ELECTION_MAX: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(100);
/// Large commits that hold content in memory at a time; each holds up to 16 MiB.
const LARGE_COMMITS_MAX: usize = 8;

impl CellBlobs {
    /// Transfers for `session`, over `route` where the cell is the way.
    pub fn new(session: Arc<Session>, route: Arc<Route>) -> Self {
        let large = Semaphore::new(LARGE_COMMITS_MAX);
        Self { session, route, transfer: Transfer::new(), large, counters: TransferCounters::default() }
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
            tokio::time::timeout(limit, work).await.map_err(late)?
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

    /// The bytes of a blob, verified.
    pub fn fetch(&self, ino: InodeId, digest: Digest, from: &Location) -> Result<VerifiedBytes> {
        let fetched = self.wait("fetching a blob", CONTENT_DEADLINE, async {
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
                    self.transfer.get(url, headers, CHUNK_SIZE, CONTENT_DEADLINE).await
                }
            }
        });
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
