//! Orders commands by Raft and applies them to the store (DESIGN D9 to D13).
//!
//! [`Group`] is the handle that everybody else uses. Only this module knows openraft.

mod care;
#[cfg(test)]
mod cluster_tests;
mod data_dir;
mod group;
mod lead;
mod log;
mod machine;
mod member;
mod members;
mod meters;
mod payload;
mod peer;
mod proposer;
mod reserve;
mod runtime;
mod snapshots;
mod start;
#[cfg(test)]
mod tests;
mod types;

pub(crate) use data_dir::DataDir;
pub use group::{Group, GroupConfig, GroupStatus, PeersConfig};
pub use member::{Addresses, Birth, Leader, Standing};
pub use members::{NodeReport, NodeStatus};
