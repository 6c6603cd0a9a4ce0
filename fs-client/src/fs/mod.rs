//! The file operations, in domain types: they run without a kernel.
//!
//! Each operation takes a [`Cx`]: with `Fast` it answers from what is here and has no effect when
//! it cannot; with `Slow` it may wait for the cell. No node lock is held while waiting.

mod append;
mod attrs;
mod background;
mod commit;
mod credit;
mod dirs;
mod drain;
mod feed;
mod files;
mod flights;
mod handed;
mod journal;
mod locks;
mod merge;
mod names;
mod node;
mod owner;
mod ranges;
mod reappend;
mod replay;
mod seek;
mod tail;
mod xattrs;

pub use append::Access;
pub use attrs::{Lifetime, View};
pub use background::Background;
pub use dirs::DirItem;
pub use feed::{Notice, Notices, Queue, Teller, Told};
pub use files::{Opened, Truncate, WriteKind};
pub use flights::{Crossed, Flight, Flights, KEEP, Traffic};
pub use journal::Keeping;
pub use node::Node;
pub use owner::Owner;
pub use ranges::CopyRange;
pub use replay::Replay;

use crate::data::BlobReader;
use crate::meta::{Cx, Meta, Op, Stop};
use crate::metrics::FsMetrics;
use node::Unpublished;
use sitefs_base::limits::CLOSE_DEADLINE;
use sitefs_base::op::Place;
use sitefs_base::{Clock, Errno, Inode, InodeId, Name};
use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// How long a program that wants to change something waits for a lease before it hears EIO.
const LEASE_WAIT: Duration = Duration::from_millis(1800);

/// Who asks, as the kernel says.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// An open file.
#[derive(Debug)]
struct Handle {
    node: Arc<Node>,
    access: Access,
}

