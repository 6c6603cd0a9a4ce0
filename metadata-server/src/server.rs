//! The metadata cell as a service: one node, its listeners and its loops.

pub use crate::{backend::BackendConfig, fsck::check_stopped, gc::GcConfig, metrics::ServerMetrics};

use crate::{
    backup::{Backups, Means},
    raft::{Addresses, DataDir, Group, GroupConfig, PeersConfig},
    reign::{Reign, Throne},
    rpc::{Auth, Front, NewVolume, NodesService, OnLeader, SessionService},
    state,
};
use sitefs_base::{Clock, Error, GroupId, NodeId, Result, Tasks, VolumeId, VolumeName};
use sitefs_blobstore::Backend;
use sitefs_proto::{MESSAGE_MAX, cell::nodes_server::NodesServer, pb::session_server::SessionServer};
use std::{collections::BTreeMap, io::ErrorKind, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::{Server as Grpc, server::Router, server::TcpIncoming};

/// The node of a cell of one.
const NODE: NodeId = NodeId::new(1);
/// The one group of a cell.
const GROUP: GroupId = GroupId::new(1);
/// How long open streams and requests may take to end.
const GOODBYE: Duration = Duration::from_secs(5);
/// How often a silent connection is asked for a sign of life, and how long it has for that.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Enough of a blob on the way that a transfer does not wait for window updates.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// Streams and requests of one connection at a time.
const CONCURRENT_REQUESTS: u32 = 256;

/// What a metadata server needs to know.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Log, state and perhaps blobs.
    pub data_dir: PathBuf,
    /// Where mounts connect; port 0 chooses one.
    pub listen: SocketAddr,
    /// Where administration connects; port 0 chooses one.
    pub admin_listen: SocketAddr,
    /// The cell's name.
    pub cell: String,
    /// Where blobs are kept.
    pub backend: BackendConfig,
    /// Callers are believed without certificates; loopback addresses only.
    pub insecure: bool,
    /// How garbage is collected.
    pub gc: GcConfig,
    /// The other nodes, if the cell has or may have some.
    pub peers: Option<PeersOfNode>,
}

/// One node of several.
#[derive(Clone, Debug)]
pub struct PeersOfNode {
    /// This node.
    pub node: NodeId,
    /// Where other nodes connect.
    pub listen: SocketAddr,
    /// Where the nodes are that `cell init` makes a cell of.
    pub nodes: BTreeMap<NodeId, SocketAddr>,
}

/// A running metadata server. Dropping it stops it without saying goodbye; see [`Server::shutdown`].
pub struct Server {
    front: Arc<Front>,
    group_tasks: Tasks,
    /// The only time of leading of a cell of one.
    reign: Option<Reign>,
    /// Those of a cell of several.
    reigns: (TaskTracker, CancellationToken),
    listeners: Tasks,
    local: SocketAddr,
    admin: SocketAddr,
}

impl Server {
    /// Starts a server; it is ready to serve when this returns.
    pub async fn start(config: ServerConfig, clock: Arc<dyn Clock>) -> Result<Self> {
        let sockets = Sockets::bind(&config).await?;
        // Before anything is written there.
        let data = lock_data(&config).await?;
        config.backend.check_same(&config.data_dir)?;
        let backend = config.backend.open(&config.data_dir, clock.clone()).await?;
        Self::serve(config, sockets, data, backend, clock).await
    }

    async fn serve(
        config: ServerConfig,
        sockets: Sockets,
        data: DataDir,
        backend: Arc<dyn Backend>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let group_tasks = Tasks::new();
        let group = open_group(&config, data, sockets.peers, clock.clone(), group_tasks.clone()).await?;
        config.backend.remember(&config.data_dir)?;

        let backups = Arc::new(Backups::new(Means {
            group: group.clone(),
            node: node_of(&config),
            clock: clock.clone(),
            backend: config.backend.text(),
            blobs: backend.clone(),
            bucket: config.backend.vault(clock.clone())?,
        }));
        let front = Arc::new(Front::new(node_of(&config), group, sockets.auth));
        // At an address of the system's choosing nobody from before finds this node again.
        let awaits_locks = config.listen.port() != 0;
        let (gc, data_dir) = (config.gc.clone(), config.data_dir.clone());
        let throne = Throne { front: front.clone(), backend, clock, awaits_locks, gc, data_dir, backups };
        let (reigns, stop) = (TaskTracker::new(), CancellationToken::new());
        let reign = match &config.peers {
            None => Some(throne.begin()?),
            Some(_) => {
                reigns.spawn(throne.follow(stop.clone()));
                None
            }
        };
        let (local, admin) = (sockets.mounts.1, sockets.admin.1);
        let listeners = Tasks::new();
        listen(&listeners, &front, sockets.mounts.0, mounts_router(&front));
        listen(&listeners, &front, sockets.admin.0, admin_router(&front));
        tracing::info!(cell = config.cell, %local, %admin, "metadata server ready");
        Ok(Self { front, group_tasks, reign, reigns: (reigns, stop), listeners, local, admin })
    }

    #[cfg(test)]
    fn cell(&self) -> Arc<crate::rpc::Cell> {
        self.front.cell().unwrap()
    }

    /// Where mounts connect.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Where administration connects.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// What it counts.
    pub fn metrics(&self) -> ServerMetrics {
        ServerMetrics::of(&self.front)
    }

