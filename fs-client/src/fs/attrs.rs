//! Lookup and attributes.

use super::commit::Purpose;
use super::node::{Node, NodeState, without_setid};
use super::{Cx, Fs, Op, lock};
use crate::meta::Stop;
use sitefs_base::limits::{FILE_MAX, INLINE_MAX, METADATA_DEADLINE};
use sitefs_base::op::{self, Place, SetAttr};
use sitefs_base::{Attr, Content, Errno, FileKind, Inode, InodeId};
use std::sync::Arc;

/// How long the kernel may keep an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lifetime {
    /// Until the feed takes it back.
    UntilChanged,
    /// Not at all: something here is ahead of the cell, or the answer may be out of date.
    None,
}

impl Lifetime {
    /// `UntilChanged` if the feed covers the answer.
    pub fn of(current: bool) -> Self {
        if current { Self::UntilChanged } else { Self::None }
    }
}

/// Attributes for the kernel.
#[derive(Clone, Debug)]
pub struct View {
    /// The node's number at the kernel.
    pub node: InodeId,
    /// The attributes; `attr.ino` is what programs see.
    pub attr: Attr,
    /// How long they may be kept.
    pub lifetime: Lifetime,
}

impl Fs {
    /// The attributes of a node as programs should see them.
    pub(super) fn view(&self, node: &Node, attr: Attr, current: bool) -> View {
        let state = node.state();
        // What is changed under one number moves the attributes that the kernel has under the others.
        let may_move = state.faces.are_many();
        let ahead =
            state.is_ahead() || may_move || (attr.kind == FileKind::Directory && self.has_pending(node.ino));
        let mut attr = state.view(attr);
        if attr.kind == FileKind::Directory {
            self.show_pending(node.ino, &mut attr);
        }
        self.owner.show(&mut attr);
        View { node: state.faces.front(), attr, lifetime: Lifetime::of(current && !ahead) }
    }

    /// A directory changed when the newest of its unpublished files was created.
    fn show_pending(&self, dir: InodeId, attr: &mut Attr) {
        let pending: Vec<Arc<Node>> = {
            let pending = lock(&self.pending);
            pending.get(&dir).map(|names| names.values().cloned().collect()).unwrap_or_default()
        };
        for node in pending {
            if let Some(unpublished) = &node.state().unpublished {
                let created = unpublished.attr.ctime;
                attr.mtime = attr.mtime.max(created);
                attr.ctime = attr.ctime.max(created);
            }
        }
    }

    /// Finds a name; counts a reference for the kernel. `Ok(None)` says that the name is absent,
    /// with how long that may be believed.
    pub fn lookup(&self, cx: Cx, place: &Place) -> Op<(Option<View>, Lifetime)> {
        if let Some(node) = self.pending_at(place)
            && let Some(attr) = { node.state().unpublished.as_ref().map(|own| own.attr.clone()) }
        {
            let mut view = self.view(&node, attr, true);
            self.looked_up_view(node.ino, &mut view);
            return Ok((Some(view), Lifetime::UntilChanged));
        }
        let mut before = None;
        loop {
            let found = self.meta.lookup(cx, place)?;
            let Some(inode) = found.value else {
                return Ok((None, Lifetime::of(found.current)));
            };
            let ino = inode.attr.ino;
            let node = self.known_node(ino).unwrap_or_else(|| Arc::new(Node::new(ino)));
            let mut view = self.view(&node, inode.attr, found.current);
            let commits = node.state().commits;
            // A commit that ended in between is in neither: the row is older, and here nothing waits.
            // Whose row it is shows only now, so that how often it was committed before is known the
            // second time.
            if commits == 0 || before == Some((ino, commits)) {
                self.looked_up_view(ino, &mut view);
                return Ok((Some(view), Lifetime::of(found.current)));
            }
            before = Some((ino, commits));
        }
    }

    /// The attributes of an inode.
    pub fn getattr(&self, cx: Cx, ino: InodeId) -> Op<View> {
        let node = self.known_node(ino).unwrap_or_else(|| Arc::new(Node::new(ino)));
        if let Some(attr) = { node.state().unpublished.as_ref().map(|own| own.attr.clone()) } {
            return Ok(self.view(&node, attr, true));
        }
        loop {
            let commits = node.state().commits;
            let (inode, current) = self.inode_of(cx, &node)?;
            let view = self.view(&node, inode.attr, current);
            // A commit that ended in between is in neither: the row is older, and here nothing waits.
            if node.state().commits == commits {
                return Ok(view);
            }
        }
    }

    /// Changes attributes. What a later commit will carry anyway stays here until then.
    pub fn setattr(&self, cx: Cx, ino: InodeId, set: &SetAttr) -> Op<View> {
        self.writable()?;
        if set.size.is_some_and(|size| size > FILE_MAX) {
            return Err(Errno::EFBIG.into());
        }
        self.owner.may_set(set)?;
        let node = self.node(ino);
        self.send_tail(cx, &node)?;
        if set.mtime.is_some() {
            // Names that are not published yet would move the time again.
            self.publish_names_in(cx, ino)?;
        }
        if let Some(mtime) = set.mtime {
            let now = self.clock.now();
            node.state().own_mtime =
                Some(if mtime == op::SetTime::Now { op::SetTime::Written(now) } else { mtime });
        }
        // What waits for a commit that is under way would have to wait for another one.
        while must_wait(&node.state(), set) {
            match cx {
                Cx::Fast => return Err(Stop::WouldBlock),
                Cx::Slow => drop(lock(&node.committing)),
            }
        }
        if self.set_here(cx, &node, set)? {
            return self.getattr(cx, ino);
        }
        if cx == Cx::Fast {
            return Err(Stop::WouldBlock);
        }
        if let Some(size) = set.size
            && self.must_resize_here(&node)?
        {
            if node.state().writers == 0 {
                self.may_begin(cx)?;
            }
            self.resize_here(cx, &node, size)?;
            // While a handle is open for writing, its close publishes the new length (DESIGN D14).
            if node.state().writers == 0 {
                self.commit(&node, Purpose::Sync)?;
            }
            let rest = SetAttr { size: None, ..set.clone() };
            return if rest.is_empty() { self.getattr(cx, ino) } else { self.setattr(cx, ino, &rest) };
        }
        self.may_begin(cx)?;
        self.set_at_cell(&node, set)?;
        self.getattr(cx, ino)
    }

