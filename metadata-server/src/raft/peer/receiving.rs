//! Takes in the files of a snapshot. It becomes the state as a whole, or not at all.

use super::sending::sum;
use crate::raft::{data_dir::sync_dir, snapshots::COMPLETE, types::SnapshotDir};
use sitefs_base::{Error, Result};
use sitefs_proto::peer as pb;
use std::{
    fs::{self, File},
    io::Write,
    path::{Component, Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Files of one snapshot.
const FILES_MAX: usize = 100_000;

/// The one snapshot that is coming in.
#[derive(Debug)]
pub(super) struct Receiving {
    dir: PathBuf,
    now: Mutex<Option<Incoming>>,
    finished: AtomicU64,
}

#[derive(Debug)]
struct Incoming {
    id: String,
    files: Vec<Part>,
}

#[derive(Clone, Debug)]
struct Part {
    name: String,
    len: u64,
    have: u64,
}

impl Receiving {
    /// Into `dir`, which is emptied when another snapshot begins.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, now: Mutex::new(None), finished: AtomicU64::new(0) }
    }

    /// A snapshot of these files is to come. What is there of it already stays.
    pub(super) fn begin(&self, id: &str, files: Vec<pb::SnapshotFile>) -> Result<Vec<pb::SnapshotFile>> {
        let mut now = self.lock();
        let same = now.as_ref().is_some_and(|incoming| incoming.is(id, &files));
        if !same {
            *now = None;
            *now = Some(self.begin_anew(id, files)?);
        }
        let files = now.iter().flat_map(|incoming| &incoming.files);
        Ok(files.map(|part| pb::SnapshotFile { name: part.name.clone(), len: part.have }).collect())
    }

    fn begin_anew(&self, id: &str, files: Vec<pb::SnapshotFile>) -> Result<Incoming> {
        if files.len() > FILES_MAX {
            return Err(Error::limit(format!("a snapshot of {} files", files.len())));
        }
        let files: Vec<Part> = files.into_iter().map(Part::new).collect::<Result<_>>()?;
        let doing = |error| Error::io(format!("preparing {}", self.dir.display()), error);
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(doing(error)),
            _ => {}
        }
        fs::create_dir_all(self.dir.join("state")).map_err(doing)?;
        // Empty files have no chunks.
        for part in files.iter().filter(|part| part.len == 0) {
            File::create(self.path(&part.name)).and_then(|file| file.sync_all()).map_err(doing)?;
        }
        Ok(Incoming { id: id.to_owned(), files })
    }

    /// Takes a chunk in; how much of its file is there now.
    pub(super) fn chunk(&self, chunk: &pb::SendChunkRequest) -> Result<u64> {
        let mut now = self.lock();
        let incoming = now.as_mut().filter(|incoming| incoming.id == chunk.id).ok_or_else(other)?;
        let part = incoming.files.iter_mut().find(|part| part.name == chunk.file);
        let part = part.ok_or_else(|| Error::invalid(format!("no file {:?} was announced", chunk.file)))?;
        if sum(&chunk.data) != chunk.sum {
            return Err(Error::corrupt(format!("a chunk of {} came with other bytes", part.name)));
        }
        // One that was sent twice, or out of turn, changes nothing: the answer says where to go on.
        let end = chunk.offset.saturating_add(chunk.data.len() as u64);
        if chunk.offset == part.have && end <= part.len {
            self.write(part, &chunk.data)?;
        }
        Ok(part.have)
    }

    fn write(&self, part: &mut Part, data: &[u8]) -> Result<()> {
        let path = self.path(&part.name);
        let write = || {
            let mut file = File::options().create(true).append(true).open(&path)?;
            // What a write that failed left behind.
            file.set_len(part.have)?;
            file.write_all(data)?;
            if part.have + data.len() as u64 == part.len { file.sync_all() } else { Ok(()) }
        };
        write().map_err(|error| Error::io(format!("writing {}", path.display()), error))?;
        part.have += data.len() as u64;
        Ok(())
    }

    /// The snapshot, which is whole and durable, in a directory of its own: another one may come in while
    /// it is installed. Nothing of it is coming in after this.
    pub(super) fn finish(&self, id: &str) -> Result<SnapshotDir> {
        let mut now = self.lock();
        let incoming = now.as_ref().filter(|incoming| incoming.id == id).ok_or_else(other)?;
        if let Some(part) = incoming.files.iter().find(|part| part.have < part.len) {
            return Err(Error::invalid(format!("of {} only {} bytes have come", part.name, part.have)));
        }
        sync_dir(&self.dir.join("state"))?;
        sync_dir(&self.dir)?;
        *now = None;
        let number = self.finished.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.with_file_name(format!("{COMPLETE}{number}"));
        fs::rename(&self.dir, &path)
            .map_err(|error| Error::io(format!("moving a snapshot to {}", path.display()), error))?;
        Ok(SnapshotDir { path })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join("state").join(name)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Incoming>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes what is left of a snapshot that was installed, or that Raft had no use for.
pub(super) fn discard(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", dir.display()), error))
        }
        _ => Ok(()),
    }
}

