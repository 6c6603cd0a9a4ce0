//! Where the bytes of a file lie: extents in the inode row, or one row per chunk (DESIGN D1).

mod pieces;

pub(super) use pieces::{by_chunks, part};

use super::{
    Family, Read, keys,
    mutation::Mutation,
    reads::{self, Node},
    rows::{self, ChunkRow},
    stop::{Step, require},
};
use sitefs_base::{
    Content, Errno, Extent, InodeId, Result, VolumeId,
    limits::{CHUNK_SIZE, INODE_EXTENTS_MAX, MERGE_ABOVE},
    op::ChunkLayout,
};
use std::collections::BTreeMap;

type Chunks = BTreeMap<u32, Vec<Extent>>;

/// The number of the chunk that holds the byte at `offset`; offsets are below `FILE_MAX`.
pub(super) fn chunk_of(offset: u64) -> u32 {
    u32::try_from(offset / CHUNK_SIZE).unwrap_or(u32::MAX)
}

/// Extents by chunk.
pub(super) fn by_chunk(extents: &[Extent]) -> Chunks {
    let mut chunks = Chunks::new();
    for extent in extents {
        chunks.entry(chunk_of(extent.offset)).or_default().push(extent.clone());
    }
    chunks
}

/// The bytes that extents take.
pub(super) fn bytes_of(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| u64::from(extent.len)).sum()
}

/// Drops what lies at and behind `size`.
fn cut(extents: &mut Vec<Extent>, size: u64) {
    extents.retain(|extent| extent.offset < size);
    if let Some(last) = extents.last_mut() {
        let left = u32::try_from(size - last.offset).unwrap_or(u32::MAX);
        last.len = last.len.min(left);
    }
}

/// Gives a file of extents the length `size` and the layout `changed` of some chunks, after cutting
/// the old layout at `size`. The content of an inline or empty file counts as nothing.
pub(super) fn change(m: &mut Mutation, node: &mut Node, size: u64, changed: &[ChunkLayout]) -> Result<()> {
    match &node.row.content {
        Content::Chunked => change_rows(m, node, size, changed)?,
        _ => change_inode(m, node, size, changed)?,
    }
    node.row.size = size;
    if size == 0 {
        node.row.content = Content::Empty;
    }
    Ok(())
}

/// The extents of the chunks `first..=last` that have any.
pub(super) fn chunks(m: &Mutation, node: &Node, first: u32, last: u32) -> Result<Chunks> {
    let mut found = by_chunk(node.row.extents());
    found.retain(|chunk, _| (first..=last).contains(chunk));
    if node.row.content == Content::Chunked {
        let (prefix, from) = (keys::chunks(m.id, node.ino), keys::chunk(m.id, node.ino, first));
        reads::walk(&m.scope.rows, Family::Chunk, &prefix, &from, |key, value| {
            let chunk = chunk_in(key)?;
            if chunk <= last {
                found.insert(chunk, rows::decode::<ChunkRow>(Family::Chunk, key, value)?.extents);
            }
            Ok(chunk < last)
        })?;
    }
    Ok(found)
}

/// The chunk of a row, from its key.
pub(super) fn chunk_in(key: &[u8]) -> Result<u32> {
    let chunk = keys::part(key, 16).map(u32::from_be_bytes);
    chunk.ok_or_else(|| rows::damaged(Family::Chunk, key, "is no key of a chunk"))
}

/// Puts `new` extents, which do not cross chunks, in place of whatever lies in `from..to`; the file
/// has `size` bytes then. At most `limit` extents may be in a chunk: `full` says what if more.
pub(super) fn overwrite(
    m: &mut Mutation,
    node: &mut Node,
    (from, to): (u64, u64),
    new: &[Extent],
    size: u64,
    (limit, full): (usize, Errno),
) -> Step<()> {
    let last = chunk_of(to.max(from + 1) - 1);
    let mut chunks = chunks(m, node, chunk_of(from), last)?;
    let mut added = by_chunk(new);
    for chunk in added.keys() {
        chunks.entry(*chunk).or_default();
    }
    let mut changed = Vec::with_capacity(chunks.len());
    for (chunk, old) in chunks {
        let extents = pieces::with(pieces::without(&old, from, to), added.remove(&chunk).unwrap_or_default());
        require(extents.len() <= limit.max(old.len()), full)?;
        changed.push(ChunkLayout { chunk, extents });
    }
    Ok(change(m, node, size, &changed)?)
}

