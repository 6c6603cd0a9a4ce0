//! The mount.
//!
//! `fuse` is the thin edge to the kernel and the only user of fuser; `fs` holds the file operations;
//! `meta` the session with the cell and what is cached of it; `data` the working copies, the blob
//! reads and the commits; `journal` what close() accepted while the cell was away. `fs` knows `meta`, `data`
//! and `journal`; none of them knows `fs` or `fuse`. `metrics` is what they count, `status` reads it,
//! `control` lets other processes ask for it, `cache` shows the disk cache to them.

mod cache;
mod control;
mod data;
mod ended;
mod fs;
mod fuse;
pub mod journal;
mod meta;
mod metrics;
mod mount;
mod status;

pub use cache::{CacheReport, Idle as IdleCache, InUse as CacheInUse};
pub use control::Control;
pub use fs::Owner;
pub use fuse::{Atime, KernelFlags};
pub use mount::{DRAIN_MAX, JournalConfig, Mount, MountConfig, MountOptions};
pub use status::STATUS_XATTR;
