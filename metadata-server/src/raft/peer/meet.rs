//! Once a second nodes tell each other how far they have come; before a node takes part it asks what the
//! others remember of it.

use super::{
    Gate, Known, Peers,
    client::{CALL_DEADLINE, Use},
    known::{Progress, Report},
    wire,
};
use crate::{
    raft::{log::GroupLog, member::Member, types::Raft},
    state,
    store::{Poison, Store},
};
use openraft::ServerState;
use sitefs_base::{Error, NodeId, Result};
use sitefs_proto::{error_from_status, peer as pb};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

const EVERY: Duration = Duration::from_secs(1);
/// As long as this node does not take part.
const EVERY_AT_FIRST: Duration = Duration::from_millis(100);
/// What the others promised is written down so often.
const SAVE_EVERY: u32 = 5;
/// A node whose clock is so far from the middle of the others' does not lead (DESIGN D8).
const CLOCK_MAX_MS: i64 = 500;

/// Who can say how this node stands, and who hears how others do.
#[derive(Clone)]
pub(in crate::raft) struct Meetings {
    pub(in crate::raft) gate: Arc<Gate>,
    pub(in crate::raft) peers: Peers,
    pub(in crate::raft) log: GroupLog,
    pub(in crate::raft) store: Store,
    pub(in crate::raft) dir: PathBuf,
    pub(in crate::raft) poison: Poison,
}

impl Meetings {
    /// Takes what a node says of itself; what was known of it before.
    pub(super) fn hear(&self, report: Report) -> Result<Progress> {
        let ahead = report.clock_ns.saturating_sub(self.clock_ns()) / 1_000_000;
        let before = self.known().hear(report, self.gate.clock.boottime(), ahead);
        Ok(before)
    }

    fn known(&self) -> &Known {
        &self.gate.known
    }

    fn clock_ns(&self) -> i64 {
        let now = self.gate.clock.now();
        now.secs().saturating_mul(1_000_000_000).saturating_add(now.nanos().into())
    }

