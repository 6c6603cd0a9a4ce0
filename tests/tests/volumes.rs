//! What operators do with volumes that programs are using.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use rustix::{fs::XattrFlags, io::Errno};
use sitefs_tests::{Cell, Mounted, SOON, can_mount, content, next_second, run, snapshot, wait_for};
use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
    process::Command,
};

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap()
}

/// A few hundred files, with one of everything among them.
fn make_site(mount: &Mounted) {
    let dir = mount.path("site");
    fs::create_dir(&dir).unwrap();
    for sub in 0..10 {
        let sub = dir.join(format!("sub{sub}"));
        fs::create_dir(&sub).unwrap();
        for file in 0..30 {
            fs::write(sub.join(format!("f{file}")), content(file, 10 + 300 * file as usize)).unwrap();
        }
    }
    fs::write(dir.join("large"), content(1, (9 << 20) + 7)).unwrap();
    fs::hard_link(dir.join("large"), dir.join("sub3/large too")).unwrap();
    fs::hard_link(dir.join("sub1/f1"), dir.join("sub2/f1 too")).unwrap();
    symlink("sub1/f1", dir.join("link")).unwrap();
    rustix::fs::setxattr(dir.join("sub1/f1"), "user.colour", b"green", XattrFlags::empty()).unwrap();
    let dir = dir.display().to_string();
    run(command("setfacl", &["-m", "u:33:rwx,d:u:33:rwx", &format!("{dir}/sub4")]), SOON).ok();
    run(command("setfacl", &["-m", "u:33:r", &format!("{dir}/sub5/f5")]), SOON).ok();
    run(command("chown", &["1234:4321", &format!("{dir}/sub6/f6")]), SOON).ok();
    run(
        command("touch", &["-d", "2001-02-03T04:05:06", &format!("{dir}/sub7"), &format!("{dir}/sub7/f7")]),
        SOON,
    )
    .ok();
}

fn acls(dir: &Path) -> String {
    run(command("getfacl", &["-Rnp", &dir.display().to_string()]), SOON).ok().stdout
}

fn mtime(path: &Path) -> i64 {
    fs::metadata(path).unwrap().mtime()
}

#[test]
fn a_deleted_directory_comes_back_as_it_was() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mount = cell.mount("acme/live");
    make_site(&mount);
    let dir = mount.path("site");
    let (before, acls_before) = (snapshot(&dir), acls(&dir));
    let at = next_second().to_string();
    fs::remove_dir_all(&dir).unwrap();
    let restore = |extra: &[&str]| {
        let arguments = ["--json", "volume", "restore", "acme/live", "--path", "/site", "--at", &at];
        cell.admin(&[&arguments[..], extra].concat()).ok().json()
    };
    let planned = restore(&["--dry-run"]);
    assert!(!dir.exists(), "a dry run changes nothing");
    let done = restore(&[]);
    assert_eq!((&planned["entries"], &planned["bytes"]), (&done["entries"], &done["bytes"]));
    assert_eq!(done["entries"], 1 + 10 + 300 + 1 + 1);

    let after = snapshot(&dir);
    let changed: Vec<_> = before.iter().filter(|(path, what)| after.get(*path) != Some(what)).collect();
    assert!(changed.is_empty() && after.len() == before.len(), "{changed:#?}");
    assert_eq!(acls(&dir), acls_before);
    let inode = |name: &str| fs::metadata(dir.join(name)).unwrap().ino();
    assert_eq!(inode("large"), inode("sub3/large too"));
    assert_eq!(inode("sub1/f1"), inode("sub2/f1 too"));
    assert_eq!(fs::read_link(dir.join("link")).unwrap(), Path::new("sub1/f1"));
    let mut value = [0; 16];
    let len = rustix::fs::getxattr(dir.join("sub1/f1"), "user.colour", &mut value[..]).unwrap();
    assert_eq!(&value[..len], b"green");
    let owned = fs::metadata(dir.join("sub6/f6")).unwrap();
    assert_eq!((owned.uid(), owned.gid()), (1234, 4321));
    assert_eq!(mtime(&dir.join("sub7")), mtime(&dir.join("sub7/f7")));
    assert!(mtime(&dir.join("sub7")) < 1_000_000_000);

    // The copy is a tree like any other.
    fs::write(dir.join("sub1/new"), "x").unwrap();
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn an_overwritten_file_comes_back_while_another_mount_has_it_open() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let (writer, reader) = (cell.mount("acme/live"), cell.mount("acme/live"));
    let good = content(1, 200_000);
    fs::write(writer.path("index.php"), &good).unwrap();
    let good_at = next_second().to_string();
    fs::write(writer.path("index.php"), b"<?php defaced").unwrap();
    let mut open = File::open(reader.path("index.php")).unwrap();
    let inode = open.metadata().unwrap().ino();
    cell.admin(&["volume", "restore", "acme/live", "--path", "index.php", "--at", &good_at]).ok();
    for mount in [&writer, &reader] {
        assert!(fs::read(mount.path("index.php")).unwrap() == good);
        assert_eq!(fs::metadata(mount.path("index.php")).unwrap().ino(), inode, "it is the same file");
    }
    let mut seen = Vec::new();
    open.read_to_end(&mut seen).unwrap();
    assert!(!seen.is_empty(), "what was open stays readable");
}

