//! The working copy of a file that is being written.
//!
//! Small files live in memory and never touch the local disk; larger ones in an unnamed sparse
//! file. A copy of an existing file starts without its content: chunks are brought in when a write
//! touches part of them, so that a large file is never downloaded whole.

use rustix::fs::FallocateFlags;
use sitefs_base::limits::{CHUNK_SIZE, HOT_MAX};
use sitefs_base::{Error, Result};
use std::{
    collections::BTreeSet,
    fs::File,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Files up to this many bytes are kept in memory while they are written.
const MEMORY_MAX: u64 = HOT_MAX as u64;

#[derive(Debug)]
enum Store {
    Memory(Vec<u8>),
    Disk(Arc<File>),
}

/// A local copy of a file, whole or in part, and what of it is newer than the cell's.
#[derive(Debug)]
pub struct Working {
    store: Store,
    /// Where an unnamed file is made when the copy outgrows memory.
    dir: PathBuf,
    size: u64,
    /// Content of the cell's version counts below this offset, in chunks that are not local.
    base_len: u64,
    /// The length of the cell's version as it was when this copy began, or last committed.
    cell_len: u64,
    /// The shortest length that this copy had since then: what lies behind must be sent again.
    shortest: u64,
    /// Chunks whose content is here.
    local: BTreeSet<u32>,
    /// Chunks that differ from the cell's.
    dirty: BTreeSet<u32>,
    /// Whether anything at all differs, the length included.
    changed: bool,
    /// Whether the kernel reads the file by itself, so that it has to have the right length.
    is_lent: bool,
}

/// What a commit has to send, taken at one moment.
#[derive(Debug)]
pub struct Captured {
    /// The length of the file.
    pub size: u64,
    /// Chunks to send, ascending.
    pub chunks: Vec<u32>,
    /// The lengths at the cell, and the shortest here since, before this capture.
    before: (u64, u64),
    /// The whole content, if it is small enough to travel in the commit.
    pub whole: Option<Vec<u8>>,
    /// Reads chunks of a larger file.
    pub source: ChunkSource,
    /// Those of the chunks that are known to be holes.
    holes: BTreeSet<u32>,
}

impl Captured {
    /// Whether `chunk` is known to have no bytes but zeros.
    pub fn is_hole(&self, chunk: u32) -> bool {
        self.holes.contains(&chunk)
    }

    /// The bytes of `chunk`.
    pub fn chunk(&self, chunk: u32) -> Result<Vec<u8>> {
        match &self.whole {
            Some(whole) if chunk == 0 => Ok(whole.clone()),
            _ => self.source.read(chunk, self.size),
        }
    }
}

/// Reads the chunks of a captured working copy. Later writes may show in it; they mark their
/// chunks dirty again, so the next commit carries them.
#[derive(Clone, Debug)]
pub enum ChunkSource {
    /// Content that was in memory.
    Memory(Arc<Vec<u8>>),
    /// Content in a file.
    Disk(Arc<File>),
}

impl ChunkSource {
    /// The bytes of `chunk` in a file of `size` bytes.
    pub fn read(&self, chunk: u32, size: u64) -> Result<Vec<u8>> {
        let start = u64::from(chunk) * CHUNK_SIZE;
        let len = usize_of(CHUNK_SIZE.min(size.saturating_sub(start)));
        let mut bytes = vec![0; len];
        match self {
            Self::Memory(all) => {
                let start = usize_of(start).min(all.len());
                let end = (start + len).min(all.len());
                bytes[..end - start].copy_from_slice(&all[start..end]);
            }
            Self::Disk(file) => read_padded(file, &mut bytes, start)?,
        }
        Ok(bytes)
    }
}

fn usize_of(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn chunk_of(offset: u64) -> u32 {
    u32::try_from(offset / CHUNK_SIZE).unwrap_or(u32::MAX)
}

/// Reads `bytes.len()` bytes at `offset`; what is behind the end of the file reads as zeros.
fn read_padded(file: &File, bytes: &mut [u8], offset: u64) -> Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("reading the working copy", error)),
        }
    }
    bytes[done..].fill(0);
    Ok(())
}

impl Working {
    /// An empty file; `dir` is on the local disk and takes what outgrows memory.
    pub fn empty(dir: &Path) -> Self {
        Self::of(dir, 0, 0)
    }

    /// A copy of an existing file of `len` bytes, none of which is here yet.
    pub fn of_existing(dir: &Path, len: u64) -> Self {
        Self::of(dir, len, len)
    }