/// The mounted volume.
pub struct Fs {
    meta: Arc<Meta>,
    blobs: Arc<BlobReader>,
    clock: Arc<dyn Clock>,
    notices: Notices,
    flights: Arc<Flights>,
    work_dir: PathBuf,
    read_only: bool,
    nodes: Mutex<HashMap<InodeId, Arc<Node>>>,
    handles: Mutex<HashMap<u64, Arc<Handle>>>,
    dirs: Mutex<HashMap<u64, Arc<dirs::DirHandle>>>,
    /// Files that the cell does not know yet, by directory and name.
    pending: Mutex<HashMap<InodeId, BTreeMap<Name, Arc<Node>>>>,
    /// Nodes whose row has another number, by that number.
    aliases: Mutex<HashMap<InodeId, Vec<InodeId>>>,
    next_handle: AtomicU64,
    /// The journal; mounts of the past have none.
    keeping: Option<Keeping>,
    /// How long a close waits for the cell.
    close_deadline: Duration,
    owner: Owner,
    metrics: FsMetrics,
    /// How many want that no file is opened for writing.
    draining: AtomicUsize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fs {
    /// The volume that `meta` is attached to. `work_dir` is on the local disk and takes working
    /// copies; `notices` reach the kernel.
    pub fn new(
        meta: Arc<Meta>,
        blobs: Arc<BlobReader>,
        clock: Arc<dyn Clock>,
        notices: Notices,
        work_dir: PathBuf,
        read_only: bool,
    ) -> Self {
        let session = Arc::clone(meta.session());
        let flights = Arc::new(Flights::new(session, Arc::clone(&clock), notices.clone()));
        Self {
            meta,
            blobs,
            clock,
            notices,
            flights,
            work_dir,
            read_only,
            nodes: Mutex::default(),
            handles: Mutex::default(),
            dirs: Mutex::default(),
            pending: Mutex::default(),
            aliases: Mutex::default(),
            next_handle: AtomicU64::new(1),
            keeping: None,
            close_deadline: CLOSE_DEADLINE,
            owner: Owner::default(),
            metrics: FsMetrics::default(),
            draining: AtomicUsize::new(0),
        }
    }

    /// Gives it a journal for what the cell does not take within `deadline` of a close.
    #[must_use]
    pub fn with_journal(self, keeping: Option<Keeping>, deadline: Duration) -> Self {
        Self { keeping, close_deadline: deadline, ..self }
    }

    /// The same, with all files shown as owned by `owner`.
    pub fn owned_by(self, owner: Owner) -> Self {
        Self { owner, ..self }
    }

    /// What it has counted.
    pub fn metrics(&self) -> &FsMetrics {
        &self.metrics
    }

    /// The way to the thread that tells the kernel.
    pub fn notices(&self) -> &Notices {
        &self.notices
    }

    /// The metadata.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The blobs.
    pub fn blobs(&self) -> &BlobReader {
        &self.blobs
    }

    /// The requests under way.
    pub fn flights(&self) -> &Arc<Flights> {
        &self.flights
    }

    fn new_handle(&self) -> u64 {
        self.next_handle.fetch_add(1, Ordering::Relaxed)
    }

    fn known_node(&self, ino: InodeId) -> Option<Arc<Node>> {
        lock(&self.nodes).get(&ino).cloned()
    }

    /// The node of an inode, made if the kernel does not know it.
    fn node(&self, ino: InodeId) -> Arc<Node> {
        Arc::clone(lock(&self.nodes).entry(ino).or_insert_with(|| Arc::new(Node::new(ino))))
    }

    /// Counts a reference that a reply gives to the kernel.
    fn looked_up(&self, ino: InodeId) -> Arc<Node> {
        let mut nodes = lock(&self.nodes);
        let node = nodes.entry(ino).or_insert_with(|| Arc::new(Node::new(ino)));
        node.state().lookups += 1;
        Arc::clone(node)
    }

    /// The kernel gives `count` references back.
    pub fn forget(&self, ino: InodeId, count: u64) {
        let mut nodes = lock(&self.nodes);
        let Some(node) = nodes.get(&ino) else { return };
        let unused = {
            let mut state = node.state();
            state.lookups = state.lookups.saturating_sub(count);
            let is_needed = (state.is_ahead() && !state.gone) || state.kept.is_some();
            state.lookups == 0 && state.handles == 0 && !is_needed
        };
        if unused {
            let node = nodes.remove(&ino);
            drop(nodes);
            node.iter().for_each(|node| self.abandon(node));
        }
    }

    fn handle(&self, fh: u64) -> Op<Arc<Handle>> {
        lock(&self.handles).get(&fh).cloned().ok_or_else(|| Errno::EBADF.into())
    }

    /// The file that is being created under a name, if there is one.
    fn pending_at(&self, place: &Place) -> Option<Arc<Node>> {
        lock(&self.pending).get(&place.parent)?.get(&place.name).cloned()
    }

    fn has_pending(&self, dir: InodeId) -> bool {
        lock(&self.pending).contains_key(&dir)
    }

    fn add_pending(&self, place: &Place, node: &Arc<Node>) {
        lock(&self.pending).entry(place.parent).or_default().insert(place.name.clone(), Arc::clone(node));
    }

    /// Takes a file off the table of those that the cell does not know.
    fn remove_pending(&self, unpublished: &Unpublished) {
        let mut pending = lock(&self.pending);
        if let Some(names) = pending.get_mut(&unpublished.place.parent) {
            names.remove(&unpublished.place.name);
            if names.is_empty() {
                pending.remove(&unpublished.place.parent);
            }
        }
    }

    /// The inode as the cell has it, or as it was when its last name went.
    fn inode_of(&self, cx: Cx, node: &Node) -> Op<(Inode, bool)> {
        let (row, gone, last) = {
            let state = node.state();
            (state.row, state.gone, if state.gone { state.last.clone() } else { None })
        };
        if gone {
            return last.map(|inode| (inode, true)).ok_or_else(|| Errno::ESTALE.into());
        }
        let found = self.meta.inode(cx, row)?;
        match found.value {
            Some(inode) => Ok((inode, found.current)),
            None => {
                // Another mount removed it; open handles go on with what they had.
                let mut state = node.state();
                state.gone = true;
                state.recount();
                state.last.clone().map(|inode| (inode, true)).ok_or_else(|| Errno::ESTALE.into())
            }
        }
    }

    fn writable(&self) -> Op<()> {
        if self.read_only || self.meta.session().is_read_only() { Err(Errno::EROFS.into()) } else { Ok(()) }
    }

    /// For what must not begin without a lease: opens for writing, changes of names and attributes
    /// (DESIGN D28). What is open already goes on.
    fn may_begin(&self, cx: Cx) -> Op<()> {
        self.writable()?;
        match cx {
            _ if self.meta.session().has_lease() => Ok(()),
            Cx::Fast => Err(Stop::WouldBlock),
            Cx::Slow => Ok(self.meta.session().wait_for_lease(LEASE_WAIT)?),
        }
    }
}
