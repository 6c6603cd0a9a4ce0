//! What programs can do with files, on a real mount.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, Timespec, Timestamps, XattrFlags},
    io::Errno,
};
use sitefs_tests::{Demo, can_mount, content, files_of_size, run, skipped};
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    },
    path::Path,
    process::Command,
    time::Duration,
};

/// Around every limit at which content is stored in another way.
const SIZES: [usize; 14] =
    [0, 1, 511, 512, 513, 4095, 4096, 65_535, 65_536, 65_537, 1 << 20, (4 << 20) - 1, 4 << 20, (9 << 20) + 7];

#[test]
fn content_of_every_size_comes_back() {
    if !can_mount() {
        return;
    }
    let mut demo = Demo::start();
    for size in SIZES {
        fs::write(demo.path(&format!("f{size}")), content(size as u64, size)).unwrap();
    }
    let check = |demo: &Demo| {
        for size in SIZES {
            let found = fs::read(demo.path(&format!("f{size}"))).unwrap();
            assert!(found == content(size as u64, size), "the file of {size} bytes differs");
        }
    };
    check(&demo);
    assert_eq!(demo.stop(), 0);
    demo.start_again();
    check(&demo);
}

#[test]
fn a_running_program_is_not_emptied_by_an_open_that_is_refused() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let program = demo.path("program");
    fs::copy("/bin/sleep", &program).unwrap();
    for _ in 0..20 {
        let mut running = Command::new(&program).arg("60").spawn().unwrap();
        for flags in [OFlags::RDONLY | OFlags::TRUNC, OFlags::WRONLY, OFlags::RDWR | OFlags::TRUNC] {
            let refused = rustix::fs::open(&program, flags, Mode::empty());
            assert_eq!(refused.err(), Some(Errno::TXTBSY), "{flags:?}");
        }
        assert!(running.try_wait().unwrap().is_none(), "it runs");
        running.kill().unwrap();
        running.wait().unwrap();
    }
    assert_eq!(fs::read(&program).unwrap(), fs::read("/bin/sleep").unwrap());
}

#[test]
fn open_flags_do_what_they_say() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let file = demo.path("file");
    let open = |path: &Path, flags| rustix::fs::open(path, flags, Mode::from_raw_mode(0o644));
    assert_eq!(open(&file, OFlags::RDONLY).unwrap_err(), Errno::NOENT);
    drop(open(&file, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY).unwrap());
    assert_eq!(open(&file, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY).unwrap_err(), Errno::EXIST);
    fs::write(&file, b"12345").unwrap();
    drop(open(&file, OFlags::CREATE | OFlags::WRONLY).unwrap());
    assert_eq!(fs::read(&file).unwrap(), b"12345");
    drop(open(&file, OFlags::WRONLY | OFlags::TRUNC).unwrap());
    assert_eq!(fs::metadata(&file).unwrap().len(), 0);
    assert_eq!(open(&file, OFlags::RDONLY | OFlags::DIRECTORY).unwrap_err(), Errno::NOTDIR);
    assert_eq!(open(demo.root(), OFlags::WRONLY).unwrap_err(), Errno::ISDIR);
    symlink("file", demo.path("link")).unwrap();
    assert_eq!(open(&demo.path("link"), OFlags::RDONLY | OFlags::NOFOLLOW).unwrap_err(), Errno::LOOP);
    drop(open(&demo.path("link"), OFlags::RDONLY).unwrap());
    let mut appending = OpenOptions::new().append(true).read(true).open(&file).unwrap();
    appending.write_all(b"one").unwrap();
    appending.seek(SeekFrom::Start(0)).unwrap();
    appending.write_all(b"two").unwrap();
    drop(appending);
    assert_eq!(fs::read(&file).unwrap(), b"onetwo");
}

#[test]
fn two_appending_handles_lose_nothing() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let open = || OpenOptions::new().append(true).create(true).open(demo.path("log")).unwrap();
    let (mut one, mut two) = (open(), open());
    for number in 0..100 {
        writeln!(one, "one {number}").unwrap();
        writeln!(two, "two {number}").unwrap();
    }
    drop((one, two));
    let text = fs::read_to_string(demo.path("log")).unwrap();
    let lines: BTreeSet<&str> = text.lines().collect();
    assert_eq!((text.lines().count(), lines.len()), (200, 200));
}

#[test]
fn truncating_and_extending_leave_the_right_bytes() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let path = demo.path("f");
    let mut expected = content(1, 300_000);
    fs::write(&path, &expected).unwrap();
    for size in [100_000, 200_000, 512, 600, 0, 70_000, 9 << 20, 5] {
        OpenOptions::new().write(true).open(&path).unwrap().set_len(size as u64).unwrap();
        expected.resize(size, 0);
        assert!(fs::read(&path).unwrap() == expected, "after truncating to {size}");
    }
}

