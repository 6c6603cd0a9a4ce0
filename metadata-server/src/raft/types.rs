//! The types that openraft is instantiated with.

use super::{member::Member, payload::Payload};
use crate::{state::Applied, store::LogPosition};
use openraft::{AnyError, CommittedLeaderId, LogId, StorageError, StorageIOError, StoredMembership};
use serde::{Deserialize, Serialize};
use sitefs_base::{Error, Result};
use std::path::PathBuf;

openraft::declare_raft_types!(
    /// The types of this crate's Raft groups.
    pub(super) Types:
        D = Payload,
        R = Replies,
        NodeId = u64,
        Node = Member,
        Entry = openraft::Entry<Types>,
        SnapshotData = SnapshotDir,
        AsyncRuntime = openraft::TokioRuntime,
);

pub(super) type Raft = openraft::Raft<Types>;
pub(super) type Membership = StoredMembership<u64, Member>;

/// What the commands of one entry gave, in their order. It never leaves the process, which is why
/// nothing of it is serialized though openraft asks for the traits.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Replies {
    #[serde(skip)]
    pub(super) applied: Vec<Applied>,
}

/// A directory with the files of a snapshot.
#[derive(Clone, Debug)]
pub(super) struct SnapshotDir {
    pub(super) path: PathBuf,
}

pub(super) fn log_id(position: LogPosition) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(position.term, position.node), position.index)
}

pub(super) fn position(log_id: LogId<u64>) -> LogPosition {
    LogPosition { term: log_id.leader_id.term, node: log_id.leader_id.node_id, index: log_id.index }
}

pub(super) fn encode_membership(membership: &Membership) -> Result<Vec<u8>> {
    postcard::to_stdvec(membership).map_err(|error| Error::internal("encoding the membership").because(error))
}

/// The inverse of [`encode_membership`]; no bytes mean that there was none yet.
pub(super) fn decode_membership(bytes: &[u8]) -> Result<Membership> {
    if bytes.is_empty() {
        return Ok(Membership::default());
    }
    postcard::from_bytes(bytes).map_err(|error| Error::corrupt("decoding the membership").because(error))
}

/// Our error as openraft wants it: it ends the Raft core.
pub(super) fn storage_error(
    make: impl FnOnce(AnyError) -> StorageIOError<u64>,
    error: &Error,
) -> StorageError<u64> {
    make(AnyError::error(error.chain())).into()
}
