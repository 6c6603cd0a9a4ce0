//! The handle of one Raft group.

use super::{
    data_dir::DataDir,
    log::LogBytes,
    machine::Events,
    meters::Meters,
    proposer::Proposal,
    reserve::{Reserve, Use},
    runtime::RaftRuntime,
    start::Parts,
    types::Raft,
    versions,
};
use crate::{
    state::{self, Applied, CommandBody, GroupInfo},
    store::{LogPosition, Poison, Reader, Store},
};
use openraft::ServerState;
use sitefs_base::{
    Clock, Errno, Error, GroupId, NodeId, Result, Tasks, VolumeId,
    op::{Credit, Event, Op},
};
use std::{convert::Infallible, fmt, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::{Mutex, broadcast, mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// How long a caller waits for its command.
const PROPOSE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a shutdown waits until Raft has let go of its databases.
const RELEASE_DEADLINE: Duration = Duration::from_secs(10);

/// Where a group lives and what it is.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// The data directory of the node.
    pub dir: PathBuf,
    /// This node.
    pub node: NodeId,
    /// The name of the cell.
    pub cell: String,
    /// The group.
    pub group: GroupId,
}

impl GroupConfig {
    /// Locks the directory and checks whose it is, before anything else is done in it.
    pub(crate) fn lock(&self) -> Result<DataDir> {
        DataDir::open(&self.dir, &self.cell, self.group, self.node)
            .map_err(|error| error.while_doing(format_args!("opening {}", self.dir.display())))
    }
}

/// What a group is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupStatus {
    /// The Raft term.
    pub term: u64,
    /// Whether this node leads.
    pub leads: bool,
    /// How long ago a quorum confirmed that, if it did.
    pub quorum_age: Option<Duration>,
    /// The last entry in the log.
    pub last_log_index: u64,
    /// The last entry that readers see.
    pub applied: u64,
    /// The last entry that is in the state database on disk; later ones are replayed after a crash.
    pub flushed: u64,
    /// Bytes of entries in the log.
    pub log_bytes: u64,
    /// Bytes of the state database.
    pub state_bytes: u64,
    /// Why the node must stop, if it must.
    pub poisoned: Option<String>,
}

/// The handle of a Raft group; clones share it.
#[derive(Clone)]
pub struct Group {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) raft: Raft,
    pub(super) store: Store,
    pub(super) info: GroupInfo,
    pub(super) queue: mpsc::Sender<Proposal>,
    pub(super) events: Events,
    pub(super) log_bytes: Arc<LogBytes>,
    pub(super) meters: Meters,
    pub(super) reserve: Reserve,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) poison: Poison,
    pub(super) stop: CancellationToken,
    pub(super) holders: Mutex<mpsc::Receiver<Infallible>>,
    // Held, because tasks end with their last owner.
    pub(super) _tasks: Tasks,
    pub(super) _runtime: RaftRuntime,
    pub(super) data: DataDir,
}

impl Group {
    /// Opens the group in `config.dir`, or makes it in a new or empty directory, and returns when it
    /// serves. Blocks the calling thread meanwhile. `tasks` owns what runs in the background.
    pub fn open(config: GroupConfig, clock: Arc<dyn Clock>, tasks: Tasks) -> Result<Self> {
        let data = config.lock()?;
        Self::open_in(data, config, clock, tasks)
    }

    /// The same, in a directory that [`GroupConfig::lock`] gave.
    pub(crate) fn open_in(
        data: DataDir,
        config: GroupConfig,
        clock: Arc<dyn Clock>,
        tasks: Tasks,
    ) -> Result<Self> {
        let doing = format!("opening {}", config.dir.display());
        let poison = Poison::default();
        let open = || -> Result<Self> {
            let inner = Parts::open(&data, config.group, &poison)?.start(&config, data, clock, &tasks)?;
            Ok(Self { inner: Arc::new(inner) })
        };
        let opened = open().map_err(|error| match poison.is_damage() {
            true => Error::corrupt("the stored data is damaged: check the disk, then restore a copy")
                .because(error),
            false => error,
        });
        opened.map_err(|error| error.while_doing(doing))
    }

    /// Commits `body` and returns what applying it gave. The outcome is unknown after an error of
    /// kind `Unavailable` or `Fenced`.
    pub async fn propose(&self, body: CommandBody) -> Result<Applied> {
        self.inner.poison.check()?;
        versions::check_known(&self.reader(), &body)?;
        if let Some(what) = use_of_disk(&body)
            && self.inner.reserve.is_short(&*self.inner.clock, what, 0)?
            && !self.is_retry(&body)?
        {
            return Ok(Applied {
                reply: Err(Errno::ENOSPC),
                event: None,
                crowded: None,
                grown: Credit::NONE,
            });
        }
        let stopped = || Error::unavailable("this node is shutting down");
        let answered = async {
            let (reply, answer) = oneshot::channel();
            self.inner.queue.send(Proposal { body, reply }).await.map_err(|_| stopped())?;
            answer.await.unwrap_or_else(|_| Err(stopped()))
        };
        timeout(PROPOSE_DEADLINE, answered).await.unwrap_or_else(|_| {
            let waited = PROPOSE_DEADLINE.as_secs();
            Err(Error::unavailable(format!("not committed within {waited} s, the outcome is unknown")))
        })
    }

