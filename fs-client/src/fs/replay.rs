//! What is in the journal goes to the cell: what this mount put there as soon as the cell is back, and
//! what a mount that died left there when this one starts.

use super::background::is_final;
use super::commit::Purpose;
use super::files::fresh_attr;
use super::journal::Keeping;
use super::node::{Draft, Kept, Node, Unpublished};
use super::reappend::note_fates;
use super::{Fs, Op, lock};
use crate::data::Working;
use crate::journal::{NewFile, Record};
use crate::meta::{Cx, Fate, Stop};
use sitefs_base::op::Change;
use sitefs_base::session::Attached;
use sitefs_base::{Error, Incarnation, Inode, InodeId, Kind, OpId, Result, SessionId};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

const EVERY: Duration = Duration::from_millis(250);
/// After so many rounds records of dead mounts are looked at again, where the cell did not say.
const INHERIT_ROUNDS: u32 = 8;

/// The thread that replays the journal; it ends when this is dropped.
#[derive(Debug)]
pub struct Replay {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Replay {
    /// Starts replaying the journal of `fs`.
    pub fn start(fs: Arc<Fs>) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let run = move || {
            for round in 1u32.. {
                if stopped.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                fs.replay(round.is_multiple_of(INHERIT_ROUNDS));
            }
        };
        let thread = std::thread::Builder::new().name("sitefs-journal".into()).spawn(run)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that replays the journal panicked");
        }
    }
}

/// What a record of a mount that died comes to.
pub(super) enum Settled {
    /// The cell has it.
    Done,
    /// The tree is not any more as it needs it; why.
    Conflict(&'static str),
    /// It is a dirty file of this mount now.
    Restored,
    /// Its file is being changed by this mount: later.
    Busy,
}

type Fates = BTreeMap<(SessionId, OpId), Fate>;

impl Fs {
    fn replay(&self, inherit: bool) {
        let Some(keeping) = &self.keeping else { return };
        if keeping.journal.is_empty() || !self.cell_is_there() || self.writable().is_err() {
            return;
        }
        let now = self.clock.boottime();
        if inherit {
            self.inherit();
        }
        for node in self.waiting_nodes(|node| {
            let state = node.state();
            state.kept.is_some() && state.retry_at <= now
        }) {
            self.replay_one(&node);
        }
    }

    fn replay_one(&self, node: &Arc<Node>) {
        if node.state().gone {
            let _alone = lock(&node.committing);
            self.set_record_aside(node, "the file was removed");
        } else if let Err(stop) = self.commit(node, Purpose::Sync) {
            if let Stop::Errno(errno) = stop
                && is_final(errno)
                && node.state().tail.is_some()
            {
                return self.give_up(node, errno);
            }
            tracing::warn!(ino = %node.ino, ?stop, "a journaled file still could not be committed");
            node.state().failed(self.clock.boottime());
        } else if !node.state().is_ahead() {
            self.drop_record(node);
        }
        self.forget(node.ino, 0);
    }

    /// Refuses a journal with records of another volume: only a mount of that one can commit them.
    pub fn check_inherited(&self, attached: &Attached) -> Result<()> {
        let Some(keeping) = &self.keeping else { return Ok(()) };
        let volume = keeping.volume.to_string();
        let records = lock(&keeping.inherited);
        let is_foreign =
            |record: &&Record| record.owner.volume != volume || record.owner.cell != attached.cell;
        match records.iter().map(|(_, record)| record).find(is_foreign) {
            None => Ok(()),
            Some(Record { owner, .. }) => Err(Error::conflict(format!(
                "the journal has changes of {} in cell {} that wait to be committed: mount that volume with \
                 this journal first, or choose another directory with --journal",
                owner.volume, owner.cell
            ))),
        }
    }

