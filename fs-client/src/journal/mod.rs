//! The journal (DESIGN D15 and D16): changes that close() accepted while the cell, or the object
//! store, did not take them. They wait on the local disk until the cell is back, or the next mount.
//!
//! Knows files and records, and neither FUSE nor the protocol: what becomes of a record is decided
//! in `fs`.

mod content;
mod dir;
mod offline;
mod record;

pub use content::ContentWriter;
pub use dir::{Entry, State};
pub use offline::{discard, export, list, read_all};
pub use record::{Append, Appends, NewFile, Owner, Piece, Record, SentOp, Stored};

use content::read_piece;
use dir::{Dir, Part};
use sitefs_base::{Error, Kind, Result};
use std::{
    collections::BTreeSet,
    fs::File,
    io::Write,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Records that may wait.
const RECORDS_MAX: usize = 10_000;

/// How much a journal may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The bytes of content, conflicts included.
    pub bytes: u64,
    /// The bytes that stay free on its file system.
    pub min_free: u64,
}

/// A moment in the life of a record at which the process may die.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The content is written, perhaps not to the disk.
    Content,
    /// The content is on the disk.
    ContentSynced,
    /// The record is written under its temporary name.
    Record,
    /// The record is on the disk.
    RecordSynced,
    /// The record has its name.
    Renamed,
    /// The name is on the disk: close() may say that it is done.
    NameSynced,
    /// The record names the operation that is going to commit it, which is not sent yet.
    Sending,
    /// The record has what became of operations of a mount that died, whose session is not over yet.
    Settled,
    /// The cell has committed it, and the record is still there.
    Committed,
    /// The record has lost its name; content may still be there.
    Removed,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 10] = [
        Self::Content,
        Self::ContentSynced,
        Self::Record,
        Self::RecordSynced,
        Self::Renamed,
        Self::NameSynced,
        Self::Sending,
        Self::Settled,
        Self::Committed,
        Self::Removed,
    ];
}

/// Where tests end the life of a journal. An error stands for the death of the process: whoever gets
/// one does nothing more.
pub trait Cuts: Send + Sync + std::fmt::Debug {
    /// A step has been taken.
    fn at(&self, step: Step) -> Result<()>;
}

/// What a mount has: nothing ends it.
#[derive(Debug)]
pub struct NoCuts;

impl Cuts for NoCuts {
    fn at(&self, _: Step) -> Result<()> {
        Ok(())
    }
}

/// Ends the process at a step, as a crash would.
#[derive(Debug)]
pub struct AbortAt(pub Step);

impl Cuts for AbortAt {
    fn at(&self, step: Step) -> Result<()> {
        if step == self.0 {
            std::process::abort();
        }
        Ok(())
    }
}

/// What a journal holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pending {
    /// Files that wait for the cell.
    pub records: usize,
    /// The bytes on the disk, conflicts included.
    pub bytes: u64,
    /// Files that somebody has to look at: conflicts and damaged records.
    pub conflicts: usize,
}

/// A journal that this mount uses alone.
#[derive(Debug)]
pub struct Journal {
    dir: Dir,
    limits: Limits,
    cuts: Arc<dyn Cuts>,
    table: Mutex<Table>,
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct Table {
    next: u64,
    waiting: BTreeSet<u64>,
}

impl Journal {
    /// Opens the journal in `path` and gives the records that wait, in their order. What a dead
    /// process left half written is removed, what is damaged is kept aside.
    pub fn open(path: &Path, limits: Limits, cuts: Arc<dyn Cuts>) -> Result<(Self, Vec<(u64, Record)>)> {
        let dir = Dir::lock(path)?;
        let (records, last) = tidy(&dir)?;
        let waiting: BTreeSet<u64> = records.iter().map(|(number, _)| *number).collect();
        let count = AtomicUsize::new(waiting.len());
        let table = Mutex::new(Table { next: last + 1, waiting });
        Ok((Self { dir, limits, cuts, table, waiting: count }, records))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no record waits; costs nothing.
    pub fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::Acquire) == 0
    }

