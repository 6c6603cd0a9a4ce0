//! Files that the kernel reads by itself (passthrough): what programs see is what they see without it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use serde_json::Value;
use sitefs_tests::{Cell, Demo, Mounted, can_mount, content, is_mounted, run, sitefs, skipped, wait_for};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt, PermissionsExt},
    },
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(30);
const SIZE: usize = 300_000;
const ON: &[&str] = &["--passthrough"];

fn passthrough(root: &Path) -> Value {
    sitefs(&["status".as_ref(), "--json".as_ref(), root.as_os_str()]).ok().json()["passthrough"].clone()
}

fn opens(root: &Path) -> u64 {
    passthrough(root)["opens"].as_u64().unwrap()
}

/// Whether mounts of this machine have passthrough at all.
fn is_on(root: &Path) -> bool {
    passthrough(root)["on"].as_bool().unwrap() || skipped("this kernel, or this user, has no passthrough")
}

fn demo() -> Option<Demo> {
    if !can_mount() {
        return None;
    }
    let demo = Demo::with(ON, &[]);
    is_on(demo.root()).then_some(demo)
}

fn two_mounts() -> Option<(Cell, Mounted, Mounted)> {
    if !can_mount() {
        return None;
    }
    let cell = Cell::start();
    let (one, two) = (cell.mount_with("acme/live", ON), cell.mount_with("acme/live", ON));
    is_on(one.root()).then_some((cell, one, two))
}

/// Opens a file for reading, again and again until the kernel reads it by itself: its blob has to be in the cache.
fn open_passed(root: &Path, path: &Path) -> File {
    let mut opened = None;
    wait_for("an open in passthrough", SOON, || {
        fs::read(path).unwrap();
        let before = opens(root);
        let file = File::open(path).unwrap();
        let is_passed = opens(root) > before;
        opened = is_passed.then_some(file);
        is_passed
    });
    opened.unwrap()
}

fn all(file: &File) -> Vec<u8> {
    let (mut file, mut bytes) = (file, Vec::new());
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// truncate(2): without a handle.
fn set_len(path: &Path, size: u64) {
    let mut truncate = Command::new("python3");
    truncate.args(["-c", "import os, sys; os.truncate(sys.argv[1], int(sys.argv[2]))"]);
    truncate.arg(path).arg(size.to_string());
    run(truncate, SOON).ok();
}

/// A shared mapping of a whole file, for reading.
struct Mapped {
    at: *mut libc::c_void,
    len: usize,
}

impl Mapped {
    #[allow(unsafe_code, reason = "mmap")]
    fn of(file: &File, len: usize) -> Self {
        // SAFETY: a new mapping, of which only this value knows.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        assert_ne!(at, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Self { at, len }
    }

    /// The byte at `offset`, as it is now.
    #[allow(unsafe_code, reason = "others change what is mapped")]
    fn byte(&self, offset: usize) -> u8 {
        assert!(offset < self.len);
        // SAFETY: within the mapping, which lives as long as this value.
        unsafe { self.at.cast::<u8>().add(offset).read_volatile() }
    }
}

impl Drop for Mapped {
    #[allow(unsafe_code, reason = "munmap")]
    fn drop(&mut self) {
        // SAFETY: made by `of`, and not used any more.
        assert_eq!(unsafe { libc::munmap(self.at, self.len) }, 0);
    }
}

#[test]
fn files_of_one_blob_are_passed_through_and_others_are_not() {
    let Some(demo) = demo() else { return };
    let sizes =
        [(0, false), (512, false), (513, true), (70_000, true), (4 << 20, true), ((4 << 20) + 1, false)];
    for (size, passed) in sizes {
        let (path, bytes) = (demo.path(&format!("file-{size}")), content(size as u64, size));
        fs::write(&path, &bytes).unwrap();
        let file = if passed {
            open_passed(demo.root(), &path)
        } else {
            fs::read(&path).unwrap();
            let before = opens(demo.root());
            let file = File::open(&path).unwrap();
            assert_eq!(opens(demo.root()), before, "{size}");
            file
        };
        assert!(all(&file) == bytes, "{size}");
        assert_eq!(file.metadata().unwrap().len(), size as u64);
        if size > 0 {
            assert_eq!(Mapped::of(&file, size).byte(size - 1), bytes[size - 1]);
        }
        let writable = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let before = opens(demo.root());
        drop(writable);
        assert_eq!(opens(demo.root()), before, "a handle that can write reads through the mount");
    }
}

#[test]
fn without_passthrough_the_same_is_read_and_the_status_says_so() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mounts = [cell.mount("acme/live"), cell.mount_with("acme/live", &["-o", "nopassthrough"])];
    fs::write(mounts[0].path("file"), content(1, SIZE)).unwrap();
    for mount in &mounts {
        for _ in 0..3 {
            assert!(fs::read(mount.path("file")).unwrap() == content(1, SIZE));
        }
        let status = passthrough(mount.root());
        assert_eq!((status["on"].as_bool(), status["opens"].as_u64()), (Some(false), Some(0)));
    }
}

