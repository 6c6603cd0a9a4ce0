//! What garbage collection changes (DESIGN D32): PRESENT becomes CONDEMNED, CONDEMNED becomes DELETING, and
//! what is deleted is forgotten. Every step names exact generations and checks again what the mark that
//! led to it could not know.

use super::{
    Family, Read, blobs, keys,
    rows::{self, BlobRow, BlobState, CondemnedRow, DoomedRow, GcRow, Loc, Mark, UploadRow},
    scope::Scope,
    stop::{Step, require},
};
use serde::{Deserialize, Serialize};
use sitefs_base::{Digest, Errno, Generation, Result, SiteId, Time};

/// Blobs that one step changes at most (DESIGN D37).
pub const GC_SLICE: usize = 1000;

/// A blob under exactly one generation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct GcBlob {
    /// Its content.
    pub digest: Digest,
    /// The generation that is meant; under another one nothing happens.
    pub generation: Generation,
}

/// A step of garbage collection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum GcStep {
    /// No row names these blobs, as of `mark`: their grace begins. Not of those that were named
    /// since; `ESTALE` if the mark is of another incarnation.
    Condemn {
        /// The site.
        site: SiteId,
        /// When the rows were read.
        mark: Mark,
        /// At most 1,000.
        blobs: Vec<GcBlob>,
    },
    /// The grace of these blobs is over, and no row names them, as of `mark`: they are given up. This
    /// cannot be undone. Not of those that were named since, or condemned after `before`.
    BeginDelete {
        /// The site.
        site: SiteId,
        /// When the rows were read.
        mark: Mark,
        /// What was condemned until then has had its grace.
        before: Time,
        /// At most 1,000.
        blobs: Vec<GcBlob>,
    },
    /// The objects are gone from the store.
    Deleted {
        /// The site.
        site: SiteId,
        /// At most 1,000.
        objects: Vec<GcBlob>,
    },
    /// Uploads that were granted before a time and never committed are given up, 1,000 at a time.
    ExpireUploads {
        /// The site.
        site: SiteId,
        /// The time.
        before: Time,
    },
    /// Nothing is collected from now on, or is again; survives restarts.
    Pause(bool),
    /// A whole run is done.
    Finished,
    /// The name of this cell in the object store, unless it has one.
    Own(u128),
}

/// What a step of garbage collection did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GcDone {
    /// Blobs that it changed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether there is more of the same.
    pub more: bool,
}

impl GcDone {
    fn count(&mut self, len: u32) {
        self.blobs += 1;
        self.bytes += u64::from(len);
    }
}

/// How garbage collection stands in a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GcInfo {
    /// Whether it is paused.
    pub paused: bool,
    /// When a run was last finished.
    pub finished: Option<Time>,
    /// The name of the cell in the object store.
    pub owner: Option<u128>,
}

/// How garbage collection stands.
pub fn gc_info(read: &dyn Read) -> Result<GcInfo> {
    let row: GcRow = rows::fetch(read, Family::Meta, keys::GC)?.unwrap_or_default();
    Ok(GcInfo { paused: row.paused, finished: row.finished, owner: row.owner })
}

pub(super) fn step(scope: &mut Scope, step: &GcStep) -> Step<GcDone> {
    match step {
        GcStep::Condemn { site, mark, blobs } => {
            check(scope, *mark, blobs)?;
            each(blobs, |blob, done| condemn(scope, *site, *mark, blob, done))
        }
        GcStep::BeginDelete { site, mark, before, blobs } => {
            check(scope, *mark, blobs)?;
            each(blobs, |blob, done| begin_delete(scope, *site, (*mark, *before), blob, done))
        }
        GcStep::Deleted { site, objects } => {
            require(objects.len() <= GC_SLICE, Errno::EINVAL)?;
            each(objects, |object, done| deleted(scope, *site, object, done))
        }
        GcStep::ExpireUploads { site, before } => expire_uploads(scope, *site, *before),
        GcStep::Pause(paused) => change(scope, |row| row.paused = *paused),
        GcStep::Finished => {
            let at = scope.at;
            change(scope, |row| row.finished = Some(at))
        }
        GcStep::Own(owner) => change(scope, |row| row.owner = row.owner.or(Some(*owner))),
    }
}

fn change(scope: &mut Scope, with: impl FnOnce(&mut GcRow)) -> Step<GcDone> {
    let mut row: GcRow = rows::fetch(&scope.rows, Family::Meta, keys::GC)?.unwrap_or_default();
    with(&mut row);
    scope.put(Family::Meta, keys::GC, &row)?;
    Ok(GcDone::default())
}

/// Commands are counted anew in each incarnation: only marks of this one can be compared.
fn check(scope: &Scope, mark: Mark, blobs: &[GcBlob]) -> Step<()> {
    require(blobs.len() <= GC_SLICE, Errno::EINVAL)?;
    require(mark.incarnation == scope.require_group()?.incarnation, Errno::ESTALE)
}

