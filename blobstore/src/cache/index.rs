//! What the cache holds: sizes, order of use, and which blobs are open. Memory only, no files.

use super::open::OpenFile;
use rustix::fs::Stat;
use sitefs_base::Digest;
use std::{fs::File, sync::Weak};

/// Files take whole blocks on disk, so that is what is counted.
const BLOCK: u64 = 4096;

/// What tells that a file is the one that was hashed, unchanged (DESIGN D26).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileIdentity {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, u64),
    ctime: (i64, u64),
}

impl FileIdentity {
    pub fn of(file: &File) -> std::io::Result<Self> {
        let stat: Stat = rustix::fs::fstat(file)?;
        #[allow(clippy::unnecessary_cast, reason = "the types of these fields differ between architectures")]
        Ok(Self {
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as u64),
            ctime: (stat.st_ctime as i64, stat.st_ctime_nsec as u64),
        })
    }

    pub fn size(&self) -> u64 {
        self.size
    }
}

/// One blob of the cache.
#[derive(Clone, Debug)]
pub struct Entry {
    pub len: u64,
    /// Tells this admission of a digest from an earlier one.
    pub stamp: u64,
    /// The file as it was when this process hashed it; `None` after a restart.
    pub verified: Option<FileIdentity>,
    /// The file while somebody has it open.
    pub held: Weak<OpenFile>,
}

impl Entry {
    fn is_pinned(&self) -> bool {
        self.held.strong_count() > 0
    }
}

/// Blobs in order of use, with their bytes.
#[derive(Debug)]
pub struct Index {
    entries: lru::LruCache<Digest, Entry>,
    bytes: u64,
    /// Bytes of inserts that are being written.
    reserved: u64,
    stamps: u64,
}

impl Index {
    pub fn new() -> Self {
        Self { entries: lru::LruCache::unbounded(), bytes: 0, reserved: 0, stamps: 0 }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn digests(&self) -> Vec<Digest> {
        self.entries.iter().map(|(digest, _)| *digest).collect()
    }

    /// The entry, which becomes the last used.
    pub fn touch(&mut self, digest: &Digest) -> Option<&mut Entry> {
        self.entries.get_mut(digest)
    }

    pub fn peek_mut(&mut self, digest: &Digest) -> Option<&mut Entry> {
        self.entries.peek_mut(digest)
    }

    /// Adds a blob as the last used, in place of an earlier admission.
    pub fn add(&mut self, digest: Digest, len: u64, verified: Option<FileIdentity>) {
        self.stamps += 1;
        let entry = Entry { len, stamp: self.stamps, verified, held: Weak::new() };
        self.bytes += on_disk(len);
        if let Some((_, old)) = self.entries.push(digest, entry) {
            self.bytes -= on_disk(old.len);
        }
    }

    pub fn remove(&mut self, digest: &Digest) -> Option<Entry> {
        let entry = self.entries.pop(digest)?;
        self.bytes -= on_disk(entry.len);
        Some(entry)
    }

    /// Removes the entry only if it is still that admission.
    pub fn remove_admission(&mut self, digest: &Digest, stamp: u64) -> bool {
        let same = self.entries.peek(digest).is_some_and(|entry| entry.stamp == stamp);
        same && self.remove(digest).is_some()
    }

    /// Sets `len` bytes aside and returns the blobs to delete for them: so many of the longest unused
    /// that all fits under `max` and at least `to_free` bytes come free. `None` when open blobs leave
    /// no room; then nothing was changed.
    pub fn reserve(&mut self, len: u64, max: u64, to_free: u64) -> Option<Vec<Digest>> {
        let want = on_disk(len);
        let over = (self.bytes + self.reserved + want).saturating_sub(max);
        let need = over.max(to_free);
        let victims = self.victims(need)?;
        for digest in &victims {
            self.remove(digest);
        }
        self.reserved += want;
        Some(victims)
    }

    pub fn release(&mut self, len: u64) {
        self.reserved -= on_disk(len);
    }

    fn victims(&self, need: u64) -> Option<Vec<Digest>> {
        let (mut freed, mut victims) = (0, Vec::new());
        if need == 0 {
            return Some(victims);
        }
        for (digest, entry) in self.entries.iter().rev().filter(|(_, entry)| !entry.is_pinned()) {
            victims.push(*digest);
            freed += on_disk(entry.len);
            if freed >= need {
                return Some(victims);
            }
        }
        None
    }
}

pub fn on_disk(len: u64) -> u64 {
    len.div_ceil(BLOCK) * BLOCK
}
