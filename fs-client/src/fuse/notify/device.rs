//! The kernel behind `/dev/fuse`.

use super::Kernel;
use crate::fs::{Queue, Teller};
use fuser::INodeNo;
use sitefs_base::op::Place;
use sitefs_base::{Clock, InodeId};
use std::{
    fs::File,
    io::{self, Write},
    os::fd::OwnedFd,
    sync::{Arc, Weak},
};

/// FUSE_NOTIFY_INVAL_ENTRY and its flag FUSE_EXPIRE_ONLY, as in the kernel's fuse.h: the next walk
/// asks again, and what is below the name keeps its pages, mounts and working directories.
const NOTIFY_INVAL_ENTRY: i32 = 3;
const EXPIRE_ONLY: u32 = 1;

/// A FUSE session.
pub struct Device {
    kernel: fuser::Notifier,
    device: File,
}

impl Device {
    /// Notifies through `kernel`; `device` is a duplicate of the session's descriptor.
    pub fn new(kernel: fuser::Notifier, device: OwnedFd) -> Self {
        Self { kernel, device: File::from(device) }
    }

    /// Starts the threads that tell the kernel what comes out of `queue`, until its other end is dropped.
    pub fn start(self, teller: Weak<dyn Teller>, clock: Arc<dyn Clock>, queue: Queue) -> io::Result<()> {
        super::start(self, teller, clock, queue)
    }
}

impl Kernel for Device {
    fn attributes(&self, ino: InodeId) {
        drop(self.kernel.inval_inode(INodeNo(ino.get()), -1, 0));
    }

    fn listing(&self, dir: InodeId) {
        drop(self.kernel.inval_inode(INodeNo(dir.get()), 0, 0));
    }

    fn expire(&self, place: &Place) {
        drop((&self.device).write_all(&expire_message(place)));
    }
}

fn expire_message(place: &Place) -> Vec<u8> {
    let name = place.name.as_bytes();
    let len = 16 + 16 + name.len() + 1;
    let mut message = Vec::with_capacity(len);
    message.extend_from_slice(&u32::try_from(len).unwrap_or(0).to_ne_bytes());
    message.extend_from_slice(&NOTIFY_INVAL_ENTRY.to_ne_bytes());
    message.extend_from_slice(&0u64.to_ne_bytes());
    message.extend_from_slice(&place.parent.get().to_ne_bytes());
    message.extend_from_slice(&u32::try_from(name.len()).unwrap_or(0).to_ne_bytes());
    message.extend_from_slice(&EXPIRE_ONLY.to_ne_bytes());
    message.extend_from_slice(name);
    message.push(0);
    message
}
