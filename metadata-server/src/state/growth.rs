//! How much an operation can make its volume larger: what its credit is held for (DESIGN D17).

use super::{Read, layout, reads};
use sitefs_base::{
    Content, InodeId, Result, VolumeId,
    limits::INLINE_MAX,
    op::{Commit, Credit, NewContent, Op},
};

/// The most by which executing `op` now makes `volume` larger. It can turn out to be more if another
/// operation comes between, on the same file or on the source of a copy: apply refuses then what goes
/// beyond a limit and was not promised.
pub fn growth_bound(read: &dyn Read, volume: VolumeId, op: &Op) -> Result<Credit> {
    match op {
        Op::Commit(commit) => commit_bound(read, volume, commit),
        Op::SetAttr { ino, set } => resize_bound(read, volume, *ino, set.size),
        Op::Append { bytes, .. } => Ok(Credit { bytes: bytes.len() as u64, inodes: 0 }),
        Op::CloneRange { from, from_offset, to, to_offset, len, .. } => {
            let size = reads::node(read, volume, *from)?.map_or(0, |node| node.row.size);
            let copied = size.saturating_sub(*from_offset).min(*len);
            Ok(Credit { bytes: clone_bound(read, volume, *to, (*to_offset, copied))?, inodes: 0 })
        }
        Op::Mkdir { .. } | Op::Symlink { .. } | Op::Mknod { .. } => Ok(Credit { bytes: 0, inodes: 1 }),
        Op::Link { .. }
        | Op::Unlink { .. }
        | Op::Rmdir { .. }
        | Op::Rename { .. }
        | Op::SetXattr { .. }
        | Op::RemoveXattr { .. }
        | Op::AllocInodes { .. }
        | Op::Punch { .. }
        | Op::Grant { .. } => Ok(Credit::NONE),
    }
}

fn commit_bound(read: &dyn Read, volume: VolumeId, commit: &Commit) -> Result<Credit> {
    if commit.content.is_none() && commit.create.is_none() {
        return Ok(Credit::NONE);
    }
    let allocated = allocated(read, volume, commit.ino)?;
    let inodes = u64::from(allocated.is_none() && commit.create.is_some());
    let before = allocated.unwrap_or(0);
    let bytes = match &commit.content {
        None => 0,
        Some(NewContent::Inline(bytes) | NewContent::Hot { bytes, .. }) => {
            (bytes.len() as u64).saturating_sub(before)
        }
        Some(NewContent::Chunks { size, changed }) => {
            let sent: u64 = changed.iter().map(|chunk| layout::bytes_of(&chunk.extents)).sum();
            sent.min(size.saturating_sub(before))
        }
    };
    Ok(Credit { bytes, inodes })
}

/// Content in the row is all that grows by a change of length alone: the rest are holes.
fn resize_bound(read: &dyn Read, volume: VolumeId, ino: InodeId, size: Option<u64>) -> Result<Credit> {
    let Some(size) = size else { return Ok(Credit::NONE) };
    let bytes = match reads::node(read, volume, ino)?.map(|node| node.row.content) {
        Some(Content::Inline(bytes)) => size.min(INLINE_MAX as u64).saturating_sub(bytes.len() as u64),
        _ => 0,
    };
    Ok(Credit { bytes, inodes: 0 })
}

/// Content in the row has no holes: what lies between its old end and a copy is bytes too.
fn clone_bound(read: &dyn Read, volume: VolumeId, to: InodeId, (offset, copied): (u64, u64)) -> Result<u64> {
    let old = match reads::node(read, volume, to)?.map(|node| node.row.content) {
        Some(Content::Empty) => 0,
        Some(Content::Inline(bytes)) => bytes.len() as u64,
        _ => return Ok(copied),
    };
    let end = offset.saturating_add(copied);
    let in_row = copied > 0 && end <= INLINE_MAX as u64;
    Ok(if in_row { copied.max(end.saturating_sub(old)) } else { copied })
}

/// The bytes that a file takes; `None` if there is no such inode.
fn allocated(read: &dyn Read, volume: VolumeId, ino: InodeId) -> Result<Option<u64>> {
    Ok(reads::node(read, volume, ino)?.map(|node| node.row.allocated))
}
