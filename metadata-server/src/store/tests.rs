//! What the store promises to `state` and to `raft`.

mod churn;
mod crashes;
mod history;

use super::{LogPosition, Store, StoreOptions};
use crate::state::{Family, MemoryView, Read, View};
use proptest::prelude::*;
use sitefs_base::{Error, Kind, Result};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("state"), StoreOptions::default()).unwrap();
    (dir, store)
}

fn at(index: u64) -> LogPosition {
    LogPosition { term: 1, node: 1, index }
}

fn put(store: &Store, index: u64, key: &[u8]) {
    let write = |txn: &mut super::Txn<'_>| {
        txn.put(Family::Meta, key, key.to_vec());
        txn.set_applied(at(index));
        Ok(())
    };
    store.transact(write).unwrap();
}

#[test]
fn a_reader_sees_the_rows_of_its_moment_and_outlives_the_store() {
    let (_dir, store) = store();
    put(&store, 1, b"a");
    let before = store.reader();
    put(&store, 2, b"b");
    let after = store.reader();
    drop(store);
    assert_eq!(before.get(Family::Meta, b"b").unwrap(), None);
    assert_eq!(before.scan(Family::Meta, b"", b"", 10).unwrap().len(), 1);
    assert_eq!(after.get(Family::Meta, b"b").unwrap(), Some(b"b".to_vec()));
    std::thread::spawn(move || after.get(Family::Meta, b"b").unwrap()).join().unwrap();
}

#[test]
fn a_failed_transaction_leaves_nothing_behind() {
    let (_dir, store) = store();
    let result: Result<()> = store.transact(|txn| {
        txn.put(Family::Meta, b"a", vec![1]);
        txn.set_applied(at(1));
        Err(Error::internal("no"))
    });
    assert_eq!(result.unwrap_err().kind(), Kind::Internal);
    assert_eq!(store.reader().get(Family::Meta, b"a").unwrap(), None);
    assert_eq!(store.applied(), None);
}

/// A session that is closed and opened again in one log entry writes receipts under the keys of before.
#[test]
fn a_receipt_that_was_replaced_in_one_transaction_does_not_come_back() {
    let (_dir, store) = store();
    let key = b"Oreceipt";
    put(&store, 1, key);
    store.flush().unwrap();
    let again = |txn: &mut super::Txn<'_>| {
        txn.delete(Family::Meta, key);
        txn.put(Family::Meta, key, b"again".to_vec());
        txn.set_applied(at(2));
        Ok(())
    };
    store.transact(again).unwrap();
    assert_eq!(store.reader().get(Family::Meta, key).unwrap(), Some(b"again".to_vec()));
    store.flush().unwrap();
    let remove = |txn: &mut super::Txn<'_>| {
        txn.delete(Family::Meta, key);
        txn.set_applied(at(3));
        Ok(())
    };
    store.transact(remove).unwrap();
    store.flush().unwrap();
    store.compact_all().unwrap();
    assert_eq!(store.reader().get(Family::Meta, key).unwrap(), None);
}

#[test]
fn a_checkpoint_holds_rows_and_position() {
    let (dir, store) = store();
    put(&store, 7, b"a");
    assert_eq!(store.flushed(), None);
    assert_eq!(store.flush().unwrap(), Some(at(7)));
    put(&store, 8, b"b");
    let copy = dir.path().join("copy");
    store.checkpoint(&copy).unwrap();
    assert_eq!(Store::read_checkpoint(&copy).unwrap().applied, Some(at(8)));
    assert!(store.size().unwrap() > 0);
    let copy = Store::open(&copy, StoreOptions::default()).unwrap();
    assert_eq!(copy.reader().get(Family::Meta, b"b").unwrap(), Some(b"b".to_vec()));
    assert_eq!(copy.flushed(), Some(at(8)));
}

#[test]
fn one_process_opens_a_directory_and_only_one_of_the_right_kind() {
    let (dir, store) = store();
    let again = Store::open(&dir.path().join("state"), StoreOptions::default()).unwrap_err();
    assert_eq!(again.kind(), Kind::Conflict);
    assert!(again.doing().starts_with("another process uses"), "{again}");
    drop(store);
    let refused = |name: &str| Store::open(&dir.path().join(name), StoreOptions::default()).unwrap_err();
    std::fs::create_dir(dir.path().join("site")).unwrap();
    std::fs::write(dir.path().join("site/index.php"), "x").unwrap();
    assert!(refused("site").doing().contains("index.php"));
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    rocksdb::DB::open(&options, dir.path().join("foreign")).unwrap().put("a", "b").unwrap();
    assert_eq!(refused("foreign").kind(), Kind::Invalid);
    rocksdb::DB::open(&options, dir.path().join("later")).unwrap().put("format", "sitefs-state 9").unwrap();
    let error = refused("later");
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.doing().contains("sitefs-state 9"), "{error}");
}

