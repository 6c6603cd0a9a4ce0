//! Tells the kernel what it must not believe any more, from a thread that no request waits for
//! and that holds no lock.

use crate::fs::{Fs, Notice};
use fuser::INodeNo;
use sitefs_base::op::Place;
use std::{
    fs::File,
    io::Write,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::Receiver,
    },
};

/// FUSE_NOTIFY_INVAL_ENTRY and its flag FUSE_EXPIRE_ONLY, as in the kernel's fuse.h: the next walk
/// asks again, and what is below the name keeps its pages, mounts and working directories.
const NOTIFY_INVAL_ENTRY: i32 = 3;
const EXPIRE_ONLY: u32 = 1;

/// The kernel side of the notices.
pub struct Notifier {
    kernel: fuser::Notifier,
    device: File,
}

impl Notifier {
    /// Notifies through `kernel`; `device` is a duplicate of the session's descriptor.
    pub fn new(kernel: fuser::Notifier, device: OwnedFd) -> Self {
        Self { kernel, device: File::from(device) }
    }

    /// Starts the thread that sends what comes out of `notices`, until the other end is dropped.
    pub fn start(
        mut self,
        fs: Arc<Fs>,
        notices: Receiver<Notice>,
        lost: Arc<AtomicBool>,
    ) -> std::io::Result<()> {
        let run = move || {
            // Only a weak reference: the queue's entrance is in `fs`, and must be able to close.
            let fs = { Arc::downgrade(&fs) };
            for notice in notices {
                if let Some(fs) = fs.upgrade() {
                    fs.notices().taken();
                    if let Notice::Through(seq) = &notice {
                        fs.meta().session().acknowledge(*seq);
                    }
                }
                self.send(&notice);
                if lost.swap(false, Ordering::AcqRel)
                    && let Some(fs) = fs.upgrade()
                {
                    self.send(&Notice::All(fs.known_nodes(), Vec::new()));
                }
            }
        };
        std::thread::Builder::new().name("sitefs-notify".into()).spawn(run).map(drop)
    }

    // An error says that the kernel does not know the inode or name: nothing to take back.
    fn send(&mut self, notice: &Notice) {
        match notice {
            Notice::Attr(ino) => drop(self.kernel.inval_inode(INodeNo(ino.get()), -1, 0)),
            Notice::Listing(ino) => drop(self.kernel.inval_inode(INodeNo(ino.get()), 0, 0)),
            Notice::Name(place) => drop(self.expire(place)),
            Notice::Through(_) => {}
            Notice::All(nodes, names) => {
                for ino in nodes {
                    drop(self.kernel.inval_inode(INodeNo(ino.get()), -1, 0));
                    drop(self.kernel.inval_inode(INodeNo(ino.get()), 0, 0));
                }
                names.iter().for_each(|place| drop(self.expire(place)));
            }
        }
    }

    fn expire(&mut self, place: &Place) -> std::io::Result<()> {
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
        self.device.write_all(&message)
    }
}
