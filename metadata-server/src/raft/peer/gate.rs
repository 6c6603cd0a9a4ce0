//! Who this node is to the others, and whom it believes.
//!
//! A node that lost its vote or its log must not vote again, and one that comes back with an older copy
//! of its directory has lost some of both. So every message names both directories by their births, and
//! a node takes part only after the others have said that its directory is not older than what it
//! promised them (`meet.rs`).

use super::{Known, contacts::Contacts};
use crate::raft::{
    member::{Birth, Member},
    types::{Membership, Raft},
};
use openraft::LogId;
use sitefs_base::{Clock, Error, GroupId, Incarnation, NodeId, Result};
use sitefs_proto::peer as pb;
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

/// What nodes say to each other; another version is refused.
const PROTOCOL: u32 = 1;

/// One node as its peers know it.
pub(in crate::raft) struct Gate {
    pub(in crate::raft) cell: String,
    pub(in crate::raft) group: GroupId,
    pub(in crate::raft) node: NodeId,
    pub(in crate::raft) own: Member,
    pub(in crate::raft) contacts: Contacts,
    pub(in crate::raft) known: Known,
    pub(in crate::raft) clock: Arc<dyn Clock>,
    raft: OnceLock<Raft>,
    open: AtomicBool,
    incarnation: AtomicU32,
}

impl Gate {
    /// Closed until [`Self::open`].
    pub(in crate::raft) fn new(
        (cell, group, node): (String, GroupId, NodeId),
        own: Member,
        known: Known,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            cell,
            group,
            node,
            own,
            contacts: Contacts::default(),
            known,
            clock,
            raft: OnceLock::new(),
            open: AtomicBool::new(false),
            incarnation: AtomicU32::new(0),
        }
    }

    /// Says whose gate it is, once Raft runs.
    pub(in crate::raft) fn guards(&self, raft: &Raft) {
        // There is one Raft for each gate.
        let _ = self.raft.set(raft.clone());
    }

    pub(super) fn raft(&self) -> Result<&Raft> {
        self.raft.get().ok_or_else(|| Error::unavailable("this node is starting"))
    }

    /// From now on this node takes part.
    pub(in crate::raft) fn open(&self) {
        self.open.store(true, Ordering::Release);
    }

    pub(in crate::raft) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    pub(super) fn incarnation_is(&self, incarnation: Incarnation) {
        self.incarnation.store(incarnation.get(), Ordering::Relaxed);
    }

    pub(in crate::raft) fn membership(&self) -> Result<Arc<Membership>> {
        Ok(self.raft()?.metrics().borrow().membership_config.clone())
    }

    /// What goes with every message to another node.
    pub(super) fn envelope(&self, to: NodeId, birth: Birth) -> Result<pb::Envelope> {
        Ok(pb::Envelope {
            cell: self.cell.clone(),
            group: self.group.get(),
            from: self.node.get(),
            from_birth: self.own.birth.to_bytes().into(),
            to: to.get(),
            to_birth: birth.to_bytes().into(),
            membership: (*self.membership()?.log_id()).map(super::wire::to_log_id),
            incarnation: self.incarnation.load(Ordering::Relaxed),
            protocol: PROTOCOL,
        })
    }

    /// Lets a message in that Raft may act on: from a member, and only if this node takes part.
    pub(super) fn admit(&self, envelope: Option<&pb::Envelope>) -> Result<NodeId> {
        let from = self.greet(envelope)?;
        if self.is_open() {
            return Ok(from);
        }
        Err(Error::unavailable("this node does not know yet whether its directory is the last one"))
    }

    /// Who sent a message; an error if it is no member of the same cell, or means another node.
    pub(super) fn greet(&self, envelope: Option<&pb::Envelope>) -> Result<NodeId> {
        let envelope = envelope.ok_or_else(|| Error::invalid("a message without an envelope"))?;
        if envelope.protocol != PROTOCOL {
            return Err(Error::invalid(format!(
                "the node speaks protocol {}, this one {PROTOCOL}: upgrade the older one",
                envelope.protocol
            )));
        }
        self.is_meant(envelope)?;
        let (from, birth) = (NodeId::new(envelope.from), Birth::from_bytes(&envelope.from_birth)?);
        let own = self.incarnation.load(Ordering::Relaxed);
        if envelope.incarnation != 0 && envelope.incarnation < own {
            return Err(Error::denied(format!(
                "{from} is of incarnation {} of the cell, which went on as {own}: it must be added anew",
                envelope.incarnation
            )));
        }
        let membership = self.membership()?;
        match membership.membership().get_node(&envelope.from) {
            Some(member) if member.birth == birth => Ok(from),
            // This node was not told yet that the cell has changed: it names this very directory.
            _ if self.is_newer(envelope, membership.log_id()) => Ok(from),
            Some(_) => Err(Error::denied(format!(
                "{from} has another data directory than the one that the cell knows: remove it, then add it anew"
            ))),
            None => Err(Error::denied(format!("{from} is not a member of the cell {}", self.cell))),
        }
    }

    fn is_meant(&self, envelope: &pb::Envelope) -> Result<()> {
        let named = (envelope.cell.as_str(), envelope.group, envelope.to);
        if named != (self.cell.as_str(), self.group.get(), self.node.get()) {
            return Err(Error::denied(format!(
                "this is {} of cell {}, not node:{} of cell {}",
                self.node, self.cell, envelope.to, envelope.cell
            )));
        }
        if Birth::from_bytes(&envelope.to_birth)? != self.own.birth {
            return Err(Error::denied(format!(
                "the data directory of {} is not the one that the cell knows: it was wiped or replaced, and \
                 may not vote again; remove the node, then add it anew",
                self.node
            )));
        }
        Ok(())
    }

    fn is_newer(&self, envelope: &pb::Envelope, own: &Option<LogId<u64>>) -> bool {
        let theirs = envelope.membership.map(super::wire::from_log_id);
        theirs.is_some() && theirs > *own
    }
}
