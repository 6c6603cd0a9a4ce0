//! Blobs that should be objects of the store.

use super::{
    super::{
        Family, Read, keys, reads,
        rows::{self, BlobRow, BlobState, CountersRow, Loc},
    },
    blobs::digest_of,
    lists::blob_row,
};
use sitefs_base::{Digest, Kind, Result, SiteId};
use sitefs_blobstore::ObjectKey;

/// Rows read at a time.
const PAGE: usize = 1_000;

/// A blob whose bytes are an object of the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredBlob {
    /// The object.
    pub key: ObjectKey,
    /// Its length.
    pub len: u32,
    /// It is known to be wrong or missing.
    pub is_damaged: bool,
}

impl StoredBlob {
    fn of(site: SiteId, digest: Digest, row: &BlobRow) -> Option<Self> {
        let is_damaged = row.state == BlobState::Damaged;
        let is_there = row.loc == Loc::Object && (is_damaged || row.state == BlobState::Present);
        let key = ObjectKey { site, digest, generation: row.generation };
        is_there.then_some(Self { key, len: row.len, is_damaged })
    }

    /// Its place in the order of [`stored_blobs`].
    pub fn place(&self) -> (SiteId, [u8; 32]) {
        (self.key.site, self.key.digest.key_half())
    }
}

/// Up to `limit` blobs behind a place, in the order of sites and digests. Rows that cannot be read are left
/// out.
pub fn stored_blobs(
    read: &dyn Read,
    after: Option<(SiteId, [u8; 32])>,
    limit: usize,
) -> Result<Vec<StoredBlob>> {
    let mut from = match after {
        Some((site, half)) => reads::after(&[&site.to_key()[..], b"B", &half].concat()),
        None => Vec::new(),
    };
    let mut found = Vec::new();
    loop {
        let page = read.scan(Family::Blob, &[], &from, PAGE)?;
        for (key, value) in &page {
            if key.get(8) != Some(&b'B') {
                continue;
            }
            let site = keys::part(key, 0).map(SiteId::from_key);
            let row = rows::decode::<BlobRow>(Family::Blob, key, value).ok();
            if let (Some(site), Some(row)) = (site, row)
                && let Some(digest) = digest_of(key, &row)
            {
                found.extend(StoredBlob::of(site, digest, &row));
            }
            if found.len() == limit {
                return Ok(found);
            }
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE => from = reads::after(last),
            _ => return Ok(found),
        }
    }
}

/// One blob, if it is an object of the store.
pub fn stored_blob(read: &dyn Read, site: SiteId, digest: &Digest) -> Result<Option<StoredBlob>> {
    Ok(blob_row(read, site, digest)?.and_then(|row| StoredBlob::of(site, *digest, &row)))
}

/// How many commands have been executed; 0 where that cannot be read.
pub fn commands(read: &dyn Read) -> Result<u64> {
    match rows::fetch::<CountersRow>(read, Family::Meta, keys::COUNTERS) {
        Ok(row) => Ok(row.map_or(0, |row| row.commands)),
        Err(error) if error.kind() == Kind::Corrupt => Ok(0),
        Err(error) => Err(error),
    }
}
