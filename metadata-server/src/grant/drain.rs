//! Moves hot blobs from the cell to the object store (DESIGN D31, D35): the oldest of each site first, sites in
//! turn, so that one that writes much does not keep back the others.

mod turns;

use super::{Blobs, checked, is_damage, outage::Outage, verify, within};
use crate::state::{self, CommandBody, HotBlob};
use sitefs_base::{Error, Kind, Result, Time, limits::CONTENT_DEADLINE};
use sitefs_blobstore::ObjectKey;
use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::{JoinError, JoinSet};
use turns::{SHARE, Turns};

/// Late tails looked at per round.
const BATCH: usize = 64;
/// Uploads at a time, of a store that works and of one that has not shown that yet.
const CONCURRENT: usize = SHARE;
const CAREFUL: usize = 4;
/// Wrong blobs remembered, so that they are reported once per process only.
const WRONG_MAX: usize = 16 * 1024;
/// How long the blobs of appends may wait to be merged. Then they become objects as they are, so
/// that files which are seldom appended to do not stay in the cell.
const TAILS_WAIT: Duration = Duration::from_secs(3600);
/// How often an empty cell is looked at.
const IDLE: Duration = Duration::from_secs(1);
/// What is moved per second at most: reads and large files need the store too, and a prefix of a bucket takes
/// a few thousand PUTs in all.
const BLOBS_PER_SECOND: u32 = 500;
const BYTES_PER_SECOND: u64 = 32 << 20;
/// How often the oldest of all sites come first again because the store was away. Not each time: a few
/// blobs that no store takes would be all that is ever tried.
const RESTART: Duration = Duration::from_secs(60);

/// What came of moving one blob: its bytes.
type Moved = (ObjectKey, Result<usize>);

/// Runs until its owner stops it.
pub(crate) async fn drain(blobs: Arc<Blobs>) {
    let mut outage = Outage::new("drain");
    let (mut turns, mut wrong) = (Turns::default(), HashSet::new());
    // Failures without a success between them, whoever had his turn: one site's bad blob is no outage.
    let mut streak = 0;
    let mut restarted: Option<Instant> = None;
    loop {
        let began = Instant::now();
        let wait = match step(&blobs, &mut turns, &mut wrong).await {
            Ok((more, tally)) => {
                let was_away = streak >= CAREFUL;
                streak = if tally.moved > 0 { 0 } else { streak + tally.failed };
                if tally.moved > 0 {
                    if was_away && restarted.is_none_or(|at| at.elapsed() >= RESTART) {
                        turns.restart();
                        restarted = Some(Instant::now());
                    }
                    outage.over();
                }
                match &tally.last_error {
                    Some(error) if streak >= CAREFUL => outage.failed(error),
                    _ if more => tally.time().saturating_sub(began.elapsed()),
                    _ => IDLE,
                }
            }
            Err(error) => outage.failed(&error),
        };
        tokio::time::sleep(wait).await;
    }
}

/// What came of the blobs of one step.
#[derive(Default)]
struct Tally {
    moved: u32,
    bytes: u64,
    failed: usize,
    last_error: Option<Error>,
}

/// Moves the next share of the site whose turn it is; whether anybody has more. Wrong blobs are reported once
/// and stay where they are. Those that fail are passed by and come again when the others of
/// their site had their turn.
async fn step(
    blobs: &Arc<Blobs>,
    turns: &mut Turns,
    wrong: &mut HashSet<ObjectKey>,
) -> Result<(bool, Tally)> {
    let turn = turns.next(&blobs.group.reader())?;
    let batch = if turn.ends_round { late_tails(blobs)? } else { turn.blobs };
    let (mut running, mut tally, mut tried) = (JoinSet::new(), Tally::default(), None);
    for HotBlob { site, digest, generation, .. } in batch {
        let key = ObjectKey { site, digest, generation };
        while running.len() >= tally.concurrent() {
            tally.count(blobs, running.join_next().await, wrong);
        }
        if tally.is_hopeless() {
            if let (false, Some(last)) = (turn.ends_round, tried) {
                turns.tried_upto(site, last);
            }
            break;
        }
        tried = Some(generation);
        if !wrong.contains(&key) {
            running.spawn(move_out(blobs.clone(), key));
        }
    }
    while !running.is_empty() {
        tally.count(blobs, running.join_next().await, wrong);
    }
    Ok((turn.more, tally))
}

