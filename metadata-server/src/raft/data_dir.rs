//! The directory of a node: whose it is, and that only one process uses it.

use rustix::fs::{FlockOperation, flock};
use sitefs_base::{Error, GroupId, NodeId, Result};
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

/// Names that a directory without a format file may hold: the lock, the blobs of the directory
/// backend, and what `mkfs` makes.
const HARMLESS: [&str; 4] = ["lock", "blobs", "format.new", "lost+found"];

/// A locked data directory. The lock ends when this is dropped, or with the process.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Locks `path` and checks that it belongs to this node; an empty directory becomes this node's.
    pub(super) fn open(path: &Path, cell: &str, group: GroupId, node: NodeId) -> Result<Self> {
        check_name(cell)?;
        fs::create_dir_all(path).map_err(|error| Error::io(format!("creating {}", path.display()), error))?;
        let lock = lock(path)?;
        let wanted = Format { cell: cell.to_owned(), group: group.get(), node: node.get() };
        match fs::read_to_string(path.join("format")) {
            Ok(text) => wanted.check(path, &text)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(path, &wanted)?,
            Err(error) => return Err(Error::io(format!("reading {}/format", path.display()), error)),
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
    pub(super) fn log(&self) -> PathBuf {
        self.path.join("log")
    }
    pub(super) fn state(&self) -> PathBuf {
        self.path.join("state")
    }
    pub(super) fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
    }
}

/// Makes what happened to the names in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    let sync = || File::open(dir)?.sync_all();
    sync().map_err(|error| Error::io(format!("syncing {}", dir.display()), error))
}

/// Writes a whole file so that after a crash it is there entirely or not at all.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
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

struct Format {
    cell: String,
    group: u32,
    node: u64,
}

impl Format {
    fn text(&self) -> String {
        format!("sitefs-data 1\ncell {}\ngroup {}\nnode {}\n", self.cell, self.group, self.node)
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

fn create(path: &Path, format: &Format) -> Result<()> {
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
    write_durably(&path.join("format"), format.text().as_bytes())
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
    }

    #[test]
    fn a_directory_of_a_later_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("format"), "sitefs-data 2\ncell one\n").unwrap();
        assert!(open(dir.path(), "one").unwrap_err().doing().contains("sitefs-data 2"));
    }
}
