//! Changes that close() accepts while the cell is away (DESIGN D15 and D16): what goes into the
//! journal, and what becomes of it when the cell is back.
//!
//! A file in the journal is as dirty as before: the mount shows it, and commits it as soon as it can.
//! What is different is that its commit must not replace what others did meanwhile.

use super::commit::{Failed, Taken, put_back};
use super::node::{Kept, Node};
use super::reappend::{Sealed, seal};
use super::tail::Tail;
use super::{Fs, Notice, Op, lock};
use crate::journal::{ContentWriter, Journal, NewFile, Owner, Pending, Piece, Record, SentOp, Stored};
use crate::meta::{Cx, Late, OldSessions, OpKey, Sent, Stop};
use sitefs_base::limits::{CHUNK_SIZE, COMMIT_CHUNKS_MAX};
use sitefs_base::op::{Change, Extra, Outcome, Place, SetAttr};
use sitefs_base::{Content, Digest, Errno, Error, FileKind, Inode, InodeId, Result, VolumeName, op};
use sitefs_blobstore::hash;
use std::sync::{Arc, Mutex};

/// The journal of a mount, and what its records need.
pub struct Keeping {
    pub(super) journal: Journal,
    /// The mounted volume.
    pub(super) volume: VolumeName,
    /// The sessions of mounts that died.
    pub(super) old: OldSessions,
    /// Records of mounts that died, not yet looked at.
    pub(super) inherited: Mutex<Vec<(u64, Record)>>,
}

impl Keeping {
    /// `records` are those that `journal` had when it was opened.
    pub fn new(journal: Journal, volume: VolumeName, old: OldSessions, records: Vec<(u64, Record)>) -> Self {
        Self { journal, volume, old, inherited: Mutex::new(records) }
    }
}

impl Fs {
    /// Whether the cell can be asked now. That there is no lease is no reason not to try: one that comes
    /// back answers before it renews.
    pub(super) fn cell_is_there(&self) -> bool {
        self.meta.session().is_attached()
    }

    /// What the journal holds.
    pub fn journal_pending(&self) -> Pending {
        self.keeping.as_ref().map(|keeping| keeping.journal.pending()).unwrap_or_default()
    }

    /// Whether files may be opened for writing: not while the journal waits for a cell that is away, so
    /// that programs hear of it where they listen, and at once.
    pub(super) fn takes_writers(&self, cx: Cx) -> Op<()> {
        self.writable()?;
        match &self.keeping {
            Some(keeping) if !keeping.journal.is_empty() && !self.meta.session().has_lease() => {
                Err(Errno::EIO.into())
            }
            _ => self.may_begin(cx),
        }
    }

    /// Puts everything that is not committed into the journal, for callers that hold the node's commit
    /// lock. `EIO` if the journal cannot take it.
    pub(super) fn keep(&self, node: &Arc<Node>) -> Op<()> {
        let Some(keeping) = &self.keeping else { return Err(Errno::EIO.into()) };
        let taken = self.take(node)?;
        let sealed = seal(node, taken.as_ref());
        if taken.is_none() && sealed.appends.is_empty() {
            return Ok(());
        }
        let written = self.write_record(keeping, node, taken.as_ref(), &sealed);
        let only_appends = taken.is_none();
        if let Some(taken) = taken {
            put_back(node, taken);
        }
        match written {
            Ok((record, named)) => {
                let held = sealed.old.and_then(|old| old.held);
                let (stays, goes) = (held.filter(|key| named == Some(*key)), held);
                let appends = u32::try_from(sealed.appends.len()).unwrap_or(u32::MAX);
                let changes = sealed.changes;
                node.state().kept =
                    Some(Kept { record, changes, held: stays, appends, landed: 0, only_appends });
                if let Some(key) = goes.filter(|_| stays.is_none()) {
                    self.meta.session().release(key);
                }
                tracing::warn!(ino = %node.ino, record, "the cell did not answer: a closed file is in the journal");
                Ok(())
            }
            Err(error) => {
                tracing::error!(ino = %node.ino, error = error.chain(), "the journal cannot take a closed file");
                Err(Errno::EIO.into())
            }
        }
    }

