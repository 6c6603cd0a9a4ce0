//! Content that is fetched before anybody reads it.

use super::{Cx, Fs, Op};
use crate::data::{Fetched, LayoutView};
use sitefs_base::{Digest, Errno, InodeId};

impl Fs {
    /// Brings the blobs of `len` bytes from `offset` of a file into the disk cache, as the cell has it.
    pub fn prefetch(&self, ino: InodeId, offset: u64, len: u64) -> Op<Fetched> {
        let inode = self.meta.inode(Cx::Slow, ino)?.value.ok_or(Errno::ENOENT)?;
        let extents = LayoutView::default().extents(Cx::Slow, &self.meta, &inode, offset, len)?;
        let digests: Vec<Digest> = extents.iter().map(|extent| extent.digest).collect();
        self.blobs.prefetch(ino, &digests)
    }
}
