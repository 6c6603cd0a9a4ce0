//! The cell's gRPC services: thin edges that convert, ask `state` or propose to the group, and
//! convert back.

mod admin;
mod admission;
mod attach;
mod auth;
mod blobs;
mod cell;
mod check;
mod credit;
mod locks;
mod manage;
mod ops;
mod outbox;
mod pace;
mod query;
mod reserve;
mod restore;
mod room;
mod session;
mod sessions;
mod snapshots;
mod watch;

pub(crate) use admin::{AdminService, NewVolume};
pub(crate) use auth::Auth;
pub(crate) use blobs::BlobsService;
pub(crate) use session::SessionService;

use crate::{grant::Blobs, raft::Group, state::CommandBody};
use admission::Admission;
use credit::Credits;
use locks::Locks;
use pace::Paces;
use reserve::Reservations;
use sessions::{Member, Sessions};
use sitefs_base::{Clock, NodeId, Tasks};
use std::sync::{Arc, atomic::AtomicU64};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use watch::Watchers;

/// Who is attached to a cell.
pub(crate) struct Standing {
    /// Sessions with a stream.
    pub sessions: usize,
    /// Those of them that hear of changes.
    pub watchers: usize,
    /// Watchers that do not keep up.
    pub watchers_late: usize,
}

/// What every handler works with.
pub(crate) struct Cell {
    /// This node.
    pub node: NodeId,
    /// Orders mutations and holds the rows.
    pub group: Group,
    /// Moves bytes.
    pub blobs: Arc<Blobs>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Says who is calling.
    pub auth: Auth,
    /// Owns the tasks of all streams.
    pub tasks: Tasks,
    /// Streams and listeners that have not ended.
    pub serving: TaskTracker,
    /// Cancelled when streams are to end.
    pub closing: CancellationToken,
    /// Notified when something has lost its name and waits for removal.
    pub orphaned: Notify,
    sessions: Sessions,
    reserved: Reservations,
    credits: Credits,
    locks: Locks,
    watchers: Watchers,
    paces: Paces,
    admission: Admission,
    /// How many rooms were set aside.
    rooms: AtomicU64,
}

impl Cell {
    /// A cell without sessions.
    pub fn new(node: NodeId, group: Group, blobs: Arc<Blobs>, clock: Arc<dyn Clock>, auth: Auth) -> Self {
        Self {
            node,
            group,
            blobs,
            watchers: Watchers::new(clock.clone()),
            clock,
            auth,
            tasks: Tasks::new(),
            serving: TaskTracker::new(),
            closing: CancellationToken::new(),
            orphaned: Notify::new(),
            sessions: Sessions::default(),
            reserved: Reservations::default(),
            credits: Credits::default(),
            rooms: AtomicU64::new(0),
            locks: Locks::default(),
            paces: Paces::default(),
            admission: Admission::default(),
        }
    }

    /// Who is attached.
    pub fn standing(&self) -> Standing {
        let (watchers, watchers_late) = self.watchers.count();
        Standing { sessions: self.sessions.count(), watchers, watchers_late }
    }

    /// Notes that the attached sessions are in use: a mount that changes nothing for a day must not
    /// be forgotten.
    pub async fn touch_sessions(&self) {
        for Member { volume, session, .. } in self.sessions.members() {
            // One that is forgotten all the same stays so: its next operation says so.
            let body = CommandBody::ResumeSession { volume, session };
            if let Err(error) = self.group.propose(body).await {
                tracing::debug!(error = error.chain(), "session not noted as in use");
                return;
            }
        }
    }
}
