//! What happens to open files while they are committed, removed, or changed by the cell: on real mounts.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use rustix::fs::{AtFlags, CWD, FallocateFlags, Timespec, Timestamps, XattrFlags};
use serde_json::Value;
use sitefs_tests::{Cell, Demo, Mounted, can_mount, close, content, next_second, run, sitefs, wait_for};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::{
        fs::{FileExt, MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(40);
/// Long enough for a request to be under way.
const UNDER_WAY: Duration = Duration::from_millis(500);

fn pass(time: Duration) {
    let start = Instant::now();
    wait_for("time to pass", SOON, || start.elapsed() >= time);
}

fn python(program: &str, path: &Path) -> Command {
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", program]).arg(path);
    python
}

fn times(secs: i64) -> Timestamps {
    let time = Timespec { tv_sec: secs, tv_nsec: 7 };
    Timestamps { last_access: time, last_modification: time }
}

fn set_times(path: &Path, secs: i64) {
    rustix::fs::utimensat(CWD, path, &times(secs), AtFlags::empty()).unwrap();
}

fn read_write(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// truncate(2): by another handle than those that are open.
fn set_len(path: &Path, size: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(size).unwrap();
}

#[test]
fn times_and_modes_that_are_set_during_a_commit_stay() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let (mount, other) = (cell.mount("acme/live"), cell.mount("acme/live"));
    let path = mount.path("file");
    let mut file = File::create(&path).unwrap();
    file.write_all(&content(1, 3 << 20)).unwrap();
    file.sync_all().unwrap();
    file.write_all(&content(2, 3 << 20)).unwrap();
    cell.freeze();
    thread::scope(|scope| {
        // It waits for leave to upload. (The kernel lets nobody set anything during an fsync.)
        scope.spawn(move || close(file).unwrap());
        pass(UNDER_WAY);
        let set = scope.spawn(|| {
            set_times(&path, 1_000_000);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        });
        pass(UNDER_WAY);
        cell.thaw();
        set.join().unwrap();
    });
    for path in [path, other.path("file")] {
        wait_for("what was set", SOON, || {
            let meta = fs::metadata(&path).unwrap();
            (meta.mtime(), meta.mode() & 0o7777, meta.len()) == (1_000_000, 0o640, 6 << 20)
        });
    }
}

#[test]
fn a_large_file_stays_readable_when_it_is_removed_where_it_is_open() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let bytes = content(4, 26 << 20);
    fs::write(cell.mount("acme/live").path("file"), &bytes).unwrap();
    let mount = cell.mount("acme/live");
    let mut file = File::open(mount.path("file")).unwrap();
    fs::remove_file(mount.path("file")).unwrap();
    let mut found = Vec::new();
    file.read_to_end(&mut found).unwrap();
    assert!(found == bytes);
}

#[test]
fn a_large_file_stays_readable_where_it_is_open_when_another_mount_removes_it() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let other = cell.mount("acme/live");
    let (bytes, lines) = (content(4, 26 << 20), content(5, 300_000));
    fs::write(other.path("file"), &bytes).unwrap();
    let mut log = OpenOptions::new().append(true).create(true).open(other.path("log")).unwrap();
    for line in lines.chunks(30_000) {
        log.write_all(line).unwrap();
        log.sync_all().unwrap();
    }
    drop(log);
    // History has what held at the end of a second.
    next_second();
    let mount = cell.mount("acme/live");
    let mut files = ["file", "log"].map(|name| File::open(mount.path(name)).unwrap());
    fs::remove_file(other.path("file")).unwrap();
    fs::rename(other.path("log"), other.path("file")).unwrap();
    fs::write(other.path("new"), "new").unwrap();
    fs::rename(other.path("new"), other.path("file")).unwrap();
    for (file, expected) in files.iter_mut().zip([bytes, lines]) {
        wait_for("the removal", SOON, || file.metadata().unwrap().nlink() == 0);
        let mut found = Vec::new();
        file.read_to_end(&mut found).unwrap();
        assert!(found == expected, "{} bytes", found.len());
    }
}

