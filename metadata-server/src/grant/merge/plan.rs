//! Which extents of a chunk are joined.

use sitefs_base::{Digest, Extent, limits::HOT_MAX};
use std::collections::HashSet;

/// Extents saved below which a merge is not worth its log entry.
const SAVES_MIN: usize = 16;

/// Neighbours without a hole between them that become one extent.
pub(super) type Run = [Extent];

/// Whether these runs make enough extents go away.
pub(super) fn is_worth_it(runs: &[&Run]) -> bool {
    runs.iter().map(|run| run.len() - 1).sum::<usize>() >= SAVES_MIN
}

/// Runs of small blobs that the cell holds, each small enough for a command.
pub(super) fn hot_runs<'e>(extents: &'e [Extent], hot: &HashSet<Digest>) -> Vec<&'e Run> {
    split(extents, HOT_MAX as u64, |extent| hot.contains(&extent.digest))
}

/// Runs of any sound blobs: small ones for commands, or whole ones where the chunk is full.
pub(super) fn runs<'e>(extents: &'e [Extent], is_full: bool, sound: &HashSet<Digest>) -> Vec<&'e Run> {
    let len_max = if is_full { u64::MAX } else { HOT_MAX as u64 };
    split(extents, len_max, |extent| sound.contains(&extent.digest))
}

/// The longest runs of at least two neighbours that fit and have at most `len_max` bytes.
fn split(extents: &[Extent], len_max: u64, fits: impl Fn(&Extent) -> bool) -> Vec<&Run> {
    let mut found = Vec::new();
    let mut start = 0;
    for (at, extent) in extents.iter().enumerate() {
        let run = &extents[start..at];
        let goes_on = run.last().is_some_and(|last| last.end() == extent.offset)
            && run.first().is_some_and(|first| extent.end() - first.offset <= len_max);
        if !goes_on || !fits(extent) {
            found.push(run);
            start = if fits(extent) { at } else { at + 1 };
        }
    }
    found.push(&extents[start.min(extents.len())..]);
    found.retain(|run| run.len() >= 2);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extents(lens: &[(u64, u32)]) -> Vec<Extent> {
        let extent = |(at, (offset, len)): (usize, &(u64, u32))| Extent {
            offset: *offset,
            len: *len,
            digest: Digest::new([u8::try_from(at).unwrap(); 64]),
            blob_offset: 0,
        };
        lens.iter().enumerate().map(extent).collect()
    }

    fn lens(runs: &[&Run]) -> Vec<usize> {
        runs.iter().map(|run| run.len()).collect()
    }

    fn all_of(extents: &[Extent]) -> HashSet<Digest> {
        extents.iter().map(|extent| extent.digest).collect()
    }

    #[test]
    fn runs_end_at_holes_and_at_what_a_command_can_carry() {
        let all =
            extents(&[(0, 60_000), (60_000, 5_000), (65_000, 1_000), (66_000, 10), (70_000, 5), (70_005, 5)]);
        let sound = all_of(&all);
        assert_eq!(lens(&runs(&all, false, &sound)), [2, 2, 2]);
        assert_eq!(lens(&runs(&all, true, &sound)), [4, 2]);
        assert!(runs(&[], true, &sound).is_empty() && runs(&all[..1], true, &sound).is_empty());
    }

    #[test]
    fn what_is_damaged_is_left_out_and_its_neighbours_are_joined() {
        let all = extents(&[(0, 10), (10, 10), (20, 10), (30, 10), (40, 10), (50, 10)]);
        let mut sound = all_of(&all);
        sound.remove(&all[2].digest);
        assert_eq!(lens(&runs(&all, true, &sound)), [2, 3]);
        assert_eq!(lens(&runs(&all, false, &sound)), [2, 3]);
    }

    #[test]
    fn what_the_cell_does_not_hold_is_left_out() {
        let all = extents(&[(0, 10), (10, 10), (20, 10), (30, 10), (40, 10)]);
        let hot = all.iter().filter(|extent| extent.offset != 20).map(|extent| extent.digest).collect();
        assert_eq!(lens(&hot_runs(&all, &hot)), [2, 2]);
        assert!(hot_runs(&all, &HashSet::new()).is_empty());
    }

    #[test]
    fn a_few_extents_are_not_worth_a_merge() {
        let many: Vec<_> = (0..17).map(|n| (n * 10, 10)).collect();
        let many = extents(&many);
        let sound = all_of(&many);
        assert!(is_worth_it(&runs(&many, false, &sound)));
        assert!(!is_worth_it(&runs(&many[..16], false, &sound)));
    }
}
