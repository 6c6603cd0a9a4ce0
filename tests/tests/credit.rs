//! Quotas on mounts: write() says that a limit is reached, close() never does.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use sitefs_tests::{Cell, Mounted, SOON, Suite, can_mount, content, wait_for};
use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

const MIB: u64 = 1 << 20;

fn cell_with(volume: &str, limit: &str) -> Cell {
    let cell = Cell::start();
    cell.admin(&["volume", "create", volume, "--bytes-limit", limit]).ok();
    cell
}

/// close() with its error, which a drop would hide.
fn close(file: File) -> std::io::Result<()> {
    use std::os::fd::IntoRawFd;
    #[allow(unsafe_code, reason = "the descriptor was just given to us and is closed once")]
    // SAFETY: nobody else owns the descriptor.
    let closed = unsafe { libc::close(file.into_raw_fd()) };
    if closed == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// What the cell says that the volume uses.
fn used(cell: &Cell, volume: &str) -> u64 {
    let listed = cell.admin(&["volume", "list", "--json"]).ok().json();
    let all = listed.as_array().unwrap_or_else(|| panic!("{listed}"));
    let found = all.iter().find(|one| one["name"] == volume).unwrap_or_else(|| panic!("{listed}"));
    found["usage"]["bytes_used"].as_u64().unwrap_or_else(|| panic!("{found}"))
}

/// Writes pieces of a file's content until one is refused; how much was accepted.
fn fill(file: &mut File, seed: u64, pieces: usize) -> u64 {
    let bytes = content(seed, pieces);
    let mut accepted = 0;
    loop {
        match file.write(&bytes) {
            Ok(written) => accepted += written as u64,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::QuotaExceeded, "after {accepted} bytes: {error}");
                return accepted;
            }
        }
        assert!(accepted < 1 << 30, "the limit is not heeded");
    }
}

#[test]
fn write_says_that_the_limit_is_reached_and_close_does_not() {
    if !can_mount() {
        return;
    }
    let cell = cell_with("acme/small", "96MiB");
    let mount = cell.mount("acme/small");
    let mut file = File::create(mount.path("large")).unwrap();
    let accepted = fill(&mut file, 1, 1 << 20);
    assert!((95 * MIB..=96 * MIB).contains(&accepted), "{accepted}");
    close(file).unwrap();
    assert_eq!(fs::metadata(mount.path("large")).unwrap().len(), accepted);
    assert_eq!(used(&cell, "acme/small"), accepted);

    // What is there can be written over and made smaller, and then there is room again.
    let mut file = File::options().write(true).open(mount.path("large")).unwrap();
    file.write_all(&content(2, 3 << 20)).unwrap();
    close(file).unwrap();
    fs::remove_file(mount.path("large")).unwrap();
    fs::write(mount.path("next"), content(3, 5 << 20)).unwrap();
    assert!(fs::read(mount.path("next")).unwrap() == content(3, 5 << 20));
}

#[test]
fn create_says_that_there_are_too_many_files() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    cell.admin(&["volume", "create", "acme/few", "--inodes-limit", "21"]).ok();
    let mount = cell.mount("acme/few");
    for n in 0..10 {
        fs::write(mount.path(&format!("f{n}")), b"x").unwrap();
        fs::create_dir(mount.path(&format!("d{n}"))).unwrap();
    }
    let refused = |error: std::io::Error| assert_eq!(error.kind(), ErrorKind::QuotaExceeded, "{error}");
    refused(File::create(mount.path("more")).unwrap_err());
    refused(fs::create_dir(mount.path("more")).unwrap_err());
    refused(std::os::unix::fs::symlink("to", mount.path("more")).unwrap_err());
    fs::remove_file(mount.path("f3")).unwrap();
    fs::write(mount.path("more"), b"x").unwrap();
}

/// Creates files with close() until that fails; gives the numbers of those that were acknowledged.
fn write_files(root: &Path, mine: u64, stop: &AtomicBool) -> Vec<u64> {
    let mut acknowledged = Vec::new();
    for number in (mine..).step_by(2) {
        let written = File::create(root.join(format!("f{number}"))).and_then(|mut file| {
            let written = file.write_all(&bytes_of(number));
            close(file).expect("close says nothing of a quota");
            written
        });
        match written {
            Ok(()) => acknowledged.push(number),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::QuotaExceeded, "{error}");
                if stop.swap(true, Ordering::AcqRel) {
                    return acknowledged;
                }
            }
        }
    }
    unreachable!("numbers do not end")
}

fn bytes_of(number: u64) -> Vec<u8> {
    let sizes = [300, 20_000, 150_000, 700_000];
    content(number, sizes[usize::try_from(number).unwrap() / 2 % sizes.len()])
}