#[test]
fn an_open_file_without_a_name_keeps_and_takes_times_and_attributes() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let path = demo.path("file");
    fs::write(&path, "old").unwrap();
    rustix::fs::setxattr(&path, "user.kept", b"1", XattrFlags::empty()).unwrap();
    let file = read_write(&path);
    file.write_all_at(b"new", 0).unwrap();
    fs::remove_file(&path).unwrap();
    file.write_all_at(b"newer", 0).unwrap();
    rustix::fs::futimens(&file, &times(5_000)).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o604)).unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!((meta.mtime(), meta.atime(), meta.mode() & 0o7777), (5_000, 5_000, 0o604));
    let mut value = [0; 8];
    assert_eq!(rustix::fs::fgetxattr(&file, "user.kept", &mut value[..]), Ok(1));
    rustix::fs::fsetxattr(&file, "user.new", b"22", XattrFlags::CREATE).unwrap();
    let again = rustix::fs::fsetxattr(&file, "user.new", b"3", XattrFlags::CREATE);
    assert_eq!(again, Err(rustix::io::Errno::EXIST));
    assert_eq!(rustix::fs::fgetxattr(&file, "user.new", &mut value[..]), Ok(2));
    rustix::fs::fremovexattr(&file, "user.kept").unwrap();
    let gone = rustix::fs::fgetxattr(&file, "user.kept", &mut value[..]);
    assert_eq!(gone, Err(rustix::io::Errno::NODATA));
    file.write_all_at(b"!", 5).unwrap();
    assert_ne!(file.metadata().unwrap().mtime(), 5_000, "a later write counts");
}

#[test]
fn what_is_stored_into_a_mapping_beside_a_hole_is_not_lost() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mount = cell.mount("acme/live");
    let path = mount.path("file");
    let mut expected = content(5, 1 << 20);
    fs::write(&path, &expected).unwrap();
    let file = read_write(&path);
    cell.freeze();
    let stored = thread::scope(|scope| {
        let punched = scope.spawn(|| {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, flags, 65_536, 65_536)
        });
        pass(UNDER_WAY);
        let stored = scope.spawn(|| {
            // An msync would wait for the hole in the kernel.
            let program = "import ctypes, mmap, sys\n\
                f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0)\n\
                m[500000:500005] = b'hello'\n\
                off = ctypes.c_int64; ctypes.CDLL(None).sync_file_range(f.fileno(), off(0), off(0), 7)\n";
            run(python(program, &path), SOON)
        });
        pass(2 * UNDER_WAY);
        cell.thaw();
        punched.join().unwrap().unwrap();
        stored.join().unwrap()
    });
    stored.ok();
    drop(file);
    expected[65_536..131_072].fill(0);
    expected[500_000..500_005].copy_from_slice(b"hello");
    assert!(fs::read(&path).unwrap() == expected);
    assert!(fs::read(cell.mount("acme/live").path("file")).unwrap() == expected);
}

#[test]
fn a_time_that_was_set_after_a_store_into_a_mapping_stays() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let path = demo.path("file");
    fs::write(&path, vec![b'.'; 20_000]).unwrap();
    let program = "import mmap, os, sys\n\
        f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0)\n\
        m[100:105] = b'hello'; os.utime(sys.argv[1], (5000, 5000)); m.close(); f.close()\n";
    run(python(program, &path), SOON).ok();
    let check = || assert_eq!(fs::metadata(&path).unwrap().mtime(), 5_000);
    check();
    assert_eq!(fs::read(&path).unwrap()[100..105], *b"hello");
    check();
    let file = read_write(&path);
    file.write_all_at(b"again", 0).unwrap();
    close(file).unwrap();
    assert_ne!(fs::metadata(&path).unwrap().mtime(), 5_000);
}

#[test]
fn a_directory_has_the_time_that_was_set_although_files_in_it_are_new() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    fs::create_dir(demo.path("dir")).unwrap();
    let mut file = File::create(demo.path("dir/new")).unwrap();
    set_times(&demo.path("dir"), 5_000);
    assert_eq!(fs::metadata(demo.path("dir")).unwrap().mtime(), 5_000);
    file.write_all(b"content").unwrap();
    close(file).unwrap();
    assert_eq!(fs::metadata(demo.path("dir")).unwrap().mtime(), 5_000);
}

