//! Checked conversions between what Raft says and the messages of `proto/peer.proto`.

use super::known::{Progress, Report};
use crate::{
    raft::{
        log::{decode, encode},
        member::{Addresses, Birth, Member},
        types::{Types, log_id, position},
    },
    store::LogPosition,
};
use openraft::{
    LogId, Vote,
    raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse},
};
use sitefs_base::{Error, NodeId, Result};
use sitefs_proto::peer as pb;

/// Entries in one message.
const ENTRIES_MAX: usize = 4096;
/// Bytes of a name or an address.
const TEXT_MAX: usize = 512;

pub(super) fn to_log_id(id: LogId<u64>) -> pb::LogId {
    let LogPosition { term, node, index } = position(id);
    pb::LogId { term, node, index }
}

pub(super) fn from_log_id(id: pb::LogId) -> LogId<u64> {
    log_id(LogPosition { term: id.term, node: id.node, index: id.index })
}

pub(super) fn to_vote(vote: Vote<u64>) -> pb::Ballot {
    let Vote { leader_id, committed } = vote;
    pb::Ballot { term: leader_id.term, node: leader_id.node_id, committed }
}

pub(super) fn from_vote(vote: Option<pb::Ballot>) -> Result<Vote<u64>> {
    let pb::Ballot { term, node, committed } = vote.ok_or_else(|| missing("a vote"))?;
    Ok(if committed { Vote::new_committed(term, node) } else { Vote::new(term, node) })
}

fn missing(what: &str) -> Error {
    Error::invalid(format!("a message between nodes lacks {what}"))
}

pub(super) fn to_append(
    envelope: pb::Envelope,
    rpc: AppendEntriesRequest<Types>,
) -> Result<pb::AppendRequest> {
    let entry = |entry: openraft::Entry<Types>| {
        let value = encode(&entry, 0)?.into();
        Ok(pb::LogEntry { index: entry.log_id.index, value })
    };
    Ok(pb::AppendRequest {
        envelope: Some(envelope),
        vote: Some(to_vote(rpc.vote)),
        previous: rpc.prev_log_id.map(to_log_id),
        committed: rpc.leader_commit.map(to_log_id),
        entries: rpc.entries.into_iter().map(entry).collect::<Result<_>>()?,
    })
}

pub(super) fn from_append(request: pb::AppendRequest) -> Result<AppendEntriesRequest<Types>> {
    let pb::AppendRequest { vote, previous, committed, entries, .. } = request;
    if entries.len() > ENTRIES_MAX {
        return Err(Error::limit(format!("{} log entries in one message", entries.len())));
    }
    let first = previous.as_ref().map_or(0, |previous| previous.index.saturating_add(1));
    let mut decoded = Vec::with_capacity(entries.len());
    for (expected, pb::LogEntry { index, value }) in (first..).zip(entries) {
        if index != expected {
            return Err(Error::invalid(format!("log entry {index} comes where {expected} should")));
        }
        decoded.push(decode(index, &value)?);
    }
    Ok(AppendEntriesRequest {
        vote: from_vote(vote)?,
        prev_log_id: previous.map(from_log_id),
        leader_commit: committed.map(from_log_id),
        entries: decoded,
    })
}

pub(super) fn to_appended(response: AppendEntriesResponse<u64>) -> pb::AppendReply {
    use pb::append_reply::Result as Reply;
    let result = match response {
        AppendEntriesResponse::Success => Reply::Success(pb::Done {}),
        AppendEntriesResponse::PartialSuccess(last) => {
            Reply::Partial(pb::Matched { last: last.map(to_log_id) })
        }
        AppendEntriesResponse::Conflict => Reply::Conflict(pb::Done {}),
        AppendEntriesResponse::HigherVote(vote) => Reply::HigherVote(to_vote(vote)),
    };
    pb::AppendReply { result: Some(result) }
}

pub(super) fn from_appended(reply: pb::AppendReply) -> Result<AppendEntriesResponse<u64>> {
    use pb::append_reply::Result as Reply;
    Ok(match reply.result.ok_or_else(|| missing("a result"))? {
        Reply::Success(_) => AppendEntriesResponse::Success,
        Reply::Partial(matched) => AppendEntriesResponse::PartialSuccess(matched.last.map(from_log_id)),
        Reply::Conflict(_) => AppendEntriesResponse::Conflict,
        Reply::HigherVote(vote) => AppendEntriesResponse::HigherVote(from_vote(Some(vote))?),
    })
}

pub(super) fn to_vote_request(envelope: pb::Envelope, rpc: VoteRequest<u64>) -> pb::VoteRequest {
    let last_log = rpc.last_log_id.map(to_log_id);
    pb::VoteRequest { envelope: Some(envelope), vote: Some(to_vote(rpc.vote)), last_log }
}

pub(super) fn from_vote_request(request: pb::VoteRequest) -> Result<VoteRequest<u64>> {
    Ok(VoteRequest { vote: from_vote(request.vote)?, last_log_id: request.last_log.map(from_log_id) })
}

pub(super) fn to_voted(response: VoteResponse<u64>) -> pb::VoteReply {
    pb::VoteReply {
        vote: Some(to_vote(response.vote)),
        granted: response.vote_granted,
        last_log: response.last_log_id.map(to_log_id),
    }
}

