//! The directory of the cache: `DIR/lock` and one file per blob, `DIR/blobs/<hh>/<digest>`.

use super::index::FileIdentity;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use sitefs_base::{Digest, Error, Result};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

const TEMP_PREFIX: &str = "tmp-";

/// The files; knows nothing of order or limits.
#[derive(Debug)]
pub struct Files {
    dir: PathBuf,
    blobs: PathBuf,
    temps: AtomicU64,
    // Holds the lock for as long as the cache lives.
    _lock: File,
}

/// A blob file found at start: digest, size, and the second of its last use.
pub struct Found {
    pub digest: Digest,
    pub len: u64,
    pub used: i64,
}

impl Files {
    pub fn open(dir: &Path) -> Result<Self> {
        let doing = |error| Error::io(format!("opening the cache {}", dir.display()), error);
        let blobs = dir.join("blobs");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&blobs).map_err(doing)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(dir.join("lock"))
            .map_err(doing)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { dir: dir.into(), blobs, temps: AtomicU64::new(0), _lock: lock }),
            Err(Errno::WOULDBLOCK) => Err(Error::conflict(format!(
                "another mount uses {}: give each mount a cache directory of its own",
                dir.display()
            ))),
            Err(error) => Err(doing(error.into())),
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.blobs.join(&name[..2]).join(name)
    }

    /// All blob files by name and size, the longest unused first. Temporary files of a process that
    /// died are removed; files that are not ours are left alone.
    pub fn scan(&self) -> Result<Vec<Found>> {
        let doing = |error| Error::io(format!("reading the cache {}", self.dir.display()), error);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.blobs).map_err(doing)? {
            let entry = entry.map_err(doing)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let is_dir = entry.file_type().map_err(doing)?.is_dir();
            if name.starts_with(TEMP_PREFIX) && !is_dir {
                fs::remove_file(entry.path()).map_err(doing)?;
            } else if name.len() == 2 && is_dir {
                scan_fan(&entry.path(), &name, &mut found).map_err(doing)?;
            }
        }
        found.sort_by_key(|blob| blob.used);
        Ok(found)
    }

    pub fn open_blob(&self, digest: &Digest) -> io::Result<File> {
        File::open(self.path(digest))
    }

    pub fn remove_blob(&self, digest: &Digest) -> Result<()> {
        match fs::remove_file(self.path(digest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format!("removing {digest:?} from the cache"), error))
            }
            _ => Ok(()),
        }
    }

    /// Writes a temporary file, not synced: after a restart every file is hashed before it is used.
    pub fn write_temp(&self, bytes: &[u8]) -> io::Result<Temp> {
        let (path, file) = loop {
            let number = self.temps.fetch_add(1, Ordering::Relaxed);
            let path = self.blobs.join(format!("{TEMP_PREFIX}{number}"));
            match OpenOptions::new().write(true).create_new(true).mode(0o400).open(&path) {
                Ok(file) => break (path, file),
                // Something that is not ours; the numbers do not end before such names do.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        };
        let mut temp = Temp { path, file, published: false };
        temp.file.write_all(bytes)?;
        Ok(temp)
    }

    /// Gives a temporary file its name and returns its identity, which a rename changes.
    pub fn publish(&self, mut temp: Temp, digest: &Digest) -> io::Result<FileIdentity> {
        let path = self.path(digest);
        if let Err(error) = fs::rename(&temp.path, &path) {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            let fan = path.parent().unwrap_or(&self.blobs);
            fs::DirBuilder::new().recursive(true).mode(0o700).create(fan)?;
            fs::rename(&temp.path, &path)?;
        }
        temp.published = true;
        FileIdentity::of(&temp.file)
    }

    /// Bytes that the disk can still take from us.
    pub fn free(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.blobs)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// A file without its name; removed unless it is published.
pub struct Temp {
    path: PathBuf,
    file: File,
    published: bool,
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn scan_fan(dir: &Path, fan: &str, found: &mut Vec<Found>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let digest = name.to_str().filter(|name| name.starts_with(fan)).and_then(|name| name.parse().ok());
        let there = entry.metadata()?;
        if let (Some(digest), true) = (digest, there.is_file()) {
            found.push(Found { digest, len: there.len(), used: there.atime().max(there.mtime()) });
        }
    }
    Ok(())
}

/// The digest of a whole file, read from its start without moving its position.
pub fn hash_file(file: &File) -> io::Result<Digest> {
    let mut reader = At { file, offset: 0 };
    let mut hasher = crate::Hasher::new();
    let mut piece = vec![0; 128 * 1024];
    loop {
        match reader.read(&mut piece) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(read) => hasher.update(&piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = std::os::unix::fs::FileExt::read_at(self.file, into, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}
