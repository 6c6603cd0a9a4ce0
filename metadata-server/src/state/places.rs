//! Where blobs are, for those who read, upload, drain and verify them.

use super::{
    Family, Read, keys, reads,
    rows::{self, BlobRow, BlobState, DrainRow, HotRow, Loc, TailRow, UnverifiedRow, UploadRow},
};
use sitefs_base::{Digest, Generation, Result, SiteId, Time, VolumeId};
use std::collections::BTreeMap;

/// Rows looked at between two questions to the store.
const PAGE: usize = 4096;

/// Where a blob can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlobPlace {
    /// The site that it belongs to.
    pub site: SiteId,
    /// The generation in its object's key.
    pub generation: Generation,
    /// Its length in bytes.
    pub len: u32,
    /// Whether the cell itself holds the bytes.
    pub hot: bool,
    /// Whether the cell knows that the bytes have the digest.
    pub verified: bool,
    /// Whether the cell has found it wrong or missing.
    pub damaged: bool,
}

/// A blob that the cell holds, or that it has to verify.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HotBlob {
    /// Its site.
    pub site: SiteId,
    /// Its digest.
    pub digest: Digest,
    /// The generation under which it is stored.
    pub generation: Generation,
    /// Its length in bytes.
    pub len: u32,
}

/// A blob in the object store that nobody has verified.
pub type UnverifiedBlob = HotBlob;

/// Where blobs can be read by `volume`, in order; `None` for a digest that the volume never committed
/// or that is not there. A volume may read what it has committed once, even if no row names it any
/// more: a version that lived for less than a second leaves no history, but handles have it open.
pub fn locate(read: &dyn Read, volume: VolumeId, digests: &[Digest]) -> Result<Vec<Option<BlobPlace>>> {
    let Some(row) = reads::live(read, volume)? else {
        return Ok(vec![None; digests.len()]);
    };
    digests.iter().map(|digest| place(read, row.site, volume, digest)).collect()
}

fn place(read: &dyn Read, site: SiteId, volume: VolumeId, digest: &Digest) -> Result<Option<BlobPlace>> {
    let row = present(read, site, digest)?.filter(|row| row.vols.contains(&volume));
    Ok(row.map(|row| BlobPlace {
        site,
        generation: row.generation,
        len: row.len,
        hot: row.loc == Loc::Hot,
        verified: row.verified,
        damaged: row.state == BlobState::Damaged,
    }))
}

/// The row of a blob whose bytes are there.
fn present(read: &dyn Read, site: SiteId, digest: &Digest) -> Result<Option<BlobRow>> {
    let row: Option<BlobRow> = rows::fetch(read, Family::Blob, &keys::blob(site, digest))?;
    Ok(row.filter(|row| row.rest == digest.rest() && row.is_readable()))
}

/// The bytes of a blob that the cell holds.
pub fn hot_bytes(read: &dyn Read, site: SiteId, generation: Generation) -> Result<Option<Vec<u8>>> {
    let key = keys::hot(site, generation);
    match read.get(Family::Hot, &key)? {
        Some(value) => Ok(Some(rows::decode::<HotRow>(Family::Hot, &key, &value)?.bytes.to_vec())),
        None => Ok(None),
    }
}

/// Hot blobs that wait to be drained, by site and oldest first, behind `after`.
pub fn hot_blobs(read: &dyn Read, after: Option<(SiteId, Generation)>, limit: usize) -> Result<Vec<HotBlob>> {
    let from = after.map_or_else(
        || keys::DRAIN.to_vec(),
        |(site, generation)| reads::after(&keys::drain(site, generation)),
    );
    let mut found = Vec::new();
    for (key, value) in read.scan(Family::Meta, keys::DRAIN, &from, limit)? {
        let row: DrainRow = rows::decode(Family::Meta, &key, &value)?;
        found.push(listed(&key, keys::DRAIN.len(), row.digest, row.len)?);
    }
    Ok(found)
}

