//! `sitefs fsck`: checks a running cell at one point of its rows, or a node that does not run.
//!
//! `rows.rs` drives [`crate::state::check`] on a blocking thread; `objects.rs` compares blobs with the
//! listing of the object store; `content.rs` reads objects and hashes them; `scrub.rs` does that all the
//! time, slowly. What is found is told through one channel; repairs are commands of the log.

mod content;
mod objects;
mod pace;
mod rows;
mod scrub;
mod tell;

#[cfg(test)]
pub(crate) use scrub::Scrubber;
pub(crate) use scrub::{Scrub, scrub};

use crate::{
    backend::BackendConfig,
    raft::stopped,
    state::{self, Read, Repair},
};
use pace::Pace;
use sitefs_base::{
    Clock, Error, Result,
    check::{CheckEvent, CheckOptions, CheckSummary},
};
use sitefs_blobstore::Backend;
use std::{path::Path, sync::Arc};
use tell::Teller;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What is told and not yet heard.
const QUEUE: usize = 256;

/// What is checked: rows at one point, and where their blobs are.
pub(crate) struct Subject {
    /// Rows at one point.
    pub rows: Arc<dyn Read + Send + Sync>,
    /// How many they are, about.
    pub estimate: u64,
    /// Entries of the log that the rows were brought forward by.
    pub replayed: u64,
    /// The rows as they are when this is called: what a finding was about may be gone.
    pub now: Arc<dyn Fn() -> Arc<dyn Read + Send + Sync> + Send + Sync>,
    /// Where the blobs are; none if nobody is to look there.
    pub backend: Option<Arc<dyn Backend>>,
}

impl Subject {
    fn backend(&self) -> Result<&Arc<dyn Backend>> {
        self.backend.as_ref().ok_or_else(|| Error::internal("a check of objects without their store"))
    }
}

/// Checks `subject` and tells what it finds, at last that it is done.
pub(crate) async fn run(
    subject: Subject,
    options: CheckOptions,
    clock: Arc<dyn Clock>,
    events: mpsc::Sender<CheckEvent>,
    stop: CancellationToken,
) -> Result<()> {
    let mut teller = Teller::new(events, stop.clone());
    let mut summary = CheckSummary { replayed: subject.replayed, ..CheckSummary::default() };
    let resumed = options.resume.as_deref().map(content::Cursor::parse).transpose()?;
    if resumed.is_none() {
        let pace = Pace::new(clock.clone(), options.rows_per_second, stop.clone());
        let tally = rows::check(&subject, options.snapshots, &mut teller, pace).await?;
        summary.rows = tally.rows;
        summary.volumes = tally.volumes;
        summary.inodes = tally.inodes;
        summary.references = tally.references;
        summary.blobs = tally.blobs;
        summary.untold = tally.untold;
        if options.objects {
            objects::check(&subject, &mut teller, &mut summary).await?;
        }
    }
    if options.deep {
        let pace = Pace::new(clock, options.bytes_per_second, stop);
        content::check(&subject, resumed, &mut teller, pace, &mut summary).await?;
    }
    teller.done(summary).await
}

/// Checks a node that does not run; one that runs is refused. Nothing of it is changed.
pub async fn check_stopped(
    data: &Path,
    options: CheckOptions,
    clock: Arc<dyn Clock>,
    mut tell: impl FnMut(CheckEvent),
    stop: CancellationToken,
) -> Result<()> {
    let dir = data.to_owned();
    let opened = tokio::task::spawn_blocking(move || stopped(&dir)).await;
    let node = opened.map_err(|join| Error::internal("reading the node").because(join))??;
    // Whoever leaves the object store alone needs no keys to it.
    let backend = match options.objects || options.deep {
        true => Some(BackendConfig::of(data)?.reach(data, clock.clone())?),
        false => None,
    };
    let (events, mut heard) = mpsc::channel(QUEUE);
    if let Some(problem) = &node.log_problem {
        let finding = state::check::Finding::new(state::check::FindingKind::LogDamaged, problem.chain());
        tell(CheckEvent::Found(Box::new(tell::finding(&finding, None))));
    }
    let estimate = node.image.rows_estimate();
    let image: Arc<dyn Read + Send + Sync> = Arc::new(node.image);
    let now = {
        let image = image.clone();
        move || image.clone()
    };
    let subject = Subject { rows: image, estimate, replayed: node.replayed, now: Arc::new(now), backend };
    let check = run(subject, options, clock, events, stop);
    tokio::pin!(check);
    loop {
        tokio::select! {
            done = &mut check => {
                while let Ok(event) = heard.try_recv() {
                    tell(event);
                }
                return done;
            }
            Some(event) = heard.recv() => tell(event),
        }
    }
}

/// A repair as a finding carries it.
pub(crate) fn repair_in(bytes: &[u8]) -> Result<Repair> {
    postcard::from_bytes(bytes).map_err(|error| Error::invalid("this is no repair").because(error))
}