    /// What it holds, by what is in the directory now.
    pub fn pending(&self) -> Pending {
        let parts = self.dir.parts().unwrap_or_default();
        let aside = |parts: &&Vec<Part>| matches!(parts.first(), Some(Part::Conflict | Part::Damaged));
        Pending {
            records: self.waiting.load(Ordering::Acquire),
            bytes: parts.keys().map(|number| self.dir.bytes(*number)).sum(),
            conflicts: parts.values().filter(aside).count(),
        }
    }

    /// Makes a record durable: when this returns, content and record are on the disk. `write` writes
    /// the content, at most `bytes`; `record` is made of what was written. The record that it replaces
    /// goes.
    pub fn put(
        &self,
        bytes: u64,
        replaces: Option<u64>,
        write: impl FnOnce(&mut ContentWriter) -> Result<()>,
        record: impl FnOnce(Option<Stored>) -> Record,
    ) -> Result<u64> {
        self.check_room(bytes, replaces)?;
        let number = {
            let mut table = self.table();
            table.next += 1;
            table.next - 1
        };
        if let Err(error) = self.write(number, replaces, write, record) {
            self.give_up(number);
            return Err(error);
        }
        let mut table = self.table();
        table.waiting.insert(number);
        self.count(&table);
        drop(table);
        if let Some(old) = replaces
            && let Err(error) = self.remove(old)
        {
            // The new record says that it replaces the old one, which goes at the next start.
            tracing::warn!(error = error.chain(), "a journal record that was replaced stays");
            self.forget(old);
        }
        Ok(number)
    }

    fn write(
        &self,
        number: u64,
        replaces: Option<u64>,
        write: impl FnOnce(&mut ContentWriter) -> Result<()>,
        record: impl FnOnce(Option<Stored>) -> Record,
    ) -> Result<()> {
        let failed = |error| Error::io("writing a journal record", error);
        let mut content = ContentWriter::new(&self.dir, number);
        write(&mut content)?;
        self.cuts.at(Step::Content)?;
        let stored = content.finish()?;
        self.cuts.at(Step::ContentSynced)?;
        let record = Record { replaces, ..record(stored) };
        let mut file = self.dir.create(number, Part::Temp)?;
        file.write_all(&record.encode()?).map_err(failed)?;
        self.cuts.at(Step::Record)?;
        file.sync_data().map_err(failed)?;
        self.cuts.at(Step::RecordSynced)?;
        self.dir.rename(number, Part::Temp, Part::Record)?;
        self.cuts.at(Step::Renamed)?;
        self.dir.sync()?;
        self.cuts.at(Step::NameSynced)
    }

    /// A record that could not be made durable must not come back: close() said that it failed.
    fn give_up(&self, number: u64) {
        for part in [Part::Record, Part::Temp, Part::Data] {
            if let Err(error) = self.dir.remove(number, part) {
                tracing::warn!(error = error.chain(), "a half written journal record stays");
            }
        }
    }

    fn check_room(&self, bytes: u64, replaces: Option<u64>) -> Result<()> {
        let full = |what: String| Err(Error::new(Kind::Limit, format!("the journal is full: {what}")));
        let held = self.pending();
        if self.limits.bytes == 0 {
            return full("nothing is to be journaled".to_owned());
        }
        if held.records >= RECORDS_MAX {
            return full(format!("it has {RECORDS_MAX} records"));
        }
        let old = replaces.map_or(0, |number| self.dir.bytes(number));
        let limit = self.limits.bytes;
        if held.bytes.saturating_sub(old).saturating_add(bytes) > limit {
            return full(format!("{} bytes are held and {bytes} do not fit into {limit}", held.bytes));
        }
        if self.dir.free()?.saturating_sub(bytes) < self.limits.min_free {
            return full(format!("its disk would have less than {} bytes free", self.limits.min_free));
        }
        Ok(())
    }

    /// Notes in a record which operation is going to commit it, before that is sent.
    pub fn sending(&self, number: u64, name: impl FnOnce(&mut Record)) -> Result<()> {
        self.note(number, name)?;
        self.cuts.at(Step::Sending)
    }

    /// The records have what became of their operations: the session that sent them may end.
    pub fn settled(&self) -> Result<()> {
        self.cuts.at(Step::Settled)
    }

