//! Handles that only append (DESIGN D5): what they write is added at the end that the file has at
//! the cell, so that several mounts write one log and lose nothing.
//!
//! Such a handle reads nothing and is never mapped, and the kernel's offset does not count. What it
//! wrote is collected here for at most a second, and stays here until the cell has it.

use super::commit::Failed;
use super::credit::Obstacle;
use super::files::{Truncate, WriteKind};
use super::node::{Node, NodeState};
use super::tail::{self, Next, Tail};
use super::{Cx, Fs, Notice, Op, lock};
use crate::meta::{Late, OpKey, Sent, Stop};
use sitefs_base::limits::{FILE_MAX, HOT_MAX};
use sitefs_base::op::{self, Outcome};
use sitefs_base::{Errno, Inode, Seq};
use std::sync::Arc;

/// Bytes that are collected before a write waits for the cell.
const TAIL_MAX: usize = 4 * HOT_MAX;
/// The extended attribute that gives a program capabilities.
const CAPABILITY: &[u8] = b"security.capability";

/// What a program wants to do with a file that it opens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Only read.
    Read,
    /// Write, and perhaps read.
    Write,
    /// Add at the end, and read and map what is there.
    Extend,
    /// Add at the end and nothing else.
    Append,
}

impl Access {
    /// What the flags of an open mean.
    pub fn of(flags: i32) -> Self {
        match flags & libc::O_ACCMODE {
            libc::O_RDONLY => Self::Read,
            _ if flags & libc::O_APPEND == 0 || flags & libc::O_TRUNC != 0 => Self::Write,
            libc::O_WRONLY => Self::Append,
            _ => Self::Extend,
        }
    }

    /// Whether content may change.
    pub fn writes(self) -> bool {
        self != Self::Read
    }