#[test]
fn a_directory_has_the_time_at_which_a_file_was_made_in_it() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let (mount, other) = (cell.mount("acme/live"), cell.mount("acme/live"));
    fs::create_dir(mount.path("dir")).unwrap();
    let times = |mount: &Mounted| {
        let meta = fs::metadata(mount.path("dir")).unwrap();
        let time = |secs, nanos| sitefs_base::Time::new(secs, u32::try_from(nanos).unwrap());
        (time(meta.mtime(), meta.mtime_nsec()), time(meta.ctime(), meta.ctime_nsec()))
    };
    let mut file = File::create(mount.path("dir/new")).unwrap();
    let made = times(&mount);
    file.write_all(b"content").unwrap();
    close(file).unwrap();
    assert_eq!(times(&mount), made, "the close made no entry");
    wait_for("the file on the other mount", SOON, || other.path("dir/new").exists());
    assert_eq!(times(&other), made);
}

fn seek(file: &File, to: rustix::fs::SeekFrom) -> Result<u64, rustix::io::Errno> {
    rustix::fs::seek(file, to)
}

#[test]
fn who_asks_for_holes_publishes_nothing() {
    use rustix::fs::SeekFrom::{Data, Hole};
    const CHUNK: u64 = 4 << 20;
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let (mount, other) = (cell.mount("acme/live"), cell.mount("acme/live"));
    fs::write(mount.path("file"), "old").unwrap();
    let writer = OpenOptions::new().write(true).truncate(true).open(mount.path("file")).unwrap();
    writer.write_all_at(b"half", CHUNK + 5).unwrap();
    writer.set_len(3 * CHUNK).unwrap();
    let reader = File::open(mount.path("file")).unwrap();
    let check = |file: &File| {
        assert_eq!(seek(file, Data(0)), Ok(CHUNK));
        assert_eq!(seek(file, Hole(0)), Ok(0));
        assert_eq!(seek(file, Hole(CHUNK)), Ok(2 * CHUNK));
        assert_eq!(seek(file, Data(2 * CHUNK)), Err(rustix::io::Errno::NXIO));
        assert_eq!(seek(file, Hole(3 * CHUNK)), Err(rustix::io::Errno::NXIO));
    };
    check(&reader);
    assert_eq!(fs::read(other.path("file")).unwrap(), b"old");
    close(writer).unwrap();
    check(&File::open(mount.path("file")).unwrap());
    // One chunk of what the cell has, and one of a working copy.
    let writer = read_write(&mount.path("file"));
    writer.write_all_at(b"more", 2 * CHUNK).unwrap();
    assert_eq!((seek(&writer, Data(0)), seek(&writer, Hole(CHUNK))), (Ok(CHUNK), Ok(3 * CHUNK)));
}

#[test]
fn a_file_that_is_emptied_and_made_huge_again_is_committed_without_reading_its_holes() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let path = demo.path("file");
    fs::write(&path, "content").unwrap();
    let size = 256 << 30;
    set_len(&path, size);
    let start = Instant::now();
    let file = OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
    file.set_len(size).unwrap();
    close(file).unwrap();
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    let mut begin = [9; 7];
    File::open(&path).unwrap().read_exact(&mut begin).unwrap();
    assert_eq!((begin, fs::metadata(&path).unwrap().len()), ([0; 7], size));
}

fn states(mount: &Mounted) -> Vec<String> {
    let listed = sitefs(&["journal", "list", "--json", mount.cache().to_str().unwrap()]).ok().json();
    let state = |entry: &Value| entry["state"].as_str().unwrap().to_owned();
    listed.as_array().unwrap().iter().map(state).collect()
}

#[test]
fn a_new_file_whose_directory_another_mount_removed_is_kept_as_a_conflict() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let (mut mount, other) = (cell.mount("acme/live"), cell.mount("acme/live"));
    fs::create_dir(mount.path("dir")).unwrap();
    let mut file = File::create(mount.path("dir/file")).unwrap();
    file.write_all(b"work").unwrap();
    fs::remove_dir(other.path("dir")).unwrap();
    assert_eq!(close(file).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    wait_for("a conflict", SOON, || states(&mount) == ["conflict"]);
    assert_eq!(mount.stop(), 0, "nothing waits for the cell");
}

