//! The content of a record: a sparse file with each piece at its own offset.

use super::dir::{Dir, Part};
use super::record::{Piece, Stored};
use sitefs_base::limits::CHUNK_SIZE;
use sitefs_base::{Error, Result};
use sitefs_blobstore::hash;
use std::{fs::File, os::unix::fs::FileExt};

/// Writes the content of a record.
#[derive(Debug)]
pub struct ContentWriter<'a> {
    dir: &'a Dir,
    number: u64,
    file: Option<File>,
    stored: Option<Stored>,
}

impl<'a> ContentWriter<'a> {
    pub(super) fn new(dir: &'a Dir, number: u64) -> Self {
        Self { dir, number, file: None, stored: None }
    }

    /// Begins the content of a file of `size` bytes. A record without it changes no content.
    pub fn begin(&mut self, size: u64, complete: bool) -> Result<()> {
        let file = self.dir.create(self.number, Part::Data)?;
        file.set_len(size).map_err(failed)?;
        self.file = Some(file);
        self.stored = Some(Stored { size, complete, pieces: Vec::new() });
        Ok(())
    }

    /// Writes a chunk; in ascending order.
    pub fn piece(&mut self, chunk: u32, bytes: &[u8]) -> Result<()> {
        let (Some(file), Some(stored)) = (&self.file, &mut self.stored) else {
            return Err(Error::internal("content was written before it was begun"));
        };
        if bytes.is_empty() {
            return Ok(());
        }
        let is_zero = bytes.iter().all(|byte| *byte == 0);
        let len = u32::try_from(bytes.len()).map_err(|_| Error::internal("a piece of more than 4 GiB"))?;
        let digest = if is_zero { None } else { Some(hash(bytes)) };
        let piece = Piece { chunk, len, digest };
        if !is_zero {
            file.write_all_at(bytes, piece.offset()).map_err(failed)?;
        }
        stored.pieces.push(piece);
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Option<Stored>> {
        if let Some(file) = &self.file {
            // The length is part of what has to be there.
            file.sync_all().map_err(failed)?;
        }
        Ok(self.stored)
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::io("writing content to the journal", error)
}

/// The bytes of a piece, compared with its digest.
pub(super) fn read_piece(file: &File, piece: &Piece) -> Result<Vec<u8>> {
    let len = usize::try_from(u64::from(piece.len).min(CHUNK_SIZE)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, piece.offset())
        .map_err(|error| Error::io("reading content from the journal", error))?;
    let as_written = match piece.digest {
        Some(digest) => hash(&bytes) == digest,
        None => bytes.iter().all(|byte| *byte == 0),
    };
    if as_written {
        return Ok(bytes);
    }
    Err(Error::corrupt(format!("chunk {} of the journal's content does not have its digest", piece.chunk)))
}
