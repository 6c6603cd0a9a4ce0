//! Joining of neighbouring extents (DESIGN D5): the content of the file stays the same.

use super::{
    Family, Joined, Read,
    blobs::{self, Fate},
    keys, layout,
    mutation::Mutation,
    reads,
    rows::{self, ChunkRow},
    scope::Scope,
    stop::{Step, refuse, require},
};
use sitefs_base::{
    Content, Digest, Errno, Extent, Generation, InodeId, Result, SessionId, VolumeId,
    limits::{CHUNK_SIZE, FILE_MAX, HOT_MAX},
    op::{BlobWanted, Grant},
};

/// The extents of a chunk that stands in a row of its own, and the length of its file; `None` if the
/// file or the row is not there.
pub fn chunk_layout(
    read: &dyn Read,
    volume: VolumeId,
    ino: InodeId,
    chunk: u32,
) -> Result<Option<(Vec<Extent>, u64)>> {
    let Some(node) = reads::node(read, volume, ino)? else { return Ok(None) };
    let row: Option<ChunkRow> = rows::fetch(read, Family::Chunk, &keys::chunk(volume, ino, chunk))?;
    Ok(row.map(|row| (row.extents, node.row.size)))
}

/// Draws a generation for a blob that the leader is about to store; none if the store has it.
pub(super) fn upload(scope: &mut Scope, volume: VolumeId, blob: &BlobWanted) -> Step<Option<Generation>> {
    let row = reads::live(&scope.rows, volume)?.ok_or(Errno::ESTALE)?;
    match blobs::grant_one(scope, row.site, volume, blob)? {
        Grant::Have => Ok(None),
        Grant::Upload { generation, .. } => Ok(Some(generation)),
    }
}

/// Puts the joined blob in the place of `old`; does nothing if the file has changed there.
pub(super) fn replace(
    scope: &mut Scope,
    volume: VolumeId,
    ino: InodeId,
    old: &[Extent],
    new: &Joined,
) -> Step<()> {
    let whole = check(old, new)?;
    let row = reads::live(&scope.rows, volume)?.ok_or(Errno::ESTALE)?;
    // It has no session and publishes nothing: the seq of the volume does not move.
    let mut m = Mutation::begin(scope, volume, row, SessionId::new(0));
    let key = keys::chunk(volume, ino, layout::chunk_of(whole.offset));
    let Some(node) = m.find(ino)?.filter(|node| node.row.content == Content::Chunked) else {
        return Ok(());
    };
    let Some(row) = rows::fetch::<ChunkRow>(&m.scope.rows, Family::Chunk, &key)? else { return Ok(()) };
    let Some(at) = row.extents.windows(old.len()).position(|window| window == old) else { return Ok(()) };
    match new {
        Joined::Hot { digest, bytes } => blobs::store_hot(&mut m, digest, bytes, Fate::Merged)?,
        Joined::Object { digest, generation } => {
            blobs::reference(&mut m, &node, digest, u64::from(whole.len), *generation)?;
        }
    }
    let mut extents = row.extents;
    extents.splice(at..at + old.len(), [whole]);
    for extent in old {
        if !extents.iter().any(|kept| kept.digest == extent.digest) {
            blobs::superseded(&mut m, &extent.digest)?;
        }
    }
    // Seen from outside the row holds what it held since it was born.
    Ok(m.reword(Family::Chunk, &key, &ChunkRow { born: row.born, extents })?)
}

/// The extent that neighbours become.
fn check(old: &[Extent], new: &Joined) -> Step<Extent> {
    let (Some(first), Some(last)) = (old.first(), old.last()) else { return refuse(Errno::EINVAL) };
    let is_one = |extent: &Extent| extent.len > 0 && extent.offset < FILE_MAX;
    require(old.len() >= 2 && old.iter().all(is_one), Errno::EINVAL)?;
    require(old.windows(2).all(|pair| pair[0].end() == pair[1].offset), Errno::EINVAL)?;
    let one_chunk = first.offset / CHUNK_SIZE == (last.end() - 1) / CHUNK_SIZE;
    let len = u32::try_from(last.end() - first.offset).map_err(|_| Errno::EINVAL)?;
    let digest: Digest = match new {
        Joined::Hot { digest, bytes } => {
            require(bytes.len() <= HOT_MAX && bytes.len() == len as usize, Errno::EINVAL)?;
            *digest
        }
        Joined::Object { digest, .. } => *digest,
    };
    require(one_chunk, Errno::EINVAL)?;
    Ok(Extent { offset: first.offset, len, digest, blob_offset: 0 })
}
