//! The metadata cell.
//!
//! `state` decides every mutation purely; `store` keeps the rows in RocksDB; `raft` orders and
//! replicates commands; `horizons` bounds history; `grant` signs access to blobs and moves them; `gc` deletes what nothing names;
//! `fsck` checks rows and objects;
//! `rpc` converts between the wire and domain types; `reap` removes what has lost its name; `metrics` shows
//! what is counted; `server` puts them together. A module may use those named before it, never one behind it.

mod backend;
mod fsck;
mod gc;
mod grant;
mod horizons;
mod metrics;
pub mod raft;
mod reap;
mod rpc;
pub mod server;
pub mod state;
pub mod store;
