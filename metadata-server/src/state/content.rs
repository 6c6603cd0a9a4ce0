//! Content of files: what a commit writes and what truncation leaves.

use super::{
    blobs::{self, Fate},
    layout,
    mutation::Mutation,
    reads::Node,
    shorten::require_few_rows,
    stop::{Step, refuse, require},
};
use bytes::Bytes;
use sitefs_base::{
    Content, Digest, Errno, Extent, FileKind, Generation, Result,
    limits::{CHUNK_EXTENTS_MAX, CHUNK_SIZE, COMMIT_CHUNKS_MAX, FILE_MAX, HOT_MAX, INLINE_MAX},
    op::{ChunkLayout, NewContent, Uploaded},
};
use std::collections::BTreeMap;

/// Refuses content that no file could have, before anything is looked up.
pub(super) fn check(content: &NewContent) -> Step<()> {
    match content {
        NewContent::Inline(bytes) => require(bytes.len() <= INLINE_MAX, Errno::EINVAL),
        NewContent::Hot { bytes, .. } => require((1..=HOT_MAX).contains(&bytes.len()), Errno::EINVAL),
        NewContent::Chunks { size, changed } => {
            require(*size <= FILE_MAX, Errno::EFBIG)?;
            require(changed.len() <= COMMIT_CHUNKS_MAX, Errno::EINVAL)?;
            require(changed.is_sorted_by(|a, b| a.chunk < b.chunk), Errno::EINVAL)?;
            changed.iter().try_for_each(|chunk| check_chunk(chunk, *size))
        }
    }
}

fn check_chunk(layout: &ChunkLayout, size: u64) -> Step<()> {
    require(layout.extents.len() <= CHUNK_EXTENTS_MAX, Errno::EINVAL)?;
    let mut free_from = u64::from(layout.chunk) * CHUNK_SIZE;
    let limit = size.min(free_from + CHUNK_SIZE);
    for extent in &layout.extents {
        require(extent.len > 0 && extent.offset >= free_from, Errno::EINVAL)?;
        free_from = extent.offset.checked_add(u64::from(extent.len)).ok_or(Errno::EINVAL)?;
        require(free_from <= limit, Errno::EINVAL)?;
        let blob_end = u64::from(extent.blob_offset) + u64::from(extent.len);
        require(blob_end <= CHUNK_SIZE, Errno::EINVAL)?;
    }
    Ok(())
}

/// Makes `content` the content of a file; the caller saves the node.
pub(super) fn write(
    m: &mut Mutation,
    node: &mut Node,
    content: &NewContent,
    uploaded: &[Uploaded],
) -> Step<()> {
    match content {
        NewContent::Inline(bytes) => {
            require_few_rows(m, node, 0)?;
            layout::change(m, node, 0, &[])?;
            set_inline(node, bytes.clone());
        }
        NewContent::Hot { digest, bytes } => {
            require_few_rows(m, node, 0)?;
            blobs::store_hot(m, digest, bytes, Fate::Drained)?;
            layout::change(m, node, 0, &[])?;
            let len = bytes.len() as u32;
            let extent = Extent { offset: 0, len, digest: *digest, blob_offset: 0 };
            node.row.content = Content::Extents(vec![extent]);
            node.row.size = u64::from(len);
            node.row.allocated = u64::from(len);
        }
        NewContent::Chunks { size, changed } => {
            require_few_rows(m, node, *size)?;
            reference_all(m, node, changed, uploaded)?;
            layout::change(m, node, *size, changed)?;
        }
    }
    node.row.cver = m.seq;
    Ok(())
}

pub(super) fn set_inline(node: &mut Node, bytes: Bytes) {
    node.row.size = bytes.len() as u64;
    node.row.allocated = bytes.len() as u64;
    node.row.content = if bytes.is_empty() { Content::Empty } else { Content::Inline(bytes) };
}

/// Checks and references every blob that the changed chunks name.
fn reference_all(m: &mut Mutation, node: &Node, changed: &[ChunkLayout], uploaded: &[Uploaded]) -> Step<()> {
    let mut needed: BTreeMap<Digest, u64> = BTreeMap::new();
    for extent in changed.iter().flat_map(|layout| &layout.extents) {
        let end = u64::from(extent.blob_offset) + u64::from(extent.len);
        let longest = needed.entry(extent.digest).or_default();
        *longest = end.max(*longest);
    }
    let uploads: BTreeMap<Digest, Generation> =
        uploaded.iter().map(|upload| (upload.digest, upload.generation)).collect();
    for (digest, len) in needed {
        blobs::reference(m, node, &digest, len, uploads.get(&digest).copied())?;
    }
    Ok(())
}

/// Whether the current content of a file names the blob.
pub(super) fn names(m: &Mutation, node: &Node, digest: &Digest) -> Result<bool> {
    let mut found = node.row.extents().iter().any(|extent| extent.digest == *digest);
    if node.row.content == Content::Chunked {
        layout::walk_rows(&m.scope.rows, m.id, node.ino, |extents| {
            found = extents.iter().any(|extent| extent.digest == *digest);
            !found
        })?;
    }
    Ok(found)
}

/// Only files have bytes.
pub(super) fn require_file(node: &Node) -> Step<()> {
    match node.row.kind {
        FileKind::File => Ok(()),
        FileKind::Directory => refuse(Errno::EISDIR),
        _ => refuse(Errno::EINVAL),
    }
}

/// truncate(2): cuts exactly at `size`, or grows with a hole. Inline content that would grow past
/// its limit is refused: clients commit it with its bytes then.
pub(super) fn truncate(m: &mut Mutation, node: &mut Node, size: u64) -> Step<()> {
    require_file(node)?;
    require(size <= FILE_MAX, Errno::EFBIG)?;
    if size == node.row.size {
        return Ok(());
    }
    if let Content::Inline(bytes) = &node.row.content {
        let len = usize::try_from(size).unwrap_or(usize::MAX);
        require(len <= INLINE_MAX, Errno::EINVAL)?;
        let mut bytes = bytes.to_vec();
        bytes.resize(len, 0);
        set_inline(node, bytes.into());
    } else {
        require_few_rows(m, node, size)?;
        layout::change(m, node, size, &[])?;
    }
    node.row.cver = m.seq;
    Ok(())
}
