//! What close() or fsync() promised holds after the hardest end.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use sitefs_base::{Random, SeededRandom};
use sitefs_tests::{Cell, Demo, SOON, can_mount, content, files_of_size, is_mounted, skipped, wait_for};
use std::{
    env,
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
    path::Path,
    time::Duration,
};

#[test]
fn kill_nine_after_close_or_fsync_loses_nothing() {
    if !can_mount() {
        return;
    }
    let mut demo = Demo::start();
    for size in [3, 5000, 100_000, 6 << 20] {
        fs::write(demo.path(&format!("closed-{size}")), content(size as u64, size)).unwrap();
    }
    let mut synced = File::create(demo.path("synced")).unwrap();
    synced.write_all(&content(7, 40_000)).unwrap();
    synced.sync_all().unwrap();
    demo.kill9();
    drop(synced);
    demo.start_again();
    for size in [3, 5000, 100_000, 6 << 20] {
        let found = fs::read(demo.path(&format!("closed-{size}"))).unwrap();
        assert!(found == content(size as u64, size), "{size}");
    }
    assert!(fs::read(demo.path("synced")).unwrap() == content(7, 40_000));
}

/// A file that the rounds below write: its number gives name, size and bytes.
fn file_of(number: u64) -> (String, Vec<u8>) {
    let sizes = [0, 10, 600, 9_000, 66_000, 300_000];
    let size = sizes[usize::try_from(number).unwrap() % sizes.len()];
    (format!("d{}/f{number}", number % 7), content(number, size))
}

/// Writes files until the file system is gone; gives the first number that was not acknowledged.
fn write_until_killed(root: &Path, first: u64) -> u64 {
    for number in first.. {
        let (name, bytes) = file_of(number);
        let path = root.join(name);
        let written = fs::create_dir_all(path.parent().unwrap()).and_then(|()| {
            let mut file = File::create(&path)?;
            file.write_all(&bytes)?;
            // close() alone tells no error to Rust; every other file is also synced.
            if number % 2 == 0 {
                file.sync_all()?
            }
            close_file(file)
        });
        if written.is_err() {
            return number;
        }
    }
    unreachable!("numbers do not end")
}

