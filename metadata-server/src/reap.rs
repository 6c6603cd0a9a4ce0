//! The loop that removes what has lost its name: orphans, deleted volumes, restores that nobody ends.

use crate::{
    rpc::Cell,
    state::{self, CommandBody, Reply, RestoreEnd, RestoreJob},
};
use sitefs_base::{Error, Result, Time, VolumeId};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout};

/// Volumes looked at per round.
const VOLUMES: usize = 64;
/// How often an idle cell is looked at; who makes orphans wakes the loop earlier.
const IDLE: Duration = Duration::from_secs(1);
/// How long the loop rests after an error.
const PAUSE: Duration = Duration::from_secs(5);
/// How often restores are looked at.
const RESTORES_EVERY: Duration = Duration::from_secs(60);
/// A restore that made no step for so long has lost who drove it.
const RESTORE_SILENCE: Duration = Duration::from_secs(3600);
/// Restores looked at per time.
const RESTORES: usize = 1000;

/// Runs until its owner stops it. Restores that are under way when it begins were driven by a process
/// that is gone.
pub(crate) async fn reap(cell: Arc<Cell>) {
    let mut abandoned: Option<Instant> = None;
    let mut after = None;
    loop {
        let rested = async {
            if abandoned.is_none_or(|at| at.elapsed() >= RESTORES_EVERY) {
                abandon(&cell, abandoned.map(|_| RESTORE_SILENCE)).await?;
                abandoned = Some(Instant::now());
            }
            round(&cell, &mut after).await
        };
        match rested.await {
            Ok(Work::Left) => {}
            // Over in time or woken: either way it is looked again.
            Ok(Work::Done) => drop(timeout(IDLE, cell.orphaned.notified()).await),
            Err(error) => {
                tracing::debug!(error = error.chain(), "nothing is removed for a while");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Whether there is more to do.
enum Work {
    Left,
    Done,
}

/// One slice of each of the next volumes; then it begins at the first one again.
async fn round(cell: &Cell, after: &mut Option<VolumeId>) -> Result<Work> {
    let volumes = state::volumes_to_reap(&cell.group.reader(), *after, VOLUMES)?;
    if volumes.is_empty() {
        let was_first = after.take().is_none();
        return Ok(if was_first { Work::Done } else { Work::Left });
    }
    for volume in volumes {
        let begun = Instant::now();
        slice(cell, volume).await?;
        *after = Some(volume);
        // Programs come first: half of the time nothing is removed.
        sleep(begun.elapsed()).await;
    }
    Ok(Work::Left)
}

async fn slice(cell: &Cell, volume: VolumeId) -> Result<()> {
    match cell.group.propose(CommandBody::Reap { volume }).await?.reply {
        Ok(Reply::Reaped { .. }) => Ok(()),
        Ok(_) => Err(Error::internal("removing rows gave another reply")),
        Err(errno) => Err(Error::refused(errno, format!("removing rows of volume {volume}"))),
    }
}

/// Ends restores that made no step for `silence`; all of them without.
async fn abandon(cell: &Cell, silence: Option<Duration>) -> Result<()> {
    let now = cell.clock.now();
    for RestoreJob { volume, job, moved_at } in state::restores(&cell.group.reader(), RESTORES)? {
        if silence.is_none_or(|silence| is_silent(now, moved_at, silence)) {
            tracing::warn!(%volume, %job, "a restore was not finished; what it had copied is removed");
            let end = RestoreEnd::Abandon;
            // A refusal says that it has ended meanwhile.
            cell.group.propose(CommandBody::EndRestore { volume, job, end }).await?;
        }
    }
    Ok(())
}

fn is_silent(now: Time, moved_at: Time, silence: Duration) -> bool {
    now.since(moved_at) >= silence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_is_given_up_after_an_hour_without_a_step() {
        let then = Time::new(1_000, 0);
        assert!(!is_silent(then, then, RESTORE_SILENCE));
        assert!(!is_silent(Time::new(1_000 + 3_599, 0), then, RESTORE_SILENCE));
        assert!(is_silent(Time::new(1_000 + 3_600, 0), then, RESTORE_SILENCE));
        assert!(!is_silent(then, Time::new(9_000, 0), RESTORE_SILENCE), "a clock that went back");
    }
}