#[test]
fn sparse_files_take_only_what_was_written() {
    if !can_mount() {
        return;
    }
    let mut demo = Demo::start();
    let file = File::create(demo.path("sparse")).unwrap();
    file.write_all_at(b"begin", 0).unwrap();
    file.write_all_at(b"far", 3 << 30).unwrap();
    file.set_len(5 << 30).unwrap();
    drop(file);
    let check = |demo: &Demo| {
        let file = File::open(demo.path("sparse")).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!(meta.len(), 5 << 30);
        assert!(meta.blocks() * 512 < 64 << 20, "{} blocks", meta.blocks());
        let at = |offset, len| {
            let mut bytes = vec![1; len];
            file.read_exact_at(&mut bytes, offset).unwrap();
            bytes
        };
        assert_eq!(at(0, 8), b"begin\0\0\0");
        assert_eq!(at((3 << 30) - 2, 7), b"\0\0far\0\0");
        assert_eq!(at((5 << 30) - 4, 4), [0; 4]);
    };
    check(&demo);
    demo.kill9();
    demo.start_again();
    check(&demo);
}

#[test]
fn bytes_written_through_a_mapping_are_kept() {
    if !can_mount() {
        return;
    }
    let mut demo = Demo::start();
    let path = demo.path("mapped");
    fs::write(&path, vec![b'.'; 200_000]).unwrap();
    let program = "import mmap, sys\n\
        f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0)\n\
        m[100000:100005] = b'hello'; m[0:2] = b'ab'; m.flush(); m.close(); f.close()";
    let mut python = Command::new("python3");
    python.args(["-c", program]).arg(&path);
    run(python, Duration::from_secs(60)).ok();
    let check = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        assert_eq!((&bytes[..3], &bytes[99_999..100_006]), (&b"ab."[..], &b".hello."[..]));
    };
    check(&path);
    demo.kill9();
    demo.start_again();
    check(&path);
}

#[test]
fn renames_replace_refuse_or_exchange() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let (a, b) = (demo.path("a"), demo.path("b"));
    let rename = |flags| rustix::fs::renameat_with(CWD, &a, CWD, &b, flags);
    fs::write(&a, "a").unwrap();
    fs::write(&b, "b").unwrap();
    assert_eq!(rename(RenameFlags::NOREPLACE).unwrap_err(), Errno::EXIST);
    rename(RenameFlags::EXCHANGE).unwrap();
    assert_eq!((fs::read(&a).unwrap(), fs::read(&b).unwrap()), (b"b".to_vec(), b"a".to_vec()));
    fs::rename(&a, &b).unwrap();
    assert!(!a.exists());
    assert_eq!(fs::read(&b).unwrap(), b"b");

    let (full, empty) = (demo.path("full"), demo.path("empty"));
    fs::create_dir_all(full.join("sub")).unwrap();
    fs::write(full.join("sub/file"), "x").unwrap();
    fs::create_dir(&empty).unwrap();
    let error = fs::rename(&empty, &full).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTEMPTY));
    fs::rename(&full, &empty).unwrap();
    assert_eq!(fs::read(empty.join("sub/file")).unwrap(), b"x");
    let error = fs::rename(&empty, empty.join("sub/inside")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    assert_eq!(fs::metadata(demo.root()).unwrap().nlink(), 3);
}

#[test]
fn an_unlinked_open_file_stays_usable() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let path = demo.path("gone");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.write_all(b"before").unwrap();
    fs::remove_file(&path).unwrap();
    assert!(!path.exists());
    file.write_all(b" and after").unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "before and after");
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    fs::write(&path, "another").unwrap();
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), b"another");
}

#[test]
fn hard_links_share_one_inode() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    fs::write(demo.path("one"), "1").unwrap();
    fs::hard_link(demo.path("one"), demo.path("two")).unwrap();
    let (one, two) = (fs::metadata(demo.path("one")).unwrap(), fs::metadata(demo.path("two")).unwrap());
    assert_eq!((one.ino(), one.nlink()), (two.ino(), 2));
    fs::write(demo.path("two"), "changed").unwrap();
    assert_eq!(fs::read(demo.path("one")).unwrap(), b"changed");
    fs::remove_file(demo.path("one")).unwrap();
    assert_eq!(fs::metadata(demo.path("two")).unwrap().nlink(), 1);
}

