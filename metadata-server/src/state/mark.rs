//! What garbage collection reads: which blobs the rows name and why, how blobs stand, which objects are to go.
//! Everything comes in pages, so that nothing is read for long.

use super::{
    Family, Read,
    gc::GcBlob,
    history::{self, Life},
    keys, reads,
    rows::{
        self, BlobRow, BlobState, ChunkRow, CondemnedRow, CountersRow, DoomedRow, GroupRow, InodeRow, Lived,
        Mark, UploadRow, VolumeRow,
    },
};
use sitefs_base::{Digest, Error, Generation, Result, Seq, SiteId, Time, VolumeId};
use std::collections::BTreeMap;

/// Why a blob is kept; what comes first is said where several are true.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Why {
    /// A row of now names it.
    Live,
    /// A row that history still holds.
    History,
    /// A row that a snapshot shows.
    Snapshot,
    /// A row that a session of the past or a restore reads.
    Pin,
}

/// The families whose rows name blobs.
pub const NAMING: [Family; 4] = [Family::Inode, Family::InodeHistory, Family::Chunk, Family::ChunkHistory];

/// What a volume keeps of its past.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    /// The volume.
    pub volume: VolumeId,
    /// About how many rows name its blobs now.
    pub inodes: u64,
    horizon: Seq,
    pins: Vec<Seq>,
    snapshots: Vec<Seq>,
}

impl Kept {
    /// Why a superseded row is kept; `None` if it is not.
    fn why(&self, life: Life) -> Option<Why> {
        if !history::keep(life, self.horizon, &self.pins) {
            return None;
        }
        Some(if history::keep(life, self.horizon, &[]) {
            Why::History
        } else if history::is_pinned(life, &self.snapshots) {
            Why::Snapshot
        } else {
            Why::Pin
        })
    }
}

/// The moment of these rows; `None` before the group was made.
pub fn mark_of(read: &dyn Read) -> Result<Option<Mark>> {
    let group: Option<GroupRow> = rows::fetch(read, Family::Meta, keys::GROUP)?;
    let counters: CountersRow = rows::fetch(read, Family::Meta, keys::COUNTERS)?.unwrap_or_default();
    Ok(group.map(|group| Mark { incarnation: group.incarnation, command: counters.commands }))
}

/// The last generation that was drawn; `None` before the group was made.
pub fn drawn(read: &dyn Read) -> Result<Option<Generation>> {
    let group: Option<GroupRow> = rows::fetch(read, Family::Meta, keys::GROUP)?;
    let counters: CountersRow = rows::fetch(read, Family::Meta, keys::COUNTERS)?.unwrap_or_default();
    Ok(group.map(|group| Generation { incarnation: group.incarnation, counter: counters.generations }))
}

/// All volumes whose rows are there, deleted ones too, by site.
pub fn volumes_by_site(read: &dyn Read) -> Result<BTreeMap<SiteId, Vec<Kept>>> {
    let mut sites = BTreeMap::<SiteId, Vec<Kept>>::new();
    reads::walk(read, Family::Meta, keys::VOLUMES, keys::VOLUMES, |key, value| {
        let id = keys::part(key, keys::VOLUMES.len())
            .ok_or_else(|| rows::damaged(Family::Meta, key, "is no key of a volume"))?;
        let (volume, row) = (VolumeId::from_key(id), rows::decode::<VolumeRow>(Family::Meta, key, value)?);
        let snapshots = if row.pins.is_empty() { Vec::new() } else { snapshots(read, volume)? };
        let VolumeRow { site, inodes_used, horizon, pins, .. } = row;
        sites.entry(site).or_default().push(Kept { volume, inodes: inodes_used, horizon, pins, snapshots });
        Ok(true)
    })?;
    Ok(sites)
}

