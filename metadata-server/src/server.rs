//! The metadata cell as a service: one node, its listeners and its loops.

pub use crate::{backend::BackendConfig, fsck::check_stopped, gc::GcConfig, metrics::ServerMetrics};

use crate::{
    fsck::scrub,
    gc::{self, Gc},
    grant::{self, Blobs},
    horizons::Horizons,
    raft::{DataDir, Group, GroupConfig},
    reap::reap,
    rpc::{AdminService, Auth, BlobsService, Cell, NewVolume, SessionService},
    state::{self, CommandBody},
};
use sitefs_base::{
    Clock, Error, GroupId, NodeId, Result, Tasks, Time, VolumeId, VolumeName, limits::SESSION_EXPIRY,
};
use sitefs_blobstore::Backend;
use sitefs_proto::{
    MESSAGE_MAX,
    pb::{admin_server::AdminServer, blobs_server::BlobsServer, session_server::SessionServer},
};
use std::{io::ErrorKind, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{net::TcpListener, time::timeout};
use tonic::transport::{Server as Grpc, server::Router, server::TcpIncoming};

/// A cell of one node has this node and this group.
const NODE: NodeId = NodeId::new(1);
const GROUP: GroupId = GroupId::new(1);
/// How often forgotten sessions are looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(3600);
/// How long open streams and requests may take to end.
const GOODBYE: Duration = Duration::from_secs(5);
/// How often a silent connection is asked for a sign of life, and how long it has for that.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Enough of a blob on the way that a transfer does not wait for window updates.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// Streams and requests of one connection at a time.
const CONCURRENT_REQUESTS: u32 = 256;

/// One blob and what goes with it.
const BLOB_MESSAGE_MAX: usize = 5 * 1024 * 1024;

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
}

/// A running metadata server. Dropping it stops it without saying goodbye; see [`Server::shutdown`].
pub struct Server {
    cell: Arc<Cell>,
    group_tasks: Tasks,
    loops: Tasks,
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
        let group = open_group(&config, data, clock.clone(), group_tasks.clone()).await?;
        config.backend.remember(&config.data_dir)?;

        let gc = Arc::new(Gc::new(group.clone(), backend.clone(), clock.clone(), config.gc.clone()));
        let (blobs, reports) = Blobs::new(group.clone(), backend);
        let cell = Arc::new(Cell::new(NODE, group, (blobs.clone(), gc.clone()), clock, sockets.auth));
        let loops = Tasks::new();
        // At an address of the system's choosing nobody from before finds this node again.
        if config.listen.port() != 0 {
            cell.await_locks()?;
            loops.spawn(cell.clone().end_of_awaiting());
        }
        loops.spawn(grant::drain(blobs.clone()));
        loops.spawn(grant::verify(blobs.clone()));
        loops.spawn(grant::merge_hot(blobs.clone()));
        loops.spawn(grant::merge_stored(blobs.clone()));
        loops.spawn(grant::report_verified(blobs.clone(), reports));
        loops.spawn(scrub(
            cell.group.clone(),
            blobs.backend(),
            cell.clock.clone(),
            config.data_dir.clone(),
            cell.scrub.clone(),
        ));
        loops.spawn(gc::collect(gc));
        loops.spawn(expire_sessions(cell.clone()));
        loops.spawn(reap(cell.clone()));
        loops.spawn(Horizons::new(cell.group.clone(), cell.clock.clone()).run());
        let (local, admin) = (sockets.mounts.1, sockets.admin.1);
        let listeners = Tasks::new();
        listen(&listeners, &cell, sockets.mounts.0, mounts_router(&cell));
        listen(&listeners, &cell, sockets.admin.0, admin_router(&cell));
        tracing::info!(cell = config.cell, %local, %admin, "metadata server ready");
        Ok(Self { cell, group_tasks, loops, listeners, local, admin })
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
        ServerMetrics::of(&self.cell)
    }

    /// Makes the volume unless it is there.
    pub async fn ensure_volume(&self, name: &VolumeName, uid: u32, gid: u32, mode: u16) -> Result<VolumeId> {
        if let Some(volume) = state::volume_by_name(&self.cell.group.reader(), name)? {
            return Ok(volume.id);
        }
        self.cell.create_volume(name, NewVolume::owned_by(uid, gid, mode)).await
    }

    /// Waits until this node must stop, and says why. The process should end then: its storage
    /// failed (DESIGN D13).
    pub async fn failed(&self) -> Error {
        Error::fenced(format!("this node must stop: {}", self.cell.group.poisoned().await))
    }

    /// Ends in order: refuses new work, closes the streams, stops the loops, closes the store.
    pub async fn shutdown(self) -> Result<()> {
        self.cell.closing.cancel();
        self.cell.serving.close();
        if timeout(GOODBYE, self.cell.serving.wait()).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
        self.cell.tasks.shutdown().await;
        self.listeners.shutdown().await;
        self.loops.shutdown().await;
        let closed = self.cell.group.shutdown().await;
        self.group_tasks.shutdown().await;
        closed
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The tasks of streams hold the cell, which owns them: they end by this alone.
        self.cell.closing.cancel();
    }
}

fn auth(config: &ServerConfig) -> Result<Auth> {
    if !config.insecure {
        return Err(Error::invalid(
            "certificates are not built yet: start with insecure = true, on loopback addresses",
        ));
    }
    for address in [config.listen, config.admin_listen] {
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
}

impl Sockets {
    async fn bind(config: &ServerConfig) -> Result<Self> {
        let auth = auth(config)?;
        Ok(Self { auth, mounts: bind(config.listen).await?, admin: bind(config.admin_listen).await? })
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

fn group_config(config: &ServerConfig) -> GroupConfig {
    GroupConfig { dir: config.data_dir.clone(), node: NODE, cell: config.cell.clone(), group: GROUP }
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
    clock: Arc<dyn Clock>,
    tasks: Tasks,
) -> Result<Group> {
    let group = group_config(config);
    tokio::task::spawn_blocking(move || Group::open_in(data, group, clock, tasks))
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

fn mounts_router(cell: &Arc<Cell>) -> Router {
    let session = SessionServer::new(SessionService(cell.clone()))
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX);
    let blobs = BlobsServer::new(BlobsService::new(cell.clone()))
        .max_decoding_message_size(BLOB_MESSAGE_MAX)
        .max_encoding_message_size(BLOB_MESSAGE_MAX);
    grpc().add_service(session).add_service(blobs)
}

fn admin_router(cell: &Arc<Cell>) -> Router {
    grpc().add_service(AdminServer::new(AdminService(cell.clone())))
}

fn listen(tasks: &Tasks, cell: &Arc<Cell>, listener: TcpListener, router: Router) {
    let closing = cell.closing.clone();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    // Tracked, so that a shutdown can let connections end by themselves.
    tasks.spawn(cell.serving.track_future(async move {
        let served = router.serve_with_incoming_shutdown(incoming, closing.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!(%error, "listener ended");
        }
    }));
}

/// Forgets sessions that nobody has used for a day (DESIGN D12).
async fn expire_sessions(cell: Arc<Cell>) {
    loop {
        tokio::time::sleep(EXPIRE_EVERY).await;
        cell.touch_sessions().await;
        let now = cell.clock.now();
        let ago = i64::try_from(SESSION_EXPIRY.as_secs()).unwrap_or(i64::MAX);
        let before = Time::new(now.secs().saturating_sub(ago), now.nanos());
        if let Err(error) = cell.group.propose(CommandBody::ExpireSessions { before }).await {
            tracing::debug!(error = error.chain(), "sessions are left to expire later");
        }
    }
}

#[cfg(test)]
mod tests;
