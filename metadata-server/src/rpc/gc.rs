//! Administration of garbage collection.

use super::AdminService;
use crate::gc::{Count, Gc, GcStatus, Phase, Progress, Report};
use sitefs_base::{Error, Result};
use sitefs_proto::{pb, status_from_error};
use std::time::Duration;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// How often the caller hears how far it has come.
const TELL_EVERY: Duration = Duration::from_millis(200);

type Told = mpsc::Sender<Result<pb::GcProgress, Status>>;

impl AdminService {
    /// Runs in a task of its own, also if the caller goes, and tells how it goes on.
    pub(super) fn start_gc(
        &self,
        request: &pb::RunGcRequest,
    ) -> Result<ReceiverStream<Result<pb::GcProgress, Status>>> {
        self.0.auth.caller(&request.claimed_identity)?.may_operate()?;
        let pb::RunGcRequest { dry_run, rate, .. } = *request;
        if rate == Some(0) {
            return Err(Error::invalid("at a rate of 0 rows a second it would never end"));
        }
        let (tell, told) = mpsc::channel(4);
        let gc = self.0.gc.clone();
        self.0.tasks.spawn(self.0.serving.track_future(async move {
            let running = gc.run(dry_run, rate);
            tokio::pin!(running);
            let mut ticks = interval(TELL_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let ended = loop {
                tokio::select! {
                    ended = &mut running => break ended,
                    _ = ticks.tick() => say(&tell, &gc),
                }
            };
            let last = match ended {
                Ok(report) => Ok(pb::GcProgress {
                    report: Some(report.into()),
                    done: true,
                    dry_run,
                    ..Default::default()
                }),
                Err(error) => Err(status_from_error(&error)),
            };
            // Nobody is left to tell when the caller is gone.
            let _ = tell.send(last).await;
        }));
        Ok(ReceiverStream::new(told))
    }

    pub(super) fn show_gc(&self, request: &pb::GcStatusRequest) -> Result<pb::GcStatusReply> {
        self.0.auth.caller(&request.claimed_identity)?.may_operate()?;
        let (status, config) = (self.0.gc.status()?, self.0.gc.config());
        Ok(pb::GcStatusReply {
            paused: status.info.paused,
            finished: status.info.finished.map(Into::into),
            running: status.progress.as_ref().map(progress),
            last: status.last.map(Into::into),
            grace_seconds: config.grace.as_secs(),
            interval_seconds: config.interval.as_secs(),
            rate: config.rate,
        })
    }

    pub(super) async fn set_gc(&self, request: &pb::PauseGcRequest) -> Result<pb::Empty> {
        self.0.auth.caller(&request.claimed_identity)?.may_operate()?;
        self.0.gc.pause(request.paused).await?;
        tracing::info!(paused = request.paused, "garbage collection paused or resumed");
        Ok(pb::Empty {})
    }
}

/// A caller that does not keep up misses some.
fn say(tell: &Told, gc: &Gc) {
    if let Ok(GcStatus { progress: Some(far), .. }) = gc.status() {
        let _ = tell.try_send(Ok(progress(&far)));
    }
}

fn progress(far: &Progress) -> pb::GcProgress {
    let phase = match far.phase {
        Phase::Mark => pb::GcPhase::Mark,
        Phase::Sweep => pb::GcPhase::Sweep,
        Phase::Delete => pb::GcPhase::Delete,
        Phase::Orphans => pb::GcPhase::Orphans,
    };
    pb::GcProgress {
        phase: phase.into(),
        expected: far.expected,
        report: Some(far.report.clone().into()),
        done: false,
        dry_run: far.dry_run,
    }
}

impl From<Count> for pb::GcCount {
    fn from(Count { blobs, bytes }: Count) -> Self {
        Self { blobs, bytes }
    }
}

impl From<Report> for pb::GcReport {
    fn from(report: Report) -> Self {
        Self {
            sites: report.sites,
            rows: report.rows,
            live: Some(report.live.into()),
            history: Some(report.history.into()),
            snapshot: Some(report.snapshot.into()),
            pin: Some(report.pin.into()),
            grace: Some(report.grace.into()),
            condemned: Some(report.condemned.into()),
            given_up: Some(report.given_up.into()),
            waiting: report.waiting,
            deleted: report.deleted,
            expired: report.expired,
            orphans: Some(report.orphans.into()),
            young: Some(report.young.into()),
            foreign: report.foreign,
            wrong: report.wrong,
            took_ms: u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
            error: report.error,
        }
    }
}
