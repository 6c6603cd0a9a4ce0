//! Joins the extents that appends leave behind (DESIGN D5).
//!
//! Two loops: one joins small blobs that the cell holds, which needs no object store, so that
//! appends go on without it; the other joins what has to be read from the store or written to it.

mod plan;
mod queue;

pub(super) use queue::Queue;

use super::{Blobs, is_damage, outage::Outage};
use crate::state::{self, BlobPlace, CommandBody, CrowdedChunk, Joined, MergeStep, Reply};
use bytes::{Bytes, BytesMut};
use plan::{Run, hot_runs, is_worth_it, runs};
use sitefs_base::{
    Digest, Error, Extent, Result,
    limits::{CHUNK_SIZE, HOT_MAX, MERGE_ABOVE},
    op::BlobWanted,
};
use sitefs_blobstore::{ObjectKey, VerifiedBytes};
use std::{collections::HashSet, sync::Arc};

/// How often a chunk is tried in which damaged blobs are found. Those that are known are left out, so each
/// try may find another one.
const TRIES: u32 = 3;

/// Joins small blobs that the cell holds; runs until its owner stops it.
pub(crate) async fn merge_hot(blobs: Arc<Blobs>) {
    loop {
        let found = blobs.crowded.next().await;
        // A chunk that was full when nobody was looking is found again by the next one.
        for chunk in [found.chunk.checked_sub(1), Some(found.chunk)].into_iter().flatten() {
            let at = CrowdedChunk { chunk, ..found };
            if let Err(error) = join_hot(&blobs, at).await {
                tracing::debug!(?at, error = error.chain(), "extents are left to merge later");
            }
        }
    }
}

/// Joins what needs the object store; runs until its owner stops it.
pub(crate) async fn merge_stored(blobs: Arc<Blobs>) {
    let mut outage = Outage::new("merge");
    loop {
        let at = blobs.stored_chunks.next().await;
        match join_sound(&blobs, at).await {
            Ok(()) => outage.over(),
            Err(error) => {
                blobs.stored_chunks.add(at);
                tokio::time::sleep(outage.failed(&error)).await;
            }
        }
    }
}

/// The extents of a chunk that has too many, and whether the file goes on behind it.
fn crowded(blobs: &Blobs, at: CrowdedChunk) -> Result<Option<(Vec<Extent>, bool)>> {
    let found = state::chunk_layout(&blobs.group.reader(), at.volume, at.ino, at.chunk)?;
    let end = (u64::from(at.chunk) + 1) * CHUNK_SIZE;
    let crowded = found.filter(|(extents, _)| extents.len() > MERGE_ABOVE);
    Ok(crowded.map(|(extents, size)| (extents, size >= end)))
}

/// The blobs of extents whose place is `such`.
fn those(
    blobs: &Blobs,
    at: CrowdedChunk,
    extents: &[Extent],
    such: impl Fn(&BlobPlace) -> bool,
) -> Result<HashSet<Digest>> {
    let digests: Vec<_> = extents.iter().map(|extent| extent.digest).collect();
    let places = state::locate(&blobs.group.reader(), at.volume, &digests)?;
    let found = places.iter().zip(digests).filter(|(place, _)| place.is_some_and(|place| such(&place)));
    Ok(found.map(|(_, digest)| digest).collect())
}

/// The blobs of extents that are there and not known to be damaged.
fn sound(blobs: &Blobs, at: CrowdedChunk, extents: &[Extent]) -> Result<HashSet<Digest>> {
    those(blobs, at, extents, |place| !place.damaged)
}

async fn join_hot(blobs: &Blobs, at: CrowdedChunk) -> Result<()> {
    let Some((extents, _)) = crowded(blobs, at)? else { return Ok(()) };
    let hot = those(blobs, at, &extents, |place| place.hot && !place.damaged)?;
    let found = hot_runs(&extents, &hot);
    if is_worth_it(&found) {
        for run in &found {
            join(blobs, at, run).await?;
        }
    }
    if let Some((extents, is_full)) = crowded(blobs, at)?
        && is_worth_it(&runs(&extents, is_full, &sound(blobs, at, &extents)?))
    {
        blobs.stored_chunks.add(at);
    }
    Ok(())
}

