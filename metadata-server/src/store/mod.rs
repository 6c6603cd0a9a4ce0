//! The rows of one group in RocksDB (DESIGN D3).
//!
//! There is no write-ahead log: the Raft log is the redo log. All families are flushed together
//! and the applied log position is written in the same batch as the rows, so what a crash leaves
//! is always the exact state at some log position.

mod churn;
mod history;
mod image;
mod keyspace;
mod meta;
mod poison;
mod reader;
mod recent;
pub(crate) mod rocks;
mod scan;
mod state_db;
#[cfg(test)]
mod tests;
mod txn;
mod upkeep;

pub use image::Image;
pub use meta::{LogPosition, StoreMeta};
pub use poison::Poison;
pub use reader::Reader;
pub use state_db::{Store, StoreOptions};
pub use txn::Txn;
