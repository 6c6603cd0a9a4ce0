//! Draining: nothing new is opened for writing, and what is dirty is committed (DESIGN D16).

use super::commit::Purpose;
use super::{Fs, Node, Op, lock};
use sitefs_base::{Errno, InodeId};
use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::Ordering,
        mpsc::{Sender, channel},
    },
    time::Duration,
};

/// Files committed at a time.
const COMMITS_MAX: usize = 8;
/// How long to wait before what failed is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// While this lives no file is opened for writing.
pub struct Draining(Arc<Fs>);

impl Drop for Draining {
    fn drop(&mut self) {
        self.0.draining.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What the mount holds that the cell does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dirty {
    /// Files.
    pub files: u64,
    /// Bytes of content in them, in whole chunks.
    pub bytes: u64,
}

impl Fs {
    /// Refuses opens for writing with `EROFS` from now on, until the guard is dropped. Files that are
    /// open can be written to.
    pub fn stop_opening(self: &Arc<Self>) -> Draining {
        self.draining.fetch_add(1, Ordering::AcqRel);
        Draining(Arc::clone(self))
    }

    /// Whether opens for writing are refused.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire) > 0
    }

    pub(super) fn opens_for_writing(&self) -> Op<()> {
        if self.is_draining() { Err(Errno::EROFS.into()) } else { Ok(()) }
    }

    /// Commits every file that is dirty now, and tries again those that fail, for at most `limit`.
    /// How many are left.
    pub fn drain(self: &Arc<Self>, limit: Duration) -> usize {
        let end = self.clock.boottime() + limit;
        let mut left = self.ahead();
        while !left.is_empty() {
            left = self.commit_once(left, end);
            let now = self.clock.boottime();
            if left.is_empty() || now >= end {
                break;
            }
            std::thread::sleep(RETRY.min(end - now));
        }
        left.len()
    }

    /// Puts what is not committed into the journal; how many files it could not take.
    pub fn keep_rest(&self) -> usize {
        let is_lost = |node: &&Arc<Node>| {
            let _alone = lock(&node.committing);
            self.keep(node).is_err()
        };
        let left = self.waiting_nodes(|node| is_left(node) && !node.state().is_kept());
        left.iter().filter(is_lost).count()
    }

    fn ahead(&self) -> Vec<Arc<Node>> {
        self.waiting_nodes(is_left)
    }

    /// Tries each once; those that are not committed by `end`, or failed. A commit that hangs is left
    /// to its own deadline, and a file that is written to all the time is done when it was committed once.
    fn commit_once(self: &Arc<Self>, mut nodes: Vec<Arc<Node>>, end: Duration) -> Vec<Arc<Node>> {
        if !self.cell_is_there() {
            return nodes;
        }
        let (tell, told) = channel();
        let workers = nodes.len().min(COMMITS_MAX);
        let queue = Arc::new(Mutex::new(VecDeque::from(nodes.clone())));
        for _ in 0..workers {
            let (fs, queue, tell) = (Arc::clone(self), Arc::clone(&queue), tell.clone());
            // The runtime owns its blocking threads.
            drop(self.meta.session().runtime().spawn_blocking(move || fs.work_off(&queue, end, &tell)));
        }
        drop(tell);
        let mut done = HashSet::new();
        // Ends when all are tried, or with the time.
        while let Ok(ino) = told.recv_timeout(end.saturating_sub(self.clock.boottime())) {
            done.insert(ino);
        }
        nodes.retain(|node| !done.contains(&node.ino) && is_left(node));
        nodes
    }

    fn work_off(&self, queue: &Mutex<VecDeque<Arc<Node>>>, end: Duration, tell: &Sender<InodeId>) {
        while self.clock.boottime() < end {
            let Some(node) = ({ lock(queue).pop_front() }) else { return };
            match self.commit(&node, Purpose::Sync) {
                // Nobody waits any more if the time is over.
                Ok(()) => drop(tell.send(node.ino)),
                Err(stop) => tracing::warn!(ino = %node.ino, ?stop, "a changed file cannot be committed yet"),
            }
        }
    }

    /// What the cell does not have.
    pub fn dirty(&self) -> Dirty {
        let mut dirty = Dirty::default();
        for node in self.ahead() {
            let state = node.state();
            let copy = state.draft.as_ref().map(|draft| &draft.copy);
            let sent = state.sending.as_ref().is_some_and(|sending| sending.content);
            let content = copy.map_or(0, |copy| if sent { copy.size() } else { copy.dirty_bytes() });
            dirty.files += 1;
            dirty.bytes += content + state.tail.as_ref().map_or(0, |tail| tail.len() as u64);
        }
        dirty
    }

    /// Open files, and inodes that the kernel knows.
    pub fn open_and_known(&self) -> (usize, usize) {
        (lock(&self.handles).len(), lock(&self.nodes).len())
    }
}

fn is_left(node: &Node) -> bool {
    let state = node.state();
    state.is_ahead() && !state.gone
}
