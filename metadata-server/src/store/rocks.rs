//! Opening RocksDB directories so that a wrong one is refused with a reason.

use rocksdb::{ColumnFamilyDescriptor, DB, Options};
use sitefs_base::{Errno, Error, Result};
use std::{collections::BTreeSet, path::Path};

/// The row, in the default column family, that says what a database is.
pub(crate) const FORMAT_KEY: &[u8] = b"format";

/// Opens the database in `dir`, or makes one if the directory is new or empty. `mark` is the kind
/// and format version that the database must have, for example `sitefs-state 1`.
pub(crate) fn open(
    dir: &Path,
    mark: &str,
    options: &Options,
    families: Vec<ColumnFamilyDescriptor>,
) -> Result<DB> {
    std::fs::create_dir_all(dir).map_err(|error| Error::io(format!("creating {}", dir.display()), error))?;
    let fresh = !dir.join("CURRENT").exists();
    if fresh {
        refuse_foreign_files(dir, mark)?;
    } else {
        refuse_other_families(dir, mark, options, &families)?;
    }
    let db = DB::open_cf_descriptors(options, dir, families).map_err(|error| open_error(dir, error))?;
    // Never written to means that a crash came between making the database and marking it.
    if fresh || db.latest_sequence_number() == 0 {
        let mut sync = rocksdb::WriteOptions::default();
        sync.set_sync(true);
        db.put_opt(FORMAT_KEY, mark, &sync)
            .and_then(|()| db.flush())
            .map_err(|error| failed(format!("marking {}", dir.display()), error))?;
    }
    check_mark(&db, dir, mark)?;
    Ok(db)
}

/// Files that one database keeps open: of the two of a node, and of a mount in the same process, none may
/// take all that the process may have.
pub(crate) fn open_files_max() -> i32 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    i32::try_from(limit.unwrap_or(u64::MAX) / 4).unwrap_or(i32::MAX).clamp(32, 1000)
}

/// A RocksDB error as ours; `Corruption` stays recognisable.
pub(crate) fn failed(doing: impl Into<std::borrow::Cow<'static, str>>, error: rocksdb::Error) -> Error {
    match error.kind() {
        rocksdb::ErrorKind::Corruption => Error::corrupt(doing).because(error),
        // RocksDB gives the text of strerror(3) only.
        rocksdb::ErrorKind::IOError if error.as_ref().contains("Too many open files in system") => {
            Error::refused(Errno::ENFILE, doing).because(error)
        }
        rocksdb::ErrorKind::IOError if error.as_ref().contains("Too many open files") => {
            Error::refused(Errno::EMFILE, doing).because(error)
        }
        _ => Error::unavailable(doing).because(error),
    }
}

fn refuse_foreign_files(dir: &Path, mark: &str) -> Result<()> {
    let mut entries =
        std::fs::read_dir(dir).map_err(|error| Error::io(format!("reading {}", dir.display()), error))?;
    // What RocksDB writes before CURRENT when it dies while making a database.
    let harmless = |name: &str| {
        ["LOG", "LOCK", "IDENTITY", "MANIFEST-", "OPTIONS-"].iter().any(|start| name.starts_with(start))
            || name.ends_with(".log")
            || name.ends_with(".dbtmp")
    };
    match entries.find_map(|entry| {
        let name = entry.ok()?.file_name().to_string_lossy().into_owned();
        (!harmless(&name)).then_some(name)
    }) {
        None => Ok(()),
        Some(name) if name.ends_with(".sst") => Err(Error::corrupt(format!(
            "the database {} has lost its file CURRENT: check the disk, then restore the data directory \
             from a copy",
            dir.display()
        ))),
        Some(name) => Err(Error::invalid(format!(
            "{} has no {mark} database but holds {name}: give an empty or a new directory",
            dir.display()
        ))),
    }
}

fn refuse_other_families(
    dir: &Path,
    mark: &str,
    options: &Options,
    families: &[ColumnFamilyDescriptor],
) -> Result<()> {
    let found: BTreeSet<String> =
        DB::list_cf(options, dir).map_err(|error| open_error(dir, error))?.into_iter().collect();
    // Families that are missing are made at open, so only strangers speak against the directory.
    match found.iter().find(|name| !families.iter().any(|known| known.name() == name.as_str())) {
        None => Ok(()),
        Some(stranger) => Err(Error::invalid(format!(
            "{} is not a {mark} database (it has a family {stranger:?}): give the right directory, \
             or use the sitefs version that wrote it",
            dir.display()
        ))),
    }
}

pub(crate) fn check_mark(db: &DB, dir: &Path, mark: &str) -> Result<()> {
    let found = db
        .get(FORMAT_KEY)
        .map_err(|error| failed(format!("reading the format of {}", dir.display()), error))?
        .unwrap_or_default();
    if found == mark.as_bytes() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{} has format {:?}, this version needs {mark:?}: give the right directory, \
         or use the sitefs version that wrote it",
        dir.display(),
        String::from_utf8_lossy(&found)
    )))
}

fn open_error(dir: &Path, error: rocksdb::Error) -> Error {
    let text = error.as_ref().to_ascii_lowercase();
    if error.kind() == rocksdb::ErrorKind::IOError && text.contains("lock") {
        return Error::conflict(format!("another process uses {}", dir.display())).because(error);
    }
    failed(format!("opening the database {}", dir.display()), error)
}
