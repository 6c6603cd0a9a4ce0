//! Compares the blobs of a site with what its rows name.

use super::{
    Phase, blocking,
    marks::Marks,
    run::{Point, Run},
};
use crate::state::{self, BlobInfo, GC_SLICE, GcBlob, GcStep, Standing};
use sitefs_base::{Result, SiteId, Time};
use std::sync::Arc;

/// Blobs of one page that something has to be done with.
#[derive(Default)]
struct Found {
    unnamed: Vec<(GcBlob, u32)>,
    due: Vec<(GcBlob, u32)>,
}

impl Run<'_> {
    /// The blobs are read from the same rows as the marks: what was named since then is refused by the
    /// steps themselves.
    pub(super) async fn sweep(
        &mut self,
        site: SiteId,
        point: &Arc<Point>,
        marks: Marks,
        first: u8,
    ) -> Result<()> {
        let mut from = Some(state::blobs_from(site, first));
        while let Some(begin) = from {
            self.enter(Phase::Sweep)?;
            let rows = point.clone();
            let (blobs, page) = blocking(move || {
                let mut blobs = Vec::new();
                let each = &mut |blob| blobs.push(blob);
                let page = state::site_blobs(&rows.reader, site, Some(&begin), GC_SLICE, each)?;
                Ok((blobs, page))
            })
            .await?;
            let found = self.compare(&blobs, &marks);
            self.act(site, point, found).await?;
            self.looked_at(page.rows).await;
            let is_over = blobs.last().is_some_and(|last| !marks.covers(&last.blob.digest));
            from = page.next.filter(|_| !is_over);
        }
        Ok(())
    }

    fn compare(&mut self, blobs: &[BlobInfo], marks: &Marks) -> Found {
        let (mut found, over) = (Found::default(), self.gc.grace_over());
        for BlobInfo { blob, len, standing } in blobs.iter().filter(|info| marks.covers(&info.blob.digest)) {
            match (marks.why(&blob.digest), standing) {
                (Some(why), Standing::Present) => self.report.keep(why, *len),
                (Some(_), _) => self.wrong(blob),
                (None, Standing::Present) => found.unnamed.push((*blob, *len)),
                (None, Standing::Condemned { since }) if *since <= over => found.due.push((*blob, *len)),
                (None, Standing::Condemned { .. }) => self.report.grace.add(u64::from(*len)),
                (None, Standing::Deleting) => {}
            }
        }
        found
    }

    /// Every reference makes a condemned blob a present one: this is a mistake somewhere, and it is kept.
    fn wrong(&mut self, blob: &GcBlob) {
        self.report.wrong += 1;
        tracing::error!(digest = %blob.digest, generation = %blob.generation, "a row names a blob that is condemned");
    }

    async fn act(&mut self, site: SiteId, point: &Point, found: Found) -> Result<()> {
        let mark = point.mark;
        let Found { unnamed, due } = found;
        if self.dry_run {
            unnamed.iter().for_each(|(_, len)| self.report.condemned.add(u64::from(*len)));
            due.iter().for_each(|(_, len)| self.report.given_up.add(u64::from(*len)));
            return Ok(());
        }
        if !unnamed.is_empty() {
            let done = self.gc.propose(GcStep::Condemn { site, mark, blobs: only(unnamed) }).await?;
            self.report.condemned.add_all(done.blobs, done.bytes);
        }
        if !due.is_empty() {
            let before: Time = self.gc.grace_over();
            let done = self.gc.propose(GcStep::BeginDelete { site, mark, before, blobs: only(due) }).await?;
            self.report.given_up.add_all(done.blobs, done.bytes);
            self.gc.meters.given_up_bytes.add(done.bytes);
        }
        Ok(())
    }
}

fn only(blobs: Vec<(GcBlob, u32)>) -> Vec<GcBlob> {
    blobs.into_iter().map(|(blob, _)| blob).collect()
}
