//! Ordered scans, with the rows of an unfinished transaction merged in.

use super::keyspace::prefix_len;
use crate::state::{Family, Row};
use rocksdb::{DBAccess, DBRawIteratorWithThreadMode, ReadOptions};
use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Included, Unbounded},
};

/// Rows written but not committed; `None` is a deletion.
pub(super) type Overlay = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Read options for the keys that start with `prefix`.
pub(super) fn read_options(family: Family, prefix: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    // The prefix filter may only be asked when the whole scan stays inside one filter prefix.
    if prefix_len(family).is_some_and(|len| prefix.len() >= len) {
        options.set_prefix_same_as_start(true);
    } else {
        options.set_total_order_seek(true);
    }
    if let Some(end) = end_of(prefix) {
        options.set_iterate_upper_bound(end);
    }
    options
}

/// The smallest key above all keys that start with `prefix`; none if there is no such key.
pub(super) fn end_of(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// Shows stored rows to `each`, without a copy.
pub(super) fn visited<D: DBAccess>(
    mut stored: DBRawIteratorWithThreadMode<'_, D>,
    prefix: &[u8],
    from: &[u8],
    limit: usize,
    each: &mut dyn FnMut(&[u8], &[u8]),
) -> Result<(), rocksdb::Error> {
    stored.seek(from.max(prefix));
    for _ in 0..limit {
        match stored.item() {
            Some((key, value)) if key.starts_with(prefix) => each(key, value),
            _ => break,
        }
        stored.next();
    }
    stored.status()
}

/// Merges stored rows with those of `overlay`, which win.
pub(super) fn merged<D: DBAccess>(
    mut stored: DBRawIteratorWithThreadMode<'_, D>,
    overlay: Option<&Overlay>,
    prefix: &[u8],
    from: &[u8],
    limit: usize,
) -> Result<Vec<Row>, rocksdb::Error> {
    let start = from.max(prefix);
    let end = end_of(prefix);
    let upper = end.as_deref().map_or(Unbounded, Excluded);
    let mut written =
        overlay.map(|rows| rows.range::<[u8], _>((Included(start), upper))).into_iter().flatten().peekable();
    let mut rows = Vec::new();
    stored.seek(start);
    while rows.len() < limit {
        let below = stored.key().filter(|key| key.starts_with(prefix));
        let Some((key, value)) = written.peek() else {
            let Some(key) = below else { break };
            rows.push((key.to_vec(), stored.value().unwrap_or_default().to_vec()));
            stored.next();
            continue;
        };
        if let Some(below) = below.filter(|below| *below < key.as_slice()) {
            rows.push((below.to_vec(), stored.value().unwrap_or_default().to_vec()));
            stored.next();
            continue;
        }
        let replaced = below == Some(key.as_slice());
        if let Some(value) = value {
            rows.push(((*key).clone(), value.clone()));
        }
        written.next();
        if replaced {
            stored.next();
        }
    }
    stored.status()?;
    Ok(rows)
}
