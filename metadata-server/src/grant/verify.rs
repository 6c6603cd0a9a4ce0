//! Proves the digests of uploaded objects, once each (DESIGN D33).

use super::{Blobs, outage::Outage};
use crate::state::{self, CommandBody};
use sitefs_base::{Kind, Result};
use sitefs_blobstore::ObjectKey;
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// Objects looked at per step.
const BATCH: usize = 64;
/// Wrong objects remembered, so that they are read and reported once per process only.
const WRONG_MAX: usize = 16 * 1024;
/// How often the cell is looked at when nothing is to be proven.
const IDLE: Duration = Duration::from_secs(10);

/// Reports what this process has hashed itself. Runs until its owner stops it.
pub(crate) async fn report_verified(blobs: Arc<Blobs>, mut reports: mpsc::Receiver<ObjectKey>) {
    while let Some(key) = reports.recv().await {
        // A failed report loses nothing: the verifier finds the object later.
        if let Err(error) = report(&blobs, key).await {
            tracing::debug!(error = error.chain(), "blob not reported as verified");
        }
    }
}

/// Reads objects whose digest nobody has proven. Runs until its owner stops it.
pub(crate) async fn verify(blobs: Arc<Blobs>) {
    let mut outage = Outage::new("verify");
    let mut wrong = HashSet::new();
    loop {
        let wait = match step(&blobs, &mut wrong).await {
            Ok(more) => {
                outage.over();
                (!more).then_some(IDLE)
            }
            Err(error) => Some(outage.failed(&error)),
        };
        if let Some(wait) = wait {
            tokio::time::sleep(wait).await;
        }
    }
}

/// Proves the next objects. Whether there may be more.
async fn step(blobs: &Blobs, wrong: &mut HashSet<ObjectKey>) -> Result<bool> {
    // Wrong ones stay in the list, in front of those that are new.
    let limit = BATCH + wrong.len();
    let batch = state::unverified(&blobs.group.reader(), limit)?;
    let more = batch.len() == limit;
    for object in batch {
        let key = ObjectKey { site: object.site, digest: object.digest, generation: object.generation };
        if !wrong.contains(&key) && !prove(blobs, key).await? && wrong.len() < WRONG_MAX {
            wrong.insert(key);
        }
    }
    Ok(more && wrong.len() < WRONG_MAX)
}

/// Reads one object and reports it as verified. `false`: it is wrong or not there, which is logged, and
/// written down if it was committed.
pub(super) async fn prove(blobs: &Blobs, key: ObjectKey) -> Result<bool> {
    match blobs.read(&key).await {
        Ok(_) => report(blobs, key).await.map(|()| true),
        Err(error) if error.kind() == Kind::Corrupt => report_damaged(blobs, key).await.map(|()| false),
        Err(error) if error.kind() == Kind::NotFound => {
            tracing::error!(site = key.site.get(), digest = %key.digest, "uploaded blob is not in the store");
            report_damaged(blobs, key).await.map(|()| false)
        }
        Err(error) => Err(error),
    }
}

/// The blob can be stored again from now on.
pub(super) async fn report_damaged(blobs: &Blobs, key: ObjectKey) -> Result<()> {
    let body = CommandBody::Damaged { site: key.site, digest: key.digest, generation: key.generation };
    blobs.group.propose(body).await.map(|_| ())
}

pub(super) async fn report(blobs: &Blobs, key: ObjectKey) -> Result<()> {
    let body = CommandBody::Verified { site: key.site, digest: key.digest, generation: key.generation };
    blobs.group.propose(body).await.map(|_| ())
}
