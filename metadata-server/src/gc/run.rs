//! One run through all sites.

use super::{Gc, Phase, Progress, Report, blocking, marks::Marks, pace::Pace};
use crate::{
    state::{self, GcStep, Kept, Mark},
    store::Reader,
};
use sitefs_base::{Error, Result, SiteId};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// Rows that are read at a time.
const PAGE: usize = 10_000;
/// How long rows of the past are kept alive for sites that follow each other.
const POINT_AGE_MAX: Duration = Duration::from_secs(30);

/// A run under way.
pub(super) struct Run<'a> {
    pub gc: &'a Gc,
    pub dry_run: bool,
    pub report: Report,
    pub pace: Pace,
    expected: u64,
    phase: Phase,
}

/// Rows at one moment.
pub(super) struct Point {
    pub reader: Reader,
    pub mark: Mark,
    volumes: BTreeMap<SiteId, Vec<Kept>>,
    made: Instant,
}

impl Point {
    async fn now(gc: &Gc) -> Result<Arc<Self>> {
        let (reader, made) = (gc.group.reader(), Instant::now());
        blocking(move || {
            let mark = state::mark_of(&reader)?.ok_or_else(|| Error::internal("there is no group"))?;
            let volumes = state::volumes_by_site(&reader)?;
            Ok(Arc::new(Self { reader, mark, volumes, made }))
        })
        .await
    }
}

impl<'a> Run<'a> {
    pub fn new(gc: &'a Gc, dry_run: bool, pace: Pace) -> Self {
        Self { gc, dry_run, report: Report::default(), pace, expected: 0, phase: Phase::Mark }
    }

    pub async fn all(&mut self) -> Result<()> {
        if !self.dry_run {
            self.claim().await?;
        }
        let mut point = Point::now(self.gc).await?;
        self.expected = point.volumes.values().flatten().map(|kept| kept.inodes).sum();
        let mut after = None;
        while let Some(site) = self.next_site(after).await? {
            if point.made.elapsed() > POINT_AGE_MAX {
                point = Point::now(self.gc).await?;
            }
            self.site(site, &mut point).await?;
            self.report.sites += 1;
            after = Some(site);
        }
        drop(point);
        self.orphans().await?;
        if !self.dry_run {
            self.gc.propose(GcStep::Finished).await?;
        }
        Ok(())
    }

    async fn next_site(&mut self, after: Option<SiteId>) -> Result<Option<SiteId>> {
        let reader = self.gc.group.reader();
        blocking(move || state::next_site(&reader, after)).await
    }

    async fn site(&mut self, site: SiteId, point: &mut Arc<Point>) -> Result<()> {
        self.expire_uploads(site).await?;
        let mut first = Some(0);
        while let Some(from) = first {
            if from > 0 {
                *point = Point::now(self.gc).await?;
            }
            let marks = self.mark(site, point, from).await?;
            first = marks.last().checked_add(1);
            self.sweep(site, point, marks, from).await?;
        }
        self.delete_doomed(site).await
    }

    /// Takes in what the rows of the site name, of digests from `first` on, as far as memory goes.
    async fn mark(&mut self, site: SiteId, point: &Arc<Point>, first: u8) -> Result<Marks> {
        let mut marks = Marks::new(first, self.gc.marks_max.load(Ordering::Relaxed));
        let volumes = point.volumes.get(&site).map_or(0, Vec::len);
        for number in 0..volumes {
            for family in state::NAMING {
                let mut from = None;
                loop {
                    self.enter(Phase::Mark)?;
                    let point = point.clone();
                    let (back, page) = blocking(move || {
                        let kept = &point.volumes[&site][number];
                        let page = state::named(
                            &point.reader,
                            kept,
                            family,
                            from.as_deref(),
                            PAGE,
                            &mut |digest, why| marks.add(digest, why),
                        )?;
                        Ok((marks, page))
                    })
                    .await?;
                    marks = back;
                    marks.check()?;
                    self.looked_at(page.rows).await;
                    from = page.next;
                    if from.is_none() {
                        break;
                    }
                }
            }
        }
        Ok(marks)
    }

    /// Gives up uploads that took too long.
    async fn expire_uploads(&mut self, site: SiteId) -> Result<()> {
        let before = super::before(self.gc.clock.now(), self.gc.config.uploads);
        while !self.dry_run && state::uploads_expire(&self.gc.group.reader(), site, before)? {
            self.enter(Phase::Mark)?;
            let done = self.gc.propose(GcStep::ExpireUploads { site, before }).await?;
            self.report.expired += done.blobs;
            self.looked_at(usize::try_from(done.blobs).unwrap_or(0)).await;
            if done.blobs == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Counts rows, and waits where they came too fast.
    pub async fn looked_at(&mut self, rows: usize) {
        let rows = rows as u64;
        self.report.rows += rows;
        self.gc.meters.rows.add(rows);
        self.pace.take(rows).await;
    }

    /// Tells how far it has come; an error where it has to stop.
    pub fn enter(&mut self, phase: Phase) -> Result<()> {
        self.phase = phase;
        let (dry_run, expected, report) = (self.dry_run, self.expected, self.report.clone());
        self.gc.seen().progress = Some(Progress { dry_run, phase, expected, report });
        if self.gc.group.quorum_age().is_none() {
            return Err(Error::unavailable("this node does not lead any more"));
        }
        if !self.dry_run && state::gc_info(&self.gc.group.reader())?.paused {
            return Err(Error::conflict("garbage collection was paused"));
        }
        Ok(())
    }
}
