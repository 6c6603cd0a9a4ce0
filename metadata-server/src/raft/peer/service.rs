//! Answers other nodes, on Raft's own threads.

use super::{
    Gate,
    meet::Meetings,
    receiving::{Receiving, discard},
    sending::off_thread,
    wire::{self, Described, from_log_id},
};
use crate::raft::types::{Raft, decode_membership};
use openraft::{Snapshot, SnapshotMeta};
use sitefs_base::{Error, NodeId, Result, Tasks};
use sitefs_proto::{
    PEER_MESSAGE_MAX,
    peer::{
        self as pb,
        peer_server::{Peer, PeerServer},
    },
    status_from_error,
};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

/// How long a call may take here; who called gives up earlier.
const DEADLINE: Duration = Duration::from_secs(120);
/// How long calls that are under way may take when this node stops.
const GOODBYE: Duration = Duration::from_secs(1);
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Calls of one connection at a time.
const CONCURRENT: u32 = 64;

/// The service of that name.
#[derive(Clone)]
pub(in crate::raft) struct PeerService {
    gate: Arc<Gate>,
    /// Gone once this node stops: connections may stay a little longer, the databases must not.
    meetings: Arc<Mutex<Option<Meetings>>>,
    receiving: Arc<Receiving>,
}

impl PeerService {
    /// Snapshots come in at `receiving`.
    pub(in crate::raft) fn new(gate: Arc<Gate>, meetings: Meetings, receiving: PathBuf) -> Self {
        let meetings = Arc::new(Mutex::new(Some(meetings)));
        Self { gate, meetings, receiving: Arc::new(Receiving::new(receiving)) }
    }

    fn raft(&self, envelope: Option<&pb::Envelope>) -> Result<&Raft> {
        self.gate.admit(envelope)?;
        self.gate.raft()
    }

    async fn appended(&self, request: pb::AppendRequest) -> Result<pb::AppendReply> {
        let raft = self.raft(request.envelope.as_ref())?;
        let response = raft.append_entries(wire::from_append(request)?).await;
        response.map(wire::to_appended).map_err(ended)
    }

    async fn voted(&self, request: pb::VoteRequest) -> Result<pb::VoteReply> {
        let raft = self.raft(request.envelope.as_ref())?;
        let response = raft.vote(wire::from_vote_request(request)?).await;
        response.map(wire::to_voted).map_err(ended)
    }

    async fn begun(&self, request: pb::BeginSnapshotRequest) -> Result<pb::BeginSnapshotReply> {
        self.gate.admit(request.envelope.as_ref())?;
        let receiving = self.receiving.clone();
        let have = off_thread(move || receiving.begin(&request.id, request.files)).await?;
        Ok(pb::BeginSnapshotReply { have })
    }

    async fn taken(&self, request: pb::SendChunkRequest) -> Result<pb::SendChunkReply> {
        self.gate.admit(request.envelope.as_ref())?;
        let receiving = self.receiving.clone();
        let have = off_thread(move || receiving.chunk(&request)).await?;
        Ok(pb::SendChunkReply { have })
    }

    async fn installed(&self, request: pb::InstallSnapshotRequest) -> Result<pb::InstallSnapshotReply> {
        let raft = self.raft(request.envelope.as_ref())?;
        let vote = wire::from_vote(request.vote)?;
        let meta = SnapshotMeta {
            last_log_id: request.last_log.map(from_log_id),
            last_membership: decode_membership(&request.membership)?,
            snapshot_id: wire::text(request.id.clone())?,
        };
        let receiving = self.receiving.clone();
        let snapshot = Box::new(off_thread(move || receiving.finish(&request.id)).await?);
        let path = snapshot.path.clone();
        let response = raft.install_full_snapshot(vote, Snapshot { meta, snapshot }).await;
        // While Raft ends it may still be at work there.
        if response.is_ok()
            && let Err(error) = off_thread(move || discard(&path)).await
        {
            tracing::warn!(error = error.chain(), "a received snapshot is left until the next start");
        }
        response.map(|done| pb::InstallSnapshotReply { vote: Some(wire::to_vote(done.vote)) }).map_err(ended)
    }

