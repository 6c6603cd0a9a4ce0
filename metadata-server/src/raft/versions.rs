//! Which versions this program knows, and what a cell of another one is told (DESIGN D9).

use super::payload::needed_version;
use crate::state::{self, CommandBody, Read, Versions};
use sitefs_base::{Error, Result};
use std::path::Path;

/// The versions that the program of this data directory knows.
pub(super) fn of(dir: &Path) -> Versions {
    #[cfg(test)]
    if let Some(pretended) = pretended(dir) {
        return pretended;
    }
    let _ = dir;
    Versions::THIS
}

/// Refuses a command that nodes of the cell's version would stop at.
pub(super) fn check_known(read: &dyn Read, body: &CommandBody) -> Result<()> {
    let needed = needed_version(body);
    if needed == 1 {
        return Ok(());
    }
    let version = state::cluster_version(read)?;
    if needed <= version {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the cell is of version {version}, and this needs {needed}: once every node runs this program, raise it with: \
         sitefs cell upgrade --finalize"
    )))
}

#[cfg(test)]
static PRETENDED: std::sync::Mutex<Vec<(std::path::PathBuf, Versions)>> = std::sync::Mutex::new(Vec::new());

#[cfg(test)]
fn pretended(dir: &Path) -> Option<Versions> {
    PRETENDED.lock().unwrap().iter().rev().find(|(at, _)| at == dir).map(|(_, versions)| *versions)
}

/// From now on the program of this data directory is one that knows other versions.
#[cfg(test)]
pub(super) fn pretend(dir: &Path, versions: Versions) {
    PRETENDED.lock().unwrap().push((dir.to_owned(), versions));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{Group, GroupConfig};
    use sitefs_base::{CellChange, GroupId, Kind, NodeId, SystemClock, Tasks};
    use std::sync::Arc;

    fn open(dir: &Path) -> Result<Group> {
        let config = GroupConfig {
            dir: dir.to_owned(),
            node: NodeId::new(1),
            cell: "test".into(),
            group: GroupId::new(1),
        };
        Group::open(config, Arc::new(SystemClock), Tasks::new())
    }

    async fn opened(dir: &Path, min: u16, max: u16) -> Result<Group> {
        let dir = dir.to_owned();
        pretend(&dir, Versions { min, max });
        tokio::task::spawn_blocking(move || open(&dir)).await.unwrap()
    }

    fn version(group: &Group) -> u16 {
        state::cluster_version(&group.reader()).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_new_waits_until_the_cell_is_raised_and_older_programs_are_refused_then() {
        let dir = tempfile::tempdir().unwrap();
        let old = opened(dir.path(), 1, 1).await.unwrap();
        assert_eq!(version(&old), 1, "a new cell is of the highest version of its program");
        old.shutdown().await.unwrap();
        drop(old);

        let new = opened(dir.path(), 1, 2).await.unwrap();
        let set = CommandBody::SetCell { change: CellChange::default() };
        let refused = new.propose(set.clone()).await.unwrap_err();
        assert!(refused.kind() == Kind::Invalid && refused.doing().contains("--finalize"), "{refused}");
        new.propose(CommandBody::Noop).await.unwrap().reply.unwrap();
        assert_eq!(new.finalize().await.unwrap(), 2);
        new.propose(set).await.unwrap().reply.unwrap();
        new.shutdown().await.unwrap();
        drop(new);

        let older = opened(dir.path(), 1, 1).await.unwrap_err();
        assert!(
            older.kind() == Kind::Invalid && older.chain().contains("older than the other nodes"),
            "{older}"
        );
        let later = opened(dir.path(), 3, 4).await.unwrap_err();
        assert!(later.chain().contains("in between"), "{later}");
        let fits = opened(dir.path(), 2, 3).await.unwrap();
        assert_eq!(version(&fits), 2, "nothing is raised by a start");
        fits.shutdown().await.unwrap();
    }
}