    /// Takes over what a mount that died left in the journal. What cannot be decided now stays for later.
    pub fn inherit(&self) {
        let Some(keeping) = &self.keeping else { return };
        // An answer says that the stream is there, which at the start of a mount is just beginning.
        if lock(&keeping.inherited).is_empty() || self.inode_now(InodeId::ROOT).is_err() {
            return;
        }
        if self.writable().is_err() {
            return;
        }
        let mut records = std::mem::take(&mut *lock(&keeping.inherited));
        let left = match fates(keeping, &mut records) {
            Ok(fates) => records
                .into_iter()
                .filter(|(number, record)| !self.settle(keeping, *number, record, &fates))
                .collect(),
            Err(error) => {
                tracing::warn!(
                    error = error.chain(),
                    "the journal waits: the cell does not say what it has executed"
                );
                records
            }
        };
        lock(&keeping.inherited).extend::<Vec<_>>(left);
    }

    /// Whether a record was dealt with.
    fn settle(&self, keeping: &Keeping, number: u64, record: &Record, fates: &Fates) -> bool {
        let fate = record.sent.and_then(|sent| fates.get(&(record.session, sent.op)));
        let done = match self.settle_as(keeping, number, record, fate) {
            Ok(Settled::Done) => keeping.journal.committed(number),
            Ok(Settled::Conflict(why)) => {
                let path = &record.path;
                tracing::error!(
                    number,
                    path,
                    why,
                    "a journal record does not fit any more: its bytes stay as a conflict"
                );
                keeping.journal.conflict(number)
            }
            Ok(Settled::Restored) => Ok(()),
            Ok(Settled::Busy) => return false,
            Err(error) if error.kind() == Kind::Corrupt => {
                tracing::error!(
                    number,
                    error = error.chain(),
                    "a journal record is damaged and was set aside"
                );
                keeping.journal.damaged(number)
            }
            Err(error) => {
                tracing::warn!(number, error = error.chain(), "a journal record waits");
                return false;
            }
        };
        if let Err(error) = done {
            tracing::error!(
                number,
                error = error.chain(),
                "a journal record stays: it is met again at the next start"
            );
        }
        true
    }

    fn settle_as(
        &self,
        keeping: &Keeping,
        number: u64,
        record: &Record,
        fate: Option<&Fate>,
    ) -> Result<Settled> {
        let attached = self.meta.session().attached();
        let attached = attached.ok_or_else(|| Error::unavailable("the session is not attached"))?;
        if record.owner.id != attached.volume {
            return Ok(Settled::Conflict("the volume was deleted"));
        }
        let executed = match fate {
            Some(Fate::Executed(outcome)) => Some(outcome),
            _ => None,
        };
        if executed.is_some() && record.sent.is_some_and(|sent| sent.current) {
            return Ok(Settled::Done);
        }
        if !record.appends.is_empty() {
            return self.settle_appends(keeping, number, record, attached.incarnation);
        }
        // Of another incarnation of the cell versions mean nothing.
        let base = record.base.filter(|_| record.incarnation == attached.incarnation);
        let bases = [base, executed.map(|outcome| outcome.seq)];
        let row = executed.and_then(|outcome| outcome.ino).unwrap_or(record.ino);
        match (self.inode_now(row).map_err(asked)?, &record.new) {
            (Some(inode), new) => {
                // A file that only this mount knew may have been published empty.
                let is_own = new.is_some() && base.is_none() && inode.attr.size == 0;
                let fits = record.content.is_none() || is_own || bases.contains(&Some(inode.attr.cver));
                if fits {
                    return self.restore(keeping, number, record, Some(inode), None);
                }
                self.same_or_conflict(record, &inode, "it was changed by another mount").map_err(asked)
            }
            (None, Some(new)) if executed.is_none() => match self.lookup_now(&new.place).map_err(asked)? {
                Some(inode) => {
                    self.same_or_conflict(record, &inode, "its name was given to another file").map_err(asked)
                }
                None if self.inode_now(new.place.parent).map_err(asked)?.is_none() => {
                    Ok(Settled::Conflict("its directory was removed"))
                }
                None => self.restore(keeping, number, record, None, Some(new)),
            },
            (None, _) => Ok(Settled::Conflict("the file was removed")),
        }
    }

