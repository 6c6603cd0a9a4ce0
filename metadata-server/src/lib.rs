//! The metadata cell.
//!
//! `state` decides every mutation purely; `store` keeps the rows in RocksDB; `raft` orders and
//! replicates commands; `rpc` converts between the wire and domain types; `grant` signs access
//! to blobs. A module may use those named before it, never one behind it.

pub mod raft;
pub mod state;
pub mod store;
