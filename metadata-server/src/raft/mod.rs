//! Orders commands by Raft and applies them to the store (DESIGN D9 to D13).
//!
//! [`Group`] is the handle that everybody else uses. Only this module knows openraft.

mod care;
#[cfg(test)]
mod cluster_tests;
mod copy;
mod data_dir;
mod group;
mod image;
mod lead;
mod log;
mod machine;
mod member;
mod members;
mod meters;
mod payload;
mod peer;
mod proposer;
mod rebirth;
mod recover;
mod reserve;
mod runtime;
mod snapshots;
mod start;
#[cfg(test)]
mod tests;
mod types;
mod versions;

pub(crate) use data_dir::{DataDir, Unfinished, sync_dir, write_durably};
pub use group::{Group, GroupConfig, GroupStatus, PeersConfig};
pub(crate) use image::stopped;
pub use member::{Addresses, Birth, Leader, Standing};
pub use members::{NodeReport, NodeStatus};
pub(crate) use rebirth::{NewLife, begin_life};
pub use recover::{OtherNode, Recovered, Survivor, recover, survey};
