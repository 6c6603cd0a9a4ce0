//! Logs that several mounts write, copies by reference and holes, on real mounts.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use rustix::fs::{FallocateFlags, fallocate};
use sitefs_tests::{Cell, Demo, Mounted, can_mount, content, run, wait_for};
use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Stdio},
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

/// The same for a program that also reads it, and could map it.
fn read_log(path: &Path) -> File {
    OpenOptions::new().read(true).append(true).create(true).open(path).unwrap()
}

/// Appends from every mount at once, in turn by one open handle and by an open per line.
fn all_append(mounts: &[Mounted], lines: usize, log: fn(&Path) -> File) {
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

/// truncate(2): by another handle than those that are open.
fn set_len(path: &Path, size: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(size).unwrap();
}

#[test]
fn two_mounts_append_to_one_log_and_lose_no_line() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mounts = [cell.mount("acme/live"), cell.mount("acme/live")];
    all_append(&mounts, 200, log);
    check_lines(&mounts, 200);
}

#[test]
fn four_mounts_append_to_one_log_and_lose_no_line() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mounts: Vec<_> = (0..4).map(|_| cell.mount("acme/live")).collect();
    all_append(&mounts, 150, log);
    check_lines(&mounts, 150);
}

#[test]
fn mounts_that_create_one_log_to_read_and_append_lose_no_line() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mounts: Vec<_> = (0..3).map(|_| cell.mount("acme/live")).collect();
    all_append(&mounts, 100, read_log);
    check_lines(&mounts, 100);
}

#[test]
fn an_append_beside_a_handle_that_writes_nothing_loses_no_line_of_others() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mounts = [cell.mount("acme/live"), cell.mount("acme/live")];
    drop(log(&mounts[0].path("error.log")));
    let writer = OpenOptions::new().write(true).open(mounts[0].path("error.log")).unwrap();
    all_append(&mounts, 100, log);
    check_lines(&mounts, 100);
    drop(writer);
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

/// Mounts whose closes and syncs wait a second for the cell.
const FAST: &[&str] = &["--close-deadline", "1"];

#[test]
fn what_the_cell_does_not_answer_is_reported_until_it_is_there_and_there_once() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let (mount, other) = (cell.mount_with("acme/live", FAST), cell.mount("acme/live"));
    let path = mount.path("log");
    let mut file = log(&path);
    file.write_all(b"one\n").unwrap();
    file.sync_all().unwrap();
    cell.freeze();
    file.write_all(b"two\n").unwrap();
    for attempt in 0..2 {
        assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO), "attempt {attempt}");
    }
    file.write_all(b"three\n").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\nthree\n", "it is shown where it was written");
    cell.thaw();
    wait_for("the cell's answer", SOON, || file.sync_all().is_ok());
    assert_eq!(fs::read(other.path("log")).unwrap(), b"one\ntwo\nthree\n");
}

#[test]
fn a_log_that_lost_its_name_goes_on() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mounts = [cell.mount("acme/live"), cell.mount("acme/live")];
    // Who removes it, and whether what was appended before is at the cell by then.
    for (remover, synced, replaced) in
        [(0, false, false), (0, true, false), (0, false, true), (1, true, false), (1, false, true)]
    {
        let path = mounts[0].path("log");
        fs::write(&path, content(3, 70_000)).unwrap();
        let (mut file, reader) = (log(&path), File::open(&path).unwrap());
        file.write_all(b"one\n").unwrap();
        if synced {
            file.sync_all().unwrap();
        }
        if replaced {
            fs::write(mounts[remover].path("new"), "new").unwrap();
            fs::rename(mounts[remover].path("new"), mounts[remover].path("log")).unwrap();
        } else {
            fs::remove_file(mounts[remover].path("log")).unwrap();
        }
        file.write_all(b"two\n").unwrap();
        file.set_len(70_006).unwrap();
        file.write_all(b"three\n").unwrap();
        file.sync_all().unwrap();
        let mut expected = content(3, 70_000);
        expected.extend_from_slice(b"one\ntwthree\n");
        assert_eq!(file.metadata().unwrap().len(), expected.len() as u64);
        let mut found = vec![0; expected.len() + 1];
        let len = reader.read_at(&mut found, 0).unwrap();
        assert!(found[..len] == expected, "{remover} {synced} {replaced}: {len} bytes");
        drop(fs::remove_file(&path));
    }
}

