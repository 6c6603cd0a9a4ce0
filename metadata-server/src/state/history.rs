//! Which superseded rows are kept (DESIGN D2).

use super::{Family, keys, rows};
use sitefs_base::{Result, Seq};

/// The seqs `[born, died)` during which a row held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Life {
    /// The first seq at which it held.
    pub born: Seq,
    /// The first seq at which it no longer held.
    pub died: Seq,
}

impl Life {
    /// Whether the row held at `seq`.
    pub fn holds(self, seq: Seq) -> bool {
        self.born <= seq && seq < self.died
    }
}

/// The family in which superseded rows of the kind of `key` are kept, if they are.
pub(super) fn family_of(family: Family, key: &[u8]) -> Option<Family> {
    match family {
        Family::Small if !matches!(key.get(8), Some(b'A' | b'X')) => None,
        family => family_under(family, key),
    }
}

/// As [`family_of`], for keys that begin with `prefix`: the kind of some of them may have no history.
pub(super) fn family_under(family: Family, prefix: &[u8]) -> Option<Family> {
    match family {
        Family::Dentry => Some(Family::DentryHistory),
        Family::Inode => Some(Family::InodeHistory),
        Family::Chunk => Some(Family::ChunkHistory),
        Family::Small if matches!(prefix.get(8), None | Some(b'A' | b'X')) => Some(Family::SmallHistory),
        _ => None,
    }
}

/// Whether a superseded row must be kept: it died after the horizon, or a pin needs it. The one
/// function for reads, compaction, mark and fsck.
pub fn keep(life: Life, horizon: Seq, pins: &[Seq]) -> bool {
    life.died > horizon || is_pinned(life, pins)
}

/// Whether a row holds at one of `pins`, which ascend.
pub(super) fn is_pinned(life: Life, pins: &[Seq]) -> bool {
    let first = pins.partition_point(|pin| *pin < life.born);
    pins.get(first).is_some_and(|pin| *pin < life.died)
}

/// Whether a row that dies now is worth keeping at all: it held at the end of a whole second
/// (`second_floor` is the last such seq), or at a pin.
pub(super) fn worth_keeping(life: Life, second_floor: Seq, pins: &[Seq]) -> bool {
    life.born <= second_floor || is_pinned(life, pins)
}

/// The life of a row of a history family, from its key and value.
pub fn life_of(family: Family, key: &[u8], value: &[u8]) -> Result<Life> {
    let died = key.len().checked_sub(8).and_then(|at| keys::part(key, at));
    let died = died.ok_or_else(|| rows::damaged(family, key, "is no key of a superseded row"))?;
    Ok(Life { born: rows::born(family, key, value)?, died: Seq::from_key(died) })
}
