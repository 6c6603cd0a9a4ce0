//! Moves hot blobs from the cell to the object store (DESIGN D31, D35).

use super::{Blobs, checked, outage::Outage, within};
use crate::state::{self, CommandBody, HotBlob};
use sitefs_base::{Error, Generation, Kind, Result, SiteId, limits::CONTENT_DEADLINE};
use sitefs_blobstore::ObjectKey;
use std::{sync::Arc, time::Duration};
use tokio::task::JoinSet;

/// Blobs looked at per step.
const BATCH: usize = 64;
/// Uploads at a time.
const CONCURRENT: usize = 4;
/// How often an empty cell is looked at.
const IDLE: Duration = Duration::from_secs(1);

/// Runs until its owner stops it.
pub(crate) async fn drain(blobs: Arc<Blobs>) {
    let mut outage = Outage::new("drain");
    let mut after = None;
    loop {
        let wait = match step(&blobs, after).await {
            Ok(next) => {
                outage.over();
                after = next;
                next.is_none().then_some(IDLE)
            }
            Err(error) => {
                after = None;
                Some(outage.failed(&error))
            }
        };
        if let Some(wait) = wait {
            tokio::time::sleep(wait).await;
        }
    }
}

/// Moves the next blobs behind `after`; says where to go on, `None` at the end.
async fn step(
    blobs: &Arc<Blobs>,
    after: Option<(SiteId, Generation)>,
) -> Result<Option<(SiteId, Generation)>> {
    let batch = state::hot_blobs(&blobs.group.reader(), after, BATCH)?;
    let next = if batch.len() < BATCH { None } else { batch.last().map(|last| (last.site, last.generation)) };
    let mut running = JoinSet::new();
    let mut result = Ok(());
    for blob in batch {
        if running.len() >= CONCURRENT {
            result = result.and(joined(running.join_next().await));
        }
        if result.is_err() {
            break;
        }
        running.spawn(move_out(blobs.clone(), blob));
    }
    while !running.is_empty() {
        result = result.and(joined(running.join_next().await));
    }
    result.map(|()| next)
}

fn joined(ended: Option<Result<Result<()>, tokio::task::JoinError>>) -> Result<()> {
    match ended {
        None => Ok(()),
        Some(Ok(result)) => result,
        Some(Err(join)) => Err(Error::internal("draining a hot blob").because(join)),
    }
}

async fn move_out(blobs: Arc<Blobs>, blob: HotBlob) -> Result<()> {
    let key = ObjectKey { site: blob.site, digest: blob.digest, generation: blob.generation };
    let Some(bytes) = state::hot_bytes(&blobs.group.reader(), key.site, key.generation)? else {
        return Ok(()); // gone since it was listed
    };
    let bytes = match checked(&key, bytes.into()).await {
        Err(wrong) if wrong.kind() == Kind::Corrupt => return Ok(()), // reported; it stays for people to look at
        other => other?,
    };
    let put = blobs.backend.put(&key, bytes.into_bytes());
    within(CONTENT_DEADLINE, "draining a hot blob", put).await?;
    let drained = CommandBody::Drained { site: key.site, digest: key.digest, generation: key.generation };
    blobs.group.propose(drained).await.map(|_| ())
}