    /// An existing file of `cell_len` bytes, emptied: nothing of it is needed any more.
    pub fn truncated(dir: &Path, cell_len: u64) -> Self {
        let mut working = Self::of(dir, 0, cell_len);
        working.changed = true;
        working
    }

    /// A copy of an existing file of `len` bytes, all of which are in `file`, which the kernel reads too.
    pub fn in_file(dir: &Path, file: File, len: u64) -> Self {
        let local = (0..len.div_ceil(CHUNK_SIZE)).filter_map(|chunk| u32::try_from(chunk).ok()).collect();
        Self { store: Store::Disk(Arc::new(file)), local, is_lent: true, ..Self::of(dir, len, len) }
    }

    fn of(dir: &Path, size: u64, cell_len: u64) -> Self {
        Self {
            store: Store::Memory(Vec::new()),
            dir: dir.to_owned(),
            size,
            base_len: size,
            cell_len,
            shortest: size,
            local: BTreeSet::new(),
            dirty: BTreeSet::new(),
            changed: false,
            is_lent: false,
        }
    }

    /// The length of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether it differs from what the cell has.
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// The part of `offset..offset + len` in chunk `chunk` that comes from the cell: its end.
    pub fn base_len(&self) -> u64 {
        self.base_len
    }

    /// Chunks of `offset..offset + len` whose content is neither here nor a hole.
    pub fn missing(&self, offset: u64, len: u64) -> Vec<u32> {
        if len == 0 || offset >= self.base_len {
            return Vec::new();
        }
        let last = (offset + len - 1).min(self.base_len - 1);
        (chunk_of(offset)..=chunk_of(last)).filter(|chunk| !self.local.contains(chunk)).collect()
    }

    /// Chunks that must be here before `offset..offset + len` is written: those that have content
    /// at the cell which the write does not replace.
    pub fn missing_for_write(&self, offset: u64, len: u64) -> Vec<u32> {
        if len == 0 {
            return Vec::new();
        }
        let end = offset + len;
        let needed = |chunk: &u32| {
            let start = u64::from(*chunk) * CHUNK_SIZE;
            let content_to = (start + CHUNK_SIZE).min(self.base_len);
            start < self.base_len && !self.local.contains(chunk) && (offset > start || end < content_to)
        };
        (chunk_of(offset)..=chunk_of(end - 1)).filter(needed).collect()
    }

    /// Brings in the cell's bytes of `chunk`.
    pub fn fill(&mut self, chunk: u32, bytes: &[u8]) -> Result<()> {
        if self.local.contains(&chunk) {
            return Ok(());
        }
        let start = u64::from(chunk) * CHUNK_SIZE;
        let useful = usize_of(self.base_len.saturating_sub(start)).min(bytes.len());
        self.put(start, &bytes[..useful])?;
        self.local.insert(chunk);
        Ok(())
    }

