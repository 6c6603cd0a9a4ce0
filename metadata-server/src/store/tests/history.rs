//! Compactions drop exactly what nobody needs, as of the last flush.

use super::*;
use crate::state::{checksum, keep, life_of, tests::samples};
use sitefs_base::{Seq, VolumeId};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

const FAMILY: Family = Family::SmallHistory;
const ONE: VolumeId = VolumeId::new(1);
const TWO: VolumeId = VolumeId::new(2);

fn change(store: &Store, index: u64, change: impl FnOnce(&mut dyn View)) {
    let change = |txn: &mut super::super::Txn<'_>| {
        change(txn);
        txn.set_applied(at(index));
        Ok(())
    };
    store.transact(change).unwrap();
}

/// Volume 1 with history from seq 0 to 9: row `n` held from `n` to `n + 1`.
fn with_history(store: &Store, volume: VolumeId) {
    change(store, 1, |view| {
        samples::made(view, volume.get());
        samples::needs(view, volume, Seq::ZERO, &[]);
        for number in 0..10 {
            let (key, value) = samples::superseded(volume, number, Seq::new(number), Seq::new(number + 1));
            for family in Family::ALL.into_iter().filter(|family| family.is_history()) {
                view.put(family, &key, value.clone());
            }
        }
    });
}

/// How many rows each history family has; all have as many.
fn rows(store: &Store) -> usize {
    let read = |family| store.reader().scan(family, &[], &[], 1000).unwrap().len();
    let counts = Family::ALL.into_iter().filter(|family| family.is_history()).map(read);
    let counts: BTreeSet<usize> = counts.collect();
    assert_eq!(counts.len(), 1, "the families differ: {counts:?}");
    counts.into_iter().next().unwrap()
}