    /// Writes a record of what was taken and of what is to be appended; with the operation that it names.
    fn write_record(
        &self,
        keeping: &Keeping,
        node: &Node,
        taken: Option<&Taken>,
        sealed: &Sealed,
    ) -> Result<(u64, Option<OpKey>)> {
        let captured = taken.and_then(|taken| taken.captured.as_ref());
        if captured.is_some() && !sealed.appends.is_empty() {
            return Err(Error::internal("a file has appends and a changed working copy"));
        }
        let attached = self.meta.session().attached();
        let attached = attached.ok_or_else(|| Error::unavailable("the cell has forgotten the session"))?;
        // Appends go before commits.
        let unsure = { node.state().unsure }.filter(|_| sealed.appends.is_empty());
        let commit = unsure.map(|unsure| (unsure.key, unsure.all && unsure.changes == sealed.changes));
        let named = sealed.unsure.map(|key| (key, true)).or(commit);
        let own = taken.and_then(|taken| taken.unpublished.as_ref());
        let record = |content: Option<Stored>| Record {
            owner: Owner {
                cell: attached.cell.clone(),
                volume: keeping.volume.to_string(),
                id: attached.volume,
            },
            incarnation: attached.incarnation,
            session: named.map_or_else(|| self.meta.session().id(), |(key, _)| key.session),
            sent: named.map(|(key, current)| SentOp { op: key.op, current }),
            replaces: None,
            at: self.clock.now(),
            path: self.path_of(node, own.map(|own| &own.place)),
            ino: sealed.row,
            base: taken.map_or(sealed.cver, |taken| taken.cver),
            new: own.map(|own| NewFile {
                place: own.place.clone(),
                create: own.create.clone(),
                created: own.attr.ctime,
            }),
            set: taken.map(|taken| taken.set.clone()).unwrap_or_default(),
            written: taken.and_then(|taken| taken.written),
            changed: taken.and_then(|taken| taken.changed),
            content,
            appends: sealed.of_record(),
        };
        let bytes = captured.map_or(sealed.len(), |captured| match &captured.whole {
            Some(whole) => whole.len() as u64,
            None => captured.chunks.len() as u64 * CHUNK_SIZE,
        });
        let write = |writer: &mut ContentWriter| match taken {
            Some(taken) if taken.captured.is_some() => write_content(writer, taken),
            _ => sealed.write(writer),
        };
        let number = keeping.journal.put(bytes, sealed.old.map(|old| old.record), write, record)?;
        Ok((number, named.map(|(key, _)| key)))
    }

    fn path_of(&self, node: &Node, place: Option<&Place>) -> String {
        match place {
            None => self.meta.path_of(node.state().row),
            Some(place) => {
                let name = String::from_utf8_lossy(place.name.as_bytes()).into_owned();
                format!("{}/{name}", self.meta.path_of(place.parent))
            }
        }
    }

    /// Learns what became of a commit that was not answered in time. `true` if it was executed and
    /// there is nothing more to commit.
    pub(super) fn resolve(&self, node: &Arc<Node>) -> Result<bool, Failed> {
        let Some(unsure) = ({ node.state().unsure }) else { return Ok(false) };
        let outcome = match self.meta.session().late(unsure.key, self.close_deadline) {
            Late::Waiting => return Err(Failed::NoAnswer),
            // It will never be executed. What was to be committed still is.
            Late::Answered(Err(_)) | Late::Lost => {
                node.state().unsure = None;
                self.let_go(node, unsure.key);
                return Ok(false);
            }
            Late::Answered(Ok(outcome)) => outcome,
        };
        self.meta.take_in(&outcome);
        if outcome.extra == Extra::Dropped && node.state().kept.is_some() {
            node.state().unsure = None;
            self.contested(node, "the file was removed")?;
            return Ok(true);
        }
        let is_all = unsure.all && { node.state().changes } == unsure.changes;
        if is_all && let Some(taken) = self.take(node)? {
            node.state().unsure = None;
            self.committed(node, taken, outcome, None);
            self.meta.session().release(unsure.key);
            return Ok(true);
        }
        let mut state = node.state();
        state.unsure = None;
        state.gone |= outcome.extra == Extra::Dropped;
        if unsure.publishes
            && let Some(own) = state.unpublished.clone()
        {
            self.now_published(node.ino, &mut state, &own, &outcome);
        }
        let row = state.row;
        let attr = outcome.attrs.iter().find(|attr| attr.ino == row);
        if let Some(draft) = state.draft.as_mut().filter(|_| unsure.publishes || unsure.content) {
            draft.cver = Some(attr.map_or(outcome.seq, |attr| attr.cver.min(outcome.seq)));
        }
        drop(state);
        self.hold_or_release(node, unsure.key);
        Ok(false)
    }

    /// Of an operation that was executed the reply is needed for as long as a record names it.
    pub(super) fn hold_or_release(&self, node: &Node, key: OpKey) {
        let mut state = node.state();
        match &mut state.kept {
            Some(kept) if kept.held.is_none_or(|held| held == key) => kept.held = Some(key),
            // The record names another one, or there is none.
            _ => {
                drop(state);
                self.meta.session().release(key);
            }
        }
    }

    /// Nobody needs the reply of an operation any more.
    pub(super) fn let_go(&self, node: &Node, key: OpKey) {
        if let Some(kept) = &mut node.state().kept
            && kept.held == Some(key)
        {
            kept.held = None;
        }
        self.meta.session().release(key);
    }

