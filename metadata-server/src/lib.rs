//! The metadata cell.
//!
//! `state` decides every mutation purely; `store` keeps the rows in RocksDB; `raft` orders and
//! replicates commands; `horizons` bounds history; `grant` signs access to blobs and moves them; `rpc` converts between the
//! wire and domain types; `server` puts them together. A module may use those named before it,
//! never one behind it.

mod backend;
mod grant;
mod horizons;
pub mod raft;
mod rpc;
pub mod server;
pub mod state;
pub mod store;
