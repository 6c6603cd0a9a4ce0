//! Administration of the nodes of a cell. Any node answers, also before there is a cell.

use super::{Front, admin::answer};
use crate::raft::{NodeReport, NodeStatus, Standing};
use sitefs_base::{NodeId, Result};
use sitefs_proto::cell::{self as pb, nodes_server::Nodes};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The service of that name.
pub(crate) struct NodesService(pub Arc<Front>);

impl NodesService {
    fn operator(&self, claim: &str) -> Result<()> {
        self.0.auth.caller(claim)?.may_operate()
    }

    fn reply(&self) -> Result<pb::CellReply> {
        let (info, status) = (self.0.group.info(), self.0.group.status());
        let (made, leader) = match &*self.0.group.standing().borrow() {
            Standing::Waiting => (false, 0),
            Standing::Follows(leader) => (true, leader.as_ref().map_or(0, |leader| leader.node.get())),
            Standing::Leads { .. } => (true, self.0.node.get()),
        };
        Ok(pb::CellReply {
            cell: info.cell,
            group: info.group.get(),
            incarnation: info.incarnation.get(),
            node: self.0.node.get(),
            term: status.term,
            leader,
            made,
            nodes: self.0.group.nodes()?.into_iter().map(node).collect(),
        })
    }
}

fn node(status: NodeStatus) -> pb::Node {
    pb::Node {
        node: status.node.get(),
        voter: status.voter,
        peer: status.addresses.peers,
        sessions: status.addresses.sessions,
        admin: status.addresses.admin,
        birth: status.birth.to_bytes().into(),
        report: status.report.map(report),
    }
}

fn report(report: NodeReport) -> pb::NodeReport {
    pb::NodeReport {
        age_ms: u64::try_from(report.age.as_millis()).unwrap_or(u64::MAX),
        leads: report.leads,
        term: report.term,
        last_log: report.last_log,
        applied: report.applied,
        flushed: report.flushed,
        log_bytes: report.log_bytes,
        state_bytes: report.state_bytes,
        disk_free: report.disk_free,
        disk_total: report.disk_total,
        version: report.version,
        clock_ahead_ms: report.clock_ahead_ms,
    }
}

type Answer = std::result::Result<Response<pb::CellReply>, Status>;

#[tonic::async_trait]
impl Nodes for NodesService {
    async fn describe(&self, request: Request<pb::DescribeRequest>) -> Answer {
        answer(self.operator(&request.get_ref().claimed_identity).and_then(|()| self.reply()))
    }

    async fn init(&self, request: Request<pb::InitRequest>) -> Answer {
        let made = async {
            self.operator(&request.get_ref().claimed_identity)?;
            self.0.group.init().await?;
            self.reply()
        };
        answer(made.await)
    }

    async fn add_node(&self, request: Request<pb::AddNodeRequest>) -> Answer {
        let pb::AddNodeRequest { claimed_identity, node, peer } = request.into_inner();
        let added = async {
            self.operator(&claimed_identity)?;
            self.0.group.add_node(NodeId::new(node), &peer).await?;
            self.reply()
        };
        answer(added.await)
    }

    async fn remove_node(&self, request: Request<pb::RemoveNodeRequest>) -> Answer {
        let pb::RemoveNodeRequest { claimed_identity, node } = request.into_inner();
        let removed = async {
            self.operator(&claimed_identity)?;
            self.0.group.remove_node(NodeId::new(node)).await?;
            self.reply()
        };
        answer(removed.await)
    }
}