fn each(blobs: &[GcBlob], mut one: impl FnMut(&GcBlob, &mut GcDone) -> Step<()>) -> Step<GcDone> {
    let mut done = GcDone::default();
    blobs.iter().try_for_each(|blob| one(blob, &mut done))?;
    Ok(done)
}

/// The row of a blob that nothing has named since `mark`.
fn unnamed(scope: &Scope, site: SiteId, mark: Mark, blob: &GcBlob) -> Step<Option<BlobRow>> {
    let row = blobs::of_generation(scope, site, &blob.digest, blob.generation)?;
    Ok(row.filter(|row| row.last_ref <= mark))
}

fn condemned(scope: &Scope, site: SiteId, generation: Generation) -> Result<Option<CondemnedRow>> {
    rows::fetch(&scope.rows, Family::Meta, &keys::condemned(site, generation))
}

fn condemn(scope: &mut Scope, site: SiteId, mark: Mark, blob: &GcBlob, done: &mut GcDone) -> Step<()> {
    let Some(row) = unnamed(scope, site, mark, blob)? else { return Ok(()) };
    let is_news = match row.state {
        BlobState::Present => true,
        // It stays known as damaged, so that nobody shares it.
        BlobState::Damaged => condemned(scope, site, blob.generation)?.is_none(),
        BlobState::Condemned | BlobState::Deleting => false,
    };
    if !is_news {
        return Ok(());
    }
    let since = scope.at;
    let note = CondemnedRow { digest: blob.digest, since };
    scope.put(Family::Meta, &keys::condemned(site, blob.generation), &note)?;
    done.count(row.len);
    if row.state == BlobState::Present {
        let row = BlobRow { state: BlobState::Condemned, ..row };
        scope.put(Family::Blob, &keys::blob(site, &blob.digest), &row)?;
    }
    Ok(())
}

fn begin_delete(
    scope: &mut Scope,
    site: SiteId,
    (mark, before): (Mark, Time),
    blob: &GcBlob,
    done: &mut GcDone,
) -> Step<()> {
    let Some(row) = unnamed(scope, site, mark, blob)? else { return Ok(()) };
    let due = condemned(scope, site, blob.generation)?.is_some_and(|note| note.since <= before);
    if !due || row.state == BlobState::Deleting {
        return Ok(());
    }
    done.count(row.len);
    blobs::forget_lists(scope, site, blob.generation);
    let key = keys::blob(site, &blob.digest);
    match row.loc {
        Loc::Hot => {
            scope.rows.delete(Family::Hot, &keys::hot(site, blob.generation));
            scope.rows.delete(Family::Blob, &key);
        }
        Loc::Object => {
            doom(scope, site, blob)?;
            scope.put(Family::Blob, &key, &BlobRow { state: BlobState::Deleting, ..row })?;
        }
    }
    Ok(())
}

/// The object of this generation has to be deleted: no row may ever name it again. Of what has to be
/// deleted already it stays known since when.
pub(super) fn doom(scope: &mut Scope, site: SiteId, blob: &GcBlob) -> Result<()> {
    let key = keys::doomed(site, blob.generation);
    if scope.rows.get(Family::Blob, &key)?.is_some() {
        return Ok(());
    }
    let row = DoomedRow { digest: blob.digest, since: scope.at };
    scope.put(Family::Blob, &key, &row)
}

fn deleted(scope: &mut Scope, site: SiteId, object: &GcBlob, done: &mut GcDone) -> Step<()> {
    let key = keys::doomed(site, object.generation);
    let row: Option<DoomedRow> = rows::fetch(&scope.rows, Family::Blob, &key)?;
    if row.is_none_or(|row| row.digest != object.digest) {
        return Ok(());
    }
    scope.rows.delete(Family::Blob, &key);
    let row = blobs::of_generation(scope, site, &object.digest, object.generation)?;
    done.count(row.as_ref().map_or(0, |row| row.len));
    if row.is_some_and(|row| row.state == BlobState::Deleting) {
        scope.rows.delete(Family::Blob, &keys::blob(site, &object.digest));
    }
    Ok(())
}

/// Uploads stand in the order in which they were granted.
fn expire_uploads(scope: &mut Scope, site: SiteId, before: Time) -> Step<GcDone> {
    let prefix = keys::uploads(site);
    let mut done = GcDone::default();
    for (key, value) in scope.rows.scan(Family::Blob, &prefix, &prefix, GC_SLICE + 1)? {
        let row: UploadRow = rows::decode(Family::Blob, &key, &value)?;
        if row.granted_at >= before {
            break;
        }
        if done.blobs == GC_SLICE as u64 {
            done.more = true;
            break;
        }
        let generation = keys::generation_of(&key)?;
        scope.rows.delete(Family::Blob, &key);
        doom(scope, site, &GcBlob { digest: row.digest, generation })?;
        done.count(row.len);
    }
    Ok(done)
}
