//! The disk cache of a mount: `sitefs cache`, damage, and its place on the disk.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use rustix::fs::{Advice, fadvise};
use serde_json::Value;
use sitefs_tests::{Cell, Mounted, SOON, can_mount, content, run, scratch, sitefs, skipped, wait_for};
use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

const BIG: usize = 9 << 20;

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn stats(place: &Path) -> Value {
    sitefs(&["cache", "stats", &text(place), "--json"]).ok().json()
}

fn drop_cache(place: &Path) -> Value {
    sitefs(&["cache", "drop", &text(place), "--json"]).ok().json()
}

/// Reads a file through the daemon and not from the kernel's pages.
fn read_through(path: &Path) -> Vec<u8> {
    fadvise(File::open(path).unwrap(), 0, None, Advice::DontNeed).unwrap();
    fs::read(path).unwrap()
}

fn cache_files(mount: &Mounted) -> Vec<PathBuf> {
    let fans = fs::read_dir(mount.cache().join("blobs")).unwrap();
    let files = fans.flat_map(|fan| fs::read_dir(fan.unwrap().path()).unwrap());
    files.map(|file| file.unwrap().path()).collect()
}

/// Changes a byte of every file in the cache, where it is.
fn damage(mount: &Mounted) -> usize {
    let files = cache_files(mount);
    for path in &files {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 1000).unwrap();
        file.write_all_at(&[!byte[0]], 1000).unwrap();
    }
    files.len()
}

#[test]
fn damaged_cache_files_are_dropped_and_fetched_again() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mut mount = cell.mount("acme/live");
    let bytes = content(1, BIG);
    fs::write(mount.path("big"), &bytes).unwrap();
    assert!(read_through(&mount.path("big")) == bytes);
    // While the blobs are open: what is read next is not what stands there.
    assert!(damage(&mount) >= 3);
    assert!(read_through(&mount.path("big")) == bytes);
    assert!(stats(mount.root())["mount"]["damaged"].as_u64().unwrap() >= 3);
    assert!(read_through(&mount.path("big")) == bytes, "what was fetched again is kept");
    // While nobody looks.
    assert_eq!(mount.stop(), 0);
    assert!(damage(&mount) >= 3);
    mount.start_again();
    assert!(fs::read(mount.path("big")).unwrap() == bytes);
    assert!(stats(mount.root())["mount"]["damaged"].as_u64().unwrap() >= 3);
}

#[test]
fn a_cache_is_shown_and_dropped_with_and_without_its_mount() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mut mount = cell.mount("acme/live");
    let bytes = content(2, BIG);
    fs::write(mount.path("big"), &bytes).unwrap();
    fs::create_dir(mount.path("dir")).unwrap();
    for place in [mount.root(), &mount.path("dir"), &mount.cache()] {
        let report = stats(place);
        assert_eq!(report["blobs"], 3, "{report}");
        assert!(report["bytes"].as_u64().unwrap() >= BIG as u64);
        assert_eq!(report["mount"]["mountpoint"], text(mount.root()));
    }
    assert_eq!(drop_cache(mount.root())["blobs"], 3);
    assert_eq!(stats(mount.root())["blobs"], 0);
    assert!(cache_files(&mount).is_empty());
    assert!(read_through(&mount.path("big")) == bytes, "it is fetched again");
    assert_eq!(stats(mount.root())["blobs"], 3);

    assert_eq!(mount.stop(), 0);
    let report = stats(&mount.cache());
    assert!(report["blobs"] == 3 && report["mount"].is_null(), "{report}");
    assert_eq!(drop_cache(&mount.cache())["blobs"], 3);
    assert_eq!(stats(&mount.cache())["blobs"], 0);
    mount.start_again();
    assert!(fs::read(mount.path("big")).unwrap() == bytes);
    let shown = sitefs(&["cache", "stats", &text(mount.root())]).ok().stdout;
    assert!(shown.contains("blobs") && shown.contains("limit"), "{shown}");

    let (_dir, elsewhere) = scratch();
    sitefs(&["cache", "stats", &text(&elsewhere)]).refused(66, "no cache directory");
    sitefs(&["cache", "prefetch", &text(&elsewhere)]).refused(65, "not on a mount");
    assert!(!elsewhere.join("blobs").exists(), "nothing is made there");
}

