//! Cached blobs that the kernel reads by itself (passthrough, DESIGN D26): one id for each, kept over
//! opens, bounded in number and bytes.
//!
//! A file that is lent belongs to one inode until nobody has it open or mapped: if that inode is written to
//! meanwhile, the file leaves the cache and becomes its working copy, so that whoever has it open or mapped
//! sees what is written.

use lru::LruCache;
use sitefs_base::{Digest, InodeId, metrics::Counter};
use sitefs_blobstore::CachedBlob;
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

/// Files lent at most. Each costs the mount a descriptor.
const LOANS_MAX: u64 = 65_536;
/// How many of the longest unused files are looked at for one that can be taken back.
const LOOKED_AT: usize = 64;

/// The kernel, as far as files are lent to it.
pub trait Lender: Send + Sync {
    /// Lends a file; gives its id.
    fn lend(&self, blob: &CachedBlob) -> io::Result<u32>;
    /// Takes an id back. What is open stays open.
    fn end(&self, id: u32);
    /// Whether anybody but the mount and the id has the file open or mapped, or may write to it.
    fn is_used(&self, blob: &CachedBlob) -> bool;
}

/// A file that is lent to the kernel.
pub struct Loan {
    id: u32,
    digest: Digest,
    blob: CachedBlob,
    lender: Arc<dyn Lender>,
}

impl Loan {
    /// The kernel's number of it.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The content that it had when it was lent.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The file.
    pub fn blob(&self) -> &CachedBlob {
        &self.blob
    }
}

impl std::fmt::Debug for Loan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loan").field("id", &self.id).field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.lender.end(self.id);
    }
}

struct Entry {
    loan: Arc<Loan>,
    /// The inode that shows it.
    owner: InodeId,
    /// Handles that the kernel has on it.
    open: u32,
}

impl Entry {
    fn is_used(&self) -> bool {
        self.open > 0 || self.loan.lender.is_used(&self.loan.blob)
    }
}

struct Table {
    entries: LruCache<u32, Entry>,
    /// Those that still are what they were when they were lent.
    blobs: HashMap<Digest, u32>,
    bytes: u64,
}

impl Table {
    fn entry(&mut self, loan: &Arc<Loan>) -> Option<&mut Entry> {
        self.entries.get_mut(&loan.id).filter(|entry| Arc::ptr_eq(&entry.loan, loan))
    }

    fn remove(&mut self, id: u32) {
        let Some(entry) = self.entries.pop(&id) else { return };
        self.bytes -= entry.loan.blob.len;
        if self.blobs.get(&entry.loan.digest) == Some(&id) {
            self.blobs.remove(&entry.loan.digest);
        }
    }

    /// Takes back one that nobody uses.
    fn evict(&mut self) -> bool {
        let unused = self.entries.iter().rev().take(LOOKED_AT).find(|(_, entry)| !entry.is_used());
        let Some(id) = unused.map(|(id, _)| *id) else { return false };
        self.remove(id);
        true
    }
}

/// What becomes of the wish to borrow a blob.
pub enum Asked {
    /// It is lent.
    Lent(Arc<Loan>),
    /// It cannot be: another inode with the same content has it open or mapped, or it is only a part of the blob.
    Refused,
    /// It is not registered.
    Unknown,
}

/// What loans there are.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoanStats {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The files that are lent.
pub struct Loans {
    lender: OnceLock<Arc<dyn Lender>>,
    table: Mutex<Table>,
    max: usize,
    max_bytes: u64,
    /// Opens that got one.
    pub opens: Counter,
    /// Opens that had to be made under another number, because an older version is open.
    pub moved: Counter,
}

impl Loans {
    /// None lent yet; `files` is how many the process may have open.
    pub fn new(files: u64, max_bytes: u64) -> Self {
        let max = usize::try_from((files / 2).clamp(1, LOANS_MAX)).unwrap_or(1);
        let table = Table { entries: LruCache::unbounded(), blobs: HashMap::new(), bytes: 0 };
        Self {
            lender: OnceLock::new(),
            table: Mutex::new(table),
            max,
            max_bytes,
            opens: Counter::default(),
            moved: Counter::default(),
        }
    }

    // No code panics while it holds this lock.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on files are lent.
    pub fn begin(&self, lender: Arc<dyn Lender>) {
        // Said once.
        let _ = self.lender.set(lender);
    }

    /// Whether files are lent.
    pub fn are_on(&self) -> bool {
        self.lender.get().is_some()
    }

    /// What there is.
    pub fn stats(&self) -> LoanStats {
        let table = self.table();
        LoanStats { files: table.entries.len() as u64, bytes: table.bytes }
    }

