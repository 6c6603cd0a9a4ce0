//! Turns a captured working copy into what a commit carries: hashes it, uploads what is large.

use super::read::BlobReader;
use super::working::Captured;
use crate::meta::Meta;
use bytes::Bytes;
use sitefs_base::limits::{CHUNK_SIZE, INLINE_MAX};
use sitefs_base::op::{BlobWanted, ChunkLayout, Extra, Grant, Location, NewContent, Uploaded};
use sitefs_base::{Content, Digest, Errno, Error, Extent, Generation, Result, op};
use sitefs_blobstore::VerifiedBytes;
use std::{collections::HashMap, time::Duration};

/// Chunks hashed and uploaded before the next are read: bounds the memory of a large commit.
const WINDOW: usize = 4;

/// What a commit carries.
pub struct Prepared {
    /// The content.
    pub content: NewContent,
    /// The uploads that it rests on.
    pub uploaded: Vec<Uploaded>,
    /// The content as a row, where it is known whole.
    pub row: Option<Content>,
    /// Small content, to be kept for reading back.
    pub keep: Option<VerifiedBytes>,
}

/// Prepares the commit of `captured`; each step that waits for the cell or the store takes at most `wait`.
pub fn prepare(meta: &Meta, blobs: &BlobReader, captured: &Captured, wait: Duration) -> Result<Prepared> {
    if let Some(whole) = &captured.whole {
        let hot_max = meta.session().attached().map_or(0, |attached| attached.hot_max as usize);
        if whole.len() <= INLINE_MAX {
            let bytes = Bytes::copy_from_slice(whole);
            let row = if whole.is_empty() { Content::Empty } else { Content::Inline(bytes.clone()) };
            return Ok(Prepared {
                content: NewContent::Inline(bytes),
                uploaded: Vec::new(),
                row: Some(row),
                keep: None,
            });
        }
        if whole.len() <= hot_max {
            return Ok(prepare_hot(VerifiedBytes::of(Bytes::copy_from_slice(whole))));
        }
    }
    prepare_chunks(meta, blobs, captured, wait)
}

fn extent(offset: u64, bytes: &VerifiedBytes) -> Extent {
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    Extent { offset, len, digest: bytes.digest(), blob_offset: 0 }
}

fn prepare_hot(bytes: VerifiedBytes) -> Prepared {
    Prepared {
        content: NewContent::Hot { digest: bytes.digest(), bytes: Bytes::clone(&bytes) },
        uploaded: Vec::new(),
        row: Some(Content::Extents(vec![extent(0, &bytes)])),
        keep: Some(bytes),
    }
}

fn prepare_chunks(meta: &Meta, blobs: &BlobReader, captured: &Captured, wait: Duration) -> Result<Prepared> {
    let _leave = blobs.cell().large_commit()?;
    let mut changed = Vec::with_capacity(captured.chunks.len());
    // One blob may fill many chunks.
    let mut done: HashMap<Digest, Option<Uploaded>> = HashMap::new();
    for window in captured.chunks.chunks(WINDOW) {
        let mut pieces: Vec<VerifiedBytes> = Vec::with_capacity(WINDOW);
        for chunk in window {
            if captured.is_hole(*chunk) {
                changed.push(ChunkLayout { chunk: *chunk, extents: Vec::new() });
                continue;
            }
            let bytes = captured.chunk(*chunk)?;
            if bytes.iter().all(|byte| *byte == 0) {
                changed.push(ChunkLayout { chunk: *chunk, extents: Vec::new() });
                continue;
            }
            let bytes = VerifiedBytes::of(Bytes::from(bytes));
            let extents = vec![extent(u64::from(*chunk) * CHUNK_SIZE, &bytes)];
            changed.push(ChunkLayout { chunk: *chunk, extents });
            match blobs.upload_of(&bytes.digest()) {
                Some(generation) => {
                    let digest = bytes.digest();
                    done.insert(digest, Some(Uploaded { digest, generation }));
                }
                None if done.contains_key(&bytes.digest()) => {}
                None if pieces.iter().any(|piece| piece.digest() == bytes.digest()) => {}
                None => pieces.push(bytes),
            }
        }
        let uploads = upload(meta, blobs, &pieces, wait)?;
        done.extend(pieces.iter().map(|piece| (piece.digest(), None)));
        done.extend(uploads.into_iter().map(|upload| (upload.digest, Some(upload))));
    }
    let mut uploaded: Vec<Uploaded> = done.into_values().flatten().collect();
    uploaded.sort_by_key(|upload| upload.digest);
    changed.sort_by_key(|layout| layout.chunk);
    Ok(Prepared {
        content: NewContent::Chunks { size: captured.size, changed },
        uploaded,
        row: None,
        keep: None,
    })
}

/// Uploads different blobs that the store does not have, all at once.
fn upload(
    meta: &Meta,
    blobs: &BlobReader,
    pieces: &[VerifiedBytes],
    wait: Duration,
) -> Result<Vec<Uploaded>> {
    if pieces.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = |piece: &VerifiedBytes| BlobWanted {
        digest: piece.digest(),
        len: u32::try_from(piece.len()).unwrap_or(u32::MAX),
    };
    let grant = op::Op::Grant { blobs: pieces.iter().map(wanted).collect() };
    let refused = |errno: Errno| Error::refused(errno, "asking for leave to upload");
    let outcome = meta.mutate(grant, wait).map_err(refused)?;
    let Extra::Grants(grants) = outcome.extra else {
        return Err(Error::internal("the cell answered a grant with something else"));
    };
    let granted = pieces.iter().zip(grants).filter_map(|(piece, grant)| match grant {
        Grant::Upload { generation, target } => Some((piece, generation, target)),
        Grant::Have => None,
    });
    // Each transfer waits on its own thread: at most a window of them.
    std::thread::scope(|scope| {
        let store = |(piece, generation, target): (&VerifiedBytes, Generation, Location)| {
            let upload = Uploaded { digest: piece.digest(), generation };
            blobs.cell().store(upload.digest, generation, Bytes::clone(piece), &target, wait)?;
            blobs.uploaded(&upload);
            blobs.keep(piece);
            Ok(upload)
        };
        let transfers: Vec<_> = granted.map(|one| scope.spawn(move || store(one))).collect();
        let ended = |_| Err(Error::internal("a transfer panicked"));
        transfers.into_iter().map(|transfer| transfer.join().unwrap_or_else(ended)).collect()
    })
}