    /// Notes in a record what has become of its operations.
    pub fn note(&self, number: u64, change: impl FnOnce(&mut Record)) -> Result<()> {
        let failed = |error| Error::io("noting an operation in the journal", error);
        let entry = self.dir.entry(number, &[Part::Record])?.map(|entry| entry.state);
        let Some(State::Waiting(mut record)) = entry else {
            return Err(Error::corrupt(format!("record {number} of the journal is gone or damaged")));
        };
        change(&mut record);
        self.dir.remove(number, Part::Temp)?;
        let mut file = self.dir.create(number, Part::Temp)?;
        file.write_all(&record.encode()?).and_then(|()| file.sync_data()).map_err(failed)?;
        self.dir.rename(number, Part::Temp, Part::Record)?;
        self.dir.sync()
    }

    fn count(&self, table: &Table) {
        self.waiting.store(table.waiting.len(), Ordering::Release);
    }

    fn forget(&self, number: u64) {
        let mut table = self.table();
        table.waiting.remove(&number);
        self.count(&table);
    }

    /// The cell has committed a record: it goes.
    pub fn committed(&self, number: u64) -> Result<()> {
        self.cuts.at(Step::Committed)?;
        self.remove(number)
    }

    /// Nothing needs a record any more.
    pub fn remove(&self, number: u64) -> Result<()> {
        self.dir.remove(number, Part::Record)?;
        self.cuts.at(Step::Removed)?;
        self.dir.remove(number, Part::Data)?;
        self.dir.sync()?;
        self.forget(number);
        Ok(())
    }

    /// A record does not fit what the cell has now: its bytes stay here as a conflict.
    pub fn conflict(&self, number: u64) -> Result<()> {
        self.set_aside(number, Part::Conflict)
    }

    /// The content of a record is not as it was written.
    pub fn damaged(&self, number: u64) -> Result<()> {
        self.set_aside(number, Part::Damaged)
    }

    fn set_aside(&self, number: u64, part: Part) -> Result<()> {
        self.dir.rename(number, Part::Record, part)?;
        self.dir.sync()?;
        self.forget(number);
        Ok(())
    }

    /// The content of a record, to be read by [`Self::piece`].
    pub fn content(&self, number: u64) -> Result<File> {
        self.dir.open_data(number)
    }

    /// The bytes of a piece, compared with its digest.
    pub fn piece(&self, content: &File, piece: &Piece) -> Result<Vec<u8>> {
        read_piece(content, piece)
    }
}

/// Removes what a dead process left half done; gives the records that wait, and the highest number.
fn tidy(dir: &Dir) -> Result<(Vec<(u64, Record)>, u64)> {
    let parts = dir.parts()?;
    let mut records = Vec::new();
    for (number, parts) in &parts {
        let has = |part: Part| parts.contains(&part);
        if has(Part::Temp) {
            dir.remove(*number, Part::Temp)?;
        }
        if !parts.iter().any(|part| *part <= Part::Damaged) {
            dir.remove(*number, Part::Data)?;
        }
        if !has(Part::Record) {
            continue;
        }
        match dir.entry(*number, parts)?.map(|entry| entry.state) {
            Some(State::Waiting(record)) => records.push((*number, *record)),
            Some(State::Damaged(why)) => {
                tracing::error!(number, why, "a journal record is damaged and was set aside");
                dir.rename(*number, Part::Record, Part::Damaged)?;
            }
            Some(State::Newer(format)) => return Err(newer(*number, format)),
            Some(State::Conflict(_)) | None => {}
        }
    }
    let replaced: BTreeSet<u64> = records.iter().filter_map(|(_, record)| record.replaces).collect();
    for number in &replaced {
        dir.remove(*number, Part::Record)?;
        dir.remove(*number, Part::Data)?;
    }
    records.retain(|(number, _)| !replaced.contains(number));
    dir.sync()?;
    Ok((records, parts.keys().next_back().copied().unwrap_or(0)))
}

fn newer(number: u64, format: u8) -> Error {
    Error::invalid(format!(
        "record {number} of the journal has format {format}: a later version of sitefs wrote it, use that one"
    ))
}

#[cfg(test)]
mod tests;
