//! The pure state machine: `apply` decides mutations, `query` answers questions.
//!
//! Nothing here sees a clock, randomness, I/O or async code. The leader stamps the time into the
//! command; rows are read and written through [`View`].

mod command;
mod view;

pub use command::{Applied, Command, CommandBody, Reply, VolumeLimits};
pub use view::{Family, Read, View};
