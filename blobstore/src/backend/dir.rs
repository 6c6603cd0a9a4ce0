//! A directory as the store: for one-node cells, demos and tests.

mod owner;
mod vault;

use super::{Backend, BoxFuture, Listed, OBJECT_MAX, SignedRequest};
use crate::ObjectKey;
use bytes::Bytes;
use sitefs_base::{Clock, Error, OsRandom, Random, Result, SystemClock, Time, make_private_dir};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// A temporary file older than this belongs to a process that died.
const TEMP_AGE_MAX: Duration = Duration::from_secs(3600);
const TEMP_DIR: &str = "tmp";

/// Keeps each object as a file `DIR/b/<site>/<hh>/<digest>.<generation>`.
#[derive(Clone, Debug)]
pub struct DirBackend {
    root: Arc<Path>,
    /// Whether others than the one data directory that it is in may use it.
    shared: bool,
}

impl DirBackend {
    /// Opens the store in `path`, which is made if it is not there.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let doing = |error| Error::io(format!("opening the blob directory {}", path.display()), error);
        make_private_dir(path)?;
        fs::create_dir_all(path.join(TEMP_DIR)).map_err(doing)?;
        sync_dir(path).map_err(doing)?;
        remove_old_temps(&path.join(TEMP_DIR)).map_err(doing)?;
        Ok(Self { root: path.into(), shared: false })
    }

    /// Opens a store that is in no data directory: another cell may use it too, so it has an owner.
    pub fn open_shared(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self { shared: true, ..Self::open(path)? })
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        self.root.join(key.to_string())
    }

    /// Blocking file work leaves the threads of the runtime alone.
    fn run<'a, T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> BoxFuture<'a, Result<T>> {
        let store = self.clone();
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || work(&store)).await;
            done.map_err(|error| Error::internal("working in the blob directory").because(error))?
        })
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temp = self.root.join(TEMP_DIR).join(format!("{:032x}", OsRandom.next_u128()));
        let written = self.write_temp(&temp, path, bytes);
        if written.is_err() {
            let _ = fs::remove_file(&temp);
        }
        written
    }

    fn write_temp(&self, temp: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::create_new(temp)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        let parent = path.parent().unwrap_or(&self.root);
        self.make_dirs(parent)?;
        fs::rename(temp, path)?;
        sync_dir(parent)
    }

    /// Makes the directories down to `dir`; each new one is durable before anything is put into it.
    fn make_dirs(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        let parent = dir.parent().unwrap_or(&self.root);
        self.make_dirs(parent)?;
        match fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => sync_dir(parent),
        }
    }

    fn put_now(&self, key: &ObjectKey, bytes: &[u8]) -> Result<()> {
        let path = self.path(key);
        let doing = |error| Error::io(format!("writing {}", path.display()), error);
        if self.has_durably(&path, bytes).map_err(doing)? {
            return Ok(());
        }
        self.write(&path, bytes).map_err(doing)
    }

    /// Whether `path` has these bytes already; they are durable then. Whoever wrote them may have
    /// died before its syncs, and a disk may have changed them since.
    fn has_durably(&self, path: &Path, bytes: &[u8]) -> io::Result<bool> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if file.metadata()?.len() != bytes.len() as u64 {
            return Ok(false);
        }
        let mut there = Vec::with_capacity(bytes.len());
        (&file).take(OBJECT_MAX).read_to_end(&mut there)?;
        if there != bytes {
            return Ok(false);
        }
        file.sync_all()?;
        for dir in path.ancestors().skip(1).take_while(|dir| dir.starts_with(&self.root)) {
            sync_dir(dir)?;
        }
        Ok(true)
    }

    fn get_now(&self, key: &ObjectKey) -> Result<Bytes> {
        let path = self.path(key);
        let doing = |error| Error::io(format!("reading {}", path.display()), error);
        let file = File::open(&path).map_err(doing)?;
        let len = file.metadata().map_err(doing)?.len();
        if len > OBJECT_MAX {
            return Err(Error::corrupt(format!("{} has {len} bytes: too many for a blob", path.display())));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
        file.take(OBJECT_MAX).read_to_end(&mut bytes).map_err(doing)?;
        Ok(bytes.into())
    }

    fn head_now(&self, key: &ObjectKey) -> Result<Option<u64>> {
        let path = self.path(key);
        match fs::metadata(&path) {
            Ok(there) => Ok(Some(there.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(format!("looking at {}", path.display()), error)),
        }
    }

    // The directory is not synced: a deletion that a power cut undoes leaves an orphan for the sweep.
    fn delete_now(&self, key: &ObjectKey) -> Result<()> {
        remove(&self.path(key))
    }

    fn list_now(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Listed>> {
        self.list_below("b", prefix, after, limit)
    }

    /// The files of one of the directories at the top.
    fn list_below(&self, top: &str, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Listed>> {
        let mut listing = Listing { prefix, after, limit, found: Vec::new() };
        listing
            .walk(&self.root.join(top), top)
            .map_err(|error| Error::io(format!("listing {}", self.root.display()), error))?;
        Ok(listing.found)
    }

    fn check_now(&self) -> Result<()> {
        let probe = self.root.join(TEMP_DIR).join(format!("{:032x}", OsRandom.next_u128()));
        let tried = self
            .write_temp(&probe, &probe.with_extension("probe"), b"sitefs")
            .and_then(|()| fs::remove_file(probe.with_extension("probe")));
        tried.map_err(|error| {
            let _ = fs::remove_file(&probe);
            let root = self.root.display();
            Error::io(
                format!("the blob directory {root} cannot be written: check its owner, mode and space"),
                error,
            )
        })
    }
}

struct Listing<'a> {
    prefix: &'a str,
    after: Option<&'a str>,
    limit: usize,
    found: Vec<Listed>,
}

impl Listing<'_> {
    /// Depth first in name order, which is key order: no character of a name sorts before `/`.
    fn walk(&mut self, dir: &Path, key: &str) -> io::Result<()> {
        let mut entries = match fs::read_dir(dir) {
            Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            if self.found.len() >= self.limit {
                return Ok(());
            }
            let Ok(name) = entry.file_name().into_string() else { continue };
            let key = format!("{key}/{name}");
            if entry.file_type()?.is_dir() {
                if self.may_hold(&format!("{key}/")) {
                    self.walk(&entry.path(), &key)?;
                }
            } else if key.starts_with(self.prefix) && self.after.is_none_or(|after| key.as_str() > after) {
                self.take(key, &entry)?;
            }
        }
        Ok(())
    }

    fn may_hold(&self, dir: &str) -> bool {
        let in_prefix = dir.starts_with(self.prefix) || self.prefix.starts_with(dir);
        in_prefix && self.after.is_none_or(|after| after.starts_with(dir) || dir > after)
    }

    fn take(&mut self, key: String, entry: &fs::DirEntry) -> io::Result<()> {
        match entry.metadata() {
            Ok(there) => {
                let modified = Time::from(there.modified()?);
                self.found.push(Listed { key, len: there.len(), modified });
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Removes a file, if it is there.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("deleting {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn remove_old_temps(dir: &Path) -> io::Result<()> {
    let now = SystemClock.now();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // A file that vanishes meanwhile belongs to a process that lives.
        let modified = entry.metadata().and_then(|there| there.modified());
        if modified.is_ok_and(|modified| now.since(modified.into()) > TEMP_AGE_MAX) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

impl Backend for DirBackend {
    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes) -> BoxFuture<'a, Result<()>> {
        let key = *key;
        self.run(move |store| store.put_now(&key, &bytes))
    }

    fn get<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Bytes>> {
        let key = *key;
        self.run(move |store| store.get_now(&key))
    }

    fn head<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Option<u64>>> {
        let key = *key;
        self.run(move |store| store.head_now(&key))
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<()>> {
        let key = *key;
        self.run(move |store| store.delete_now(&key))
    }

    fn presign_put<'a>(
        &'a self,
        _key: &'a ObjectKey,
        _len: u64,
        _valid: Duration,
    ) -> BoxFuture<'a, Result<Option<SignedRequest>>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn presign_get<'a>(
        &'a self,
        _key: &'a ObjectKey,
        _valid: Duration,
    ) -> BoxFuture<'a, Result<Option<SignedRequest>>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Listed>>> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.run(move |store| store.list_now(&prefix, after.as_deref(), limit))
    }

    fn claim<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<String>> {
        let owner = owner.to_owned();
        if !self.shared {
            return Box::pin(std::future::ready(Ok(owner)));
        }
        self.run(move |store| store.own_now(&owner))
    }

    fn check(&self) -> BoxFuture<'_, Result<()>> {
        self.run(Self::check_now)
    }

    /// Bytes come here only from the cell itself, which hashed them.
    fn enforces_digest(&self) -> bool {
        true
    }

    fn uses_own_disk(&self) -> bool {
        true
    }
}
