//! Logs that several mounts write, copies by reference and holes, on real mounts.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use rustix::fs::{FallocateFlags, fallocate};
use sitefs_tests::{Cell, Demo, Mounted, can_mount, content, run, wait_for};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

const SOON: Duration = Duration::from_secs(20);

fn line(mount: usize, n: usize) -> String {
    format!("mount {mount} line {n} {}\n", "x".repeat(40 + n % 150))
}

fn log(path: &Path) -> File {
    OpenOptions::new().append(true).create(true).open(path).unwrap()
}

/// Appends from every mount at once, in turn by one open handle and by an open per line.
fn all_append(mounts: &[Mounted], lines: usize) {
    thread::scope(|scope| {
        for (number, mount) in mounts.iter().enumerate() {
            scope.spawn(move || {
                let path = mount.path("error.log");
                let mut open = log(&path);
                for n in 0..lines {
                    let text = line(number, n);
                    if n % 4 == 0 {
                        log(&path).write_all(text.as_bytes()).unwrap();
                    } else {
                        open.write_all(text.as_bytes()).unwrap();
                    }
                    if n % 16 == 0 {
                        open.sync_all().unwrap();
                    }
                }
            });
        }
    });
}

fn check_lines(mounts: &[Mounted], lines: usize) {
    let mut expected: Vec<String> =
        (0..mounts.len()).flat_map(|number| (0..lines).map(move |n| line(number, n))).collect();
    expected.sort();
    let len = expected.iter().map(|line| line.len() as u64).sum::<u64>();
    for mount in mounts {
        let path = mount.path("error.log");
        wait_for("the whole log", SOON, || fs::metadata(&path).unwrap().len() == len);
        let text = fs::read_to_string(&path).unwrap();
        let mut found: Vec<String> = text.lines().map(|line| format!("{line}\n")).collect();
        found.sort();
        assert!(found == expected, "{} of {} lines", found.len(), expected.len());
    }
}

#[test]
fn two_mounts_append_to_one_log_and_lose_no_line() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mounts = [cell.mount("acme/live"), cell.mount("acme/live")];
    all_append(&mounts, 200);
    check_lines(&mounts, 200);
}

#[test]
fn four_mounts_append_to_one_log_and_lose_no_line() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mounts: Vec<_> = (0..4).map(|_| cell.mount("acme/live")).collect();
    all_append(&mounts, 150);
    check_lines(&mounts, 150);
}

#[test]
fn what_was_appended_is_read_at_once_by_the_mount_that_did_it() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let path = demo.path("log");
    let (mut writer, mut text) = (log(&path), String::new());
    let mut reader = File::open(&path).unwrap();
    for n in 0..60 {
        writer.write_all(line(0, n).as_bytes()).unwrap();
        text.push_str(&line(0, n));
        assert_eq!(fs::metadata(&path).unwrap().len(), text.len() as u64);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        let mut whole = String::new();
        reader.seek(SeekFrom::Start(0)).unwrap();
        reader.read_to_string(&mut whole).unwrap();
        assert!(whole == text, "an open handle sees line {n}");
    }
}

#[test]
fn an_append_handle_gives_way_to_a_handle_that_writes_anywhere() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let path = demo.path("log");
    let mut appends = log(&path);
    appends.write_all(b"one\n").unwrap();
    let writes = OpenOptions::new().write(true).open(&path).unwrap();
    writes.write_all_at(b"ONE", 0).unwrap();
    appends.write_all(b"two\n").unwrap();
    drop(writes);
    appends.write_all(b"three\n").unwrap();
    appends.set_len(8).unwrap();
    appends.write_all(b"four\n").unwrap();
    drop(appends);
    assert_eq!(fs::read(&path).unwrap(), b"ONE\ntwo\nfour\n");
}

fn blobs(dir: &Path) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries.flatten().map(|entry| if entry.path().is_dir() { blobs(&entry.path()) } else { 1 }).sum()
}

#[test]
fn a_copy_by_cp_stores_no_new_blob() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let bytes = content(5, 20 << 20);
    fs::write(demo.path("from"), &bytes).unwrap();
    let stored = || blobs(&demo.data().join("cell/blobs/b")) + blobs(&demo.data().join("blobs/b"));
    let before = stored();
    assert!(before >= 5, "{before} blobs");
    let mut cp = Command::new("cp");
    cp.args(["--reflink=auto"]).arg(demo.path("from")).arg(demo.path("to"));
    run(cp, SOON).ok();
    assert!(fs::read(demo.path("to")).unwrap() == bytes);
    let to = OpenOptions::new().read(true).write(true).open(demo.path("to")).unwrap();
    to.write_all_at(b"changed", 100).unwrap();
    drop(to);
    assert!(fs::read(demo.path("from")).unwrap() == bytes, "the source stays as it was");
    assert_eq!(fs::read(demo.path("to")).unwrap()[100..107], *b"changed");
    assert!(stored() <= before + 1, "{} blobs after {before}", stored());
}

#[test]
fn copies_of_ranges_are_exact() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let (from, to) = (content(6, (9 << 20) + 77), content(7, (6 << 20) + 5));
    fs::write(demo.path("from"), &from).unwrap();
    fs::write(demo.path("to"), &to).unwrap();
    let source = File::open(demo.path("from")).unwrap();
    let target = OpenOptions::new().read(true).write(true).open(demo.path("to")).unwrap();
    let (mut read_at, mut write_at, mut left) = ((1 << 20) + 13, (3 << 20) + 1, 5 << 20);
    let mut expected = to;
    expected.resize(expected.len().max(write_at + left), 0);
    expected[write_at..write_at + left].copy_from_slice(&from[read_at..read_at + left]);
    while left > 0 {
        let (mut off_in, mut off_out) = (read_at as u64, write_at as u64);
        let copied =
            rustix::fs::copy_file_range(&source, Some(&mut off_in), &target, Some(&mut off_out), left)
                .unwrap();
        assert!(copied > 0);
        (read_at, write_at, left) = (read_at + copied, write_at + copied, left - copied);
    }
    let mut found = vec![0; expected.len()];
    target.read_exact_at(&mut found, 0).unwrap();
    assert!(found == expected, "the open target shows the copy");
    assert!(fs::read(demo.path("to")).unwrap() == expected);
}

#[test]
fn a_hole_in_a_large_file_reads_as_zeros_and_takes_no_room() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let mut expected = content(8, (13 << 20) + 3);
    fs::write(demo.path("f"), &expected).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(demo.path("f")).unwrap();
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let (offset, len) = ((3 << 20) + 11, 6 << 20);
    fallocate(&file, flags, offset as u64, len as u64).unwrap();
    expected[offset..offset + len].fill(0);
    let mut found = vec![0; expected.len()];
    file.read_exact_at(&mut found, 0).unwrap();
    assert!(found == expected);
    drop(file);
    assert!(fs::read(demo.path("f")).unwrap() == expected);
    let meta = fs::metadata(demo.path("f")).unwrap();
    let room = std::os::unix::fs::MetadataExt::blocks(&meta) * 512;
    assert!(room < (8 << 20), "{room} bytes of room");
}
