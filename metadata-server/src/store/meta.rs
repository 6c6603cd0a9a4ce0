//! What the store remembers beside the rows.

use serde::{Deserialize, Serialize};
use sitefs_base::{Error, Result};

/// A position in the Raft log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct LogPosition {
    /// The term of the leader that proposed the entry.
    pub term: u64,
    /// That leader.
    pub node: u64,
    /// The index of the entry.
    pub index: u64,
}

/// What the store remembers beside the rows, written in the same batch as they are.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StoreMeta {
    /// The last log entry that the rows contain.
    pub applied: Option<LogPosition>,
    /// The cluster's membership as `raft` encodes it; empty before the first.
    pub membership: Vec<u8>,
}

impl StoreMeta {
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![META_FORMAT];
        let body = postcard::to_stdvec(self)
            .map_err(|error| Error::internal("encoding the store's position").because(error))?;
        bytes.extend(body);
        Ok(bytes)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let bad = || Error::corrupt("the store's position has an unknown form");
        let (format, body) = bytes.split_first().ok_or_else(bad)?;
        if *format != META_FORMAT {
            return Err(bad());
        }
        postcard::from_bytes(body).map_err(|error| bad().because(error))
    }
}

const META_FORMAT: u8 = 1;
