//! `sitefs cache prefetch`.

use super::parse;
use crate::{
    Done,
    failure::{Failure, Hint},
    output::Output,
    progress::Progress,
    standing,
};
use serde_json::json;
use sitefs_base::{Error, display_bytes};
use sitefs_client::Control;
use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Files that are fetched at a time.
const WORKERS: usize = 8;
/// How much of a large file one request is for.
const PART: u64 = 64 << 20;
/// Failures in a row after which the rest is left out: each may take as long as a read may wait.
const FAILURES_MAX: u64 = 8;

/// Fetches the content of files into the disk cache, so that reading them later waits for nothing.
///
/// Of a directory everything below it on the same mount. It ends when as much as the cache may hold was
/// fetched or found there.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Files and directories of a mount.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments, output: &Output) -> Done {
    let mut total = Total::default();
    let _progress = Progress::show("fetching");
    for path in &arguments.paths {
        total.add(&fetch(path)?);
        if total.is_at_end() {
            break;
        }
    }
    let Total { files, blobs, bytes, known, failed, is_full, gave_up, .. } = total;
    let result = json!({ "files": files, "blobs": blobs, "bytes": bytes, "known": known, "failed": failed, "full": is_full });
    output.result(&result, || {
        let full = if is_full { "; the cache is full, the rest was left out" } else { "" };
        let fetched = format!("fetched {blobs} blobs, {}", display_bytes(bytes));
        format!("{fetched}; {known} were there; {files} files{full}")
    })?;
    let rest = match gave_up {
        true => format!(", {FAILURES_MAX} in a row: the rest was left out"),
        false => String::new(),
    };
    match failed {
        0 => Ok(()),
        _ => Err(Error::unavailable(format!("{failed} files could not be fetched{rest}")))
            .hint("the mount's log says why; see whether the cell and the object store answer"),
    }
}

/// What a prefetch did.
#[derive(Clone, Copy, Default)]
struct Total {
    files: u64,
    blobs: u64,
    bytes: u64,
    known: u64,
    failed: u64,
    /// Bytes of the files that are in the cache now.
    held: u64,
    is_full: bool,
    /// Failures since something last succeeded.
    in_a_row: u64,
    /// There were too many of them.
    gave_up: bool,
}

impl Total {
    fn is_at_end(&self) -> bool {
        self.is_full || self.gave_up
    }

    fn fail(&mut self) {
        self.failed += 1;
        self.in_a_row += 1;
        self.gave_up |= self.in_a_row >= FAILURES_MAX;
    }

    fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.blobs += other.blobs;
        self.bytes += other.bytes;
        self.known += other.known;
        self.failed += other.failed;
        self.held += other.held;
        self.is_full |= other.is_full;
        self.in_a_row = other.in_a_row;
        self.gave_up |= other.gave_up;
    }
}

/// What the workers share.
struct Work {
    at: PathBuf,
    limit: u64,
    walk: Mutex<Walk>,
    total: Mutex<Total>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fetch(path: &Path) -> Result<Total, Failure> {
    let (at, mut control) = standing::control_holding(path)?.ok_or_else(|| {
        let error = Error::invalid(format!("{} is not on a mount of sitefs", path.display()));
        Failure::new(error, "prefetch takes files and directories of a mount")
    })?;
    let report = parse(&control.cache()?)?;
    let limit = report["mount"]["limit_bytes"].as_u64().unwrap_or(u64::MAX);
    let cache = PathBuf::from(report["dir"].as_str().unwrap_or_default());
    let walk = Walk::from(path).map_err(|error| Error::io(format!("reading {}", path.display()), error))?;
    let work = Work { at, limit, walk: Mutex::new(walk), total: Mutex::default() };
    let ended: Vec<Done> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(|| work.run(&cache))).collect();
        let failed = |_| Err(Error::internal("a thread panicked").into());
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(failed)).collect()
    });
    ended.into_iter().collect::<Result<(), Failure>>()?;
    let total = *lock(&work.total);
    Ok(total)
}

impl Work {
    /// Takes one file after the other until there are none.
    fn run(&self, cache: &Path) -> Done {
        while !lock(&self.total).is_at_end() {
            let Some(found) = lock(&self.walk).next() else { return Ok(()) };
            match found {
                Ok((ino, size)) => self.file(cache, ino, size)?,
                Err(error) => {
                    tracing::warn!(%error, mount = %self.at.display(), "a directory cannot be read");
                    let mut total = lock(&self.total);
                    match error.kind() {
                        // That says nothing about those that may be read.
                        io::ErrorKind::PermissionDenied => total.failed += 1,
                        _ => total.fail(),
                    }
                }
            }
        }
        Ok(())
    }

    fn file(&self, cache: &Path, ino: u64, size: u64) -> Done {
        let mut offset = 0;
        while offset < size {
            let len = PART.min(size - offset);
            let mut total = lock(&self.total);
            if total.held.saturating_add(len) > self.limit {
                total.is_full = true;
                return Ok(());
            }
            total.held += len;
            drop(total);
            // The mount answers one request per connection.
            let done = parse(&Control::connect(cache)?.prefetch(ino, offset, len)?)?;
            if done["errno"].is_string() {
                lock(&self.total).fail();
                return Ok(());
            }
            let number = |name: &str| done[name].as_u64().unwrap_or(0);
            lock(&self.total).add(&Total {
                blobs: number("blobs"),
                bytes: number("bytes"),
                known: number("known"),
                ..Total::default()
            });
            offset += len;
        }
        lock(&self.total).files += 1;
        Ok(())
    }
}

/// The regular files below a directory, on its device: inode and size.
struct Walk {
    device: u64,
    dirs: Vec<PathBuf>,
    entries: Option<fs::ReadDir>,
    first: Option<(u64, u64)>,
}

impl Walk {
    fn from(path: &Path) -> io::Result<Self> {
        let top = fs::metadata(path)?;
        let dirs = if top.is_dir() { vec![path.to_owned()] } else { Vec::new() };
        let first = top.is_file().then(|| (top.ino(), top.size()));
        Ok(Self { device: top.dev(), dirs, entries: None, first })
    }

    fn look(&mut self, entry: &fs::DirEntry) -> io::Result<Option<(u64, u64)>> {
        let there = entry.metadata()?;
        if there.dev() != self.device {
            return Ok(None);
        }
        if there.is_dir() {
            self.dirs.push(entry.path());
        }
        Ok(there.is_file().then(|| (there.ino(), there.size())))
    }
}

impl Iterator for Walk {
    type Item = io::Result<(u64, u64)>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        loop {
            if let Some(entry) = self.entries.as_mut().and_then(Iterator::next) {
                match entry.and_then(|entry| self.look(&entry)) {
                    Ok(None) => {}
                    // Removed since it was listed.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    found => return found.transpose(),
                }
                continue;
            }
            self.entries = None;
            match fs::read_dir(self.dirs.pop()?) {
                Ok(entries) => self.entries = Some(entries),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_after_some_failures_in_a_row() {
        let mut total = Total::default();
        (1..FAILURES_MAX).for_each(|_| total.fail());
        total.add(&Total { known: 1, ..Total::default() });
        (1..FAILURES_MAX).for_each(|_| total.fail());
        assert!(!total.is_at_end());
        total.fail();
        // What was on its way comes too late.
        total.add(&Total { blobs: 1, ..Total::default() });
        assert!(total.is_at_end());
        assert_eq!(total.failed, 2 * FAILURES_MAX - 1);
    }
}
