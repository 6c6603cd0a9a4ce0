//! Names of blobs in rows against the blobs of the site.

use super::{
    super::{
        Family, Read, keys,
        rows::{self, BlobRow, BlobState},
    },
    Check, Finding, FindingKind as Found,
    cursor::SLICE,
};
use sitefs_base::{Digest, Extent, InodeId, Result, SiteId, VolumeId};
use std::collections::{BTreeMap, HashMap};

/// Blobs that are remembered as right, about 120 bytes each.
const REMEMBERED: usize = 1 << 16;

/// References of a volume, looked up a slice at a time in the order of their digests.
pub(super) struct References {
    volume: VolumeId,
    site: SiteId,
    /// The inode that asks, and how much of the blob it shows.
    batch: BTreeMap<Digest, (InodeId, u64)>,
    /// The lengths of blobs that were found to be right.
    right: HashMap<Digest, u64>,
}

impl References {
    pub fn new(volume: VolumeId, site: SiteId) -> Self {
        Self { volume, site, batch: BTreeMap::new(), right: HashMap::new() }
    }

    pub fn add(
        &mut self,
        read: &dyn Read,
        check: &mut Check,
        ino: InodeId,
        extents: &[Extent],
    ) -> Result<()> {
        for extent in extents {
            check.tally.references += 1;
            let shown = u64::from(extent.blob_offset) + u64::from(extent.len);
            if self.right.get(&extent.digest).is_some_and(|len| shown <= *len) {
                continue;
            }
            let asked = self.batch.entry(extent.digest).or_insert((ino, 0));
            if shown > asked.1 {
                *asked = (ino, shown);
            }
            if self.batch.len() >= SLICE {
                self.flush(read, check)?;
            }
        }
        Ok(())
    }

    pub fn flush(&mut self, read: &dyn Read, check: &mut Check) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        let keys: Vec<_> = batch.keys().map(|digest| keys::blob(self.site, digest)).collect();
        let values = read.get_many(Family::Blob, &keys)?;
        check.rows(keys.len())?;
        if self.right.len() + batch.len() > REMEMBERED {
            self.right.clear();
        }
        for ((digest, (ino, shown)), (key, value)) in batch.into_iter().zip(keys.iter().zip(values)) {
            // One that cannot be read is told with the blobs.
            let row = value.map(|value| rows::decode::<BlobRow>(Family::Blob, key, &value));
            match row.transpose() {
                Ok(row) => self.one(check, &digest, ino, shown, row),
                Err(error) if error.kind() == sitefs_base::Kind::Corrupt => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn one(&mut self, check: &mut Check, digest: &Digest, ino: InodeId, shown: u64, row: Option<BlobRow>) {
        let short = digest.short();
        let Some(row) = row else {
            let what = format!("{ino} names blob {short}, which {} does not have", self.site);
            let generation = sitefs_base::Generation::from_key([0; 12]);
            let finding = Finding::new(Found::BlobRowMissing, what).of(self.volume).ino(ino);
            return check.found(finding.blob(self.site, *digest, generation));
        };
        let (kind, what) = match row.state {
            _ if row.rest != digest.rest() => {
                (Found::BlobDigest, format!("{ino} names blob {short}, whose row is of another digest"))
            }
            BlobState::Condemned | BlobState::Deleting => {
                (Found::BlobCondemned, format!("{ino} names blob {short}, which is {:?}", row.state))
            }
            BlobState::Damaged => (Found::BlobDamaged, format!("{ino} names blob {short}, which is damaged")),
            BlobState::Present if u64::from(row.len) < shown => {
                let what = format!("{ino} shows {shown} bytes of blob {short}, which has {}", row.len);
                (Found::BlobShort, what)
            }
            BlobState::Present if row.vols.binary_search(&self.volume).is_err() => (
                Found::BlobForeign,
                format!("{ino} names blob {short}, which {} never committed", self.volume),
            ),
            BlobState::Present => {
                self.right.insert(*digest, u64::from(row.len));
                return;
            }
        };
        let finding = Finding::new(kind, what).of(self.volume).ino(ino);
        check.found(finding.blob(self.site, *digest, row.generation));
    }
}
