//! The mount.
//!
//! `fuse` is the thin edge to the kernel and the only user of fuser; `fs` holds the file operations;
//! `meta` the session with the cell and what is cached of it; `data` the working copies, the blob
//! reads and the commits. `fs` knows `meta` and `data`; neither of them knows `fs` or `fuse`.

mod data;
mod fs;
mod fuse;
mod meta;
mod mount;

pub use mount::{Mount, MountConfig, MountOptions, MountStatus};
