//! What other mounts changed: taken into memory at once, told to the kernel by another thread.

use super::Fs;
use crate::meta::Watcher;
use sitefs_base::op::{Change, Event, Place};
use sitefs_base::{InodeId, Seq};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
    mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
};

/// Notices that may wait for the kernel; beyond them everything is taken back.
const NOTICES_MAX: usize = 65_536;

/// Something that the kernel must not believe any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// The attributes of an inode.
    Attr(InodeId),
    /// The listing and attributes of a directory.
    Listing(InodeId),
    /// What a name leads to.
    Name(Place),
    /// Attributes, listings and links of these inodes, and what these names lead to.
    All(Vec<InodeId>, Vec<Place>),
    /// All notices of the event at this position are before this one: the cell may count on it.
    Through(Seq),
}

/// The way to the thread that tells the kernel; never blocks.
#[derive(Clone, Debug)]
pub struct Notices {
    sender: SyncSender<Notice>,
    lost: Arc<AtomicBool>,
}

impl Notices {
    /// A queue: its entrance, its exit, and a mark that notices were lost.
    pub fn queue() -> (Self, Receiver<Notice>, Arc<AtomicBool>) {
        let (sender, receiver) = sync_channel(NOTICES_MAX);
        let lost = Arc::new(AtomicBool::new(false));
        (Self { sender, lost: Arc::clone(&lost) }, receiver, lost)
    }

    /// Puts a notice in the queue.
    pub fn send(&self, notice: Notice) {
        if let Err(TrySendError::Full(_)) = self.sender.try_send(notice) {
            self.lost.store(true, Ordering::Release);
        }
    }
}

impl Fs {
    /// Every node that the kernel knows.
    pub fn known_nodes(&self) -> Vec<InodeId> {
        super::lock(&self.nodes).keys().copied().collect()
    }

    /// The nodes that show a row: its own, and aliases.
    fn nodes_of(&self, row: InodeId) -> impl Iterator<Item = InodeId> + use<> {
        let aliases = super::lock(&self.aliases).get(&row).cloned().unwrap_or_default();
        std::iter::once(row).chain(aliases)
    }

    fn content_changed(&self, ino: InodeId) {
        if let Some(node) = self.known_node(ino) {
            let mut state = node.state();
            state.page_cver = None;
            if !state.is_ahead() && !state.gone {
                state.draft = None;
            } else if let Some(draft) = &mut state.draft {
                // The cell's version may take nothing now, and all that is here would be growth.
                draft.allocated = 0;
            }
            state.recount();
        }
    }
}

impl Watcher for Fs {
    fn event(&self, event: &Event) {
        self.meta.apply(event);
        for change in &event.changes {
            match change {
                Change::Name(place) => {
                    self.notices.send(Notice::Listing(place.parent));
                    self.notices.send(Notice::Name(place.clone()));
                }
                Change::Attr(row) | Change::Xattr(row) => {
                    self.nodes_of(*row).for_each(|ino| self.notices.send(Notice::Attr(ino)));
                }
                Change::Content(row) => self.nodes_of(*row).for_each(|ino| {
                    self.content_changed(ino);
                    self.notices.send(Notice::Attr(ino));
                }),
            }
        }
        self.notices.send(Notice::Through(event.seq));
    }

    fn resync(&self) {
        let names = self.meta.clear();
        self.meta.drop_numbers();
        let nodes = self.known_nodes();
        for ino in &nodes {
            self.content_changed(*ino);
        }
        self.notices.send(Notice::All(nodes, names));
    }

    fn lease_lost(&self) {
        self.notices.send(Notice::All(self.known_nodes(), Vec::new()));
    }
}