#[test]
fn names_and_link_targets_are_bytes() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let odd = OsStr::from_bytes(b"\xff\xfe new\nline");
    symlink(odd, demo.root().join("link")).unwrap();
    assert_eq!(fs::read_link(demo.path("link")).unwrap(), odd);
    fs::write(demo.root().join(odd), "odd").unwrap();
    assert_eq!(fs::read(demo.path("link")).unwrap(), b"odd");
    fs::write(demo.path(&"x".repeat(255)), "").unwrap();
    let error = fs::write(demo.path(&"x".repeat(256)), "").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG));
}

#[test]
fn mode_owner_and_times_are_kept_to_the_nanosecond() {
    if !can_mount() {
        return;
    }
    let mut demo = Demo::start();
    let path = demo.path("f");
    fs::write(&path, "x").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let root = rustix::process::geteuid().is_root();
    if root {
        std::os::unix::fs::chown(&path, Some(33), Some(44)).unwrap();
    }
    let times = Timestamps {
        last_access: Timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 },
        last_modification: Timespec { tv_sec: -5, tv_nsec: 999_999_999 },
    };
    rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
    let check = |path: &Path| {
        let meta = fs::metadata(path).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o640);
        assert_eq!((meta.atime(), meta.atime_nsec()), (1_000_000_000, 123_456_789));
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (-5, 999_999_999));
        assert!(!root || (meta.uid(), meta.gid()) == (33, 44));
    };
    check(&path);
    demo.kill9();
    demo.start_again();
    check(&path);
}

#[test]
fn a_change_of_entries_moves_the_time_of_the_directory() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let dir = demo.path("dir");
    fs::create_dir(&dir).unwrap();
    let mtime = || {
        let meta = fs::metadata(&dir).unwrap();
        (meta.mtime(), meta.mtime_nsec())
    };
    let mut last = mtime();
    let mut moved = |what: &str| {
        let now = mtime();
        assert!(now > last, "{what}: {now:?} is not after {last:?}");
        last = now;
    };
    fs::write(dir.join("a"), "x").unwrap();
    moved("create");
    fs::rename(dir.join("a"), dir.join("b")).unwrap();
    moved("rename");
    fs::create_dir(dir.join("sub")).unwrap();
    moved("mkdir");
    fs::remove_dir(dir.join("sub")).unwrap();
    moved("rmdir");
    fs::remove_file(dir.join("b")).unwrap();
    moved("unlink");
}

#[test]
fn extended_attributes_are_set_listed_and_removed() {
    if !can_mount() {
        return;
    }
    let mut demo = Demo::start();
    let path = demo.path("f");
    fs::write(&path, "x").unwrap();
    let set = |value: &[u8], flags| rustix::fs::setxattr(&path, "user.a", value, flags);
    assert_eq!(set(b"1", XattrFlags::REPLACE).unwrap_err(), Errno::NODATA);
    set(b"1", XattrFlags::CREATE).unwrap();
    assert_eq!(set(b"2", XattrFlags::CREATE).unwrap_err(), Errno::EXIST);
    set(b"\0\xff", XattrFlags::REPLACE).unwrap();
    demo.kill9();
    demo.start_again();
    let mut value = [0; 16];
    let len = rustix::fs::getxattr(&path, "user.a", &mut value[..]).unwrap();
    assert_eq!(&value[..len], b"\0\xff");
    let mut names = [0; 256];
    let len = rustix::fs::listxattr(&path, &mut names[..]).unwrap();
    assert!(names[..len].split(|byte| *byte == 0).any(|name| name == b"user.a"));
    rustix::fs::removexattr(&path, "user.a").unwrap();
    assert_eq!(rustix::fs::getxattr(&path, "user.a", &mut value[..]).unwrap_err(), Errno::NODATA);
}

#[test]
fn access_lists_are_kept_and_inherited() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let dir = demo.path("dir");
    fs::create_dir(&dir).unwrap();
    let acl = |program: &str, arguments: &[&str], path: &Path| {
        let mut command = Command::new(program);
        command.args(arguments).arg(path);
        run(command, Duration::from_secs(30)).ok().stdout
    };
    acl("setfacl", &["-m", "u:33:rwx,d:u:33:rwx"], &dir);
    fs::write(dir.join("child"), "x").unwrap();
    let text = acl("getfacl", &["-cnp"], &dir.join("child"));
    assert!(text.contains("user:33:rwx"), "{text}");
    acl("setfacl", &["-b"], &dir.join("child"));
    let text = acl("getfacl", &["-cnp"], &dir.join("child"));
    assert!(!text.contains("user:33"), "{text}");
}

#[test]
fn statfs_shows_the_limits_of_the_volume() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let before = rustix::fs::statvfs(demo.root()).unwrap();
    assert!(before.f_blocks > 0 && before.f_files > 0 && before.f_namemax == 255);
    assert!(before.f_bavail <= before.f_blocks && before.f_bfree <= before.f_blocks);
}

