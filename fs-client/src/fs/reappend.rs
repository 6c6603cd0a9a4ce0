//! What append handles wrote, in the journal: bytes that go to the end of a file, exactly once, by this
//! mount or the next one.
//!
//! A record has the first pieces of a tail. It names the operation of the first one that the cell may not
//! have, before that is sent, and says how many it has: so whoever reads it knows what to ask for.

use super::commit::{Failed, Taken};
use super::journal::Keeping;
use super::node::{Kept, Node};
use super::replay::{Settled, asked};
use super::tail::{Appended, Tail};
use super::{Fs, Notice};
use crate::journal::{Append, Appends, ContentWriter, Record};
use crate::meta::{Fate, OpKey};
use sitefs_base::limits::CHUNK_SIZE;
use sitefs_base::{FileKind, Incarnation, Inode, InodeId, OpId, Result, Seq, SessionId};
use std::{collections::BTreeMap, sync::Arc};

/// What a node has at the moment in which it is journaled.
pub(super) struct Sealed {
    pub row: InodeId,
    /// The content version that was seen last.
    pub cver: Option<Seq>,
    pub appends: Vec<Appended>,
    /// The operation of the first of them, if its outcome is not known.
    pub unsure: Option<OpKey>,
    /// The node's count of changes.
    pub changes: u64,
    /// What the journal has of it already.
    pub old: Option<Kept>,
}

/// Ends the pieces of a tail, so that what the record has is what is sent.
pub(super) fn seal(node: &Node, taken: Option<&Taken>) -> Sealed {
    let mut state = node.state();
    let gone = state.gone;
    let (appends, unsure) =
        state.tail.as_mut().filter(|_| !gone).map_or((Vec::new(), None), Tail::seal);
    Sealed {
        row: taken.map_or(state.row, |taken| taken.row),
        cver: state.last.as_ref().map(|last| last.attr.cver),
        appends,
        unsure,
        changes: taken.map_or(state.changes, |taken| taken.changes),
        old: state.kept,
    }
}

impl Sealed {
    pub fn len(&self) -> u64 {
        self.appends.iter().map(|append| append.bytes.len() as u64).sum()
    }

    pub fn of_record(&self) -> Appends {
        let append = |appended: &Appended| Append {
            len: u32::try_from(appended.bytes.len()).unwrap_or(u32::MAX),
            written: appended.written,
            kill_setid: appended.kill_setid,
        };
        Appends { all: self.appends.iter().map(append).collect(), landed: 0 }
    }

    pub fn write(&self, writer: &mut ContentWriter) -> Result<()> {
        if self.appends.is_empty() {
            return Ok(());
        }
        writer.begin(self.len(), true)?;
        let bytes: Vec<u8> = self.appends.iter().flat_map(|append| &append.bytes).copied().collect();
        let chunk = usize::try_from(CHUNK_SIZE).unwrap_or(usize::MAX);
        (0..).zip(bytes.chunks(chunk)).try_for_each(|(number, piece)| writer.piece(number, piece))
    }
}

impl Kept {
    /// What a record holds that a mount that died left.
    pub(super) fn of(record: u64, holds: &Record, changes: u64) -> Self {
        let appends = u32::try_from(holds.appends.left().len()).unwrap_or(u32::MAX);
        let only_appends = !holds.appends.is_empty() && holds.set.is_empty();
        Self { record, changes, held: None, appends, landed: holds.appends.landed, only_appends }
    }
}

impl Fs {
    /// The oldest piece was appended. A record of which nothing is left goes.
    pub(super) fn record_landed(&self, node: &Node) {
        let is_done = {
            let mut state = node.state();
            let Some(kept) = state.kept.as_mut().filter(|kept| kept.appends > 0) else { return };
            kept.appends -= 1;
            kept.landed += 1;
            kept.appends == 0 && kept.only_appends
        };
        if is_done {
            self.drop_record(node);
        }
    }

    /// The operation that a record names was not executed and never will be: nobody need ask for it.
    pub(super) fn record_refused(&self, node: &Node) {
        let (Some(keeping), Some(kept)) = (&self.keeping, { node.state().kept }) else { return };
        let clear = |record: &mut Record| (record.sent, record.appends.landed) = (None, kept.landed);
        match keeping.journal.note(kept.record, clear) {
            Ok(()) => {
                if let Some(key) = kept.held {
                    self.let_go(node, key);
                }
            }
            Err(error) => tracing::warn!(error = error.chain(), "a journal record cannot be brought up to date"),
        }
    }

