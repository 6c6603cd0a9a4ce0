//! The two places that are measured, and what is measured there.

use sitefs_base::{Error, OsRandom, Random, Result, SeededRandom};
use std::{
    cell::OnceCell,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;

/// The size of the small files: the middle of what web sites have.
pub(crate) const SMALL: usize = 8 << 10;
/// How many small files there are to be read and listed.
pub(crate) const SHARED: usize = 1_000;

/// How much is measured.
pub(crate) struct Plan {
    pub(crate) repetitions: usize,
    /// How many small files.
    pub(crate) files: usize,
    /// The size of the big file.
    pub(crate) big: usize,
    /// What is unpacked.
    pub(crate) tar: Option<PathBuf>,
    /// Whether the kernel's caches are dropped for the cold rows.
    pub(crate) cold: bool,
}

/// A directory of our own on one of the two file systems, removed with all that is in it.
pub(crate) struct Place {
    root: TempDir,
    /// Small files that several cases read; made once.
    shared: OnceCell<PathBuf>,
    /// What was made around `root`. Dropped last.
    _made: Option<Made>,
}

/// A directory that was not there before.
struct Made(PathBuf);

impl Drop for Made {
    fn drop(&mut self) {
        // Somebody else may have put something in; then it stays.
        let _ = fs::remove_dir(&self.0);
    }
}

impl Place {
    /// A new directory in `directory`, which is made if only its last part is missing.
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        let made = match fs::create_dir(directory) {
            Ok(()) => Some(Made(directory.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
            Err(error) => return Err(failed("making", directory)(error)),
        };
        let root = tempfile::Builder::new().prefix("sitefs-bench-").tempdir_in(directory);
        let root = root.map_err(failed("making a directory in", directory))?;
        Ok(Self { root, shared: OnceCell::new(), _made: made })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    /// An empty directory for one repetition of a case.
    pub(crate) fn scratch(&self) -> Result<TempDir> {
        tempfile::tempdir_in(self.path()).map_err(failed("making a directory in", self.path()))
    }

    /// A directory with [`SHARED`] small files, the same one every time.
    pub(crate) fn shared(&self) -> Result<&Path> {
        if let Some(path) = self.shared.get() {
            return Ok(path);
        }
        let path = self.path().join("shared");
        fs::create_dir(&path).map_err(failed("making", &path))?;
        fill(&path, SHARED)?;
        Ok(self.shared.get_or_init(|| path))
    }

    /// Removes all; what cannot be removed is an error, unlike when it is dropped.
    pub(crate) fn close(self) -> Result<()> {
        let path = self.path().to_owned();
        self.root.close().map_err(failed("removing", &path))
    }
}

/// Puts the small files 0..`files` into a directory.
pub(crate) fn fill(directory: &Path, files: usize) -> Result<()> {
    let mut bytes = Bytes::new(SMALL);
    for path in names(directory, files) {
        write_small(&path, bytes.next()).map_err(failed("writing", &path))?;
    }
    Ok(())
}

/// The paths of `files` small files.
pub(crate) fn names(directory: &Path, files: usize) -> Vec<PathBuf> {
    (0..files).map(|number| directory.join(format!("file-{number:05}"))).collect()
}

/// Creates a file, writes it and closes it.
pub(crate) fn write_small(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::File::create_new(path)?.write_all(bytes)
}

/// Contents that never repeat: a store that keeps equal contents once must not win by that.
pub(crate) struct Bytes {
    bytes: Vec<u8>,
    random: SeededRandom,
}

impl Bytes {
    /// Contents of `size` bytes.
    pub(crate) fn new(size: usize) -> Self {
        Self { bytes: random_bytes(size), random: SeededRandom::new(OsRandom.next_u64()) }
    }

    /// The next contents: only their beginning is new, so that making them takes no time.
    pub(crate) fn next(&mut self) -> &[u8] {
        for (byte, new) in self.bytes.iter_mut().zip(self.random.next_u128().to_le_bytes()) {
            *byte = new;
        }
        &self.bytes
    }
}

/// Contents that are nowhere else.
pub(crate) fn random_bytes(size: usize) -> Vec<u8> {
    let random = SeededRandom::new(OsRandom.next_u64());
    let words = std::iter::repeat_with(|| random.next_u64().to_le_bytes());
    words.take(size.div_ceil(8)).flatten().take(size).collect()
}

/// Makes an error of what the operating system said about a path.
pub(crate) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |error| Error::io(format!("{doing} {}", path.display()), error)
}

/// How long `work` took.
pub(crate) fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let begun = std::time::Instant::now();
    let done = work()?;
    Ok((done, begun.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_have_their_size_and_never_repeat() {
        let mut bytes = Bytes::new(SMALL);
        let (first, second) = (bytes.next().to_vec(), bytes.next().to_vec());
        assert_eq!((first.len(), second.len()), (SMALL, SMALL));
        assert_ne!(first, second);
        assert_ne!(first, Bytes::new(SMALL).next());
    }

    #[test]
    fn a_place_leaves_nothing_behind() {
        let outer = tempfile::tempdir().unwrap();
        let directory = outer.path().join("made");
        let place = Place::new(&directory).unwrap();
        assert_eq!(fs::read_dir(place.shared().unwrap()).unwrap().count(), SHARED);
        place.close().unwrap();
        assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 0);
    }
}
