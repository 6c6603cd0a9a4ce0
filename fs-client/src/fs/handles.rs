//! Handles of open files: counted when they are opened, committed and dropped when they are closed.

use super::commit::Purpose;
use super::node::{Node, NodeState};
use super::{Access, Cx, Fs, Handle, Op, lock};
use crate::data::Loan;
use crate::meta::Stop;
use sitefs_base::InodeId;
use std::sync::Arc;

impl Fs {
    pub(super) fn add_handle(&self, node: &Arc<Node>, access: Access) -> u64 {
        self.count_handle(&mut node.state(), node, (node.ino, access), None)
    }

    /// Adds a handle under the number `face`.
    pub(super) fn count_handle(
        &self,
        state: &mut NodeState,
        node: &Arc<Node>,
        (face, access): (InodeId, Access),
        loan: Option<Arc<Loan>>,
    ) -> u64 {
        state.handles += 1;
        // A time that was set before counts for nothing that is written from now on.
        state.own_mtime = state.own_mtime.filter(|_| state.writers > 0);
        state.writers += u32::from(access.writes());
        state.appenders += u32::from(access == Access::Append);
        let fh = self.new_handle();
        lock(&self.handles).insert(fh, Arc::new(Handle { node: Arc::clone(node), access, face, loan }));
        fh
    }

    /// A descriptor is being closed: what it wrote is committed when this returns, or in the journal.
    pub fn flush(&self, fh: u64) -> Op<()> {
        let handle = self.handle(fh)?;
        if handle.access.writes() { self.commit(&handle.node, Purpose::Close) } else { Ok(()) }
    }

    /// Whether [`Self::flush`] has nothing to do.
    pub fn flush_is_idle(&self, fh: u64) -> bool {
        self.handle(fh).is_ok_and(|handle| !handle.access.writes() || !handle.node.state().is_ahead())
    }

    /// Content and attributes are committed when this returns.
    pub fn fsync(&self, fh: u64) -> Op<()> {
        self.commit(&Arc::clone(&self.handle(fh)?.node), Purpose::Sync)
    }

    /// The last descriptor of a handle is gone. What a mapping wrote after the last flush is
    /// committed now.
    pub fn release(&self, cx: Cx, fh: u64) -> Op<()> {
        let handle = self.handle(fh)?;
        if handle.access.writes() && handle.node.state().is_ahead() {
            if cx == Cx::Fast {
                return Err(Stop::WouldBlock);
            }
            if let Err(stop) = self.commit(&handle.node, Purpose::Close) {
                tracing::error!(ino = %handle.node.ino, ?stop, "changes of a closed file could not be committed");
            }
        }
        lock(&self.handles).remove(&fh);
        let mut state = handle.node.state();
        state.handles -= 1;
        if handle.loan.is_some() {
            state.faces.closed(handle.face);
        }
        state.writers -= u32::from(handle.access.writes());
        state.appenders -= u32::from(handle.access == Access::Append);
        if state.writers == 0 && !state.is_ahead() && !(state.gone && state.handles > 0) {
            state.drop_draft();
            state.recount();
        }
        drop(state);
        self.end_lent(&handle);
        self.meta.session().locks().closed(fh);
        // What could not be committed stays, and is tried again in the background.
        self.forget(handle.node.ino, 0);
        Ok(())
    }
}