    /// [`Self::contested`] for appends: the file is none any more to which they could be added.
    pub(super) fn appends_contested(&self, node: &Arc<Node>, why: &str) -> Result<(), Failed> {
        let (row, is_kept) = {
            let state = node.state();
            if state.tail.is_none() {
                return Ok(());
            }
            (state.row, state.is_kept())
        };
        let inode = self.inode_now(row).map_err(|_| Failed::NoAnswer)?;
        if !is_kept {
            self.keep(node)?;
        }
        self.set_record_aside(node, why);
        let mut state = node.state();
        state.tail = None;
        state.last = inode.or(state.last.take());
        state.recount();
        drop(state);
        self.notices.send(Notice::Attr(node.ino));
        Ok(())
    }

    /// What a record of appends comes to.
    pub(super) fn settle_appends(
        &self,
        keeping: &Keeping,
        number: u64,
        record: &Record,
        incarnation: Incarnation,
    ) -> Result<Settled> {
        let inode = match self.inode_now(record.ino).map_err(asked)? {
            Some(inode) if inode.attr.kind == FileKind::File => inode,
            _ => return Ok(Settled::Conflict("the file was removed")),
        };
        let is_unsure = record.sent.is_some() && !record.appends.left().is_empty();
        let is_untouched = record.incarnation == incarnation && record.base == Some(inode.attr.cver);
        if is_unsure && !is_untouched {
            return Ok(Settled::Conflict("the cell has forgotten whether it was appended"));
        }
        self.restore_tail(keeping, number, record, inode)
    }

    /// Makes what is left of a record the tail of a file of this mount.
    fn restore_tail(
        &self,
        keeping: &Keeping,
        number: u64,
        record: &Record,
        inode: Inode,
    ) -> Result<Settled> {
        let left = read_appends(keeping, number, record)?;
        if left.is_empty() && record.set.is_empty() {
            return Ok(Settled::Done);
        }
        let node = self.node(inode.attr.ino);
        let mut state = node.state();
        if state.is_ahead() || state.draft.is_some() || state.gone {
            return Ok(Settled::Busy);
        }
        state.tail = Tail::restored(inode.attr.size, self.clock.boottime(), left);
        state.set = record.set.clone();
        (state.written, state.changed) = (record.written, record.changed);
        state.page_cver = None;
        state.kept = Some(Kept::of(number, record, state.changes));
        state.last = Some(inode);
        drop(state);
        self.notices.send(Notice::Attr(node.ino));
        Ok(Settled::Restored)
    }
}

/// The bytes of a record that the cell may not have.
fn read_appends(keeping: &Keeping, number: u64, record: &Record) -> Result<Vec<Appended>> {
    let (Some(stored), false) = (&record.content, record.appends.left().is_empty()) else {
        return Ok(Vec::new());
    };
    let content = keeping.journal.content(number)?;
    let mut bytes = Vec::new();
    for piece in &stored.pieces {
        bytes.extend(keeping.journal.piece(&content, piece)?);
    }
    let landed = usize::try_from(record.appends.landed_bytes()).unwrap_or(usize::MAX);
    let mut rest = bytes.get(landed..).unwrap_or_default();
    let mut left = Vec::new();
    for append in record.appends.left() {
        let (bytes, more) = rest.split_at(rest.len().min(append.len as usize));
        left.push(Appended { bytes: bytes.to_vec(), written: append.written, kill_setid: append.kill_setid });
        rest = more;
    }
    Ok(left)
}

/// Writes into records of appends what the cell says of their operations, while it still knows.
pub(super) fn note_fates(
    keeping: &Keeping,
    records: &mut [(u64, Record)],
    session: SessionId,
    fates: &BTreeMap<OpId, Fate>,
) -> Result<()> {
    let waits = |record: &Record| record.session == session && !record.appends.left().is_empty();
    for (number, record) in records.iter_mut().filter(|(_, record)| waits(record)) {
        let landed = match record.sent.and_then(|sent| fates.get(&sent.op)) {
            Some(Fate::Executed(_)) => 1,
            Some(Fate::NotExecuted) => 0,
            Some(Fate::Unknown) | None => continue,
        };
        let note = |record: &mut Record| {
            record.sent = None;
            record.appends.landed += landed;
        };
        keeping.journal.note(*number, note)?;
        note(record);
    }
    keeping.journal.settled()
}
