//! Moves hot blobs from the cell to the object store (DESIGN D31, D35).

use super::{Blobs, checked, is_damage, outage::Outage, verify, within};
use crate::state::{self, CommandBody, HotBlob};
use sitefs_base::{Error, Generation, Kind, Result, SiteId, Time, limits::CONTENT_DEADLINE};
use sitefs_blobstore::ObjectKey;
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::task::{JoinError, JoinSet};

/// Blobs looked at per step.
const BATCH: usize = 64;
/// Uploads at a time.
const CONCURRENT: usize = 4;
/// Wrong blobs remembered, so that they are reported once per process only.
const WRONG_MAX: usize = 16 * 1024;
/// How long the blobs of appends may wait to be merged. Then they become objects as they are, so
/// that files which are seldom appended to do not stay in the cell.
const TAILS_WAIT: Duration = Duration::from_secs(3600);
/// How often an empty cell is looked at.
const IDLE: Duration = Duration::from_secs(1);

/// Where a blob stands in the order of draining.
type Place = (SiteId, Generation);
/// What came of moving one blob.
type Moved = (ObjectKey, Result<()>);

/// Runs until its owner stops it.
pub(crate) async fn drain(blobs: Arc<Blobs>) {
    let mut outage = Outage::new("drain");
    let (mut after, mut wrong) = (None, HashSet::new());
    loop {
        let wait = match step(&blobs, after, &mut wrong).await {
            Ok((next, tally)) => {
                after = next;
                match tally.outage() {
                    Some(error) => Some(outage.failed(error)),
                    None => {
                        outage.over();
                        next.is_none().then_some(IDLE)
                    }
                }
            }
            Err(error) => Some(outage.failed(&error)),
        };
        if let Some(wait) = wait {
            tokio::time::sleep(wait).await;
        }
    }
}

/// What came of the blobs of one step.
#[derive(Default)]
struct Tally {
    moved: usize,
    failed: usize,
    last_error: Option<Error>,
}

/// Moves the next blobs behind `after`, in the first step late tails too; says where to go on, `None` at the end. Wrong ones are
/// reported once and stay where they are. Those that fail are passed by and come again in the next
/// round, so that they do not keep back what stands behind them.
async fn step(
    blobs: &Arc<Blobs>,
    after: Option<Place>,
    wrong: &mut HashSet<ObjectKey>,
) -> Result<(Option<Place>, Tally)> {
    let batch = state::hot_blobs(&blobs.group.reader(), after, BATCH)?;
    let is_last = batch.len() < BATCH;
    let late = if after.is_none() { late_tails(blobs)? } else { Vec::new() };
    let places = batch.iter().map(|blob| Some((blob.site, blob.generation)));
    let places: Vec<_> = late.iter().map(|_| None).chain(places).collect();
    let (mut running, mut tally) = (JoinSet::new(), Tally::default());
    let mut reached = after;
    for (HotBlob { site, digest, generation, .. }, place) in late.into_iter().chain(batch).zip(places) {
        let key = ObjectKey { site, digest, generation };
        if running.len() >= CONCURRENT {
            tally.count(running.join_next().await, wrong);
        }
        if tally.is_hopeless() {
            while !running.is_empty() {
                tally.count(running.join_next().await, wrong);
            }
            return Ok((reached, tally));
        }
        if !wrong.contains(&key) {
            running.spawn(move_out(blobs.clone(), key));
        }
        reached = place.or(reached);
    }
    while !running.is_empty() {
        tally.count(running.join_next().await, wrong);
    }
    Ok((if is_last { None } else { reached }, tally))
}

/// The oldest blobs of appends that nobody merged in time.
fn late_tails(blobs: &Blobs) -> Result<Vec<HotBlob>> {
    let reader = blobs.group.reader();
    let now = state::last_at(&reader)?;
    let wait = i64::try_from(TAILS_WAIT.as_secs()).unwrap_or(i64::MAX);
    state::tails(&reader, Time::new(now.secs().saturating_sub(wait), now.nanos()), BATCH)
}

impl Tally {
    fn count(&mut self, moved: Option<Result<Moved, JoinError>>, wrong: &mut HashSet<ObjectKey>) {
        match moved {
            None => {}
            Some(Ok((_, Ok(())))) => self.moved += 1,
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
        self.moved == 0 && self.failed >= CONCURRENT
    }

    /// The error, if nothing but errors came: the store is down, and not a blob of its own kind.
    fn outage(&self) -> Option<&Error> {
        self.last_error.as_ref().filter(|_| self.moved == 0)
    }
}

async fn move_out(blobs: Arc<Blobs>, key: ObjectKey) -> Moved {
    let moved = async {
        let Some(bytes) = state::hot_bytes(&blobs.group.reader(), key.site, key.generation)? else {
            return Ok(()); // gone since it was listed
        };
        let bytes = match checked(&key, bytes.into()).await {
            Err(error) if is_damage(&error) => {
                verify::report_damaged(&blobs, key).await?;
                return Err(error);
            }
            checked => checked?,
        };
        let len = bytes.len() as u64;
        if blobs.backend.uses_own_disk() && blobs.group.is_disk_short(len)? {
            return Err(Error::limit("the disk of the cell is nearly full, hot blobs stay in its log"));
        }
        let put = blobs.backend.put(&key, bytes.into_bytes());
        within(CONTENT_DEADLINE, "draining a hot blob", put).await?;
        let ObjectKey { site, digest, generation } = key;
        blobs.group.propose(CommandBody::Drained { site, digest, generation }).await.map(|_| ())
    };
    (key, moved.await)
}
