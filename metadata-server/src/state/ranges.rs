//! Ranges of files: holes, and copies by reference. No content is moved.

use super::{
    append, attrs,
    blobs::{self, Fate},
    content, layout,
    mutation::{Done, Mutation},
    reads::Node,
    stop::{Step, require},
};
use sitefs_base::{
    Content, Digest, Errno, Extent, InodeId, Seq,
    limits::{CHUNK_EXTENTS_BEHIND, CHUNK_EXTENTS_MAX, CHUNK_SIZE, COMMIT_CHUNKS_MAX, FILE_MAX, INLINE_MAX},
    op::{Change, Extra, SetAttr},
};
use std::collections::BTreeSet;

/// Makes `offset..offset + len` read as zeros, as far as the file has it.
pub(super) fn punch(m: &mut Mutation, ino: InodeId, offset: u64, len: u64) -> Step<Done> {
    let mut node = m.node(ino)?;
    content::require_file(&node)?;
    require(len > 0, Errno::EINVAL)?;
    let end = offset.checked_add(len).ok_or(Errno::EFBIG)?.min(node.row.size);
    m.touch(ino);
    if offset >= end {
        return Ok(Done::with(ino));
    }
    require(end <= end_of_op(offset), Errno::EINVAL)?;
    if let Content::Inline(bytes) = &node.row.content {
        let mut bytes = bytes.to_vec();
        bytes[index(offset)..index(end)].fill(0);
        content::set_inline(&mut node, bytes.into());
    } else {
        for digest in digests_around(m, &node, offset, end)? {
            blobs::name_again(m, &digest)?;
        }
        let (size, most) = (node.row.size, (CHUNK_EXTENTS_BEHIND, Errno::ENOSPC));
        layout::overwrite(m, &mut node, (offset, end), &[], size, most)?;
    }
    written(m, node)
}

/// Blobs of which a hole at `from..to` leaves a part.
fn digests_around(m: &Mutation, node: &Node, from: u64, to: u64) -> Step<BTreeSet<Digest>> {
    let cut = |extent: &&Extent| {
        let meets = extent.offset < to && extent.end() > from;
        meets && (extent.offset < from || extent.end() > to)
    };
    let mut digests = BTreeSet::new();
    for at in [from, to - 1] {
        let chunk = layout::chunk_of(at);
        let chunks = layout::chunks(m, node, chunk, chunk)?;
        digests.extend(chunks.values().flatten().filter(cut).map(|extent| extent.digest));
    }
    Ok(digests)
}

/// The end of the chunks that one operation may change if the first is that of `offset`.
fn end_of_op(offset: u64) -> u64 {
    (offset / CHUNK_SIZE + COMMIT_CHUNKS_MAX as u64).saturating_mul(CHUNK_SIZE)
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// The content of a file has changed; nothing else was asked for.
fn written(m: &mut Mutation, mut node: Node) -> Step<Done> {
    let ino = node.ino;
    node.row.cver = m.seq;
    m.changed(Change::Content(ino));
    attrs::update(m, &mut node, &SetAttr::default(), true)?;
    m.save(&node)?;
    Ok(Done::with(ino))
}

/// A range and where its copy goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copied {
    pub from: u64,
    pub to: u64,
    pub len: u64,
}

impl Copied {
    fn source_end(self) -> u64 {
        self.from + self.len
    }

    fn target_end(self) -> u64 {
        self.to + self.len
    }
}

/// copy_file_range(2) by reference. `EOPNOTSUPP` where a chunk would get too many extents.
pub(super) fn clone(
    m: &mut Mutation,
    from: InodeId,
    to: InodeId,
    asked: Copied,
    expect_from_cver: Option<Seq>,
) -> Step<Done> {
    let source = m.node(from)?;
    let mut target = m.node(to)?;
    content::require_file(&source)?;
    content::require_file(&target)?;
    require(expect_from_cver.is_none_or(|cver| cver == source.row.cver), Errno::ESTALE)?;
    let range = clipped(asked, source.row.size)?;
    let apart = range.source_end() <= range.to || range.target_end() <= range.from;
    require(from != to || apart, Errno::EINVAL)?;
    m.touch(to);
    if range.len > 0 {
        copy(m, &source, &mut target, range)?;
        written(m, target)?;
    }
    Ok(Done { ino: Some(to), extra: Extra::Cloned { len: range.len } })
}

/// The part of a range that the source has and that one operation may change.
fn clipped(asked: Copied, size: u64) -> Step<Copied> {
    let asked_end = asked.to.checked_add(asked.len).ok_or(Errno::EFBIG)?;
    asked.from.checked_add(asked.len).ok_or(Errno::EINVAL)?;
    require(asked.len == 0 || asked.to < FILE_MAX, Errno::EFBIG)?;
    let end = asked_end.min(FILE_MAX).min(end_of_op(asked.to));
    let len = asked.len.min(size.saturating_sub(asked.from)).min(end.saturating_sub(asked.to));
    Ok(Copied { len, ..asked })
}

fn copy(m: &mut Mutation, source: &Node, target: &mut Node, range: Copied) -> Step<()> {
    let size = target.row.size.max(range.target_end());
    let bytes = inline(source).map(|bytes| bytes[index(range.from)..index(range.source_end())].to_vec());
    if let Some(bytes) = &bytes
        && size <= INLINE_MAX as u64
        && matches!(target.row.content, Content::Empty | Content::Inline(_))
    {
        let mut all = inline(target).unwrap_or_default().to_vec();
        all.resize(index(size), 0);
        all[index(range.to)..index(range.target_end())].copy_from_slice(bytes);
        content::set_inline(target, all.into());
        return Ok(());
    }
    let new = match bytes {
        Some(bytes) => append::store(m, range.to, &bytes, Fate::Drained)?,
        None => referenced(m, source, range)?,
    };
    spill(m, target, range)?;
    let most = (CHUNK_EXTENTS_MAX, Errno::EOPNOTSUPP);
    layout::overwrite(m, target, (range.to, range.target_end()), &new, size, most)
}

fn inline(node: &Node) -> Option<&[u8]> {
    match &node.row.content {
        Content::Inline(bytes) => Some(bytes),
        _ => None,
    }
}

/// The extents of a range of the source at their places in the target.
fn referenced(m: &mut Mutation, source: &Node, range: Copied) -> Step<Vec<Extent>> {
    let (first, last) = (layout::chunk_of(range.from), layout::chunk_of(range.source_end() - 1));
    let mut new = Vec::new();
    for extent in layout::chunks(m, source, first, last)?.values().flatten() {
        if let Some(part) = layout::part(extent, range.from, range.source_end()) {
            let moved = Extent { offset: part.offset - range.from + range.to, ..part };
            new.extend(layout::by_chunks(&moved));
        }
    }
    let digests: BTreeSet<Digest> = new.iter().map(|extent| extent.digest).collect();
    for digest in &digests {
        blobs::name_again(m, digest)?;
    }
    Ok(new)
}

/// Inline content gets a blob, unless a copy replaces it all.
fn spill(m: &mut Mutation, target: &mut Node, range: Copied) -> Step<()> {
    let Some(bytes) = inline(target).map(<[u8]>::to_vec) else { return Ok(()) };
    let size = target.row.size;
    let kept = if range.to == 0 && range.len >= size {
        Vec::new()
    } else {
        append::store(m, 0, &bytes, Fate::Drained)?
    };
    layout::change(m, target, 0, &[])?;
    layout::overwrite(m, target, (0, size), &kept, size, (CHUNK_EXTENTS_MAX, Errno::EOPNOTSUPP))
}
