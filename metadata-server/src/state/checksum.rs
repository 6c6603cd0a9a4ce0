//! A checksum by which replicas compare their state (DESIGN D13).

use super::{Family, Read, reads, retention};
use siphasher::sip::SipHasher13;
use sitefs_base::Result;
use std::hash::Hasher;

/// A checksum of the rows of a family that must be equal on every replica. Superseded rows that
/// nobody may ask for any more do not count: each replica's compaction drops them when it likes.
pub fn checksum(read: &dyn Read, family: Family) -> Result<u64> {
    let mut hasher = SipHasher13::new();
    let retention = retention(read)?;
    reads::walk(read, family, &[], &[], |key, value| {
        if !family.is_history() || retention.keeps(family, key, value)? {
            for part in [key, value] {
                hasher.write_usize(part.len());
                hasher.write(part);
            }
        }
        Ok(true)
    })?;
    Ok(hasher.finish())
}
