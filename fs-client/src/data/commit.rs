//! Turns a captured working copy into what a commit carries: hashes it, uploads what is large.

use super::read::BlobReader;
use super::working::Captured;
use crate::meta::Meta;
use bytes::Bytes;
use sitefs_base::limits::{CHUNK_SIZE, INLINE_MAX};
use sitefs_base::op::{BlobWanted, ChunkLayout, Extra, Grant, Location, NewContent, Uploaded};
use sitefs_base::{Content, Digest, Errno, Error, Extent, Generation, Kind, Result, op};
use sitefs_blobstore::VerifiedBytes;
use std::{collections::HashSet, thread::ScopedJoinHandle, time::Duration};

/// Chunks that are hashed, or uploaded, together: two windows are in memory.
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
        if whole.len() <= hot_max && blobs.cell_takes_hot() {
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

/// The chunks of a commit, as they become known.
#[derive(Default)]
struct Chunks {
    changed: Vec<ChunkLayout>,
    /// One blob may fill many chunks.
    seen: HashSet<Digest>,
    uploaded: Vec<Uploaded>,
}

/// While a window of chunks is uploaded the next one is read and hashed, each chunk by a thread of its own.
fn prepare_chunks(meta: &Meta, blobs: &BlobReader, captured: &Captured, wait: Duration) -> Result<Prepared> {
    let _leave = blobs.cell().large_commit()?;
    let mut chunks = Chunks::default();
    std::thread::scope(|scope| {
        let mut uploading = None;
        for window in captured.chunks.chunks(WINDOW) {
            let pieces = chunks.new_pieces(blobs, hash_window(captured, window)?);
            chunks.finish(uploading.take())?;
            uploading = Some(scope.spawn(move || upload(meta, blobs, &pieces, wait)));
        }
        chunks.finish(uploading)
    })?;
    let Chunks { mut changed, mut uploaded, .. } = chunks;
    uploaded.sort_by_key(|upload| upload.digest);
    changed.sort_by_key(|layout| layout.chunk);
    Ok(Prepared {
        content: NewContent::Chunks { size: captured.size, changed },
        uploaded,
        row: None,
        keep: None,
    })
}

/// The content of chunks; nothing for those that are zeros.
fn hash_window(captured: &Captured, window: &[u32]) -> Result<Vec<(u32, Option<VerifiedBytes>)>> {
    let content = |chunk: u32| {
        if captured.is_hole(chunk) {
            return Ok((chunk, None));
        }
        let bytes = captured.chunk(chunk)?;
        let is_zero = bytes.iter().all(|byte| *byte == 0);
        Ok((chunk, (!is_zero).then(|| VerifiedBytes::of(Bytes::from(bytes)))))
    };
    if let [chunk] = window {
        return Ok(vec![content(*chunk)?]);
    }
    let content = &content;
    std::thread::scope(|scope| {
        let hash = |chunk: &u32| {
            let chunk = *chunk;
            scope.spawn(move || content(chunk))
        };
        let hashing: Vec<_> = window.iter().map(hash).collect();
        let ended = |_| Err(Error::internal("a thread that hashes panicked"));
        hashing.into_iter().map(|one| one.join().unwrap_or_else(ended)).collect()
    })
}

impl Chunks {
    /// Notes chunks, and gives those of their blobs that may have to be uploaded.
    fn new_pieces(
        &mut self,
        blobs: &BlobReader,
        window: Vec<(u32, Option<VerifiedBytes>)>,
    ) -> Vec<VerifiedBytes> {
        let mut pieces = Vec::with_capacity(WINDOW);
        for (chunk, bytes) in window {
            let Some(bytes) = bytes else {
                self.changed.push(ChunkLayout { chunk, extents: Vec::new() });
                continue;
            };
            let digest = bytes.digest();
            let extents = vec![extent(u64::from(chunk) * CHUNK_SIZE, &bytes)];
            self.changed.push(ChunkLayout { chunk, extents });
            if !self.seen.insert(digest) {
                continue;
            }
            match blobs.upload_of(&digest) {
                Some(generation) => self.uploaded.push(Uploaded { digest, generation }),
                None => pieces.push(bytes),
            }
        }
        pieces
    }

    /// Waits for an upload.
    fn finish(&mut self, uploading: Option<ScopedJoinHandle<Result<Vec<Uploaded>>>>) -> Result<()> {
        let Some(uploading) = uploading else { return Ok(()) };
        let ended = |_| Err(Error::internal("a thread that uploads panicked"));
        self.uploaded.extend(uploading.join().unwrap_or_else(ended)?);
        Ok(())
    }
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
            store_somehow(blobs, piece, generation, &target, wait)?;
            blobs.uploaded(&upload);
            blobs.keep(piece);
            Ok(upload)
        };
        let transfers: Vec<_> = granted.map(|one| scope.spawn(move || store(one))).collect();
        let ended = |_| Err(Error::internal("a transfer panicked"));
        transfers.into_iter().map(|transfer| transfer.join().unwrap_or_else(ended)).collect()
    })
}

/// Stores a blob where it was granted. A store that does not believe the grant, because clocks differ for
/// example, may still believe the cell.
fn store_somehow(
    blobs: &BlobReader,
    piece: &VerifiedBytes,
    generation: Generation,
    target: &Location,
    wait: Duration,
) -> Result<()> {
    let store = |target| blobs.cell().store(piece.digest(), generation, Bytes::clone(piece), target, wait);
    match store(target) {
        Err(error) if error.kind() == Kind::Denied && *target != Location::Cell => {
            tracing::warn!(error = error.chain(), "the store refuses a grant; uploading through the cell");
            store(&Location::Cell)
        }
        stored => stored,
    }
}