#[test]
fn a_directory_of_ten_thousand_entries_lists_while_it_changes() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let dir = demo.path("many");
    fs::create_dir(&dir).unwrap();
    for number in 0..10_000 {
        File::create(dir.join(format!("stay-{number}"))).unwrap();
    }
    let mut seen = Vec::new();
    for (count, entry) in fs::read_dir(&dir).unwrap().enumerate() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with("stay-") {
            seen.push(name);
        }
        if count % 100 == 0 {
            fs::write(dir.join(format!("new-{count}")), "").unwrap();
            if count >= 200 {
                fs::remove_file(dir.join(format!("new-{}", count - 200))).unwrap();
            }
        }
    }
    let distinct: BTreeSet<&String> = seen.iter().collect();
    assert_eq!((seen.len(), distinct.len()), (10_000, 10_000));
}

/// A Python program of user 1000, who has no access to a root's own Python, with the files as its standard input and output.
fn by_another_user(program: &str, input: &Path, output: &Path) {
    let mut python = Command::new("setpriv");
    python.args(["--reuid=1000", "--regid=1000", "--clear-groups", "/usr/bin/python3", "-c", program]);
    let (input, output) = (File::open(input).unwrap(), OpenOptions::new().write(true).open(output).unwrap());
    let status = python.stdin(input).stdout(output).status().unwrap();
    assert!(status.success(), "{program}: {status}");
}

#[test]
fn changes_of_ranges_by_others_than_root_take_set_id_bits() {
    if !can_mount() {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        skipped("becoming another user needs root");
        return;
    }
    let demo = Demo::start();
    let (source, target) = (demo.path("source"), demo.path("target"));
    fs::write(&source, content(1, 200_000)).unwrap();
    fs::write(&target, content(2, 200_000)).unwrap();
    std::os::unix::fs::chown(&target, Some(1000), Some(1000)).unwrap();
    let mode = || fs::metadata(&target).unwrap().mode() & 0o7777;
    let changes = [
        ("copy_file_range", "import os; assert os.copy_file_range(0, 1, 200000, 0, 0) == 200000"),
        ("fallocate", "import os; os.posix_fallocate(1, 0, 300000)"),
    ];
    for (what, program) in changes {
        fs::set_permissions(&target, fs::Permissions::from_mode(0o6755)).unwrap();
        assert_eq!(mode(), 0o6755);
        by_another_user(program, &source, &target);
        assert_eq!(mode(), 0o755, "{what}");
    }
    assert!(fs::read(&target).unwrap()[..200_000] == content(1, 200_000));

    // root keeps them.
    fs::set_permissions(&target, fs::Permissions::from_mode(0o6755)).unwrap();
    let (from, to) = (File::open(&source).unwrap(), OpenOptions::new().write(true).open(&target).unwrap());
    let copied = rustix::fs::copy_file_range(&from, Some(&mut 0), &to, Some(&mut 0), 200_000);
    assert_eq!(copied, Ok(200_000));
    assert_eq!(mode(), 0o6755);
}

#[test]
fn the_same_content_is_stored_once() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let bytes = content(5, (1 << 20) + 11);
    for name in ["one", "two", "three"] {
        fs::write(demo.path(name), &bytes).unwrap();
    }
    let blobs = demo.data().join("cell/blobs");
    assert_eq!(files_of_size(&blobs, bytes.len() as u64).len(), 1);
    assert_eq!(fs::read(demo.path("three")).unwrap(), bytes);
}

#[test]
fn a_blob_that_fills_many_chunks_is_uploaded_once() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let chunk = content(6, 4 << 20);
    let bytes = chunk.repeat(9);
    fs::write(demo.path("image"), &bytes).unwrap();
    let blobs = demo.data().join("cell/blobs");
    assert_eq!(files_of_size(&blobs, chunk.len() as u64).len(), 1);
    assert!(fs::read(demo.path("image")).unwrap() == bytes);
}

#[test]
fn readers_see_a_file_whole_or_not_at_all() {
    if !can_mount() {
        return;
    }
    let demo = Demo::start();
    let (target, new) = (demo.path("index.php"), demo.path("index.php.new"));
    fs::write(&target, content(0, 50_000)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..60 {
                fs::write(&new, content(round, 50_000)).unwrap();
                fs::rename(&new, &target).unwrap();
            }
        });
        for _ in 0..300 {
            let found = fs::read(&target).unwrap();
            assert!((0..60).any(|round| found == content(round, 50_000)), "{} strange bytes", found.len());
        }
    });
}
