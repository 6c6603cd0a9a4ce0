//! A data directory that is being made from a backup. It has no format file until it is whole, so that no
//! server takes it for its own.

use super::{DataDir, Format, check_name, lock, refuse_others, remove, sync_dir, write_durably};
use sitefs_base::{Error, GroupId, NodeId, Result, make_private_dir};
use std::path::Path;

/// Says that a restore is under way, or was interrupted.
const MARKER: &str = "restoring";
/// What an interrupted restore may have made, and what the next one makes anew.
const MADE: [&str; 5] = ["state", "log", "snapshots", "log.mark", "backend"];

/// The directory, locked.
#[derive(Debug)]
pub(crate) struct Unfinished {
    data: DataDir,
    format: Format,
}

impl Unfinished {
    /// Takes a new or empty directory, or one whose restore was interrupted.
    pub(crate) fn begin(path: &Path, cell: &str, group: GroupId, node: NodeId) -> Result<Self> {
        check_name(cell)?;
        make_private_dir(path)?;
        refuse_used(path)?;
        let data = DataDir { path: path.to_owned(), _lock: lock(path)? };
        // Another process may have been faster.
        refuse_used(path)?;
        write_durably(&path.join(MARKER), b"sitefs cell restore\n")?;
        for made in MADE {
            remove(&path.join(made))?;
        }
        let format = Format { cell: cell.to_owned(), group: group.get(), node: node.get() };
        Ok(Self { data, format })
    }

    pub(crate) fn data(&self) -> &DataDir {
        &self.data
    }

    /// From now on it is the data directory of a node.
    pub(crate) fn finish(self) -> Result<()> {
        let path = &self.data.path;
        write_durably(&path.join("format"), self.format.text().as_bytes())?;
        remove(&path.join(MARKER))?;
        sync_dir(path)
    }
}

fn refuse_used(path: &Path) -> Result<()> {
    if path.join("format").exists() {
        return Err(Error::already_exists(format!(
            "{} is the data directory of a node: give a new one, and keep this until the restored cell serves",
            path.display()
        )));
    }
    if path.join(MARKER).exists() { Ok(()) } else { refuse_others(path) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitefs_base::Kind;
    use std::fs;

    const ONE: (GroupId, NodeId) = (GroupId::new(1), NodeId::new(1));

    #[test]
    fn a_directory_is_no_servers_until_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let begin = || Unfinished::begin(dir.path(), "one", ONE.0, ONE.1);
        fs::create_dir_all(begin().unwrap().data().state()).unwrap();
        let error = DataDir::open(dir.path(), "one", ONE.0, ONE.1).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        let again = begin().unwrap();
        assert!(!again.data().state().exists(), "what an interrupted one left is gone");
        assert_eq!(begin().unwrap_err().kind(), Kind::Conflict, "one at a time");
        again.finish().unwrap();
        assert_eq!(begin().unwrap_err().kind(), Kind::AlreadyExists);
        DataDir::open(dir.path(), "one", ONE.0, ONE.1).unwrap();
        assert!(!dir.path().join(MARKER).exists());
    }

    #[test]
    fn a_directory_with_other_things_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("wp-config.php"), "x").unwrap();
        let error = Unfinished::begin(dir.path(), "one", ONE.0, ONE.1).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
