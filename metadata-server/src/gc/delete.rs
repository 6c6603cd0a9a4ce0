//! Deletes objects, each by its one key.

use super::{Phase, before, blocking, pace::OBJECT_ROWS, run::Run};
use crate::state::{self, Doomed, GC_SLICE, GcBlob, GcStep};
use sitefs_base::{Error, Result, SiteId, limits::METADATA_DEADLINE};
use sitefs_blobstore::ObjectKey;
use tokio::{task::JoinSet, time::timeout};

/// Objects that are deleted at a time.
const CONCURRENT: usize = 8;

impl Run<'_> {
    /// Deletes what the log has given up. Readers of replaced objects have their grace first.
    pub(super) async fn delete_doomed(&mut self, site: SiteId) -> Result<()> {
        let over = before(self.gc.clock.now(), self.gc.config.grace);
        let mut after = None;
        loop {
            self.enter(Phase::Delete)?;
            let reader = self.gc.group.reader();
            let found = blocking(move || state::doomed(&reader, site, after, GC_SLICE)).await?;
            let is_due = |doomed: &&Doomed| doomed.had_grace || doomed.since <= over;
            let due: Vec<GcBlob> = found.iter().filter(is_due).map(|doomed| doomed.object).collect();
            self.report.waiting += (found.len() - due.len()) as u64;
            let gone = self.delete(site, &due).await?;
            if !gone.is_empty() {
                self.report.deleted += gone.len() as u64;
                self.gc.propose(GcStep::Deleted { site, objects: gone }).await?;
            }
            after = found.last().map(|doomed| doomed.object.generation);
            if found.len() < GC_SLICE {
                return Ok(());
            }
        }
    }

    /// Deletes objects; gives those that are gone. An error if none of the first ones could be.
    pub(super) async fn delete(&mut self, site: SiteId, objects: &[GcBlob]) -> Result<Vec<GcBlob>> {
        let (mut gone, mut running, mut failed) = (Vec::new(), JoinSet::new(), 0);
        if self.dry_run {
            self.report.waiting += objects.len() as u64;
            return Ok(gone);
        }
        let mut waiting = objects.iter();
        loop {
            while running.len() < CONCURRENT
                && let Some(object) = waiting.next()
            {
                self.pace.take(OBJECT_ROWS).await;
                running.spawn(remove(self.gc.backend.clone(), site, *object));
            }
            let Some(ended) = running.join_next().await else { return Ok(gone) };
            let (object, removed) =
                ended.map_err(|join| Error::internal("deleting an object").because(join))?;
            match removed {
                Ok(()) => {
                    self.gc.meters.deleted.inc();
                    gone.push(object);
                }
                Err(error) => {
                    failed += 1;
                    self.report.waiting += 1;
                    self.gc.meters.failures.inc();
                    tracing::debug!(digest = %object.digest, error = error.chain(), "object not deleted");
                    if failed >= CONCURRENT && gone.is_empty() {
                        return Err(error.while_doing("deleting objects"));
                    }
                }
            }
        }
    }
}

async fn remove(
    backend: std::sync::Arc<dyn sitefs_blobstore::Backend>,
    site: SiteId,
    object: GcBlob,
) -> (GcBlob, Result<()>) {
    let key = ObjectKey { site, digest: object.digest, generation: object.generation };
    let removed = timeout(METADATA_DEADLINE, backend.delete(&key)).await;
    (object, removed.unwrap_or_else(|_| Err(Error::unavailable("the store did not answer in time"))))
}