    /// Commits a file that the journal has: the record names the operation before it is sent, so that it
    /// is known after a crash.
    pub(super) fn send_kept(&self, node: &Node, taken: &Taken, commit: op::Op) -> Sent {
        let current = { node.state().kept }.is_some_and(|kept| kept.changes == taken.changes);
        self.send_named(node, current, commit)
    }

    /// Sends an operation after the record of the file names it.
    pub(super) fn send_named(&self, node: &Node, current: bool, body: op::Op) -> Sent {
        let (Some(keeping), Some(kept)) = (&self.keeping, { node.state().kept }) else {
            return self.meta.send(body, self.close_deadline);
        };
        let session = self.meta.session();
        let key = session.reserve();
        let incarnation = session.attached().map(|attached| attached.incarnation);
        let name = |record: &mut Record| {
            (record.session, record.sent) = (key.session, Some(SentOp { op: key.op, current }));
            record.appends.landed = kept.landed;
            record.of_incarnation(incarnation);
        };
        if let Err(error) = keeping.journal.sending(kept.record, name) {
            tracing::error!(error = error.chain(), "a journal record cannot be brought up to date");
            session.release(key);
            return Sent::Unknown;
        }
        if let Some(kept) = &mut node.state().kept
            && let Some(old) = kept.held.replace(key)
        {
            session.release(old);
        }
        let sent = session.send_reserved(key, body, self.close_deadline);
        if let Sent::Answered(Ok(outcome)) = &sent {
            self.meta.take_in(outcome);
        }
        sent
    }

    /// A file has no name any more: nobody needs to know what became of a commit.
    pub(super) fn abandon(&self, node: &Node) {
        let keys = {
            let mut state = node.state();
            let commit = state.unsure.take().map(|unsure| unsure.key);
            [commit, state.tail.as_mut().and_then(Tail::give_up)]
        };
        keys.into_iter().flatten().for_each(|key| self.meta.session().release(key));
    }

    /// The cell has everything, or nobody needs it: the record of a file goes.
    pub(super) fn drop_record(&self, node: &Node) {
        let Some(kept) = ({ node.state().kept.take() }) else { return };
        if let Some(keeping) = &self.keeping
            && let Err(error) = keeping.journal.committed(kept.record)
        {
            tracing::error!(record = kept.record, error = error.chain(), "a journal record stays");
        }
        if let Some(key) = kept.held {
            self.meta.session().release(key);
        }
    }

    /// The cell refused a file of the journal because of what others did. If it has the same content
    /// now, that is as good; else the bytes stay in the journal as a conflict, and the mount shows what
    /// the cell has. For callers that hold the node's commit lock.
    pub(super) fn contested(&self, node: &Arc<Node>, why: &str) -> Result<(), Failed> {
        let Some(taken) = self.take(node)? else { return self.appends_contested(node, why) };
        let found = self.compare(node, &taken);
        let (row, is_kept) = (taken.row, { node.state().is_kept() });
        put_back(node, taken);
        // Without an answer it stays as it is.
        let (inode, is_same) = found.map_err(|_| Failed::NoAnswer)?;
        if is_same {
            self.abandon(node);
            self.drop_record(node);
        } else {
            if !is_kept {
                self.keep(node)?;
            }
            self.set_record_aside(node, why);
        }
        self.drop_changes(node, inode.filter(|inode| is_same || inode.attr.ino == row));
        Ok(())
    }

    /// What the cell has where the taken changes belong, and whether it has their content.
    fn compare(&self, node: &Node, taken: &Taken) -> Op<(Option<Inode>, bool)> {
        let Some(inode) = self.at_cell(taken)? else { return Ok((None, false)) };
        let is_same = self.has_content(node, &inode, taken)?;
        Ok((Some(inode), is_same))
    }

    /// What stands where the taken changes belong.
    fn at_cell(&self, taken: &Taken) -> Op<Option<Inode>> {
        match self.inode_now(taken.row)? {
            Some(inode) => Ok(Some(inode)),
            None => match &taken.unpublished {
                Some(own) => self.lookup_now(&own.place),
                None => Ok(None),
            },
        }
    }

    /// The inode as the cell has it now.
    pub(super) fn inode_now(&self, ino: InodeId) -> Op<Option<Inode>> {
        self.meta.forget_inode(ino);
        Ok(self.meta.inode(Cx::Slow, ino)?.value)
    }

    /// What a name leads to now; nothing, if its directory is gone.
    pub(super) fn lookup_now(&self, place: &Place) -> Op<Option<Inode>> {
        match self.meta.lookup(Cx::Slow, place) {
            Ok(found) => Ok(found.value),
            Err(Stop::Errno(Errno::ENOENT | Errno::ENOTDIR)) => Ok(None),
            Err(stop) => Err(stop),
        }
    }

