//! What keeps a cache small and sound beside its use.

use super::DiskCache;
use sitefs_base::{Digest, Error, Kind, Result};
use std::sync::atomic::Ordering;

/// What dropping removed and left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dropped {
    /// Blobs that are gone.
    pub blobs: u64,
    /// Their bytes, in whole blocks.
    pub bytes: u64,
    /// Blobs that stay because they are open.
    pub kept: u64,
}

impl DiskCache {
    /// Hashes a blob again whatever is known of it: its size, or `None` if it is not here or was
    /// damaged and is dropped. This is no use of the blob.
    pub fn recheck(&self, digest: &Digest) -> Result<Option<u64>> {
        Ok(self.try_open(digest, true)?.map(|blob| blob.len))
    }

    /// Removes every blob that nobody has open.
    pub fn drop_unused(&self) -> Result<Dropped> {
        let ((digests, bytes), kept) = {
            let mut index = self.index();
            (index.remove_unused(), index.len() as u64)
        };
        let removed = digests.iter().map(|digest| self.files.remove_blob(digest));
        // All are tried, whichever fails first.
        removed.fold(Ok(()), Result::and)?;
        Ok(Dropped { blobs: digests.len() as u64, bytes, kept })
    }

    /// Evicts what is needed to leave the minimum free on the disk, which others fill too.
    pub fn keep_free(&self) -> Result<()> {
        match self.disk_shortfall(0)? {
            0 => Ok(()),
            short => match self.make_room(0, short) {
                // All that can go does not free enough, so all of it goes.
                Err(error) if error.kind() == Kind::Limit => {
                    let gone = self.drop_unused()?.blobs;
                    self.evictions.fetch_add(gone, Ordering::Relaxed);
                    Ok(())
                }
                other => other,
            },
        }
    }

    /// Bytes that are free on the disk of the cache.
    pub fn disk_free(&self) -> Result<u64> {
        self.files.free().map_err(|error| Error::io("asking for the free space of the cache", error))
    }
}
