//! A copy of the state for a backup, made while the group goes on.

use super::group::Group;
use crate::store::{LogPosition, Store};
use sitefs_base::{Error, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A copy of the state database: hard links, and a few small files. It is there until the next one
/// is made.
#[derive(Debug)]
pub(crate) struct StateCopy {
    /// The directory with its files.
    pub dir: PathBuf,
    /// The last log entry that its rows contain.
    pub applied: LogPosition,
}

impl Group {
    /// Makes a copy; the one before goes. Only one may be used at a time.
    pub(crate) async fn copy_state(&self) -> Result<StateCopy> {
        let group = self.clone();
        tokio::task::spawn_blocking(move || {
            let inner = group.inner();
            let dir = copy_dir(inner.data.path());
            remove(&dir)?;
            inner.store.checkpoint(&dir)?;
            let applied = Store::read_checkpoint(&dir)?.applied;
            let applied = applied.ok_or_else(|| Error::unavailable("the group has no state yet"))?;
            Ok(StateCopy { dir, applied })
        })
        .await
        .map_err(|error| Error::internal("copying the state").because(error))?
    }

    /// Removes what the last copy, or one that was interrupted, left.
    pub(crate) async fn remove_copy(&self) -> Result<()> {
        let dir = copy_dir(self.inner().data.path());
        tokio::task::spawn_blocking(move || remove(&dir))
            .await
            .map_err(|error| Error::internal("removing a copy of the state").because(error))?
    }
}

fn copy_dir(data: &Path) -> PathBuf {
    data.join("backup")
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", dir.display()), error))
        }
        _ => Ok(()),
    }
}