/// The oldest blobs of appends that nobody merged in time.
fn late_tails(blobs: &Blobs) -> Result<Vec<HotBlob>> {
    let reader = blobs.group.reader();
    let now = state::last_at(&reader)?;
    let wait = i64::try_from(TAILS_WAIT.as_secs()).unwrap_or(i64::MAX);
    state::tails(&reader, Time::new(now.secs().saturating_sub(wait), now.nanos()), BATCH)
}

impl Tally {
    /// Uploads at a time: few until one has succeeded.
    fn concurrent(&self) -> usize {
        if self.moved == 0 { CAREFUL } else { CONCURRENT }
    }

    /// How long what was moved should have taken.
    fn time(&self) -> Duration {
        let millis = self.bytes * 1000 / BYTES_PER_SECOND;
        (Duration::from_secs(1) * self.moved / BLOBS_PER_SECOND).max(Duration::from_millis(millis))
    }

    fn count(
        &mut self,
        blobs: &Blobs,
        moved: Option<Result<Moved, JoinError>>,
        wrong: &mut HashSet<ObjectKey>,
    ) {
        match &moved {
            Some(Ok((_, Ok(0)))) | None => {}
            Some(Ok((_, Ok(len)))) => blobs.hot.left(*len),
            Some(_) => blobs.hot.failed.inc(),
        }
        match moved {
            // Nothing was asked of the store where there was nothing to be moved.
            Some(Ok((_, Ok(0)))) | None => {}
            Some(Ok((_, Ok(len)))) => {
                self.moved += 1;
                self.bytes += len as u64;
            }
            Some(Ok((key, Err(error)))) => self.fail(key, error, wrong),
            Some(Err(join)) => self.note(Error::internal("draining a hot blob").because(join)),
        }
    }

    fn fail(&mut self, key: ObjectKey, error: Error, wrong: &mut HashSet<ObjectKey>) {
        if error.kind() != Kind::Corrupt {
            tracing::debug!(digest = %key.digest, error = error.chain(), "hot blob not drained");
            self.note(error);
        } else if wrong.len() < WRONG_MAX {
            wrong.insert(key);
        }
    }

    fn note(&mut self, error: Error) {
        self.failed += 1;
        self.last_error = Some(error);
    }

    /// So many failures in a row that the rest of the step is not worth a try.
    fn is_hopeless(&self) -> bool {
        self.moved == 0 && self.failed >= CAREFUL
    }
}

async fn move_out(blobs: Arc<Blobs>, key: ObjectKey) -> Moved {
    let moved = async {
        let Some(bytes) = state::hot_bytes(&blobs.group.reader(), key.site, key.generation)? else {
            return Ok(0); // gone since it was listed
        };
        let bytes = match checked(&key, bytes.into()).await {
            Err(error) if is_damage(&error) => {
                verify::report_damaged(&blobs, key).await?;
                return Err(error);
            }
            checked => checked?,
        };
        let len = bytes.len();
        if blobs.backend.uses_own_disk() && blobs.group.is_disk_short(len as u64)? {
            return Err(Error::limit("the disk of the cell is nearly full, hot blobs stay in its log"));
        }
        let put = blobs.backend.put(&key, bytes.into_bytes());
        within(CONTENT_DEADLINE, "draining a hot blob", put).await?;
        let ObjectKey { site, digest, generation } = key;
        blobs.group.propose(CommandBody::Drained { site, digest, generation }).await.map(|_| len)
    };
    (key, moved.await)
}