    /// Makes the volume unless it is there.
    pub async fn ensure_volume(&self, name: &VolumeName, uid: u32, gid: u32, mode: u16) -> Result<VolumeId> {
        if let Some(volume) = state::volume_by_name(&self.front.group.reader(), name)? {
            return Ok(volume.id);
        }
        let cell = self.front.cell().ok_or_else(|| Error::unavailable("this node does not lead the cell"))?;
        cell.create_volume(name, NewVolume::owned_by(uid, gid, mode)).await
    }

    /// Waits until this node must stop, and says why. The process should end then: its storage
    /// failed (DESIGN D13).
    pub async fn failed(&self) -> Error {
        Error::fenced(format!("this node must stop: {}", self.front.group.poisoned().await))
    }

    /// Ends in order: refuses new work, closes the streams, stops the loops, closes the store.
    pub async fn shutdown(self) -> Result<()> {
        self.front.closing.cancel();
        self.front.serving.close();
        if timeout(GOODBYE, self.front.serving.wait()).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
        self.listeners.shutdown().await;
        if let Some(reign) = &self.reign {
            reign.end().await;
        }
        let (reigns, stop) = &self.reigns;
        stop.cancel();
        reigns.close();
        reigns.wait().await;
        let closed = self.front.group.shutdown().await;
        self.group_tasks.shutdown().await;
        closed
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The tasks of streams hold the cell, which owns them: they end by this alone.
        self.front.closing.cancel();
        self.reigns.1.cancel();
    }
}

fn auth(config: &ServerConfig) -> Result<Auth> {
    if !config.insecure {
        return Err(Error::invalid(
            "certificates are not built yet: start with insecure = true, on loopback addresses",
        ));
    }
    let peers = config.peers.as_ref().map(|peers| peers.listen);
    for address in [config.listen, config.admin_listen].into_iter().chain(peers) {
        if !address.ip().is_loopback() {
            return Err(Error::invalid(format!(
                "an insecure server listens on loopback addresses only, not on {address}: use 127.0.0.1"
            )));
        }
    }
    Ok(Auth::new(config.insecure))
}

/// The listeners, and whom they let in.
struct Sockets {
    auth: Auth,
    mounts: (TcpListener, SocketAddr),
    admin: (TcpListener, SocketAddr),
    peers: Option<std::net::TcpListener>,
}

impl Sockets {
    async fn bind(config: &ServerConfig) -> Result<Self> {
        let auth = auth(config)?;
        let peers = match &config.peers {
            None => None,
            Some(peers) => Some(into_std(bind(peers.listen).await?.0)?),
        };
        Ok(Self { auth, mounts: bind(config.listen).await?, admin: bind(config.admin_listen).await?, peers })
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let doing = |error: std::io::Error| match error.kind() {
        ErrorKind::AddrInUse => Error::already_exists(format!(
            "{address} is in use: stop the other process or choose another port"
        )),
        _ => Error::io(format!("listening on {address}"), error),
    };
    let listener = TcpListener::bind(address).await.map_err(doing)?;
    let local = listener.local_addr().map_err(doing)?;
    Ok((listener, local))
}

/// Raft's own threads take it over.
fn into_std(listener: TcpListener) -> Result<std::net::TcpListener> {
    listener.into_std().map_err(|error| Error::io("listening to other nodes", error))
}

fn node_of(config: &ServerConfig) -> NodeId {
    config.peers.as_ref().map_or(NODE, |peers| peers.node)
}

fn group_config(config: &ServerConfig) -> GroupConfig {
    let peers = config.peers.as_ref().map(|peers| PeersConfig {
        own: Addresses {
            peers: peers.listen.to_string(),
            sessions: config.listen.to_string(),
            admin: config.admin_listen.to_string(),
        },
        nodes: peers.nodes.iter().map(|(node, address)| (*node, address.to_string())).collect(),
    });
    let (dir, cell) = (config.data_dir.clone(), config.cell.clone());
    GroupConfig { dir, node: node_of(config), cell, group: GROUP, peers }
}

async fn lock_data(config: &ServerConfig) -> Result<DataDir> {
    let group = group_config(config);
    tokio::task::spawn_blocking(move || group.lock())
        .await
        .map_err(|join| Error::internal("locking the data directory").because(join))?
}

/// Opening replays the log, which may take a while: not on an async thread.
async fn open_group(
    config: &ServerConfig,
    data: DataDir,
    peers: Option<std::net::TcpListener>,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
) -> Result<Group> {
    let group = group_config(config);
    tokio::task::spawn_blocking(move || Group::open_in(data, group, peers, clock, tasks))
        .await
        .map_err(|join| Error::internal("opening the group").because(join))?
}

fn grpc() -> Grpc {
    Grpc::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(CONCURRENT_REQUESTS)
}

fn mounts_router(front: &Arc<Front>) -> Router {
    let session = SessionServer::new(SessionService(front.clone()))
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX);
    grpc().add_service(session).add_service(OnLeader::blobs(front.clone()))
}

fn admin_router(front: &Arc<Front>) -> Router {
    let nodes = NodesServer::new(NodesService(front.clone()));
    grpc().add_service(OnLeader::admin(front.clone())).add_service(nodes)
}

fn listen(tasks: &Tasks, front: &Arc<Front>, listener: TcpListener, router: Router) {
    let closing = front.closing.clone();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    // Tracked, so that a shutdown can let connections end by themselves.
    tasks.spawn(front.serving.track_future(async move {
        let served = router.serve_with_incoming_shutdown(incoming, closing.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!(%error, "listener ended");
        }
    }));
}

#[cfg(test)]
mod tests;
