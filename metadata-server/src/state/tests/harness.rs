//! A group with one volume, driven like a mount would.

use super::{super::*, invariants};
use bytes::Bytes;
use sitefs_base::{
    Attr, Content, Digest, Errno, Extent, FileKind, Generation, GroupId, Incarnation, Inode, InodeId, Name,
    OpId, Seq, SessionId, SiteId, Time, VolumeId, limits::CHUNK_SIZE, op::*,
};
use std::{collections::HashMap, time::Duration};

pub const ROOT: InodeId = InodeId::ROOT;
pub const SESSION: SessionId = SessionId::new(7);
/// What a full volume answers.
pub const NO_SPACE: Errno = Errno::EDQUOT;
pub const SITE: SiteId = SiteId::new(1);

pub struct Cell {
    pub view: MemoryView,
    pub now: Time,
    pub volume: VolumeId,
    pub session: SessionId,
    next_op: u64,
    numbers: u64,
    pub event: Option<Event>,
    /// The bytes of blobs that were uploaded.
    pub blobs: HashMap<Digest, Vec<u8>>,
}

pub fn place(parent: InodeId, name: &str) -> Place {
    Place { parent, name: Name::new(name.as_bytes()).unwrap() }
}

pub fn root(name: &str) -> Place {
    place(ROOT, name)
}

pub fn by(mode: u16) -> Create {
    Create { mode, umask: 0o022, uid: 10, gid: 20 }
}

pub fn digest(of: u8) -> Digest {
    Digest::new([of; 64])
}

pub fn extent(offset: u64, len: u32, of: u8) -> Extent {
    Extent { offset, len, digest: digest(of), blob_offset: 0 }
}

pub fn hot(of: u8, len: usize) -> NewContent {
    NewContent::Hot { digest: digest(of), bytes: vec![of; len].into() }
}

pub fn inline(text: &str) -> NewContent {
    NewContent::Inline(Bytes::copy_from_slice(text.as_bytes()))
}

pub fn content(ino: InodeId, content: NewContent) -> Commit {
    Commit {
        ino,
        expect_cver: None,
        content: Some(content),
        set: SetAttr::default(),
        create: None,
        link: None,
        changed: None,
        uploaded: Vec::new(),
    }
}

impl Cell {
    pub fn new() -> Self {
        Self::with(VolumeLimits { bytes: 1 << 40, inodes: 1 << 20 })
    }

    pub fn with(limits: VolumeLimits) -> Self {
        let mut cell = Self {
            view: MemoryView::new(),
            now: Time::new(1_000, 0),
            volume: VolumeId::new(1),
            session: SESSION,
            next_op: 1,
            numbers: 0,
            event: None,
            blobs: HashMap::new(),
        };
        let (group, incarnation) = (GroupId::new(1), Incarnation::new(1));
        cell.command(CommandBody::Init { cell: "test".into(), group, incarnation }).unwrap();
        let name = "acme/live".parse().unwrap();
        cell.command(CommandBody::CreateVolume { name, limits, uid: 1, gid: 2, mode: 0o755 }).unwrap();
        cell.open(SESSION);
        cell
    }

    pub fn open(&mut self, session: SessionId) {
        self.session = session;
        self.command(CommandBody::OpenSession { volume: self.volume, session, at: None }).unwrap();
        self.numbers = 0;
    }

    pub fn wait(&mut self, time: Duration) {
        self.now = self.now.plus(time);
    }

    pub fn wait_a_second(&mut self) {
        self.wait(Duration::from_secs(1));
    }

    pub fn command(&mut self, body: CommandBody) -> Result<Reply, Errno> {
        self.now = self.now.next();
        let before = self.view.clone();
        let is_op = matches!(body, CommandBody::Op { .. });
        let applied = apply(&mut self.view, &Command { at: self.now, body }).unwrap();
        if applied.reply.is_err() {
            self.check_nothing_changed(&before, is_op);
        }
        self.event = applied.event.map(|(_, event)| event);
        applied.reply
    }

    /// A refusal leaves every row as it was; that of an operation only the session's own rows differ.
    fn check_nothing_changed(&self, before: &MemoryView, is_op: bool) {
        for family in Family::ALL {
            let keep = |row: &Row| !is_op || family != Family::Meta || !b"COS".contains(&row.0[0]);
            let rows = |view: &MemoryView| view.rows(family).into_iter().filter(keep).collect::<Vec<_>>();
            assert_eq!(rows(&self.view), rows(before), "a refusal changed {}", family.name());
        }
    }

    pub fn envelope(&mut self, body: Op) -> OpEnvelope {
        let op = OpId::new(self.next_op);
        self.next_op += 1;
        OpEnvelope { session: self.session, op, ack_below: op, body }
    }