#[test]
fn who_reads_past_the_mount_sees_what_is_written_on_it_at_once() {
    let Some(demo) = demo() else { return };
    let path = demo.path("file");
    let mut expected = content(2, SIZE);
    fs::write(&path, &expected).unwrap();
    let reader = open_passed(demo.root(), &path);
    let mapped = Mapped::of(&reader, SIZE);
    let number = reader.metadata().unwrap().ino();
    let writer = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    for round in 0..3_u8 {
        let at = 1000 * (usize::from(round) + 1);
        writer.write_all_at(&[b'0' + round; 5000], at as u64).unwrap();
        expected[at..at + 5000].fill(b'0' + round);
        assert!(all(&reader) == expected && all(&writer) == expected, "{round}");
        assert_eq!(mapped.byte(at), b'0' + round);
        if round == 1 {
            writer.sync_all().unwrap();
        }
    }
    // It grows, is cut, and grows again: also by path, with nobody writing.
    writer.write_all_at(b"more", SIZE as u64).unwrap();
    expected.extend(b"more");
    assert!(all(&reader) == expected);
    drop(writer);
    assert!(all(&reader) == expected && fs::read(&path).unwrap() == expected);
    set_len(&path, 100_000);
    expected.truncate(100_000);
    assert!(all(&reader) == expected);
    assert_eq!(reader.metadata().unwrap().len(), 100_000);
    set_len(&path, 120_000);
    expected.resize(120_000, 0);
    assert!(all(&reader) == expected);
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.ino(), reader.metadata().unwrap().ino()), (number, number));
    drop(mapped);
    fs::write(&path, "short").unwrap();
    assert_eq!(all(&reader), b"short");
    assert_eq!(fs::read(&path).unwrap(), b"short");
}

#[test]
fn a_mapping_that_outlives_its_descriptors_sees_what_is_written() {
    let Some(demo) = demo() else { return };
    let path = demo.path("file");
    fs::write(&path, content(3, SIZE)).unwrap();
    let mapped = Mapped::of(&open_passed(demo.root(), &path), SIZE);
    for letter in [b'x', b'y'] {
        let writer = OpenOptions::new().write(true).open(&path).unwrap();
        writer.write_all_at(&[letter; 100], 70_000).unwrap();
        assert_eq!(mapped.byte(70_050), letter);
        drop(writer);
        assert_eq!(fs::read(&path).unwrap()[70_050], letter);
    }
}

#[test]
fn files_with_the_same_content_do_not_show_each_others_changes() {
    let Some((cell, one, _two)) = two_mounts() else { return };
    let bytes = content(4, SIZE);
    for name in ["a", "b"] {
        fs::write(one.path(name), &bytes).unwrap();
    }
    let first = open_passed(one.root(), &one.path("a"));
    let mapped = Mapped::of(&first, SIZE);
    drop(first);
    let second = File::open(one.path("b")).unwrap();
    let mut writer = OpenOptions::new().write(true).open(one.path("b")).unwrap();
    writer.write_all(&[b'!'; 1000]).unwrap();
    assert_eq!(all(&second)[..1000], [b'!'; 1000]);
    assert_eq!(mapped.byte(500), bytes[500]);
    drop((writer, second));
    assert!(fs::read(one.path("a")).unwrap() == bytes);
    let other = cell.mount_with("acme/live", ON);
    assert!(fs::read(other.path("a")).unwrap() == bytes);
    assert_eq!(fs::read(other.path("b")).unwrap()[..1000], [b'!'; 1000]);
}

