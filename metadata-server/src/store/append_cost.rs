//! What an append costs on the real store: a measurement, run by hand.

use super::{LogPosition, Store, StoreOptions};
use crate::state::{self, Applied, Command, CommandBody, Joined, MergeStep, Reply, VolumeLimits};
use rustix::time::{ClockId, clock_gettime};
use sitefs_base::{
    Digest, Extent, FileKind, GroupId, Incarnation, InodeId, Name, OpId, SessionId, Time, VolumeId,
    limits::CHUNK_SIZE,
    op::{
        BlobWanted, ChunkLayout, Commit, Create, Credit, Extra, Grant, NewContent, Op, OpEnvelope, Place,
        SetAttr, Uploaded,
    },
};
use std::time::Duration;

const VOLUME: VolumeId = VolumeId::new(1);
const SESSION: SessionId = SessionId::new(1);
const CHUNKS: u32 = 25;
const APPENDS: u32 = 10_000;

struct Bench {
    store: Store,
    at: Time,
    index: u64,
    spent: Duration,
}

impl Bench {
    /// Applies a command as the state machine does; counts the CPU time of this thread.
    fn run(&mut self, body: CommandBody) -> Applied {
        self.at = self.at.plus(Duration::from_millis(100));
        self.index += 1;
        let (command, position) =
            (Command { at: self.at, body }, LogPosition { term: 1, node: 1, index: self.index });
        let start = clock_gettime(ClockId::ThreadCPUTime);
        let applied = self
            .store
            .transact(|txn| {
                txn.set_applied(position);
                state::apply(txn, &command)
            })
            .unwrap();
        let end = clock_gettime(ClockId::ThreadCPUTime);
        let nanos = (end.tv_sec - start.tv_sec) * 1_000_000_000 + (end.tv_nsec - start.tv_nsec);
        self.spent += Duration::from_nanos(u64::try_from(nanos).unwrap());
        applied
    }

    fn op(&mut self, body: Op) -> Applied {
        let op = OpId::new(self.index);
        let envelope = OpEnvelope { session: SESSION, op, ack_below: op, body };
        self.run(CommandBody::Op { volume: VOLUME, envelope, credit: Credit::NONE })
    }

    fn outcome(&mut self, body: Op) -> sitefs_base::op::Outcome {
        match self.op(body).reply.unwrap() {
            Reply::Op(outcome) => *outcome,
            other => panic!("{other:?}"),
        }
    }
}

fn begin(store: Store) -> Bench {
    let mut bench = Bench { store, at: Time::new(1000, 0), index: 0, spent: Duration::ZERO };
    let (group, incarnation) = (GroupId::new(1), Incarnation::new(1));
    bench.run(CommandBody::Init { cell: "bench".into(), group, incarnation });
    let (name, limits) = ("acme/live".parse().unwrap(), VolumeLimits { bytes: 1 << 40, inodes: 1 << 20 });
    bench.run(CommandBody::CreateVolume { name, limits, uid: 0, gid: 0, mode: 0o755 });
    bench.run(CommandBody::OpenSession { volume: VOLUME, session: SESSION, at: None });
    bench
}

/// A file of 100 MiB, a blob for each chunk.
fn large_file(bench: &mut Bench) -> InodeId {
    let at = Place { parent: InodeId::ROOT, name: Name::new(b"log".as_slice()).unwrap() };
    let create = Create { mode: 0o644, umask: 0, uid: 0, gid: 0 };
    let ino = bench.outcome(Op::Mknod { at, kind: FileKind::File, rdev: 0, create }).ino.unwrap();
    let len = u32::try_from(CHUNK_SIZE).unwrap();
    let digest = |chunk: u32| Digest::new([u8::try_from(chunk).unwrap(); 64]);
    let blobs = (0..CHUNKS).map(|chunk| BlobWanted { digest: digest(chunk), len }).collect();
    let Extra::Grants(grants) = bench.outcome(Op::Grant { blobs }).extra else { panic!("no grants") };
    let upload = |(chunk, grant): (u32, Grant)| match grant {
        Grant::Upload { generation, .. } => Uploaded { digest: digest(chunk), generation },
        Grant::Have => panic!("new blobs are uploaded"),
    };
    let layout = |chunk| ChunkLayout {
        chunk,
        extents: vec![Extent {
            offset: u64::from(chunk) * CHUNK_SIZE,
            len,
            digest: digest(chunk),
            blob_offset: 0,
        }],
    };
    let content = NewContent::Chunks {
        size: u64::from(CHUNKS) * CHUNK_SIZE,
        changed: (0..CHUNKS).map(layout).collect(),
    };
    bench.outcome(Op::Commit(Commit {
        ino,
        expect_cver: None,
        content: Some(content),
        set: SetAttr::default(),
        changed: None,
        create: None,
        link: None,
        uploaded: (0..CHUNKS).zip(grants).map(upload).collect(),
    }));
    ino
}

/// Joins the tail as the leader does.
fn merge(bench: &mut Bench, ino: InodeId, text: &[u8]) {
    let (old, _) = state::chunk_layout(&bench.store.reader(), VOLUME, ino, CHUNKS).unwrap().unwrap();
    let bytes = bytes::Bytes::copy_from_slice(text);
    let new = Joined::Hot { digest: sitefs_blobstore::hash(&bytes), bytes };
    let step = MergeStep::Replace { ino, old, new };
    bench.run(CommandBody::Merged { volume: VOLUME, step }).reply.unwrap();
}

#[test]
#[ignore = "a measurement: run it by name with --ignored --nocapture"]
fn cost_of_an_append_to_a_large_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = begin(Store::open(&dir.path().join("state"), StoreOptions::default()).unwrap());
    let ino = large_file(&mut bench);
    let (mut appending, mut merging, mut merges) = (Duration::ZERO, Duration::ZERO, 0);
    let mut text = Vec::new();
    for n in 0..APPENDS {
        let line = format!("{n:>199}\n");
        text.extend_from_slice(line.as_bytes());
        bench.spent = Duration::ZERO;
        let append = Op::Append { ino, bytes: line.into(), changed: None, kill_setid: false };
        let applied = bench.op(append);
        applied.reply.unwrap();
        appending += bench.spent;
        if applied.crowded.is_some() {
            // A run that is full is left alone; here the file is cut, so that there is one run.
            if text.len() > 60_000 {
                text.clear();
                let size = Some(u64::from(CHUNKS) * CHUNK_SIZE);
                bench.outcome(Op::SetAttr { ino, set: SetAttr { size, ..SetAttr::default() } });
                continue;
            }
            bench.spent = Duration::ZERO;
            merge(&mut bench, ino, &text);
            merging += bench.spent;
            merges += 1;
        }
    }
    println!("append of 200 bytes to a file of 100 MiB: {:?} of CPU", appending / APPENDS);
    println!("merge of its tail: {:?} of CPU, {merges} merges", merging / merges);
}
