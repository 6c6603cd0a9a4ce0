//! The metadata cell.
//!
//! `state` decides every mutation purely; `store` keeps the rows in RocksDB; `raft` orders and
//! replicates commands; `horizons` bounds history; `backup` copies the state elsewhere
//! and makes it a cell again; `grant` signs access to blobs and moves them; `gc` deletes what nothing
//! names; `fsck` checks rows and objects;
//! `rpc` converts between the wire and domain types; `reap` removes what has lost its name; `metrics` shows
//! what is counted; `reign` is the time in which this node leads; `server` puts them together. A module may use
//! those named before it, never one behind it.

mod backend;
pub mod backup;
mod fsck;
mod gc;
mod grant;
mod horizons;
mod metrics;
pub mod raft;
mod reap;
mod reign;
mod rpc;
pub mod server;
pub mod state;
pub mod store;
