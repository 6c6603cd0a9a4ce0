//! The way of bytes between mounts, the cell and the object store.
//!
//! [`Blobs`] signs requests and moves bytes on behalf of sessions; `drain` moves hot blobs to the
//! object store, `verify` reads uploaded objects once to prove their digests, `merge` joins what
//! appends leave behind.

mod drain;
mod hot;
mod merge;
mod outage;
mod stored;
mod verify;

pub(crate) use drain::drain;
pub use hot::HotLimits;
pub(crate) use hot::{Hot, count_hot};
pub(crate) use merge::{merge_hot, merge_stored};
pub(crate) use verify::{report_verified, verify};

use crate::{
    raft::Group,
    state::{self, BlobPlace, CrowdedChunk},
};
use bytes::Bytes;
use sitefs_base::{
    Error, Kind, Result, SiteId, VolumeId,
    limits::{CONTENT_DEADLINE, METADATA_DEADLINE},
    op::Location,
};
use sitefs_blobstore::{Backend, ObjectKey, SignedRequest, VerifiedBytes};
use std::{sync::Arc, time::Duration};
use stored::Stored;
use tokio::{
    sync::{Semaphore, SemaphorePermit, mpsc},
    time::timeout,
};

/// How long a presigned request is valid (DESIGN D34).
const SIGNED_FOR: Duration = Duration::from_secs(300);
/// Digests that wait to be reported as verified; those beyond are read again by the verifier.
const VERIFIED_QUEUE: usize = 4096;

/// Uploads that are read at a time because a commit waits for it; each holds a blob in memory.
const PROOFS_MAX: usize = 8;

/// The bytes of blobs, wherever they are.
pub(crate) struct Blobs {
    group: Group,
    backend: Arc<dyn Backend>,
    stored: Stored,
    verified: mpsc::Sender<ObjectKey>,
    proofs: Semaphore,
    /// What the cell holds itself.
    pub hot: Hot,
    /// Chunks with many extents.
    crowded: merge::Queue,
    /// Those of them whose merge needs the object store.
    stored_chunks: merge::Queue,
}

impl Blobs {
    /// The other half of the channel feeds [`report_verified`].
    pub fn new(
        group: Group,
        backend: Arc<dyn Backend>,
        limits: HotLimits,
    ) -> (Arc<Self>, mpsc::Receiver<ObjectKey>) {
        let (verified, reports) = mpsc::channel(VERIFIED_QUEUE);
        let proofs = Semaphore::new(PROOFS_MAX);
        let (crowded, stored_chunks) = (merge::Queue::default(), merge::Queue::default());
        let (stored, hot) = (Stored::default(), Hot::new(limits));
        (Arc::new(Self { group, backend, stored, verified, proofs, hot, crowded, stored_chunks }), reports)
    }

    /// Where objects are kept.
    pub fn backend(&self) -> Arc<dyn Backend> {
        self.backend.clone()
    }

    /// A chunk has more extents than it should have: they are merged soon.
    pub fn crowded(&self, chunk: CrowdedChunk) {
        self.crowded.add(chunk);
    }

    fn site_of(&self, volume: VolumeId) -> Result<SiteId> {
        let info = state::volume_info(&self.group.reader(), volume)?;
        Ok(info.ok_or_else(|| Error::not_found("the volume is gone"))?.site)
    }

    /// Where a blob of `len` bytes is to be uploaded.
    pub async fn upload_target(&self, key: &ObjectKey, len: u32) -> Result<Location> {
        let signed = self.backend.presign_put(key, u64::from(len), SIGNED_FOR);
        let signed = within(METADATA_DEADLINE, "signing an upload", signed).await?;
        Ok(signed.map_or(Location::Cell, location))
    }

    /// Where a blob can be read.
    pub async fn source(&self, place: &BlobPlace, key: &ObjectKey) -> Result<Location> {
        if place.hot {
            return Ok(Location::Cell);
        }
        let signed = self.backend.presign_get(key, SIGNED_FOR);
        let signed = within(METADATA_DEADLINE, "signing a read", signed).await?;
        Ok(signed.map_or(Location::Cell, location))
    }

    /// Whether the bytes of a blob that `volume` has committed are in the object store.
    pub fn needs_store(&self, volume: VolumeId, digest: sitefs_base::Digest) -> Result<bool> {
        let place = state::locate(&self.group.reader(), volume, &[digest])?.pop().flatten();
        Ok(place.is_some_and(|place| !place.hot))
    }

    /// The bytes of a blob that `volume` has committed; `None` if it has not.
    pub async fn fetch(
        &self,
        volume: VolumeId,
        digest: sitefs_base::Digest,
    ) -> Result<Option<VerifiedBytes>> {
        // A hot blob may be drained between the two reads; it is an object then.
        let mut missing = None;
        for _ in 0..2 {
            let reader = self.group.reader();
            let Some(place) = state::locate(&reader, volume, &[digest])?.pop().flatten() else {
                return Ok(None);
            };
            let key = ObjectKey { site: place.site, digest, generation: place.generation };
            let read = if place.hot { self.read_hot(&key).await } else { self.read(&key).await.map(Some) };
            match read.transpose() {
                Some(read) => return self.noted(&place, &key, read).await.map(Some),
                None if missing == Some(key) => {
                    let gone = Error::not_found(format!("the cell has lost blob {}", digest.short()));
                    return self.noted(&place, &key, Err(gone)).await.map(Some);
                }
                None => missing = Some(key),
            }
        }
        Err(Error::unavailable(format!("blob {} is on its way to the object store", digest.short())))
    }

