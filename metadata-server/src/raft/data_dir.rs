//! The directory of a node: whose it is, and that only one process uses it.

mod recovery;
mod unfinished;

pub(super) use recovery::Recovery;
pub(crate) use unfinished::Unfinished;

use rustix::fs::{FlockOperation, flock};
use sitefs_base::{Error, GroupId, NodeId, Result, make_private_dir, mode_for_others};
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

/// Names that a directory without a format file may hold: the lock, the blobs of the directory
/// backend, and what `mkfs` makes.
const HARMLESS: [&str; 4] = ["lock", "blobs", "format.new", "lost+found"];

/// Says how far the log had come when it was last opened; see [`DataDir::log_reaches`].
const LOG_MARK: &str = "log.mark";
const LOG_MARK_FORMAT: &str = "sitefs-log-mark 1";

/// A locked data directory. The lock ends when this is dropped, or with the process.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Locks `path` and checks that it belongs to this node; an empty directory becomes this node's.
    pub(crate) fn open(path: &Path, cell: &str, group: GroupId, node: NodeId) -> Result<Self> {
        check_name(cell)?;
        make_private_dir(path)?;
        let wanted = Format { cell: cell.to_owned(), group: group.get(), node: node.get() };
        // Before the lock, so that nothing is written into a directory of something else; and again
        // under it, because another process may have been faster.
        is_made(path, &wanted)?;
        let lock = lock(path)?;
        recovery::refuse_interrupted(path)?;
        if !is_made(path, &wanted)? {
            write_durably(&path.join("format"), wanted.text().as_bytes())?;
        }
        if let Some(mode) = mode_for_others(path)? {
            let (path, mode) = (path.display(), format!("{mode:o}"));
            tracing::warn!(%path, mode, "other users may read the data directory: chmod 700");
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Locks a directory that is a node's already, whoever's it is.
    pub(crate) fn existing(path: &Path) -> Result<Self> {
        let data = Self::any(path)?;
        recovery::refuse_interrupted(path)?;
        Ok(data)
    }

    /// The same, also if its recovery was interrupted.
    pub(super) fn any(path: &Path) -> Result<Self> {
        let format = path.join("format");
        let text = match fs::read(&format) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::not_found(format!(
                    "{} is no data directory of a metadata server: it has no file \"format\"",
                    path.display()
                )));
            }
            Err(error) => return Err(Error::io(format!("reading {}", format.display()), error)),
        };
        if !text.starts_with("sitefs-data 1\n") {
            return Err(Error::invalid(format!(
                "{} is not that of this version: use the sitefs version that wrote it",
                format.display()
            )));
        }
        Ok(Self { path: path.to_owned(), _lock: lock(path)? })
    }

    /// Whether its recovery was interrupted, so that it has parts of two lives.
    pub(super) fn is_recovering(&self) -> bool {
        recovery::is_interrupted(&self.path)
    }

    /// Whose it is.
    pub(super) fn owner(&self) -> Result<Owner> {
        let path = self.path.join("format");
        let text = fs::read_to_string(&path)
            .map_err(|error| Error::io(format!("reading {}", path.display()), error))?;
        let format = Format::parse(&text)
            .ok_or_else(|| Error::corrupt(format!("{} has an unknown form", path.display())))?;
        let Format { cell, group, node } = format;
        Ok(Owner { cell, group: GroupId::new(group), node: NodeId::new(node) })
    }

    /// Refuses a log that was there and is not any more: an empty one would make an empty cell.
    pub(super) fn log_is_there(&self) -> Result<()> {
        if self.log().join("CURRENT").exists() {
            return Ok(());
        }
        // The log is made before all of these.
        for later in [LOG_MARK, "state/CURRENT", "backend"] {
            if self.path.join(later).exists() {
                return Err(Error::corrupt(format!(
                    "{} holds no log but {later}: the log was lost and acknowledged changes with it; \
                     restore the data directory from a copy",
                    self.log().display()
                )));
            }
        }
        Ok(())
    }

    /// Refuses a log that ends before the position at which it was last opened. RocksDB takes a
    /// write-ahead log that is empty or gone for a clean end.
    pub(super) fn log_reaches(&self, position: u64) -> Result<()> {
        let path = self.path.join(LOG_MARK);
        let text = match fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io(format!("reading {}", path.display()), error)),
        };
        let marked = text.strip_prefix(LOG_MARK_FORMAT).and_then(|number| number.trim().parse::<u64>().ok());
        match marked {
            None => Err(Error::corrupt(format!("{} has an unknown form", path.display()))),
            Some(marked) if position < marked => Err(Error::corrupt(format!(
                "the log ends at write {position} but had come to {marked}: a file of {} was lost or emptied, \
                 and acknowledged changes with it; restore the data directory from a copy",
                self.log().display()
            ))),
            Some(_) => Ok(()),
        }
    }

    /// Remembers that the log durably has everything up to `position`.
    pub(super) fn mark_log(&self, position: u64) -> Result<()> {
        write_durably(&self.path.join(LOG_MARK), format!("{LOG_MARK_FORMAT}\n{position}\n").as_bytes())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
    pub(super) fn log(&self) -> PathBuf {
        self.path.join("log")
    }
    pub(crate) fn state(&self) -> PathBuf {
        self.path.join("state")
    }
    pub(super) fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
    }
}