    /// Takes the set-id bits of an open file whose content the caller changed without a write: for
    /// these changes the kernel does not say that it has to be done.
    pub fn clear_set_id(&self, fh: u64) -> Op<()> {
        let ino = self.handle(fh)?.node.ino;
        let mode = self.getattr(Cx::Slow, ino)?.attr.mode;
        if without_setid(mode) != mode {
            self.setattr(Cx::Slow, ino, &SetAttr { kill_setid: true, ..SetAttr::default() })?;
        }
        Ok(())
    }

    /// Takes set-group-id of a file whose access list was set, unless `may_stay` for its group.
    pub fn clear_set_group_id(&self, ino: InodeId, may_stay: impl FnOnce(u32) -> bool) -> Op<()> {
        let Attr { mode, gid, .. } = self.getattr(Cx::Slow, ino)?.attr;
        if mode & 0o2000 != 0 && !may_stay(gid) {
            let set = SetAttr { mode: Some(mode & !0o2000), ..SetAttr::default() };
            self.setattr(Cx::Slow, ino, &set)?;
        }
        Ok(())
    }

    /// Whether a handle of this mount can write the file.
    pub fn has_writers(&self, ino: InodeId) -> bool {
        self.known_node(ino).is_some_and(|node| node.state().writers > 0)
    }

    /// Applies `set` locally if the node is ahead of the cell; says whether it did.
    fn set_here(&self, cx: Cx, node: &Arc<Node>, set: &SetAttr) -> Op<bool> {
        {
            let state = node.state();
            let has_acl = state.last.as_ref().is_some_and(|last| last.attr.flags.has_access_acl);
            let ahead = state.unpublished.is_some() || state.is_dirty() || state.sending.is_some();
            if !state.gone && (!ahead || (has_acl && set.mode.is_some())) {
                return Ok(false);
            }
        }
        if let Some(size) = set.size {
            self.resize_here(cx, node, size)?;
        }
        let now = self.clock.now();
        let mut state = node.state();
        let mut rest = SetAttr { size: None, ..set.clone() };
        for time in [&mut rest.atime, &mut rest.mtime] {
            if *time == Some(op::SetTime::Now) {
                *time = Some(op::SetTime::Written(now));
            }
        }
        state.merge(&rest);
        state.changed = Some(now);
        Ok(true)
    }

    /// Publishes the files of a directory that the cell does not know yet.
    fn publish_names_in(&self, cx: Cx, dir: InodeId) -> Op<()> {
        let nodes: Vec<Arc<Node>> = {
            let pending = lock(&self.pending);
            pending.get(&dir).map(|names| names.values().cloned().collect()).unwrap_or_default()
        };
        match cx {
            Cx::Fast if !nodes.is_empty() => Err(Stop::WouldBlock),
            _ => nodes.iter().try_for_each(|node| self.publish(node)),
        }
    }

    /// Whether a change of length has to be made on a working copy: there is one, or the content
    /// stands in the row and would outgrow it.
    fn must_resize_here(&self, node: &Arc<Node>) -> Op<bool> {
        {
            let state = node.state();
            if state.draft.is_some() || state.writers > 0 {
                return Ok(true);
            }
        }
        if self.is_shown(node) {
            return Ok(true);
        }
        let (inode, _) = self.inode_of(Cx::Slow, node)?;
        Ok(matches!(&inode.content, Content::Inline(bytes) if bytes.len() <= INLINE_MAX))
    }

    pub(super) fn set_at_cell(&self, node: &Arc<Node>, set: &SetAttr) -> Op<()> {
        let row = node.state().row;
        let change = op::Op::SetAttr { ino: row, set: set.clone() };
        let outcome = self.meta.mutate(change, METADATA_DEADLINE)?;
        if set.mode.is_some() {
            self.meta.forget_xattrs(row);
        }
        let mut state = node.state();
        if let Some(attr) = outcome.attrs.into_iter().find(|attr| attr.ino == row) {
            if set.size.is_some() {
                // The kernel has cut its own pages: they are of the new version.
                state.page_cver = state.page_cver.map(|_| attr.cver);
                state.last = None;
            } else if let Some(Inode { attr: last, .. }) =
                state.last.as_mut().filter(|last| last.attr.cver == attr.cver)
            {
                *last = attr;
            }
        }
        Ok(())
    }
}

/// Whether attributes can only be set when the commit that is under way has ended: nothing here commits
/// what they would leave behind, or the cell has to work out what they mean.
fn must_wait(state: &NodeState, set: &SetAttr) -> bool {
    let has_acl = state.last.as_ref().is_some_and(|last| last.attr.flags.has_access_acl);
    state.sending.is_some() && !state.gone && (state.writers == 0 || (has_acl && set.mode.is_some()))
}