#[test]
fn two_mounts_fill_one_volume_and_lose_nothing() {
    if !can_mount() {
        return;
    }
    let cell = cell_with("acme/shared", "24MiB");
    let mounts = [cell.mount("acme/shared"), cell.mount("acme/shared")];
    let stop = AtomicBool::new(false);
    let acknowledged: Vec<u64> = std::thread::scope(|scope| {
        let stop = &stop;
        let write = |(mine, mount): (usize, &Mounted)| {
            let root = mount.root().to_owned();
            scope.spawn(move || write_files(&root, mine as u64, stop))
        };
        let writers: Vec<_> = mounts.iter().enumerate().map(write).collect();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    let total: usize = acknowledged.iter().map(|number| bytes_of(*number).len()).sum();
    let used = used(&cell, "acme/shared");
    assert!(used <= 24 * MIB && used >= total as u64, "{used} used, {total} acknowledged");
    assert!(total as u64 > 20 * MIB, "only {total} bytes fitted in");
    for mount in &mounts {
        for number in &acknowledged {
            let found = fs::read(mount.path(&format!("f{number}"))).unwrap();
            assert!(found == bytes_of(*number), "f{number}");
        }
    }
}

#[test]
fn what_was_written_before_the_cell_died_is_committed_although_the_volume_is_full_by_then() {
    if !can_mount() {
        return;
    }
    let mut cell = cell_with("acme/full", "24MiB");
    let one = cell.mount("acme/full");
    let bytes = content(5, 10 << 20);
    let mut file = File::create(one.path("before")).unwrap();
    file.write_all(&bytes).unwrap();
    cell.kill9();
    cell.start_again();
    is_back(&one);
    let two = cell.mount("acme/full");
    let mut other = File::create(two.path("other")).unwrap();
    let filled = fill(&mut other, 6, 1 << 16);
    assert!(filled > 10 * MIB, "{filled} of the 14 MiB that nobody uses");
    close(other).unwrap();
    close(file).unwrap();
    assert!(fs::read(one.path("before")).unwrap() == bytes);
    wait_for("the file on the other mount", SOON, || {
        fs::metadata(two.path("before")).is_ok_and(|found| found.len() == bytes.len() as u64)
    });
    let used = used(&cell, "acme/full");
    assert_eq!(used, filled + bytes.len() as u64);
    let too_much = content(7, usize::try_from(24 * MIB - used).unwrap() + (1 << 20));
    assert_eq!(fs::write(two.path("more"), too_much).unwrap_err().kind(), ErrorKind::QuotaExceeded);
}

/// Waits until a mount has found its cell again. A question changes nothing of what it has in use.
fn is_back(mount: &Mounted) {
    let mut asked = 0;
    wait_for("the mount to attach again", SOON, || {
        asked += 1;
        let nothing = fs::metadata(mount.path(&format!("nothing-{asked}")));
        nothing.is_err_and(|error| error.kind() == ErrorKind::NotFound)
    });
}

#[test]
fn what_idle_mounts_hold_and_do_not_use_can_be_written_by_another_although_the_cell_restarted() {
    if !can_mount() {
        return;
    }
    let mut cell = cell_with("acme/idle", "96MiB");
    let idle = [cell.mount("acme/idle"), cell.mount("acme/idle")];
    fs::write(idle[1].path("small"), b"x").unwrap();
    cell.kill9();
    cell.start_again();
    idle.iter().for_each(is_back);

    // By now they hold all there is, and say nothing but each second.
    let writer = cell.mount("acme/idle");
    let mut file = File::create(writer.path("large")).unwrap();
    let accepted = fill(&mut file, 8, 1 << 20);
    assert!((92 * MIB..=96 * MIB).contains(&accepted), "{accepted}");
    for (number, mount) in idle.iter().chain([&writer]).enumerate() {
        let refused = fs::write(mount.path(&format!("more-{number}")), content(9, 5 << 20)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::QuotaExceeded, "{refused}");
    }
    close(file).unwrap();
    assert!(used(&cell, "acme/idle") <= 96 * MIB);

    fs::remove_file(writer.path("large")).unwrap();
    fs::write(idle[0].path("next"), content(9, 60 << 20)).unwrap();
    assert!(fs::read(writer.path("next")).unwrap() == content(9, 60 << 20));
}

#[test]
fn a_full_volume_passes_the_suite() {
    if !can_mount() {
        return;
    }
    let cell = cell_with("acme/suite", "200000000");
    let mount = cell.mount("acme/suite");
    Suite::new("enospc.py", mount.root()).expect(&[]);
}
