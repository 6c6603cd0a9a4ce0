//! The time in which this node leads: leader memory and the loops that only a leader runs. All of it is
//! made when the time begins and dropped when it ends; what it held is told again by those who attach.

use crate::{
    backup::Backups,
    fsck::scrub,
    gc::{self, Gc, GcConfig},
    grant::{self, Blobs, HotLimits},
    horizons::Horizons,
    raft::Standing,
    reap::reap,
    rpc::{Cell, Front},
    state::CommandBody,
};
use sitefs_base::{Clock, Result, Tasks, Time, limits::SESSION_EXPIRY};
use sitefs_blobstore::Backend;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How often forgotten sessions are looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(3600);
/// How long a leader that could not begin to serve waits until it tries again; twice as long each time.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// How long streams may take to say where the leader is.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a time of leading is made of.
#[derive(Clone)]
pub(crate) struct Throne {
    pub front: Arc<Front>,
    pub backend: Arc<dyn Backend>,
    pub clock: Arc<dyn Clock>,
    /// Whether sessions from before find this node again.
    pub awaits_locks: bool,
    /// How garbage is collected.
    pub gc: GcConfig,
    /// How much of small files the cell holds.
    pub hot: HotLimits,
    /// Where this node keeps how far its scrub has come.
    pub data_dir: PathBuf,
    /// Copies the state elsewhere.
    pub backups: Arc<Backups>,
}

/// One such time.
pub(crate) struct Reign {
    cell: Arc<Cell>,
    loops: Tasks,
    front: Arc<Front>,
}

impl Throne {
    /// Begins to serve.
    pub fn begin(&self) -> Result<Reign> {
        let Self { front, backend, clock, awaits_locks, .. } = self;
        let gc = Arc::new(Gc::new(front.group.clone(), backend.clone(), clock.clone(), self.gc.clone()));
        let (blobs, reports) = Blobs::new(front.group.clone(), backend.clone(), self.hot);
        let cell = Arc::new(Cell::new(front, (blobs.clone(), gc.clone()), clock.clone()));
        let loops = Tasks::new();
        if *awaits_locks {
            cell.await_locks()?;
            loops.spawn(cell.clone().end_of_awaiting());
        }
        loops.spawn(grant::drain(blobs.clone()));
        loops.spawn(grant::count_hot(blobs.clone()));
        loops.spawn(grant::verify(blobs.clone()));
        loops.spawn(grant::merge_hot(blobs.clone()));
        loops.spawn(grant::merge_stored(blobs.clone()));
        loops.spawn(grant::report_verified(blobs.clone(), reports));
        loops.spawn(scrub(
            cell.group.clone(),
            blobs.backend(),
            clock.clone(),
            self.data_dir.clone(),
            cell.scrub.clone(),
        ));
        loops.spawn(gc::collect(gc));
        loops.spawn(self.backups.clone().run());
        loops.spawn(expire_sessions(cell.clone()));
        loops.spawn(reap(cell.clone()));
        loops.spawn(Horizons::new(cell.group.clone(), cell.clock.clone()).run());
        front.serve(&cell, &self.backups);
        Ok(Reign { cell, loops, front: front.clone() })
    }

    /// Begins whenever this node leads, and ends when it does not any more; a new term is a new time. One that
    /// could not begin is tried again.
    pub async fn follow(self, stop: CancellationToken) {
        let mut standing = self.front.group.standing();
        let mut reign: Option<(u64, Reign)> = None;
        let mut pause = RETRY_MIN;
        loop {
            let now = standing.borrow_and_update().clone();
            let leads = match now {
                Standing::Leads { term } => Some(term),
                Standing::Waiting | Standing::Follows(_) => None,
            };
            if reign.as_ref().map(|(term, _)| *term) != leads {
                if let Some((_, ended)) = reign.take() {
                    ended.depose().await;
                }
                reign = leads.and_then(|term| Some((term, self.begin_or_report()?)));
            }
            let failed = leads.is_some() && reign.is_none();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = standing.changed() => match changed {
                    Ok(()) => pause = RETRY_MIN,
                    Err(_) => break,
                },
                () = tokio::time::sleep(pause), if failed => pause = (pause * 2).min(RETRY_MAX),
            }
        }
        if let Some((_, last)) = reign {
            last.end().await;
        }
    }

    fn begin_or_report(&self) -> Option<Reign> {
        let begun = self.begin();
        let report = |error: &sitefs_base::Error| {
            tracing::error!(error = error.chain(), "this node leads but cannot serve")
        };
        begun.inspect_err(report).ok()
    }
}

impl Reign {
    /// Another node leads: streams are told at once, nothing of this time goes on.
    async fn depose(self) {
        self.front.retire();
        self.cell.deposed.cancel();
        self.cell.streams.close();
        if timeout(FAREWELL, self.cell.streams.wait()).await.is_err() {
            tracing::debug!("some streams of mounts did not end in time");
        }
        self.loops.shutdown().await;
        self.cell.tasks.shutdown().await;
    }

    /// The node stops: streams have been told.
    pub async fn end(&self) {
        self.front.retire();
        self.cell.tasks.shutdown().await;
        self.loops.shutdown().await;
    }
}

/// Forgets sessions that nobody has used for a day (DESIGN D12).
async fn expire_sessions(cell: Arc<Cell>) {
    loop {
        tokio::time::sleep(EXPIRE_EVERY).await;
        cell.touch_sessions().await;
        let now = cell.clock.now();
        let ago = i64::try_from(SESSION_EXPIRY.as_secs()).unwrap_or(i64::MAX);
        let before = Time::new(now.secs().saturating_sub(ago), now.nanos());
        if let Err(error) = cell.group.propose(CommandBody::ExpireSessions { before }).await {
            tracing::debug!(error = error.chain(), "sessions are left to expire later");
        }
    }
}