    pub fn send(&mut self, envelope: OpEnvelope) -> OpResult {
        match self.command(CommandBody::Op { volume: self.volume, envelope, credit: Credit::NONE })? {
            Reply::Op(outcome) => Ok(*outcome),
            other => panic!("{other:?} is no reply to an operation"),
        }
    }

    /// An operation whose growth is promised.
    pub fn op_on_credit(&mut self, body: Op, credit: Credit) -> OpResult {
        let envelope = self.envelope(body);
        match self.command(CommandBody::Op { volume: self.volume, envelope, credit })? {
            Reply::Op(outcome) => Ok(*outcome),
            other => panic!("{other:?} is no reply to an operation"),
        }
    }

    /// An operation without the checks of [`Self::op`], for long stories.
    pub fn command_of(&mut self, body: Op) -> OpResult {
        let envelope = self.envelope(body);
        let at = self.now.next();
        self.now = at;
        let body = CommandBody::Op { volume: self.volume, envelope, credit: Credit::NONE };
        match apply(&mut self.view, &Command { at, body }).unwrap().reply? {
            Reply::Op(outcome) => Ok(*outcome),
            other => panic!("{other:?} is no reply to an operation"),
        }
    }

    pub fn op(&mut self, body: Op) -> OpResult {
        let envelope = self.envelope(body);
        let result = self.send(envelope.clone());
        invariants::check(&self.view, self.volume);
        if !matches!(envelope.body, Op::Grant { .. }) {
            self.check_retry(envelope, &result);
        }
        result
    }

    /// A retry gives the same answer and does nothing.
    fn check_retry(&mut self, envelope: OpEnvelope, result: &OpResult) {
        let (before, at) = (self.view.clone(), self.now.next());
        let body = CommandBody::Op { volume: self.volume, envelope, credit: Credit::NONE };
        let applied = apply(&mut self.view, &Command { at, body }).unwrap();
        let again = applied.reply.map(|reply| match reply {
            Reply::Op(outcome) => *outcome,
            other => panic!("{other:?} is no reply to an operation"),
        });
        assert_eq!((&again, applied.event), (result, None), "a retry is answered alike");
        self.view.put(
            Family::Meta,
            keys::COUNTERS,
            before.get(Family::Meta, keys::COUNTERS).unwrap().unwrap(),
        );
        assert_eq!(self.view, before, "a retry changes nothing");
    }

    pub fn done(&mut self, body: Op) -> InodeId {
        self.op(body).unwrap().ino.unwrap()
    }

    pub fn refused(&mut self, body: Op) -> Errno {
        self.op(body).unwrap_err()
    }

    /// A number of this session's range.
    pub fn number(&mut self) -> InodeId {
        match self.op(Op::AllocInodes { count: 1 }).unwrap().extra {
            Extra::Inodes { first, .. } => first,
            other => panic!("{other:?} is no range"),
        }
    }

    pub fn new_file(&mut self, at: Place, content: Option<NewContent>, exclusive: bool) -> Commit {
        let ino = self.number();
        let link = Some(Publish { at, exclusive });
        Commit {
            ino,
            expect_cver: None,
            content,
            set: SetAttr::default(),
            create: Some(by(0o644)),
            link,
            changed: None,
            uploaded: vec![],
        }
    }

    pub fn write(&mut self, at: Place, content: NewContent) -> InodeId {
        let commit = self.new_file(at, Some(content), false);
        self.done(Op::Commit(commit))
    }

    pub fn file(&mut self, at: Place) -> InodeId {
        self.done(Op::Mknod { at, kind: FileKind::File, rdev: 0, create: by(0o644) })
    }

    pub fn mkdir(&mut self, at: Place) -> InodeId {
        self.done(Op::Mkdir { at, create: by(0o755) })
    }

    pub fn rename(&mut self, from: Place, to: Place, mode: RenameMode) -> OpResult {
        self.op(Op::Rename { from, to, mode })
    }

    pub fn set(&mut self, ino: InodeId, set: SetAttr) -> OpResult {
        self.op(Op::SetAttr { ino, set })
    }

    pub fn grant(&mut self, of: u8, len: u32) -> Grant {
        let blobs = vec![BlobWanted { digest: digest(of), len }];
        match self.op(Op::Grant { blobs }).unwrap().extra {
            Extra::Grants(grants) => grants[0].clone(),
            other => panic!("{other:?} is no grant"),
        }
    }

    pub fn upload(&mut self, of: u8, len: u32) -> Uploaded {
        match self.grant(of, len) {
            Grant::Upload { generation, target: Location::Cell } => {
                Uploaded { digest: digest(of), generation }
            }
            other => panic!("{other:?} is no upload"),
        }
    }