/// The pins that snapshots hold, ascending.
fn snapshots(read: &dyn Read, volume: VolumeId) -> Result<Vec<Seq>> {
    let (prefix, mut found) = (keys::all_holders(volume), Vec::new());
    reads::walk(read, Family::Meta, &prefix, &prefix, |key, _| {
        let pin = keys::part(key, prefix.len());
        let pin = pin.ok_or_else(|| rows::damaged(Family::Meta, key, "names no pin"))?;
        if key.get(prefix.len() + 8) == Some(&b'W') {
            found.push(Seq::from_key(pin));
        }
        Ok(true)
    })?;
    found.dedup();
    Ok(found)
}

/// The first site behind `after` that has rows of blobs.
pub fn next_site(read: &dyn Read, after: Option<SiteId>) -> Result<Option<SiteId>> {
    let from = match after.map(|site| site.get().checked_add(1)) {
        None => SiteId::new(0),
        Some(Some(next)) => SiteId::new(next),
        Some(None) => return Ok(None),
    };
    let found = read.scan(Family::Blob, &[], &from.to_key(), 1)?;
    let Some((key, _)) = found.first() else { return Ok(None) };
    let site = keys::part(key, 0).ok_or_else(|| rows::damaged(Family::Blob, key, "names no site"))?;
    Ok(Some(SiteId::from_key(site)))
}

/// How far a page came.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    /// Rows that it read.
    pub rows: usize,
    /// Where the next one begins; `None` behind the last row.
    pub next: Option<Vec<u8>>,
}

/// Reads `limit` rows under `prefix` from `from` on.
fn page(
    read: &dyn Read,
    (family, prefix): (Family, &[u8]),
    from: Option<&[u8]>,
    limit: usize,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<()>,
) -> Result<Page> {
    let (mut rows, mut last, mut problem) = (0, Vec::new(), None::<Error>);
    read.visit(family, prefix, from.unwrap_or(prefix), limit, &mut |key, value| {
        rows += 1;
        if rows == limit {
            last = reads::after(key);
        }
        if problem.is_none() {
            problem = each(key, value).err();
        }
    })?;
    match problem {
        Some(problem) => Err(problem),
        None => Ok(Page { rows, next: (rows == limit).then_some(last) }),
    }
}

/// Shows each blob that rows of a volume name in one of the [`NAMING`] families, and why that counts. A row
/// that cannot be read is an error: what it names is not known.
pub fn named(
    read: &dyn Read,
    kept: &Kept,
    family: Family,
    from: Option<&[u8]>,
    limit: usize,
    each: &mut dyn FnMut(&Digest, Why),
) -> Result<Page> {
    let prefix = kept.volume.to_key();
    page(read, (family, &prefix), from, limit, |key, value| {
        let why = match family.is_history() {
            true => kept.why(history::life_of(family, key, value)?),
            false => Some(Why::Live),
        };
        let Some(why) = why else { return Ok(()) };
        let mut show = |row: &dyn Naming| row.naming().iter().for_each(|extent| each(&extent.digest, why));
        match family {
            Family::Inode | Family::InodeHistory => show(&rows::decode::<InodeRow>(family, key, value)?),
            _ => show(&rows::decode::<ChunkRow>(family, key, value)?),
        }
        Ok(())
    })
}

/// Rows that name blobs, whatever their kind.
trait Naming {
    fn naming(&self) -> &[sitefs_base::Extent];
}

impl<T: Lived> Naming for T {
    fn naming(&self) -> &[sitefs_base::Extent] {
        self.named()
    }
}

/// How a blob stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It is there.
    Present,
    /// Its grace has begun.
    Condemned {
        /// When.
        since: Time,
    },
    /// It is given up.
    Deleting,
}

/// A blob of a site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlobInfo {
    /// Its content and generation.
    pub blob: GcBlob,
    /// Its length in bytes.
    pub len: u32,
    /// How it stands.
    pub standing: Standing,
}