/// close() with its error, which a drop would hide.
fn close_file(file: File) -> std::io::Result<()> {
    use std::os::fd::IntoRawFd;
    #[allow(unsafe_code, reason = "the descriptor was just given to us and is closed once")]
    // SAFETY: nobody else owns the descriptor.
    let closed = unsafe { libc::close(file.into_raw_fd()) };
    if closed == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[test]
fn a_hundred_rounds_of_kill_nine_lose_no_acknowledged_file() {
    if !can_mount() {
        return;
    }
    let rounds = env::var("SITEFS_KILL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    let seed = env::var("SITEFS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    println!("SITEFS_SEED={seed}");
    let random = SeededRandom::new(seed);
    let mut demo = Demo::start();
    let (mut next, mut unsure) = (0, Vec::new());
    for round in 0..rounds {
        let root = demo.root().to_owned();
        let first = next;
        let writer = std::thread::spawn(move || write_until_killed(&root, first));
        let moment = Duration::from_millis(20 + random.next_u64() % 300);
        // The moment is the point of this test; nothing is waited for.
        std::thread::park_timeout(moment);
        demo.kill9();
        let failed = writer.join().unwrap();
        demo.start_again();
        for number in first..failed {
            expect_file(&demo, number, round);
        }
        unsure.push(failed);
        next = failed + 1;
    }
    for number in 0..next {
        if unsure.contains(&number) {
            expect_absent_or_whole(&demo, number);
        } else {
            expect_file(&demo, number, rounds);
        }
    }
    println!("{next} files in {rounds} rounds");
    assert!(next > rounds, "hardly anything was written");
}

fn expect_file(demo: &Demo, number: u64, round: u64) {
    let (name, bytes) = file_of(number);
    let found = fs::read(demo.path(&name)).unwrap_or_else(|error| panic!("round {round}, {name}: {error}"));
    assert!(found == bytes, "round {round}: {name} has {} bytes, not its {}", found.len(), bytes.len());
}

fn expect_absent_or_whole(demo: &Demo, number: u64) {
    let (name, bytes) = file_of(number);
    match fs::read(demo.path(&name)) {
        // A file that was open for a second is published empty before it has content.
        Ok(found) => assert!(found.is_empty() || found == bytes, "{name}: {} strange bytes", found.len()),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{name}"),
    }
}

/// Flips a byte in the middle.
fn damage(path: &Path) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap_or_else(|error| {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        OpenOptions::new().read(true).write(true).open(path).unwrap_or_else(|_| panic!("{error}"))
    });
    let at = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

#[test]
fn a_blob_damaged_in_the_store_is_an_error_never_wrong_bytes() {
    if !can_mount() {
        return;
    }
    let mut demo = Demo::start();
    let bytes = content(9, (1 << 20) + 5);
    fs::write(demo.path("victim"), &bytes).unwrap();
    fs::write(demo.path("other"), content(10, 1 << 20)).unwrap();
    assert_eq!(demo.stop(), 0);
    let stored = files_of_size(&demo.data().join("cell/blobs"), bytes.len() as u64);
    assert_eq!(stored.len(), 1, "{stored:?}");
    demo.is_damaged_on_purpose();
    damage(&stored[0]);
    fs::remove_dir_all(demo.data().join("cache")).unwrap();
    demo.start_again();
    let error = fs::read(demo.path("victim")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    let log = demo.process().log();
    assert!(log.contains("sha512") || log.contains("digest"), "the log does not name the digest:\n{log}");
    assert!(fs::read(demo.path("other")).unwrap() == content(10, 1 << 20));
}

#[test]
fn a_blob_damaged_or_lost_in_the_store_is_whole_again_once_its_content_is_written_again() {
    if !can_mount() {
        return;
    }
    let mut demo = Demo::start();
    // Large content, which is uploaded, and small content, which the cell drains.
    let sizes = [("damaged", (1 << 20) + 7), ("lost", (1 << 20) + 8), ("drained", 20_001)];
    let whole = |name: &str, len| content(name.len() as u64, len);
    for (name, len) in sizes {
        fs::write(demo.path(name), whole(name, len)).unwrap();
    }
    let blobs = demo.data().join("cell/blobs");
    let objects = |len: usize| files_of_size(&blobs, len as u64);
    wait_for("the small blob to be drained", SOON, || objects(20_001).len() == 1);
    assert_eq!(demo.stop(), 0);
    for (name, len) in sizes {
        let found = objects(len);
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        if name == "lost" { fs::remove_file(&found[0]).unwrap() } else { damage(&found[0]) }
    }
    fs::remove_dir_all(demo.data().join("cache")).unwrap();
    demo.start_again();
    for (name, len) in sizes {
        let error = fs::read(demo.path(name)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{name}");
        // Under another name: all files of this content are whole again.
        fs::write(demo.path("copy"), whole(name, len)).unwrap();
        assert!(fs::read(demo.path(name)).unwrap() == whole(name, len), "{name}");
    }
    wait_for("the small blob to be drained again", SOON, || objects(20_001).len() == 2);
    assert_eq!(demo.stop(), 0);
    fs::remove_dir_all(demo.data().join("cache")).unwrap();
    demo.start_again();
    for (name, len) in sizes {
        assert!(fs::read(demo.path(name)).unwrap() == whole(name, len), "{name} with an empty cache");
    }
}

#[test]
fn a_blob_damaged_in_the_cache_is_fetched_again() {
    if !can_mount() {
        return;
    }
    let mut demo = Demo::start();
    let bytes = content(11, (1 << 20) + 6);
    fs::write(demo.path("victim"), &bytes).unwrap();
    assert_eq!(demo.stop(), 0);
    demo.start_again();
    assert!(fs::read(demo.path("victim")).unwrap() == bytes);
    assert_eq!(demo.stop(), 0);
    let cached = files_of_size(&demo.data().join("cache"), bytes.len() as u64);
    assert!(!cached.is_empty(), "nothing is cached");
    cached.iter().for_each(|path| damage(path));
    demo.start_again();
    assert!(fs::read(demo.path("victim")).unwrap() == bytes, "wrong bytes from a damaged cache");
}

#[test]
fn an_orderly_end_leaves_no_mount_and_a_second_start_finds_the_data() {
    if !can_mount() {
        return;
    }
    let mut demo = Demo::start();
    fs::write(demo.path("kept"), "still here").unwrap();
    assert_eq!(demo.stop(), 0);
    assert!(!is_mounted(demo.root()));
    assert_eq!(fs::read_dir(demo.root()).unwrap().count(), 0);
    demo.start_again();
    assert_eq!(fs::read(demo.path("kept")).unwrap(), b"still here");
}

#[test]
fn a_mount_goes_on_when_its_cell_was_killed_and_started_again() {
    if !can_mount() {
        return;
    }
    let mut cell = Cell::start();
    let mount = cell.mount("acme/live");
    fs::write(mount.path("before"), "1").unwrap();
    cell.kill9();
    cell.start_again();
    wait_for("a write after the restart", SOON, || fs::write(mount.path("after"), "2").is_ok());
    assert_eq!(fs::read(mount.path("before")).unwrap(), b"1");
    assert_eq!(fs::read(mount.path("after")).unwrap(), b"2");
}

#[test]
fn a_killed_mount_starts_again_at_the_same_place() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mut mount = cell.mount("acme/live");
    fs::write(mount.path("kept"), content(3, 100_000)).unwrap();
    mount.kill9();
    assert!(fs::read(mount.path("kept")).is_err(), "the mount is dead");
    mount.start_again();
    assert!(fs::read(mount.path("kept")).unwrap() == content(3, 100_000));
    assert_eq!(mount.umount(), 0);
    assert!(!is_mounted(mount.root()));
}

#[test]
fn two_mounts_see_what_the_other_closed() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let (one, two) = (cell.mount("acme/live"), cell.mount("acme/live"));
    fs::write(one.path("shared"), content(1, 90_000)).unwrap();
    wait_for("the file on the other mount", SOON, || two.path("shared").exists());
    assert!(fs::read(two.path("shared")).unwrap() == content(1, 90_000));
    fs::write(two.path("shared"), "changed there").unwrap();
    wait_for("the change on the first mount", SOON, || {
        fs::read(one.path("shared")).is_ok_and(|found| found == b"changed there")
    });
    fs::remove_file(one.path("shared")).unwrap();
    wait_for("the removal on the other mount", SOON, || !two.path("shared").exists());
}

/// A small file system of its own for the data of a demo.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: std::path::PathBuf, bytes: u64) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        rustix::mount::mount("tmpfs", &at, "tmpfs", rustix::mount::MountFlags::empty(), options.as_c_str())
            .ok()
            .map(|()| Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_is_reported_and_damages_nothing() {
    if !can_mount() {
        return;
    }
    let (_dir, path) = sitefs_tests::scratch();
    let Some(disk) = SmallDisk::mount(path.join("disk"), 400 << 20) else {
        skipped("a small disk can only be mounted by root");
        return;
    };
    let mut demo = Demo::with_data(&disk.0.join("data"));
    let mut written = 0;
    let full = loop {
        let path = demo.path(&format!("f{written}"));
        let done = File::create(&path).and_then(|mut file| {
            file.write_all(&content(written, 3 << 20))?;
            file.sync_all()
        });
        match done {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 400, "a disk of 400 MiB took {written} files of 3 MiB");
    };
    let errno = full.raw_os_error();
    assert!([Some(libc::ENOSPC), Some(libc::EDQUOT), Some(libc::EIO)].contains(&errno), "{full}");
    assert!(written > 10, "only {written} files");
    let check = |demo: &Demo| {
        for number in 0..written {
            assert!(
                fs::read(demo.path(&format!("f{number}"))).unwrap() == content(number, 3 << 20),
                "f{number}"
            );
        }
    };
    check(&demo);
    demo.kill9();
    demo.start_again();
    check(&demo);
}
