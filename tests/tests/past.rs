//! The past of a volume, mounted beside the present.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use rustix::{fs::XattrFlags, io::Errno};
use sitefs_base::{Clock, SystemClock, Time};
use sitefs_tests::{Cell, Mounted, SOON, can_mount, content, scratch, sitefs, snapshot, wait_for};
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

/// What can be seen of a tree: every path, extended attributes, and how much it holds.
#[derive(PartialEq, Debug)]
struct Seen {
    tree: BTreeMap<PathBuf, String>,
    owner: Vec<u8>,
    numbers: [u64; 4],
}

impl Seen {
    fn of(root: &Path) -> Self {
        let mut owner = vec![0; 100];
        let len = rustix::fs::getxattr(root.join("dir/large"), "user.owner", &mut owner[..]).unwrap();
        owner.truncate(len);
        let stat = rustix::fs::statvfs(root).unwrap();
        let links = fs::metadata(root.join("dir/large")).unwrap().nlink();
        let times = fs::metadata(root).unwrap().mtime_nsec();
        let used = stat.f_blocks - stat.f_bfree;
        Self { tree: snapshot(root), owner, numbers: [used, inodes_used(root), links, times.unsigned_abs()] }
    }
}

fn set_owner(mount: &Mounted, value: &str) {
    let path = mount.path("dir/large");
    rustix::fs::setxattr(path, "user.owner", value.as_bytes(), XattrFlags::empty()).unwrap();
}

fn fill(mount: &Mounted) {
    fs::create_dir_all(mount.path("dir/sub")).unwrap();
    for (name, size) in
        [("empty", 0), ("tiny", 9), ("dir/small", 5_000), ("dir/large", 300_000), ("dir/sub/huge", 9 << 20)]
    {
        fs::write(mount.path(name), content(size as u64, size)).unwrap();
    }
    fs::hard_link(mount.path("dir/large"), mount.path("second-name")).unwrap();
    symlink("dir/small", mount.path("link")).unwrap();
    set_owner(mount, "then");
}

fn change(mount: &Mounted) {
    fs::write(mount.path("tiny"), "overwritten").unwrap();
    fs::rename(mount.path("dir/small"), mount.path("dir/renamed")).unwrap();
    fs::remove_file(mount.path("second-name")).unwrap();
    fs::set_permissions(mount.path("dir/large"), PermissionsExt::from_mode(0o600)).unwrap();
    set_owner(mount, "now");
    let mut huge = OpenOptions::new().write(true).open(mount.path("dir/sub/huge")).unwrap();
    huge.write_all(b"the first bytes").unwrap();
    huge.set_len(5 << 20).unwrap();
    drop(huge);
    fs::rename(mount.path("dir/sub"), mount.path("sub")).unwrap();
    fs::remove_file(mount.path("link")).unwrap();
    fs::write(mount.path("added"), "new").unwrap();
}

fn inodes_used(root: &Path) -> u64 {
    let stat = rustix::fs::statvfs(root).unwrap();
    stat.f_files - stat.f_ffree
}

fn now() -> Time {
    SystemClock.now()
}

/// Waits until another second begins; that second.
fn next_second() -> Time {
    let began = now().secs();
    wait_for("the next second", SOON, || now().secs() > began);
    Time::new(now().secs(), 0)
}

fn source(mount: &Mounted) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains(&mount.root().display().to_string())).unwrap();
    line.split(' ').rev().nth(1).unwrap().to_owned()
}

