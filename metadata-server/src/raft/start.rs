//! Starting a group: databases, Raft, leadership, then the tasks.

use super::{
    care::Care,
    data_dir::DataDir,
    group::{GroupConfig, Inner},
    log::{GroupLog, LogDb},
    machine::{Events, Machine},
    meters::Meters,
    network::NoPeers,
    payload::Payload,
    proposer::{Proposal, Proposer, QUEUE_MAX},
    reserve::Reserve,
    runtime::{RaftRuntime, run},
    snapshots::Snapshots,
    types::Raft,
    versions,
};
use crate::{
    state::{self, CommandBody, GroupInfo},
    store::{Poison, Store, StoreOptions},
};
use openraft::{BasicNode, Config, ServerState, SnapshotPolicy};
use sitefs_base::{Clock, Error, GroupId, Incarnation, NodeId, Result, Tasks};
use std::{collections::BTreeMap, convert::Infallible, future::Future, sync::Arc, time::Duration};
use tokio::{
    runtime::Handle,
    sync::{Mutex, broadcast, mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

/// How long a start waits for leadership.
const LEAD_DEADLINE: Duration = Duration::from_secs(10);
const HEARTBEAT_MS: u64 = 75;
const ELECTION_MIN_MS: u64 = 300;
const ELECTION_MAX_MS: u64 = 500;
/// A snapshot is made after so many entries; `care` makes one earlier when they are large.
const SNAPSHOT_ENTRIES: u64 = 50_000;
/// Entries that stay after a snapshot, at most 1 GiB of them, for peers that lag a little.
const KEEP_ENTRIES: u64 = 4096;
/// Events that a watcher may lag behind before it must resync.
const EVENTS_MAX: usize = 4096;

/// What is open before Raft runs.
pub(super) struct Parts {
    store: Store,
    log: GroupLog,
    machine: Machine,
    events: Events,
    poison: Poison,
    holders: mpsc::Receiver<Infallible>,
    meters: Meters,
}

impl Parts {
    pub(super) fn open(data: &DataDir, group: GroupId, poison: &Poison) -> Result<Self> {
        let poison = poison.clone();
        // The log comes first: where there is a state, there must be a log.
        let db = open_log(data, &poison)?;
        let snapshots = Snapshots::open(data.snapshots(), data.state())?;
        let options = StoreOptions { poison: poison.clone(), ..StoreOptions::default() };
        let store = Store::open(&data.state(), options)?;
        versions::of(data.path()).check(state::cluster_version(&store.reader())?)?;
        let (holder, holders) = mpsc::channel(1);
        let log = GroupLog::new(db, group, holder.clone())?;
        check_meeting(&store, &log)?;
        let snapshot = snapshots.current_or_new(&store)?;
        if let Some(applied) = snapshot.and_then(|built| built.meta.applied) {
            log.snapshot_made(applied.index)?;
        }
        let events = broadcast::channel(EVENTS_MAX).0;
        let meters = Meters::new(log.sync_times());
        let machine = Machine {
            store: store.clone(),
            snapshots,
            log: log.clone(),
            events: events.clone(),
            poison: poison.clone(),
            holder,
            apply_times: meters.apply.clone(),
        };
        Ok(Self { store, log, machine, events, poison, holders, meters })
    }

    pub(super) fn start(
        self,
        config: &GroupConfig,
        data: DataDir,
        clock: Arc<dyn Clock>,
        tasks: &Tasks,
    ) -> Result<Inner> {
        let (runtime, handle) = RaftRuntime::start()?;
        let log_bytes = self.log.bytes();
        let holder = self.machine.holder.clone();
        let raft = run(&handle, lead(config.clone(), self.log, self.machine))?;
        let stop = CancellationToken::new();
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let proposer = Proposer {
            raft: raft.clone(),
            queue: waiting,
            clock: clock.clone(),
            last_at: state::last_at(&self.store.reader())?,
            poison: self.poison.clone(),
            stop: stop.clone(),
            entry_commands: self.meters.entry_commands.clone(),
        };
        let care = Care {
            raft: raft.clone(),
            store: self.store.clone(),
            log_bytes: log_bytes.clone(),
            poison: self.poison.clone(),
            stop: stop.clone(),
            holder,
        };
        spawn(&handle, tasks, proposer.run());
        spawn(&handle, tasks, care.run());
        let info = run(&handle, identify(queue.clone(), self.store.clone(), config.clone()))?;
        Ok(Inner {
            raft,
            store: self.store,
            info,
            queue,
            events: self.events,
            log_bytes,
            meters: self.meters,
            reserve: Reserve::new(data.path()),
            clock,
            poison: self.poison,
            stop,
            holders: Mutex::new(self.holders),
            _tasks: tasks.clone(),
            _runtime: runtime,
            data,
        })
    }
}

/// Opens the log, or makes it in a new directory, and refuses one that lost its end or all.
fn open_log(data: &DataDir, poison: &Poison) -> Result<Arc<LogDb>> {
    data.log_is_there()?;
    let db = LogDb::open(&data.log(), poison.clone())?;
    data.log_reaches(db.position())?;
    data.mark_log(db.begin()?)?;
    Ok(db)
}

/// Refuses a state that ends before the log begins: nothing could bring it up to date. And one that
/// ends after the log does: every entry is durable there before it is applied, so the log lost some.
fn check_meeting(store: &Store, log: &GroupLog) -> Result<()> {
    let applied = store.applied().map(|at| at.index);
    let end = log.end()?;
    if applied.is_some_and(|applied| end.is_none_or(|end| end < applied)) {
        return Err(Error::corrupt(format!(
            "the state database has entry {} but the log ends at {}: the log lost acknowledged changes; \
             restore the data directory from a copy",
            applied.unwrap_or(0),
            end.map_or_else(|| "none".to_owned(), |index| index.to_string()),
        )));
    }
    match log.purged()? {
        Some(purged) if applied.is_none_or(|index| index < purged.index) => Err(Error::corrupt(format!(
            "the state database ends at entry {} but the log begins after entry {}: state/ was lost or \
             replaced; put the last snapshot in its place, or restore this node from a backup",
            applied.map_or_else(|| "none".to_owned(), |index| index.to_string()),
            purged.index
        ))),
        _ => Ok(()),
    }
}

/// Raft's tasks and ours share its threads, whoever owns them.
fn spawn(runtime: &Handle, tasks: &Tasks, task: impl Future<Output = ()> + Send + 'static) {
    let _inside = runtime.enter();
    tasks.spawn(task);
}

fn raft_config(cell: &str) -> Result<Arc<Config>> {
    let config = Config {
        cluster_name: cell.to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MIN_MS,
        election_timeout_max: ELECTION_MAX_MS,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_ENTRIES),
        replication_lag_threshold: SNAPSHOT_ENTRIES + KEEP_ENTRIES,
        max_in_snapshot_log_to_keep: KEEP_ENTRIES,
        ..Config::default()
    };
    let config = config.validate();
    config.map(Arc::new).map_err(|error| Error::internal("configuring Raft").because(error))
}

/// Starts Raft, makes a cluster of this one node if there is none, and returns when this node leads
/// and has applied everything that was ever acknowledged (DESIGN D11).
async fn lead(config: GroupConfig, log: GroupLog, machine: Machine) -> Result<Raft> {
    let failed = |doing: &'static str| move |error| Error::fenced(doing).because(error);
    let node = config.node.get();
    let raft = Raft::new(node, raft_config(&config.cell)?, NoPeers, log, machine)
        .await
        .map_err(failed("starting Raft"))?;
    if !raft.is_initialized().await.map_err(failed("asking Raft for its state"))? {
        raft.initialize(BTreeMap::from([(node, BasicNode::default())]))
            .await
            .map_err(|error| Error::internal("making a cluster of one node").because(error))?;
    } else if alone(&raft, config.node).await? {
        // Nobody else can lead, so there is nothing to wait for. Ignored if this node leads already.
        raft.trigger().elect().await.map_err(failed("electing this node"))?;
    }
    raft.wait(Some(LEAD_DEADLINE))
        .state(ServerState::Leader, "leadership")
        .await
        .map_err(|error| Error::unavailable("this node did not become the leader").because(error))?;
    // An entry without commands: once it is applied, so is every entry before it. A leader that
    // resumes after a restart commits nothing by itself.
    raft.client_write(Payload::default())
        .await
        .map_err(|error| Error::unavailable("committing the first entry after the start").because(error))?;
    Ok(raft)
}

async fn alone(raft: &Raft, node: NodeId) -> Result<bool> {
    raft.with_raft_state(move |state| {
        let membership = state.membership_state.effective().membership();
        membership.voter_ids().eq([node.get()])
    })
    .await
    .map_err(|error| Error::fenced("asking Raft for its members").because(error))
}

/// Makes the group if its state is empty, and checks that it is the one that was asked for.
async fn identify(queue: mpsc::Sender<Proposal>, store: Store, config: GroupConfig) -> Result<GroupInfo> {
    if state::group_info(&store.reader())?.is_none() {
        init(&queue, &config).await?;
    }
    let info = state::group_info(&store.reader())?
        .ok_or_else(|| Error::internal("the group has no identity after it was made"))?;
    if info.cell == config.cell && info.group == config.group {
        return Ok(info);
    }
    Err(Error::invalid(format!(
        "the state belongs to {} of cell {}, not to {} of cell {}: give the right directory",
        info.group, info.cell, config.group, config.cell
    )))
}

async fn init(queue: &mpsc::Sender<Proposal>, config: &GroupConfig) -> Result<()> {
    let body = CommandBody::Init {
        cell: config.cell.clone(),
        group: config.group,
        incarnation: Incarnation::new(1),
    };
    begin_with(queue, body).await?;
    // All its nodes run the same program so far.
    begin_with(queue, CommandBody::Upgrade { version: versions::of(&config.dir).max }).await
}

async fn begin_with(queue: &mpsc::Sender<Proposal>, body: CommandBody) -> Result<()> {
    let (reply, answer) = oneshot::channel();
    let ended = || Error::internal("the proposer ended during the start");
    queue.send(Proposal { body, reply }).await.map_err(|_| ended())?;
    let applied = answer.await.unwrap_or_else(|_| Err(ended()))?;
    match applied.reply {
        Ok(_) => Ok(()),
        Err(errno) => Err(Error::refused(errno, "making the group")),
    }
}
