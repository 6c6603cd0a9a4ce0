//! Working copies that were only appended to, through descriptors that may also read and map: their commit
//! is for the version that they began from, and where another mount was quicker, what was appended goes
//! behind what that one wrote.

use super::commit::Failed;
use super::files::local_errno;
use super::node::{Draft, Node};
use super::tail::{Appended, Tail};
use super::{Fs, Notice, Op};
use sitefs_base::limits::HOT_MAX;
use sitefs_base::{Errno, Time};
use std::sync::Arc;

/// More is not taken into memory; the later commit wins then.
const APPENDED_MAX: u64 = 64 << 20;

/// Where in a working copy the pieces begin in which it could be appended: whole writes, but for those
/// that are larger than an operation.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Starts(Vec<u64>);

impl Starts {
    /// A write of `len` bytes added at `offset`, which was the end.
    fn add(&mut self, offset: u64, len: u64) {
        let max = HOT_MAX as u64;
        let mut end = offset;
        while end < offset + len {
            let next = (end + max).min(offset + len);
            if self.0.last().is_none_or(|start| next - start > max) {
                self.0.push(end);
            }
            end = next;
        }
    }

    /// These, and then `later` ones.
    fn and(mut self, later: &Self) -> Self {
        self.0.extend(&later.0);
        self
    }

    /// Divides `bytes`, which begin at the first start.
    fn divide(&self, bytes: &[u8], written: Time, kill_setid: bool) -> Vec<Appended> {
        let first = self.0.first().copied().unwrap_or_default();
        let at = |start: u64| usize::try_from(start - first).unwrap_or(usize::MAX);
        let ends = self.0.iter().skip(1).map(|start| at(*start)).chain([bytes.len()]);
        let range = |(start, end): (&u64, usize)| bytes.get(at(*start)..end).unwrap_or_default().to_vec();
        let pieces = self.0.iter().zip(ends).map(range).filter(|bytes| !bytes.is_empty());
        pieces.map(|bytes| Appended { bytes, written, kill_setid }).collect()
    }
}

impl Draft {
    /// Content changed at `offset`; `was_changed` says whether anything else waits for a commit.
    pub(super) fn wrote(&mut self, was_changed: bool, appends: bool, offset: u64, len: u64) {
        let begun = if was_changed { self.appended.take() } else { Some(Starts::default()) };
        self.appended = begun.filter(|_| appends);
        if let Some(starts) = &mut self.appended {
            starts.add(offset, len);
        }
    }

    /// A commit of what `sent` says did not happen: it waits again, before what changed meanwhile.
    pub(super) fn put_back(&mut self, sent: Option<Starts>, was_changed: bool) {
        let later = if was_changed { self.appended.take() } else { Some(Starts::default()) };
        self.appended = sent.zip(later).map(|(sent, later)| sent.and(&later));
    }
}

impl Fs {
    /// Another mount changed the file to which this one only appended: what was appended becomes a tail, for
    /// callers that hold the node's commit lock. The mount goes on with what the cell has.
    pub(super) fn append_behind_others(&self, node: &Arc<Node>) -> Result<(), Failed> {
        let found: Op<_> = self.inode_now({ node.state().row });
        let found = found.map_err(|_| Failed::NoAnswer)?;
        let mut state = node.state();
        let Some(draft) = &mut state.draft else { return Ok(()) };
        // Without starts the next commit is for no version in particular.
        let (Some(inode), Some(starts)) = (found, draft.appended.take()) else { return Ok(()) };
        let first = starts.0.first().copied().unwrap_or_default();
        let len = draft.copy.size().saturating_sub(first);
        if len > APPENDED_MAX {
            return Ok(());
        }
        let len = usize::try_from(len).map_err(|_| Errno::EFBIG).map_err(Failed::Refused)?;
        let bytes = draft.copy.read(first, len).map_err(|error| Failed::Refused(local_errno(&error)))?;
        let written = state.written.take().unwrap_or_else(|| self.clock.now());
        let appends = starts.divide(&bytes, written, state.set.kill_setid);
        state.tail = Tail::restored(inode.attr.size, self.clock.boottime(), appends);
        (state.draft, state.last, state.page_cver) = (None, Some(inode), None);
        state.changed = state.changed.filter(|_| !state.set.is_empty());
        state.changes += 1;
        state.recount();
        let is_kept = state.kept.is_some();
        drop(state);
        self.notices.send(Notice::Attr(node.ino));
        // The record becomes one of appends.
        if is_kept { Ok(self.keep(node)?) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(writes: &[u64]) -> Vec<usize> {
        let mut starts = Starts::default();
        let mut end = 100;
        for len in writes {
            starts.add(end, *len);
            end += len;
        }
        let bytes = vec![0; usize::try_from(end - 100).unwrap()];
        starts.divide(&bytes, Time::EPOCH, false).iter().map(|piece| piece.bytes.len()).collect()
    }

    #[test]
    fn writes_that_fit_into_an_operation_stay_whole() {
        let max = HOT_MAX as u64;
        assert_eq!(sizes(&[]), []);
        assert_eq!(sizes(&[1, 2, 3]), [6]);
        assert_eq!(sizes(&[max - 10, 20, max, 1, 5]), [HOT_MAX - 10, 20, HOT_MAX, 6]);
        assert_eq!(sizes(&[5, 2 * max + 7, 1]), [5, HOT_MAX, HOT_MAX, 8]);
    }
}
