//! Identifiers. Each is a type of its own, with one constructor, one text form and one
//! big-endian key form, so that two kinds of number cannot be confused.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $int:ty, $bytes:literal, $text:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name($int);

        impl $name {
            /// Wraps a number that is known to be such an id.
            pub const fn new(raw: $int) -> Self {
                Self(raw)
            }
            /// The bare number, for the wire and for arithmetic at the edge.
            pub const fn get(self) -> $int {
                self.0
            }
            /// Big-endian, so that byte order in a key is numeric order.
            pub const fn to_key(self) -> [u8; $bytes] {
                self.0.to_be_bytes()
            }
            /// The inverse of [`Self::to_key`].
            pub const fn from_key(key: [u8; $bytes]) -> Self {
                Self(<$int>::from_be_bytes(key))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($text, ":{}"), self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(/// One Raft group of a cell. Version 1 runs one, numbered 1.
    GroupId, u32, 4, "group");
id!(/// Grows whenever a group's history may repeat: restore, move-in, unsafe recovery.
    Incarnation, u32, 4, "inc");
id!(/// One metadata server process of a cell.
    NodeId, u64, 8, "node");
id!(/// One customer: the unit of placement, dedup and billing.
    SiteId, u64, 8, "site");
id!(/// One environment of a site: a file tree with its own root.
    VolumeId, u64, 8, "vol");
id!(/// A file, directory, symlink or special file of a volume. Number 1 is the root.
    InodeId, u64, 8, "ino");
id!(/// The position of a committed mutation in one volume's history. Number 0 is the empty volume.
    Seq, u64, 8, "seq");
id!(/// One operation of a session; grows by one per operation.
    OpId, u64, 8, "op");

impl InodeId {
    /// The root directory of every volume.
    pub const ROOT: Self = Self(1);
}

impl Seq {
    /// The sequence number before the first mutation.
    pub const ZERO: Self = Self(0);

    /// The next position.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl OpId {
    /// The next operation of the same session.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// One mount's identity at the cell: 128 random bits made by the client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(u128);

impl SessionId {
    /// Wraps 128 random bits.
    pub const fn new(raw: u128) -> Self {
        Self(raw)
    }
    /// The bare number.
    pub const fn get(self) -> u128 {
        self.0
    }
    /// Big-endian key form.
    pub const fn to_key(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
    /// The inverse of [`Self::to_key`].
    pub const fn from_key(key: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(key))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session:{:032x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Drawn once per upload grant and part of the object's key, so that a late PUT or DELETE of an
/// earlier grant can never meet a newer object (DESIGN D32).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation {
    /// The group's incarnation when the grant was drawn.
    pub incarnation: Incarnation,
    /// Counts the grants of the group; never reset.
    pub counter: u64,
}

impl Generation {
    /// Big-endian key form: incarnation, then counter.
    pub fn to_key(self) -> [u8; 12] {
        let mut key = [0; 12];
        key[..4].copy_from_slice(&self.incarnation.to_key());
        key[4..].copy_from_slice(&self.counter.to_be_bytes());
        key
    }
    /// The inverse of [`Self::to_key`].
    pub fn from_key(key: [u8; 12]) -> Self {
        let mut incarnation = [0; 4];
        let mut counter = [0; 8];
        incarnation.copy_from_slice(&key[..4]);
        counter.copy_from_slice(&key[4..]);
        Self { incarnation: Incarnation::from_key(incarnation), counter: u64::from_be_bytes(counter) }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.incarnation.get(), self.counter)
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gen:{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_order_is_numeric_order() {
        assert!(InodeId::new(255).to_key() < InodeId::new(256).to_key());
        let old = Generation { incarnation: Incarnation::new(1), counter: u64::MAX };
        let new = Generation { incarnation: Incarnation::new(2), counter: 0 };
        assert!(old.to_key() < new.to_key());
        assert_eq!(Generation::from_key(old.to_key()), old);
    }

    #[test]
    fn ids_have_one_text_form() {
        assert_eq!(InodeId::new(42).to_string(), "ino:42");
        assert_eq!(format!("{:?}", Seq::new(7)), "seq:7");
    }
}
