//! The edge to the kernel: converts requests to operations of [`crate::fs`] and back.

mod adapter;
mod asker;
mod backing;
mod capabilities;
mod convert;
mod entries;
mod kernel;
mod lasting;
mod locks;
mod notify;
mod replies;

pub use adapter::Adapter;
pub use kernel::{Atime, KernelFlags, KernelMount, MountArgs};
