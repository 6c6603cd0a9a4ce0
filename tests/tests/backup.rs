//! Restore drills: the data directory is lost, and a backup becomes the cell again.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use sitefs_tests::{
    Cell, Finished, Mounted, can_mount, close, content, scratch, sitefs, snapshot, states, wait_for,
};
use std::{
    fs::{self, File},
    io::{Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

const SOON: Duration = Duration::from_secs(40);
/// Closes of these tests wait a second for the cell.
const FAST: &[&str] = &["--close-deadline", "1"];

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn restore(from: &Path, data: &Path, more: &[&str]) -> Finished {
    let arguments = ["cell", "restore", "--json", "--from", text(from), "--data", text(data)];
    sitefs(&[&arguments, more].concat())
}

/// Files of every way in which content is kept.
fn fill(mount: &Mounted) {
    fs::create_dir_all(mount.path("wp-content/uploads")).unwrap();
    for (number, size) in [0, 100, 30_000, 300_000, 9 << 20].into_iter().enumerate() {
        let name = format!("wp-content/uploads/file-{number}");
        fs::write(mount.path(&name), content(number as u64, size)).unwrap();
    }
    fs::write(mount.path("index.php"), "<?php // before").unwrap();
    std::os::unix::fs::symlink("index.php", mount.path("link")).unwrap();
}

/// A process that has a file open, and appends a line of its input to it. This one may not have it open: it
/// starts others while the mount is frozen, and they would close it.
fn keep_open(path: &Path) -> Child {
    let script = r#"exec 3>>"$1"; echo open; IFS= read -r line; printf %s "$line" >&3"#;
    let mut keeper = Command::new("sh")
        .args(["-c", script, "sh", text(path)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 5];
    keeper.stdout.take().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"open\n");
    keeper
}

#[test]
fn a_lost_cell_comes_back_from_a_backup_and_a_mount_that_lived_through_goes_on() {
    if !can_mount() {
        return;
    }
    let (_keep, vault) = scratch();
    let mut cell = Cell::start();
    let mount = cell.mount_with("acme/live", FAST);
    fill(&mount);
    let before = snapshot(mount.root());
    let made = cell.admin(&["cell", "backup", "--json", "--to", text(&vault)]).ok().json();
    // All this is not in the backup.
    fs::write(mount.path("index.php"), "<?php // after").unwrap();
    fs::write(mount.path("new"), content(7, 50_000)).unwrap();
    fs::remove_file(mount.path("link")).unwrap();
    let mut keeper = keep_open(&mount.path("wp-content/uploads/file-2"));
    // Two files are closed without a cell: one grew from what the backup has, the other did not.
    let uploads = mount.path("wp-content/uploads");
    let closed = [uploads.join("file-1"), mount.path("index.php")].map(|path| {
        let mut file = File::create(path).unwrap();
        file.write_all(b"closed while there was no cell").unwrap();
        file
    });
    cell.kill9();
    closed.into_iter().for_each(|file| close(file).unwrap());
    assert_eq!(states(&mount), ["waiting"; 2]);
    fs::remove_dir_all(cell.data()).unwrap();
    let restored = restore(&vault, &cell.data(), &[]).ok().json();
    assert_eq!(restored["id"], made["id"]);
    assert!(restored["new_incarnation"].as_u64() > made["incarnation"].as_u64());
    mount.freeze();
    cell.start_again();
    let held = || cell.admin(&["status", "--json"]).ok().json()["backup"]["held"].clone();
    assert!(held().as_str().unwrap().contains("sitefs cell set --backup-to bucket"));
    cell.admin(&["cell", "set", "--backup-to", "bucket"]).ok();
    assert!(held().is_null());

    let fresh = cell.mount("acme/live");
    assert_eq!(snapshot(fresh.root()), before, "every file of before, by its digest");
    mount.thaw();
    wait_for("the old mount to go on", SOON, || fs::write(mount.path("alive"), "yes").is_ok());
    assert_eq!(fs::read(fresh.path("alive")).unwrap(), b"yes");
    wait_for("what does not fit to be kept beside the tree", SOON, || {
        let states = states(&mount);
        !states.is_empty() && states.iter().all(|state| state == "conflict")
    });
    assert_eq!(fs::read(fresh.path("index.php")).unwrap(), b"<?php // before");
    assert!(fs::symlink_metadata(mount.path("link")).is_ok(), "it shows what the cell has");
    assert!(!mount.path("new").exists(), "and not what it remembers");
    // A descriptor of before still leads to its file.
    keeper.stdin.take().unwrap().write_all(b" and appended\n").unwrap();
    assert!(keeper.wait().unwrap().success());
    let appended = [content(2, 30_000), b" and appended".to_vec()].concat();
    wait_for("the append", SOON, || fs::read(fresh.path("wp-content/uploads/file-2")).unwrap() == appended);
}

#[test]
fn a_backup_of_a_cell_that_serves_is_whole_incremental_and_listed() {
    if !can_mount() {
        return;
    }
    let (_keep, vault) = scratch();
    let cell = Cell::start();
    let mount = cell.mount("acme/live");
    fill(&mount);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                fs::write(mount.path(&format!("busy-{}", number % 50)), content(number, 2000)).unwrap();
            }
        });
        let made = [(); 3].map(|()| cell.admin(&["cell", "backup", "--to", text(&vault)]));
        // Before anything can panic: the scope waits for its threads.
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        made.into_iter().for_each(|made| drop(made.ok()));
    });
    let listed = cell.admin(&["cell", "backup", "list", "--json", "--to", text(&vault)]).ok().json();
    assert_eq!(listed.as_array().unwrap().len(), 3);
    for backup in listed.as_array().unwrap() {
        let id = backup["id"].as_str().unwrap();
        sitefs(&["cell", "restore", "--from", text(&vault), "--backup", id, "--dry-run"]).ok();
    }
    let status = cell.admin(&["status", "--json"]).ok().json();
    assert!(status["backup"]["newest"].is_string(), "{status}");
    cell.admin(&["cell", "backup"]).refused(65, "--to");
    restore(&vault, &cell.data(), &[]).refused(76, "is the data directory of a node");
    restore(&vault, &vault.join("new"), &["--backup", "none"]).refused(66, "no such backup");
}