/// Shows the blobs of a site, in the order of their digests.
pub fn site_blobs(
    read: &dyn Read,
    site: SiteId,
    from: Option<&[u8]>,
    limit: usize,
    each: &mut dyn FnMut(BlobInfo),
) -> Result<Page> {
    let prefix = keys::blobs(site);
    page(read, (Family::Blob, &prefix), from, limit, |key, value| {
        let row: BlobRow = rows::decode(Family::Blob, key, value)?;
        let half: Option<[u8; 32]> = keys::part(key, prefix.len());
        let half = half.ok_or_else(|| rows::damaged(Family::Blob, key, "is no key of a blob"))?;
        let digest = Digest::from_slice(&[half, row.rest].concat())?;
        let blob = GcBlob { digest, generation: row.generation };
        each(BlobInfo { blob, len: row.len, standing: standing(read, site, &row)? });
        Ok(())
    })
}

/// The place in [`site_blobs`] where digests begin with `first` or more.
pub fn blobs_from(site: SiteId, first: u8) -> Vec<u8> {
    [&*keys::blobs(site), &[first]].concat()
}

fn standing(read: &dyn Read, site: SiteId, row: &BlobRow) -> Result<Standing> {
    match row.state {
        BlobState::Present => return Ok(Standing::Present),
        BlobState::Deleting => return Ok(Standing::Deleting),
        BlobState::Condemned | BlobState::Damaged => {}
    }
    let key = keys::condemned(site, row.generation);
    let note: Option<CondemnedRow> = rows::fetch(read, Family::Meta, &key)?;
    Ok(note.map_or(Standing::Present, |note| Standing::Condemned { since: note.since }))
}

/// An object that has to be deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Doomed {
    /// Which.
    pub object: GcBlob,
    /// Since when.
    pub since: Time,
    /// Whether its grace is over: it was condemned before.
    pub had_grace: bool,
}

/// Objects of a site that have to be deleted, behind `after`.
pub fn doomed(read: &dyn Read, site: SiteId, after: Option<Generation>, limit: usize) -> Result<Vec<Doomed>> {
    let prefix = keys::all_doomed(site);
    let from = after.map_or_else(|| prefix.clone(), |last| reads::after(&keys::doomed(site, last)));
    let mut found = Vec::new();
    for (key, value) in read.scan(Family::Blob, &prefix, &from, limit)? {
        let DoomedRow { digest, since } = rows::decode(Family::Blob, &key, &value)?;
        let generation = keys::generation_of(&key)?;
        let row: Option<BlobRow> = rows::fetch(read, Family::Blob, &keys::blob(site, &digest))?;
        let had_grace =
            row.is_some_and(|row| row.generation == generation && row.state == BlobState::Deleting);
        found.push(Doomed { object: GcBlob { digest, generation }, since, had_grace });
    }
    Ok(found)
}

/// Whether the oldest upload of a site was granted before a time.
pub fn uploads_expire(read: &dyn Read, site: SiteId, before: Time) -> Result<bool> {
    let prefix = keys::uploads(site);
    match read.scan(Family::Blob, &prefix, &prefix, 1)?.first() {
        Some((key, value)) => Ok(rows::decode::<UploadRow>(Family::Blob, key, value)?.granted_at < before),
        None => Ok(false),
    }
}

/// Whether any row names an object: as a blob, as an upload, or as one that has to be deleted. No row will
/// ever name an object that was drawn and is not named.
pub fn is_named(read: &dyn Read, site: SiteId, object: &GcBlob) -> Result<bool> {
    let GcBlob { digest, generation } = object;
    let row: Option<BlobRow> = rows::fetch(read, Family::Blob, &keys::blob(site, digest))?;
    Ok(row.is_some_and(|row| row.generation == *generation)
        || read.get(Family::Blob, &keys::upload(site, *generation))?.is_some()
        || read.get(Family::Blob, &keys::doomed(site, *generation))?.is_some())
}
