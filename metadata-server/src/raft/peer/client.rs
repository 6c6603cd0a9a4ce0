//! Calls to other nodes.

use super::{
    Gate,
    sending::send_snapshot,
    wire::{self, Described},
};
use crate::raft::{member::Member, types::Types};
use openraft::{
    RaftNetwork, RaftNetworkFactory, Snapshot, Vote,
    error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff, RPCOption},
    raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse},
};
use sitefs_base::{Error, NodeId, Result};
use sitefs_proto::{
    PEER_MESSAGE_MAX, error_from_status,
    peer::{self as pb, peer_client::PeerClient},
};
use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
const KEEPALIVE: Duration = Duration::from_secs(5);
/// How soon a node that could not be reached is tried again.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a call that is not Raft's own may take.
pub(super) const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// Connections that are kept.
const CHANNELS_MAX: usize = 64;

pub(super) type Client = PeerClient<Channel>;
type Failed = RPCError<u64, Member, RaftError<u64>>;

/// The way to all other nodes.
#[derive(Clone)]
pub(in crate::raft) struct Peers {
    gate: Arc<Gate>,
    channels: Arc<Mutex<HashMap<(String, Use), Channel>>>,
}

/// What a connection is for: a snapshot must not delay heartbeats.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Use {
    Raft,
    Bulk,
}

/// The way to one node.
pub(in crate::raft) struct Link {
    peers: Peers,
    target: NodeId,
    member: Member,
}

impl Peers {
    pub(in crate::raft) fn new(gate: Arc<Gate>) -> Self {
        Self { gate, channels: Arc::default() }
    }

    /// A client for the node at `address`; it connects when it is used.
    pub(super) fn client(&self, address: &str, what: Use) -> Result<Client> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (address.to_owned(), what);
        if let Some(channel) = channels.get(&key) {
            return Ok(limited(channel.clone()));
        }
        if channels.len() >= CHANNELS_MAX {
            channels.clear();
        }
        let channel = endpoint(address)?.connect_lazy();
        channels.insert(key, channel.clone());
        Ok(limited(channel))
    }
}

fn limited(channel: Channel) -> Client {
    PeerClient::new(channel)
        .max_decoding_message_size(PEER_MESSAGE_MAX)
        .max_encoding_message_size(PEER_MESSAGE_MAX)
}

fn endpoint(address: &str) -> Result<Endpoint> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Error::invalid(format!("{address:?} is not a HOST:PORT")).because(error))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(2 << 20)
        .initial_connection_window_size(4 << 20)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true))
}

/// Asks the node at `address` who it is. Nothing has to run here.
pub(in crate::raft) async fn describe(address: &str, cell: &str) -> Result<Described> {
    let asked = async {
        let mut client = limited(endpoint(address)?.connect_lazy());
        let request = pb::DescribeRequest { cell: cell.to_owned(), node: 0 };
        let reply = client.describe(request).await.map_err(|status| error_from_status(&status))?;
        Described::try_from(reply.into_inner())
    };
    let silent = |_| Error::unavailable("no answer in time");
    let described = timeout(CALL_DEADLINE, asked).await.map_err(silent).flatten();
    described.map_err(|error| error.while_doing(format_args!("asking the node at {address} who it is")))
}

impl RaftNetworkFactory<Types> for Peers {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Member) -> Link {
        Link { peers: self.clone(), target: NodeId::new(target), member: node.clone() }
    }
}

impl Link {
    pub(super) fn gate(&self) -> &Gate {
        &self.peers.gate
    }

    pub(super) fn envelope(&self) -> Result<pb::Envelope> {
        if !self.gate().is_open() {
            return Err(Error::unavailable("this node does not take part yet"));
        }
        self.gate().envelope(self.target, self.member.birth)
    }

    pub(super) fn client(&self, what: Use) -> Result<Client> {
        self.peers.client(&self.member.addresses.peers, what)
    }

    async fn append(&self, rpc: AppendEntriesRequest<Types>) -> Result<AppendEntriesResponse<u64>> {
        let (term, sent) = (rpc.vote.leader_id.term, self.gate().clock.boottime());
        let request = wire::to_append(self.envelope()?, rpc)?;
        let reply = self.client(Use::Raft)?.append(request).await;
        let reply = reply.map_err(|status| error_from_status(&status))?.into_inner();
        let response = wire::from_appended(reply)?;
        if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
            self.gate().contacts.confirmed(self.target.get(), term, sent);
        }
        Ok(response)
    }

    async fn ask_vote(&self, rpc: VoteRequest<u64>) -> Result<VoteResponse<u64>> {
        let request = wire::to_vote_request(self.envelope()?, rpc);
        let reply = self.client(Use::Raft)?.vote(request).await;
        wire::from_voted(reply.map_err(|status| error_from_status(&status))?.into_inner())
    }
}

/// Whatever happened to a call, it is tried again after a moment.
fn unreachable(error: Error) -> Unreachable {
    tracing::debug!(error = error.chain(), "a node was not reached");
    Unreachable::new(&std::io::Error::other(error.chain()))
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> std::result::Result<AppendEntriesResponse<u64>, Failed> {
        self.append(rpc).await.map_err(|error| unreachable(error).into())
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        _option: RPCOption,
    ) -> std::result::Result<VoteResponse<u64>, Failed> {
        self.ask_vote(rpc).await.map_err(|error| unreachable(error).into())
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> std::result::Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = send_snapshot(self, vote, snapshot) => match sent {
                Ok(vote) => Ok(SnapshotResponse { vote }),
                Err(error) => {
                    tracing::warn!(node = %self.target, error = error.chain(), "snapshot not sent");
                    Err(StreamingError::Unreachable(unreachable(error)))
                }
            },
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(AGAIN))
    }
}
