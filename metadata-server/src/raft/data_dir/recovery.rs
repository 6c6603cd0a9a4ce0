//! The parts of a new life, made beside those of the old one in the same data directory. As long as they are not
//! whole nothing has changed; once they are, they take the place of the old ones, and no server starts in between.

use super::{DataDir, lock, remove, sync_dir, write_durably};
use sitefs_base::{Error, Result, make_private_dir};
use std::{fs, path::Path};

/// Where they are made.
const DIR: &str = "recovery";
/// Says, in that directory, that they are whole.
const WHOLE: &str = "whole";
/// What a new life begins with.
const PARTS: [&str; 4] = ["state", "log", "snapshots", "log.mark"];

/// A new life that is being made.
#[derive(Debug)]
pub(in crate::raft) struct Recovery<'a> {
    old: &'a DataDir,
    new: DataDir,
}

impl<'a> Recovery<'a> {
    /// Begins in an empty directory; what an interrupted one left there goes.
    pub(in crate::raft) fn begin(old: &'a DataDir) -> Result<Self> {
        let path = old.path.join(DIR);
        remove(&path)?;
        make_private_dir(&path)?;
        sync_dir(&old.path)?;
        let new = DataDir { _lock: lock(&path)?, path };
        Ok(Self { old, new })
    }

    /// Where the new parts are made.
    pub(in crate::raft) fn data(&self) -> &DataDir {
        &self.new
    }

    /// They are whole and durable: from now on there are no others. Nobody may have any of them open.
    pub(in crate::raft) fn finish(self) -> Result<()> {
        let Self { old, new } = self;
        sync_dir(&new.path)?;
        write_durably(&new.path.join(WHOLE), b"sitefs cell recover\n")?;
        put_in_place(old)
    }

    /// Ends one that was interrupted after its parts were whole, if there is one; whether there was.
    pub(in crate::raft) fn end_interrupted(data: &DataDir) -> Result<bool> {
        let interrupted = is_interrupted(&data.path);
        if interrupted {
            put_in_place(data)?;
        }
        Ok(interrupted)
    }
}

/// Whether the parts of a new life are whole and not all in place.
pub(super) fn is_interrupted(path: &Path) -> bool {
    path.join(DIR).join(WHOLE).exists()
}

/// Refuses a directory that has parts of two lives.
pub(super) fn refuse_interrupted(path: &Path) -> Result<()> {
    if !is_interrupted(path) {
        return Ok(());
    }
    Err(Error::unavailable(format!(
        "the recovery of {path} was interrupted: end it with sitefs cell recover --unsafe --data {path}",
        path = path.display()
    )))
}

/// May be interrupted and done again.
fn put_in_place(data: &DataDir) -> Result<()> {
    let dir = data.path.join(DIR);
    for part in PARTS {
        let (new, place) = (dir.join(part), data.path.join(part));
        if new.exists() {
            remove(&place)?;
            fs::rename(&new, &place)
                .map_err(|error| Error::io(format!("moving a part to {}", place.display()), error))?;
        }
    }
    sync_dir(&dir)?;
    sync_dir(&data.path)?;
    remove(&dir)?;
    sync_dir(&data.path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitefs_base::{GroupId, Kind, NodeId};

    fn write(path: &Path, life: &str) {
        fs::create_dir_all(path.join("state")).unwrap();
        fs::write(path.join("state/rows"), life).unwrap();
        fs::write(path.join("log.mark"), life).unwrap();
    }

    fn parts(path: &Path) -> [String; 2] {
        ["state/rows", "log.mark"].map(|part| fs::read_to_string(path.join(part)).unwrap())
    }

    #[test]
    fn the_parts_of_two_lives_are_never_mixed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let open = || DataDir::open(path, "one", GroupId::new(1), NodeId::new(1));
        let data = open().unwrap();
        write(path, "old");
        write(Recovery::begin(&data).unwrap().data().path(), "broken off");
        assert!(!Recovery::end_interrupted(&data).unwrap());
        drop(data);
        // One that was broken off has changed nothing.
        let data = open().unwrap();
        assert_eq!(parts(path), ["old", "old"]);

        let recovery = Recovery::begin(&data).unwrap();
        assert!(!recovery.data().path().join("state").exists());
        write(recovery.data().path(), "new");
        // It was interrupted when one part was in place.
        fs::write(recovery.data().path().join(WHOLE), "").unwrap();
        fs::remove_dir_all(path.join("state")).unwrap();
        fs::rename(recovery.data().path().join("state"), path.join("state")).unwrap();
        drop(recovery);
        drop(data);
        assert_eq!(open().unwrap_err().kind(), Kind::Unavailable);
        assert_eq!(DataDir::existing(path).unwrap_err().kind(), Kind::Unavailable);
        let data = DataDir::any(path).unwrap();
        assert!(Recovery::end_interrupted(&data).unwrap());
        assert_eq!(parts(path), ["new", "new"]);
        assert!(!path.join(DIR).exists());

        let recovery = Recovery::begin(&data).unwrap();
        write(recovery.data().path(), "newer");
        recovery.finish().unwrap();
        drop(data);
        open().unwrap();
        assert_eq!(parts(path), ["newer", "newer"]);
    }
}
