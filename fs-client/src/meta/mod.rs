//! Metadata: the session with the cell, what is cached of it, and the feed that keeps it true.

mod cache;
mod credit;
mod doubt;
mod lease;
mod listing;
mod locks;
mod recover;
mod remote;
mod route;
mod service;
mod session;

pub use cache::Xattrs;
pub use credit::{Claim, Growth};
pub use lease::watch_lease;
pub use listing::Listing;
pub use locks::{Done, LockCall, Locks};
pub use recover::{Fate, OldSessions};
pub use remote::{CellAddress, attach, keep_attached};
pub use route::{Channel, Route};
pub use service::{Meta, Watcher};
pub use session::{Late, OpKey, Sent, Session};

use sitefs_base::Errno;

/// Whether an operation may wait for the cell. The FUSE thread tries everything with `Fast` first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cx {
    /// Answer from what is here, or say [`Stop::WouldBlock`].
    Fast,
    /// Wait for the cell if necessary.
    Slow,
}

/// Why an operation did not give a result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The program gets this errno.
    Errno(Errno),
    /// Nothing was done: try again with [`Cx::Slow`].
    WouldBlock,
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// The result of a file operation.
pub type Op<T> = Result<T, Stop>;
