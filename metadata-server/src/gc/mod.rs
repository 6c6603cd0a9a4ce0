//! Garbage collection of blobs (DESIGN D32): what no row names is condemned, and deleted after a grace.
//!
//! A run goes from site to site. [`marks`] takes in what the rows of the site name, as one snapshot of the store
//! shows them; `sweep` compares the blobs with that and proposes steps, each of which [`state::GcStep`] checks
//! again; `delete` removes objects that the log has given up; `orphans` looks for objects that no row knows.
//! Only this module deletes objects.

mod delete;
mod looper;
mod marks;
mod orphans;
mod pace;
mod report;
mod run;
mod sweep;

pub(crate) use looper::collect;
pub(crate) use report::{Count, Phase, Progress, Report};

use crate::{
    horizons::Horizons,
    raft::Group,
    state::{self, CommandBody, GcInfo, GcStep, Reply},
};
use pace::Pace;
use run::Run;
use sitefs_base::{Clock, Error, Result, Time, metrics::Counter};
use sitefs_blobstore::Backend;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    time::Duration,
};

/// How garbage is collected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GcConfig {
    /// How long a blob that nothing names stays: longer than anybody reads from a place that he was told.
    pub grace: Duration,
    /// How often everything is looked through.
    pub interval: Duration,
    /// How long an upload may take from its grant to its commit; after three times that an object that
    /// no row knows is garbage.
    pub uploads: Duration,
    /// Rows that are looked at in a second, so that programs come first.
    pub rate: u64,
}

impl Default for GcConfig {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(48 * 3600),
            interval: Duration::from_secs(6 * 3600),
            // Its URL lives for minutes, but a commit of many blobs on a slow line takes hours.
            uploads: Duration::from_secs(24 * 3600),
            rate: 100_000,
        }
    }
}

/// The collector of one group.
pub(crate) struct Gc {
    group: Group,
    backend: Arc<dyn Backend>,
    clock: Arc<dyn Clock>,
    config: GcConfig,
    running: tokio::sync::Mutex<()>,
    seen: Mutex<Seen>,
    /// Digests that a run takes in at a time.
    marks_max: AtomicUsize,
    pub(crate) meters: Meters,
}

/// What it has done since the node started.
#[derive(Default)]
pub(crate) struct Meters {
    pub(crate) deleted: Counter,
    pub(crate) given_up_bytes: Counter,
    pub(crate) rows: Counter,
    pub(crate) failures: Counter,
}

#[derive(Default)]
struct Seen {
    progress: Option<Progress>,
    last: Option<Report>,
}

/// How it stands.
#[derive(Clone, Debug)]
pub(crate) struct GcStatus {
    /// What the log says.
    pub info: GcInfo,
    /// The run under way.
    pub progress: Option<Progress>,
    /// What the last run of this node came to.
    pub last: Option<Report>,
}

impl Gc {
    pub fn new(group: Group, backend: Arc<dyn Backend>, clock: Arc<dyn Clock>, config: GcConfig) -> Self {
        let (running, seen) = (tokio::sync::Mutex::default(), Mutex::default());
        let marks_max = AtomicUsize::new(marks::MARKS_MAX);
        Self { group, backend, clock, config, running, seen, marks_max, meters: Meters::default() }
    }

    /// For tests of sites that memory does not hold.
    #[cfg(test)]
    pub fn bound_marks(&self, max: usize) {
        self.marks_max.store(max, std::sync::atomic::Ordering::Relaxed);
    }

    pub fn config(&self) -> &GcConfig {
        &self.config
    }

    pub fn status(&self) -> Result<GcStatus> {
        let info = state::gc_info(&self.group.reader())?;
        let seen = self.seen();
        Ok(GcStatus { info, progress: seen.progress.clone(), last: seen.last.clone() })
    }

    /// Nothing is collected until it is resumed; a run under way ends at its next page.
    pub async fn pause(&self, paused: bool) -> Result<()> {
        self.propose(GcStep::Pause(paused)).await.map(drop)
    }

    /// Looks everything through once. A dry run changes nothing and says what would be done.
    pub async fn run(&self, dry_run: bool, rate: Option<u64>) -> Result<Report> {
        let under_way = "a run is under way: `sitefs gc status` shows how far it has come";
        let _running = self.running.try_lock().map_err(|_| Error::conflict(under_way))?;
        if !dry_run && state::gc_info(&self.group.reader())?.paused {
            return Err(Error::conflict("garbage collection is paused: `sitefs gc resume` first"));
        }
        let begun = self.clock.boottime();
        let pace = Pace::new(rate.unwrap_or(self.config.rate));
        if !dry_run {
            Horizons::new(self.group.clone(), self.clock.clone()).round().await?;
        }
        let mut run = Run::new(self, dry_run, pace);
        let ended = run.all().await;
        let took = self.clock.boottime().saturating_sub(begun);
        let report = Report { took, error: ended.as_ref().err().map(Error::chain), ..run.report };
        let mut seen = self.seen();
        seen.progress = None;
        if !dry_run {
            seen.last = Some(report.clone());
        }
        ended.map(|()| report)
    }

    async fn propose(&self, step: GcStep) -> Result<state::GcDone> {
        match self.group.propose(CommandBody::Gc(step)).await?.reply {
            Ok(Reply::Gc(done)) => Ok(done),
            Ok(_) => Err(Error::internal("collecting garbage gave another reply")),
            Err(errno) => Err(Error::refused(errno, "collecting garbage")),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was condemned until then has had its grace.
    fn grace_over(&self) -> Time {
        before(self.clock.now(), self.config.grace)
    }
}

/// The moment `ago` before `now`.
fn before(now: Time, ago: Duration) -> Time {
    let secs = i64::try_from(ago.as_secs()).unwrap_or(i64::MAX);
    let at = Time::new(now.secs().saturating_sub(secs), now.nanos());
    match ago.subsec_nanos() {
        0 => at,
        _ => Time::new(at.secs().saturating_sub(1), at.nanos()),
    }
}

/// Runs blocking work, such as reading rows, off the threads of the runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|join| Error::internal("reading rows for garbage collection").because(join))?
}