#[test]
fn what_was_replaced_by_another_mount_is_seen_by_who_opens_it_and_by_nobody_in_part() {
    let Some((_cell, one, two)) = two_mounts() else { return };
    let path = two.path("file");
    fs::write(one.path("file"), vec![b'A'; SIZE]).unwrap();
    let mut held = vec![open_passed(two.root(), &path)];
    let number = held[0].metadata().unwrap().ino();
    for letter in b'B'..=b'F' {
        fs::write(one.path("file"), vec![letter; SIZE]).unwrap();
        let new = File::open(&path).unwrap();
        assert!(all(&new) == vec![letter; SIZE], "{letter}");
        assert_eq!(Mapped::of(&new, SIZE).byte(SIZE - 1), letter);
        for old in &held {
            let seen = all(old);
            assert!((b'A'..=letter).contains(&seen[0]) && seen == vec![seen[0]; SIZE]);
            assert_eq!(old.metadata().unwrap().ino(), number);
        }
        assert_eq!((new.metadata().unwrap().ino(), fs::metadata(&path).unwrap().ino()), (number, number));
        // While it is open in the ordinary way, all opens are.
        drop(new);
        held.push(open_passed(two.root(), &path));
    }
    // A writer here, and a last version there.
    let writer = OpenOptions::new().write(true).open(&path).unwrap();
    writer.write_all_at(b"here", 0).unwrap();
    assert_eq!(fs::read(&path).unwrap()[..5], *b"hereF");
    drop(writer);
    assert_eq!(fs::read(one.path("file")).unwrap()[..5], *b"hereF");
    drop(held);
    fs::rename(&path, two.path("moved")).unwrap();
    fs::remove_file(two.path("moved")).unwrap();
}

#[test]
fn what_is_appended_reaches_who_reads_past_the_mount() {
    let Some((_cell, one, two)) = two_mounts() else { return };
    let mut expected = content(5, 5000);
    fs::write(one.path("log"), &expected).unwrap();
    let reader = open_passed(one.root(), &one.path("log"));
    let append = |mount: &Mounted, line: &str| {
        let mut log = OpenOptions::new().append(true).open(mount.path("log")).unwrap();
        log.write_all(line.as_bytes()).unwrap();
        log
    };
    let held = append(&one, "from here\n");
    expected.extend(b"from here\n");
    assert!(all(&reader) == expected, "at once");
    drop(held);
    drop(append(&two, "from there\n"));
    expected.extend(b"from there\n");
    wait_for("the line of another mount", SOON, || all(&reader) == expected);
    assert_eq!(reader.metadata().unwrap().len(), expected.len() as u64);
    drop(append(&one, "and here\n"));
    expected.extend(b"and here\n");
    assert!(all(&reader) == expected);
    for mount in [&one, &two] {
        assert!(fs::read(mount.path("log")).unwrap() == expected);
    }
}

#[test]
fn a_lock_shows_what_those_before_did_through_a_descriptor_that_was_open() {
    let Some((_cell, one, two)) = two_mounts() else { return };
    fs::write(one.path("file"), vec![b'a'; SIZE]).unwrap();
    let reader = open_passed(one.root(), &one.path("file"));
    for (letter, size) in [(b'b', SIZE), (b'c', 1000), (b'd', 400_000)] {
        let mut writer = OpenOptions::new().write(true).open(two.path("file")).unwrap();
        rustix::fs::flock(&writer, rustix::fs::FlockOperation::LockExclusive).unwrap();
        writer.set_len(size as u64).unwrap();
        writer.write_all(&vec![letter; size]).unwrap();
        drop(writer);
        rustix::fs::flock(&reader, rustix::fs::FlockOperation::LockShared).unwrap();
        assert!(all(&reader) == vec![letter; size], "{letter}");
        rustix::fs::flock(&reader, rustix::fs::FlockOperation::Unlock).unwrap();
    }
}

