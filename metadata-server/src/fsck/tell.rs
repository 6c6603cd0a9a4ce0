//! What is found, for people.

use crate::state::{
    self,
    check::{Finding, Severity},
};
use sitefs_base::{
    Error, Result,
    check::{CheckEvent, CheckFinding, CheckProgress, CheckSummary},
};
use sitefs_blobstore::ObjectKey;
use std::{sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

/// How often progress is told.
const EVERY: Duration = Duration::from_millis(200);

/// Tells findings and progress; ends the check when nobody listens any more.
#[derive(Clone)]
pub(super) struct Teller {
    events: mpsc::Sender<CheckEvent>,
    stop: CancellationToken,
    last: Instant,
}

impl Teller {
    pub fn new(events: mpsc::Sender<CheckEvent>, stop: CancellationToken) -> Self {
        Self { events, stop, last: Instant::now() }
    }

    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    fn gone(&self) -> Error {
        self.stop.cancel();
        Error::unavailable("nobody listens to the check any more")
    }

    pub async fn found(&self, finding: CheckFinding) -> Result<()> {
        self.events.send(CheckEvent::Found(Box::new(finding))).await.map_err(|_| self.gone())
    }

    /// The same on a thread that may wait.
    pub fn found_blocking(&self, finding: CheckFinding) -> Result<()> {
        self.events.blocking_send(CheckEvent::Found(Box::new(finding))).map_err(|_| self.gone())
    }

    /// Says how far it is, now and then; what is not heard in time is left out.
    pub fn progress(&mut self, stage: &str, done: u64, total: u64, resume: Option<String>) -> Result<()> {
        if self.last.elapsed() < EVERY {
            return Ok(());
        }
        self.last = Instant::now();
        let progress = CheckProgress { stage: stage.to_owned(), done, total: total.max(done), resume };
        match self.events.try_send(CheckEvent::Progress(progress)) {
            Err(mpsc::error::TrySendError::Closed(_)) => Err(self.gone()),
            _ => Ok(()),
        }
    }

    pub async fn done(&self, summary: CheckSummary) -> Result<()> {
        self.events.send(CheckEvent::Done(summary)).await.map_err(|_| self.gone())
    }
}

/// The names of volumes, as far as they can be read.
pub(super) fn volume_name(rows: &Arc<dyn state::Read + Send + Sync>, finding: &Finding) -> Option<String> {
    let id = finding.volume?;
    let info = state::volume_info(rows, id).ok().flatten();
    Some(info.map_or_else(|| id.to_string(), |info| info.name.to_string()))
}

/// A finding as everybody may see it.
pub(super) fn finding(found: &Finding, volume: Option<String>) -> CheckFinding {
    let kind = found.kind;
    let repair = found.repair.as_ref().and_then(|repair| {
        let bytes = postcard::to_stdvec(repair).ok()?;
        Some((repair.describe(), bytes))
    });
    CheckFinding {
        kind: kind.name().to_owned(),
        is_damage: kind.severity() == Severity::Damage,
        volume,
        path: found.path.clone(),
        what: found.what.clone(),
        means: kind.means().to_owned(),
        advice: kind.advice().to_owned(),
        object: found
            .blob
            .map(|(site, digest, generation)| ObjectKey { site, digest, generation }.to_string()),
        repair,
    }
}