/// What a crash leaves: there is no write-ahead log, so the files as they are.
fn crashed(store: &Store, to: &Path) -> Store {
    store.wait_for_compactions().unwrap();
    // A file that nobody needs any more may go away meanwhile.
    while copy(&store.shared.dir, to).is_err() {
        std::fs::remove_dir_all(to).unwrap();
    }
    Store::open(to, StoreOptions::default()).unwrap()
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

#[test]
fn history_below_the_horizon_goes_and_what_is_pinned_stays() {
    let (_dir, store) = store();
    with_history(&store, ONE);
    change(&store, 2, |view| samples::needs(view, ONE, Seq::new(6), &[Seq::new(2)]));
    store.flush().unwrap();
    store.compact_history(&[ONE]).unwrap();
    // Those that died at 7, 8, 9 and 10, and the one that held at 2.
    assert_eq!(rows(&store), 5);
}

#[test]
fn a_crash_after_a_compaction_leaves_the_history_that_the_replay_reads() {
    let (dir, store) = store();
    with_history(&store, ONE);
    store.flush().unwrap();
    // The horizon moves and history is compacted, but nothing is flushed before the crash.
    let moved = |view: &mut dyn View| samples::needs(view, ONE, Seq::new(9), &[]);
    change(&store, 2, moved);
    store.compact_history(&[ONE]).unwrap();
    let replica = crashed(&store, &dir.path().join("crashed"));
    assert_eq!(replica.applied(), Some(at(1)), "the second entry is lost");
    assert_eq!(rows(&replica), 10, "all of it may be read before the horizon moves");
    change(&replica, 2, moved);
    for family in Family::ALL {
        let sums = [&store, &replica].map(|store| checksum(&store.reader(), family).unwrap());
        assert_eq!(sums[0], sums[1], "{}", family.name());
    }
    for store in [store, replica] {
        store.flush().unwrap();
        store.compact_history(&[ONE]).unwrap();
        assert_eq!(rows(&store), 1);
    }
}

#[test]
fn what_is_needed_changes_with_the_end_of_a_flush_and_at_open() {
    let (dir, store) = store();
    with_history(&store, ONE);
    store.flush().unwrap();
    let before = store.needed();
    change(&store, 2, |view| samples::needs(view, ONE, Seq::new(9), &[]));
    store.settle().unwrap();
    assert_eq!(store.needed(), before);
    let replica = crashed(&store, &dir.path().join("crashed"));
    assert_eq!(replica.needed(), before, "the change was not flushed");
    store.flush().unwrap();
    assert_ne!(store.needed(), before);
    let copy = dir.path().join("copy");
    store.checkpoint(&copy).unwrap();
    assert_eq!(Store::open(&copy, StoreOptions::default()).unwrap().needed(), store.needed());
}

#[test]
fn a_store_that_was_replaced_goes_by_its_new_rows() {
    let (dir, store) = store();
    with_history(&store, ONE);
    store.flush().unwrap();
    let copy = dir.path().join("copy");
    store.checkpoint(&copy).unwrap();
    let old = store.needed();
    change(&store, 2, |view| samples::needs(view, ONE, Seq::new(9), &[]));
    store.flush().unwrap();
    assert_ne!(store.needed(), old);
    let state = store.shared.dir.clone();
    let swap = || {
        std::fs::remove_dir_all(&state).unwrap();
        std::fs::rename(&copy, &state).unwrap();
        Ok(())
    };
    store.replace(swap).unwrap();
    assert_eq!(store.needed(), old);
    store.compact_history(&[ONE]).unwrap();
    assert_eq!(rows(&store), 10);
}

#[test]
fn a_reader_keeps_the_history_of_its_moment() {
    let (_dir, store) = store();
    with_history(&store, ONE);
    let reader = store.reader();
    change(&store, 2, |view| samples::needs(view, ONE, Seq::new(10), &[]));
    store.flush().unwrap();
    store.compact_history(&[ONE]).unwrap();
    assert_eq!(reader.scan(FAMILY, &[], &[], 100).unwrap().len(), 10);
    drop(reader);
    store.settle().unwrap();
    store.compact_history(&[ONE]).unwrap();
    assert_eq!(rows(&store), 0);
}

#[test]
fn history_of_a_volume_that_is_gone_goes_and_that_of_a_newer_one_stays() {
    let (_dir, store) = store();
    with_history(&store, ONE);
    change(&store, 2, |view| samples::gone(view, ONE));
    store.flush().unwrap();
    // Not flushed before the compaction begins: it knows nothing of volume 2.
    with_history(&store, TWO);
    store.compact_history(&[ONE, TWO]).unwrap();
    assert_eq!(rows(&store), 10);
    let first = store.reader().scan(FAMILY, &[], &[], 1).unwrap().remove(0);
    assert_eq!(first.0[..8], TWO.to_key());
}

#[test]
fn volumes_that_let_go_of_much_are_named() {
    let (_dir, store) = store();
    with_history(&store, ONE);
    change(&store, 2, |view| samples::needs(view, TWO, Seq::ZERO, &[Seq::new(5)]));
    store.flush().unwrap();
    let before = store.needed();
    let released = |index: u64, horizon: u64, pins: &[Seq]| {
        change(&store, index, |view| samples::needs(view, TWO, Seq::new(horizon), pins));
        store.flush().unwrap();
        store.needed().released_since(&before)
    };
    assert_eq!(released(3, 99_999, &[Seq::new(5)]), []);
    assert_eq!(released(4, 100_000, &[Seq::new(5)]), [TWO]);
    assert_eq!(released(5, 0, &[]), [TWO]);
    change(&store, 6, |view| samples::gone(view, ONE));
    store.flush().unwrap();
    assert_eq!(store.needed().released_since(&before), [ONE, TWO]);
}

#[derive(Clone, Debug)]
enum Step {
    Bury { volume: u64, number: u64, born: u64, lasts: u64 },
    Damage { volume: u64, number: u64 },
    MakeVolume,
    RemoveVolume(u64),
    Horizon { volume: u64, by: u64 },
    Pin { volume: u64, seq: u64 },
    Unpin(u64),
    Flush,
    Compact,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let volume = || 1_u64..5;
    prop_oneof![
        8 => (volume(), 0_u64..4, 0_u64..20, 1_u64..10)
            .prop_map(|(volume, number, born, lasts)| Step::Bury { volume, number, born, lasts }),
        1 => (volume(), 0_u64..4).prop_map(|(volume, number)| Step::Damage { volume, number }),
        2 => Just(Step::MakeVolume),
        1 => volume().prop_map(Step::RemoveVolume),
        3 => (volume(), 1_u64..8).prop_map(|(volume, by)| Step::Horizon { volume, by }),
        2 => (volume(), 0_u64..25).prop_map(|(volume, seq)| Step::Pin { volume, seq }),
        1 => volume().prop_map(Step::Unpin),
        3 => Just(Step::Flush),
        3 => Just(Step::Compact),
        1 => Just(Step::Crash),
    ]
}

/// The rows, and what is needed of them.
#[derive(Clone, Default)]
struct Model {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    volumes: BTreeMap<u64, (u64, BTreeSet<u64>)>,
    made: u64,
    index: u64,
}

impl Model {
    fn needs(&self, key: &[u8], value: &[u8]) -> bool {
        let Ok(life) = life_of(FAMILY, key, value) else { return true };
        let volume = u64::from_be_bytes(key[..8].try_into().unwrap());
        match self.volumes.get(&volume) {
            None => volume > self.made,
            Some((horizon, pins)) => {
                let (born, died) = (life.born.get(), life.died.get());
                let needed = died > *horizon || pins.iter().any(|pin| born <= *pin && *pin < died);
                let pins: Vec<Seq> = pins.iter().map(|pin| Seq::new(*pin)).collect();
                assert_eq!(keep(life, Seq::new(*horizon), &pins), needed);
                needed
            }
        }
    }

    /// Changes the model as `step` says; false for steps of the store alone.
    fn take(&mut self, step: &Step) -> bool {
        match *step {
            Step::Bury { volume, number, born, lasts } if volume <= self.made => {
                let (born, died) = (Seq::new(born), Seq::new(born + lasts));
                let (key, value) = samples::superseded(VolumeId::new(volume), number, born, died);
                self.rows.insert(key, value);
            }
            Step::Damage { volume, number } => {
                let seq = Seq::new(1);
                let (key, _) = samples::superseded(VolumeId::new(volume), number, seq, seq);
                self.rows.insert(key, vec![9, 9]);
            }
            Step::MakeVolume if self.made < 4 => {
                self.made += 1;
                self.volumes.insert(self.made, Default::default());
            }
            Step::RemoveVolume(volume) => drop(self.volumes.remove(&volume)),
            Step::Horizon { volume, by } => {
                if let Some(needs) = self.volumes.get_mut(&volume) {
                    needs.0 += by;
                }
            }
            Step::Pin { volume, seq } => {
                if let Some(needs) = self.volumes.get_mut(&volume) {
                    needs.1.insert(seq);
                }
            }
            Step::Unpin(volume) => {
                if let Some(needs) = self.volumes.get_mut(&volume) {
                    needs.1.pop_first();
                }
            }
            Step::Bury { .. } | Step::MakeVolume => {}
            Step::Flush | Step::Compact | Step::Crash => return false,
        }
        self.index += 1;
        true
    }

    /// Writes what differs from `before`.
    fn write(&self, store: &Store, before: &Self) {
        change(store, self.index, |view| {
            for (key, value) in &self.rows {
                if before.rows.get(key) != Some(value) {
                    view.put(FAMILY, key, value.clone());
                }
            }
            for volume in 1..=4 {
                match self.volumes.get(&volume) {
                    None => samples::gone(view, VolumeId::new(volume)),
                    Some((horizon, pins)) => {
                        let pins: Vec<Seq> = pins.iter().map(|pin| Seq::new(*pin)).collect();
                        samples::needs(view, VolumeId::new(volume), Seq::new(*horizon), &pins);
                    }
                }
            }
            samples::made(view, self.made);
        });
    }
}

/// Runs the steps on a store and on a model. `safe` is the last flush; a compaction may flush as
/// well, without a word, so there are several states that a crash may leave.
fn follow(steps: Vec<Step>) {
    let (dir, mut store) = store();
    let (mut now, mut safe) = (Model::default(), Model::default());
    let mut on_disk = vec![Model::default()];
    for (number, step) in steps.iter().enumerate() {
        let before = now.clone();
        if now.take(step) {
            now.write(&store, &before);
        }
        match step {
            Step::Flush => {
                store.flush().unwrap();
                safe = now.clone();
                on_disk = vec![now.clone()];
            }
            Step::Compact => {
                store.compact_history(&(1..=20).map(VolumeId::new).collect::<Vec<_>>()).unwrap();
                on_disk.push(now.clone());
                for model in on_disk.iter_mut().chain([&mut now]) {
                    model.rows.retain(|key, value| safe.needs(key, value));
                }
            }
            Step::Crash => {
                store = crashed(&store, &dir.path().join(format!("crashed-{number}")));
                let index = store.applied().map_or(0, |at| at.index);
                now = on_disk.iter().rfind(|model| model.index == index).unwrap().clone();
                safe = now.clone();
                on_disk = vec![now.clone()];
            }
            _ => {}
        }
        let stored = store.reader().scan(FAMILY, &[], &[], 1000).unwrap();
        // Compactions that nobody asked for may drop what is not needed, when a store is opened for example.
        let is_there = |key: &[u8]| stored.iter().any(|(stored, _)| stored == key);
        now.rows.retain(|key, value| is_there(key) || safe.needs(key, value));
        assert_eq!(stored, now.rows.clone().into_iter().collect::<Vec<_>>(), "after step {number}, {step:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn compactions_drop_what_keep_says_and_no_more(steps in prop::collection::vec(step(), 1..60)) {
        follow(steps);
    }
}