#[test]
fn a_thousand_exclusive_creates_at_once_are_not_too_many() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let create = |n: u32| {
        let path = demo.path(&format!("lock-{n}"));
        OpenOptions::new().write(true).create_new(true).open(path).unwrap()
    };
    let open: Vec<File> = (0..1200).map(create).collect();
    drop(open);
    assert_eq!(fs::read_dir(demo.root()).unwrap().count(), 1200);
}

#[test]
fn a_write_near_the_largest_size_says_what_is_wrong() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let file = File::create(demo.path("file")).unwrap();
    for end in [16 << 40, (16 << 40) - 4095] {
        if let Err(error) = file.write_all_at(b"x", end - 1) {
            assert_eq!(error.raw_os_error(), Some(libc::EFBIG), "{end}");
        }
    }
    assert_eq!(file.write_all_at(b"x", 16 << 40).unwrap_err().raw_os_error(), Some(libc::EFBIG));
}

#[test]
fn an_access_list_set_by_a_stranger_to_the_group_takes_set_group_id() {
    if !can_mount() || !rustix::process::geteuid().is_root() {
        return;
    }
    let demo = Demo::start();
    let program = "import os, struct, sys\n\
        entry = lambda tag, perm, who=0xffffffff: struct.pack('<HHI', tag, perm, who)\n\
        acl = struct.pack('<I', 2) + entry(1, 7) + entry(2, 4, 9) + entry(4, 5) + entry(16, 7) + entry(32, 0)\n\
        os.setxattr(sys.argv[1], 'system.posix_acl_access', acl)\n";
    for (groups, kept) in [("", false), ("2002", true)] {
        let path = demo.path("file");
        fs::write(&path, "x").unwrap();
        std::os::unix::fs::chown(&path, Some(1001), Some(2002)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o2770)).unwrap();
        let drop_to =
            format!("import os; os.setgroups([{groups}]); os.setgid(1001); os.setuid(1001)\n{program}");
        run(python(&drop_to, &path), SOON).ok();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o2000 != 0, kept, "in the group: {kept}");
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_program_in_the_group_of_a_directory_keeps_set_group_id() {
    if !can_mount() || !rustix::process::geteuid().is_root() {
        return;
    }
    let demo = Demo::start();
    fs::create_dir(demo.path("dir")).unwrap();
    std::os::unix::fs::chown(demo.path("dir"), Some(1001), Some(2002)).unwrap();
    fs::set_permissions(demo.path("dir"), fs::Permissions::from_mode(0o2777)).unwrap();
    for (groups, mode) in [("", 0o775), ("2002", 0o2775)] {
        let path = demo.path("dir/file");
        let program = format!(
            "import os, sys; os.umask(0); os.setgroups([{groups}]); os.setgid(1001); os.setuid(1001)\n\
            os.close(os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY, 0o2775))"
        );
        run(python(&program, &path), SOON).ok();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.gid(), meta.mode() & 0o7777), (2002, mode));
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn the_earliest_times_there_are_can_be_set() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let path = demo.path("file");
    fs::write(&path, "x").unwrap();
    for secs in [i64::MIN, i64::MIN + 1, i64::MAX] {
        set_times(&path, secs);
    }
    set_times(&path, 5_000);
    assert_eq!(fs::metadata(&path).unwrap().mtime(), 5_000);
}

#[test]
fn a_panic_ends_the_mount_and_says_so() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mut mount = cell.mount("acme/live");
    assert_eq!(mount.stop(), 0);
    mount.start_again_with(&[("SITEFS_TEST_PANIC_AT", "bug")]);
    let mut file = File::create(mount.path("file")).unwrap();
    file.write_all(b"not closed").unwrap();
    let mut victim = Command::new("stat").arg(mount.path("bug")).process_group(0).spawn().unwrap();
    assert_eq!(mount.wait(), 70);
    assert!(!sitefs_tests::is_mounted(mount.root()));
    assert!(!victim.wait().unwrap().success());
    drop(file);
    assert_eq!(fs::read(cell.mount("acme/live").path("file")).unwrap(), b"not closed");
}

#[test]
fn a_demo_ends_without_a_warning() {
    if !can_mount() {
        return;
    }
    let mut demo = Demo::start();
    fs::write(demo.path("file"), "x").unwrap();
    assert_eq!(demo.stop(), 0);
    let log = fs::read_to_string(demo.root().with_file_name("log")).unwrap();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}