fn other() -> Error {
    Error::unavailable("another snapshot is coming in, or none: begin anew")
}

impl Incoming {
    fn is(&self, id: &str, files: &[pb::SnapshotFile]) -> bool {
        let same = |(part, file): (&Part, &pb::SnapshotFile)| part.name == file.name && part.len == file.len;
        self.id == id && self.files.len() == files.len() && self.files.iter().zip(files).all(same)
    }
}

impl Part {
    fn new(file: pb::SnapshotFile) -> Result<Self> {
        let pb::SnapshotFile { name, len } = file;
        let mut parts = Path::new(&name).components();
        match (parts.next(), parts.next()) {
            (Some(Component::Normal(one)), None) if one == name.as_str() => Ok(Self { name, len, have: 0 }),
            _ => Err(Error::invalid(format!("{name:?} is not the name of a snapshot's file"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, len: u64) -> pb::SnapshotFile {
        pb::SnapshotFile { name: name.to_owned(), len }
    }

    fn chunk(file: &str, offset: u64, data: &'static [u8]) -> pb::SendChunkRequest {
        let (id, file, sum) = ("1".to_owned(), file.to_owned(), sum(data));
        pb::SendChunkRequest { envelope: None, id, file, offset, data: data.into(), sum }
    }

    #[test]
    fn a_snapshot_goes_on_where_it_was_cut_and_is_whole_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let receiving = Receiving::new(dir.path().join("receiving"));
        let files = || vec![file("a", 6), file("empty", 0)];
        receiving.begin("1", files()).unwrap();
        assert_eq!(receiving.chunk(&chunk("a", 0, b"abc")).unwrap(), 3);
        assert!(receiving.finish("1").is_err());
        assert_eq!(receiving.begin("1", files()).unwrap()[0].len, 3, "it goes on");
        assert_eq!(receiving.chunk(&chunk("a", 0, b"abc")).unwrap(), 3, "twice is once");
        assert_eq!(receiving.chunk(&chunk("a", 5, b"f")).unwrap(), 3, "not in turn");
        assert_eq!(receiving.chunk(&chunk("a", 3, b"defghi")).unwrap(), 3, "more than was announced");
        let damaged =
            pb::SendChunkRequest { data: bytes::Bytes::from_static(b"dex"), ..chunk("a", 3, b"def") };
        assert!(receiving.chunk(&damaged).is_err());
        assert_eq!(receiving.chunk(&chunk("a", 3, b"def")).unwrap(), 6);
        let done = receiving.finish("1").unwrap();
        assert_eq!(fs::read(done.path.join("state/a")).unwrap(), b"abcdef");
        assert_eq!(fs::read(done.path.join("state/empty")).unwrap(), b"");
        assert!(receiving.finish("1").is_err(), "once only");
        assert_eq!(receiving.begin("2", files()).unwrap()[0].len, 0, "another one begins anew");
    }

    #[test]
    fn names_that_lead_out_of_the_directory_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let receiving = Receiving::new(dir.path().join("receiving"));
        for name in ["..", "../x", "/etc/x", "a/b", "", ".", "a/"] {
            assert!(receiving.begin("1", vec![file(name, 1)]).is_err(), "{name:?}");
        }
    }
}
