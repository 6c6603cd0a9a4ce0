//! Reads every object again, those first that were not read for the longest time.
//!
//! A round goes through all blobs in the order of their keys, so the next blob is always the one that was
//! read the longest ago. Where a round stands is kept in the file `scrub` of the data directory.

mod meters;
mod round;

pub(crate) use meters::Scrub;

use super::{
    content::{Cursor, proven},
    objects::users,
    pace::Pace,
    tell::Teller,
};
use crate::{
    raft::Group,
    state::{
        self, CommandBody, Read,
        check::{StoredBlob, User},
    },
};
use round::Round;
use sitefs_base::{Clock, Error, Kind, Result};
use sitefs_blobstore::{Backend, ObjectKey};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Blobs that are looked at between two notes of the place.
const BATCH: usize = 64;
/// Bytes in a second at most. A cell with 10 TB takes a month for a round.
const BYTES_PER_SECOND: u64 = 4 << 20;
/// Each object counts as so many bytes at least: 64 objects a second.
const OBJECT_COSTS: u64 = BYTES_PER_SECOND / 64;
/// A round begins so long after the one before it began, or when that has ended.
const ROUND_EVERY: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often an idle scrub looks whether a round is due, and whether this node leads.
const IDLE: Duration = Duration::from_secs(60);
/// How long it rests when the store fails.
const REST: Duration = Duration::from_secs(30);

/// The scrub of one node.
pub(crate) struct Scrubber {
    group: Group,
    backend: Arc<dyn Backend>,
    clock: Arc<dyn Clock>,
    path: PathBuf,
    meters: Arc<Scrub>,
    round: Round,
    /// Lives as long as the task: a step that is under way ends with it.
    stop: CancellationToken,
}

/// Runs until its owner stops it.
pub(crate) async fn scrub(
    group: Group,
    backend: Arc<dyn Backend>,
    clock: Arc<dyn Clock>,
    data: PathBuf,
    meters: Arc<Scrub>,
) {
    let mut scrubber = Scrubber::new(group, backend, clock, &data, meters);
    let _ends = scrubber.stop.clone().drop_guard();
    loop {
        let wait = match scrubber.step().await {
            Ok(More::Soon) => continue,
            Ok(More::Later) => IDLE,
            Err(error) => {
                tracing::warn!(error = error.chain(), "objects are not read again for a while");
                REST
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// When the next step is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum More {
    Soon,
    Later,
}

impl Scrubber {
    /// Goes on where the file in `data` says.
    pub fn new(
        group: Group,
        backend: Arc<dyn Backend>,
        clock: Arc<dyn Clock>,
        data: &Path,
        meters: Arc<Scrub>,
    ) -> Self {
        let path = data.join("scrub");
        let round = Round::load(&path);
        meters.set_whole(round.whole);
        Self { group, backend, clock, path, meters, round, stop: CancellationToken::new() }
    }

    /// Reads the next objects, at the pace that they may be read.
    pub async fn step(&mut self) -> Result<More> {
        let now = self.clock.now();
        let is_over = self.round.at.is_none();
        let is_due = self.round.began.is_none_or(|began| now.since(began) >= ROUND_EVERY);
        // Only a leader can write down what it finds.
        if self.group.quorum_age().is_none() || (is_over && !is_due) {
            return Ok(More::Later);
        }
        if is_over {
            self.round.began = Some(now);
        }
        let (reader, after) = (self.group.reader(), self.round.at.map(Cursor::place));
        let read = move || state::check::stored_blobs(&reader, after, BATCH);
        let blobs = tokio::task::spawn_blocking(read).await;
        let blobs = blobs.map_err(|join| Error::internal("reading blobs").because(join))??;
        let mut pace = Pace::new(self.clock.clone(), Some(BYTES_PER_SECOND), self.stop.clone());
        for blob in &blobs {
            self.one(blob).await?;
            pace.wait(u64::from(blob.len).max(OBJECT_COSTS)).await?;
        }
        self.round.at = blobs.last().map(|last| Cursor(last.place().0, last.place().1));
        if blobs.len() < BATCH {
            self.round = Round { whole: self.round.began, began: self.round.began, at: None };
            self.meters.set_whole(self.round.whole);
        }
        self.round.save(&self.path)?;
        Ok(if self.round.at.is_some() { More::Soon } else { More::Later })
    }

    async fn one(&self, blob: &StoredBlob) -> Result<()> {
        let read = proven(&*self.backend, blob).await;
        self.meters.objects.fetch_add(1, Ordering::Relaxed);
        self.meters.bytes.fetch_add(u64::from(blob.len), Ordering::Relaxed);
        let ObjectKey { site, digest, generation } = blob.key;
        match read {
            Ok(()) if blob.is_damaged => {
                tracing::info!(object = %blob.key, "a damaged object is right again");
                self.propose(CommandBody::Verified { site, digest, generation }).await
            }
            Ok(()) => Ok(()),
            Err(_) if blob.is_damaged => Ok(()),
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::NotFound) => {
                self.bad(blob, &error).await
            }
            Err(error) => Err(error),
        }
    }

    /// Tells who uses a wrong object, and has it noted, so that the next mount that has the bytes stores
    /// them again.
    async fn bad(&self, blob: &StoredBlob, error: &Error) -> Result<()> {
        let ObjectKey { site, digest, generation } = blob.key;
        let now = state::check::stored_blob(&self.group.reader(), site, &digest)?;
        if now.is_none_or(|now| now.key.generation != generation) {
            return Ok(());
        }
        self.propose(CommandBody::Damaged { site, digest, generation }).await?;
        let users = self.users(blob).await?;
        let shown = paths(&users);
        let error = error.chain();
        tracing::error!(object = %blob.key, used_by = shown, error, "an object is damaged: store its files again");
        self.meters.found_bad(format!("{}: {error}; used by {shown}", blob.key));
        Ok(())
    }

    async fn users(&self, blob: &StoredBlob) -> Result<Vec<User>> {
        let rows: Arc<dyn Read + Send + Sync> = Arc::new(self.group.reader());
        // Nobody listens to the progress.
        let (events, _unheard) = mpsc::channel(1);
        let teller = Teller::new(events, self.stop.clone());
        let blobs = BTreeSet::from([(blob.key.site, blob.key.digest)]);
        let mut found = users(&rows, blobs, teller, 0).await?;
        Ok(found.remove(&(blob.key.site, blob.key.digest)).unwrap_or_default())
    }

    async fn propose(&self, body: CommandBody) -> Result<()> {
        self.group.propose(body).await.map(drop)
    }
}

fn paths(users: &[User]) -> String {
    let shown = |user: &User| match (&user.path, user.past) {
        (Some(path), false) => format!("{} of {}", path, user.volume),
        (Some(path), true) => format!("the past of {} of {}", path, user.volume),
        (None, _) => format!("the past of {} of {}", user.ino, user.volume),
    };
    match users {
        [] => "nothing".to_owned(),
        users => users.iter().map(shown).collect::<Vec<_>>().join(", "),
    }
}