    /// Whether the disk of the data directory has no room for `bytes` more of content; the reserve
    /// of the node stays free. What is let in counts as written.
    pub fn is_disk_short(&self, bytes: u64) -> Result<bool> {
        self.inner.reserve.is_short(&*self.inner.clock, Use::Growth, bytes)
    }

    /// Whether the answer is there already: a retry gets it (DESIGN D12).
    fn is_retry(&self, body: &CommandBody) -> Result<bool> {
        match body {
            CommandBody::Op { volume, envelope, .. } => {
                state::is_answered(&self.reader(), *volume, envelope.session, envelope.op)
            }
            _ => Ok(false),
        }
    }

    /// Raises the cell to the highest version of this program, which every node must run by then. The version.
    pub async fn finalize(&self) -> Result<u16> {
        let version = versions::of(self.inner.data.path()).max;
        match self.propose(CommandBody::Upgrade { version }).await?.reply {
            Ok(_) => Ok(version),
            Err(errno) => {
                Err(Error::refused(errno, format!("raising the cell to version {version}: {errno}")))
            }
        }
    }

    /// The rows as they are now. It keeps those rows alive: hold it briefly.
    pub fn reader(&self) -> Reader {
        self.inner.store.reader()
    }

    /// Events from now on, each sent before the proposal that caused it returns. A receiver that
    /// lags by more than 4,096 events misses some and learns so.
    pub fn events(&self) -> broadcast::Receiver<Arc<(VolumeId, Event)>> {
        self.inner.events.subscribe()
    }

    /// What the group is.
    pub fn info(&self) -> GroupInfo {
        self.inner.info.clone()
    }

    /// How long ago a quorum confirmed that this node leads; `None` when it does not lead. Cheap:
    /// asked for every renewal of a lease.
    pub fn quorum_age(&self) -> Option<Duration> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow();
        let alone = metrics.membership_config.membership().voter_ids().count() == 1;
        let confirmed = if alone {
            Some(Duration::ZERO)
        } else {
            metrics.millis_since_quorum_ack.map(Duration::from_millis)
        };
        confirmed.filter(|_| metrics.state == ServerState::Leader)
    }

    /// What the group is doing.
    pub fn status(&self) -> GroupStatus {
        // Before the metrics are borrowed: to borrow them twice at a time can block for ever.
        let quorum_age = self.quorum_age();
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow();
        let leads = metrics.state == ServerState::Leader;
        let index = |position: Option<LogPosition>| position.map_or(0, |at| at.index);
        GroupStatus {
            term: metrics.current_term,
            leads,
            quorum_age,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            applied: index(self.inner.store.applied()),
            flushed: index(self.inner.store.flushed()),
            log_bytes: self.inner.log_bytes.len(),
            state_bytes: self.inner.store.size().unwrap_or(0),
            poisoned: self.inner.poison.reason().map(str::to_owned),
        }
    }

    /// What its parts measure.
    pub(crate) fn meters(&self) -> &Meters {
        &self.inner.meters
    }

    /// Bytes free on the disk of the data directory.
    pub(crate) fn disk_free(&self) -> Result<u64> {
        self.inner.reserve.free()
    }

    /// Whether the storage failed, so that the node must stop.
    pub fn is_poisoned(&self) -> bool {
        self.inner.poison.reason().is_some()
    }

    /// Returns the reason once the storage has failed and the node must stop.
    pub async fn poisoned(&self) -> String {
        self.inner.poison.tripped().await;
        self.inner.poison.reason().unwrap_or_default().to_owned()
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// Makes the disk look as if so many bytes were free, for as long as the test lasts.
    #[cfg(test)]
    pub(crate) fn pretend_free(&self, free: u64) {
        self.inner.reserve.pretend_free(self.inner.clock.boottime() + Duration::from_secs(3600), free);
    }

    /// Stops Raft, lets go of the log and flushes the store. Proposals are refused from now on.
    pub async fn shutdown(&self) -> Result<()> {
        self.inner.stop.cancel();
        let ended = self.inner.raft.shutdown().await;
        let store = self.inner.store.clone();
        let flushed = tokio::task::spawn_blocking(move || {
            let flushed = store.flush();
            // What is applied after the flush is in the log.
            store.end_compactions().and(flushed)
        })
        .await;
        let mut holders = self.inner.holders.lock().await;
        let gone = timeout(RELEASE_DEADLINE, holders.recv()).await;
        flushed.map_err(|error| Error::internal("flushing at shutdown").because(error))??;
        ended.map_err(|error| Error::internal("stopping Raft").because(error))?;
        gone.map(drop).map_err(|_| Error::unavailable("Raft did not let go of its databases"))
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("info", &self.inner.info).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What a command uses the disk for; `None` helps the node to free space or to keep order.
fn use_of_disk(body: &CommandBody) -> Option<Use> {
    match body {
        CommandBody::CreateVolume { .. }
        | CommandBody::StartRestore { .. }
        | CommandBody::StepRestore { .. } => Some(Use::Growth),
        CommandBody::Op { envelope, .. } => Some(match &envelope.body {
            Op::Unlink { .. } | Op::Rmdir { .. } | Op::RemoveXattr { .. } | Op::Punch { .. } => Use::Removal,
            // To extend a file makes a hole, which takes no more room than to cut it.
            Op::SetAttr { set, .. } if set.size.is_some() => Use::Removal,
            _ => Use::Growth,
        }),
        _ => None,
    }
}
