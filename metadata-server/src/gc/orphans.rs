//! Looks for objects that no row knows: uploads that came when nobody waited for them any more, and what was
//! written just before a crash.

use super::{Phase, run::Run};
use crate::state::{self, GC_SLICE, GcBlob, GcStep};
use sitefs_base::{Error, OsRandom, Random, Result, SiteId, Time, limits::CONTENT_DEADLINE};
use sitefs_blobstore::{Listed, ObjectKey};
use std::collections::BTreeMap;
use tokio::time::timeout;

/// What the keys of all blobs begin with.
const PREFIX: &str = "b/";
/// An object that no row knows is young for so many times the time that an upload may take.
const UPLOADS: u32 = 3;

impl Run<'_> {
    pub(super) async fn orphans(&mut self) -> Result<()> {
        let old = super::before(self.gc.clock.now(), self.gc.config.uploads * UPLOADS);
        let mut after: Option<String> = None;
        loop {
            self.enter(Phase::Orphans)?;
            let page = self.gc.backend.list(PREFIX, after.as_deref(), GC_SLICE);
            let page = timeout(CONTENT_DEADLINE, page)
                .await
                .unwrap_or_else(|_| Err(Error::unavailable("listing the objects took too long")))?;
            let found = self.unknown(&page, old)?;
            self.looked_at(page.len()).await;
            for (site, objects) in found {
                self.report.orphans.add_all(objects.len() as u64, objects.iter().map(|(_, len)| len).sum());
                let objects: Vec<GcBlob> = objects.into_iter().map(|(object, _)| object).collect();
                let gone = self.delete(site, &objects).await?;
                self.report.deleted += gone.len() as u64;
            }
            match page.last() {
                Some(last) if page.len() == GC_SLICE => after = Some(last.key.clone()),
                _ => return Ok(()),
            }
        }
    }

    /// The old objects of a page that no row knows. The rows are read after the page: whoever writes an
    /// object has its row before.
    fn unknown(&mut self, page: &[Listed], old: Time) -> Result<BTreeMap<SiteId, Vec<(GcBlob, u64)>>> {
        let reader = self.gc.group.reader();
        let drawn = state::drawn(&reader)?.ok_or_else(|| Error::internal("there is no group"))?;
        let mut found = BTreeMap::<SiteId, Vec<(GcBlob, u64)>>::new();
        for Listed { key, len, modified } in page {
            let Ok(ObjectKey { site, digest, generation }) = key.parse() else {
                self.report.foreign += 1;
                continue;
            };
            let object = GcBlob { digest, generation };
            if generation > drawn {
                // Of a later leader, or of another cell.
                self.report.foreign += 1;
            } else if !state::is_named(&reader, site, &object)? {
                match *modified < old {
                    true => found.entry(site).or_default().push((object, *len)),
                    false => self.report.young.add(*len),
                }
            }
        }
        Ok(found)
    }

    /// Makes sure that the objects are this cell's: two cells draw the same generations.
    pub(super) async fn claim(&mut self) -> Result<()> {
        let owner = match state::gc_info(&self.gc.group.reader())?.owner {
            Some(owner) => owner,
            None => {
                self.gc.propose(GcStep::Own(OsRandom.next_u128())).await?;
                let owner = state::gc_info(&self.gc.group.reader())?.owner;
                owner.ok_or_else(|| Error::internal("the cell has no name for its objects"))?
            }
        };
        let own = format!("sitefs-owner 1\n{owner:032x}\n");
        let found = timeout(CONTENT_DEADLINE, self.gc.backend.claim(&own))
            .await
            .unwrap_or_else(|_| Err(Error::unavailable("asking whose the objects are took too long")))?;
        if found == own {
            return Ok(());
        }
        Err(Error::denied(
            "the bucket belongs to another cell, or this one was restored from before it took it: nothing is \
             deleted. If no other cell uses the bucket, delete its object `owner` and try again",
        ))
    }
}
