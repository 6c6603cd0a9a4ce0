//! Who a node is: where it is reached, and which data directory is meant.

use serde::{Deserialize, Serialize};
use sitefs_base::{Error, NodeId, Result};
use std::fmt;

/// Drawn when a log is made, so that a node whose directory was lost is another one (DESIGN D11):
/// it has forgotten whom it voted for and what it acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Birth(u128);

impl Birth {
    /// Of these random bits.
    pub const fn new(bits: u128) -> Self {
        Self(bits)
    }

    /// As the wire and the log database have it.
    pub fn to_bytes(self) -> Vec<u8> {
        self.0.to_be_bytes().to_vec()
    }

    /// The inverse of [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let bytes = bytes.try_into().map_err(|_| Error::invalid("a birth has 16 bytes"))?;
        Ok(Self(u128::from_be_bytes(bytes)))
    }
}

impl fmt::Display for Birth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Birth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "birth:{self}")
    }
}

/// Where the listeners of a node are, as `HOST:PORT`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Addresses {
    /// For other nodes.
    pub peers: String,
    /// For mounts.
    pub sessions: String,
    /// For administration.
    pub admin: String,
}

/// A node as the membership in the log names it. The node of a cell of one has no addresses there.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Member {
    /// Where it is reached.
    pub addresses: Addresses,
    /// Its data directory.
    pub birth: Birth,
}

impl From<Member> for String {
    fn from(member: Member) -> Self {
        if member == Member::default() {
            return Self::new();
        }
        let Addresses { peers, sessions, admin } = member.addresses;
        format!("{peers} {sessions} {admin} {}", member.birth)
    }
}

impl TryFrom<String> for Member {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let parts: Vec<&str> = text.split(' ').collect();
        let bad = || Error::corrupt(format!("the membership has a node of an unknown form: {text:?}"));
        let [peers, sessions, admin, birth] = parts[..] else { return Err(bad()) };
        let birth = u128::from_str_radix(birth, 16).map_err(|_| bad())?;
        let (peers, sessions, admin) = (peers.to_owned(), sessions.to_owned(), admin.to_owned());
        Ok(Self { addresses: Addresses { peers, sessions, admin }, birth: Birth(birth) })
    }
}

/// A node that leads, and where it is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leader {
    /// The node.
    pub node: NodeId,
    /// Its listeners.
    pub addresses: Addresses,
}

/// What this node is in its group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// There is no cell yet, or it does not know this node.
    Waiting,
    /// Another node leads, or nobody that this node knows.
    Follows(Option<Leader>),
    /// This node leads and has applied everything that was acknowledged before its term.
    Leads {
        /// Its term.
        term: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_survive_the_log_and_those_of_older_versions_are_read() {
        let address = |port: u16| format!("127.0.0.1:{port}");
        let addresses = Addresses { peers: address(1), sessions: address(2), admin: address(3) };
        for member in [Member::default(), Member { addresses, birth: Birth::new(7 << 100) }] {
            let bytes = postcard::to_stdvec(&member).unwrap();
            assert_eq!(postcard::from_bytes::<Member>(&bytes).unwrap(), member);
        }
        let old = postcard::to_stdvec(&openraft::BasicNode::default()).unwrap();
        assert_eq!(postcard::from_bytes::<Member>(&old).unwrap(), Member::default());
        assert!(Member::try_from("a b c".to_owned()).is_err());
    }
}
