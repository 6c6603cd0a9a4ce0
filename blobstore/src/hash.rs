//! SHA-512, and bytes that were compared with their digest.

use bytes::Bytes;
use sha2::{Digest as _, Sha512};
use sitefs_base::{Digest, Error, Result};
use std::ops::Deref;

/// The digest of `bytes`.
pub fn hash(bytes: &[u8]) -> Digest {
    Digest::new(Sha512::digest(bytes).into())
}

/// Computes a digest piece by piece.
#[derive(Clone, Default)]
pub struct Hasher(Sha512);

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }
    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }
    /// The digest of all pieces in order.
    pub fn finish(self) -> Digest {
        Digest::new(self.0.finalize().into())
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hasher")
    }
}

/// Bytes that have the digest they are named by. There is no way to make one without hashing.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifiedBytes {
    digest: Digest,
    bytes: Bytes,
}

impl VerifiedBytes {
    /// Hashes `bytes` and refuses them with [`sitefs_base::Kind::Corrupt`] if they are not `digest`.
    pub fn check(digest: Digest, bytes: Bytes) -> Result<Self> {
        let found = hash(&bytes);
        if found != digest {
            let len = bytes.len();
            return Err(Error::corrupt(format!(
                "{len} bytes that should have digest {digest} have digest {found}"
            )));
        }
        Ok(Self { digest, bytes })
    }

    /// Hashes `bytes` and names them by what they are.
    pub fn of(bytes: Bytes) -> Self {
        Self { digest: hash(&bytes), bytes }
    }

    /// The digest of the bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The bytes, without their proof.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

impl Deref for VerifiedBytes {
    type Target = Bytes;
    fn deref(&self) -> &Bytes {
        &self.bytes
    }
}

impl std::fmt::Debug for VerifiedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VerifiedBytes({:?}, {} bytes)", self.digest, self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitefs_base::Kind;

    #[test]
    fn the_digest_is_sha512() {
        let empty = "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce\
                     47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";
        assert_eq!(hash(b"").to_string(), empty);
        let mut hasher = Hasher::new();
        hasher.update(b"one ");
        hasher.update(b"two");
        assert_eq!(hasher.finish(), hash(b"one two"));
    }

    #[test]
    fn other_bytes_are_refused_and_both_digests_named() {
        let error = VerifiedBytes::check(hash(b"a"), Bytes::from_static(b"b")).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.doing().contains(&hash(b"a").to_string()));
        assert!(error.doing().contains(&hash(b"b").to_string()));
        assert_eq!(VerifiedBytes::of(Bytes::from_static(b"a")).digest(), hash(b"a"));
    }
}