#[test]
fn what_was_prefetched_is_read_without_a_fetch() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let writer = cell.mount("acme/live");
    fs::create_dir_all(writer.path("site/deep/er")).unwrap();
    for number in 0..60_u64 {
        fs::write(writer.path(&format!("site/deep/f{number}")), content(number, 20_000)).unwrap();
    }
    fs::write(writer.path("site/deep/er/big"), content(99, BIG)).unwrap();
    fs::write(writer.path("outside"), content(100, BIG)).unwrap();
    let mut reader = cell.mount("acme/live");
    let done = sitefs(&["cache", "prefetch", &text(&reader.path("site")), "--json"]).ok().json();
    assert_eq!((&done["files"], &done["blobs"], &done["failed"]), (&61.into(), &63.into(), &0.into()));
    assert_eq!((&done["known"], &done["full"]), (&0.into(), &false.into()));
    let misses = stats(reader.root())["mount"]["misses"].clone();
    for number in 0..60_u64 {
        let read = fs::read(reader.path(&format!("site/deep/f{number}"))).unwrap();
        assert!(read == content(number, 20_000));
    }
    assert!(fs::read(reader.path("site/deep/er/big")).unwrap() == content(99, BIG));
    assert_eq!(stats(reader.root())["mount"]["misses"], misses);
    let again = sitefs(&["cache", "prefetch", &text(&reader.path("site")), "--json"]).ok().json();
    assert_eq!((&again["blobs"], &again["known"]), (&0.into(), &63.into()));

    // A cache that is too small takes what fits and says so.
    assert_eq!(reader.stop(), 0);
    let small = cell.mount_with("acme/live", &["--cache-size", "16MiB"]);
    let done = sitefs(&["cache", "prefetch", &text(small.root()), "--json"]).ok().json();
    assert_eq!(done["full"], true, "{done}");
    assert!(stats(small.root())["bytes"].as_u64().unwrap() <= 16 << 20);
}

/// A file system in memory that is unmounted when this is dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs"]).arg(at);
        match run(command, SOON).code {
            0 => Some(Self(at.to_owned())),
            _ => {
                skipped("a tmpfs cannot be mounted here");
                None
            }
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let mut command = Command::new("umount");
        command.arg("-l").arg(&self.0);
        run(command, SOON);
    }
}

#[test]
fn the_cache_makes_room_when_others_fill_the_disk() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let place = cell.data().parent().unwrap().join("mount-0/cache");
    let Some(disk) = Tmpfs::mount(&place, "320m") else { return };
    let mount = cell.mount("acme/live");
    let bytes = content(3, 20 << 20);
    fs::write(mount.path("big"), &bytes).unwrap();
    assert_eq!(stats(mount.root())["blobs"], 5);
    let least = stats(mount.root())["disk_free_min_bytes"].as_u64().unwrap();
    fs::write(disk.0.join("theirs"), vec![1; 58 << 20]).unwrap();
    let kept = || stats(mount.root());
    wait_for("free disk", SOON, || kept()["disk_free_bytes"].as_u64().unwrap() >= least);
    let left = kept();
    assert!(left["blobs"].as_u64().unwrap() < 5, "{left}");
    assert!(left["mount"]["evictions"].as_u64().unwrap() > 0, "{left}");
    assert!(read_through(&mount.path("big")) == bytes, "content that finds no room is read all the same");
    fs::remove_file(disk.0.join("theirs")).unwrap();
    drop(mount);
}