#[test]
fn locks_that_were_set_through_a_passed_descriptor_are_free_when_it_is_closed() {
    let Some((_cell, one, two)) = two_mounts() else { return };
    fs::write(one.path("file"), content(6, SIZE)).unwrap();
    let program = "import fcntl, os, sys\n\
        held = open(sys.argv[1], 'rb'); fcntl.lockf(held, fcntl.LOCK_SH)\n\
        held.close(); print('closed', flush=True); sys.stdin.readline()\n";
    drop(open_passed(one.root(), &one.path("file")));
    let mut holder = Command::new("python3");
    holder.args(["-c", program]).arg(one.path("file"));
    let mut holder =
        holder.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = [0; 6];
    holder.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    let other = OpenOptions::new().write(true).open(two.path("file")).unwrap();
    rustix::fs::fcntl_lock(&other, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
}

#[test]
fn a_removed_and_a_replaced_file_stay_readable_where_they_are_open() {
    let Some(demo) = demo() else { return };
    // Files of the same content are not shown at once.
    let (gone, old, new) = (content(6, SIZE), content(7, SIZE), content(8, SIZE));
    fs::write(demo.path("removed"), &gone).unwrap();
    fs::write(demo.path("replaced"), &old).unwrap();
    let (removed, replaced) =
        (open_passed(demo.root(), &demo.path("removed")), open_passed(demo.root(), &demo.path("replaced")));
    fs::remove_file(demo.path("removed")).unwrap();
    fs::write(demo.path("new"), &new).unwrap();
    fs::rename(demo.path("new"), demo.path("replaced")).unwrap();
    assert!(all(&removed) == gone && all(&replaced) == old);
    assert_eq!(removed.metadata().unwrap().nlink(), 0);
    assert!(fs::read(demo.path("replaced")).unwrap() == new);
    fs::write(demo.path("removed"), "again").unwrap();
    assert!(all(&removed) == gone);
}

#[test]
fn more_files_are_open_than_the_cache_may_pin_and_all_are_read_right() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let writer = cell.mount_with("acme/live", ON);
    let count = 12_u64;
    for n in 0..count {
        fs::write(writer.path(&n.to_string()), content(n, 1 << 20)).unwrap();
    }
    let reader = cell.mount_with("acme/live", &["--cache-size", "4MiB", "--passthrough"]);
    if !is_on(reader.root()) {
        return;
    }
    let mut held = Vec::new();
    for round in 0..3 {
        for n in 0..count {
            let path = reader.path(&n.to_string());
            assert!(fs::read(&path).unwrap() == content(n, 1 << 20), "{round} {n}");
            held.push((n, File::open(&path).unwrap()));
        }
        let status = passthrough(reader.root());
        assert!(status["bytes"].as_u64().unwrap() <= 2 << 20, "{status}");
    }
    assert!(opens(reader.root()) > 0);
    for (n, file) in &held {
        assert!(all(file) == content(*n, 1 << 20), "{n}");
    }
}

#[test]
fn a_small_cache_takes_in_what_is_read_however_many_files_were_read_before() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let writer = cell.mount_with("acme/live", ON);
    for n in 0..12 {
        fs::write(writer.path(&n.to_string()), content(n, 1 << 20)).unwrap();
    }
    for options in [&["--cache-size", "6MiB"][..], &["--cache-size", "6MiB", "--passthrough"]] {
        let reader = cell.mount_with("acme/live", options);
        for n in 0..12 {
            assert!(fs::read(reader.path(&n.to_string())).unwrap() == content(n, 1 << 20));
        }
        let last = content(11, 1 << 20);
        let has_last = sitefs_tests::files_of_size(&reader.cache().join("blobs"), 1 << 20)
            .iter()
            .any(|path| fs::read(path).is_ok_and(|bytes| bytes == last));
        assert!(has_last, "what was read last is not in the cache");
    }
}

#[test]
fn thousands_of_opens_share_a_file() {
    let Some(demo) = demo() else { return };
    let (path, bytes) = (demo.path("file"), content(9, 100_000));
    fs::write(&path, &bytes).unwrap();
    drop(open_passed(demo.root(), &path));
    let before = opens(demo.root());
    let held: Vec<File> = (0..500).map(|_| File::open(&path).unwrap()).collect();
    assert_eq!(opens(demo.root()) - before, 500);
    assert_eq!(passthrough(demo.root())["files"], 1);
    for file in held.iter().step_by(100) {
        assert!(all(file) == bytes);
    }
    for round in 0..2000_u64 {
        let mut part = [0; 100];
        File::open(&path).unwrap().read_exact_at(&mut part, round).unwrap();
        let at = usize::try_from(round).unwrap();
        assert_eq!(part, bytes[at..at + 100]);
    }
}