#[test]
fn a_database_that_died_before_it_was_marked_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    drop(rocksdb::DB::open(&options, dir.path()).unwrap());
    put(&Store::open(dir.path(), StoreOptions::default()).unwrap(), 1, b"a");
    Store::open(dir.path(), StoreOptions::default()).unwrap();
}

#[test]
fn families_are_numbered_in_their_order() {
    // A transaction keeps its rows in an array by this number.
    for (number, family) in Family::ALL.into_iter().enumerate() {
        assert_eq!(family as usize, number);
    }
}

#[test]
fn a_poisoned_store_refuses_everything_that_writes() {
    let (_dir, store) = store();
    let options = StoreOptions::default();
    let dir = tempfile::tempdir().unwrap();
    let poisoned = Store::open(dir.path(), options.clone()).unwrap();
    drop(options.poison.set(Error::unavailable("the disk is gone")));
    let error = poisoned.transact(|_| Ok(())).unwrap_err();
    assert_eq!(error.kind(), Kind::Fenced);
    assert!(error.doing().contains("the disk is gone"), "{error}");
    assert_eq!(poisoned.flush().unwrap_err().kind(), Kind::Fenced);
    store.transact(|_| Ok(())).unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    Put(Family, Vec<u8>, u8),
    Delete(Family, Vec<u8>),
    Commit,
    Flush,
}

/// Short keys of few different bytes, so that prefixes and neighbours meet; some below a prefix
/// extractor's length and some above.
fn key() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(0), Just(1), Just(0xFF)];
    (prop_oneof![Just(0_usize), Just(15), Just(16)], prop::collection::vec(byte, 1..4))
        .prop_map(|(zeros, tail)| [vec![0; zeros], tail].concat())
}

fn step() -> impl Strategy<Value = Step> {
    let family = || prop::sample::select(vec![Family::Dentry, Family::Feed, Family::Small, Family::Hot]);
    prop_oneof![
        6 => (family(), key(), any::<u8>()).prop_map(|(family, key, value)| Step::Put(family, key, value)),
        2 => (family(), key()).prop_map(|(family, key)| Step::Delete(family, key)),
        1 => Just(Step::Commit),
        1 => Just(Step::Flush),
    ]
}

fn same(read: &dyn Read, model: &MemoryView, prefix: &[u8], limit: usize) {
    for family in [Family::Dentry, Family::Feed, Family::Small, Family::Hot] {
        let from = [prefix, &[1]].concat();
        for from in [prefix, &from] {
            assert_eq!(
                read.scan(family, prefix, from, limit).unwrap(),
                model.scan(family, prefix, from, limit).unwrap(),
                "{family:?} {prefix:?} {from:?}"
            );
        }
        for (key, value) in model.rows(family) {
            assert_eq!(read.get(family, &key).unwrap(), Some(value));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn transactions_and_readers_agree_with_a_map(
        steps in prop::collection::vec(step(), 1..60),
        prefix in key(),
        limit in 1_usize..6,
    ) {
        let (_dir, store) = store();
        let mut model = MemoryView::new();
        let mut steps = steps.into_iter().peekable();
        while steps.peek().is_some() {
            store.transact(|txn| {
                for step in steps.by_ref() {
                    match step {
                        Step::Put(family, key, value) => {
                            txn.put(family, &key, vec![value]);
                            model.put(family, &key, vec![value]);
                        }
                        Step::Delete(family, key) => {
                            txn.delete(family, &key);
                            model.delete(family, &key);
                        }
                        Step::Flush => drop(store.flush()?),
                        Step::Commit => break,
                    }
                }
                same(txn, &model, &prefix, limit);
                Ok(())
            }).unwrap();
            same(&store.reader(), &model, &prefix, limit);
            same(&store.reader(), &model, &[], 100);
        }
    }
}

#[test]
fn a_database_without_current_is_damage_and_not_a_wrong_directory() {
    let (dir, store) = store();
    put(&store, 1, b"a");
    store.flush().unwrap();
    drop(store);
    std::fs::remove_file(dir.path().join("state/CURRENT")).unwrap();
    let error = Store::open(&dir.path().join("state"), StoreOptions::default()).err().unwrap();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(error.doing().contains("CURRENT"), "{error}");
}

#[test]
fn a_damaged_volume_is_named_when_the_database_is_opened() {
    let (dir, store) = store();
    put(&store, 1, b"V-volume-");
    // What is needed cannot be read, but everything else is on disk.
    assert_eq!(store.flush().unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(store.flushed(), Some(at(1)));
    drop(store);
    let error = Store::open(&dir.path().join("state"), StoreOptions::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.doing().contains("562d766f6c756d652d of family m"), "{error}");
}
