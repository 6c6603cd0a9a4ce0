//! Bounds of the numbers in rows. What is beyond them was never stored: the row is damaged, and is
//! refused before anything reckons with it.

use serde::{Deserialize, Deserializer, de::Error};
use sitefs_base::{Content, Extent, InodeId, Seq, limits::FILE_MAX};

/// More than anything was ever counted; as much again can be added without overflow.
const COUNT_MAX: u64 = 1 << 62;

pub(super) trait Count {
    fn count(&self) -> u64;
}

impl Count for u64 {
    fn count(&self) -> u64 {
        *self
    }
}

impl Count for Seq {
    fn count(&self) -> u64 {
        self.get()
    }
}

impl Count for InodeId {
    fn count(&self) -> u64 {
        self.get()
    }
}

/// A number that counts something.
pub(super) fn count<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de> + Count,
    D: Deserializer<'de>,
{
    let value = T::deserialize(deserializer)?;
    if value.count() > COUNT_MAX { Err(D::Error::custom("a number is impossibly large")) } else { Ok(value) }
}

/// Extents within the largest file.
pub(super) fn extents<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Extent>, D::Error> {
    let extents = Vec::deserialize(deserializer)?;
    if are_possible(&extents) { Ok(extents) } else { Err(D::Error::custom("an extent is out of place")) }
}

/// Content whose extents are within the largest file.
pub(super) fn content<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Content, D::Error> {
    match Content::deserialize(deserializer)? {
        Content::Extents(extents) if !are_possible(&extents) => {
            Err(D::Error::custom("an extent is out of place"))
        }
        content => Ok(content),
    }
}

/// Ascending, and not beyond the largest file.
fn are_possible(extents: &[Extent]) -> bool {
    let end = |extent: &Extent| extent.offset.saturating_add(u64::from(extent.len));
    let disjoint = extents.is_sorted_by(|a, b| end(a) <= b.offset);
    disjoint && extents.last().is_none_or(|last| last.offset <= FILE_MAX && end(last) <= FILE_MAX)
}
