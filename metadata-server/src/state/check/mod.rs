//! Checks whether rows are as `apply` would have left them: for `sitefs fsck`, and for tests.
//!
//! Every family is read in the order of its keys, a slice at a time, and joined with others that have the
//! same order. What has another order is compared by sums of keyed hashes (`names.rs`), or looked up in
//! sorted batches (`references.rs`). So memory does not grow with a volume, but for its directories, of
//! which 2,097,152 are remembered (`dirs.rs`).

mod blobs;
mod content;
mod cursor;
mod dirs;
mod finding;
mod group;
mod history;
mod lists;
mod names;
mod past;
mod paths;
mod references;
mod sessions;
mod stored;
mod strays;
mod tree;
mod users;

pub use finding::{Finding, FindingKind, Place, Severity};
pub(super) use lists::{blob_row, waits};
pub use stored::{StoredBlob, commands, stored_blob, stored_blobs};
pub use users::{User, paths_of, users};

use super::{Family, Read, keys, reads, rows::VolumeRow};
use cursor::{Cursor, decoded};
use sitefs_base::{Kind, Result, Seq, VolumeId};
use tree::Tree;

/// Findings that wait for their paths; of one volume, those beyond are only counted.
const PENDING_MAX: usize = 10_000;

/// Where a check goes to, and what holds it back.
pub trait Watch {
    /// So many rows were read. Waits as long as it should; an error ends the check.
    fn rows(&mut self, rows: u64) -> Result<()>;
    /// Something is not as it should be.
    fn found(&mut self, finding: Finding) -> Result<()>;
}

/// What is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Two random numbers, which nobody who plants damage knows.
    pub seed: (u64, u64),
    /// The tree of each snapshot too, and of every other pin.
    pub snapshots: bool,
    /// The bytes of blobs that the cell holds are hashed.
    pub hashes: bool,
}

/// What was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Rows read.
    pub rows: u64,
    /// Volumes.
    pub volumes: u64,
    /// Inodes of the trees.
    pub inodes: u64,
    /// References to blobs, in the present and in the past.
    pub references: u64,
    /// Blobs.
    pub blobs: u64,
    /// Findings that were too many to be told one by one.
    pub untold: u64,
}

/// A check under way.
pub(super) struct Check<'w> {
    watch: &'w mut dyn Watch,
    options: Options,
    tally: Tally,
    /// How many commands the cell had executed at this point.
    commands: u64,
    /// Blobs whose bytes the cell should hold.
    hot: u64,
    pending: Vec<Finding>,
}

impl Check<'_> {
    fn rows(&mut self, rows: usize) -> Result<()> {
        let rows = u64::try_from(rows).unwrap_or(u64::MAX);
        self.tally.rows += rows;
        self.watch.rows(rows)
    }

    fn found(&mut self, finding: Finding) {
        if self.pending.len() < PENDING_MAX {
            self.pending.push(finding);
        } else {
            self.tally.untold += 1;
        }
    }

    /// Gives each finding its path and hands it over.
    fn tell(&mut self, read: &dyn Read, past: Option<Seq>) -> Result<()> {
        let found = std::mem::take(&mut self.pending);
        if found.is_empty() {
            return Ok(());
        }
        for mut finding in paths::located(read, self, found)? {
            if let Some(seq) = past {
                finding.what = format!("{} (as of {seq})", finding.what);
                finding.repair = None;
            }
            self.watch.found(finding)?;
        }
        Ok(())
    }
}

/// Checks all rows of `read`, which must be of one point. An error says that storage failed, or is what
/// `watch` gave.
pub fn check(read: &dyn Read, options: Options, watch: &mut dyn Watch) -> Result<Tally> {
    let mut check =
        Check { watch, options, tally: Tally::default(), commands: 0, hot: 0, pending: Vec::new() };
    let group = group::check(read, &mut check)?;
    let mut volumes = Cursor::new(read, Family::Meta, keys::VOLUMES.to_vec());
    while let Some(row) = volumes.next(&mut check)? {
        let id = keys::part(&row.0, 1).map(VolumeId::from_key);
        let Some(volume) = decoded::<VolumeRow>(&mut check, id, Family::Meta, &row)? else { continue };
        let Some(id) = id else { continue };
        check.tally.volumes += 1;
        group.volume(read, &mut check, id, &volume)?;
        if volume.deleted.is_none() {
            one_volume(read, &mut check, id, volume)?;
        }
        check.tell(read, None)?;
    }
    strays::check(read, &mut check)?;
    blobs::check(read, &mut check, &group)?;
    lists::check(read, &mut check)?;
    check.tell(read, None)?;
    Ok(check.tally)
}

fn one_volume(read: &dyn Read, check: &mut Check, id: VolumeId, volume: VolumeRow) -> Result<()> {
    sessions::check(read, check, id, &volume)?;
    past::check(read, check, id, &volume)?;
    Tree::new(read, id, &volume, None).check(check)?;
    history::check(read, check, id, &volume)?;
    check.tell(read, None)?;
    if check.options.snapshots {
        for pin in &volume.pins {
            past_tree(read, check, id, *pin)?;
        }
    }
    Ok(())
}

/// The tree that a pin shows.
fn past_tree(read: &dyn Read, check: &mut Check, id: VolumeId, pin: Seq) -> Result<()> {
    // A pin that nobody holds has been told.
    let Ok(Ok(past)) = super::as_of(read, id, pin) else { return Ok(()) };
    let Some(volume) = reads::volume(&past, id)? else { return Ok(()) };
    let checked = Tree::new(&past, id, &volume, Some(pin)).check(check);
    match checked.and_then(|()| check.tell(&past, Some(pin))) {
        // A row that cannot be read ends a scan of the past; it was told when it was read as it stands.
        Err(error) if error.kind() == Kind::Corrupt => check.tell(read, Some(pin)),
        told => told,
    }
}
