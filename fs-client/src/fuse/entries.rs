//! The two replies that take directory entries, with inodes and without.

use super::convert::{GENERATION, entry_attr, errno, kind, no_entry, ttl};
use crate::fs::{DirItem, Lifetime};
use crate::meta::{Op, Stop};
use fuser::{INodeNo, ReplyDirectory, ReplyDirectoryPlus};
use sitefs_base::Errno;
use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

/// A reply that takes entries until it is full.
pub(super) trait Entries: Send + 'static {
    /// Whether it takes inodes too.
    const PLUS: bool;
    /// Adds an entry, of which the kernel may keep the inode for so long; false when there was no room.
    fn take(&mut self, item: &DirItem<'_>, lifetime: Lifetime) -> bool;
    /// Sends it.
    fn end(self, listed: Op<()>);
}

impl Entries for ReplyDirectory {
    const PLUS: bool = false;

    fn take(&mut self, item: &DirItem<'_>, _lifetime: Lifetime) -> bool {
        !self.add(INodeNo(item.ino.get()), item.cookie, kind(item.kind), OsStr::from_bytes(item.name))
    }

    fn end(self, listed: Op<()>) {
        match listed {
            Ok(()) => self.ok(),
            Err(stop) => self.error(refusal(stop)),
        }
    }
}

impl Entries for ReplyDirectoryPlus {
    const PLUS: bool = true;

    fn take(&mut self, item: &DirItem<'_>, lifetime: Lifetime) -> bool {
        let name = OsStr::from_bytes(item.name);
        !match &item.view {
            Some(view) => {
                let number = INodeNo(view.node.get());
                self.add(number, item.cookie, name, &ttl(lifetime), &entry_attr(view), GENERATION)
            }
            None => {
                // Without a lifetime only number and kind count; programs skip entries without a number.
                let number = INodeNo(item.ino.get());
                let plain = fuser::FileAttr { ino: number, kind: kind(item.kind), ..no_entry() };
                self.add(number, item.cookie, name, &ttl(Lifetime::None), &plain, GENERATION)
            }
        }
    }

    fn end(self, listed: Op<()>) {
        match listed {
            Ok(()) => self.ok(),
            Err(stop) => self.error(refusal(stop)),
        }
    }
}

fn refusal(stop: Stop) -> fuser::Errno {
    match stop {
        Stop::Errno(error) => errno(error),
        Stop::WouldBlock => errno(Errno::EIO),
    }
}
