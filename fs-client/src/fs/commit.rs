//! Commits: what this mount has and the cell has not.

use super::merge::Starts;
use super::node::{Node, NodeState, Sending, Unpublished, Unsure};
use super::{Fs, Notice, Op, lock};
use crate::data::{Captured, Prepared, prepare};
use crate::meta::{Cx, Sent, Stop};
use sitefs_base::limits::{COMMIT_CHUNKS_MAX, CONTENT_DEADLINE, METADATA_DEADLINE};
use sitefs_base::op::{
    self, ChunkLayout, Commit, Create, Extra, NewContent, Outcome, Place, Publish, SetAttr, SetTime, Uploaded,
};
use sitefs_base::{Content, Errno, Error, Inode, InodeId, Seq, Time};
use std::{collections::HashSet, sync::Arc, time::Duration};

/// How often a commit is prepared again because a grant or a blob was lost meanwhile.
const ATTEMPTS: u32 = 3;

/// What a commit is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// A descriptor is closed: nobody looks at an error, so without an answer the journal takes the bytes.
    Close,
    /// Somebody wants to know whether the cell has it.
    Sync,
}

/// Why a commit did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failed {
    /// The cell, or this machine, said no.
    Refused(Errno),
    /// The cell did not answer, or the store did not take the content, in time.
    NoAnswer,
}

impl From<Failed> for Stop {
    fn from(failed: Failed) -> Self {
        Self::Errno(match failed {
            // The kernel would repeat a close that says EAGAIN.
            Failed::Refused(Errno::EAGAIN) | Failed::NoAnswer => Errno::EIO,
            Failed::Refused(errno) => errno,
        })
    }
}

impl From<Stop> for Failed {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Errno(errno) => Self::Refused(errno),
            Stop::WouldBlock => Self::Refused(Errno::EIO),
        }
    }
}

/// Changes taken from a node for one commit.
pub(super) struct Taken {
    pub row: InodeId,
    pub captured: Option<Captured>,
    pub set: SetAttr,
    pub written: Option<Time>,
    pub changed: Option<Time>,
    pub unpublished: Option<Unpublished>,
    /// If the content changed by appends alone: where they begin.
    pub appended: Option<Starts>,
    /// The content version that the changes are for.
    pub cver: Option<Seq>,
    /// The journal has the file: its commit must not replace what others did meanwhile.
    pub kept: bool,
    /// The node's count of changes.
    pub changes: u64,
    /// Whether this is all that there is to commit.
    pub all: bool,
}

impl Fs {
    /// Commits everything that this mount changed in a file; when it returns, a quorum has it, or, of a
    /// close, the journal.
    pub(super) fn commit(&self, node: &Arc<Node>, purpose: Purpose) -> Op<()> {
        let _alone = lock(&node.committing);
        if purpose == Purpose::Close && node.state().is_kept() {
            return Ok(());
        }
        let wait = match purpose {
            Purpose::Close => self.close_deadline,
            Purpose::Sync => CONTENT_DEADLINE,
        };
        match self.send_tail_alone(node).and_then(|()| self.commit_alone(node, wait)) {
            Err(Failed::NoAnswer) if purpose == Purpose::Close => self.keep(node),
            done => Ok(done?),
        }
    }

