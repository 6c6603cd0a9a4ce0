//! Advisory locks on byte ranges (DESIGN D29): the words of the protocol, and the one place that splits
//! and joins ranges.

use crate::InodeId;
use std::fmt;

/// Who holds a lock within a session: a process for fcntl locks, an open file description for flock
/// and OFD locks, as the kernel numbers them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockOwner(u64);

impl LockOwner {
    /// Wraps the kernel's number.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }
    /// The bare number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for LockOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "owner:{:x}", self.0)
    }
}

/// What a lock keeps others from. The stronger one is the greater one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LockKind {
    /// Others may share it.
    Shared,
    /// Others may not have any.
    Exclusive,
}

impl LockKind {
    /// Whether two owners cannot have both.
    pub fn conflicts(self, other: Self) -> bool {
        self.max(other) == Self::Exclusive
    }
}

/// The bytes from `start` to `last`, both included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteRange {
    start: u64,
    last: u64,
}

impl ByteRange {
    /// The last byte that a file can have; a lock "to the end" ends there.
    pub const LAST: u64 = i64::MAX as u64;
    /// Every byte that a file can have.
    pub const WHOLE: Self = Self { start: 0, last: Self::LAST };

    /// A range of at least one byte that a file can have.
    pub const fn new(start: u64, last: u64) -> Option<Self> {
        if start <= last && last <= Self::LAST { Some(Self { start, last }) } else { None }
    }
    /// Its first byte.
    pub const fn start(self) -> u64 {
        self.start
    }
    /// Its last byte.
    pub const fn last(self) -> u64 {
        self.last
    }
    /// The bytes that are in both.
    pub fn meet(self, other: Self) -> Option<Self> {
        Self::new(self.start.max(other.start), self.last.min(other.last))
    }
    /// The bytes in front of `other`.
    fn before(self, other: Self) -> Option<Self> {
        other.start.checked_sub(1).and_then(|last| Self::new(self.start, self.last.min(last)))
    }
    /// The bytes behind `other`.
    fn behind(self, other: Self) -> Option<Self> {
        other.last.checked_add(1).and_then(|start| Self::new(self.start.max(start), self.last))
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.start, self.last)
    }
}

/// The locks of one owner on one file: ranges in order that do not overlap; neighbours differ in kind.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ranges(Vec<(ByteRange, LockKind)>);

impl Ranges {
    /// Locks a range in that kind, whatever it was before, or unlocks it.
    pub fn set(&mut self, range: ByteRange, kind: Option<LockKind>) {
        let mut pieces: Vec<_> = Vec::with_capacity(self.0.len() + 2);
        for (piece, own) in self.0.drain(..) {
            let rest = [piece.before(range), piece.behind(range)];
            pieces.extend(rest.into_iter().flatten().map(|rest| (rest, own)));
        }
        pieces.extend(kind.map(|kind| (range, kind)));
        pieces.sort_unstable();
        for (piece, kind) in pieces {
            match self.0.last_mut() {
                Some((last, own)) if *own == kind && last.last + 1 == piece.start => last.last = piece.last,
                _ => self.0.push((piece, kind)),
            }
        }
    }

    /// What keeps another owner from locking `range` in that kind.
    pub fn obstacle(&self, range: ByteRange, kind: LockKind) -> Option<(ByteRange, LockKind)> {
        let first = self.0.partition_point(|(piece, _)| piece.last < range.start);
        let overlapping = self.0[first..].iter().take_while(|(piece, _)| piece.start <= range.last);
        overlapping.copied().find(|(_, own)| own.conflicts(kind))
    }

    /// What is locked in both, in the weaker kind of the two.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        let mut both = Self::default();
        for (piece, kind) in &self.0 {
            for (theirs, own) in &other.0 {
                if let Some(range) = piece.meet(*theirs) {
                    both.set(range, Some(*kind.min(own)));
                }
            }
        }
        both
    }

    /// The locked ranges in order.
    pub fn pieces(&self) -> &[(ByteRange, LockKind)] {
        &self.0
    }
    /// How many ranges.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Whether nothing is locked.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a mount asks about a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockAsk {
    /// Who is in the way of such a lock?
    Test(LockKind),
    /// Lock it, unless somebody is in the way.
    Try(LockKind),
    /// Lock it when nobody is in the way any more.
    Wait(LockKind),
    /// Unlock it.
    Unlock,
}

