//! Changes of ranges that the cell makes without moving content: copies and holes.

use super::commit::Purpose;
use super::node::Node;
use super::{Cx, Fs, Notice, Op, lock};
use sitefs_base::limits::{CHUNK_SIZE, COMMIT_CHUNKS_MAX, METADATA_DEADLINE};
use sitefs_base::op::{self, Credit, Extra, Outcome};
use sitefs_base::{Errno, InodeId};
use std::sync::Arc;

/// Bytes of a hole that one operation can make, wherever it begins in a chunk.
const PUNCH_MAX: u64 = (COMMIT_CHUNKS_MAX as u64 - 1) * CHUNK_SIZE;

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
        let CopyRange { from_offset, to_offset, len, .. } = range;
        let (source, target) = (self.handle(range.from)?, self.handle(range.to)?);
        let (source, target) = (&source.node, &target.node);
        self.writable()?;
        self.commit(source, Purpose::Sync)?;
        self.commit(target, Purpose::Sync)?;
        let _alone = lock(&target.committing);
        let (from, to) = (self.committed_row(source)?, self.committed_row(target)?);
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
        let Ok(ino) = self.committed_row(node) else { return Ok(false) };
        let mut from = offset;
        while from < end {
            let len = (end - from).min(PUNCH_MAX);
            let outcome = self.meta.mutate(op::Op::Punch { ino, offset: from, len }, METADATA_DEADLINE)?;
            self.changed_at_cell(node, ino, outcome);
            from += len;
        }
        Ok(true)
    }

    /// The cell's number of a file that it knows as it is here.
    fn committed_row(&self, node: &Node) -> Op<InodeId> {
        let state = node.state();
        if state.gone || state.is_ahead() { Err(Errno::EOPNOTSUPP.into()) } else { Ok(state.row) }
    }

    /// Content changed at the cell and the kernel has dropped its pages of it.
    fn changed_at_cell(&self, node: &Arc<Node>, row: InodeId, outcome: Outcome) -> Extra {
        let mut state = node.state();
        if let Some(attr) = outcome.attrs.iter().find(|attr| attr.ino == row) {
            state.page_cver = state.page_cver.map(|_| attr.cver);
        }
        (state.last, state.draft) = (None, None);
        drop(state);
        self.notices.send(Notice::Attr(node.ino));
        outcome.extra
    }
}
