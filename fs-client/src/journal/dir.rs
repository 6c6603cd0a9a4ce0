//! The journal's directory: names of files, its lock, and what is found in it.

use super::record::{Read, Record};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use sitefs_base::{Error, Result};
use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{ErrorKind, Read as _},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Longer files are no records.
const RECORD_MAX: u64 = 4 << 20;

/// What a file of the directory is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Part {
    /// A record that waits for the cell.
    Record,
    /// A record that does not fit any more.
    Conflict,
    /// A record that cannot be read, or whose content cannot.
    Damaged,
    /// The content of any of these.
    Data,
    /// A record that is being written.
    Temp,
}

const PARTS: [(Part, &str); 5] = [
    (Part::Record, "record"),
    (Part::Conflict, "conflict"),
    (Part::Damaged, "damaged"),
    (Part::Data, "data"),
    (Part::Temp, "tmp"),
];

/// How an entry of a journal stands.
#[derive(Clone, PartialEq, Debug)]
pub enum State {
    /// It is committed when the cell is back.
    Waiting(Box<Record>),
    /// The file changed at the cell meanwhile: the bytes are kept here and nowhere else.
    Conflict(Box<Record>),
    /// It is not as it was written; why.
    Damaged(String),
    /// A later version of sitefs wrote it, in this format.
    Newer(u8),
}

/// An entry of a journal.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// Its number.
    pub number: u64,
    /// How it stands.
    pub state: State,
    /// The bytes that its content takes on the disk.
    pub bytes: u64,
}

/// The directory.
#[derive(Debug)]
pub(super) struct Dir {
    path: PathBuf,
    // Synced after renames and removals.
    handle: File,
    // Holds the lock for as long as the journal is used.
    _lock: Option<File>,
}

impl Dir {
    /// Opens the directory for this process alone; it is made if it is missing.
    pub fn lock(path: &Path) -> Result<Self> {
        let doing = |error| Error::io(format!("opening the journal {}", path.display()), error);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(doing)?;
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let lock = options.open(path.join("lock")).map_err(doing)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _lock: Some(lock), ..Self::look(path)? }),
            Err(Errno::WOULDBLOCK) => Err(Error::conflict(format!(
                "another mount uses the journal {}: give each mount a directory of its own",
                path.display()
            ))),
            Err(error) => Err(doing(error.into())),
        }
    }

    /// Opens the directory beside whoever uses it.
    pub fn look(path: &Path) -> Result<Self> {
        let doing = |error| Error::io(format!("opening the journal {}", path.display()), error);
        let handle = File::open(path).map_err(doing)?;
        if !handle.metadata().map_err(doing)?.is_dir() {
            return Err(Error::invalid(format!("{} is not a directory", path.display())));
        }
        Ok(Self { path: path.to_owned(), handle, _lock: None })
    }

    pub fn path(&self, number: u64, part: Part) -> PathBuf {
        let suffix = PARTS.iter().find(|(known, _)| *known == part).map_or("", |(_, suffix)| suffix);
        self.path.join(format!("{number:020}.{suffix}"))
    }

    /// The parts that are there, by number. Names that are not ours are left alone.
    pub fn parts(&self) -> Result<BTreeMap<u64, Vec<Part>>> {
        let doing = |error| Error::io(format!("reading the journal {}", self.path.display()), error);
        let mut found: BTreeMap<u64, Vec<Part>> = BTreeMap::new();
        for entry in fs::read_dir(&self.path).map_err(doing)? {
            if let Some((number, part)) = parse(&entry.map_err(doing)?.file_name().to_string_lossy()) {
                found.entry(number).or_default().push(part);
            }
        }
        found.values_mut().for_each(|parts| parts.sort());
        Ok(found)
    }

    /// The bytes that content of `number` takes on the disk.
    pub fn bytes(&self, number: u64) -> u64 {
        fs::metadata(self.path(number, Part::Data)).map_or(0, |meta| meta.blocks() * 512)
    }

    /// An entry as its files say; `None` if it has no record of any kind, or not any more.
    pub fn entry(&self, number: u64, parts: &[Part]) -> Result<Option<Entry>> {
        let part = parts.iter().find(|part| **part <= Part::Damaged);
        let Some(part) = part else { return Ok(None) };
        let state = match self.read(number, *part)? {
            None => return Ok(None),
            Some(Read::Newer(format)) => State::Newer(format),
            Some(Read::Damaged(why)) => State::Damaged(why.to_owned()),
            Some(Read::Sound(_)) if *part == Part::Damaged => {
                State::Damaged("its content is not as it was written".to_owned())
            }
            Some(Read::Sound(record)) if !self.has_content(number, &record) => {
                State::Damaged(format!("the content of {} is missing or cut off", record.ino))
            }
            Some(Read::Sound(record)) if *part == Part::Record => State::Waiting(record),
            Some(Read::Sound(record)) => State::Conflict(record),
        };
        Ok(Some(Entry { number, state, bytes: self.bytes(number) }))
    }

    fn read(&self, number: u64, part: Part) -> Result<Option<Read>> {
        let path = self.path(number, part);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(RECORD_MAX).read_to_end(&mut bytes));
        match read {
            Ok(_) => Ok(Some(Record::decode(&bytes))),
            // The mount that uses the journal has removed or renamed it.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(format!("reading {}", path.display()), error)),
        }
    }

    fn has_content(&self, number: u64, record: &Record) -> bool {
        let Some(stored) = &record.content else { return true };
        fs::metadata(self.path(number, Part::Data)).is_ok_and(|meta| meta.len() == stored.size)
    }

    pub fn open_data(&self, number: u64) -> Result<File> {
        let path = self.path(number, Part::Data);
        File::open(&path).map_err(|error| Error::io(format!("opening {}", path.display()), error))
    }

    pub fn create(&self, number: u64, part: Part) -> Result<File> {
        let path = self.path(number, part);
        let created = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        created.map_err(|error| Error::io(format!("making {}", path.display()), error))
    }

    pub fn rename(&self, number: u64, from: Part, to: Part) -> Result<()> {
        let (from, to) = (self.path(number, from), self.path(number, to));
        fs::rename(&from, &to).map_err(|error| Error::io(format!("renaming {}", from.display()), error))
    }

    /// Removes a file; one that is not there is removed already.
    pub fn remove(&self, number: u64, part: Part) -> Result<()> {
        let path = self.path(number, part);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::io(format!("removing {}", path.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// Makes names durable.
    pub fn sync(&self) -> Result<()> {
        let doing = |error| Error::io(format!("syncing the journal {}", self.path.display()), error);
        self.handle.sync_all().map_err(doing)
    }

    /// The bytes that are free on its file system.
    pub fn free(&self) -> Result<u64> {
        let doing = |error: Errno| Error::io("asking for the free space of the journal", error.into());
        let stat = rustix::fs::fstatvfs(&self.handle).map_err(doing)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }
}

fn parse(name: &str) -> Option<(u64, Part)> {
    let (number, suffix) = name.split_once('.')?;
    let (part, _) = PARTS.iter().find(|(_, known)| *known == suffix)?;
    let digits = number.len() == 20 && number.bytes().all(|byte| byte.is_ascii_digit());
    if digits { Some((number.parse().ok()?, *part)) } else { None }
}
