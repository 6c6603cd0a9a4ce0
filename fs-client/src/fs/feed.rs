//! What other mounts changed: taken into memory at once, told to the kernel by other threads.

use super::flights::{Crossed, Traffic};
use super::{Fs, lock};
use crate::meta::Watcher;
use sitefs_base::op::{Change, Event, Place};
use sitefs_base::{InodeId, Seq};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
    mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
};

/// Notices that may wait for the kernel; beyond them everything is taken back.
const NOTICES_MAX: usize = 65_536;

/// Something that the kernel must not believe any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// The attributes of an inode, which this mount itself changed.
    Attr(InodeId),
    /// What an event changed. The cell hears when it is in force here.
    Event(Told),
    /// Something that may have come to the kernel just behind its notice: told again in a moment.
    Again(Crossed),
    /// Attributes, listings and links of all inodes, and all names.
    Everything,
}

/// An event, as the kernel is told of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// Its position; `None` for what this mount itself did and did not know of.
    pub seq: Option<Seq>,
    /// The nodes whose attributes changed.
    pub attrs: Vec<InodeId>,
    /// The names that lead elsewhere; with each its directory has another listing and other attributes.
    pub names: Vec<Place>,
}

/// The way to the threads that tell the kernel; never blocks.
#[derive(Clone, Debug)]
pub struct Notices {
    sender: SyncSender<Notice>,
    lost: Arc<AtomicBool>,
    waiting: Arc<AtomicUsize>,
}

/// The other end: what is to be told.
#[derive(Debug)]
pub struct Queue {
    /// In the order in which it happened.
    pub notices: Receiver<Notice>,
    /// Whether notices were lost since this was last reset.
    pub lost: Arc<AtomicBool>,
}

impl Notices {
    /// A queue.
    pub fn queue() -> (Self, Queue) {
        let (sender, notices) = sync_channel(NOTICES_MAX);
        let lost = Arc::new(AtomicBool::new(false));
        (Self { sender, lost: Arc::clone(&lost), waiting: Arc::default() }, Queue { notices, lost })
    }

    /// Puts a notice in the queue.
    pub fn send(&self, notice: Notice) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if let Err(refused) = self.sender.try_send(notice) {
            self.taken();
            if matches!(refused, TrySendError::Full(_)) {
                self.lost.store(true, Ordering::Release);
            }
        }
    }

    /// One has left the queue.
    pub fn taken(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many are in the queue.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// What those who tell the kernel need of the mount.
pub trait Teller: Send + Sync {
    /// So many more events are in force at the kernel, or will be in a moment, the last of them at `seq`.
    fn in_force(&self, seq: Seq, events: u64);
    /// A notice has left the queue.
    fn taken(&self);
    /// The last event that memory has taken in.
    fn position(&self) -> Seq;
    /// Every node that the kernel knows, and every name that it was given, which is then forgotten.
    fn everything(&self) -> (Vec<InodeId>, Vec<Place>);
    /// The requests in a directory that are not answered, and a number for [`Self::has_landed`].
    fn traffic(&self, dir: InodeId) -> (Traffic, u64);
    /// Whether those that were there when `number` was given are answered.
    fn has_landed(&self, dir: InodeId, number: u64) -> bool;
}

impl Teller for Fs {
    fn in_force(&self, seq: Seq, events: u64) {
        self.meta.session().acknowledge(seq, events);
    }

    fn taken(&self) {
        self.notices.taken();
    }

    fn position(&self) -> Seq {
        self.meta.session().applied()
    }

    fn everything(&self) -> (Vec<InodeId>, Vec<Place>) {
        (self.known_nodes(), self.flights.take_handed())
    }

    fn traffic(&self, dir: InodeId) -> (Traffic, u64) {
        self.flights.traffic(dir)
    }

    fn has_landed(&self, dir: InodeId, number: u64) -> bool {
        self.flights.has_landed(dir, number)
    }
}

impl Fs {
    /// Every node that the kernel knows. The root is never looked up.
    fn known_nodes(&self) -> Vec<InodeId> {
        let nodes = lock(&self.nodes);
        let root = (!nodes.contains_key(&InodeId::ROOT)).then_some(InodeId::ROOT);
        nodes.keys().copied().chain(root).collect()
    }

    /// Forgets which names the kernel was given, as far as it has forgotten them itself.
    pub(super) fn reclaim_names(&self) {
        self.flights.reclaim(|| self.known_nodes().into_iter().collect());
    }

    /// The nodes that show a row: its own, and aliases.
    pub(super) fn nodes_of(&self, row: InodeId) -> impl Iterator<Item = InodeId> + use<> {
        let aliases = lock(&self.aliases).get(&row).cloned().unwrap_or_default();
        std::iter::once(row).chain(aliases)
    }

    /// The numbers under which the kernel knows a node.
    pub(super) fn numbers_of(&self, ino: InodeId) -> Vec<InodeId> {
        let known = self.known_node(ino).map(|node| node.state().faces.numbers().collect());
        known.unwrap_or_else(|| vec![ino])
    }

    fn content_changed(&self, ino: InodeId) {
        if let Some(node) = self.known_node(ino) {
            let mut state = node.state();
            state.page_cver = None;
            state.pages_are_old = true;
            state.faces.are_old = true;
            if !state.is_ahead() && !state.gone {
                state.drop_draft();
            } else if let Some(draft) = &mut state.draft {
                // The cell's version may take nothing now, and all that is here would be growth.
                draft.allocated = 0;
            }
            state.recount();
        }
    }

    /// Tells the kernel of changes, which memory has taken in already.
    pub(super) fn tell(&self, seq: Option<Seq>, changes: &[Change]) {
        let mut told = Told { seq, attrs: Vec::new(), names: Vec::new() };
        for change in changes {
            match change {
                Change::Name(place) => told.names.push(place.clone()),
                Change::Attr(row) | Change::Xattr(row) => {
                    self.nodes_of(*row).for_each(|ino| told.attrs.extend(self.numbers_of(ino)));
                }
                Change::Content(row) => {
                    for ino in self.nodes_of(*row) {
                        self.content_changed(ino);
                        told.attrs.extend(self.numbers_of(ino));
                    }
                }
            }
        }
        let dirs = told.names.iter().map(|place| Crossed::Inode(place.parent));
        let attrs = told.attrs.iter().copied().map(Crossed::Inode);
        self.flights.crossed(told.names.iter().cloned().map(Crossed::Name).chain(dirs).chain(attrs));
        self.notices.send(Notice::Event(told));
    }

    fn take_back_everything(&self) {
        self.flights.crossed([Crossed::Everything]);
        self.notices.send(Notice::Everything);
    }
}

impl Watcher for Fs {
    fn event(&self, event: &Event) {
        self.meta.apply(event);
        self.tell(Some(event.seq), &event.changes);
    }

    fn resync(&self) {
        // To begin with nothing is no loss.
        if self.meta.session().counters().attached.get() > 0 {
            self.metrics.resyncs.inc();
        }
        self.meta.clear();
        self.meta.drop_numbers();
        for ino in self.known_nodes() {
            self.content_changed(ino);
        }
        self.take_back_everything();
    }

    fn resolved(&self, changes: &[Change]) {
        self.meta.forget(changes);
        self.tell(None, changes);
    }

    fn lease_lost(&self) {
        self.take_back_everything();
    }
}