fn change_inode(m: &mut Mutation, node: &mut Node, size: u64, changed: &[ChunkLayout]) -> Result<()> {
    let mut extents = node.row.extents().to_vec();
    cut(&mut extents, size);
    let mut chunks = by_chunk(&extents);
    for layout in changed {
        chunks.insert(layout.chunk, layout.extents.clone());
    }
    let all: Vec<Extent> = chunks.values().flatten().cloned().collect();
    node.row.allocated = bytes_of(&all);
    if all.len() <= INODE_EXTENTS_MAX {
        node.row.content = Content::Extents(all);
        return Ok(());
    }
    for (chunk, extents) in chunks {
        set_row(m, node.ino, chunk, extents)?;
    }
    node.row.content = Content::Chunked;
    Ok(())
}

fn change_rows(m: &mut Mutation, node: &mut Node, size: u64, changed: &[ChunkLayout]) -> Result<()> {
    let mut allocated = node.row.allocated;
    if size < node.row.size {
        allocated = allocated.saturating_sub(remove_from(m, node.ino, size)?);
    }
    for layout in changed {
        let old = set_row(m, node.ino, layout.chunk, layout.extents.clone())?;
        allocated = (allocated + bytes_of(&layout.extents)).saturating_sub(old);
    }
    node.row.allocated = allocated;
    let may_be_small = changed.iter().any(|layout| layout.extents.len() <= INODE_EXTENTS_MAX);
    if size < node.row.size || may_be_small { gather(m, node) } else { Ok(()) }
}

/// Moves the layout back into the inode row if it has become small.
fn gather(m: &mut Mutation, node: &mut Node) -> Result<()> {
    let prefix = keys::chunks(m.id, node.ino);
    let rows = m.scope.rows.scan(Family::Chunk, &prefix, &prefix, INODE_EXTENTS_MAX + 1)?;
    if rows.len() > INODE_EXTENTS_MAX {
        return Ok(());
    }
    let mut all = Vec::new();
    for (key, value) in &rows {
        let row: ChunkRow = rows::decode(Family::Chunk, key, value)?;
        all.extend(row.extents);
    }
    if all.len() <= INODE_EXTENTS_MAX {
        for (key, _) in rows {
            m.replace::<ChunkRow>(Family::Chunk, &key, None)?;
        }
        node.row.content = Content::Extents(all);
    }
    Ok(())
}

/// Sets the row of a chunk; returns the bytes that its old layout took.
fn set_row(m: &mut Mutation, ino: InodeId, chunk: u32, extents: Vec<Extent>) -> Result<u64> {
    let key = keys::chunk(m.id, ino, chunk);
    if extents.len() > MERGE_ABOVE {
        m.crowded(ino, chunk);
    }
    let row = (!extents.is_empty()).then_some(ChunkRow { born: m.seq, extents });
    let old = m.replace(Family::Chunk, &key, row)?;
    Ok(old.map_or(0, |old| bytes_of(&old.extents)))
}

/// Drops the chunk rows' layout from `size` on; returns the bytes that it took.
pub(super) fn remove_from(m: &mut Mutation, ino: InodeId, size: u64) -> Result<u64> {
    let prefix = keys::chunks(m.id, ino);
    let from = keys::chunk(m.id, ino, chunk_of(size));
    let mut found = Vec::new();
    reads::walk(&m.scope.rows, Family::Chunk, &prefix, &from, |key, value| {
        found.push((key.to_vec(), rows::decode::<ChunkRow>(Family::Chunk, key, value)?));
        Ok(true)
    })?;
    let mut removed = 0;
    for (key, mut row) in found {
        let before = bytes_of(&row.extents);
        cut(&mut row.extents, size);
        removed += before - bytes_of(&row.extents);
        let row = (!row.extents.is_empty()).then_some(row);
        m.replace(Family::Chunk, &key, row)?;
    }
    Ok(removed)
}

/// Calls `each` for the extents in the chunk rows of a file, until it returns false.
pub(super) fn walk_rows(
    read: &dyn Read,
    volume: VolumeId,
    ino: InodeId,
    mut each: impl FnMut(Vec<Extent>) -> bool,
) -> Result<()> {
    let prefix = keys::chunks(volume, ino);
    reads::walk(read, Family::Chunk, &prefix, &prefix, |key, value| {
        Ok(each(rows::decode::<ChunkRow>(Family::Chunk, key, value)?.extents))
    })
}
