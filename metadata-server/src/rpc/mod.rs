//! The cell's gRPC services: thin edges that convert, ask `state` or propose to the group, and
//! convert back.

mod admin;
mod attach;
mod auth;
mod blobs;
mod ops;
mod outbox;
mod query;
mod reserve;
mod session;
mod sessions;
mod watch;

pub(crate) use admin::AdminService;
pub(crate) use auth::Auth;
pub(crate) use blobs::BlobsService;
pub(crate) use session::SessionService;

use crate::{grant::Blobs, raft::Group};
use reserve::Reservations;
use sessions::Sessions;
use sitefs_base::{Clock, Tasks};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use watch::Watchers;

/// The largest message of the protocol: one blob and what goes with it.
pub(crate) const MESSAGE_MAX: usize = 5 * 1024 * 1024;

/// What every handler works with.
pub(crate) struct Cell {
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
    /// Cancelled when streams are to end.
    pub closing: CancellationToken,
    sessions: Sessions,
    reserved: Reservations,
    watchers: Watchers,
}

impl Cell {
    /// A cell without sessions.
    pub fn new(group: Group, blobs: Arc<Blobs>, clock: Arc<dyn Clock>, auth: Auth) -> Self {
        Self {
            group,
            blobs,
            watchers: Watchers::new(clock.clone()),
            clock,
            auth,
            tasks: Tasks::new(),
            closing: CancellationToken::new(),
            sessions: Sessions::default(),
            reserved: Reservations::default(),
        }
    }
}
