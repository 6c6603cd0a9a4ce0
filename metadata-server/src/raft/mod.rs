//! Orders commands by Raft and applies them to the store (DESIGN D9 to D13).
//!
//! [`Group`] is the handle that everybody else uses. Only this module knows openraft.

mod care;
mod copy;
mod data_dir;
mod group;
mod log;
mod machine;
mod meters;
mod network;
mod payload;
mod proposer;
mod rebirth;
mod reserve;
mod runtime;
mod snapshots;
mod start;
#[cfg(test)]
mod tests;
mod types;
mod versions;

pub(crate) use data_dir::{DataDir, Unfinished, sync_dir, write_durably};
pub use group::{Group, GroupConfig, GroupStatus};
pub(crate) use rebirth::{NewLife, begin_life};
