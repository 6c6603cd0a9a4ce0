//! Lists of extents, ascending and disjoint: parts of them, holes in them, more of them.

use sitefs_base::{Extent, limits::CHUNK_SIZE};

/// The part of an extent that lies in `from..to`.
pub(in crate::state) fn part(extent: &Extent, from: u64, to: u64) -> Option<Extent> {
    let (start, end) = (extent.offset.max(from), extent.end().min(to));
    let len = u32::try_from(end.checked_sub(start)?).ok().filter(|len| *len > 0)?;
    let skipped = u32::try_from(start - extent.offset).ok()?;
    Some(Extent { offset: start, len, blob_offset: extent.blob_offset + skipped, ..*extent })
}

/// The extents with a hole at `from..to`.
pub(super) fn without(extents: &[Extent], from: u64, to: u64) -> Vec<Extent> {
    let around = |extent: &Extent| [part(extent, 0, from), part(extent, to, u64::MAX)];
    extents.iter().flat_map(around).flatten().collect()
}

/// The parts of an extent in the chunks that it meets.
pub(in crate::state) fn by_chunks(extent: &Extent) -> impl Iterator<Item = Extent> + use<> {
    let extent = extent.clone();
    let first = extent.offset / CHUNK_SIZE;
    let last = (extent.end() - 1) / CHUNK_SIZE;
    (first..=last).filter_map(move |chunk| part(&extent, chunk * CHUNK_SIZE, (chunk + 1) * CHUNK_SIZE))
}

/// Extents with `more`, which lie in their holes. Neighbours in the file that are neighbours in one
/// blob become one, unless a chunk ends between them.
pub(super) fn with(mut extents: Vec<Extent>, more: Vec<Extent>) -> Vec<Extent> {
    extents.extend(more);
    extents.sort_by_key(|extent| extent.offset);
    let mut joined: Vec<Extent> = Vec::with_capacity(extents.len());
    for extent in extents {
        match joined.last_mut() {
            Some(last) if goes_on(last, &extent) => last.len += extent.len,
            _ => joined.push(extent),
        }
    }
    joined
}

fn goes_on(last: &Extent, next: &Extent) -> bool {
    last.end() == next.offset
        && last.digest == next.digest
        && last.blob_offset.checked_add(last.len) == Some(next.blob_offset)
        && !next.offset.is_multiple_of(CHUNK_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitefs_base::Digest;

    fn extent(offset: u64, len: u32, of: u8, blob_offset: u32) -> Extent {
        Extent { offset, len, digest: Digest::new([of; 64]), blob_offset }
    }

    #[test]
    fn a_hole_splits_an_extent_and_what_fits_again_becomes_one() {
        let whole = [extent(100, 50, 1, 7)];
        let split = without(&whole, 110, 120);
        assert_eq!(split, [extent(100, 10, 1, 7), extent(120, 30, 1, 27)]);
        assert_eq!(with(split.clone(), vec![extent(110, 10, 1, 17)]), whole);
        assert_eq!(with(split.clone(), vec![extent(110, 10, 2, 17)]).len(), 3);
        assert_eq!(without(&split, 0, 1000), []);
        assert_eq!(without(&split, 110, 120), split);
    }

    #[test]
    fn an_extent_is_split_where_chunks_end() {
        let long = extent(CHUNK_SIZE - 10, 30, 1, 5);
        let parts: Vec<_> = by_chunks(&long).collect();
        assert_eq!(parts, [extent(CHUNK_SIZE - 10, 10, 1, 5), extent(CHUNK_SIZE, 20, 1, 15)]);
        assert_eq!(with(Vec::new(), parts.clone()), parts, "they stay in their chunks");
    }
}
