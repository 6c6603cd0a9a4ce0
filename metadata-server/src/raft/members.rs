//! Makes a cell of several nodes, and changes which nodes it has.

use super::{
    group::Group,
    member::{Addresses, Birth, Member, Standing},
    peer::{Described, describe},
    types::Raft,
};
use openraft::ChangeMembers;
use sitefs_base::{Error, NodeId, Result};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::{Instant, timeout};

/// How long a new cell may take to have a leader.
const INIT_DEADLINE: Duration = Duration::from_secs(20);
/// How long a new node may make no progress.
const STALLED: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A new node becomes a voter when it lacks no more entries than this.
const LAG_MAX: u64 = 500;
/// How long a change of the membership may take.
const CHANGE_DEADLINE: Duration = Duration::from_secs(20);
/// A node that has not answered for so long does not count for the quorum of a smaller cell.
const ALIVE: Duration = Duration::from_secs(2);

/// How a node of the cell stands, as far as the asked one knows.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// The node.
    pub node: NodeId,
    /// Whether it votes; if not it only learns.
    pub voter: bool,
    /// Its listeners.
    pub addresses: Addresses,
    /// Its data directory.
    pub birth: Birth,
    /// What it last said of itself.
    pub report: Option<NodeReport>,
}

/// What a node says of itself.
#[derive(Clone, Debug)]
pub struct NodeReport {
    /// How long ago it said so.
    pub age: Duration,
    /// Whether it led.
    pub leads: bool,
    /// Its term.
    pub term: u64,
    /// The last entry of its log.
    pub last_log: u64,
    /// The last entry applied.
    pub applied: u64,
    /// The last entry whose effect is in the state database on disk.
    pub flushed: u64,
    /// Bytes of entries in its log.
    pub log_bytes: u64,
    /// Bytes of its state database.
    pub state_bytes: u64,
    /// Bytes free on its disk.
    pub disk_free: u64,
    /// Bytes of its disk.
    pub disk_total: u64,
    /// The version of its program.
    pub version: String,
    /// How far its clock is ahead of the asked node's, in milliseconds.
    pub clock_ahead_ms: i64,
}

impl Group {
    /// The nodes of the cell; none before there is one.
    pub fn nodes(&self) -> Result<Vec<NodeStatus>> {
        let inner = self.inner();
        let membership = inner.raft.metrics().borrow().membership_config.clone();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let own = inner.config.node.get();
        let status = |(node, member): (&u64, &Member)| {
            let report = if *node == own { Some(self.own_report()?) } else { self.report_of(*node, member) };
            Ok(NodeStatus {
                node: NodeId::new(*node),
                voter: voters.contains(node),
                addresses: member.addresses.clone(),
                birth: member.birth,
                report,
            })
        };
        membership.nodes().map(status).collect()
    }

    fn own_report(&self) -> Result<NodeReport> {
        let status = self.status();
        let (disk_free, disk_total) = self.disk()?;
        Ok(NodeReport {
            age: Duration::ZERO,
            leads: status.leads,
            term: status.term,
            last_log: status.last_log_index,
            applied: status.applied,
            flushed: status.flushed,
            log_bytes: status.log_bytes,
            state_bytes: status.state_bytes,
            disk_free,
            disk_total,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            clock_ahead_ms: 0,
        })
    }

    fn report_of(&self, node: u64, member: &Member) -> Option<NodeReport> {
        let inner = self.inner();
        let heard = inner.gate.known.last(node, member.birth)?;
        let report = heard.report;
        Some(NodeReport {
            age: inner.clock.boottime().saturating_sub(heard.at),
            leads: report.leads,
            term: report.progress.term,
            last_log: report.last_log,
            applied: report.progress.applied,
            flushed: report.flushed,
            log_bytes: report.log_bytes,
            state_bytes: report.state_bytes,
            disk_free: report.disk_free,
            disk_total: report.disk_total,
            version: report.version,
            clock_ahead_ms: heard.ahead_ms,
        })
    }

