//! Watches whether this node leads. It serves from the moment when an entry of its own is applied
//! (DESIGN D11) until it hears that another node leads, or hears from no quorum any more.

use super::{
    group::GroupConfig,
    member::{Leader, Member, Standing},
    payload::Payload,
    peer::Gate,
    proposer::Proposal,
    start::identify,
    types::Raft,
};
use crate::{state::GroupInfo, store::Store};
use openraft::{ChangeMembers, ServerState};
use sitefs_base::{Error, NodeId, Result};
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// A leader that has not heard from a quorum for so long does not serve.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(2);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long the first entry of a leader may take before it is tried again.
const FIRST_DEADLINE: Duration = Duration::from_secs(5);

/// The task that says how this node stands.
pub(super) struct Lead {
    pub(super) raft: Raft,
    pub(super) gate: Arc<Gate>,
    pub(super) store: Store,
    pub(super) queue: mpsc::Sender<Proposal>,
    pub(super) config: GroupConfig,
    pub(super) info: Arc<RwLock<GroupInfo>>,
    pub(super) tell: watch::Sender<Standing>,
    pub(super) stop: CancellationToken,
}

impl Lead {
    /// Until it is stopped.
    pub(super) async fn run(self) {
        let mut changes = self.raft.server_metrics();
        let mut tried = None;
        loop {
            self.look(&mut tried).await;
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() {
                    self.say(Standing::Follows(None));
                    return;
                },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// The only node of its cell leads for ever.
    pub(super) async fn alone(self) -> Result<()> {
        self.begin().await?;
        self.say(Standing::Leads { term: self.term().0 });
        Ok(())
    }

    /// `tried` is the last term in which it was begun to serve.
    async fn look(&self, tried: &mut Option<u64>) {
        let (term, leads) = self.term();
        let was = self.tell.borrow().clone();
        let serves = was == Standing::Leads { term };
        if !leads || (serves && !self.has_quorum(term)) {
            return self.say(self.follows());
        }
        if serves {
            return;
        }
        self.say(self.follows());
        // An entry that no quorum took yet stays in the log: another one would not come sooner.
        if tried.replace(term) == Some(term) && self.has_pending() {
            return;
        }
        let begin = async {
            self.begin().await?;
            self.announce().await
        };
        match timeout(FIRST_DEADLINE, begin).await {
            // Perhaps another term has begun meanwhile.
            Ok(Ok(())) if self.term() == (term, true) && self.has_quorum(term) => {
                tracing::info!(term, "this node leads");
                self.say(Standing::Leads { term });
            }
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(error)) => tracing::debug!(error = error.chain(), "this node does not serve yet"),
        }
    }

    fn term(&self) -> (u64, bool) {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        (metrics.vote.leader_id.term, metrics.state == ServerState::Leader)
    }

    /// Whether the log has entries that are not applied.
    fn has_pending(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.last_applied.map(|last| last.index) < metrics.last_log_index
    }

    fn has_quorum(&self, term: u64) -> bool {
        let Ok(membership) = self.gate.membership() else { return false };
        let (own, now) = (self.config.node.get(), self.gate.clock.boottime());
        let age = self.gate.contacts.quorum_age(&membership, own, term, now);
        age.is_some_and(|age| age < SILENCE_MAX)
    }

    /// An entry without commands: once it is applied, so is every entry before it.
    async fn begin(&self) -> Result<()> {
        let failed = |error| Error::unavailable("committing the first entry of a leader").because(error);
        self.raft.client_write(Payload::default()).await.map_err(failed)?;
        let info = identify(&self.queue, &self.store, &self.config).await?;
        *self.info.write().unwrap_or_else(PoisonError::into_inner) = info;
        Ok(())
    }

    /// A cell of one that gets listeners for others says where they are.
    async fn announce(&self) -> Result<()> {
        let (own, member) = (self.config.node.get(), &self.gate.own);
        let named = self.gate.membership()?.membership().get_node(&own).cloned();
        if named != Some(Member::default()) {
            return Ok(());
        }
        let change = ChangeMembers::SetNodes(BTreeMap::from([(own, member.clone())]));
        let failed = |error| Error::unavailable("writing this node's addresses into the log").because(error);
        self.raft.change_membership(change, true).await.map(drop).map_err(failed)
    }

    fn follows(&self) -> Standing {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        if membership.get_node(&self.config.node.get()).is_none() {
            return Standing::Waiting;
        }
        // One that does not serve, or not yet, is no leader to be asked.
        let leader = metrics.current_leader.filter(|leader| *leader != self.config.node.get());
        Standing::Follows(leader.and_then(|node| {
            let addresses = membership.get_node(&node)?.addresses.clone();
            Some(Leader { node: NodeId::new(node), addresses })
        }))
    }

    fn say(&self, standing: Standing) {
        self.tell.send_if_modified(|told| {
            let changed = *told != standing;
            if changed {
                tracing::debug!(?standing, "standing");
            }
            *told = standing;
            changed
        });
    }
}
