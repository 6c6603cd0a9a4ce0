//! A server in a temporary directory, and mounts that are nothing but their protocol.

use super::{super::*, store::TestStore};
use bytes::Bytes;
use sitefs_base::{
    Errno, Incarnation, Inode, InodeId, Name, OpId, Seq, SessionId, SystemClock,
    op::{
        Answer, AnswerBody, Commit, Create, Credit, Event, Extra, NewContent, Op, OpEnvelope, OpResult,
        Place, Publish, Query, SetAttr,
    },
    session::{Attach, Attached, Closing, PROTOCOL_MAX, PROTOCOL_MIN, ToCell, ToMount},
};
use sitefs_proto::pb::{self, session_client::SessionClient};
use std::path::Path;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

pub const OPERATOR: &str = "sitefs://main?role=operator";
pub const WRITER: &str = "sitefs://main/acme/live?role=rw";
pub const READER: &str = "sitefs://main/acme/live?role=ro";

pub fn config(data: &Path) -> ServerConfig {
    ServerConfig {
        data_dir: data.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        admin_listen: "127.0.0.1:0".parse().unwrap(),
        cell: "main".to_owned(),
        backend: BackendConfig::Directory,
        insecure: true,
        gc: GcConfig::default(),
    }
}

pub struct TestCell {
    pub server: Server,
    pub data: TempDir,
}

impl TestCell {
    /// A cell with the volume acme/live.
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    pub async fn start_in(data: TempDir) -> Self {
        let server = Server::start(config(data.path()), Arc::new(SystemClock)).await.unwrap();
        Self::ready(server, data).await
    }

    /// A cell that keeps its blobs there.
    #[cfg(feature = "s3")]
    pub async fn start_with(backend: BackendConfig) -> Self {
        let data = tempfile::tempdir().unwrap();
        let config = ServerConfig { backend, ..config(data.path()) };
        Self::ready(Server::start(config, Arc::new(SystemClock)).await.unwrap(), data).await
    }

    /// A cell whose object store does what the test says.
    pub async fn start_on_test_store() -> (Self, Arc<TestStore>) {
        Self::start_on_test_store_with(GcConfig::default()).await
    }

    pub async fn start_on_test_store_with(gc: GcConfig) -> (Self, Arc<TestStore>) {
        let data = tempfile::tempdir().unwrap();
        let store = TestStore::open(data.path());
        let config = ServerConfig { gc, ..config(data.path()) };
        let sockets = Sockets::bind(&config).await.unwrap();
        let locked = lock_data(&config).await.unwrap();
        let server =
            Server::serve(config, sockets, locked, store.clone(), Arc::new(SystemClock)).await.unwrap();
        (Self::ready(server, data).await, store)
    }

    async fn ready(server: Server, data: TempDir) -> Self {
        server.ensure_volume(&"acme/live".parse().unwrap(), 0, 0, 0o755).await.unwrap();
        Self { server, data }
    }

    /// Stops it; nothing is wrong with what it leaves behind.
    pub async fn stop(self) -> TempDir {
        let data = self.stop_damaged().await;
        let backend = std::fs::read_to_string(data.path().join("backend")).unwrap_or_default();
        if !backend.starts_with("s3") {
            assert_eq!(super::fsck::stopped(data.path()).await.0, []);
        }
        data
    }

    /// Stops one that was damaged on purpose.
    pub async fn stop_damaged(self) -> TempDir {
        self.server.shutdown().await.unwrap();
        self.data
    }

    /// Attaches a new session that may write.
    pub async fn mount(&self, session: u128) -> Mount {
        self.attach(attach(session)).await.unwrap()
    }

    pub async fn attach(&self, request: Attach) -> Result<Mount, Closing> {
        let channel = Channel::from_shared(format!("http://{}", self.server.local_addr())).unwrap();
        let channel = channel.connect().await.unwrap();
        let session = request.session;
        let (frames, outbound) = mpsc::channel(64);
        frames.send(ToCell::Attach(request).into()).await.unwrap();
        let opened = SessionClient::new(channel.clone()).open(ReceiverStream::new(outbound)).await.unwrap();
        let mut inbound = opened.into_inner();
        let attached = match receive(&mut inbound).await {
            Some(ToMount::Attached(attached)) => attached,
            Some(ToMount::Closing(closing)) => return Err(closing),
            other => panic!("{other:?}"),
        };
        let next_op = attached.op_high_water.next();
        Ok(Mount { channel, frames, inbound, attached, session, next_op, next_tag: 1, heard: Vec::new() })
    }
}