    /// [`Self::commit`] for callers that hold the node's commit lock, with `wait` for each transfer.
    pub(super) fn commit_alone(&self, node: &Arc<Node>, wait: Duration) -> Result<(), Failed> {
        if self.resolve(node)? {
            return Ok(());
        }
        for attempt in 1.. {
            let Some(taken) = self.take(node)? else { return Ok(()) };
            match self.send(node, &taken, wait) {
                Ok((outcome, _)) if outcome.extra == Extra::Dropped && taken.kept => {
                    put_back(node, taken);
                    return self.contested(node, "the file was removed");
                }
                Ok((outcome, prepared)) => {
                    self.committed(node, taken, outcome, prepared);
                    return Ok(());
                }
                Err(failed) => {
                    let (kept, appended) = (taken.kept, taken.appended.is_some());
                    put_back(node, taken);
                    match failed {
                        Failed::Refused(Errno::ESTALE) if appended => {
                            self.append_behind_others(node)?;
                            self.send_tail_alone(node)?;
                        }
                        Failed::Refused(Errno::EAGAIN) if attempt < ATTEMPTS => {}
                        Failed::Refused(errno) if kept && is_contested(errno) => {
                            return self.contested(node, "it was changed by another mount");
                        }
                        failed => return Err(failed),
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes what has to be sent, with all content that is needed for it.
    pub(super) fn take(&self, node: &Arc<Node>) -> Op<Option<Taken>> {
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

    fn send(
        &self,
        node: &Node,
        taken: &Taken,
        wait: Duration,
    ) -> Result<(Outcome, Option<Prepared>), Failed> {
        let prepared = match &taken.captured {
            None => None,
            Some(captured) => {
                Some(prepare(&self.meta, &self.blobs, captured, wait).map_err(|error| report(&error))?)
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
        // The first of several makes another version.
        let is_one = first.is_empty();
        let commit_of = |set, piece| commit_of(taken, set, piece, is_one);
        let send = |commit, all| {
            let sent = self.send_one(node, taken, commit, all);
            if let (Err(Failed::Refused(Errno::EAGAIN)), Some(prepared)) = (&sent, &prepared) {
                self.blobs.forget_uploads(&prepared.uploaded);
            }
            sent
        };
        for piece in first {
            send(commit_of(SetAttr::default(), Some(piece)), false)?;
        }
        let outcome = send(commit_of(set, last), taken.all)?;
        Ok((outcome, prepared))
    }

    /// Sends one commit. Without a reply in time the node remembers that its outcome is not known.
    fn send_one(&self, node: &Node, taken: &Taken, commit: op::Op, all: bool) -> Result<Outcome, Failed> {
        let sent = match taken.kept && all {
            true => self.send_kept(node, taken, commit),
            false => self.meta.send(commit, self.close_deadline),
        };
        match sent {
            Sent::Answered(result) => result.map_err(Failed::Refused),
            Sent::Unknown => {
                if let Some(own) = &mut node.state().unpublished {
                    own.sent = true;
                }
                Err(Failed::NoAnswer)
            }
            Sent::Late(key) => {
                let (publishes, content) = (taken.unpublished.is_some(), taken.captured.is_some());
                let unsure = Unsure { key, publishes, content, all, changes: taken.changes };
                node.state().unsure = Some(unsure);
                Err(Failed::NoAnswer)
            }
        }
    }

    pub(super) fn committed(
        &self,
        node: &Arc<Node>,
        taken: Taken,
        outcome: Outcome,
        prepared: Option<Prepared>,
    ) {
        let mut state = node.state();
        state.sending = None;
        state.commits += 1;
        state.succeeded();
        if outcome.extra == Extra::Dropped {
            state.gone = true;
        }
        if let Some(own) = &taken.unpublished {
            self.now_published(node.ino, &mut state, own, &outcome);
        }
        let row = state.row;
        let attr = outcome.attrs.into_iter().find(|attr| attr.ino == row);
        let is_new_version = taken.captured.is_some() || taken.unpublished.is_some();
        if let Some(draft) = &mut state.draft {
            if is_new_version {
                draft.cver = attr.as_ref().map(|attr| attr.cver.min(outcome.seq));
            }
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
                (None, Some(last)) if taken.captured.is_none() && last.attr.cver == attr.cver => {
                    Some(last.content.clone())
                }
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
        self.drop_record(node);
        // An answer that was computed before may still be on its way to the kernel.
        self.notices.send(Notice::Attr(node.ino));
        if let Some(bytes) = prepared.and_then(|prepared| prepared.keep) {
            let blobs = Arc::clone(&self.blobs);
            // The runtime owns its blocking threads and waits for them when it ends.
            drop(self.meta.session().runtime().spawn_blocking(move || blobs.keep(&bytes)));
        }
    }

    pub(super) fn now_published(
        &self,
        ino: InodeId,
        state: &mut NodeState,
        own: &Unpublished,
        outcome: &Outcome,
    ) {
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
    /// What the journal has goes whole.
    pub(super) fn publish(&self, node: &Arc<Node>) -> Op<()> {
        let _alone = lock(&node.committing);
        self.publish_alone(node)
    }

    /// [`Self::publish`] for callers that hold the node's commit lock.
    pub(super) fn publish_alone(&self, node: &Arc<Node>) -> Op<()> {
        if node.state().kept.is_some() {
            return Ok(self.commit_alone(node, CONTENT_DEADLINE)?);
        }
        if self.resolve(node)? {
            return Ok(());
        }
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
            let (unpublished, all) = (state.unpublished.clone(), !state.is_dirty());
            let (row, changes) = (state.row, state.changes);
            let (captured, written, appended, cver, kept) = (None, None, None, None, false);
            Taken { row, captured, set, written, changed, unpublished, appended, cver, kept, changes, all }
        };
        match self.send(node, &taken, CONTENT_DEADLINE) {
            Ok((outcome, prepared)) => {
                self.committed(node, taken, outcome, prepared);
                Ok(())
            }
            Err(failed) => {
                put_back(node, taken);
                Err(failed.into())
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

fn take_now(state: &mut NodeState, dirty: bool) -> Op<Taken> {
    let (mut growth, mut allocated, mut appended) = (0, 0, None);
    let captured = match &mut state.draft {
        Some(draft) if dirty => {
            growth = draft.copy.growth(draft.allocated);
            let captured = draft.copy.capture().map_err(|error| Stop::from(report(&error)))?;
            // Until the reply nobody knows what of it are holes.
            allocated = std::mem::take(&mut draft.allocated);
            appended = draft.appended.take();
            Some(captured)
        }
        _ => None,
    };
    let set = std::mem::take(&mut state.set);
    let (written, changed) = (state.written.take(), state.changed.take());
    let content = captured.is_some();
    state.sending = Some(Sending { content, set: set.clone(), written, changed, growth, allocated });
    let cver = state.draft.as_ref().filter(|_| content).and_then(|draft| draft.cver);
    let (row, unpublished, kept) = (state.row, state.unpublished.clone(), state.kept.is_some());
    let changes = state.changes;
    Ok(Taken { row, captured, set, written, changed, unpublished, appended, cver, kept, changes, all: true })
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

fn commit_of(taken: &Taken, set: SetAttr, piece: Option<Piece>, is_one: bool) -> op::Op {
    let (content, uploaded) = match piece {
        Some((content, uploaded)) => (Some(content), uploaded),
        None => (None, Vec::new()),
    };
    let is_exact = taken.kept || (taken.appended.is_some() && taken.cver.is_some() && is_one);
    // Without a known version nothing fits.
    let is_for_a_version = is_exact && taken.unpublished.is_none() && content.is_some();
    let create = taken.unpublished.as_ref().map(|own| own.create.clone());
    let exclusive = |own: &Unpublished| own.exclusive || taken.kept;
    let link =
        taken.unpublished.as_ref().map(|own| Publish { at: own.place.clone(), exclusive: exclusive(own) });
    let own = taken.unpublished.as_ref().map(|own| own.attr.ctime);
    let changed = taken.changed.or(own);
    op::Op::Commit(Commit {
        ino: taken.row,
        expect_cver: is_for_a_version.then_some(taken.cver.unwrap_or(Seq::new(u64::MAX))),
        content,
        set,
        changed,
        create,
        link,
        uploaded,
    })
}

pub(super) fn put_back(node: &Node, taken: Taken) {
    let mut state = node.state();
    let sending = state.sending.take();
    if let (Some(draft), Some(captured)) = (&mut state.draft, &taken.captured) {
        let was_changed = draft.copy.is_changed();
        draft.copy.restore(captured);
        draft.put_back(taken.appended, was_changed);
        draft.allocated = sending.map_or(0, |sending| sending.allocated);
    }
    state.written = state.written.or(taken.written);
    state.changed = state.changed.or(taken.changed);
    let newer = std::mem::replace(&mut state.set, taken.set);
    state.put_over(&newer);
    state.recount();
}

/// Whether a refusal says that the tree is not any more as the journaled file needs it.
fn is_contested(errno: Errno) -> bool {
    matches!(errno, Errno::ESTALE | Errno::EEXIST | Errno::EISDIR | Errno::ENOENT | Errno::ENOTDIR)
}

fn report(error: &Error) -> Failed {
    if error.named_errno() == Some(Errno::EAGAIN) {
        return Failed::Refused(Errno::EAGAIN);
    }
    tracing::error!(error = error.chain(), "content cannot be committed");
    match error.errno() {
        full @ (Errno::ENOSPC | Errno::EDQUOT | Errno::EROFS) => Failed::Refused(full),
        _ => Failed::NoAnswer,
    }
}