#[test]
fn a_restore_that_cannot_be_says_why() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mount = cell.mount("acme/live");
    fs::create_dir(mount.path("dir")).unwrap();
    fs::write(mount.path("dir/file"), "x").unwrap();
    let at = next_second().to_string();
    fs::remove_dir_all(mount.path("dir")).unwrap();
    let restore =
        |path: &str, at: &str| cell.admin(&["volume", "restore", "acme/live", "--path", path, "--at", at]);
    restore("/dir/file", &at).refused(66, "/dir is not there now");
    restore("/other", &at).refused(66, "/other was not there at");
    restore("/", &at).refused(65, "root");
    restore("/dir", "nightly").refused(66, "no snapshot nightly");
    restore("/dir", "2001-01-01T00:00:00Z").refused(66, "not there yet");
    restore("/dir", "2100-01-01T00:00:00Z").refused(65, "not in the past");
    fs::create_dir(mount.path("dir")).unwrap();
    restore("/dir/file", &at).ok();
    assert_eq!(fs::read(mount.path("dir/file")).unwrap(), b"x");
}

#[test]
fn a_deleted_volume_ends_its_mounts_and_its_name_is_free() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mut mount = cell.mount("acme/live");
    fs::write(mount.path("file"), "old").unwrap();
    cell.admin(&["volume", "delete", "acme/live"]).refused(65, "1 files and directories, 3 B");
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"old");
    cell.admin(&["volume", "delete", "acme/live", "--yes"]).ok();
    let stale = || fs::read_dir(mount.root()).map(drop).map_err(errno) == Err(Errno::STALE);
    wait_for("ESTALE", SOON, stale);
    assert_eq!(fs::write(mount.path("new"), "x").map_err(errno), Err(Errno::STALE));
    cell.admin(&["volume", "show", "acme/live"]).refused(66, "no volume");

    let again = cell.mount("acme/live");
    assert_eq!(fs::read_dir(again.root()).unwrap().count(), 0, "another volume");
    fs::write(again.path("file"), "new").unwrap();
    assert_eq!(fs::read(mount.path("file")).map_err(errno), Err(Errno::STALE), "the old mount stays ended");
    assert_eq!(mount.stop(), 0);
}

#[test]
fn programs_get_erofs_while_a_volume_is_read_only() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mount = cell.mount("acme/live");
    fs::write(mount.path("file"), "one").unwrap();
    let set = |arguments: &[&str]| cell.admin(&[&["volume", "set", "acme/live"], arguments].concat()).ok();
    set(&["--read-only", "moving to another cell"]);
    let shown = cell.admin(&["--json", "volume", "show", "acme/live"]).ok().json();
    assert_eq!(shown["settings"]["read_only"], "moving to another cell");
    assert_eq!(fs::create_dir(mount.path("dir")).map_err(errno), Err(Errno::ROFS));
    assert_eq!(fs::remove_file(mount.path("file")).map_err(errno), Err(Errno::ROFS));
    assert_eq!(fs::rename(mount.path("file"), mount.path("other")).map_err(errno), Err(Errno::ROFS));
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"one");
    set(&["--read-write"]);
    let written = || fs::write(mount.path("file"), "two").is_ok();
    wait_for("writing", SOON, written);
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"two");
}

#[test]
fn settings_are_shown_as_they_were_set() {
    let cell = Cell::start();
    cell.volume("acme/live");
    let show = || cell.admin(&["--json", "volume", "show", "acme/live"]).ok().json();
    let before = show();
    assert_eq!(
        (&before["settings"]["read_only"], &before["history"]["bytes_limit"]),
        (&().into(), &().into())
    );
    cell.admin(&["volume", "set", "acme/live"]).refused(65, "nothing to change");
    let set = |arguments: &[&str]| cell.admin(&[&["volume", "set", "acme/live"], arguments].concat());
    set(&["--bytes-limit", "0", "--inodes-limit", "7", "--history-limit", "1GiB", "--serve-stale", "off"])
        .ok();
    let after = show();
    assert_eq!((&after["usage"]["bytes_limit"], &after["usage"]["inodes_limit"]), (&0.into(), &7.into()));
    assert_eq!(
        (&after["history"]["bytes_limit"], &after["settings"]["serve_stale"]),
        (&(1 << 30).into(), &"off".into())
    );
    set(&["--history-limit", "default"]).ok();
    assert_eq!(show()["history"]["bytes_limit"], serde_json::Value::Null);
    for bad in [["--inodes-limit", "0"], ["--serve-stale", "maybe"], ["--read-only", "two\nlines"]] {
        assert_eq!(set(&bad).code, 2, "{bad:?}");
    }
    let text = cell.admin(&["volume", "show", "acme/live"]).ok().stdout;
    assert!(text.contains("serve stale") && text.contains("0 B of 0 B"), "{text}");
    cell.admin(&["volume", "set", "acme/none", "--read-write"]).refused(66, "no volume acme/none");
}
