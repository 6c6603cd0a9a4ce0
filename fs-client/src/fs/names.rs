//! Names: making, linking, moving and removing them.

use super::attrs::View;
use super::credit::ONE_INODE;
use super::node::{Node, Unpublished};
use super::{Caller, Cx, Fs, Op, lock};
use sitefs_base::limits::{METADATA_DEADLINE, SYMLINK_MAX};
use sitefs_base::op::{self, Create, Outcome, Place, RenameMode};
use sitefs_base::{Content, Errno, FileKind, Inode, InodeId};
use std::sync::Arc;

impl Fs {
    /// Makes a directory.
    pub fn mkdir(&self, at: &Place, create: Create) -> Op<View> {
        let create = self.owner.of(create);
        self.make(at, Content::Empty, |at| op::Op::Mkdir { at, create })
    }

    /// Makes an empty file, fifo, socket or device node.
    pub fn mknod(&self, at: &Place, kind: FileKind, rdev: u32, create: Create) -> Op<View> {
        let create = self.owner.of(create);
        self.make(at, Content::Empty, |at| op::Op::Mknod { at, kind, rdev, create })
    }

    /// Makes a symbolic link.
    pub fn symlink(&self, at: &Place, target: &[u8], caller: Caller) -> Op<View> {
        if target.len() > SYMLINK_MAX {
            return Err(Errno::ENAMETOOLONG.into());
        }
        let create = self.owner.of(Create { mode: 0o777, umask: 0, uid: caller.uid, gid: caller.gid });
        let target = bytes::Bytes::copy_from_slice(target);
        self.make(at, Content::Target(target.clone()), |at| op::Op::Symlink { at, target, create })
    }

    fn make(&self, at: &Place, content: Content, op: impl FnOnce(Place) -> op::Op) -> Op<View> {
        self.may_begin(Cx::Slow)?;
        if self.pending_at(at).is_some() {
            return Err(Errno::EEXIST.into());
        }
        let _claim = self.claim(Cx::Slow, ONE_INODE)?;
        let outcome = self.meta.mutate(op(at.clone()), METADATA_DEADLINE)?;
        let (Some(ino), seq) = (outcome.ino, outcome.seq) else { return Err(Errno::EIO.into()) };
        let Some(attr) = outcome.attrs.into_iter().find(|attr| attr.ino == ino) else {
            return Err(Errno::EIO.into());
        };
        self.meta.inode_changed(seq, Inode { attr: attr.clone(), content });
        self.meta.name_changed(seq, at, Some(ino));
        let node = self.looked_up(ino);
        Ok(self.view(&node, attr, true))
    }

    /// The target of a symbolic link.
    pub fn readlink(&self, cx: Cx, ino: InodeId) -> Op<bytes::Bytes> {
        match self.inode_of(cx, &self.node(ino))?.0.content {
            Content::Target(target) => Ok(target),
            _ => Err(Errno::EINVAL.into()),
        }
    }

    /// Gives an inode another name.
    pub fn link(&self, ino: InodeId, at: &Place) -> Op<View> {
        self.may_begin(Cx::Slow)?;
        if self.pending_at(at).is_some() {
            return Err(Errno::EEXIST.into());
        }
        let node = self.node(ino);
        self.publish(&node)?;
        if node.state().gone {
            return Err(Errno::ENOENT.into());
        }
        let row = node.state().row;
        let outcome = self.meta.mutate(op::Op::Link { ino: row, at: at.clone() }, METADATA_DEADLINE)?;
        self.meta.name_changed(outcome.seq, at, Some(row));
        let mut view = self.getattr(Cx::Slow, node.ino)?;
        self.looked_up_view(node.ino, &mut view);
        Ok(view)
    }

    /// Removes a name that is not a directory.
    pub fn unlink(&self, at: &Place) -> Op<()> {
        self.may_begin(Cx::Slow)?;
        if let Some(node) = self.pending_at(at)
            && self.drop_unpublished(&node)?
        {
            return Ok(());
        }
        let victim = self.victim(at)?;
        let outcome = self.meta.mutate(op::Op::Unlink { at: at.clone() }, METADATA_DEADLINE)?;
        self.meta.name_changed(outcome.seq, at, None);
        self.lost_a_name(victim, &outcome);
        Ok(())
    }

    /// Forgets a file that the cell never knew; false if it has to be removed there. A reserved
    /// name is published first: that gives the reservation back.
    fn drop_unpublished(&self, node: &Arc<Node>) -> Op<bool> {
        let _alone = lock(&node.committing);
        let unpublished = node.state().unpublished.clone();
        let Some(unpublished) = unpublished else { return Ok(false) };
        if unpublished.exclusive || self.may_be_there(node, &unpublished)? {
            self.publish_alone(node)?;
            return Ok(false);
        }
        self.remove_pending(&unpublished);
        let mut state = node.state();
        let attr = state.view(unpublished.attr);
        state.unpublished = None;
        state.gone = true;
        state.last = Some(Inode { attr, content: Content::Empty });
        state.recount();
        Ok(true)
    }

