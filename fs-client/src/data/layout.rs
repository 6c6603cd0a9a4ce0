//! Reads of file content by its layout.

use super::read::{Ahead, BlobReader};
use crate::meta::{Cx, Meta, Op};
use sitefs_base::limits::CHUNK_SIZE;
use sitefs_base::{Content, Extent, Inode, Seq};
use std::{collections::HashMap, sync::Arc};

/// Chunk rows fetched at a time.
const ROWS: u32 = 64;

/// The layout rows of one version of a chunked file, as far as they were needed.
#[derive(Debug, Default)]
pub struct LayoutView {
    cver: Option<Seq>,
    chunks: HashMap<u32, Vec<Extent>>,
    ahead: Ahead,
}

fn chunk_of(offset: u64) -> u32 {
    u32::try_from(offset / CHUNK_SIZE).unwrap_or(u32::MAX)
}

impl LayoutView {
    /// The extents of `inode` that meet `offset..offset + len`, ascending.
    pub fn extents(&mut self, cx: Cx, meta: &Meta, inode: &Inode, offset: u64, len: u64) -> Op<Vec<Extent>> {
        let end = offset.saturating_add(len);
        let meets = |extent: &&Extent| extent.offset < end && extent.end() > offset;
        match &inode.content {
            Content::Empty | Content::Inline(_) | Content::Target(_) => Ok(Vec::new()),
            Content::Extents(extents) => Ok(extents.iter().filter(meets).cloned().collect()),
            Content::Chunked => {
                let mut found = Vec::new();
                for chunk in chunk_of(offset)..=chunk_of(end.saturating_sub(1).max(offset)) {
                    self.load(cx, meta, inode, chunk)?;
                    found.extend(self.chunks.get(&chunk).into_iter().flatten().filter(meets).cloned());
                }
                Ok(found)
            }
        }
    }

    /// Fetches what a reader who is at `offset` of a large file will need soon.
    fn read_ahead(&mut self, (blobs, meta): (&Arc<BlobReader>, &Meta), inode: &Inode, offset: u64) -> Op<()> {
        let wanted = self.ahead.plan(offset, inode.attr.size);
        if wanted.is_empty() {
            return Ok(());
        }
        let (from, len) = (u64::from(wanted.start) * CHUNK_SIZE, wanted.len() as u64 * CHUNK_SIZE);
        let extents = self.extents(Cx::Slow, meta, inode, from, len)?;
        let digests = extents.into_iter().map(|extent| extent.digest).collect();
        blobs.read_ahead(inode.attr.ino, digests, &self.ahead.token());
        Ok(())
    }

    /// Nobody has the file open any more.
    pub fn closed(&mut self) {
        self.ahead.stop();
    }

    fn load(&mut self, cx: Cx, meta: &Meta, inode: &Inode, chunk: u32) -> Op<()> {
        if self.cver != Some(inode.attr.cver) {
            *self = Self { cver: Some(inode.attr.cver), ..Self::default() };
        }
        if self.chunks.contains_key(&chunk) {
            return Ok(());
        }
        let first = chunk - chunk % ROWS;
        let rows = meta.chunks(cx, inode.attr.ino, inode.attr.cver, first, ROWS)?;
        self.chunks.extend((first..first.saturating_add(ROWS)).map(|chunk| (chunk, Vec::new())));
        self.chunks.extend(rows.into_iter().map(|row| (row.chunk, row.extents)));
        Ok(())
    }
}

/// The extents that a read of up to `len` bytes from `offset` needs. A reader who goes on from blob to blob gets
/// the next ones fetched beside it.
pub fn locate(
    cx: Cx,
    (blobs, meta): (&Arc<BlobReader>, &Meta),
    view: &mut LayoutView,
    inode: &Inode,
    offset: u64,
    len: usize,
) -> Op<Vec<Extent>> {
    if cx == Cx::Slow && inode.attr.size > 2 * CHUNK_SIZE {
        // What keeps it from being read ahead is told to who reads it.
        let _ = view.read_ahead((blobs, meta), inode, offset);
    }
    let left = inode.attr.size.saturating_sub(offset);
    view.extents(cx, meta, inode, offset, left.min(len as u64))
}

/// Up to `len` bytes of the cell's version of a file, from `offset`, where `extents` say; fewer only at its end.
pub fn read(
    cx: Cx,
    blobs: &BlobReader,
    extents: &[Extent],
    inode: &Inode,
    offset: u64,
    len: usize,
) -> Op<Vec<u8>> {
    let left = usize::try_from(inode.attr.size.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; len.min(left)];
    if let Content::Inline(all) = &inode.content {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(all.len());
        let part = &all[from..all.len().min(from + bytes.len())];
        bytes[..part.len()].copy_from_slice(part);
        return Ok(bytes);
    }
    let end = offset + bytes.len() as u64;
    for extent in extents {
        let from = extent.offset.max(offset);
        let to = extent.end().min(end);
        if from >= to {
            continue;
        }
        let index = |at: u64| usize::try_from(at - offset).unwrap_or(usize::MAX);
        let in_blob = u64::from(extent.blob_offset) + (from - extent.offset);
        blobs.read(cx, inode.attr.ino, extent.digest, in_blob, &mut bytes[index(from)..index(to)])?;
    }
    Ok(bytes)
}