/// A question about locks; answered under its tag, a waiting one when it is granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockRequest {
    /// Chosen by the mount, unique among its unanswered ones.
    pub tag: u64,
    /// The file.
    pub ino: InodeId,
    /// Who asks.
    pub owner: LockOwner,
    /// The process, to be told to others of the same mount that ask.
    pub pid: u32,
    /// The bytes.
    pub range: ByteRange,
    /// The question.
    pub ask: LockAsk,
}

/// A lock that a mount has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HeldLock {
    /// The file.
    pub ino: InodeId,
    /// Whose it is.
    pub owner: LockOwner,
    /// The process.
    pub pid: u32,
    /// The bytes.
    pub range: ByteRange,
    /// Its kind.
    pub kind: LockKind,
}

/// The answer to a question about locks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LockAnswer {
    /// It is locked, or unlocked, or nobody would be in the way.
    Done,
    /// This lock is in the way.
    InTheWay {
        /// Its bytes.
        range: ByteRange,
        /// Its kind.
        kind: LockKind,
        /// Its process, if it is one of the mount that asks; else 0.
        pid: u32,
    },
    /// What the mount has of the locks that it said it had.
    Kept(Vec<HeldLock>),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, option, prelude::*};

    const BYTES: u64 = 24;

    fn range() -> impl Strategy<Value = ByteRange> {
        (0..BYTES, 0..BYTES).prop_map(|(a, b)| ByteRange::new(a.min(b), a.max(b)).unwrap())
    }
    fn kind() -> impl Strategy<Value = LockKind> {
        prop_oneof![Just(LockKind::Shared), Just(LockKind::Exclusive)]
    }

    /// The kind of every byte.
    fn spread(ranges: &Ranges) -> Vec<Option<LockKind>> {
        let mut bytes = vec![None; BYTES as usize];
        for (piece, kind) in ranges.pieces() {
            for byte in piece.start()..=piece.last() {
                assert_eq!(bytes[byte as usize].replace(*kind), None, "pieces overlap: {ranges:?}");
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn ranges_do_what_an_array_of_bytes_does(steps in vec((range(), option::of(kind())), 0..20), (asked, wanted) in (range(), kind())) {
            let (mut ranges, mut model) = (Ranges::default(), vec![None; BYTES as usize]);
            for (range, kind) in steps {
                ranges.set(range, kind);
                model[range.start() as usize..=range.last() as usize].fill(kind);
                prop_assert_eq!(&spread(&ranges), &model);
                let joined = ranges.pieces().windows(2).all(|two| two[0].0.last() + 1 < two[1].0.start() || two[0].1 != two[1].1);
                prop_assert!(joined, "{:?}", ranges);
            }
            let hit = model[asked.start() as usize..=asked.last() as usize].iter().flatten().any(|own| own.conflicts(wanted));
            prop_assert_eq!(ranges.obstacle(asked, wanted).is_some(), hit);
        }

        #[test]
        fn what_two_have_in_common_is_the_weaker_of_both(a in vec((range(), kind()), 0..6), b in vec((range(), kind()), 0..6)) {
            let build = |steps: Vec<(ByteRange, LockKind)>| {
                let mut ranges = Ranges::default();
                steps.into_iter().for_each(|(range, kind)| ranges.set(range, Some(kind)));
                ranges
            };
            let (a, b) = (build(a), build(b));
            let both = spread(&a).into_iter().zip(spread(&b)).map(|(a, b)| Some(a?.min(b?)));
            prop_assert_eq!(spread(&a.meet(&b)), both.collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_whole_file_can_be_locked_in_part_unlocked_and_joined_again() {
        let mut ranges = Ranges::default();
        ranges.set(ByteRange::WHOLE, Some(LockKind::Exclusive));
        ranges.set(ByteRange::new(ByteRange::LAST, ByteRange::LAST).unwrap(), None);
        ranges.set(ByteRange::new(0, 0).unwrap(), None);
        assert_eq!(ranges.pieces(), [(ByteRange::new(1, ByteRange::LAST - 1).unwrap(), LockKind::Exclusive)]);
        ranges.set(ByteRange::WHOLE, Some(LockKind::Exclusive));
        assert_eq!(ranges.len(), 1);
        assert_eq!(ByteRange::new(0, ByteRange::LAST + 1), None);
        assert_eq!(ByteRange::new(2, 1), None);
    }
}