    pub fn slot(&self, upload: &Uploaded) -> Option<UploadSlot> {
        upload_slot(&self.view, (SITE, self.volume), &upload.digest, upload.generation).unwrap()
    }

    pub fn query(&self, question: Query) -> Result<Answer, Errno> {
        query(&self.view, self.volume, &question).unwrap()
    }

    pub fn inode(&self, ino: InodeId) -> Option<Inode> {
        match self.query(Query::Inode { ino }).unwrap().body {
            AnswerBody::Inode(inode) => inode,
            other => panic!("{other:?}"),
        }
    }

    pub fn attr(&self, ino: InodeId) -> Attr {
        self.inode(ino).unwrap().attr
    }

    pub fn lookup(&self, at: Place) -> Option<InodeId> {
        match self.query(Query::Lookup { at }).unwrap().body {
            AnswerBody::Inode(inode) => inode.map(|inode| inode.attr.ino),
            other => panic!("{other:?}"),
        }
    }

    pub fn names(&self, dir: InodeId) -> Vec<String> {
        match self.query(Query::ReadDir { dir, after: None, limit: 1000 }).unwrap().body {
            AnswerBody::Entries { entries, complete: true, .. } => {
                let text = |entry: Entry| String::from_utf8(entry.name.as_bytes().to_vec()).unwrap();
                entries.into_iter().map(text).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn seq(&self) -> Seq {
        volume_info(&self.view, self.volume).unwrap().unwrap().seq
    }

    pub fn usage(&self) -> Usage {
        volume_info(&self.view, self.volume).unwrap().unwrap().usage
    }

    pub fn place_of(&self, of: u8) -> Option<BlobPlace> {
        locate(&self.view, self.volume, &[digest(of)]).unwrap()[0]
    }

    /// A chunk full of bytes of its own, which are uploaded.
    pub fn chunk(&mut self, chunk: u32, of: u8) -> (ChunkLayout, Uploaded) {
        let (offset, len) = (u64::from(chunk) * CHUNK_SIZE, u32::try_from(CHUNK_SIZE).unwrap());
        let bytes = [vec![of; CHUNK_SIZE as usize - 4], chunk.to_be_bytes().to_vec()].concat();
        let digest = sitefs_blobstore::hash(&bytes);
        let blobs = vec![BlobWanted { digest, len }];
        let generation = match self.op(Op::Grant { blobs }).unwrap().extra {
            Extra::Grants(grants) => match grants[0] {
                Grant::Upload { generation, .. } => generation,
                Grant::Have => self.place_of_digest(&digest).unwrap().generation,
            },
            other => panic!("{other:?}"),
        };
        self.blobs.insert(digest, bytes);
        let extents = vec![Extent { offset, len, digest, blob_offset: 0 }];
        (ChunkLayout { chunk, extents }, Uploaded { digest, generation })
    }

    /// The bytes of a blob that an extent shows.
    pub fn bytes_of(&self, extent: &Extent) -> Vec<u8> {
        let place = self.place_of_digest(&extent.digest).unwrap();
        let hot = hot_bytes(&self.view, SITE, place.generation).unwrap();
        let blob = hot.as_ref().or_else(|| self.blobs.get(&extent.digest)).expect("the blob has bytes");
        blob[extent.blob_offset as usize..][..extent.len as usize].to_vec()
    }

    /// The whole content of a file.
    pub fn content(&self, ino: InodeId) -> Vec<u8> {
        let inode = self.inode(ino).unwrap();
        let mut bytes = vec![0; usize::try_from(inode.attr.size).unwrap()];
        if let Content::Inline(inline) = &inode.content {
            bytes.copy_from_slice(inline);
        }
        let AnswerBody::Chunks(chunks) =
            self.query(Query::Chunks { ino, cver: None, first: 0, count: 1024 }).unwrap().body
        else {
            panic!("no chunks")
        };
        for extent in chunks.iter().flat_map(|chunk| &chunk.extents) {
            let at = usize::try_from(extent.offset).unwrap();
            bytes[at..at + extent.len as usize].copy_from_slice(&self.bytes_of(extent));
        }
        bytes
    }

    pub fn place_of_digest(&self, digest: &Digest) -> Option<BlobPlace> {
        locate(&self.view, self.volume, &[*digest]).unwrap()[0]
    }

    pub fn verified(&mut self, uploaded: &Uploaded) {
        let Uploaded { digest, generation } = *uploaded;
        self.command(CommandBody::Verified { site: SITE, digest, generation }).unwrap();
    }

    pub fn drained(&mut self, of: u8, generation: Generation) {
        self.command(CommandBody::Drained { site: SITE, digest: digest(of), generation }).unwrap();
    }
}