    fn met(&self, request: pb::MeetRequest) -> Result<pb::MeetReply> {
        let from = self.gate.greet(request.envelope.as_ref())?;
        let report = wire::from_report(request.report)?;
        if report.node != from.get() {
            return Err(Error::invalid("a node reports about another one"));
        }
        let meetings = self.meetings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let meetings = meetings.ok_or_else(|| Error::unavailable("this node is stopping"))?;
        let remembered = meetings.hear(report)?;
        Ok(pb::MeetReply { report: Some(meetings.own()?.into()), remembered: Some(remembered.into()) })
    }

    async fn described(&self, request: pb::DescribeRequest) -> Result<pb::DescribeReply> {
        if request.cell != self.gate.cell || (request.node != 0 && request.node != self.gate.node.get()) {
            return Err(Error::denied(format!(
                "this is {} of cell {}, not node:{} of cell {}",
                self.gate.node, self.gate.cell, request.node, request.cell
            )));
        }
        let used = self.gate.raft()?.is_initialized().await.map_err(ended)?;
        let (cell, node) = (self.gate.cell.clone(), NodeId::new(self.gate.node.get()));
        Ok(Described { cell, node, member: self.gate.own.clone(), used }.into())
    }
}

fn ended(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::unavailable("Raft has ended here").because(error)
}

fn answer<T>(result: Result<T>) -> std::result::Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| {
        tracing::debug!(error = error.chain(), "a node is refused");
        status_from_error(&error)
    })
}

type Answer<T> = std::result::Result<Response<T>, Status>;

#[tonic::async_trait]
impl Peer for PeerService {
    async fn append(&self, request: Request<pb::AppendRequest>) -> Answer<pb::AppendReply> {
        answer(self.appended(request.into_inner()).await)
    }

    async fn vote(&self, request: Request<pb::VoteRequest>) -> Answer<pb::VoteReply> {
        answer(self.voted(request.into_inner()).await)
    }

    async fn begin_snapshot(
        &self,
        request: Request<pb::BeginSnapshotRequest>,
    ) -> Answer<pb::BeginSnapshotReply> {
        answer(self.begun(request.into_inner()).await)
    }

    async fn send_chunk(&self, request: Request<pb::SendChunkRequest>) -> Answer<pb::SendChunkReply> {
        answer(self.taken(request.into_inner()).await)
    }

    async fn install_snapshot(
        &self,
        request: Request<pb::InstallSnapshotRequest>,
    ) -> Answer<pb::InstallSnapshotReply> {
        answer(self.installed(request.into_inner()).await)
    }

    async fn meet(&self, request: Request<pb::MeetRequest>) -> Answer<pb::MeetReply> {
        answer(self.met(request.into_inner()))
    }

    async fn describe(&self, request: Request<pb::DescribeRequest>) -> Answer<pb::DescribeReply> {
        answer(self.described(request.into_inner()).await)
    }
}

/// Serves on `listener` until `stop`.
pub(in crate::raft) fn listen(
    tasks: &Tasks,
    listener: std::net::TcpListener,
    service: PeerService,
    stop: CancellationToken,
) -> Result<()> {
    let failed = |error| Error::io("listening to other nodes", error);
    listener.set_nonblocking(true).map_err(failed)?;
    let incoming =
        TcpIncoming::from(TcpListener::from_std(listener).map_err(failed)?).with_nodelay(Some(true));
    let meetings = service.meetings.clone();
    let service = PeerServer::new(service)
        .max_decoding_message_size(PEER_MESSAGE_MAX)
        .max_encoding_message_size(PEER_MESSAGE_MAX);
    let router = Server::builder()
        .timeout(DEADLINE)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .initial_stream_window_size(2 << 20)
        .initial_connection_window_size(4 << 20)
        .max_concurrent_streams(CONCURRENT)
        .add_service(service);
    tasks.spawn(async move {
        let stopped = async {
            stop.cancelled().await;
            tokio::time::sleep(GOODBYE).await;
        };
        tokio::select! {
            served = router.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned()) => {
                if let Err(error) = served {
                    tracing::error!(%error, "the listener for other nodes ended");
                }
            }
            () = stopped => {}
        }
        *meetings.lock().unwrap_or_else(PoisonError::into_inner) = None;
    });
    Ok(())
}
