//! Sends a snapshot to a node that the log cannot bring up to date: file by file, in chunks. What has
//! arrived there before a connection broke is not sent again.

use super::{
    client::{CALL_DEADLINE, Client, Link, Use},
    wire,
};
use crate::raft::types::{SnapshotDir, Types, encode_membership};
use openraft::{Snapshot, SnapshotMeta, Vote};
use siphasher::sip::SipHasher13;
use sitefs_base::{Error, Result};
use sitefs_proto::{error_from_status, peer as pb};
use std::{
    fs::{self, File},
    hash::Hasher,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::timeout;
use tonic::{Response, Status};

/// Bytes of a file in one message.
const CHUNK: usize = 512 << 10;
/// How long a node may take to make a received snapshot its state.
const INSTALL_DEADLINE: Duration = Duration::from_secs(120);

/// Sends it; the vote of the other node after that.
pub(super) async fn send_snapshot(
    link: &Link,
    vote: Vote<u64>,
    snapshot: Snapshot<Types>,
) -> Result<Vote<u64>> {
    let Snapshot { meta, snapshot } = snapshot;
    let copy = off_thread(move || Copy::of(&snapshot)).await?;
    let sender = Sender { link, client: link.client(Use::Bulk)?, id: meta.snapshot_id.clone() };
    for have in sender.begin(&copy.files).await? {
        if have.have < have.len {
            sender.file(&copy.dir, have).await?;
        }
    }
    sender.install(vote, meta).await
}

/// Links to the files of a snapshot: a newer snapshot may take its place meanwhile.
struct Copy {
    dir: PathBuf,
    files: Vec<pb::SnapshotFile>,
}

impl Copy {
    fn of(snapshot: &SnapshotDir) -> Result<Self> {
        let from = snapshot.path.join("state");
        let doing = |error| Error::io(format!("reading the snapshot {}", from.display()), error);
        // Not the name of a snapshot, and another one for each time.
        let unique = format!("sending-{:?}", std::time::Instant::now())
            .replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let mut copy = Self { dir: snapshot.path.with_file_name(unique), files: Vec::new() };
        fs::create_dir(&copy.dir).map_err(doing)?;
        for entry in fs::read_dir(&from).map_err(doing)? {
            let entry = entry.map_err(doing)?;
            let name = entry.file_name();
            fs::hard_link(entry.path(), copy.dir.join(&name)).map_err(doing)?;
            let len = entry.metadata().map_err(doing)?.len();
            copy.files.push(pb::SnapshotFile { name: name.to_string_lossy().into_owned(), len });
        }
        copy.files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // What is left goes at the next start.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A file, and how much of it has arrived.
struct Have {
    name: String,
    have: u64,
    len: u64,
}

struct Sender<'a> {
    link: &'a Link,
    client: Client,
    id: String,
}

impl Sender<'_> {
    async fn begin(&self, files: &[pb::SnapshotFile]) -> Result<Vec<Have>> {
        let (envelope, id) = (Some(self.link.envelope()?), self.id.clone());
        let request = pb::BeginSnapshotRequest { envelope, id, files: files.to_vec() };
        let reply = answer(CALL_DEADLINE, self.client.clone().begin_snapshot(request)).await?;
        let have = |file: &pb::SnapshotFile| {
            let there = reply.have.iter().find(|there| there.name == file.name);
            Have { name: file.name.clone(), have: there.map_or(0, |there| there.len), len: file.len }
        };
        Ok(files.iter().map(have).collect())
    }

    async fn file(&self, dir: &Path, file: Have) -> Result<()> {
        let Have { name, mut have, len } = file;
        while have < len {
            let (path, offset) = (dir.join(&name), have);
            let size = usize::try_from(len - offset).unwrap_or(CHUNK).min(CHUNK);
            let data = off_thread(move || read(&path, offset, size)).await?;
            let sum = sum(&data);
            let request = pb::SendChunkRequest {
                envelope: Some(self.link.envelope()?),
                id: self.id.clone(),
                file: name.clone(),
                offset,
                data: data.into(),
                sum,
            };
            let reply = answer(CALL_DEADLINE, self.client.clone().send_chunk(request)).await?;
            if reply.have <= offset || reply.have > len {
                return Err(Error::invalid(format!(
                    "of {name} {offset} bytes were sent, then {size}, and {} are there",
                    reply.have
                )));
            }
            have = reply.have;
        }
        Ok(())
    }

    async fn install(
        &self,
        vote: Vote<u64>,
        meta: SnapshotMeta<u64, crate::raft::member::Member>,
    ) -> Result<Vote<u64>> {
        let request = pb::InstallSnapshotRequest {
            envelope: Some(self.link.envelope()?),
            id: self.id.clone(),
            vote: Some(wire::to_vote(vote)),
            last_log: meta.last_log_id.map(wire::to_log_id),
            membership: encode_membership(&meta.last_membership)?.into(),
        };
        let reply = answer(INSTALL_DEADLINE, self.client.clone().install_snapshot(request)).await?;
        wire::from_vote(reply.vote)
    }
}

async fn answer<T>(
    deadline: Duration,
    call: impl Future<Output = std::result::Result<Response<T>, Status>>,
) -> Result<T> {
    let late = |_| Error::unavailable("the node that a snapshot is sent to does not answer");
    let reply = timeout(deadline, call).await.map_err(late)?;
    reply.map(Response::into_inner).map_err(|status| error_from_status(&status))
}

fn read(path: &Path, offset: u64, size: usize) -> Result<Vec<u8>> {
    let mut data = vec![0; size];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut data, offset));
    read.map_err(|error| Error::io(format!("reading {}", path.display()), error))?;
    Ok(data)
}

/// By which a chunk is recognised.
pub(super) fn sum(data: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(data);
    hasher.finish()
}

/// Files are read and written on threads that may wait.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|join| Error::internal("working on a snapshot's files").because(join))?
}