pub(super) fn from_voted(reply: pb::VoteReply) -> Result<VoteResponse<u64>> {
    Ok(VoteResponse {
        vote: from_vote(reply.vote)?,
        vote_granted: reply.granted,
        last_log_id: reply.last_log.map(from_log_id),
    })
}

impl From<Progress> for pb::Progress {
    fn from(Progress { term, applied }: Progress) -> Self {
        Self { term, applied }
    }
}

impl From<pb::Progress> for Progress {
    fn from(pb::Progress { term, applied }: pb::Progress) -> Self {
        Self { term, applied }
    }
}

impl From<Report> for pb::Report {
    fn from(report: Report) -> Self {
        Self {
            node: report.node,
            birth: report.birth.to_bytes().into(),
            progress: Some(report.progress.into()),
            last_log: report.last_log,
            flushed: report.flushed,
            log_bytes: report.log_bytes,
            state_bytes: report.state_bytes,
            disk_free: report.disk_free,
            disk_total: report.disk_total,
            version: report.version,
            leads: report.leads,
            clock_ns: report.clock_ns,
        }
    }
}

pub(super) fn from_report(report: Option<pb::Report>) -> Result<Report> {
    let report = report.ok_or_else(|| missing("a report"))?;
    Ok(Report {
        node: report.node,
        birth: Birth::from_bytes(&report.birth)?,
        progress: report.progress.ok_or_else(|| missing("what was promised"))?.into(),
        last_log: report.last_log,
        flushed: report.flushed,
        log_bytes: report.log_bytes,
        state_bytes: report.state_bytes,
        disk_free: report.disk_free,
        disk_total: report.disk_total,
        version: text(report.version)?,
        leads: report.leads,
        clock_ns: report.clock_ns,
    })
}

pub(super) fn text(text: String) -> Result<String> {
    match text.len() {
        0..=TEXT_MAX => Ok(text),
        len => Err(Error::limit(format!("a text of {len} bytes between nodes"))),
    }
}

/// Who a node says it is.
#[derive(Clone, Debug)]
pub(in crate::raft) struct Described {
    pub(in crate::raft) cell: String,
    pub(in crate::raft) node: NodeId,
    pub(in crate::raft) member: Member,
    /// Whether it is, or was, part of a cell.
    pub(in crate::raft) used: bool,
}

impl From<Described> for pb::DescribeReply {
    fn from(described: Described) -> Self {
        let Member { addresses: Addresses { peers, sessions, admin }, birth } = described.member;
        Self {
            cell: described.cell,
            node: described.node.get(),
            birth: birth.to_bytes().into(),
            peer: peers,
            sessions,
            admin,
            used: described.used,
        }
    }
}

impl TryFrom<pb::DescribeReply> for Described {
    type Error = Error;

    fn try_from(reply: pb::DescribeReply) -> Result<Self> {
        let addresses = Addresses {
            peers: address(reply.peer)?,
            sessions: address(reply.sessions)?,
            admin: address(reply.admin)?,
        };
        let member = Member { addresses, birth: Birth::from_bytes(&reply.birth)? };
        Ok(Self { cell: text(reply.cell)?, node: NodeId::new(reply.node), member, used: reply.used })
    }
}

fn address(address: String) -> Result<String> {
    let address = text(address)?;
    if address.is_empty() || address.contains(char::is_whitespace) {
        return Err(Error::invalid(format!("{address:?} is not the address of a node")));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::payload::Payload;
    use openraft::{Entry, EntryPayload};

    fn at(index: u64) -> LogId<u64> {
        log_id(LogPosition { term: 3, node: 2, index })
    }

    fn request(first: u64) -> pb::AppendRequest {
        let entry =
            |index| Entry { log_id: at(index), payload: EntryPayload::Normal(Payload(vec![1, 2, 3])) };
        let rpc = AppendEntriesRequest::<Types> {
            vote: Vote::new_committed(3, 2),
            prev_log_id: Some(at(6)),
            leader_commit: Some(at(5)),
            entries: vec![entry(first), entry(8)],
        };
        to_append(pb::Envelope::default(), rpc).unwrap()
    }

    #[test]
    fn entries_survive_the_wire_and_must_follow_each_other() {
        let back = from_append(request(7)).unwrap();
        assert_eq!(back.entries.iter().map(|entry| entry.log_id).collect::<Vec<_>>(), [at(7), at(8)]);
        assert_eq!((back.prev_log_id, back.leader_commit), (Some(at(6)), Some(at(5))));
        assert_eq!(back.vote, Vote::new_committed(3, 2));
        assert!(from_append(request(9)).is_err());
        let mut cut = request(7);
        cut.entries[0].value = cut.entries[0].value.slice(..5);
        assert!(from_append(cut).is_err());
    }

    #[test]
    fn answers_survive_the_wire() {
        for answer in [
            AppendEntriesResponse::Success,
            AppendEntriesResponse::PartialSuccess(Some(at(4))),
            AppendEntriesResponse::Conflict,
            AppendEntriesResponse::HigherVote(Vote::new(9, 1)),
        ] {
            let text = format!("{answer:?}");
            assert_eq!(format!("{:?}", from_appended(to_appended(answer)).unwrap()), text);
        }
        assert!(from_appended(pb::AppendReply { result: None }).is_err());
    }
}