/// Hot blobs that wait to be merged and came before `before`, the oldest ones.
pub fn tails(read: &dyn Read, before: Time, limit: usize) -> Result<Vec<HotBlob>> {
    let mut found = Vec::new();
    for (key, value) in read.scan(Family::Meta, keys::TAILS, keys::TAILS, limit)? {
        let TailRow { digest, len, since } = rows::decode(Family::Meta, &key, &value)?;
        if since >= before {
            break;
        }
        let at = keys::TAILS.len();
        let (generation, site) = keys::part(&key, at)
            .zip(keys::part(&key, at + 12))
            .ok_or_else(|| rows::damaged(Family::Meta, &key, "names no generation and site"))?;
        let (generation, site) = (Generation::from_key(generation), SiteId::from_key(site));
        found.push(HotBlob { site, digest, generation, len });
    }
    Ok(found)
}

/// How many bytes of blobs the cell holds, by site: those that wait to be drained or merged.
pub fn held_bytes(read: &dyn Read) -> Result<BTreeMap<SiteId, u64>> {
    let mut held: BTreeMap<SiteId, u64> = BTreeMap::new();
    let mut from = keys::DRAIN.to_vec();
    loop {
        let page = read.scan(Family::Meta, keys::DRAIN, &from, PAGE)?;
        for (key, value) in &page {
            let row: DrainRow = rows::decode(Family::Meta, key, value)?;
            *held.entry(listed(key, keys::DRAIN.len(), row.digest, row.len)?.site).or_default() +=
                u64::from(row.len);
        }
        match page.last() {
            Some((key, _)) if page.len() == PAGE => from = reads::after(key),
            _ => break,
        }
    }
    let mut from = keys::TAILS.to_vec();
    loop {
        let page = read.scan(Family::Meta, keys::TAILS, &from, PAGE)?;
        for (key, value) in &page {
            let TailRow { len, .. } = rows::decode(Family::Meta, key, value)?;
            let site = keys::part(key, keys::TAILS.len() + 12).map(SiteId::from_key);
            let site = site.ok_or_else(|| rows::damaged(Family::Meta, key, "names no site"))?;
            *held.entry(site).or_default() += u64::from(len);
        }
        match page.last() {
            Some((key, _)) if page.len() == PAGE => from = reads::after(key),
            _ => return Ok(held),
        }
    }
}

/// Objects that the cell has not verified yet, at most `limit`.
pub fn unverified(read: &dyn Read, limit: usize) -> Result<Vec<UnverifiedBlob>> {
    let mut found = Vec::new();
    for (key, value) in read.scan(Family::Meta, keys::UNVERIFIED, keys::UNVERIFIED, limit)? {
        let row: UnverifiedRow = rows::decode(Family::Meta, &key, &value)?;
        found.push(listed(&key, keys::UNVERIFIED.len(), row.digest, row.len)?);
    }
    Ok(found)
}

/// Reads site and generation from a key that has them at `offset`.
fn listed(key: &[u8], offset: usize, digest: Digest, len: u32) -> Result<HotBlob> {
    match keys::part(key, offset).zip(keys::part(key, offset + 8)) {
        Some((site, generation)) => Ok(HotBlob {
            site: SiteId::from_key(site),
            digest,
            generation: Generation::from_key(generation),
            len,
        }),
        None => Err(rows::damaged(Family::Meta, key, "names no site and generation")),
    }
}

/// What a volume may upload, or has uploaded, under a generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UploadSlot {
    /// The length of the blob.
    pub len: u32,
    /// Whether a commit of it is refused until the cell has verified the bytes: there are other
    /// bytes of this digest, which the volume may not name, which nobody has verified, or which are
    /// damaged.
    pub contested: bool,
}

/// The slot of `volume` for a blob under this generation.
pub fn upload_slot(
    read: &dyn Read,
    (site, volume): (SiteId, VolumeId),
    digest: &Digest,
    generation: Generation,
) -> Result<Option<UploadSlot>> {
    let present = present(read, site, digest)?;
    let own = |row: &BlobRow| {
        let known = row.verified || row.generation == generation;
        row.vols.contains(&volume) && known && row.state != BlobState::Damaged
    };
    let slot: Option<UploadRow> = rows::fetch(read, Family::Blob, &keys::upload(site, generation))?;
    if let Some(slot) = slot.filter(|slot| slot.digest == *digest && slot.volume == volume) {
        let contested = !slot.verified && present.is_some_and(|row| !own(&row));
        return Ok(Some(UploadSlot { len: slot.len, contested }));
    }
    let committed = present.filter(|row| row.generation == generation && row.vols.contains(&volume));
    Ok(committed.map(|row| UploadSlot { len: row.len, contested: false }))
}
