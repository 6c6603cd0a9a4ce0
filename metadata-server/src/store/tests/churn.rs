//! Directories that lose many names are still cheap to list.

use super::*;
use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};

const DIRECTORY: &[u8] = b"volume--inode---";
const KEPT: usize = 100;
/// Rows that a listing may step over; what compactions have not reached yet is in it.
const STEPS_MAX: u64 = 12_000;

fn name(store: &Store, name: &str, is_there: bool) {
    let key = [DIRECTORY, name.as_bytes()].concat();
    let change = |txn: &mut super::super::Txn<'_>| {
        match is_there {
            true => txn.put(Family::Dentry, &key, vec![0; 12]),
            false => txn.delete(Family::Dentry, &key),
        }
        Ok(())
    };
    store.transact(change).unwrap();
}

/// Lists the directory; the rows that were stepped over.
fn steps(store: &Store) -> u64 {
    let reader = store.reader();
    let mut context = PerfContext::default();
    set_perf_stats(PerfStatsLevel::EnableCount);
    context.reset();
    let rows = reader.scan(Family::Dentry, DIRECTORY, DIRECTORY, 1000).unwrap();
    set_perf_stats(PerfStatsLevel::Disable);
    assert_eq!(rows.len(), KEPT);
    context.metric(PerfMetric::InternalDeleteSkippedCount)
        + context.metric(PerfMetric::InternalKeySkippedCount)
}

#[test]
fn a_directory_that_lost_many_names_is_listed_without_stepping_over_them() {
    let (_dir, store) = store();
    for number in 0..KEPT {
        name(&store, &format!("kept-{number:03}"), true);
    }
    let mut worst = 0;
    for round in 0..40_000 {
        // Spread among the names that stay.
        let temporary = format!("kept-{:03}-{round:x}", round % KEPT);
        name(&store, &temporary, true);
        name(&store, &temporary, false);
        if round % 1_000 == 999 {
            worst = worst.max(steps(&store));
        }
    }
    assert!(worst > 0, "nothing was counted");
    assert!(worst <= STEPS_MAX, "a listing stepped over {worst} rows");
    store.wait_for_compactions().unwrap();
    assert!(steps(&store) <= STEPS_MAX);
}

#[test]
fn a_receipt_that_is_gone_leaves_nothing_behind_at_the_next_flush() {
    let (_dir, store) = store();
    let receipt = |number: u32| [&b"O-volume-session"[..], &number.to_be_bytes()].concat();
    for number in 0..1_000 {
        put(&store, 1, &receipt(number));
        let gone = |txn: &mut super::super::Txn<'_>| {
            txn.delete(Family::Meta, &receipt(number));
            // Of an operation that left none.
            txn.delete(Family::Meta, &receipt(1_000_000 + number));
            Ok(())
        };
        store.transact(gone).unwrap();
    }
    store.flush().unwrap();
    let deletions = || {
        let db = store.db().unwrap();
        let tables = db.live_files().unwrap();
        tables
            .iter()
            .filter(|table| table.column_family_name == "m")
            .map(|table| table.num_deletions)
            .sum::<u64>()
    };
    assert_eq!(deletions(), 1_000, "those that met a receipt went with it");
    assert!(store.reader().scan(Family::Meta, b"O", b"O", 1).unwrap().is_empty());
}
