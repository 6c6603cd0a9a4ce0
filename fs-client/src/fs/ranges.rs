//! Changes of ranges that the cell makes without moving content: copies and holes.

use super::commit::Purpose;
use super::node::{Node, NodeState};
use super::{Cx, Fs, Op, lock};
use sitefs_base::limits::{CHUNK_SIZE, COMMIT_CHUNKS_MAX, METADATA_DEADLINE};
use sitefs_base::op::{self, Credit, Extra, Outcome};
use sitefs_base::{Errno, InodeId};
use std::sync::Arc;

/// Bytes of a hole that one operation can make, wherever it begins in a chunk.
const PUNCH_MAX: u64 = (COMMIT_CHUNKS_MAX as u64 - 1) * CHUNK_SIZE;

/// The cell's number of a file, and its node.
type Side<'n> = (InodeId, &'n Arc<Node>);

/// A range of an open file and where its copy goes.
#[derive(Clone, Copy, Debug)]
pub struct CopyRange {
    /// The handle of the source.
    pub from: u64,
    /// Where the range begins there.
    pub from_offset: u64,
    /// The handle of the target.
    pub to: u64,
    /// Where the copy begins there.
    pub to_offset: u64,
    /// Its length in bytes.
    pub len: u64,
}

impl Fs {
    /// Copies by reference and gives the number of bytes copied. `EOPNOTSUPP` where only copying the
    /// bytes helps: the kernel does that then.
    pub fn copy_range(&self, range: CopyRange) -> Op<u64> {
        let (source, target) = (self.handle(range.from)?, self.handle(range.to)?);
        let (source, target) = (&source.node, &target.node);
        self.writable()?;
        if self.is_shown(target) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        self.commit(source, Purpose::Sync)?;
        self.commit(target, Purpose::Sync)?;
        let _alone = lock(&target.committing);
        let from = committed_row(source)?;
        let to = begin_move(target)?;
        let copied = self.copy_alone(range, (from, source), (to, target));
        target.state().moving = false;
        copied
    }

    /// [`Self::copy_range`] while nobody else changes the target.
    fn copy_alone(&self, range: CopyRange, source: Side<'_>, target: Side<'_>) -> Op<u64> {
        let CopyRange { from_offset, to_offset, len, .. } = range;
        let ((from, source), (to, target)) = (source, target);
        let (inode, _) = self.inode_of(Cx::Slow, source)?;
        let bytes = len.min(inode.attr.size.saturating_sub(from_offset));
        let _claim = self.claim(Cx::Slow, Credit { bytes, inodes: 0 })?;
        let expect_from_cver = Some(inode.attr.cver);
        let clone = op::Op::CloneRange { from, from_offset, to, to_offset, len, expect_from_cver };
        match self.meta.mutate(clone, METADATA_DEADLINE) {
            Ok(outcome) => match self.changed_at_cell(target, to, outcome) {
                Extra::Cloned { len } => Ok(len),
                _ => Err(Errno::EIO.into()),
            },
            // Another mount changed the source meanwhile.
            Err(Errno::ESTALE | Errno::EAGAIN) => Err(Errno::EOPNOTSUPP.into()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes a hole, if the file is as the cell has it; says whether it did.
    pub(super) fn punch_at_cell(&self, node: &Arc<Node>, offset: u64, end: u64) -> Op<bool> {
        let _alone = lock(&node.committing);
        if self.is_shown(node) {
            return Ok(false);
        }
        let Ok(ino) = begin_move(node) else { return Ok(false) };
        let punched = self.punch_alone((ino, node), offset, end);
        node.state().moving = false;
        punched.map(|()| true)
    }

    fn punch_alone(&self, (ino, node): Side<'_>, offset: u64, end: u64) -> Op<()> {
        let mut from = offset;
        while from < end {
            let len = (end - from).min(PUNCH_MAX);
            let outcome = self.meta.mutate(op::Op::Punch { ino, offset: from, len }, METADATA_DEADLINE)?;
            self.changed_at_cell(node, ino, outcome);
            from += len;
        }
        Ok(())
    }

    /// Content changed at the cell and the kernel has dropped its pages of it. Nothing has changed here
    /// meanwhile.
    fn changed_at_cell(&self, node: &Arc<Node>, row: InodeId, outcome: Outcome) -> Extra {
        let mut state = node.state();
        if let Some(attr) = outcome.attrs.iter().find(|attr| attr.ino == row) {
            state.page_cver = state.page_cver.map(|_| attr.cver);
        }
        state.last = None;
        state.drop_draft();
        drop(state);
        self.tell_attributes(node);
        outcome.extra
    }
}

/// The cell's number of a file that it knows as it is here.
fn committed_row(node: &Node) -> Op<InodeId> {
    row_of(&node.state())
}

/// The same for a file that the cell is going to change, for callers that hold its commit lock: from now
/// on nobody changes it here.
fn begin_move(node: &Node) -> Op<InodeId> {
    let mut state = node.state();
    let row = row_of(&state)?;
    state.moving = true;
    Ok(row)
}

fn row_of(state: &NodeState) -> Op<InodeId> {
    if state.gone || state.is_ahead() { Err(Errno::EOPNOTSUPP.into()) } else { Ok(state.row) }
}
