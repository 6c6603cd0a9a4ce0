//! What happens to files that stay open: they are published and committed in time (DESIGN D14).

use super::{Cx, Fs, Node, commit::Purpose, lock, tail::Tail};
use crate::meta::Stop;
use sitefs_base::Errno;
use std::{
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

const EVERY: Duration = Duration::from_millis(500);
const PUBLISH_AFTER: Duration = Duration::from_secs(1);
const COMMIT_AFTER: Duration = Duration::from_secs(30);

/// The thread that looks after files that stay open; it ends when this is dropped.
#[derive(Debug)]
pub struct Background {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts looking after the files of `fs`.
    pub fn start(fs: Arc<Fs>) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let run = move || {
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                fs.look_after_open_files();
                fs.reclaim_names();
            }
        };
        let thread = std::thread::Builder::new().name("sitefs-open".into()).spawn(run)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that looks after open files panicked");
        }
    }
}

impl Fs {
    fn look_after_open_files(&self) {
        // Each attempt would wait in vain, and what is dirty stays dirty.
        if !self.cell_is_there() {
            return;
        }
        let now = self.clock.boottime();
        let is_abandoned = |node: &Node| {
            let state = node.state();
            state.gone && state.unsure.is_some() && state.kept.is_none()
        };
        self.waiting_nodes(is_abandoned).iter().for_each(|node| self.abandon(node));
        for node in self.waiting_nodes(|node| {
            let state = node.state();
            let is_due = |since: Duration| now.saturating_sub(since) >= PUBLISH_AFTER;
            let is_due = state.unpublished.as_ref().is_some_and(|own| is_due(own.since));
            state.kept.is_none() && state.retry_at <= now && is_due
        }) {
            if let Err(stop) = self.publish(&node) {
                tracing::warn!(ino = %node.ino, ?stop, "an open file could not be published");
                node.state().failed(self.clock.boottime());
            }
        }
        for node in self.waiting_nodes(|node| {
            let state = node.state();
            let is_due = |tail: &Tail| now.saturating_sub(tail.since) >= PUBLISH_AFTER;
            state.retry_at <= now && state.tail.as_ref().is_some_and(is_due)
        }) {
            if let Err(stop) = self.send_tail(Cx::Slow, &node) {
                tracing::warn!(ino = %node.ino, ?stop, "what was appended could not be committed");
            }
        }
        // Closed files whose commit failed: the program was told, the bytes are still here.
        for node in self.waiting_nodes(|node| {
            let state = node.state();
            let is_closed = state.handles == 0 && !state.gone && state.kept.is_none();
            is_closed && state.is_ahead() && state.retry_at <= now
        }) {
            match self.commit(&node, Purpose::Sync) {
                Ok(()) => {}
                Err(Stop::Errno(errno)) if is_final(errno) => self.give_up(&node, errno),
                Err(stop) => {
                    tracing::warn!(ino = %node.ino, ?stop, "changes of a closed file still could not be committed");
                    node.state().failed(self.clock.boottime());
                }
            }
            self.forget(node.ino, 0);
        }
        for node in self.waiting_nodes(|node| {
            let state = node.state();
            state.draft.as_ref().is_some_and(|draft| {
                let after = if draft.append { PUBLISH_AFTER } else { COMMIT_AFTER };
                let due = draft.dirty_since.is_some_and(|since| now.saturating_sub(since) >= after);
                due && (draft.append || !draft.whole) && draft.copy.is_changed()
            }) && state.retry_at <= now
        }) {
            if let Err(stop) = self.commit(&node, Purpose::Sync) {
                tracing::warn!(ino = %node.ino, ?stop, "an open file could not be committed");
                node.state().failed(self.clock.boottime());
            }
        }
    }

    /// The cell will never take a closed file as it is: its bytes go into the journal as a conflict, and
    /// the mount shows what the cell has.
    pub(super) fn give_up(&self, node: &Arc<Node>, errno: Errno) {
        let _alone = lock(&node.committing);
        if node.state().handles > 0 {
            return;
        }
        if let Err(failed) = self.contested(node, &format!("the cell refused it: {errno}")) {
            tracing::error!(ino = %node.ino, ?failed, "changes of a closed file can neither be committed nor kept");
            node.state().failed(self.clock.boottime());
        }
    }

    pub(super) fn waiting_nodes(&self, waits: impl Fn(&Node) -> bool) -> Vec<Arc<Node>> {
        let all: Vec<Arc<Node>> = lock(&self.nodes).values().cloned().collect();
        all.into_iter().filter(|node| waits(node)).collect()
    }
}

/// Whether a refusal will be the same whenever it is tried again.
pub(super) fn is_final(errno: Errno) -> bool {
    let tree =
        matches!(errno, Errno::ENOENT | Errno::ENOTDIR | Errno::EISDIR | Errno::EEXIST | Errno::ESTALE);
    tree || matches!(errno, Errno::EINVAL | Errno::EFBIG)
}
