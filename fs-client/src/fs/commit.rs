//! Commits: what this mount has and the cell has not.

use super::node::{Node, NodeState, Sending, Unpublished};
use super::{Fs, Notice, Op, lock};
use crate::data::{Captured, Prepared, prepare};
use crate::meta::Cx;
use sitefs_base::limits::{CLOSE_DEADLINE, COMMIT_CHUNKS_MAX, METADATA_DEADLINE};
use sitefs_base::op::{
    self, ChunkLayout, Commit, Create, Extra, NewContent, Outcome, Place, Publish, SetAttr, SetTime, Uploaded,
};
use sitefs_base::{Content, Errno, Error, Inode, InodeId, Time};
use std::{collections::HashSet, sync::Arc};

/// How often a commit is prepared again because a grant or a blob was lost meanwhile.
const ATTEMPTS: u32 = 3;

/// Changes taken from a node for one commit.
struct Taken {
    row: InodeId,
    captured: Option<Captured>,
    set: SetAttr,
    written: Option<Time>,
    changed: Option<Time>,
    unpublished: Option<Unpublished>,
}

impl Fs {
    /// Commits everything that this mount changed in a file; when it returns, a quorum has it.
    pub(super) fn commit(&self, node: &Arc<Node>) -> Op<()> {
        let _alone = lock(&node.committing);
        self.send_tail_alone(node)?;
        for attempt in 1.. {
            let Some(taken) = self.take(node)? else { return Ok(()) };
            match self.send(&taken) {
                Ok((outcome, prepared)) => {
                    self.committed(node, taken, outcome, prepared);
                    return Ok(());
                }
                Err(errno) => {
                    put_back(node, taken);
                    if errno != Errno::EAGAIN || attempt == ATTEMPTS {
                        // The kernel would repeat a close that says EAGAIN.
                        return Err(if errno == Errno::EAGAIN { Errno::EIO } else { errno }.into());
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes what has to be sent, with all content that is needed for it.
    fn take(&self, node: &Arc<Node>) -> Op<Option<Taken>> {
        loop {
            let missing = {
                let mut state = node.state();
                if state.gone || !state.needs_commit() {
                    return Ok(None);
                }
                let dirty = state.is_dirty();
                let missing = match &state.draft {
                    Some(draft) if dirty => draft.copy.missing_for_capture(),
                    _ => Vec::new(),
                };
                if missing.is_empty() {
                    return Ok(Some(take_now(&mut state, dirty)?));
                }
                missing
            };
            self.fill(Cx::Slow, node, &missing)?;
        }
    }

    fn send(&self, taken: &Taken) -> Result<(Outcome, Option<Prepared>), Errno> {
        let prepared = match &taken.captured {
            None => None,
            Some(captured) => {
                Some(prepare(&self.meta, &self.blobs, captured).map_err(|error| report(&error))?)
            }
        };
        let mut set = taken.set.clone();
        if let Some(own) = &taken.unpublished {
            // Programs have seen the times of the creation; they stay.
            set.atime = set.atime.or(Some(SetTime::Written(own.attr.atime)));
            set.mtime = set.mtime.or(Some(SetTime::Written(taken.written.unwrap_or(own.attr.mtime))));
        } else if let (None, Some(written)) = (set.mtime, taken.written) {
            set.mtime = Some(SetTime::Written(written));
        }
        let mut pieces = prepared.as_ref().map(pieces).unwrap_or_default();
        let (last, first) = match pieces.pop() {
            Some(last) => (Some(last), pieces),
            None => (None, Vec::new()),
        };
        let send = |set, piece| {
            let sent = self.meta.mutate(commit_of(taken, set, piece), CLOSE_DEADLINE);
            if let (Err(Errno::EAGAIN), Some(prepared)) = (&sent, &prepared) {
                self.blobs.forget_uploads(&prepared.uploaded);
            }
            sent
        };
        for piece in first {
            send(SetAttr::default(), Some(piece))?;
        }
        let outcome = send(set, last)?;
        Ok((outcome, prepared))
    }

    fn committed(&self, node: &Arc<Node>, taken: Taken, outcome: Outcome, prepared: Option<Prepared>) {
        let mut state = node.state();
        state.sending = None;
        state.commits += 1;
        if outcome.extra == Extra::Dropped {
            state.gone = true;
        }
        if let Some(own) = &taken.unpublished {
            self.now_published(node.ino, &mut state, own, &outcome);
        }
        let row = state.row;
        let attr = outcome.attrs.into_iter().find(|attr| attr.ino == row);
        if let Some(draft) = &mut state.draft {
            draft.allocated = attr.as_ref().map_or(draft.allocated, |attr| attr.allocated);
            if !draft.copy.is_changed() {
                draft.dirty_since = None;
            }
        }
        if let Some(attr) = attr {
            if taken.captured.is_some() && (state.page_cver.is_some() || taken.unpublished.is_some()) {
                state.page_cver = Some(attr.cver);
            }
            let known = prepared.as_ref().and_then(|prepared| prepared.row.clone());
            let content = match (known, &state.last) {
                (Some(content), _) => Some(content),
                (None, Some(last)) if taken.captured.is_none() => Some(last.content.clone()),
                _ if taken.captured.is_none() && taken.unpublished.is_some() => Some(Content::Empty),
                _ => None,
            };
            state.last = content.map(|content| Inode { attr, content });
            if let Some(inode) = &state.last {
                self.meta.inode_changed(outcome.seq, inode.clone());
            }
        }
        if state.writers == 0 && !state.is_ahead() {
            state.draft = None;
        }
        state.recount();
        drop(state);
        // An answer that was computed before may still be on its way to the kernel.
        self.notices.send(Notice::Attr(node.ino));
        if let Some(bytes) = prepared.and_then(|prepared| prepared.keep) {
            let blobs = Arc::clone(&self.blobs);
            // The runtime owns its blocking threads and waits for them when it ends.
            drop(self.meta.session().runtime().spawn_blocking(move || blobs.keep(&bytes)));
        }
    }

    fn now_published(&self, ino: InodeId, state: &mut NodeState, own: &Unpublished, outcome: &Outcome) {
        state.unpublished = None;
        if let Some(row) = outcome.ino.filter(|row| *row != state.row) {
            // Another mount's file of the same name took the content (DESIGN D4).
            state.row = row;
            lock(&self.aliases).entry(row).or_default().push(ino);
        }
        self.meta.name_changed(outcome.seq, &own.place, Some(state.row));
        self.remove_pending(own);
    }

    /// Makes an unpublished file known to the cell, empty; its content follows with the next commit.
    pub(super) fn publish(&self, node: &Arc<Node>) -> Op<()> {
        let _alone = lock(&node.committing);
        self.publish_alone(node)
    }

    /// [`Self::publish`] for callers that hold the node's commit lock.
    pub(super) fn publish_alone(&self, node: &Arc<Node>) -> Op<()> {
        let taken = {
            let mut state = node.state();
            if state.unpublished.is_none() {
                return Ok(());
            }
            let set = std::mem::take(&mut state.set);
            if state.is_dirty() {
                // The content that follows must not move a time that was set on purpose.
                state.set.mtime = set.mtime;
            }
            let changed = state.changed;
            let allocated = state.draft.as_ref().map_or(0, |draft| draft.allocated);
            state.sending = Some(Sending {
                content: false,
                set: set.clone(),
                written: None,
                changed,
                growth: 0,
                allocated,
            });
            let unpublished = state.unpublished.clone();
            Taken { row: state.row, captured: None, set, written: None, changed, unpublished }
        };
        match self.send(&taken) {
            Ok((outcome, prepared)) => {
                self.committed(node, taken, outcome, prepared);
                Ok(())
            }
            Err(errno) => {
                put_back(node, taken);
                Err(errno.into())
            }
        }
    }

    /// Creates an empty file at the cell, which works out owner, mode and ACL; gives its number.
    pub(super) fn create_empty(
        &self,
        at: &Place,
        ino: InodeId,
        create: Create,
        exclusive: bool,
    ) -> Op<InodeId> {
        let commit = Commit {
            ino,
            expect_cver: None,
            content: None,
            set: SetAttr::default(),
            changed: None,
            create: Some(create),
            link: Some(Publish { at: at.clone(), exclusive }),
            uploaded: Vec::new(),
        };
        let outcome = self.meta.mutate(op::Op::Commit(commit), METADATA_DEADLINE)?;
        let ino = outcome.ino.unwrap_or(ino);
        self.meta.name_changed(outcome.seq, at, Some(ino));
        if let Some(attr) = outcome.attrs.into_iter().find(|attr| attr.ino == ino)
            && attr.size == 0
        {
            self.meta.inode_changed(outcome.seq, Inode { attr, content: Content::Empty });
        }
        Ok(ino)
    }
}

fn take_now(state: &mut NodeState, dirty: bool) -> Result<Taken, Errno> {
    let (mut growth, mut allocated) = (0, 0);
    let captured = match &mut state.draft {
        Some(draft) if dirty => {
            growth = draft.copy.growth(draft.allocated);
            let captured = draft.copy.capture().map_err(|error| report(&error))?;
            // Until the reply nobody knows what of it are holes.
            allocated = std::mem::take(&mut draft.allocated);
            Some(captured)
        }
        _ => None,
    };
    let set = std::mem::take(&mut state.set);
    let (written, changed) = (state.written.take(), state.changed.take());
    let content = captured.is_some();
    state.sending = Some(Sending { content, set: set.clone(), written, changed, growth, allocated });
    Ok(Taken { row: state.row, captured, set, written, changed, unpublished: state.unpublished.clone() })
}

/// Part of new content, with the uploads that it rests on.
type Piece = (NewContent, Vec<Uploaded>);

/// What one log entry cannot carry goes in several commits: a file of more than 4 GiB of changes is
/// not replaced at one moment for readers elsewhere.
fn pieces(prepared: &Prepared) -> Vec<Piece> {
    match &prepared.content {
        NewContent::Chunks { size, changed } if changed.len() > COMMIT_CHUNKS_MAX => {
            let piece = |part: &[ChunkLayout]| {
                let digests: HashSet<_> =
                    part.iter().flat_map(|chunk| &chunk.extents).map(|extent| extent.digest).collect();
                let uploaded = prepared.uploaded.iter().filter(|done| digests.contains(&done.digest));
                let content = NewContent::Chunks { size: *size, changed: part.to_vec() };
                (content, uploaded.cloned().collect())
            };
            changed.chunks(COMMIT_CHUNKS_MAX).map(piece).collect()
        }
        content => vec![(content.clone(), prepared.uploaded.clone())],
    }
}

fn commit_of(taken: &Taken, set: SetAttr, piece: Option<Piece>) -> op::Op {
    let (content, uploaded) = match piece {
        Some((content, uploaded)) => (Some(content), uploaded),
        None => (None, Vec::new()),
    };
    let create = taken.unpublished.as_ref().map(|own| own.create.clone());
    let link = taken.unpublished.as_ref().map(publish_as);
    let own = taken.unpublished.as_ref().map(|own| own.attr.ctime);
    let changed = taken.changed.or(own);
    op::Op::Commit(Commit {
        ino: taken.row,
        expect_cver: None,
        content,
        set,
        changed,
        create,
        link,
        uploaded,
    })
}

fn put_back(node: &Node, taken: Taken) {
    let mut state = node.state();
    let sending = state.sending.take();
    if let (Some(draft), Some(captured)) = (&mut state.draft, &taken.captured) {
        draft.copy.restore(captured);
        draft.allocated = sending.map_or(0, |sending| sending.allocated);
    }
    state.written = state.written.or(taken.written);
    state.changed = state.changed.or(taken.changed);
    let newer = std::mem::replace(&mut state.set, taken.set);
    state.merge(&newer);
    state.recount();
}

fn publish_as(own: &Unpublished) -> Publish {
    Publish { at: own.place.clone(), exclusive: own.exclusive }
}

fn report(error: &Error) -> Errno {
    if error.named_errno() == Some(Errno::EAGAIN) {
        return Errno::EAGAIN;
    }
    tracing::error!(error = error.chain(), "content cannot be committed");
    match error.errno() {
        full @ (Errno::ENOSPC | Errno::EDQUOT | Errno::EROFS) => full,
        _ => Errno::EIO,
    }
}
