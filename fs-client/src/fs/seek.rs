//! Data and holes of files (SEEK_DATA, SEEK_HOLE), as they are here: asking publishes nothing.

use super::node::Node;
use super::{Cx, Fs, Op, lock};
use crate::meta::Stop;
use sitefs_base::limits::{CHUNK_SIZE, HOT_MAX};
use sitefs_base::{Content, Errno, Inode};
use std::sync::Arc;

/// Where something begins and ends.
type Range = (u64, u64);

impl Fs {
    /// The next data or hole from `offset`.
    pub fn seek(&self, fh: u64, offset: u64, data: bool) -> Op<u64> {
        let node = Arc::clone(&self.handle(fh)?.node);
        self.try_tail(Cx::Slow, &node)?;
        let (size, ranges) = match self.data_here(&node)? {
            Some(here) => here,
            None => {
                let (inode, _) = self.inode_of(Cx::Slow, &node)?;
                let size = node.state().view(inode.attr.clone()).size;
                let mut ranges = self.data_of(&node, &inode, (offset, inode.attr.size))?;
                // What was appended, and waits.
                ranges.extend((inode.attr.size < size).then_some((inode.attr.size, size)));
                (size, ranges)
            }
        };
        next(&ranges, size, offset, data).ok_or_else(|| Errno::ENXIO.into())
    }

    /// Length and data of a working copy that differs from what the cell has.
    fn data_here(&self, node: &Node) -> Op<Option<(u64, Vec<Range>)>> {
        let (size, mut own, base) = {
            let state = node.state();
            let is_newer = state.gone || state.needs_commit();
            let Some(draft) = state.draft.as_ref().filter(|_| is_newer) else { return Ok(None) };
            let size = draft.copy.size();
            if size <= HOT_MAX as u64 {
                return Ok(Some((size, vec![(0, size)])));
            }
            let own = draft.copy.own_data().map_err(|_| Stop::Errno(Errno::EIO))?;
            let base = draft.base.clone().map(|base| (base, draft.copy.base_len()));
            (size, own, base)
        };
        if let Some((base, base_len)) = base {
            let below = self.data_of(node, &base, (0, base_len))?;
            let state = node.state();
            let Some(draft) = &state.draft else { return Ok(None) };
            own.extend(below.into_iter().flat_map(chunks).filter(|(start, _)| {
                u32::try_from(start / CHUNK_SIZE).is_ok_and(|chunk| !draft.copy.is_local(chunk))
            }));
            own.sort_unstable();
        }
        Ok(Some((size, own)))
    }

    /// The data of the cell's version within `from..to`.
    fn data_of(&self, node: &Node, inode: &Inode, (from, to): Range) -> Op<Vec<Range>> {
        match inode.content {
            _ if from >= to => Ok(Vec::new()),
            Content::Empty => Ok(Vec::new()),
            Content::Inline(_) | Content::Target(_) => Ok(vec![(0, inode.attr.size)]),
            Content::Extents(_) | Content::Chunked => {
                let extents = lock(&node.layout).extents(Cx::Slow, &self.meta, inode, from, to - from)?;
                Ok(extents.into_iter().map(|extent| (extent.offset, extent.end().min(to))).collect())
            }
        }
    }
}

/// A range in parts that lie in one chunk each.
fn chunks((start, end): Range) -> impl Iterator<Item = Range> {
    let chunks = start / CHUNK_SIZE..end.div_ceil(CHUNK_SIZE);
    chunks.map(move |chunk| (start.max(chunk * CHUNK_SIZE), end.min((chunk + 1) * CHUNK_SIZE)))
}

/// The first byte from `offset` on that is in one of the ranges, or in none; none behind the end.
fn next(ranges: &[Range], size: u64, offset: u64, data: bool) -> Option<u64> {
    if offset >= size {
        return None;
    }
    let mut at = offset;
    for (start, end) in ranges.iter().filter(|(_, end)| *end > offset) {
        if data {
            return Some(at.max(*start)).filter(|at| *at < size);
        }
        if *start > at {
            break;
        }
        at = at.max(*end);
    }
    (!data).then_some(at.min(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_and_holes_follow_each_other_and_a_hole_is_at_the_end() {
        let ranges = [(10, 20), (20, 30), (50, 60)];
        let data = |offset| next(&ranges, 100, offset, true);
        let hole = |offset| next(&ranges, 100, offset, false);
        assert_eq!(
            (data(0), data(15), data(30), data(60), data(100)),
            (Some(10), Some(15), Some(50), None, None)
        );
        assert_eq!((hole(0), hole(10), hole(55), hole(99)), (Some(0), Some(30), Some(60), Some(99)));
        assert_eq!(hole(100), None);
        assert_eq!(next(&[(0, 100)], 100, 5, false), Some(100));
    }
}
