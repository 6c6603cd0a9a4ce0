//! The Raft log of a node: one RocksDB for all groups, with a write-ahead log that one thread
//! syncs (DESIGN D3, D10).

mod db;
mod entry;
mod flusher;
mod group_log;
mod read_only;

pub(super) use db::LogDb;
pub(super) use entry::{decode, encode};
pub(super) use group_log::{GroupLog, LogBytes};
pub(super) use read_only::entries_after;