    /// Whether the cell may know a file whose commit it did not answer.
    fn may_be_there(&self, node: &Node, own: &Unpublished) -> Op<bool> {
        let (waits, row) = {
            let state = node.state();
            (state.unsure.is_some() || state.kept.is_some(), state.row)
        };
        // Otherwise nothing of it is on its way, and what is not there will not come.
        Ok(waits || (own.sent && self.inode_now(row)?.is_some()))
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, at: &Place) -> Op<()> {
        self.may_begin(Cx::Slow)?;
        let victim = self.victim(at)?;
        if victim.as_ref().is_some_and(|node| self.has_pending(node.ino)) {
            return Err(Errno::ENOTEMPTY.into());
        }
        let outcome = self.meta.mutate(op::Op::Rmdir { at: at.clone() }, METADATA_DEADLINE)?;
        self.meta.name_changed(outcome.seq, at, None);
        self.lost_a_name(victim, &outcome);
        Ok(())
    }

    /// Moves a name.
    pub fn rename(&self, from: &Place, to: &Place, mode: RenameMode) -> Op<()> {
        self.may_begin(Cx::Slow)?;
        for place in [from, to] {
            if let Some(node) = self.pending_at(place) {
                self.publish(&node)?;
            }
        }
        let moved = self.meta.lookup(Cx::Slow, from)?.value.ok_or(Errno::ENOENT)?.attr;
        let target = if mode == RenameMode::NoReplace { None } else { self.victim(to)? };
        if target.as_ref().is_some_and(|node| mode == RenameMode::Replace && self.has_pending(node.ino)) {
            return Err(Errno::ENOTEMPTY.into());
        }
        let op = op::Op::Rename { from: from.clone(), to: to.clone(), mode };
        let outcome = self.meta.mutate(op, METADATA_DEADLINE)?;
        let same = target.as_ref().is_some_and(|node| node.state().row == moved.ino);
        if same && mode == RenameMode::Replace {
            // Two names of one inode: POSIX leaves both.
            return Ok(());
        }
        let swapped =
            if mode == RenameMode::Exchange { target.as_ref().map(|node| node.state().row) } else { None };
        self.meta.name_changed(outcome.seq, from, swapped);
        self.meta.name_changed(outcome.seq, to, Some(moved.ino));
        if moved.kind == FileKind::Directory {
            self.meta.forget_listing(moved.ino);
        }
        match swapped {
            Some(other) => self.meta.forget_listing(other),
            None => self.lost_a_name(target, &outcome),
        }
        Ok(())
    }

    /// The node under a name that is about to go, with its row kept for handles that stay open.
    fn victim(&self, at: &Place) -> Op<Option<Arc<Node>>> {
        let Some(inode) = self.meta.lookup(Cx::Slow, at)?.value else { return Ok(None) };
        let node = self.known_node(inode.attr.ino).unwrap_or_else(|| Arc::new(Node::new(inode.attr.ino)));
        let content = {
            let mut state = node.state();
            state.last = Some(inode.clone());
            let base = state.draft.as_ref().and_then(|draft| draft.base.clone());
            (state.handles > 0).then(|| base.unwrap_or_else(|| inode.clone()))
        };
        if let Some(content) = content {
            self.remember_whole(&node, &inode, &content);
        }
        Ok(Some(node))
    }

    /// Keeps what open handles of a file need when the cell does not know it any more. As far as it can be
    /// had: a removal does not fail because of it.
    fn remember_whole(&self, node: &Node, inode: &Inode, content: &Inode) {
        if content.content == Content::Chunked {
            let known = lock(&node.layout).extents(Cx::Slow, &self.meta, content, 0, content.attr.size);
            if let Err(stop) = known {
                tracing::warn!(ino = %node.ino, ?stop, "an open file may be unreadable once it is removed");
            }
        }
        if inode.attr.flags.has_xattrs {
            node.state().xattrs = self.meta.xattrs(Cx::Slow, inode.attr.ino).ok();
        }
    }

    /// Takes in what a removal did to the inode that the name led to, as far as was known here.
    fn lost_a_name(&self, victim: Option<Arc<Node>>, outcome: &Outcome) {
        let Some(node) = victim else { return };
        let row = node.state().row;
        // Another mount may have changed the name meanwhile: only the cell knows what is gone.
        let named = outcome.attrs.iter().any(|attr| attr.ino == row);
        let removed = !named && {
            self.meta.forget_inode(row);
            self.meta.inode(Cx::Slow, row).is_ok_and(|found| found.value.is_none())
        };
        let mut state = node.state();
        match outcome.attrs.iter().find(|attr| attr.ino == row) {
            Some(attr) => {
                if let Some(last) = &mut state.last {
                    last.attr = attr.clone();
                }
            }
            None if !removed => {}
            None => {
                state.gone = true;
                if let Some(last) = &mut state.last {
                    last.attr.nlink = 0;
                    last.attr.ctime = self.clock.now().max(last.attr.ctime);
                }
                state.recount();
                drop(state);
                self.meta.forget_inode(row);
                self.abandon(&node);
                self.drop_record(&node);
            }
        }
    }
}
