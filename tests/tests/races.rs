//! Things that programs do at the same time. Each of these once lost, hid or invented bytes.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use rustix::fs::{AtFlags, CWD, SeekFrom, StatxFlags, seek, statx};
use sitefs_tests::{Cell, Demo, can_mount, content, run, wait_for};
use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

const SOON: Duration = Duration::from_secs(20);

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn the_size_never_goes_back_while_a_file_is_synced() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let path = demo.path("growing");
    fs::write(&path, content(1, 1000)).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    let (written, stop) = (AtomicU64::new(1000), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                let least = written.load(Ordering::Acquire);
                assert!(fs::metadata(&path).unwrap().len() >= least);
            }
        });
        for round in 1..=100 {
            file.write_all_at(&[b'y'; 1000], round * 1000).unwrap();
            written.store((round + 1) * 1000, Ordering::Release);
            file.sync_all().unwrap();
        }
        stop.store(true, Ordering::Release);
    });
    assert_eq!((fs::metadata(&path).unwrap().len(), fs::read(&path).unwrap().len()), (101_000, 101_000));
}

/// The size that the kernel has from the last answer, whatever that answered.
fn size_as_last_told(path: &Path) -> u64 {
    statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::SIZE).unwrap().stx_size
}

#[test]
fn the_size_never_goes_back_in_lookups_and_listings_while_a_file_is_synced() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    fs::create_dir(demo.path("dir")).unwrap();
    let path = demo.path("dir/growing");
    fs::write(&path, content(1, 1000)).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    let (written, stop) = (AtomicU64::new(1000), AtomicBool::new(false));
    let watch = |list: bool| {
        while !stop.load(Ordering::Acquire) {
            let least = written.load(Ordering::Acquire);
            if list {
                assert_eq!(names(&demo.path("dir")).len(), 1);
            }
            // While a change waits for its commit the name is looked up each time.
            let found = size_as_last_told(&path);
            assert!(found >= least, "{found} bytes after {least} were written");
        }
    };
    thread::scope(|scope| {
        for list in [false, false, true] {
            scope.spawn(move || watch(list));
        }
        for round in 1..=300 {
            file.write_all_at(&[b'y'; 1000], round * 1000).unwrap();
            written.store((round + 1) * 1000, Ordering::Release);
            file.sync_all().unwrap();
        }
        stop.store(true, Ordering::Release);
    });
    assert_eq!(fs::metadata(&path).unwrap().len(), 301_000);
}

#[test]
fn listing_a_directory_does_not_touch_what_is_mapped_from_it() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    fs::create_dir(demo.path("dir")).unwrap();
    let path = demo.path("dir/mapped");
    fs::write(&path, vec![b'a'; 200_000]).unwrap();
    assert_eq!(names(&demo.path("dir")).len(), 1);
    let program = "import mmap, os, subprocess, sys\n\
        fd = os.open(sys.argv[1], os.O_RDWR); m = mmap.mmap(fd, 200000)\n\
        m[0:4] = b'BBBB'; m.flush(); os.fsync(fd)\n\
        m[0:4] = b'CCCC'; m[100000:100004] = b'DDDD'\n\
        subprocess.run(['ls', '-l', os.path.dirname(sys.argv[1])], check=True)\n\
        assert m[0:4] == b'CCCC'";
    let mut python = Command::new("python3");
    python.args(["-c", program]).arg(&path);
    run(python, Duration::from_secs(60)).ok();
    let found = fs::read(&path).unwrap();
    assert_eq!((found.len(), &found[..4], &found[100_000..100_004]), (200_000, &b"CCCC"[..], &b"DDDD"[..]));
}

#[test]
fn a_listing_shows_every_file_that_exists_throughout() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let dir = demo.path("busy");
    fs::create_dir(&dir).unwrap();
    let (there, stop) = (Mutex::new(BTreeSet::new()), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    let before: BTreeSet<String> = there.lock().unwrap().clone();
                    let listed = names(&dir);
                    assert!(before.is_subset(&listed), "missing: {:?}", before.difference(&listed));
                }
            });
        }
        for number in 0..300 {
            let name = format!("file-{number}");
            let file = File::create(dir.join(&name)).unwrap();
            there.lock().unwrap().insert(name);
            file.write_all_at(b"x", 0).unwrap();
        }
        stop.store(true, Ordering::Release);
    });
    assert_eq!(names(&dir).len(), 300);
}

#[test]
fn what_was_cut_off_during_a_commit_does_not_come_back() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let (path, chunk) = (demo.path("cut"), 4u64 << 20);
    fs::write(&path, vec![b'A'; usize::try_from(8 * chunk).unwrap()]).unwrap();
    let first = File::options().read(true).write(true).open(&path).unwrap();
    for number in 2..8 {
        first.write_all_at(&content(number, usize::try_from(chunk).unwrap()), number * chunk).unwrap();
    }
    thread::scope(|scope| {
        let syncing = scope.spawn(|| first.sync_all());
        let second = OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
        second.write_all_at(b"tail", 8 * chunk - 4).unwrap();
        syncing.join().unwrap().unwrap();
    });
    drop(first);
    wait_for("the last commit", SOON, || fs::read(&path).is_ok_and(|found| found.ends_with(b"tail")));
    let found = fs::read(&path).unwrap();
    assert!(found[..found.len() - 4].iter().all(|byte| *byte == 0), "old bytes in a hole");
}

#[test]
fn data_of_an_unlinked_open_file_is_found_by_seeking() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let file = File::options().read(true).write(true).create_new(true).open(demo.path("gone")).unwrap();
    fs::remove_file(demo.path("gone")).unwrap();
    file.write_all_at(&content(1, 5000), 0).unwrap();
    assert_eq!(seek(&file, SeekFrom::Data(0)), Ok(0));
    assert_eq!(seek(&file, SeekFrom::Hole(0)), Ok(5000));
}

#[test]
fn truncating_an_open_file_shows_elsewhere_when_it_is_closed() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let (one, two) = (cell.mount("acme/live"), cell.mount("acme/live"));
    fs::write(one.path("settings"), content(1, 3000)).unwrap();
    wait_for("the file on the other mount", SOON, || two.path("settings").exists());
    let file = File::options().write(true).open(one.path("settings")).unwrap();
    file.set_len(0).unwrap();
    assert!(fs::read(two.path("settings")).unwrap() == content(1, 3000), "half a change is visible");
    file.write_all_at(b"new", 0).unwrap();
    drop(file);
    wait_for("the new content", SOON, || fs::read(two.path("settings")).is_ok_and(|found| found == b"new"));
}

#[test]
fn a_replaced_version_stays_readable_where_it_is_open() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let (one, two) = (cell.mount("acme/live"), cell.mount("acme/live"));
    fs::write(one.path("old"), content(1, 9 << 20)).unwrap();
    wait_for("the file on the other mount", SOON, || two.path("old").exists());
    let open = File::open(two.path("old")).unwrap();
    fs::remove_file(two.path("old")).unwrap();
    let mut found = vec![0; 9 << 20];
    open.read_exact_at(&mut found, 0).unwrap();
    assert!(found == content(1, 9 << 20));
}

#[test]
fn an_open_log_is_committed_every_second() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let (one, two) = (cell.mount("acme/live"), cell.mount("acme/live"));
    let mut log = OpenOptions::new().append(true).create(true).open(one.path("log")).unwrap();
    std::io::Write::write_all(&mut log, b"a line\n").unwrap();
    wait_for("the line on the other mount", SOON, || {
        fs::read(two.path("log")).is_ok_and(|found| found == b"a line\n")
    });
}
