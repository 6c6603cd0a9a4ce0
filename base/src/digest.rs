//! The SHA-512 digest that names a blob.

use crate::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

/// A SHA-512 digest. Computing one from bytes is the business of `sitefs-blobstore`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 64]);

impl Digest {
    /// Wraps the 64 bytes of a digest.
    pub const fn new(raw: [u8; 64]) -> Self {
        Self(raw)
    }
    /// Takes a digest from a slice, which must have 64 bytes.
    pub fn from_slice(raw: &[u8]) -> Result<Self> {
        raw.try_into()
            .map(Self)
            .map_err(|_| Error::invalid(format!("a digest has 64 bytes, not {}", raw.len())))
    }
    /// All 64 bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
    /// The first 32 bytes, which key blob rows; the full digest stands in every extent.
    pub fn key_half(&self) -> [u8; 32] {
        std::array::from_fn(|at| self.0[at])
    }
    /// The other 32 bytes, which stand in blob rows.
    pub fn rest(&self) -> [u8; 32] {
        std::array::from_fn(|at| self.0[at + 32])
    }
    /// The first 12 hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha512:{}", self.short())
    }
}

impl FromStr for Digest {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::invalid(format!("{text:?} is not a SHA-512 digest: 128 hexadecimal digits"));
        if text.len() != 128 || !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(bad());
        }
        let mut raw = [0; 64];
        for (byte, pair) in raw.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        Ok(Self(raw))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let (low, high) = self.0.split_at(32);
        let halves: (&[u8; 32], &[u8; 32]) = match (low.try_into(), high.try_into()) {
            (Ok(low), Ok(high)) => (low, high),
            _ => return Err(serde::ser::Error::custom("a digest has 64 bytes")),
        };
        halves.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let (low, high) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
        let mut raw = [0; 64];
        raw[..32].copy_from_slice(&low);
        raw[32..].copy_from_slice(&high);
        Ok(Self(raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let digest = Digest::new(std::array::from_fn(|i| u8::try_from(i * 3).unwrap()));
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert!("ab".parse::<Digest>().is_err());
        assert!("g".repeat(128).parse::<Digest>().is_err());
        assert!("Z".repeat(128).parse::<Digest>().is_err());
    }
}
