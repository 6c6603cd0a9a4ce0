//! Orders commands by Raft and applies them to the store (DESIGN D9 to D13).
//!
//! [`Group`] is the handle that everybody else uses. Only this module knows openraft.

mod care;
mod data_dir;
mod group;
mod image;
mod log;
mod machine;
mod meters;
mod network;
mod payload;
mod proposer;
mod reserve;
mod runtime;
mod snapshots;
mod start;
#[cfg(test)]
mod tests;
mod types;

pub(crate) use data_dir::DataDir;
pub use group::{Group, GroupConfig, GroupStatus};
pub(crate) use image::stopped;