    fn same_or_conflict(&self, record: &Record, inode: &Inode, why: &'static str) -> Op<Settled> {
        let Some(stored) = &record.content else { return Ok(Settled::Done) };
        let node = Node::new(inode.attr.ino);
        let is_same = self.is_stored(&node, inode, stored.size, &stored.pieces)?;
        Ok(if is_same { Settled::Done } else { Settled::Conflict(why) })
    }

    /// Makes a record a dirty file of this mount again: it is shown, and committed like those that this
    /// mount journaled itself.
    fn restore(
        &self,
        keeping: &Keeping,
        number: u64,
        record: &Record,
        inode: Option<Inode>,
        new: Option<&NewFile>,
    ) -> Result<Settled> {
        let copy = self.restored_copy(keeping, number, record, inode.as_ref())?;
        let refused = |_| Error::unavailable("the cell gives no inode numbers");
        let ino = match &inode {
            Some(inode) => inode.attr.ino,
            None => self.meta.new_number(Cx::Slow).map_err(refused)?,
        };
        let node = self.node(ino);
        let since = self.clock.boottime();
        {
            let mut state = node.state();
            if state.is_ahead() || state.draft.is_some() || state.gone {
                return Ok(Settled::Busy);
            }
            state.last.clone_from(&inode);
            state.unpublished = new.map(|new| Unpublished {
                place: new.place.clone(),
                create: new.create.clone(),
                exclusive: true,
                sent: false,
                since,
                attr: fresh_attr(ino, &new.create, new.created),
            });
            state.draft =
                copy.map(|copy| Draft { dirty_since: Some(since), ..Draft::new(copy, inode, true) });
            state.set = record.set.clone();
            (state.written, state.changed) = (record.written, record.changed);
            state.kept = Some(Kept::of(number, record, state.changes));
        }
        if let Some(new) = new {
            self.add_pending(&new.place, &node);
            self.tell(None, &[Change::Name(new.place.clone())]);
        }
        self.notices.send(super::Notice::Attr(ino));
        Ok(Settled::Restored)
    }

    /// The content of a record as a working copy over the cell's version.
    fn restored_copy(
        &self,
        keeping: &Keeping,
        number: u64,
        record: &Record,
        inode: Option<&Inode>,
    ) -> Result<Option<Working>> {
        let Some(stored) = &record.content else { return Ok(None) };
        let content = keeping.journal.content(number)?;
        let mut copy = match inode {
            Some(inode) => Working::of_existing(&self.work_dir, inode.attr.size),
            None => Working::empty(&self.work_dir),
        };
        copy.resize(stored.size)?;
        for piece in &stored.pieces {
            copy.write(piece.offset(), &keeping.journal.piece(&content, piece)?)?;
        }
        Ok(Some(copy))
    }
}

pub(super) fn asked(stop: Stop) -> Error {
    match stop {
        Stop::Errno(errno) => Error::unavailable(format!("the cell does not say what it has: {errno}")),
        Stop::WouldBlock => Error::internal("a slow question would block"),
    }
}

/// What became of the operations that the records name.
fn fates(keeping: &Keeping, records: &mut [(u64, Record)]) -> Result<Fates> {
    let mut sent: BTreeMap<(SessionId, Incarnation), BTreeSet<OpId>> = BTreeMap::new();
    for (_, record) in records.iter() {
        if let Some(op) = record.sent {
            sent.entry((record.session, record.incarnation)).or_default().insert(op.op);
        }
    }
    let mut all = Fates::new();
    for ((session, incarnation), ops) in sent {
        let ops: Vec<OpId> = ops.into_iter().collect();
        let note = |fates: &BTreeMap<OpId, Fate>| note_fates(keeping, records, session, fates);
        let known = keeping.old.fates(session, incarnation, &ops, note)?;
        all.extend(known.into_iter().map(|(op, fate)| ((session, op), fate)));
    }
    Ok(all)
}
