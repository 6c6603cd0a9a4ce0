//! Snapshots are checkpoints of the state database: `snapshots/<id>/state`. The last one is kept.

use super::data_dir::{sync_dir, write_durably};
use crate::store::{LogPosition, Store, StoreMeta};
use sitefs_base::{Error, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

const BUILDING: &str = "building";
const RECEIVING: &str = "receiving";
/// A received snapshot that has to become the state; its name is the decision that it does.
const INSTALL: &str = "install";
/// Says up to which entry the last received snapshot goes: the log may end before that.
const RECEIVED: &str = "received";
/// How the names of copies that are being sent begin.
const SENDING: &str = "sending-";
/// How those of received snapshots begin that wait for their installation.
pub(super) const COMPLETE: &str = "complete-";

/// The snapshots of one group.
#[derive(Clone, Debug)]
pub(super) struct Snapshots {
    dir: PathBuf,
    state: PathBuf,
    /// Held while one is made or installed: Raft may ask for both at a time.
    one: Arc<Mutex<()>>,
}

/// A snapshot on disk.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) id: String,
    pub(super) path: PathBuf,
    pub(super) meta: StoreMeta,
}

impl Snapshots {
    /// Prepares the directory and ends what a crash interrupted. Call it before the store is opened.
    pub(super) fn open(dir: PathBuf, state: PathBuf) -> Result<Self> {
        let this = Self { dir, state, one: Arc::default() };
        fs::create_dir_all(&this.dir).map_err(|error| io("creating", &this.dir, error))?;
        this.finish_install()?;
        let mut left = this.names()?;
        left.retain(|name| name.starts_with(SENDING) || name.starts_with(COMPLETE));
        for unfinished in left.into_iter().chain([BUILDING, RECEIVING].map(str::to_owned)) {
            remove(&this.dir.join(unfinished))?;
        }
        Ok(this)
    }

    /// Flushes the store and makes a snapshot of it; older ones go.
    pub(super) fn build(&self, store: &Store) -> Result<Built> {
        let _one = self.one();
        self.build_now(store)
    }

    fn one(&self) -> MutexGuard<'_, ()> {
        self.one.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn build_now(&self, store: &Store) -> Result<Built> {
        store.flush()?;
        let building = self.dir.join(BUILDING);
        remove(&building)?;
        fs::create_dir(&building).map_err(|error| io("creating", &building, error))?;
        store.checkpoint(&building.join("state"))?;
        // What was applied while the checkpoint was made may be in it: it knows best itself.
        let meta = Store::read_checkpoint(&building.join("state"))?;
        let id = id_of(meta.applied);
        let path = self.dir.join(&id);
        if path.exists() {
            remove(&building)?;
        } else {
            rename(&building, &path)?;
        }
        self.keep_only(&id)?;
        Ok(Built { id, path, meta })
    }

    /// The last snapshot.
    pub(super) fn current(&self) -> Result<Option<Built>> {
        loop {
            let Some(id) = self.ids()?.pop() else { return Ok(None) };
            let path = self.dir.join(&id);
            match Store::read_checkpoint(&path.join("state")) {
                Ok(meta) => return Ok(Some(Built { id, path, meta })),
                // A newer one has taken its place meanwhile.
                Err(_) if self.ids()?.pop().is_some_and(|last| last != id) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The last snapshot; one that cannot be read is dropped and made anew. `store` must be sound.
    pub(super) fn current_or_new(&self, store: &Store) -> Result<Option<Built>> {
        let error = match self.current() {
            Ok(current) => return Ok(current),
            Err(error) => error,
        };
        tracing::warn!(dir = %self.dir.display(), error = error.chain(), "damaged snapshot is made anew");
        for id in self.ids()? {
            remove(&self.dir.join(id))?;
        }
        self.build(store).map(Some)
    }

    /// An empty directory; the files of a snapshot go to `state` in it.
    pub(super) fn begin_receiving(&self) -> Result<PathBuf> {
        let path = self.receiving();
        remove(&path)?;
        fs::create_dir(&path).map_err(|error| io("creating", &path, error))?;
        Ok(path)
    }

    /// Makes the snapshot in `received` the state, and the current snapshot.
    pub(super) fn install(
        &self,
        store: &Store,
        received: &super::types::SnapshotDir,
        expected: Option<LogPosition>,
    ) -> Result<()> {
        let files = received.path.join("state");
        if Store::read_checkpoint(&files)?.applied != expected {
            return Err(Error::corrupt("a received snapshot is not at the position that was announced"));
        }
        let _one = self.one();
        let index = expected.map_or(0, |at| at.index);
        write_durably(&self.dir.join(RECEIVED), format!("{index}\n").as_bytes())?;
        store.replace(|| {
            rename(&files, &self.dir.join(INSTALL))?;
            self.finish_install()
        })?;
        remove(&received.path)?;
        self.build_now(store).map(drop)
    }

    /// Where a snapshot comes in.
    pub(super) fn receiving(&self) -> PathBuf {
        self.dir.join(RECEIVING)
    }

    /// The last entry of the last snapshot that was received.
    pub(super) fn received(&self) -> Option<u64> {
        fs::read_to_string(self.dir.join(RECEIVED)).ok()?.trim().parse().ok()
    }

    /// Puts a snapshot whose installation was decided in place of the state.
    fn finish_install(&self) -> Result<()> {
        let install = self.dir.join(INSTALL);
        if !install.exists() {
            return Ok(());
        }
        remove(&self.state)?;
        rename(&install, &self.state)?;
        sync_dir(&self.dir)
    }

    fn keep_only(&self, id: &str) -> Result<()> {
        for other in self.ids()?.iter().filter(|other| *other != id) {
            remove(&self.dir.join(other))?;
        }
        Ok(())
    }

    fn ids(&self) -> Result<Vec<String>> {
        let mut ids = self.names()?;
        ids.retain(|name| name.starts_with(|first: char| first.is_ascii_digit()));
        ids.sort();
        Ok(ids)
    }

    fn names(&self) -> Result<Vec<String>> {
        let read = || -> std::io::Result<Vec<String>> {
            let names =
                fs::read_dir(&self.dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            names.collect()
        };
        read().map_err(|error| io("reading", &self.dir, error))
    }
}

/// `INDEX-TERM-NODE`, so that byte order is the order of the log.
fn id_of(applied: Option<LogPosition>) -> String {
    let LogPosition { term, node, index } = applied.unwrap_or(LogPosition { term: 0, node: 0, index: 0 });
    format!("{index:020}-{term}-{node}")
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("removing", path, error)),
        _ => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|error| io("moving a snapshot to", to, error))?;
    to.parent().map_or(Ok(()), sync_dir)
}

fn io(doing: &str, path: &Path, error: std::io::Error) -> Error {
    Error::io(format!("{doing} {}", path.display()), error)
}