    async fn read_hot(&self, key: &ObjectKey) -> Result<Option<VerifiedBytes>> {
        match state::hot_bytes(&self.group.reader(), key.site, key.generation)? {
            Some(bytes) => checked(key, bytes.into()).await.map(Some),
            None => Ok(None),
        }
    }

    /// What was found of a blob is written down if it is news: that it is damaged, so that it can be
    /// stored again, or that it is not any more.
    async fn noted(
        &self,
        place: &BlobPlace,
        key: &ObjectKey,
        read: Result<VerifiedBytes>,
    ) -> Result<VerifiedBytes> {
        let noted = match &read {
            Ok(_) if place.damaged => verify::report(self, *key).await,
            Err(error) if is_damage(error) && !place.damaged => verify::report_damaged(self, *key).await,
            _ => Ok(()),
        };
        if let Err(error) = noted {
            // The next who reads it says so again.
            tracing::debug!(error = error.chain(), "the state of a blob was not noted");
        }
        read
    }

    /// Reads an object and proves its digest.
    async fn read(&self, key: &ObjectKey) -> Result<VerifiedBytes> {
        match self.read_once(key).await {
            // What was damaged on its way only is whole the second time.
            Err(error) if error.kind() == Kind::Corrupt => self.read_once(key).await,
            read => read,
        }
    }

    async fn read_once(&self, key: &ObjectKey) -> Result<VerifiedBytes> {
        let bytes = within(CONTENT_DEADLINE, "reading a blob", self.backend.get(key)).await?;
        checked(key, bytes).await
    }

    /// Writes an object whose digest is proven.
    pub async fn store(&self, key: &ObjectKey, bytes: VerifiedBytes) -> Result<()> {
        if bytes.digest() != key.digest {
            return Err(Error::internal("bytes stored under the key of another blob"));
        }
        let len = bytes.len() as u64;
        let put = self.backend.put(key, bytes.into_bytes());
        within(CONTENT_DEADLINE, "writing a blob", put).await?;
        self.stored.add(*key, len);
        Ok(())
    }

    /// Whether an upload of `len` bytes has arrived: stored by this process, or seen in the store.
    pub async fn has_arrived(&self, key: &ObjectKey, len: u32) -> Result<bool> {
        if let Some(stored) = self.stored.len_of(key) {
            return Ok(stored == u64::from(len));
        }
        let found = within(METADATA_DEADLINE, "looking for an upload", self.backend.head(key)).await?;
        Ok(found == Some(u64::from(len)))
    }

    /// Makes sure that an upload has the right bytes and says so in the log, before it is committed.
    /// `false`: it is wrong or not there.
    pub async fn prove(&self, key: &ObjectKey) -> Result<bool> {
        if self.stored.len_of(key).is_some() || self.backend.enforces_digest() {
            return verify::report(self, *key).await.map(|()| true);
        }
        let _permit = permit(&self.proofs, METADATA_DEADLINE).await?;
        verify::prove(self, *key).await
    }

    /// Uploads have been committed: those whose digest is proven are reported as verified.
    pub fn committed(&self, keys: impl IntoIterator<Item = ObjectKey>) {
        for key in keys {
            // A full queue loses nothing: the verifier reads what was not reported.
            if self.stored.take(&key) || self.backend.enforces_digest() {
                let _ = self.verified.try_send(key);
            }
        }
    }
}

/// Whether an error says that the bytes are wrong or gone, and not that they cannot be had now.
fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), Kind::Corrupt | Kind::NotFound)
}

fn location(signed: SignedRequest) -> Location {
    Location::Url { url: signed.url, headers: signed.headers, expires: signed.expires }
}

/// Hashes off the async threads. A wrong digest is an alarm: the bytes go nowhere.
async fn checked(key: &ObjectKey, bytes: Bytes) -> Result<VerifiedBytes> {
    let result = hashed(key.digest, bytes).await;
    if let Err(error) = &result
        && error.kind() == Kind::Corrupt
    {
        tracing::error!(
            site = key.site.get(), digest = %key.digest, generation = %key.generation, error = error.chain(),
            "stored blob has wrong content"
        );
    }
    result
}

/// Proves a digest; large inputs are hashed on a blocking thread.
pub(crate) async fn hashed(digest: sitefs_base::Digest, bytes: Bytes) -> Result<VerifiedBytes> {
    if bytes.len() <= sitefs_base::limits::HOT_MAX {
        return VerifiedBytes::check(digest, bytes);
    }
    tokio::task::spawn_blocking(move || VerifiedBytes::check(digest, bytes))
        .await
        .map_err(|join| Error::internal("hashing a blob").because(join))?
}

/// Room for a proof, unless those before it take too long.
async fn permit(proofs: &Semaphore, limit: Duration) -> Result<SemaphorePermit<'_>> {
    let closed = |_| Error::internal("nobody closes this semaphore");
    within(limit, "waiting to prove an upload", async { proofs.acquire().await.map_err(closed) }).await
}

async fn within<T>(limit: Duration, doing: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(Error::unavailable(format!("{doing} took more than {} s", limit.as_secs()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_a_proof_is_told_to_come_again() {
        let proofs = Semaphore::new(1);
        let held = permit(&proofs, METADATA_DEADLINE).await.unwrap();
        assert_eq!(permit(&proofs, Duration::ZERO).await.unwrap_err().kind(), Kind::Unavailable);
        drop(held);
        assert!(permit(&proofs, METADATA_DEADLINE).await.is_ok());
    }
}
