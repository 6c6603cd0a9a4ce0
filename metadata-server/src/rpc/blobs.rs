//! The bytes of blobs, where the cell is the way to them.

use super::{Cell, auth::Access, sessions::Member};
use crate::{grant, state};
use sitefs_base::{
    Errno, Error, GroupId, Result, SessionId,
    limits::CONTENT_DEADLINE,
    session::{FetchBlob, StoreBlob},
};
use sitefs_blobstore::ObjectKey;
use sitefs_proto::{pb, pb::blobs_server::Blobs, status_from_error};
use std::sync::Arc;
use tokio::{sync::Semaphore, time::timeout};
use tonic::{Request, Response, Status};

/// Transfers at a time; each holds one blob of at most 4 MiB in memory.
const TRANSFERS: usize = 64;
/// Reads at a time of what the cell holds itself, which is small: they do not wait behind a slow store.
const HOT_READS: usize = 64;

/// The service of that name.
pub(crate) struct BlobsService {
    cell: Arc<Cell>,
    transfers: Semaphore,
    hot_reads: Semaphore,
}

impl BlobsService {
    /// The service of `cell`.
    pub fn new(cell: Arc<Cell>) -> Self {
        Self { cell, transfers: Semaphore::new(TRANSFERS), hot_reads: Semaphore::new(HOT_READS) }
    }

    /// Runs a transfer within the limit of time, its wait for a permit included.
    async fn in_time<T>(transfer: impl Future<Output = Result<T>>) -> Result<T, Status> {
        timeout(CONTENT_DEADLINE, transfer)
            .await
            .unwrap_or_else(|_| Err(Error::unavailable("the transfer took too long")))
            .map_err(|error| status_from_error(&error))
    }

    /// The attached session that asks.
    fn member(&self, group: GroupId, session: SessionId) -> Result<Member> {
        let own = self.cell.group.info().group;
        if group != own {
            return Err(Error::invalid(format!("this node serves {own}, not {group}")));
        }
        let attached = self.cell.sessions.member(session);
        attached.ok_or_else(|| Error::denied(format!("{session} is not attached to this node")))
    }

    async fn fetch_blob(&self, request: pb::FetchRequest) -> Result<pb::FetchReply> {
        let (group, FetchBlob { session, ino, digest }) = request.try_into()?;
        let member = self.member(group, session)?;
        let needs_store = self.cell.blobs.needs_store(member.volume, digest)?;
        let permits = if needs_store { &self.transfers } else { &self.hot_reads };
        let _permit = permits.acquire().await;
        let found = self.cell.blobs.fetch(member.volume, digest).await?;
        let bytes = found
            .ok_or_else(|| Error::not_found(format!("{ino} does not reference blob {}", digest.short())))?;
        Ok(pb::FetchReply { data: bytes.into_bytes() })
    }

    async fn store_blob(&self, request: pb::StoreRequest) -> Result<pb::StoreReply> {
        let _permit = self.transfers.acquire().await;
        let (group, StoreBlob { session, digest, generation, bytes }) = request.try_into()?;
        let member = self.member(group, session)?;
        if member.access == Access::Read {
            return Err(Error::refused(Errno::EROFS, "this session is read-only"));
        }
        let owner = (member.site, member.volume);
        let granted = state::upload_slot(&self.cell.group.reader(), owner, &digest, generation)?;
        if granted.map(|slot| slot.len) != u32::try_from(bytes.len()).ok() {
            return Err(Error::denied(format!(
                "no upload of {} bytes is granted for blob {}",
                bytes.len(),
                digest.short()
            )));
        }
        let bytes = grant::hashed(digest, bytes).await.map_err(|wrong| {
            Error::invalid(format!("the upload of blob {} has other content", digest.short())).because(wrong)
        })?;
        if self.cell.group.is_disk_short(bytes.len() as u64)? {
            return Err(Error::refused(Errno::ENOSPC, "the disk of the cell is nearly full"));
        }
        let key = ObjectKey { site: member.site, digest, generation };
        self.cell.blobs.store(&key, bytes).await?;
        Ok(pb::StoreReply {})
    }
}

#[tonic::async_trait]
impl Blobs for BlobsService {
    async fn fetch(&self, request: Request<pb::FetchRequest>) -> Result<Response<pb::FetchReply>, Status> {
        Self::in_time(self.fetch_blob(request.into_inner())).await.map(Response::new)
    }

    async fn store(&self, request: Request<pb::StoreRequest>) -> Result<Response<pb::StoreReply>, Status> {
        Self::in_time(self.store_blob(request.into_inner())).await.map(Response::new)
    }
}