    /// Makes a cell of the nodes that this node's configuration names. All of them must run and be new.
    pub async fn init(&self) -> Result<()> {
        let inner = self.inner();
        let Some(peers) = &inner.config.peers else {
            return Err(Error::invalid(
                "a cell of one node is made when it starts: give `server` a --config",
            ));
        };
        if *self.standing().borrow() != Standing::Waiting {
            return Err(Error::already_exists("this node is part of a cell already"));
        }
        let mut members = BTreeMap::new();
        for (node, address) in &peers.nodes {
            let described = self.describe_new(*node, address).await?;
            members.insert(node.get(), described.member);
        }
        let failed = |error| Error::conflict("making the cell").because(error);
        inner.raft.initialize(members).await.map_err(failed)?;
        let mut standing = self.standing();
        let led = standing.wait_for(|now| matches!(now, Standing::Leads { .. } | Standing::Follows(Some(_))));
        match timeout(INIT_DEADLINE, led).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Error::unavailable(
                "the cell is made but has no leader yet: look at `sitefs cell status`",
            )),
        }
    }

    async fn describe_new(&self, node: NodeId, address: &str) -> Result<Described> {
        let described = describe(address, &self.inner().config.cell).await?;
        if described.node != node {
            return Err(Error::invalid(format!("at {address} is {}, not {node}", described.node)));
        }
        if described.used {
            return Err(Error::conflict(format!(
                "{node} at {address} is part of a cell already: give it an empty data directory"
            )));
        }
        Ok(described)
    }

    /// Takes a node in: it learns what the others have, then it votes. Ask the leader.
    pub async fn add_node(&self, node: NodeId, address: &str) -> Result<()> {
        self.must_lead()?;
        let raft = &self.inner().raft;
        let described = describe(address, &self.inner().config.cell).await?;
        let named = self.member(node);
        match &named {
            Some(member) if member.birth == described.member.birth => {}
            Some(_) => {
                return Err(Error::already_exists(format!(
                    "the cell has a {node} with another data directory: remove it first"
                )));
            }
            None => {
                let described = self.describe_new(node, address).await?;
                let add = raft.add_learner(node.get(), described.member, false);
                in_time("adding a node", add).await?;
            }
        }
        self.caught_up(raft, node).await?;
        let vote = ChangeMembers::AddVoterIds(BTreeSet::from([node.get()]));
        in_time("making a node a voter", raft.change_membership(vote, true)).await?;
        tracing::info!(%node, address, "node added");
        Ok(())
    }

    fn member(&self, node: NodeId) -> Option<Member> {
        let metrics = self.inner().raft.metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.membership().get_node(&node.get()).cloned()
    }

    async fn caught_up(&self, raft: &Raft, node: NodeId) -> Result<()> {
        let (mut furthest, mut moved) = (0, Instant::now());
        loop {
            self.must_lead()?;
            let (last, matched) = {
                let metrics = raft.metrics();
                let metrics = metrics.borrow();
                let matched = metrics.replication.as_ref().and_then(|all| all.get(&node.get()).copied());
                (metrics.last_log_index.unwrap_or(0), matched.flatten().map(|at| at.index))
            };
            if matched.is_some_and(|matched| last.saturating_sub(matched) <= LAG_MAX) {
                return Ok(());
            }
            if matched.unwrap_or(0) > furthest {
                (furthest, moved) = (matched.unwrap_or(0), Instant::now());
            }
            if moved.elapsed() > STALLED {
                return Err(Error::unavailable(format!(
                    "{node} learns nothing: it stays a learner; look at its log, then add it again"
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Takes a node out. Ask the leader.
    pub async fn remove_node(&self, node: NodeId) -> Result<()> {
        self.must_lead()?;
        let inner = self.inner();
        if node == inner.config.node {
            return Err(Error::invalid(format!(
                "{node} leads the cell: stop it, so that another node leads, then remove it"
            )));
        }
        let voters: BTreeSet<u64> = {
            let metrics = inner.raft.metrics();
            let metrics = metrics.borrow();
            if metrics.membership_config.membership().get_node(&node.get()).is_none() {
                return Err(Error::not_found(format!("the cell has no {node}")));
            }
            metrics.membership_config.voter_ids().collect()
        };
        let one = BTreeSet::from([node.get()]);
        let change = if voters.contains(&node.get()) {
            self.leaves_a_quorum(&voters, node)?;
            ChangeMembers::RemoveVoters(one)
        } else {
            ChangeMembers::RemoveNodes(one)
        };
        in_time("removing a node", inner.raft.change_membership(change, false)).await?;
        tracing::info!(%node, "node removed");
        Ok(())
    }

    fn leaves_a_quorum(&self, voters: &BTreeSet<u64>, node: NodeId) -> Result<()> {
        let inner = self.inner();
        let (term, now, own) = (self.status().term, inner.clock.boottime(), inner.config.node.get());
        let alive = |voter: &u64| {
            *voter == own || inner.gate.contacts.age(*voter, term, now).is_some_and(|age| age < ALIVE)
        };
        let rest: Vec<u64> = voters.iter().copied().filter(|voter| *voter != node.get()).collect();
        let alive = rest.iter().filter(|voter| alive(voter)).count();
        if alive > rest.len() / 2 {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "without {node} the cell would have {} nodes, of which {alive} answer: too few to decide anything",
            rest.len()
        )))
    }

    fn must_lead(&self) -> Result<()> {
        match &*self.standing().borrow() {
            Standing::Leads { .. } => Ok(()),
            _ => Err(Error::unavailable("this node does not lead: ask the leader")),
        }
    }
}

async fn in_time<T, E: std::error::Error + Send + Sync + 'static>(
    doing: &'static str,
    change: impl Future<Output = std::result::Result<T, E>>,
) -> Result<()> {
    let late =
        |_| Error::unavailable(format!("{doing} takes long, it may still happen: look at `cell status`"));
    let changed = timeout(CHANGE_DEADLINE, change).await.map_err(late)?;
    changed.map(drop).map_err(|error| Error::unavailable(doing).because(error))
}
