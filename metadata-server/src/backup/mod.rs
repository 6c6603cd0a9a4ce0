//! Backups (DESIGN D38): the state of the group, made while it serves, in a bucket or a directory.
//!
//! A backup is a manifest and the parts that it names. Parts are named by their digest and by the backup that
//! sent them first; a later one names them again instead of sending them.

mod keep;
mod manifest;
mod names;
mod objects;
mod restore;
mod schedule;
mod send;
#[cfg(test)]
mod tests;

pub use keep::list;
pub use restore::{RestoreFrom, Restored, restore};
pub(crate) use schedule::{Backups, Means};

/// Files are sent in parts of this size.
const PART_MAX: usize = 8 << 20;
/// Names that one listing gives.
const PAGE: usize = 1000;