#[test]
fn writers_come_through_while_others_open_and_close_all_the_time() {
    let Some(demo) = demo() else { return };
    let path = demo.path("file");
    fs::write(&path, vec![b'a'; 20_000]).unwrap();
    drop(open_passed(demo.root(), &path));
    let (done, start) = (std::sync::atomic::AtomicBool::new(false), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) && start.elapsed() < SOON {
                    let file = File::open(&path).unwrap();
                    let seen = all(&file);
                    assert!(seen.iter().all(u8::is_ascii_lowercase));
                }
            });
        }
        for round in 0..50 {
            let letter = b'a' + round % 26;
            let writer = OpenOptions::new().write(true).open(&path).unwrap();
            writer.write_all_at(&[letter; 20_000], 0).unwrap();
            drop(writer);
            assert!(fs::read(&path).unwrap() == [letter; 20_000]);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn ranges_are_copied_from_a_passed_file() {
    let Some(demo) = demo() else { return };
    let bytes = content(10, SIZE);
    fs::write(demo.path("from"), &bytes).unwrap();
    let from = open_passed(demo.root(), &demo.path("from"));
    let to = OpenOptions::new().read(true).write(true).create_new(true).open(demo.path("to")).unwrap();
    let mut at = 0;
    while at < SIZE {
        let mut offset = at as u64;
        let copied = rustix::fs::copy_file_range(&from, Some(&mut offset), &to, None, SIZE - at).unwrap();
        assert!(copied > 0);
        at += copied;
    }
    assert!(all(&to) == bytes && all(&from) == bytes);
    // Into a file that is read past the mount.
    fs::write(demo.path("shown"), content(11, SIZE)).unwrap();
    let shown = open_passed(demo.root(), &demo.path("shown"));
    let into = OpenOptions::new().write(true).open(demo.path("shown")).unwrap();
    let (mut offset, mut target) = (5000, 100_000);
    let copied =
        rustix::fs::copy_file_range(&from, Some(&mut offset), &into, Some(&mut target), 50_000).unwrap();
    assert_eq!(all(&shown)[100_000..100_000 + copied], bytes[5000..5000 + copied]);
}

#[test]
fn a_file_that_is_cut_where_nobody_has_it_open_is_not_read_as_the_longer_blob() {
    let Some(demo) = demo() else { return };
    let (path, mut expected) = (demo.path("file"), content(16, SIZE));
    fs::write(&path, &expected).unwrap();
    drop(open_passed(demo.root(), &path));
    set_len(&path, 1000);
    expected.truncate(1000);
    for _ in 0..3 {
        assert!(fs::read(&path).unwrap() == expected);
        let file = File::open(&path).unwrap();
        assert!(all(&file) == expected && Mapped::of(&file, 4096).byte(1000) == 0);
    }
}

#[test]
fn a_hole_shows_where_a_file_is_read_past_the_mount() {
    let Some(demo) = demo() else { return };
    let mut expected = content(12, SIZE);
    fs::write(demo.path("file"), &expected).unwrap();
    let reader = open_passed(demo.root(), &demo.path("file"));
    let writer = OpenOptions::new().write(true).open(demo.path("file")).unwrap();
    let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&writer, flags, 4096, 65_536).unwrap();
    expected[4096..4096 + 65_536].fill(0);
    assert!(all(&reader) == expected);
    drop(writer);
    assert!(all(&reader) == expected && fs::read(demo.path("file")).unwrap() == expected);
}

#[test]
fn copies_of_descriptors_and_forked_programs_read_the_same() {
    let Some(demo) = demo() else { return };
    let path = demo.path("file");
    fs::write(&path, content(13, SIZE)).unwrap();
    drop(open_passed(demo.root(), &path));
    let program = "import os, sys\n\
        fd = os.open(sys.argv[1], os.O_RDONLY); whole = os.pread(fd, 1 << 20, 0)\n\
        copy = os.dup(fd); os.read(fd, 1000); assert os.read(copy, 1000) == whole[1000:2000]\n\
        child = os.fork()\n\
        if child == 0: os._exit(0 if os.pread(copy, 1 << 20, 0) == whole and os.read(fd, 5) == whole[2000:2005] else 1)\n\
        os.close(fd); assert os.waitpid(child, 0)[1] == 0\n\
        assert os.pread(copy, 1 << 20, 0) == whole and os.read(copy, 5) == whole[2005:2010]\n";
    let mut python = Command::new("python3");
    python.args(["-c", program]).arg(&path);
    run(python, SOON).ok();
}