    /// Reads at `offset` what is here; chunks named by [`Self::missing`] read as zeros.
    pub fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let len = usize_of(self.size.saturating_sub(offset)).min(len);
        let mut bytes = vec![0; len];
        match &self.store {
            Store::Memory(all) => {
                let start = usize_of(offset).min(all.len());
                let end = (start + len).min(all.len());
                bytes[..end - start].copy_from_slice(&all[start..end]);
            }
            Store::Disk(file) => read_padded(file, &mut bytes, offset)?,
        }
        Ok(bytes)
    }

    /// Writes `bytes` at `offset`, which must not miss chunks for it.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let end = offset + bytes.len() as u64;
        self.put(offset, bytes)?;
        for chunk in chunk_of(offset)..=chunk_of(end - 1) {
            self.local.insert(chunk);
            self.dirty.insert(chunk);
        }
        self.size = self.size.max(end);
        self.changed = true;
        Ok(())
    }

    /// The chunk that must be here before the file is cut to `size`.
    pub fn missing_for_resize(&self, size: u64) -> Vec<u32> {
        if size >= self.size || size.is_multiple_of(CHUNK_SIZE) {
            Vec::new()
        } else {
            self.missing(size - 1, 1)
        }
    }

    /// Cuts or extends the file; the new part reads as zeros.
    pub fn resize(&mut self, size: u64) -> Result<()> {
        if size < self.size {
            self.cut(size)?;
        } else if let (true, Store::Disk(file)) = (self.is_lent, &self.store) {
            file.set_len(size).map_err(|error| Error::io("extending the working copy", error))?;
        }
        self.size = size;
        self.changed = true;
        Ok(())
    }

    fn cut(&mut self, size: u64) -> Result<()> {
        match &mut self.store {
            Store::Memory(all) => all.truncate(usize_of(size)),
            Store::Disk(file) => {
                file.set_len(size).map_err(|error| Error::io("truncating the working copy", error))?;
            }
        }
        self.base_len = self.base_len.min(size);
        self.shortest = self.shortest.min(size);
        let first_gone = u32::try_from(size.div_ceil(CHUNK_SIZE)).unwrap_or(u32::MAX);
        self.local.split_off(&first_gone);
        self.dirty.split_off(&first_gone);
        if !size.is_multiple_of(CHUNK_SIZE) && self.local.contains(&chunk_of(size)) {
            self.dirty.insert(chunk_of(size));
        }
        Ok(())
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset + bytes.len() as u64;
        if end > MEMORY_MAX {
            self.spill()?;
        }
        match &mut self.store {
            Store::Memory(all) => {
                if all.len() < usize_of(end) {
                    all.resize(usize_of(end), 0);
                }
                all[usize_of(offset)..usize_of(end)].copy_from_slice(bytes);
                Ok(())
            }
            Store::Disk(file) => {
                file.write_all_at(bytes, offset).map_err(|error| Error::io("writing the working copy", error))
            }
        }
    }

    fn spill(&mut self) -> Result<()> {
        let Store::Memory(all) = &self.store else { return Ok(()) };
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_TMPFILE)
            .open(&self.dir)
            .map_err(|error| Error::io("making a working copy", error))?;
        file.write_all_at(all, 0).map_err(|error| Error::io("writing the working copy", error))?;
        self.store = Store::Disk(Arc::new(file));
        Ok(())
    }

    /// The most bytes by which a commit makes the file larger at the cell, where it takes `allocated`
    /// bytes now. A file with holes may turn out smaller.
    pub fn growth(&self, allocated: u64) -> u64 {
        if self.changed { self.growth_as(allocated, self.size, None) } else { 0 }
    }

    /// The same after `len` bytes were written, or made zero, at `offset`.
    pub fn growth_with(&self, allocated: u64, offset: u64, len: u64) -> u64 {
        match len {
            0 => self.growth(allocated),
            len => self.growth_as(allocated, self.size.max(offset + len), Some((offset, len))),
        }
    }

    /// The same after a change of the length to `size`.
    pub fn growth_at(&self, allocated: u64, size: u64) -> u64 {
        self.growth_as(allocated, size, None)
    }

    fn growth_as(&self, allocated: u64, size: u64, written: Option<(u64, u64)>) -> u64 {
        let sent = if size <= MEMORY_MAX { size } else { self.sent_bytes(size, written) };
        sent.min(size.saturating_sub(allocated))
    }

    /// The bytes of the chunks that would be sent of a file of `size` bytes.
    fn sent_bytes(&self, size: u64, written: Option<(u64, u64)>) -> u64 {
        let last = chunk_of(size - 1);
        let written = written.map(|(offset, len)| chunk_of(offset)..=chunk_of(offset + len - 1));
        let is_written = |chunk: u32| written.as_ref().is_some_and(|range| range.contains(&chunk));
        // What was whole in a row or in one small blob is sent again.
        let with_first = self.cell_len <= MEMORY_MAX && (self.cell_len > 0 || self.local.contains(&0));
        let is_sent =
            |chunk: u32| self.dirty.contains(&chunk) || is_written(chunk) || (chunk == 0 && with_first);
        let dirty = match self.dirty.last() {
            Some(highest) if *highest > last => self.dirty.range(..=last).count(),
            _ => self.dirty.len(),
        };
        let more =
            written.clone().map_or(0, |range| range.filter(|chunk| !self.dirty.contains(chunk)).count());
        let first = with_first && !self.dirty.contains(&0) && !is_written(0);
        let chunks = (dirty + more) as u64 + u64::from(first);
        let missing_in_last = (u64::from(last) + 1) * CHUNK_SIZE - size;
        chunks * CHUNK_SIZE - if is_sent(last) { missing_in_last } else { 0 }
    }

    /// The bytes that a commit would send now.
    pub fn dirty_bytes(&self) -> u64 {
        if self.changed && self.size > 0 { self.sent_bytes(self.size, None) } else { 0 }
    }

    /// Chunks that must be here before [`Self::capture`]: all, if the file is small.
    pub fn missing_for_capture(&self) -> Vec<u32> {
        if self.size <= MEMORY_MAX {
            self.missing(0, self.size)
        } else if self.cell_len <= MEMORY_MAX {
            self.missing(0, self.cell_len)
        } else {
            Vec::new()
        }
    }

    /// The ranges with content of its own, ascending, as far as it is known without reading; in whole
    /// chunks. Behind [`Self::base_len`] there is nothing else.
    pub fn own_data(&self) -> Result<Vec<(u64, u64)>> {
        let mut found = Vec::new();
        for chunk in &self.local {
            let start = u64::from(*chunk) * CHUNK_SIZE;
            let end = (start + CHUNK_SIZE).min(self.size);
            if start < end && self.has_data(start, end)? {
                found.push((start, end));
            }
        }
        Ok(found)
    }

    /// Whether the content of `chunk` is here.
    pub fn is_local(&self, chunk: u32) -> bool {
        self.local.contains(&chunk)
    }

    fn has_data(&self, start: u64, end: u64) -> Result<bool> {
        let Store::Disk(file) = &self.store else { return Ok(true) };
        match rustix::fs::seek(&**file, rustix::fs::SeekFrom::Data(start)) {
            Ok(at) => Ok(at < end),
            Err(rustix::io::Errno::NXIO) => Ok(false),
            Err(error) => Err(Error::io("looking for holes of the working copy", error.into())),
        }
    }

    /// Takes what has to be sent and counts it as sent; [`Self::restore`] takes that back.
    pub fn capture(&mut self) -> Result<Captured> {
        let whole = if self.size <= MEMORY_MAX { Some(self.read(0, usize_of(self.size))?) } else { None };
        let mut chunks = std::mem::take(&mut self.dirty);
        // Chunks that the cell still has behind the shortest length would come back as old bytes.
        let stale_from = self.shortest.div_ceil(CHUNK_SIZE);
        let stale_to = self.cell_len.min(self.size).div_ceil(CHUNK_SIZE);
        // Nothing was written there since, or they would be dirty.
        let stale = (stale_from..stale_to).filter_map(|chunk| u32::try_from(chunk).ok());
        let holes: BTreeSet<u32> = stale.filter(|chunk| !chunks.contains(chunk)).collect();
        chunks.extend(&holes);
        // A file that was whole in a row or in one small blob is sent again from its beginning.
        if whole.is_none() && self.cell_len <= MEMORY_MAX && self.local.contains(&0) {
            chunks.insert(0);
        }
        self.changed = false;
        let source = match &self.store {
            Store::Memory(all) => {
                ChunkSource::Memory(Arc::new(if whole.is_some() { Vec::new() } else { all.clone() }))
            }
            Store::Disk(file) => ChunkSource::Disk(Arc::clone(file)),
        };
        let before = (self.cell_len, self.shortest);
        (self.cell_len, self.shortest) = (self.size, self.size);
        Ok(Captured { size: self.size, chunks: chunks.into_iter().collect(), before, whole, source, holes })
    }

    /// The capture was not committed: it has to be sent again.
    pub fn restore(&mut self, captured: &Captured) {
        let (cell_len, shortest) = captured.before;
        self.cell_len = cell_len;
        self.shortest = self.shortest.min(shortest);
        self.dirty.extend(captured.chunks.iter().filter(|chunk| u64::from(**chunk) * CHUNK_SIZE < self.size));
        self.changed = true;
    }

    /// Makes `offset..offset + len` read as zeros without changing the length; the range must not
    /// miss chunks for a write.
    pub fn punch(&mut self, offset: u64, len: u64) -> Result<()> {
        let end = (offset + len).min(self.size);
        if offset >= end {
            return Ok(());
        }
        match &mut self.store {
            Store::Memory(all) => {
                let (from, to) = (usize_of(offset).min(all.len()), usize_of(end).min(all.len()));
                all[from..to].fill(0);
            }
            Store::Disk(file) => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(&**file, flags, offset, end - offset)
                    .map_err(|error| Error::io("punching a hole into the working copy", error.into()))?;
            }
        }
        for chunk in chunk_of(offset)..=chunk_of(end - 1) {
            self.local.insert(chunk);
            self.dirty.insert(chunk);
        }
        self.changed = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
