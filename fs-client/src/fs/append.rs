//! Handles that only append (DESIGN D5): what they write is added at the end that the file has at
//! the cell, so that several mounts write one log and lose nothing.
//!
//! Such a handle reads nothing and is never mapped, and the kernel's offset does not count. What it
//! wrote is collected here for at most a second.

use super::credit::Obstacle;
use super::files::{Truncate, WriteKind};
use super::node::{Node, NodeState, Tail};
use super::{Cx, Fs, Op, lock};
use crate::meta::Stop;
use bytes::Bytes;
use sitefs_base::limits::{FILE_MAX, HOT_MAX};
use sitefs_base::{Errno, op};
use std::sync::Arc;

/// Bytes that are collected before a write waits for the cell.
const TAIL_MAX: usize = 4 * HOT_MAX;

/// What a program wants to do with a file that it opens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Only read.
    Read,
    /// Write, and perhaps read.
    Write,
    /// Add at the end and nothing else.
    Append,
}

impl Access {
    /// What the flags of an open mean.
    pub fn of(flags: i32) -> Self {
        match flags & libc::O_ACCMODE {
            libc::O_RDONLY => Self::Read,
            libc::O_WRONLY if flags & libc::O_APPEND != 0 && flags & libc::O_TRUNC == 0 => Self::Append,
            _ => Self::Write,
        }
    }

    /// Whether content may change.
    pub fn writes(self) -> bool {
        self != Self::Read
    }

    /// Emptying a file is more than appending to it.
    pub(super) fn with(self, truncate: Option<Truncate>) -> Self {
        if truncate.is_some() { Self::Write } else { self }
    }
}

impl NodeState {
    /// Whether writes of append handles go to the cell's end: nothing here needs a working copy.
    fn only_appends(&self) -> bool {
        let is_clean = self.draft.as_ref().is_none_or(|draft| !draft.copy.is_changed());
        self.writers == self.appenders
            && self.unpublished.is_none()
            && self.sending.is_none()
            && is_clean
            && !self.gone
    }
}

impl Fs {
    /// Collects what an append handle writes; `None` if it has to go into a working copy.
    pub(super) fn append(&self, cx: Cx, node: &Arc<Node>, bytes: &[u8], kind: WriteKind) -> Op<Option<u32>> {
        let len = u32::try_from(bytes.len()).map_err(|_| Errno::EINVAL)?;
        let waiting = {
            let state = node.state();
            if !state.only_appends() {
                return Ok(None);
            }
            state.tail.as_ref().map_or(0, |tail| tail.bytes.len())
        };
        if waiting + bytes.len() > TAIL_MAX {
            self.send_tail(cx, node)?;
        }
        let size = self.inode_of(cx, node)?.0.attr.size;
        let mut state = node.state();
        while state.only_appends()
            && let Some(more) = self.short_of(&mut state, len.into())
        {
            drop(state);
            self.overcome(cx, node, Obstacle::Credit(more))?;
            state = node.state();
        }
        if !state.only_appends() {
            return Ok(None);
        }
        let now = self.clock.now();
        state.draft = None;
        let tail = state.tail.get_or_insert_with(|| Tail::new(self.clock.boottime(), now));
        let end = tail.promised.max(size).checked_add(len.into()).filter(|end| *end <= FILE_MAX);
        tail.promised = end.ok_or(Errno::EFBIG)?;
        tail.bytes.extend_from_slice(bytes);
        tail.written = now;
        tail.kill_setid |= kind.kill_setid;
        state.page_cver = None;
        Ok(Some(len))
    }

    /// Sends what append handles have written; when it returns, a quorum has it.
    pub(super) fn send_tail(&self, cx: Cx, node: &Arc<Node>) -> Op<()> {
        if node.state().tail.is_none() {
            return Ok(());
        }
        if cx == Cx::Fast {
            return Err(Stop::WouldBlock);
        }
        let _alone = lock(&node.committing);
        self.send_tail_alone(node)
    }

    /// [`Self::send_tail`] for callers that hold the node's commit lock.
    pub(super) fn send_tail_alone(&self, node: &Arc<Node>) -> Op<()> {
        loop {
            // Not in the head of a loop: there the lock would be held all the way through.
            let next = next_append(&mut node.state());
            let Some((append, len)) = next else { return Ok(()) };
            let sent = self.meta.mutate(append, self.close_deadline);
            let mut state = node.state();
            // Of an unknown outcome the session goes on to send the same operation: to send the bytes
            // once more would double them. What was refused stays and is tried again.
            if matches!(sent, Ok(_) | Err(Errno::EIO)) {
                shorten(&mut state, len);
                state.commits += 1;
                state.recount();
            }
            state.last = None;
            if sent.as_ref().is_ok_and(|outcome| outcome.extra == op::Extra::Dropped) {
                (state.gone, state.tail) = (true, None);
            }
            drop(state);
            self.notices.send(super::Notice::Attr(node.ino));
            sent?;
        }
    }
}

/// The oldest bytes of the tail as an operation, and how many they are. They stay until it is done.
fn next_append(state: &mut NodeState) -> Option<(op::Op, usize)> {
    let (ino, tail) = (state.row, state.tail.as_ref()?);
    let len = tail.bytes.len().min(HOT_MAX);
    let (changed, kill_setid) = (Some(tail.written), tail.kill_setid);
    let bytes = Bytes::copy_from_slice(&tail.bytes[..len]);
    Some((op::Op::Append { ino, bytes, changed, kill_setid }, len))
}

fn shorten(state: &mut NodeState, len: usize) {
    if let Some(tail) = &mut state.tail {
        tail.bytes.drain(..len);
        if tail.bytes.is_empty() {
            state.tail = None;
        }
    }
}
