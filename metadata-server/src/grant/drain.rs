//! Moves hot blobs from the cell to the object store (DESIGN D31, D35).

use super::{Blobs, checked, outage::Outage, within};
use crate::state::{self, CommandBody, HotBlob};
use sitefs_base::{Error, Generation, Kind, Result, SiteId, limits::CONTENT_DEADLINE};
use sitefs_blobstore::ObjectKey;
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::task::{JoinError, JoinSet};

/// Blobs looked at per step.
const BATCH: usize = 64;
/// Uploads at a time.
const CONCURRENT: usize = 4;
/// Wrong blobs remembered, so that they are reported once per process only.
const WRONG_MAX: usize = 16 * 1024;
/// How often an empty cell is looked at.
const IDLE: Duration = Duration::from_secs(1);

/// Where a blob stands in the order of draining.
type Place = (SiteId, Generation);
/// What came of moving one blob.
type Moved = (ObjectKey, Result<()>);

/// Runs until its owner stops it.
pub(crate) async fn drain(blobs: Arc<Blobs>) {
    let mut outage = Outage::new("drain");
    let (mut after, mut wrong) = (None, HashSet::new());
    loop {
        let wait = match step(&blobs, after, &mut wrong).await {
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

/// Moves the next blobs behind `after`; says where to go on, `None` at the end. Wrong ones are
/// reported once and stay where they are.
async fn step(
    blobs: &Arc<Blobs>,
    after: Option<Place>,
    wrong: &mut HashSet<ObjectKey>,
) -> Result<Option<Place>> {
    let batch = state::hot_blobs(&blobs.group.reader(), after, BATCH)?;
    let next = if batch.len() < BATCH { None } else { batch.last().map(|last| (last.site, last.generation)) };
    let mut running = JoinSet::new();
    let mut result = Ok(());
    for HotBlob { site, digest, generation, .. } in batch {
        let key = ObjectKey { site, digest, generation };
        if wrong.contains(&key) {
            continue;
        }
        if running.len() >= CONCURRENT {
            result = result.and(ended(running.join_next().await, wrong));
        }
        if result.is_err() {
            break;
        }
        running.spawn(move_out(blobs.clone(), key));
    }
    while !running.is_empty() {
        result = result.and(ended(running.join_next().await, wrong));
    }
    result.map(|()| next)
}

fn ended(moved: Option<Result<Moved, JoinError>>, wrong: &mut HashSet<ObjectKey>) -> Result<()> {
    match moved {
        None => Ok(()),
        Some(Ok((_, Ok(())))) => Ok(()),
        Some(Ok((key, Err(error)))) if error.kind() == Kind::Corrupt => {
            if wrong.len() < WRONG_MAX {
                wrong.insert(key);
            }
            Ok(())
        }
        Some(Ok((_, Err(error)))) => Err(error),
        Some(Err(join)) => Err(Error::internal("draining a hot blob").because(join)),
    }
}

async fn move_out(blobs: Arc<Blobs>, key: ObjectKey) -> Moved {
    let moved = async {
        let Some(bytes) = state::hot_bytes(&blobs.group.reader(), key.site, key.generation)? else {
            return Ok(()); // gone since it was listed
        };
        let bytes = checked(&key, bytes.into()).await?;
        let len = bytes.len() as u64;
        if blobs.backend.uses_own_disk() && blobs.group.is_disk_short(len)? {
            return Err(Error::limit("the disk of the cell is nearly full, hot blobs stay in its log"));
        }
        let put = blobs.backend.put(&key, bytes.into_bytes());
        within(CONTENT_DEADLINE, "draining a hot blob", put).await?;
        let ObjectKey { site, digest, generation } = key;
        blobs.group.propose(CommandBody::Drained { site, digest, generation }).await.map(|_| ())
    };
    (key, moved.await)
}
