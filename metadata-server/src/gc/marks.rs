//! What the rows of a site name, within a bound of memory.
//!
//! Of each digest 15 bytes and the reason are kept, 16 bytes in all. Two digests that agree in 15 bytes keep each
//! other, so a mistake only ever keeps a blob. Where a site names more than fit, only digests of a range are
//! taken in, and the rows are read again for the next range.

use crate::state::Why;
use sitefs_base::{Digest, Error, Result};
use std::collections::HashMap;

/// Digests that are taken in at a time: a table of about 70 MiB.
pub(super) const MARKS_MAX: usize = 3_600_000;
const PART: usize = 15;

/// What is named, of digests whose first byte is in a range.
pub(super) struct Marks {
    named: HashMap<[u8; PART], Why>,
    first: u8,
    last: u8,
    limit: usize,
}

impl Marks {
    /// For digests that begin with `first` or more, as far as `limit` of them go.
    pub fn new(first: u8, limit: usize) -> Self {
        Self { named: HashMap::new(), first, last: u8::MAX, limit }
    }

    /// The last first byte of digests that it has all of.
    pub fn last(&self) -> u8 {
        self.last
    }

    pub fn covers(&self, digest: &Digest) -> bool {
        (self.first..=self.last).contains(&digest.as_bytes()[0])
    }

    pub fn add(&mut self, digest: &Digest, why: Why) {
        if !self.covers(digest) {
            return;
        }
        let kept = self.named.entry(part(digest)).or_insert(why);
        *kept = why.min(*kept);
        while self.named.len() > self.limit && self.first < self.last {
            self.last = self.first + (self.last - self.first) / 2;
            let last = self.last;
            self.named.retain(|part, _| part[0] <= last);
        }
    }

    /// Whether memory was enough.
    pub fn check(&self) -> Result<()> {
        if self.named.len() <= self.limit {
            return Ok(());
        }
        Err(Error::limit(format!("a site has more than {} million blobs", self.limit * 256 / 1_000_000)))
    }

    /// Why a blob is kept; `None` if nothing names it.
    pub fn why(&self, digest: &Digest) -> Option<Why> {
        self.named.get(&part(digest)).copied()
    }
}

fn part(digest: &Digest) -> [u8; PART] {
    let mut part = [0; PART];
    part.copy_from_slice(&digest.as_bytes()[..PART]);
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(first: u8, rest: u8) -> Digest {
        let mut raw = [rest; 64];
        raw[0] = first;
        Digest::new(raw)
    }

    #[test]
    fn the_strongest_reason_counts() {
        let mut marks = Marks::new(0, 10);
        marks.add(&digest(1, 1), Why::Snapshot);
        marks.add(&digest(1, 1), Why::Live);
        marks.add(&digest(1, 1), Why::History);
        assert_eq!(marks.why(&digest(1, 1)), Some(Why::Live));
        assert_eq!(marks.why(&digest(1, 2)), None);
    }

    #[test]
    fn what_does_not_fit_is_left_to_the_next_range_and_nothing_is_forgotten() {
        let all: Vec<Digest> = (0..=255).flat_map(|first| [digest(first, 1), digest(first, 2)]).collect();
        let (mut first, mut ranges, mut seen) = (0, 0, 0);
        loop {
            let mut marks = Marks::new(first, 100);
            all.iter().for_each(|digest| marks.add(digest, Why::Live));
            marks.check().unwrap();
            for digest in all.iter().filter(|digest| marks.covers(digest)) {
                assert_eq!(marks.why(digest), Some(Why::Live));
                seen += 1;
            }
            ranges += 1;
            let Some(next) = marks.last().checked_add(1) else { break };
            first = next;
        }
        assert_eq!((seen, ranges >= 6), (all.len(), true));
    }

    #[test]
    fn a_range_of_one_byte_that_does_not_fit_is_an_error() {
        let mut marks = Marks::new(255, 3);
        (0..5).for_each(|rest| marks.add(&digest(255, rest), Why::Live));
        assert!(marks.check().is_err());
    }
}
