//! Reads of file content by its layout.

use super::read::BlobReader;
use crate::meta::{Cx, Meta, Op};
use sitefs_base::limits::CHUNK_SIZE;
use sitefs_base::{Content, Extent, Inode, Seq};
use std::collections::HashMap;

/// Chunk rows fetched at a time.
const ROWS: u32 = 64;

/// The layout rows of one version of a chunked file, as far as they were needed.
#[derive(Debug, Default)]
pub struct LayoutView {
    cver: Option<Seq>,
    chunks: HashMap<u32, Vec<Extent>>,
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

    fn load(&mut self, cx: Cx, meta: &Meta, inode: &Inode, chunk: u32) -> Op<()> {
        if self.cver != Some(inode.attr.cver) {
            *self = Self { cver: Some(inode.attr.cver), chunks: HashMap::new() };
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

/// Up to `len` bytes of the cell's version of a file, from `offset`; fewer only at its end.
pub fn read(
    cx: Cx,
    blobs: &BlobReader,
    meta: &Meta,
    view: &mut LayoutView,
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
    for extent in view.extents(cx, meta, inode, offset, bytes.len() as u64)? {
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
