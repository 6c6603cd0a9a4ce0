//! Appends: bytes added at the end that the file has by now (DESIGN D5).

use super::{
    attrs,
    blobs::{self, Fate},
    content, layout,
    mutation::{Done, Mutation},
    reads::Node,
    stop::{Step, refuse, require},
};
use sitefs_base::{
    Content, Errno, Extent, InodeId, Time,
    limits::{CHUNK_EXTENTS_BEHIND, CHUNK_SIZE, FILE_MAX, HOT_MAX, INLINE_MAX},
    op::{Change, Extra, SetAttr, SetTime},
};

/// Adds `bytes` at the end. Refuses with `ENOSPC` while a chunk has so many extents that the leader
/// must merge them first.
pub(super) fn append(
    m: &mut Mutation,
    ino: InodeId,
    bytes: &[u8],
    changed: Option<Time>,
    kill_setid: bool,
) -> Step<Done> {
    require((1..=HOT_MAX).contains(&bytes.len()), Errno::EINVAL)?;
    let Some(mut node) = m.find(ino)? else {
        let was_given = ino >= InodeId::ROOT && ino < m.volume.next_ino;
        require(was_given, Errno::ESTALE)?;
        return Ok(Done { ino: Some(ino), extra: Extra::Dropped });
    };
    content::require_file(&node)?;
    let offset = node.row.size;
    require(offset + bytes.len() as u64 <= FILE_MAX, Errno::EFBIG)?;
    add(m, &mut node, bytes)?;
    node.row.cver = m.seq;
    m.changed(Change::Content(ino));
    let set = SetAttr { mtime: changed.map(SetTime::Written), kill_setid, ..SetAttr::default() };
    attrs::update_as_of(m, &mut node, &set, true, changed)?;
    m.save(&node)?;
    Ok(Done { ino: Some(ino), extra: Extra::Appended { offset } })
}

fn add(m: &mut Mutation, node: &mut Node, bytes: &[u8]) -> Step<()> {
    match &node.row.content {
        Content::Empty | Content::Inline(_) => {
            let all = [inline(node), bytes].concat();
            if all.len() <= INLINE_MAX {
                content::set_inline(node, all.into());
                return Ok(());
            }
            layout::change(m, node, 0, &[])?;
            add_extents(m, node, &all)
        }
        Content::Extents(_) | Content::Chunked => add_extents(m, node, bytes),
        Content::Target(_) => refuse(Errno::EINVAL),
    }
}

fn inline(node: &Node) -> &[u8] {
    match &node.row.content {
        Content::Inline(bytes) => bytes,
        _ => &[],
    }
}

fn add_extents(m: &mut Mutation, node: &mut Node, bytes: &[u8]) -> Step<()> {
    let from = node.row.size;
    let extents = store(m, from, bytes, Fate::Merged)?;
    let to = from + bytes.len() as u64;
    layout::overwrite(m, node, (from, to), &extents, to, (CHUNK_EXTENTS_BEHIND, Errno::ENOSPC))
}

/// Stores bytes of a file as hot blobs, none of which crosses a chunk; gives their extents.
pub(super) fn store(m: &mut Mutation, offset: u64, bytes: &[u8], fate: Fate) -> Step<Vec<Extent>> {
    let (mut rest, mut at) = (bytes, offset);
    let mut extents = Vec::new();
    while !rest.is_empty() {
        let in_chunk = usize::try_from(CHUNK_SIZE - at % CHUNK_SIZE).unwrap_or(usize::MAX);
        let (piece, more) = rest.split_at(rest.len().min(in_chunk).min(HOT_MAX));
        let digest = blobs::digest_of(piece);
        blobs::store_hot(m, &digest, piece, fate)?;
        let len = u32::try_from(piece.len()).map_err(|_| Errno::EINVAL)?;
        extents.push(Extent { offset: at, len, digest, blob_offset: 0 });
        (rest, at) = (more, at + u64::from(len));
    }
    Ok(extents)
}
