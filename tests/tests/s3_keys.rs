//! The keys to the bucket: the server's alone, read again when they change; and clocks that differ.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use sitefs_tests::{Cell, FaultyStore, SOON, can_mount, content, scratch, sitefs, wait_for};
use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::Path,
};

const LARGE: usize = 3 << 20;
const SECRET: &str = "Never-In-A-Mount-8d1f";

fn cell_on(store: &FaultyStore, env: &[(&str, &str)]) -> Cell {
    Cell::with(&["--s3-endpoint", &store.endpoint(), "--bucket", "sites"], env)
}

/// Whether a process has `text` in memory that it can write to, its arguments or its environment.
fn has_in_memory(pid: u32, text: &str) -> bool {
    let place = |name: &str| format!("/proc/{pid}/{name}");
    let has = |bytes: &[u8]| bytes.windows(text.len()).any(|part| part == text.as_bytes());
    if ["environ", "cmdline"].iter().any(|name| has(&fs::read(place(name)).unwrap())) {
        return true;
    }
    let mut memory = File::open(place("mem")).unwrap();
    for line in fs::read_to_string(place("maps")).unwrap().lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        let (from, to) = range.split_once('-').unwrap();
        let number = |hex: &str| u64::from_str_radix(hex, 16).unwrap();
        let (from, len) = (number(from), number(to) - number(from));
        if !rights.starts_with("rw") || len > 1 << 28 {
            continue;
        }
        let mut bytes = Vec::new();
        // Some of it may be gone by now.
        let _ =
            memory.seek(SeekFrom::Start(from)).and_then(|_| (&mut memory).take(len).read_to_end(&mut bytes));
        if has(&bytes) {
            return true;
        }
    }
    false
}

#[test]
fn a_mount_never_has_the_keys_of_the_store() {
    if !can_mount() {
        return;
    }
    let store = FaultyStore::in_memory();
    let keys = [("AWS_ACCESS_KEY_ID", "somebody"), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    let cell = cell_on(&store, &keys);
    let (writer, reader) = (cell.mount("acme/live"), cell.mount("acme/live"));
    fs::write(writer.path("file"), content(1, LARGE)).unwrap();
    assert!(fs::read(reader.path("file")).unwrap() == content(1, LARGE));
    assert!(has_in_memory(cell.process().pid(), SECRET), "looking finds it where it is");
    for mount in [&writer, &reader] {
        assert!(!has_in_memory(mount.pid(), SECRET));
    }
}

fn write_keys(path: &Path, id: &str) {
    let new = path.with_extension("new");
    fs::write(&new, format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = x\n")).unwrap();
    fs::rename(new, path).unwrap();
}

#[test]
fn the_keys_of_the_store_are_read_again_when_their_file_changes() {
    if !can_mount() {
        return;
    }
    let (_dir, dir) = scratch();
    let file = dir.join("credentials");
    write_keys(&file, "first");
    let store = FaultyStore::in_memory();
    let path = file.display().to_string();
    // An empty variable counts as none.
    let env =
        [("AWS_SHARED_CREDENTIALS_FILE", path.as_str()), ("AWS_ACCESS_KEY_ID", ""), ("AWS_PROFILE", "")];
    let cell = cell_on(&store, &env);
    let mount = cell.mount("acme/live");
    let drains_with = |number: u64, id: &str| {
        let before = store.requests(Some("PUT"));
        fs::write(mount.path(&format!("small{number}")), content(number, 20_000)).unwrap();
        wait_for("a hot blob in the store", SOON, || store.requests(Some("PUT")) > before);
        assert_eq!(store.last_key(), id);
        // Grants have the same keys.
        fs::write(mount.path(&format!("large{number}")), content(number, LARGE)).unwrap();
        assert_eq!(store.last_key(), id);
    };
    drains_with(1, "first");
    write_keys(&file, "second");
    drains_with(2, "second");
    fs::remove_file(&file).unwrap();
    drains_with(3, "second");
}

#[test]
fn a_store_whose_clock_is_an_hour_off_is_written_and_read() {
    if !can_mount() {
        return;
    }
    let store = FaultyStore::in_memory();
    store.set_clock_ahead(3600);
    let keys = [("AWS_ACCESS_KEY_ID", "somebody"), ("AWS_SECRET_ACCESS_KEY", "secret")];
    let cell = cell_on(&store, &keys);
    let write_and_read = |number: u64| {
        let writer = cell.mount("acme/live");
        let (large, small) = (format!("large{number}"), format!("small{number}"));
        fs::write(writer.path(&large), content(number, LARGE)).unwrap();
        fs::write(writer.path(&small), content(number, 20_000)).unwrap();
        let reader = cell.mount("acme/live");
        assert!(fs::read(reader.path(&large)).unwrap() == content(number, LARGE));
        assert!(fs::read(reader.path(&small)).unwrap() == content(number, 20_000));
        let journal = sitefs(&["journal", "list", "--json", writer.cache().to_str().unwrap()]).ok().json();
        assert_eq!(journal.as_array().unwrap().len(), 0, "{journal}");
    };
    write_and_read(1);
    // It is set, wrong in another way, while everything runs.
    store.set_clock_ahead(-3600);
    write_and_read(2);
}