    /// Whether all that it writes is added at the end.
    pub fn appends(self) -> bool {
        matches!(self, Self::Append | Self::Extend)
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

/// What was appended, with the position at which the cell did it; none if the file had no name.
type Landed = (Option<Seq>, Vec<u8>);

impl Fs {
    /// Collects what an append handle writes; `None` if it has to go into a working copy.
    pub(super) fn append(&self, cx: Cx, node: &Arc<Node>, bytes: &[u8], kind: WriteKind) -> Op<Option<u32>> {
        let len = u32::try_from(bytes.len()).map_err(|_| Errno::EINVAL)?;
        let waiting = {
            let state = node.state();
            if !state.only_appends() {
                return Ok(None);
            }
            if state.moving {
                drop(state);
                self.overcome(cx, node, Obstacle::Moving)?;
                return self.append(cx, node, bytes, kind);
            }
            state.tail.as_ref().map_or(0, Tail::len)
        };
        if waiting + bytes.len() > TAIL_MAX {
            self.send_tail(cx, node)?;
        }
        let inode = self.inode_of(cx, node)?.0;
        self.drop_capabilities(cx, node, &inode)?;
        let size = inode.attr.size;
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
        if state.moving {
            drop(state);
            return self.append(cx, node, bytes, kind);
        }
        let now = self.clock.now();
        let end = state.tail.as_ref().map_or(size, |tail| tail.promised.max(size));
        let end = end.checked_add(len.into()).filter(|end| *end <= FILE_MAX).ok_or(Errno::EFBIG)?;
        match &mut state.tail {
            Some(tail) => tail.push(end, bytes, now, kind.kill_setid),
            none => *none = Some(Tail::begin(end, self.clock.boottime(), bytes, now, kind.kill_setid)),
        }
        state.saw(inode);
        state.changes += 1;
        (state.draft, state.page_cver) = (None, None);
        Ok(Some(len))
    }

    /// Capabilities of a program go when it is written to. The kernel sees to that, but not for handles
    /// whose writes pass its pages by.
    fn drop_capabilities(&self, cx: Cx, node: &Node, inode: &Inode) -> Op<()> {
        if !inode.attr.flags.has_xattrs || inode.attr.nlink == 0 {
            return Ok(());
        }
        let all = self.meta.xattrs(cx, inode.attr.ino)?;
        if !all.iter().any(|(name, _)| name == CAPABILITY) {
            return Ok(());
        }
        match cx {
            Cx::Fast => Err(Stop::WouldBlock),
            Cx::Slow => match self.removexattr(node.ino, CAPABILITY) {
                Err(Stop::Errno(Errno::ENODATA)) => Ok(()),
                done => done,
            },
        }
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
        Ok(self.send_tail_alone(node)?)
    }

    /// [`Self::send_tail`] for readers: what the cell does not take does not keep them from reading.
    pub(super) fn try_tail(&self, cx: Cx, node: &Arc<Node>) -> Op<()> {
        let waits = {
            let state = node.state();
            !state.gone && state.retry_at > self.clock.boottime()
        };
        match if waits { Ok(()) } else { self.send_tail(cx, node) } {
            Err(Stop::WouldBlock) => Err(Stop::WouldBlock),
            Ok(()) | Err(Stop::Errno(_)) => Ok(()),
        }
    }

    /// [`Self::send_tail`] for callers that hold the node's commit lock.
    pub(super) fn send_tail_alone(&self, node: &Arc<Node>) -> Result<(), Failed> {
        if node.state().tail.is_none() {
            return Ok(());
        }
        let mut landed = Vec::new();
        let sent = self.send_pieces(node, &mut landed);
        match sent {
            Ok(()) => node.state().succeeded(),
            Err(_) => node.state().failed(self.clock.boottime()),
        }
        self.see_appended(node, &landed);
        self.go_on_here(node, landed)?;
        sent
    }

    /// Sends piece after piece, while the file has a name.
    fn send_pieces(&self, node: &Node, landed: &mut Vec<Landed>) -> Result<(), Failed> {
        loop {
            let next = {
                let mut state = node.state();
                let row = state.row;
                if state.gone { None } else { state.tail.as_mut().and_then(|tail| tail.next(row)) }
            };
            let outcome = match next {
                None => return Ok(()),
                Some(Next::Ask(key)) => self.late_append(node, key)?,
                Some(Next::Send(append)) => Some(self.send_append(node, *append)?),
            };
            let Some(outcome) = outcome else { continue };
            let dropped = outcome.extra == op::Extra::Dropped;
            let mut state = node.state();
            landed.push(((!dropped).then_some(outcome.seq), tail::landed(&mut state.tail)));
            state.gone |= dropped;
            state.commits += 1;
            state.recount();
            drop(state);
            if !dropped {
                self.record_landed(node);
            }
            self.notices.send(Notice::Attr(node.ino));
        }
    }

    fn send_append(&self, node: &Node, append: op::Op) -> Result<Outcome, Failed> {
        let is_kept = { node.state().kept }.is_some_and(|kept| kept.appends > 0);
        let sent = match is_kept {
            true => self.send_named(node, true, append),
            false => self.meta.send(append, self.close_deadline),
        };
        match sent {
            Sent::Answered(result) => {
                if is_kept && result.is_err() {
                    self.record_refused(node);
                }
                result.map_err(Failed::Refused)
            }
            Sent::Unknown => Err(Failed::NoAnswer),
            Sent::Late(key) => {
                if let Some(tail) = &mut node.state().tail {
                    tail.is_unsure(key);
                }
                Err(Failed::NoAnswer)
            }
        }
    }

    /// What became of an append that was not answered in time; nothing, if it has to be sent again.
    fn late_append(&self, node: &Node, key: OpKey) -> Result<Option<Outcome>, Failed> {
        let session = self.meta.session();
        let late = session.late(key, self.close_deadline);
        if late == Late::Waiting {
            return Err(Failed::NoAnswer);
        }
        if let Some(tail) = &mut node.state().tail {
            tail.give_up();
        }
        match late {
            Late::Answered(Ok(outcome)) => {
                self.hold_or_release(node, key);
                self.meta.take_in(&outcome);
                return Ok(Some(outcome));
            }
            Late::Lost => {
                tracing::warn!(ino = %node.ino, "the cell has forgotten an append: it may be in the file twice");
            }
            Late::Answered(Err(_)) | Late::Waiting => {}
        }
        self.record_refused(node);
        self.let_go(node, key);
        Ok(None)
    }

    /// Reads the row that has what was appended: it is what an open handle goes on with if another mount
    /// removes the file.
    fn see_appended(&self, node: &Node, landed: &[Landed]) {
        let (row, gone) = {
            let state = node.state();
            (state.row, state.gone)
        };
        if gone || landed.is_empty() {
            return;
        }
        // Without an answer the older row is as good as any.
        if let Ok(found) = self.meta.inode(Cx::Slow, row) {
            let mut state = node.state();
            match found.value {
                Some(inode) => state.saw(inode),
                None => state.gone = true,
            }
        }
    }

    /// A file without a name goes on in a working copy: what waits for the cell goes there, and what the
    /// cell took that the last known row does not have.
    fn go_on_here(&self, node: &Arc<Node>, landed: Vec<Landed>) -> Op<()> {
        let (bytes, tail) = {
            let mut state = node.state();
            if !state.gone {
                return Ok(());
            }
            let seen = state.last.as_ref().map(|last| last.attr.cver);
            let is_new = |seq: Option<Seq>| seq.is_none_or(|seq| seen.is_none_or(|seen| seen < seq));
            let mut bytes: Vec<u8> =
                landed.into_iter().filter(|(seq, _)| is_new(*seq)).flat_map(|(_, bytes)| bytes).collect();
            let tail = state.tail.take();
            bytes.extend(tail.iter().flat_map(Tail::bytes));
            state.recount();
            (bytes, tail)
        };
        if bytes.is_empty() {
            return Ok(());
        }
        let kill_setid = tail.as_ref().is_some_and(Tail::kills_setid);
        let written = self.write_here(
            Cx::Slow,
            node,
            0,
            &bytes,
            WriteKind { append: true, kill_setid, from_pages: false },
        );
        let mut state = node.state();
        match written {
            Ok(_) => {
                let key = tail.and_then(|mut tail| tail.give_up());
                drop(state);
                key.into_iter().for_each(|key| self.meta.session().release(key));
                Ok(())
            }
            Err(stop) => {
                state.tail = tail;
                Err(stop)
            }
        }
    }

    /// Adds to what was read of `inode` what is to be behind its end.
    pub(super) fn read_tail(node: &Node, inode: &Inode, offset: u64, len: usize, read: &mut Vec<u8>) {
        let state = node.state();
        let Some(tail) = &state.tail else { return };
        let from = usize::try_from(offset.saturating_sub(inode.attr.size)).unwrap_or(usize::MAX);
        read.extend(tail.bytes().into_iter().skip(from).take(len.saturating_sub(read.len())));
    }
}