/// A program that appends two lines, of which it syncs the first, and then syncs for each line that it
/// reads. The test itself cannot be that program: whoever starts another program closes the copy of the
/// descriptor that this one had, and that commits.
const APPENDER: &str = "import os, sys\n\
    f = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_APPEND)\n\
    os.write(f, b'one\\n'); os.fsync(f); os.write(f, b'two\\n'); print('ready', flush=True)\n\
    for _ in sys.stdin:\n\
    \x20   try: os.fsync(f); print('synced', flush=True)\n\
    \x20   except OSError as error: print(error.errno, flush=True)\n";

#[test]
fn what_the_cell_refuses_to_append_keeps_nobody_from_reading() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mount = cell.mount("acme/live");
    let path = mount.path("log");
    let mut appender = Command::new("python3");
    appender.args(["-c", APPENDER]).arg(&path).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut appender = appender.spawn().unwrap();
    let mut said = BufReader::new(appender.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    let mut orders = appender.stdin.take().unwrap();
    assert_eq!(said.next().unwrap(), "ready");
    let mut sync = || {
        orders.write_all(b"sync\n").unwrap();
        said.next().unwrap()
    };
    cell.admin(&["volume", "set", "acme/live", "--read-only", "moving"]).ok();
    assert_eq!(sync(), libc::EROFS.to_string(), "it is not at the cell");
    assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    assert_eq!(sync(), libc::EROFS.to_string(), "and still is not");
    cell.admin(&["volume", "set", "acme/live", "--read-write"]).ok();
    wait_for("the append", SOON, || sync() == "synced");
    assert_eq!(fs::read_to_string(cell.mount("acme/live").path("log")).unwrap(), "one\ntwo\n");
    drop(orders);
    appender.wait().unwrap();
}

#[test]
fn an_append_beyond_the_largest_file_leaves_nothing_behind() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let path = demo.path("log");
    File::create(&path).unwrap();
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    let size = (16 << 40) - 2;
    set_len(&path, size);
    assert_eq!(file.write_all(b"abc").unwrap_err().raw_os_error(), Some(libc::EFBIG));
    file.sync_all().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), size);
    let mut end = [9; 4];
    assert_eq!(File::open(&path).unwrap().read_at(&mut end, size - 1).unwrap(), 1);
    set_len(&path, 0);
    file.write_all(b"abc").unwrap();
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), b"abc");
}

#[test]
fn large_appends_of_two_mounts_are_not_torn() {
    const LEN: usize = 60_000;
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mounts = [cell.mount("acme/live"), cell.mount("acme/live")];
    drop(log(&mounts[0].path("log")));
    thread::scope(|scope| {
        for (number, mount) in mounts.iter().enumerate() {
            scope.spawn(move || {
                let mut file = log(&mount.path("log"));
                for n in 0..40 {
                    let byte = u8::try_from(number * 100 + n).unwrap();
                    file.write_all(&vec![byte; LEN]).unwrap();
                }
            });
        }
    });
    let path = mounts[0].path("log");
    wait_for("all bytes", SOON, || fs::metadata(&path).unwrap().len() == 80 * LEN as u64);
    let bytes = fs::read(&path).unwrap();
    let torn = bytes.chunks(LEN).filter(|part| part.iter().any(|byte| *byte != part[0])).count();
    assert_eq!(torn, 0, "writes that another one stands in");
}

#[test]
fn an_append_takes_the_capabilities_of_a_program() {
    const CAPABILITY: &[u8] = &[0, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    if !can_mount() || !rustix::process::geteuid().is_root() {
        return;
    }
    let demo = Demo::start();
    let path = demo.path("program");
    fs::write(&path, "one").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&path, "security.capability", CAPABILITY, flags).unwrap();
    let mut value = [0; 64];
    let mut get = || rustix::fs::getxattr(&path, "security.capability", &mut value[..]);
    assert_eq!(get(), Ok(CAPABILITY.len()));
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"two").unwrap();
    assert_eq!(get(), Err(rustix::io::Errno::NODATA));
}
