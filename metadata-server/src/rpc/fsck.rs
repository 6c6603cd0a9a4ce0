//! Checks of the cell, and repairs of what they find.

use super::{AdminService, Cell};
use crate::{
    fsck::{self, Subject},
    state::{CommandBody, Read},
};
use sitefs_base::{Error, Result, check::CheckOptions};
use sitefs_proto::{RepairAll, pb, status_from_error};
use std::{sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::interval};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// What a check reads in a second unless its caller says otherwise: programs come first.
const ROWS_PER_SECOND: u64 = 200_000;
const BYTES_PER_SECOND: u64 = 64 << 20;
/// Events that the caller has not taken yet.
const QUEUE: usize = 64;
/// How often it is looked whether this node still leads and serves.
const LOOK: Duration = Duration::from_millis(500);

type Told = mpsc::Sender<Result<pb::CheckEvent, Status>>;

impl AdminService {
    /// Begins in a task of its own and tells what it finds.
    pub(super) fn start_check(
        &self,
        request: pb::CheckRequest,
    ) -> Result<ReceiverStream<Result<pb::CheckEvent, Status>>> {
        self.0.auth.caller(&request.claimed_identity)?.may_operate()?;
        let options = CheckOptions::try_from(request)?;
        let options = CheckOptions {
            rows_per_second: options.rows_per_second.or(Some(ROWS_PER_SECOND)),
            bytes_per_second: options.bytes_per_second.or(Some(BYTES_PER_SECOND)),
            ..options
        };
        if self.0.group.quorum_age().is_none() {
            return Err(Error::unavailable("this node does not lead its cell: ask the one that does"));
        }
        let one = self.0.checking.clone().try_acquire_owned();
        let one = one.map_err(|_| Error::conflict("another check is under way: wait for its end"))?;
        let (tell, told) = mpsc::channel(QUEUE);
        let cell = self.0.clone();
        self.0.tasks.spawn(self.0.serving.track_future(async move {
            let _one = one;
            if let Err(error) = run(&cell, options, &tell).await {
                // Nobody is left to tell when the caller is gone.
                let _ = tell.send(Err(status_from_error(&error))).await;
            }
        }));
        Ok(ReceiverStream::new(told))
    }

    /// Proposes repairs one after the other.
    pub(super) async fn repair_all(&self, request: pb::RepairRequest) -> Result<pb::RepairReply> {
        let RepairAll { repairs, claimed_identity } = request.try_into()?;
        self.0.auth.caller(&claimed_identity)?.may_operate()?;
        let mut done = 0;
        for repair in &repairs {
            let repair = fsck::repair_in(repair)?;
            let what = repair.describe();
            match self.0.group.propose(CommandBody::Repair { repair }).await?.reply {
                Ok(_) => done += 1,
                Err(errno) => return Err(Error::refused(errno, format!("repairing ({what}): {errno}"))),
            }
            tracing::warn!(what, "repaired");
        }
        self.0.orphaned.notify_one();
        Ok(pb::RepairReply { done })
    }
}

async fn run(cell: &Arc<Cell>, options: CheckOptions, tell: &Told) -> Result<()> {
    let reader = cell.group.reader();
    let group = cell.group.clone();
    let now = move || -> Arc<dyn Read + Send + Sync> { Arc::new(group.reader()) };
    let subject = Subject {
        estimate: reader.rows_estimate(),
        rows: Arc::new(reader),
        replayed: 0,
        now: Arc::new(now),
        backend: Some(cell.blobs.backend()),
    };
    let stop = CancellationToken::new();
    // However this ends, what runs on other threads ends too.
    let _ends = stop.clone().drop_guard();
    let (events, mut heard) = mpsc::channel(QUEUE);
    let check = fsck::run(subject, options, cell.clock.clone(), events, stop.clone());
    tokio::pin!(check);
    let mut look = interval(LOOK);
    loop {
        tokio::select! {
            done = &mut check => {
                while let Ok(event) = heard.try_recv() {
                    let _ = tell.send(Ok(event.into())).await;
                }
                return done;
            }
            Some(event) = heard.recv() => {
                if tell.send(Ok(event.into())).await.is_err() {
                    return Ok(());
                }
            }
            // A snapshot of rows must not be held by a node that may be told to replace them.
            _ = look.tick() => {
                if tell.is_closed() || cell.closing.is_cancelled() || cell.group.quorum_age().is_none() {
                    stop.cancel();
                }
            }
        }
    }
}