    /// Borrows a blob of `len` bytes for another handle of `owner`.
    pub fn borrow(&self, digest: &Digest, len: u64, owner: InodeId) -> Asked {
        let mut table = self.table();
        let Some(id) = table.blobs.get(digest).copied() else { return Asked::Unknown };
        let Some(entry) = table.entries.get_mut(&id) else { return Asked::Unknown };
        // A file that was cut by the cell is the beginning of a longer blob.
        if entry.loan.blob.len != len || (entry.owner != owner && entry.is_used()) {
            return Asked::Refused;
        }
        if entry.open == 0 && !entry.loan.blob.is_unchanged() {
            // Somebody touched the file: it is hashed again before it is lent again.
            table.blobs.remove(digest);
            return Asked::Unknown;
        }
        entry.owner = owner;
        entry.open += 1;
        Asked::Lent(Arc::clone(&entry.loan))
    }

    /// The same for one that its inode has borrowed already; false if it was taken back meanwhile.
    pub fn borrow_again(&self, loan: &Arc<Loan>, owner: InodeId) -> bool {
        let mut table = self.table();
        let is_blob = table.blobs.get(&loan.digest) == Some(&loan.id);
        let Some(entry) = table.entry(loan).filter(|entry| entry.owner == owner) else { return false };
        if is_blob && entry.open == 0 && !loan.blob.is_unchanged() {
            table.blobs.remove(&loan.digest);
            return false;
        }
        entry.open += 1;
        true
    }

    /// Registers a blob and borrows it; `None` if there is no room, or another inode was faster.
    pub fn admit(&self, digest: Digest, owner: InodeId, blob: CachedBlob) -> Option<Arc<Loan>> {
        let lender = self.lender.get().filter(|_| blob.len <= self.max_bytes)?;
        let mut table = self.table();
        if table.blobs.contains_key(&digest) {
            drop(table);
            return match self.borrow(&digest, blob.len, owner) {
                Asked::Lent(loan) => Some(loan),
                Asked::Refused | Asked::Unknown => None,
            };
        }
        // Who takes a file away says so before it is found here no more.
        if blob.is_given_away() {
            return None;
        }
        let is_full = |table: &Table| {
            table.entries.len() >= self.max || table.bytes.saturating_add(blob.len) > self.max_bytes
        };
        while is_full(&table) {
            if !table.evict() {
                return None;
            }
        }
        let id = lender
            .lend(&blob)
            .inspect_err(|error| tracing::debug!(%digest, %error, "the kernel does not take a file"))
            .ok()?;
        let loan = Arc::new(Loan { id, digest, blob, lender: Arc::clone(lender) });
        table.bytes += loan.blob.len;
        table.blobs.insert(digest, id);
        table.entries.put(id, Entry { loan: Arc::clone(&loan), owner, open: 1 });
        Some(loan)
    }

    /// A handle is closed.
    pub fn give_back(&self, loan: &Arc<Loan>) {
        if let Some(entry) = self.table().entry(loan) {
            entry.open -= 1;
        }
    }

    /// Whether anybody has it open or mapped as content of `owner`.
    pub fn is_used(&self, loan: &Arc<Loan>, owner: InodeId) -> bool {
        self.table().entry(loan).is_some_and(|entry| entry.owner == owner && entry.is_used())
    }

    /// It is about to be written to as content of `owner`: nobody else gets it under its digest. False if it
    /// is another inode's by now.
    pub fn no_blob(&self, loan: &Arc<Loan>, owner: InodeId) -> bool {
        let mut table = self.table();
        if table.entry(loan).is_none_or(|entry| entry.owner != owner) {
            return false;
        }
        if table.blobs.get(&loan.digest) == Some(&loan.id) {
            table.blobs.remove(&loan.digest);
        }
        true
    }

    /// Takes all back that nobody uses: others need the room.
    pub fn end_unused(&self) {
        let mut table = self.table();
        let unused = table.entries.iter().filter(|(_, entry)| !entry.is_used());
        let unused: Vec<u32> = unused.map(|(id, _)| *id).collect();
        unused.into_iter().for_each(|id| table.remove(id));
    }

    /// Takes those back that are no blobs any more and that nobody uses.
    pub fn look_after(&self) {
        let mut table = self.table();
        let is_blob = |entry: &Entry| table.blobs.get(&entry.loan.digest) == Some(&entry.loan.id);
        let others = table.entries.iter().filter(|(_, entry)| !is_blob(entry) && !entry.is_used());
        let unused: Vec<u32> = others.map(|(id, _)| *id).collect();
        unused.into_iter().for_each(|id| table.remove(id));
    }
}

#[cfg(test)]
mod tests;