pub fn attach(session: u128) -> Attach {
    Attach {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        volume: "acme/live".parse().unwrap(),
        session: SessionId::new(session),
        incarnation: None,
        since: None,
        claimed_identity: WRITER.to_owned(),
        moment: None,
        in_use: Credit::NONE,
        hears_credit: false,
    }
}

/// What a mount gives when it comes back.
pub fn attach_again(session: u128, incarnation: Incarnation, since: Seq) -> Attach {
    Attach { incarnation: Some(incarnation), since: Some(since), ..attach(session) }
}

#[derive(Debug)]
pub struct Mount {
    pub channel: Channel,
    pub attached: Attached,
    pub session: SessionId,
    /// What came that nobody asked for.
    pub heard: Vec<ToMount>,
    frames: mpsc::Sender<pb::ClientFrame>,
    inbound: Streaming<pb::ServerFrame>,
    next_op: OpId,
    next_tag: u64,
}

impl Mount {
    pub async fn send(&self, frame: ToCell) {
        self.frames.send(frame.into()).await.unwrap();
    }

    /// Sends a frame that need not be one that there can be.
    pub async fn send_raw(&self, frame: pb::ClientFrame) {
        self.frames.send(frame).await.unwrap();
    }

    pub async fn next(&mut self) -> Option<ToMount> {
        receive(&mut self.inbound).await
    }

    pub fn envelope(&mut self, body: Op) -> OpEnvelope {
        let op = self.next_op;
        self.next_op = op.next();
        OpEnvelope { session: self.session, op, ack_below: OpId::new(1), body }
    }

    pub async fn op(&mut self, body: Op) -> OpResult {
        let envelope = self.envelope(body);
        self.repeat(envelope).await
    }

    /// Sends an operation with the id it has, and waits for its reply.
    pub async fn repeat(&mut self, envelope: OpEnvelope) -> OpResult {
        let wanted = envelope.op;
        self.send(ToCell::Op(envelope)).await;
        loop {
            match self.next().await {
                Some(ToMount::OpReply { op, result, .. }) if op == wanted => return result,
                Some(other) => self.heard.push(other),
                None => panic!("the stream ended, heard {:?}", self.heard),
            }
        }
    }

    pub async fn ask(&mut self, query: Query) -> std::result::Result<Answer, Errno> {
        let wanted = self.next_tag;
        self.next_tag += 1;
        self.send(ToCell::Query { tag: wanted, query }).await;
        loop {
            match self.next().await {
                Some(ToMount::Answer { tag, result }) if tag == wanted => return result,
                Some(other) => self.heard.push(other),
                None => panic!("the stream ended, heard {:?}", self.heard),
            }
        }
    }

    pub async fn lookup(&mut self, name: &[u8]) -> std::result::Result<Option<Inode>, Errno> {
        match self.ask(Query::Lookup { at: place(name) }).await?.body {
            AnswerBody::Inode(inode) => Ok(inode),
            other => panic!("{other:?}"),
        }
    }

    pub async fn new_inode(&mut self) -> InodeId {
        match self.op(Op::AllocInodes { count: 1 }).await.unwrap().extra {
            Extra::Inodes { first, .. } => first,
            other => panic!("{other:?}"),
        }
    }

    /// Creates a small file in the root.
    pub async fn create(&mut self, name: &[u8], content: &'static [u8]) -> OpResult {
        let ino = self.new_inode().await;
        self.op(commit(ino, name, NewContent::Inline(Bytes::from_static(content)))).await
    }

    /// The events heard so far.
    pub fn events(&self) -> Vec<&Event> {
        let mut events = Vec::new();
        for frame in &self.heard {
            if let ToMount::Event(event) = frame {
                events.push(event);
            }
        }
        events
    }
}

async fn receive(inbound: &mut Streaming<pb::ServerFrame>) -> Option<ToMount> {
    let frame = timeout(Duration::from_secs(20), inbound.message()).await.expect("a frame within 20 s");
    frame.unwrap().map(|frame| ToMount::try_from(frame).unwrap())
}

pub fn place(name: &[u8]) -> Place {
    Place { parent: InodeId::ROOT, name: Name::new(name).unwrap() }
}

pub fn owner() -> Create {
    Create { mode: 0o644, umask: 0o022, uid: 1000, gid: 1000 }
}

/// Publishes a new file in the root.
pub fn commit(ino: InodeId, name: &[u8], content: NewContent) -> Op {
    Op::Commit(Commit {
        ino,
        expect_cver: None,
        content: Some(content),
        set: SetAttr::default(),
        create: Some(owner()),
        link: Some(Publish { at: place(name), exclusive: false }),
        changed: None,
        uploaded: Vec::new(),
    })
}
