//! Random histories through RocksDB: crashes at every boundary of batches, and other processes.
//!
//! `SITEFS_SEED` and `SITEFS_HISTORIES` run those of before again; each run says its own.

use super::at;
use crate::{
    state::{Command, Family, MemoryView, Read, apply, checksum, tests::reference},
    store::{Store, StoreOptions},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process,
};

/// Commands of one log entry.
const BATCH: usize = 4;

type Sums = Vec<u64>;

fn sums(read: &dyn Read) -> Sums {
    Family::ALL.iter().map(|family| checksum(read, *family).unwrap()).collect()
}

/// In memory where that is possible: a crash here is an unfinished flush, not a lost disk, and thousands
/// of syncs of small files take minutes on a busy disk.
fn memory_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn open(dir: &Path) -> Store {
    let small = StoreOptions { cache_bytes: 1 << 20, write_buffer_bytes: 1 << 20, ..StoreOptions::default() };
    Store::open(dir, small).unwrap()
}

fn apply_entry(store: &Store, index: usize, commands: &[Command]) {
    let entry = store.transact(|txn| {
        txn.set_applied(at(index as u64));
        commands.iter().try_for_each(|command| apply(txn, command).map(drop))
    });
    entry.unwrap();
}

/// A cheap sequence of choices.
struct Dice(u64);

impl Dice {
    fn one_in(&mut self, sides: u64) -> bool {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33).is_multiple_of(sides)
    }

    /// Perhaps a flush, perhaps a compaction.
    fn upkeep(&mut self, store: &Store) {
        if self.one_in(3) {
            store.flush().unwrap();
        }
        if self.one_in(4) {
            store.compact_all().unwrap();
        }
    }
}

/// The names and lengths of the files of a database.
fn listing(dir: &Path) -> Vec<(PathBuf, u64)> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let files = entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.len())));
    let mut files: Vec<_> = files
        .filter(|(path, _)| !matches!(path.file_name().unwrap().to_str(), Some("LOCK" | "LOG")))
        .collect();
    files.sort();
    files
}

/// What a crash leaves: the files as they are, nothing of the memory. Closing would write it out.
fn crash(from: &Path, to: &Path) {
    loop {
        let _ = fs::remove_dir_all(to);
        fs::create_dir(to).unwrap();
        let before = listing(from);
        let copied =
            before.iter().all(|(path, _)| fs::copy(path, to.join(path.file_name().unwrap())).is_ok());
        if copied && listing(from) == before {
            return;
        }
    }
}

/// The checksums after each entry, of rows that never saw a disk.
fn never_crashed(entries: &[&[Command]]) -> Vec<Sums> {
    let mut view = MemoryView::new();
    let mut all = vec![sums(&view)];
    for entry in entries {
        for command in *entry {
            apply(&mut view, command).unwrap();
        }
        all.push(sums(&view));
    }
    all
}

fn survive(seed: u64) {
    let log = reference::random_cell(seed, 36).1;
    let _slices = reference::cell_slices();
    let entries: Vec<&[Command]> = log.chunks(BATCH).collect();
    let expected = never_crashed(&entries);
    let dir = memory_dir();
    let mut dice = Dice(seed);
    let mut live = dir.path().join("0");
    let mut store = open(&live);
    let replica = open(&dir.path().join("replica"));
    for (index, entry) in entries.iter().enumerate() {
        apply_entry(&store, index + 1, entry);
        apply_entry(&replica, index + 1, entry);
        dice.upkeep(&store);
        let safe = store.flushed();
        let next = dir.path().join((index + 1).to_string());
        crash(&live, &next);
        drop(store);
        fs::remove_dir_all(&live).unwrap();
        (live, store) = (next.clone(), open(&next));
        let kept = store.applied();
        assert!(kept >= safe, "what was flushed is there: {kept:?}, {safe:?}");
        let kept = kept.map_or(0, |position| position.index as usize);
        assert_eq!(sums(&store.reader()), expected[kept], "seed {seed}: the rows of entry {kept}");
        for (again, entry) in entries.iter().enumerate().take(index + 1).skip(kept) {
            apply_entry(&store, again + 1, entry);
        }
        assert_eq!(sums(&store.reader()), expected[index + 1], "seed {seed}: after the replay up to {index}");
    }
    assert_eq!(sums(&replica.reader()), expected[entries.len()], "seed {seed}: the replica");
    store.flush().unwrap();
    store.compact_all().unwrap();
    assert_eq!(sums(&store.reader()), expected[entries.len()], "seed {seed}: after a compaction");
}

#[test]
fn what_a_crash_leaves_is_a_state_of_the_log_and_the_replay_gives_the_rest() {
    for seed in (reference::Budget { histories: 100, steps: 36 }).seeds() {
        survive(seed);
    }
}

/// Where the other process reads the log and writes its checksums.
const LOG: &str = "SITEFS_TEST_LOG";

/// The other process of the test below, which says so by a variable; otherwise there is nothing to do.
#[test]
fn another_process() {
    let Some(path) = std::env::var_os(LOG).map(PathBuf::from) else { return };
    let log: Vec<Command> = postcard::from_bytes(&fs::read(&path).unwrap()).unwrap();
    let dir = memory_dir();
    let store = open(dir.path());
    let _slices = reference::cell_slices();
    let mut dice = Dice(u64::from(process::id()));
    for (index, entry) in log.chunks(BATCH).enumerate() {
        apply_entry(&store, index + 1, entry);
        dice.upkeep(&store);
    }
    let text: Vec<String> = sums(&store.reader()).iter().map(u64::to_string).collect();
    fs::write(path.with_extension(process::id().to_string()), text.join(" ")).unwrap();
}

#[test]
fn the_same_log_gives_the_same_checksums_in_other_processes() {
    let dir = memory_dir();
    for seed in (reference::Budget { histories: 5, steps: 120 }).seeds() {
        let (view, log) = reference::random_cell(seed, 120);
        let path = dir.path().join(format!("log-{seed}"));
        fs::write(&path, postcard::to_stdvec(&log).unwrap()).unwrap();
        let start = || {
            let mut command = process::Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "store::tests::crashes::another_process"]);
            command.env(LOG, &path).stdout(process::Stdio::null()).spawn().unwrap()
        };
        let expected: Vec<String> = sums(&view).iter().map(u64::to_string).collect();
        for mut other in [start(), start()] {
            assert!(other.wait().unwrap().success());
            let told = fs::read_to_string(path.with_extension(other.id().to_string())).unwrap();
            assert_eq!(told, expected.join(" "), "seed {seed}");
        }
    }
}
