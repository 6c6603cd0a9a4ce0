//! What callers meet first: the cell while this node leads it, else the way to who does.

use super::{AdminService, BlobsService, Cell};
use crate::{
    backup::Backups,
    raft::{Group, Leader, Standing},
};
use sitefs_base::{Error, NodeId, session::Closing};
use sitefs_proto::{
    pb::{admin_server::AdminServer, blobs_server::BlobsServer},
    status_from_error,
};
use std::{
    convert::Infallible,
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::NamedService,
};

/// A blob and what goes with it.
const BLOB_MESSAGE_MAX: usize = 5 * 1024 * 1024;

/// What listeners hand their calls to.
pub(crate) struct Front {
    /// This node.
    pub node: NodeId,
    /// Its group.
    pub group: Group,
    /// Says who is calling.
    pub auth: super::Auth,
    /// Streams and listeners that have not ended.
    pub serving: TaskTracker,
    /// Cancelled when everything is to end.
    pub closing: CancellationToken,
    now: RwLock<Option<Serving>>,
}

/// The services of the time in which this node leads.
#[derive(Clone)]
struct Serving {
    cell: Arc<Cell>,
    admin: AdminServer<AdminService>,
    blobs: BlobsServer<BlobsService>,
}

impl Front {
    /// Serves nobody yet.
    pub fn new(node: NodeId, group: Group, auth: super::Auth) -> Self {
        Self {
            node,
            group,
            auth,
            serving: TaskTracker::new(),
            closing: CancellationToken::new(),
            now: RwLock::new(None),
        }
    }

    /// From now on callers meet `cell`.
    pub fn serve(&self, cell: &Arc<Cell>, backups: &Arc<Backups>) {
        let admin = AdminServer::new(AdminService(cell.clone(), backups.clone()));
        let blobs = BlobsServer::new(BlobsService::new(cell.clone()))
            .max_decoding_message_size(BLOB_MESSAGE_MAX)
            .max_encoding_message_size(BLOB_MESSAGE_MAX);
        *self.now.write().unwrap_or_else(PoisonError::into_inner) =
            Some(Serving { cell: cell.clone(), admin, blobs });
    }

    /// From now on they are sent away.
    pub fn retire(&self) {
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The cell, if this node leads it.
    pub fn cell(&self) -> Option<Arc<Cell>> {
        self.serving().map(|serving| serving.cell)
    }

    fn serving(&self) -> Option<Serving> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn leader(&self) -> Option<Leader> {
        leader_of(&self.group)
    }

    /// What a mount is told that came to the wrong node.
    pub fn not_here(&self) -> Closing {
        not_here(&self.group)
    }

    fn elsewhere(&self) -> Error {
        Error::unavailable(match (self.leader(), &*self.group.standing().borrow()) {
            (Some(leader), _) => {
                format!("this node does not lead the cell: ask {} at {}", leader.node, leader.addresses.admin)
            }
            (None, Standing::Waiting) => {
                "this node is not part of a cell: `sitefs cell init` makes one, `sitefs cell add-node` adds it \
                 to one"
                    .to_owned()
            }
            (None, _) => "the cell has no leader that this node knows: try again in a moment".to_owned(),
        })
    }
}

fn leader_of(group: &Group) -> Option<Leader> {
    match &*group.standing().borrow() {
        Standing::Follows(leader) => leader.clone(),
        Standing::Waiting | Standing::Leads { .. } => None,
    }
}

/// How the stream of a mount ends at a node that does not lead.
pub(super) fn not_here(group: &Group) -> Closing {
    Closing::NotHere { leader: leader_of(group).map(|leader| leader.addresses.sessions) }
}

/// A service that only the leader has.
#[derive(Clone)]
pub(crate) struct OnLeader<S> {
    front: Arc<Front>,
    pick: fn(Serving) -> S,
}

impl OnLeader<AdminServer<AdminService>> {
    /// Administration.
    pub fn admin(front: Arc<Front>) -> Self {
        Self { front, pick: |serving| serving.admin }
    }
}

impl OnLeader<BlobsServer<BlobsService>> {
    /// The bytes of blobs.
    pub fn blobs(front: Arc<Front>) -> Self {
        Self { front, pick: |serving| serving.blobs }
    }
}

impl<S: NamedService> NamedService for OnLeader<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for OnLeader<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self.front.serving() {
            Some(serving) => Box::pin((self.pick)(serving).call(request)),
            None => {
                let status = status_from_error(&self.front.elsewhere());
                Box::pin(std::future::ready(Ok(status.into_http())))
            }
        }
    }
}