/// Makes what happened to the names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    let sync = || File::open(dir)?.sync_all();
    sync().map_err(|error| Error::io(format!("syncing {}", dir.display()), error))
}

/// Writes a whole file so that after a crash it is there entirely or not at all.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(|error| Error::io(format!("writing {}", path.display()), error))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Removes a file or a directory, if it is there.
fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// Whose a directory is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Owner {
    pub(super) cell: String,
    pub(super) group: GroupId,
    pub(super) node: NodeId,
}

#[derive(Debug)]
struct Format {
    cell: String,
    group: u32,
    node: u64,
}

impl Format {
    fn text(&self) -> String {
        format!("sitefs-data 1\ncell {}\ngroup {}\nnode {}\n", self.cell, self.group, self.node)
    }

    /// The inverse of [`Self::text`].
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_prefix("sitefs-data 1\n")?.lines();
        let cell = lines.next()?.strip_prefix("cell ")?.to_owned();
        let group = lines.next()?.strip_prefix("group ")?.parse().ok()?;
        let node = lines.next()?.strip_prefix("node ")?.parse().ok()?;
        Some(Self { cell, group, node })
    }

    fn check(&self, path: &Path, found: &str) -> Result<()> {
        if found == self.text() {
            return Ok(());
        }
        let path = path.display();
        let first = found.lines().next().unwrap_or_default();
        if first != "sitefs-data 1" {
            return Err(Error::invalid(format!(
                "{path}/format says {first:?}, this version needs \"sitefs-data 1\": \
                 use the sitefs version that wrote it"
            )));
        }
        let theirs = found.lines().skip(1).collect::<Vec<_>>().join(", ");
        Err(Error::invalid(format!(
            "{path} belongs to {theirs}, not to cell {}, group {}, node {}: \
             give the right directory or the right names",
            self.cell, self.group, self.node
        )))
    }
}

/// The name stands on a line of its own in the format file.
fn check_name(cell: &str) -> Result<()> {
    if cell.is_empty() || cell.len() > 255 || cell.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(Error::invalid(format!(
            "{cell:?} cannot be the name of a cell: use 1 to 255 characters without spaces"
        )));
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File> {
    let name = path.join("lock");
    let doing = || format!("locking {}", name.display());
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&name)
        .map_err(|error| Error::io(doing(), error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(Error::conflict(format!("another process uses {}", path.display())))
        }
        Err(errno) => Err(Error::io(doing(), errno.into())),
    }
}

/// Whether the directory is this node's already; refuses one that is somebody else's.
fn is_made(path: &Path, wanted: &Format) -> Result<bool> {
    match fs::read(path.join("format")) {
        Ok(bytes) => wanted.check(path, &String::from_utf8_lossy(&bytes)).map(|()| true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => refuse_others(path).map(|()| false),
        Err(error) => Err(Error::io(format!("reading {}/format", path.display()), error)),
    }
}

fn refuse_others(path: &Path) -> Result<()> {
    let entries =
        fs::read_dir(path).map_err(|error| Error::io(format!("reading {}", path.display()), error))?;
    for entry in entries {
        let entry = entry.map_err(|error| Error::io(format!("reading {}", path.display()), error))?;
        let name = entry.file_name();
        if !HARMLESS.iter().any(|known| name == *known) {
            return Err(Error::invalid(format!(
                "{} is not a sitefs data directory (no file \"format\") but holds {:?}: \
                 give an empty or a new directory",
                path.display(),
                name
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitefs_base::Kind;

    fn open(path: &Path, cell: &str) -> Result<DataDir> {
        DataDir::open(path, cell, GroupId::new(1), NodeId::new(1))
    }

    #[test]
    fn a_directory_belongs_to_one_cell_and_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), "one").unwrap();
        let error = open(dir.path(), "one").unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        assert!(error.doing().starts_with("another process uses /"), "{error}");
        let owner = Owner { cell: "one".into(), group: GroupId::new(1), node: NodeId::new(1) };
        assert_eq!(first.owner().unwrap(), owner);
        drop(first);
        let error = open(dir.path(), "two").unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.doing().contains("cell one") && error.doing().contains("cell two"), "{error}");
        let text = fs::read_to_string(dir.path().join("format")).unwrap();
        assert_eq!(text, "sitefs-data 1\ncell one\ngroup 1\nnode 1\n");
    }

    #[test]
    fn a_directory_with_other_things_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("wp-config.php"), "x").unwrap();
        let error = open(dir.path(), "one").unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.doing().contains("wp-config.php"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was written");
    }

    #[test]
    fn a_format_file_that_is_not_text_is_refused_as_invalid() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("format"), b"\xff\xfe\x00").unwrap();
        assert_eq!(open(dir.path(), "one").unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn a_directory_of_a_later_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("format"), "sitefs-data 2\ncell one\n").unwrap();
        assert!(open(dir.path(), "one").unwrap_err().doing().contains("sitefs-data 2"));
    }
}