#[test]
fn a_snapshot_and_a_time_show_the_volume_as_it_was() {
    if !can_mount() {
        return;
    }
    let mut cell = Cell::start();
    let live = cell.mount("acme/live");
    fill(&live);
    let time = next_second();
    // A mount hears once a second how much is used.
    wait_for("what is used", SOON, || inodes_used(live.root()) == 9);
    let before = Seen::of(live.root());
    cell.admin(&["volume", "snapshot", "create", "acme/live", "before"]).ok();
    change(&live);

    let mut past = cell.mount_with("acme/live@before", &[]);
    let then = cell.mount_with(&format!("acme/live@{time}"), &[]);
    assert_eq!(Seen::of(past.root()), before);
    assert_ne!(Seen::of(live.root()).tree, before.tree);
    assert!(source(&past).ends_with(":acme/live@before"), "{}", source(&past));
    let refused = fs::write(past.path("tiny"), "x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::ROFS.raw_os_error()));
    assert!(fs::create_dir(past.path("new")).is_err() && fs::remove_file(past.path("tiny")).is_err());

    // The cell comes back: both mounts go on, also with what they have not looked at so far.
    cell.kill9();
    cell.start_again();
    fs::write(live.path("after"), "the live mount is attached again").unwrap();
    wait_for("the mount of a time", SOON, || fs::metadata(then.path("tiny")).is_ok());
    assert_eq!(Seen::of(then.root()), before);
    assert_eq!(Seen::of(past.root()), before);

    // The mount keeps what the snapshot no longer does; with it the last goes.
    cell.admin(&["volume", "snapshot", "delete", "acme/live", "before"]).ok();
    fs::remove_file(live.path("empty")).unwrap();
    assert_eq!(Seen::of(past.root()), before);
    assert_eq!(past.umount(), 0);
    mount(&cell, "acme/live@before").refused(66, "no snapshot before of acme/live");
}

fn mount(cell: &Cell, view: &str) -> sitefs_tests::Finished {
    let (_dir, path) = scratch();
    let (root, cache) = (path.join("root"), path.join("cache"));
    fs::create_dir(&root).unwrap();
    let (root, cache) = (root.display().to_string(), cache.display().to_string());
    sitefs(&["mount", view, &root, "--cell", cell.listen(), "--cache", &cache, "--insecure"])
}

#[test]
fn moments_that_are_not_there_are_refused_with_a_reason() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    cell.volume("acme/live");
    mount(&cell, "acme/live@nothing").refused(66, "no snapshot nothing of acme/live");
    mount(&cell, "acme/live@2001-01-01T00:00:00Z").refused(66, "did not exist yet");
    mount(&cell, "acme/live@2999-01-01T00:00:00Z").refused(65, "in the future");
    mount(&cell, "acme/other@nothing").refused(66, "no volume acme/other");
    assert_eq!(mount(&cell, "acme/live@a/b").code, 2);
}

#[test]
fn snapshots_are_made_listed_and_deleted() {
    let cell = Cell::start();
    cell.volume("acme/live");
    let snapshot = |arguments: &[&str]| cell.admin(&[&["volume", "snapshot"], arguments].concat());
    assert!(snapshot(&["list", "acme/live"]).ok().stdout.contains("no snapshots"));
    let made = snapshot(&["create", "acme/live", "one", "--json"]).ok().json();
    assert_eq!((made["name"].as_str(), made["seq"].as_u64()), (Some("one"), Some(0)));
    let time = next_second().to_string();
    snapshot(&["create", "acme/live", "two", "--at", &time]).ok();
    snapshot(&["create", "acme/live", "one"]).refused(76, "exists already");
    snapshot(&["create", "acme/live", "late", "--at", "2999-01-01T00:00:00Z"]).refused(65, "in the future");
    snapshot(&["create", "acme/live", "early", "--at", "2001-01-01T00:00:00Z"]).refused(66, "did not exist");
    assert_eq!(snapshot(&["create", "acme/live", "bad/name"]).code, 2);
    let listed = snapshot(&["list", "acme/live", "--json"]).ok().json();
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|found| found["name"].as_str()).collect();
    assert_eq!(names, [Some("one"), Some("two")]);
    assert_eq!(listed[1]["at"].as_str(), Some(time.as_str()));
    assert!(snapshot(&["list", "acme/live"]).ok().stdout.contains("two"));
    snapshot(&["delete", "acme/live", "one"]).ok();
    snapshot(&["delete", "acme/live", "one"]).refused(66, "no snapshot one");
    snapshot(&["list", "acme/other"]).refused(66, "no volume acme/other");
}