/// Joins what is sound of a chunk. If damage is found again and again it is passed by, until something is
/// appended to it.
async fn join_sound(blobs: &Blobs, at: CrowdedChunk) -> Result<()> {
    for _ in 0..TRIES {
        match join_stored(blobs, at).await {
            Err(error) if is_damage(&error) => {
                tracing::debug!(?at, error = error.chain(), "a damaged blob cannot be merged");
            }
            done => return done,
        }
    }
    Ok(())
}

async fn join_stored(blobs: &Blobs, at: CrowdedChunk) -> Result<()> {
    let Some((extents, is_full)) = crowded(blobs, at)? else { return Ok(()) };
    let found = runs(&extents, is_full, &sound(blobs, at, &extents)?);
    if is_worth_it(&found) {
        for run in &found {
            join(blobs, at, run).await?;
        }
    }
    Ok(())
}

/// Makes one extent of a run. Nothing happens if the file changes meanwhile.
async fn join(blobs: &Blobs, at: CrowdedChunk, run: &Run) -> Result<()> {
    let bytes = read(blobs, at, run).await?;
    let new = if bytes.len() <= HOT_MAX {
        let bytes = VerifiedBytes::of(bytes);
        Joined::Hot { digest: bytes.digest(), bytes: bytes.into_bytes() }
    } else {
        upload(blobs, at, bytes).await?
    };
    let stored = match &new {
        Joined::Object { digest, generation: Some(generation) } => Some((*digest, *generation)),
        _ => None,
    };
    propose(blobs, at, MergeStep::Replace { ino: at.ino, old: run.to_vec(), new }).await?;
    if let Some((digest, generation)) = stored {
        blobs.committed([ObjectKey { site: blobs.site_of(at.volume)?, digest, generation }]);
    }
    Ok(())
}

async fn read(blobs: &Blobs, at: CrowdedChunk, run: &Run) -> Result<Bytes> {
    let mut joined = BytesMut::new();
    for extent in run {
        let gone = || Error::corrupt(format!("a blob of {} is not where its extent says", at.ino));
        let blob = blobs.fetch(at.volume, extent.digest).await?.ok_or_else(gone)?;
        let from = extent.blob_offset as usize;
        joined.extend_from_slice(blob.get(from..from + extent.len as usize).ok_or_else(gone)?);
    }
    Ok(joined.freeze())
}

/// Puts a joined blob into the object store under a generation of its own.
async fn upload(blobs: &Blobs, at: CrowdedChunk, bytes: Bytes) -> Result<Joined> {
    let bytes = tokio::task::spawn_blocking(move || VerifiedBytes::of(bytes))
        .await
        .map_err(|join| Error::internal("hashing joined extents").because(join))?;
    let digest = bytes.digest();
    let len = u32::try_from(bytes.len()).map_err(|_| Error::internal("a joined blob is too long"))?;
    if blobs.backend.uses_own_disk() && blobs.group.is_disk_short(u64::from(len))? {
        return Err(Error::limit("the disk of the cell is nearly full, extents stay as they are"));
    }
    let drawn = propose(blobs, at, MergeStep::Upload { blob: BlobWanted { digest, len } }).await?;
    let Reply::Upload(generation) = drawn else {
        return Err(Error::internal("a generation was asked for and something else came"));
    };
    if let Some(generation) = generation {
        let site = blobs.site_of(at.volume)?;
        blobs.store(&ObjectKey { site, digest, generation }, bytes).await?;
    }
    Ok(Joined::Object { digest, generation })
}

async fn propose(blobs: &Blobs, at: CrowdedChunk, step: MergeStep) -> Result<Reply> {
    let applied = blobs.group.propose(CommandBody::Merged { volume: at.volume, step }).await?;
    applied.reply.map_err(|errno| Error::refused(errno, "merging extents"))
}
