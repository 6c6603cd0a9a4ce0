//! Locks of open files. Whoever gets one finds what those who had it before did: a file is committed
//! before its lock is asked for and before it is given back, and the kernel's older pages go before
//! the program goes on.

use super::{Cx, Fs, Op};
use crate::meta::{Done, LockCall, Stop};
use sitefs_base::limits::METADATA_DEADLINE;
use sitefs_base::lock::{LockAnswer, LockOwner};
use sitefs_base::{InodeId, Seq};
use std::sync::Arc;

impl Fs {
    /// The inode of an open file at the cell.
    pub fn locked_inode(&self, fh: u64) -> Op<InodeId> {
        Ok(self.handle(fh)?.node.state().row)
    }

    /// Commits what this mount changed in an open file. Of a file that it does not know the cell could
    /// not say later which one it is: two mounts may be creating it.
    pub fn settle_locked(&self, cx: Cx, fh: u64) -> Op<()> {
        let node = Arc::clone(&self.handle(fh)?.node);
        {
            let state = node.state();
            if state.gone || !state.is_ahead() {
                return Ok(());
            }
        }
        if cx == Cx::Fast { Err(Stop::WouldBlock) } else { self.commit(&node, super::commit::Purpose::Sync) }
    }

    /// Asks about a lock.
    pub fn ask_lock(&self, call: LockCall, done: Done) {
        self.meta.session().locks().ask(call, done);
    }

    /// An owner closes a descriptor of a file: all that it locked there is free when `done` is called.
    pub fn release_locks(&self, fh: u64, owner: LockOwner, done: Done) {
        match self.locked_inode(fh) {
            Ok(ino) => self.meta.session().locks().release(ino, owner, done),
            Err(_) => done(Ok(LockAnswer::Done)),
        }
    }

    /// What has been heard of other mounts, in the moment in which a lock is granted.
    pub fn heard(&self) -> Seq {
        self.meta.session().applied()
    }

    /// Waits until the kernel was told what had been heard at `seq`, and gives the nodes whose pages it
    /// still has to drop.
    pub fn take_old_pages(&self, row: InodeId, seq: Seq) -> Vec<InodeId> {
        if !self.meta.session().wait_told(seq, METADATA_DEADLINE) {
            tracing::warn!(%seq, "a lock is granted although the kernel may not know of all changes");
        }
        self.show_newest(row);
        let old = |ino: InodeId| {
            let node = self.known_node(ino)?;
            let mut state = node.state();
            std::mem::take(&mut state.pages_are_old).then(|| state.faces.front())
        };
        self.nodes_of(row).filter_map(old).collect()
    }
}