    fn has_content(&self, node: &Node, inode: &Inode, taken: &Taken) -> Op<bool> {
        let Some(captured) = &taken.captured else { return Ok(true) };
        let chunks = if captured.whole.is_some() { &[0][..] } else { &captured.chunks[..] };
        let mut pieces = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let bytes = captured.chunk(*chunk).map_err(|_| Errno::EIO)?;
            pieces.extend(piece_of(*chunk, &bytes));
        }
        self.is_stored(node, inode, captured.size, &pieces)
    }

    /// Whether the cell's version of a file has `size` bytes and these pieces.
    pub(super) fn is_stored(&self, node: &Node, inode: &Inode, size: u64, pieces: &[Piece]) -> Op<bool> {
        if inode.attr.kind != FileKind::File || inode.attr.size != size {
            return Ok(false);
        }
        if let Content::Inline(bytes) = &inode.content {
            let digest = hash(bytes);
            return Ok(pieces.iter().all(|piece| digest_of(piece) == digest));
        }
        let mut layout = lock(&node.layout);
        for piece in pieces {
            let (offset, len) = (piece.offset(), u64::from(piece.len));
            let extents = layout.extents(Cx::Slow, &self.meta, inode, offset, len)?;
            let is_same = match &extents[..] {
                [] => piece.digest.is_none(),
                [only] => {
                    let at = (only.offset, u64::from(only.len), only.blob_offset);
                    at == (offset, len, 0) && only.digest == digest_of(piece)
                }
                _ => false,
            };
            if !is_same {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn set_record_aside(&self, node: &Node, why: &str) {
        self.abandon(node);
        let Some(kept) = ({ node.state().kept.take() }) else { return };
        tracing::error!(
            ino = %node.ino, record = kept.record, why,
            "a journaled file does not fit any more: its bytes stay in the journal as a conflict"
        );
        if let Some(keeping) = &self.keeping
            && let Err(error) = keeping.journal.conflict(kept.record)
        {
            tracing::error!(
                error = error.chain(),
                "a conflict cannot be set aside: it is met again at the next start"
            );
        }
        if let Some(key) = kept.held {
            self.meta.session().release(key);
        }
    }

    /// Forgets what is not committed: from now on the mount shows what the cell has. A file without a
    /// name there becomes `found`, or has none at all.
    fn drop_changes(&self, node: &Node, found: Option<Inode>) {
        let mut state = node.state();
        (state.draft, state.set) = (None, SetAttr::default());
        (state.written, state.changed, state.page_cver) = (None, None, None);
        state.changes += 1;
        if let Some(own) = state.unpublished.clone() {
            if let Some(inode) = found {
                let (seq, ino) = (self.meta.session().applied(), Some(inode.attr.ino));
                let outcome = Outcome { seq, ino, attrs: Vec::new(), extra: Extra::None };
                self.now_published(node.ino, &mut state, &own, &outcome);
            } else {
                (state.unpublished, state.gone) = (None, true);
                state.last = Some(Inode { attr: own.attr.clone(), content: Content::Empty });
                self.remove_pending(&own);
            }
            self.tell(None, &[Change::Name(own.place)]);
        }
        state.recount();
        drop(state);
        self.notices.send(Notice::Attr(node.ino));
    }
}

fn piece_of(chunk: u32, bytes: &[u8]) -> Option<Piece> {
    let len = u32::try_from(bytes.len()).ok().filter(|len| *len > 0)?;
    Some(Piece { chunk, len, digest: Some(hash(bytes)).filter(|_| bytes.iter().any(|byte| *byte != 0)) })
}

fn digest_of(piece: &Piece) -> Digest {
    piece.digest.unwrap_or_else(|| hash(&vec![0; usize::try_from(piece.len).unwrap_or(usize::MAX)]))
}

fn write_content(writer: &mut ContentWriter, taken: &Taken) -> Result<()> {
    let Some(captured) = &taken.captured else { return Ok(()) };
    if let Some(whole) = &captured.whole {
        writer.begin(captured.size, true)?;
        return writer.piece(0, whole);
    }
    if captured.chunks.len() > COMMIT_CHUNKS_MAX {
        return Err(Error::invalid("more chunks changed than one commit carries"));
    }
    let all =
        (0..captured.size.div_ceil(CHUNK_SIZE)).eq(captured.chunks.iter().map(|chunk| u64::from(*chunk)));
    let is_new = taken.unpublished.is_some();
    writer.begin(captured.size, all || is_new)?;
    for chunk in &captured.chunks {
        writer.piece(*chunk, &captured.chunk(*chunk)?)?;
    }
    Ok(())
}