    /// How this node stands. What it promises is on its disk.
    pub(in crate::raft) fn own(&self) -> Result<Report> {
        let raft = self.gate.raft()?;
        let (leads, last_log) = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow();
            (metrics.state == ServerState::Leader, metrics.last_log_index.unwrap_or(0))
        };
        let disk = rustix::fs::statvfs(&self.dir);
        let bytes = |blocks: u64, size: u64| blocks.saturating_mul(size);
        let index = |position: Option<crate::store::LogPosition>| position.map_or(0, |at| at.index);
        Ok(Report {
            node: self.gate.node.get(),
            birth: self.gate.own.birth,
            progress: self.promised()?,
            last_log,
            flushed: index(self.store.flushed()),
            log_bytes: self.log.bytes().len(),
            state_bytes: self.store.size().unwrap_or(0),
            disk_free: disk.as_ref().map_or(0, |disk| bytes(disk.f_bavail, disk.f_frsize)),
            disk_total: disk.as_ref().map_or(0, |disk| bytes(disk.f_blocks, disk.f_frsize)),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            leads,
            clock_ns: self.clock_ns(),
        })
    }

    /// An applied entry is committed, and the log is synced before that: none of it can be lost.
    fn promised(&self) -> Result<Progress> {
        let term = self.log.durable_vote()?.map_or(0, |vote| vote.leader_id.term);
        Ok(Progress { term, applied: self.store.applied().map_or(0, |at| at.index) })
    }

    /// How far the directory of this node reaches.
    fn reach(&self) -> Result<Progress> {
        // The log first: it grows before what is applied does.
        let end = self.log.end()?.unwrap_or(0);
        let Progress { term, applied } = self.promised()?;
        Ok(Progress { term, applied: applied.max(end) })
    }

    /// Meets the other members until it is stopped.
    pub(in crate::raft) async fn run(self, raft: Raft, stop: CancellationToken) {
        let mut rounds = 0_u32;
        loop {
            let every = if self.gate.is_open() { EVERY } else { EVERY_AT_FIRST };
            let met = tokio::select! {
                biased;
                // A node that stops waits for nobody, and its databases must not wait for this.
                () = stop.cancelled() => return,
                met = self.round(&raft) => met,
            };
            if let Err(error) = met {
                tracing::warn!(error = error.chain(), "the other nodes were not met");
            }
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(SAVE_EVERY)
                && let Err(error) = self.save().await
            {
                tracing::warn!(error = error.chain(), "what other nodes promised was not written down");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
        }
    }

    async fn save(&self) -> Result<()> {
        let gate = self.gate.clone();
        super::sending::off_thread(move || gate.known.save()).await
    }

    async fn round(&self, raft: &Raft) -> Result<()> {
        if let Some(info) = state::group_info(&self.store.reader())? {
            self.gate.incarnation_is(info.incarnation);
        }
        let membership = self.gate.membership()?;
        let own = self.gate.node.get();
        let others: Vec<(u64, Member)> = membership
            .nodes()
            .filter(|(node, _)| **node != own)
            .map(|(node, member)| (*node, member.clone()))
            .collect();
        let mut calls = JoinSet::new();
        for (node, member) in others {
            let this = self.clone();
            calls.spawn(async move { (node, this.call(node, member).await) });
        }
        let mut voters_met = 0;
        let is_voter = |node: u64| membership.voter_ids().any(|voter| voter == node);
        while let Some(called) = calls.join_next().await {
            let Ok((node, met)) = called else { continue };
            match met {
                Ok(()) => voters_met += usize::from(is_voter(node)),
                Err(error) => tracing::debug!(node, error = error.chain(), "a node was not met"),
            }
        }
        if self.poison.check().is_ok() && voters_met >= needed(&membership, own) {
            self.gate.open();
        }
        raft.runtime_config().elect(self.gate.is_open() && !self.is_clock_off());
        Ok(())
    }

    async fn call(&self, node: u64, member: Member) -> Result<()> {
        let node = NodeId::new(node);
        let (envelope, report) = (self.gate.envelope(node, member.birth)?, self.own()?);
        let request = pb::MeetRequest { envelope: Some(envelope), report: Some(report.into()) };
        let mut client = self.peers.client(&member.addresses.peers, Use::Raft)?;
        let limit = if self.gate.is_open() { EVERY } else { CALL_DEADLINE };
        let silent = |_| Error::unavailable("no answer in time");
        let reply = timeout(limit, client.meet(request)).await.map_err(silent)?;
        let reply = reply.map_err(|status| error_from_status(&status))?.into_inner();
        let remembered: Progress = reply.remembered.unwrap_or_default().into();
        self.check(node, remembered)?;
        let report = wire::from_report(reply.report)?;
        if report.node != node.get() || report.birth != member.birth {
            return Err(Error::denied("another node answers there"));
        }
        self.hear(report).map(drop)
    }

    /// Stops this node if its directory is older than what another node remembers of it.
    fn check(&self, node: NodeId, remembered: Progress) -> Result<()> {
        let reach = self.reach()?;
        if remembered.is_reached_by(reach) {
            return Ok(());
        }
        let Progress { term, applied } = remembered;
        Err(self.poison.set(Error::fenced(format!(
            "this data directory is an older copy: {node} remembers that this node had come to term {term} and \
             entry {applied}, and the directory ends at term {} and entry {}; remove the node from the cell, \
             then add it anew with an empty directory",
            reach.term, reach.applied
        ))))
    }

    /// Whether this node's clock is far from the middle one of the nodes that were heard of lately.
    fn is_clock_off(&self) -> bool {
        let Ok(membership) = self.gate.membership() else { return false };
        let now = self.gate.clock.boottime();
        let heard = membership.nodes().filter_map(|(node, member)| self.known().last(*node, member.birth));
        let recent = heard.filter(|heard| now.saturating_sub(heard.at) < EVERY * 5);
        let mut ahead: Vec<i64> = recent.map(|heard| heard.ahead_ms).chain([0]).collect();
        ahead.sort_unstable();
        // Of two nobody knows which one is wrong.
        ahead.len() > 2 && ahead[ahead.len() / 2].abs() > CLOCK_MAX_MS
    }
}

/// How many other voters must have said that this node's directory is not too old: as many as any
/// decision needs beside it, so that waiting for them holds nothing up.
fn needed(membership: &crate::raft::types::Membership, own: u64) -> usize {
    let quorum = |voters: &std::collections::BTreeSet<u64>| {
        let others = voters.iter().filter(|voter| **voter != own).count();
        (voters.len() / 2 + usize::from(!voters.contains(&own))).min(others)
    };
    membership.membership().get_joint_config().iter().map(quorum).max().unwrap_or(0)
}