#[test]
fn a_program_on_the_mount_runs_and_is_not_written_to() {
    let Some(demo) = demo() else { return };
    let path = demo.path("sleep");
    fs::copy("/bin/sleep", &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    drop(open_passed(demo.root(), &path));
    let before = opens(demo.root());
    let mut running = Command::new(&path).arg("60").spawn().unwrap();
    wait_for("the program", SOON, || opens(demo.root()) > before);
    let refused = OpenOptions::new().write(true).open(&path).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ETXTBSY));
    // The usual way to put another in its place.
    fs::copy("/bin/true", demo.path("new")).unwrap();
    fs::rename(demo.path("new"), &path).unwrap();
    assert!(Command::new(&path).status().unwrap().success());
    assert!(running.try_wait().unwrap().is_none());
    running.kill().unwrap();
    running.wait().unwrap();
}

#[test]
fn other_names_of_a_file_lead_to_what_was_written_under_one() {
    let Some(demo) = demo() else { return };
    let (first, second) = (demo.path("first"), demo.path("second"));
    fs::write(&first, content(14, SIZE)).unwrap();
    fs::hard_link(&first, &second).unwrap();
    let reader = open_passed(demo.root(), &second);
    let writer = OpenOptions::new().write(true).open(&first).unwrap();
    writer.write_all_at(b"written", 0).unwrap();
    for read in [all(&reader), fs::read(&first).unwrap(), fs::read(&second).unwrap()] {
        assert_eq!(read[..7], *b"written");
    }
    let other = OpenOptions::new().write(true).open(&second).unwrap();
    other.write_all_at(b"again", 100_000).unwrap();
    for read in [all(&reader), fs::read(&first).unwrap()] {
        assert_eq!((&read[..7], &read[100_000..100_005]), (&b"written"[..], &b"again"[..]));
    }
    drop((writer, other, reader));
    assert_eq!(fs::read(&second).unwrap()[100_000..100_005], *b"again");
    assert_eq!(fs::metadata(&second).unwrap().nlink(), 2);
}

#[test]
fn a_name_that_leads_to_an_older_number_is_opened_for_writing_while_a_newer_one_is_read() {
    let Some(demo) = demo() else { return };
    let (first, second) = (demo.path("first"), demo.path("second"));
    fs::write(&first, content(17, SIZE)).unwrap();
    fs::hard_link(&first, &second).unwrap();
    assert!(fs::read(&second).unwrap() == content(17, SIZE));
    let older = open_passed(demo.root(), &first);
    OpenOptions::new().write(true).open(&first).unwrap().write_all_at(b"one", 0).unwrap();
    let newer = open_passed(demo.root(), &first);
    // The kernel still has the number from before under this name, and asks only once for another.
    OpenOptions::new().write(true).open(&second).unwrap().write_all_at(b"two", 0).unwrap();
    for read in [all(&older), all(&newer), fs::read(&first).unwrap(), fs::read(&second).unwrap()] {
        assert_eq!(read[..3], *b"two");
    }
}

#[test]
fn a_killed_mount_leaves_the_cache_as_it_was() {
    let Some((_cell, one, mut two)) = two_mounts() else { return };
    let old = content(15, SIZE);
    fs::write(one.path("file"), &old).unwrap();
    fs::write(one.path("same"), &old).unwrap();
    let reader = open_passed(two.root(), &two.path("file"));
    let writer = OpenOptions::new().write(true).open(two.path("file")).unwrap();
    writer.write_all_at(&[b'!'; 1000], 0).unwrap();
    assert_eq!(all(&reader)[..1000], [b'!'; 1000]);
    two.kill9();
    let mut part = [0; 1000];
    reader.read_exact_at(&mut part, 0).unwrap();
    assert_eq!(part, [b'!'; 1000], "what is open goes on");
    drop((reader, writer));
    if is_mounted(two.root()) {
        rustix::mount::unmount(two.root(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
    two.start_again();
    for name in ["file", "same"] {
        assert!(
            fs::read(two.path(name)).unwrap() == old,
            "{name}: what was not committed is gone, and nothing else"
        );
    }
}
