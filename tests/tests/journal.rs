//! What close() accepts while the cell is away is never lost: it is shown, survives the death of the
//! mount, and reaches the tree once, or stays beside it as a conflict.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use sitefs_tests::{
    Cell, Mounted, can_mount, close, close_without_cell, content, entries, sitefs, states, wait_for,
    wait_until_committed,
};
use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(40);
/// Closes of these tests wait a second for the cell.
const FAST: &[&str] = &["--close-deadline", "1"];

/// Opens a file for writing, emptied, and writes into it: all but the close.
fn written(path: &Path, bytes: &[u8]) -> File {
    let mut file = File::create(path).unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[test]
fn closes_that_the_cell_does_not_answer_are_kept_and_reach_the_tree_after_a_crash() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mut mount = cell.mount_with("acme/live", FAST);
    let sizes = [("tiny", 100), ("small", 30_000), ("large", 300_000), ("huge", 9 << 20)];
    fs::write(mount.path("there"), content(1, 200_000)).unwrap();
    let mut files: Vec<(&str, File)> =
        sizes.iter().map(|(name, size)| (*name, written(&mount.path(name), &content(2, *size)))).collect();
    files.push(("there", written(&mount.path("there"), &content(3, 90_000))));
    cell.freeze();
    files.into_iter().for_each(|(_, file)| close_without_cell(file));
    let check = |mount: &Mounted| {
        for (name, size) in sizes {
            assert!(fs::read(mount.path(name)).unwrap() == content(2, size), "{name}");
        }
        assert!(fs::read(mount.path("there")).unwrap() == content(3, 90_000));
    };
    check(&mount);
    assert_eq!(states(&mount), ["waiting"; 5]);
    mount.kill9();
    assert_eq!(states(&mount), ["waiting"; 5], "it can be read while nothing is mounted");
    cell.thaw();
    mount.start_again();
    check(&mount);
    wait_until_committed(&mount);
    check(&mount);
    let other = cell.mount("acme/live");
    check(&other);
    assert_eq!(fs::read_dir(other.root()).unwrap().count(), 5);
    assert_eq!(mount.umount(), 0);
}

#[test]
fn close_gives_the_cell_ten_seconds() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mount = cell.mount("acme/live");
    let file = written(&mount.path("file"), b"hello");
    cell.freeze();
    let start = Instant::now();
    close(file).unwrap();
    let took = start.elapsed();
    assert!((Duration::from_secs(9)..Duration::from_secs(15)).contains(&took), "{took:?}");
    cell.thaw();
    wait_until_committed(&mount);
}

#[test]
fn a_mount_commits_its_journal_when_the_cell_is_back() {
    if !can_mount() {
        return;
    }
    let mut cell = Cell::start();
    let mount = cell.mount_with("acme/live", FAST);
    fs::write(mount.path("there"), content(1, 10 << 20)).unwrap();
    let new = written(&mount.path("new"), &content(2, 5_000));
    // One chunk of three.
    let part = OpenOptions::new().write(true).open(mount.path("there")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&part, b"changed", 5 << 20).unwrap();
    cell.kill9();
    close_without_cell(new);
    close_without_cell(part);
    assert_eq!(states(&mount), ["waiting"; 2]);
    cell.start_again();
    wait_until_committed(&mount);
    let other = cell.mount("acme/live");
    assert!(fs::read(other.path("new")).unwrap() == content(2, 5_000));
    let mut expected = content(1, 10 << 20);
    expected[5 << 20..][..7].copy_from_slice(b"changed");
    assert!(fs::read(other.path("there")).unwrap() == expected);
    fs::write(mount.path("there"), "the file goes on").unwrap();
}

#[test]
fn a_later_close_of_the_same_file_takes_the_place_of_the_earlier_one() {
    if !can_mount() {
        return;
    }
    let mut cell = Cell::start();
    let mut mount = cell.mount_with("acme/live", FAST);
    let path = mount.path("file");
    let mut file = written(&path, &content(1, 100_000));
    let again = file.try_clone().unwrap();
    cell.kill9();
    close_without_cell(again);
    file.write_all(b"and more").unwrap();
    close_without_cell(file);
    assert_eq!(states(&mount), ["waiting"]);
    mount.kill9();
    cell.start_again();
    mount.start_again();
    wait_until_committed(&mount);
    let expected = [&content(1, 100_000)[..], b"and more"].concat();
    assert!(fs::read(cell.mount("acme/live").path("file")).unwrap() == expected);
}

/// Two mounts; the first journals a change of a file while the cell is dead, and dies or is frozen.
fn journaled_change(cell: &mut Cell) -> (Mounted, Mounted) {
    let (one, two) = (cell.mount_with("acme/live", FAST), cell.mount("acme/live"));
    fs::write(one.path("file"), "first").unwrap();
    let file = written(&one.path("file"), b"journaled");
    cell.kill9();
    close_without_cell(file);
    assert_eq!(fs::read(one.path("file")).unwrap(), b"journaled");
    (one, two)
}

fn check_conflict(one: &Mounted, two: &Mounted) {
    wait_for("a conflict", SOON, || states(one) == ["conflict"]);
    for mount in [one, two] {
        let is_there = || fs::read(mount.path("file")).is_ok_and(|found| found == b"others wrote this");
        wait_for("what the others wrote", SOON, is_there);
        assert_eq!(fs::read_dir(mount.root()).unwrap().count(), 1, "nothing else comes into the tree");
    }
    let cache = one.cache().display().to_string();
    let number = entries(&one.cache())[0]["number"].to_string();
    let out = one.cache().with_file_name("out");
    let exported = sitefs(&["journal", "export", "--json", &cache, out.to_str().unwrap()]).ok().json();
    let file = exported[0]["file"].as_str().unwrap();
    assert_eq!(fs::read(file).unwrap(), b"journaled");
    let to = two.path("file").display().to_string();
    let elsewhere = out.join("elsewhere").display().to_string();
    sitefs(&["journal", "apply", &cache, &number, "--to", &elsewhere, "--yes"])
        .refused(65, "not on a mount of acme/live");
    sitefs(&["journal", "apply", &cache, &number, "--to", &to]).refused(65, "nothing was changed");
    sitefs(&["journal", "apply", &cache, &number, "--discard"]).refused(65, "nothing was changed");
    assert_eq!(states(one), ["conflict"]);
    sitefs(&["journal", "apply", &cache, &number, "--to", &to, "--yes"]).ok();
    assert!(states(one).is_empty());
    wait_for("the applied content", SOON, || fs::read(one.path("file")).unwrap() == b"journaled");
}

#[test]
fn what_others_changed_meanwhile_stays_and_the_journaled_bytes_are_a_conflict() {
    if !can_mount() {
        return;
    }
    let mut cell = Cell::start();
    let (one, two) = journaled_change(&mut cell);
    one.freeze();
    cell.start_again();
    wait_for("a write of the other mount", SOON, || fs::write(two.path("file"), "others wrote this").is_ok());
    one.thaw();
    check_conflict(&one, &two);
}

#[test]
fn a_conflict_is_found_by_the_next_mount_too() {
    if !can_mount() {
        return;
    }
    let mut cell = Cell::start();
    let (mut one, two) = journaled_change(&mut cell);
    one.kill9();
    cell.start_again();
    wait_for("a write of the other mount", SOON, || fs::write(two.path("file"), "others wrote this").is_ok());
    one.start_again();
    check_conflict(&one, &two);
}

#[test]
fn a_new_file_whose_name_was_taken_meanwhile_is_a_conflict() {
    if !can_mount() {
        return;
    }
    let mut cell = Cell::start();
    let (one, two) = (cell.mount_with("acme/live", FAST), cell.mount("acme/live"));
    let file = written(&one.path("file"), b"journaled");
    cell.kill9();
    close_without_cell(file);
    one.freeze();
    cell.start_again();
    wait_for("a write of the other mount", SOON, || fs::write(two.path("file"), "others wrote this").is_ok());
    one.thaw();
    check_conflict(&one, &two);
}

/// Two mounts; the commit of the first was executed, but it has journaled the file, hears no reply, and
/// the second has changed the file since.
fn executed_without_reply(cell: &Cell) -> (Mounted, Mounted) {
    let (one, two) = (cell.mount_with("acme/live", FAST), cell.mount("acme/live"));
    fs::write(one.path("file"), "first").unwrap();
    let file = written(&one.path("file"), b"journaled");
    cell.freeze();
    close_without_cell(file);
    one.freeze();
    // The commit is in the cell's socket: it is executed now.
    cell.thaw();
    wait_for("the commit", SOON, || fs::read(two.path("file")).is_ok_and(|found| found == b"journaled"));
    wait_for("a write of the other mount", SOON, || fs::write(two.path("file"), "and later this").is_ok());
    assert_eq!(states(&one), ["waiting"]);
    (one, two)
}

fn check_that_it_is_recognised(one: &Mounted, two: &Mounted) {
    wait_until_committed(one);
    for mount in [one, two] {
        let is_there = || fs::read(mount.path("file")).is_ok_and(|found| found == b"and later this");
        wait_for("what was written last", SOON, is_there);
    }
}

#[test]
fn a_commit_that_did_happen_is_recognised_although_others_wrote_after_it() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let (mut one, two) = executed_without_reply(&cell);
    one.kill9();
    one.start_again();
    check_that_it_is_recognised(&one, &two);
}

#[test]
fn a_reply_that_comes_late_settles_the_journal() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let (one, two) = executed_without_reply(&cell);
    one.thaw();
    check_that_it_is_recognised(&one, &two);
}

#[test]
fn a_full_journal_makes_close_fail_and_the_bytes_stay_with_the_mount() {
    if !can_mount() {
        return;
    }
    let mut cell = Cell::start();
    let mount = cell.mount_with("acme/live", &[FAST, &["--journal-size", "64KiB"]].concat());
    let file = written(&mount.path("file"), &content(1, 100_000));
    cell.kill9();
    assert_eq!(close(file).unwrap_err().raw_os_error(), Some(libc::EIO));
    assert!(states(&mount).is_empty());
    assert!(fs::read(mount.path("file")).unwrap() == content(1, 100_000));
    cell.start_again();
    let other = cell.mount("acme/live");
    wait_for("the commit", SOON, || {
        fs::read(other.path("file")).is_ok_and(|found| found == content(1, 100_000))
    });
}

#[test]
fn fsync_never_journals() {
    if !can_mount() {
        return;
    }
    let mut cell = Cell::start();
    let mount = cell.mount_with("acme/live", FAST);
    let file = written(&mount.path("file"), b"hello");
    cell.kill9();
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
    // Not by a command: a child closes its copies of the open files when it begins.
    let names = fs::read_dir(mount.cache().join("journal")).unwrap();
    assert_eq!(names.count(), 1, "only the lock");
    close_without_cell(file);
    assert_eq!(states(&mount), ["waiting"]);
    cell.start_again();
    wait_until_committed(&mount);
    assert_eq!(fs::read(cell.mount("acme/live").path("file")).unwrap(), b"hello");
}

#[test]
fn while_the_journal_waits_files_are_not_opened_for_writing() {
    if !can_mount() {
        return;
    }
    let mut cell = Cell::start();
    let mount = cell.mount_with("acme/live", FAST);
    fs::write(mount.path("other"), "other").unwrap();
    let file = written(&mount.path("file"), b"hello");
    cell.kill9();
    close_without_cell(file);
    let refused = |done: std::io::Result<File>, start: Instant| {
        assert_eq!(done.unwrap_err().raw_os_error(), Some(libc::EIO));
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    };
    refused(File::create(mount.path("new")), Instant::now());
    refused(OpenOptions::new().write(true).open(mount.path("other")), Instant::now());
    refused(OpenOptions::new().append(true).open(mount.path("other")), Instant::now());
    assert_eq!(fs::read(mount.path("other")).unwrap(), b"other");
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"hello");
    cell.start_again();
    wait_for("a write", SOON, || fs::write(mount.path("new"), "new").is_ok());
    wait_until_committed(&mount);
}

#[test]
fn content_that_the_store_does_not_take_is_kept() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mut mount = cell.mount_with("acme/live", FAST);
    let (blobs, away) = (cell.data().join("blobs"), cell.data().join("away"));
    fs::rename(&blobs, &away).unwrap();
    fs::write(&blobs, "in the way").unwrap();
    close(written(&mount.path("file"), &content(1, 300_000))).unwrap();
    assert_eq!(states(&mount), ["waiting"]);
    mount.kill9();
    mount.start_again();
    assert!(fs::read(mount.path("file")).unwrap() == content(1, 300_000), "the next mount shows it");
    assert_eq!(states(&mount), ["waiting"]);
    fs::remove_file(&blobs).unwrap();
    fs::rename(&away, &blobs).unwrap();
    wait_until_committed(&mount);
    assert!(fs::read(cell.mount("acme/live").path("file")).unwrap() == content(1, 300_000));
}

#[test]
fn a_mount_that_ends_with_a_journal_says_so_and_the_next_one_commits_it() {
    if !can_mount() {
        return;
    }
    let mut cell = Cell::start();
    let mut mount = cell.mount_with("acme/live", FAST);
    let file = written(&mount.path("file"), b"hello");
    let open = written(&mount.path("open"), b"still open");
    cell.kill9();
    close_without_cell(file);
    assert_eq!(mount.stop(), 75);
    drop(open);
    assert_eq!(states(&mount), ["waiting"; 2], "an open file is kept too");
    cell.start_again();
    mount.start_again();
    wait_until_committed(&mount);
    assert_eq!(mount.stop(), 0);
    let other = cell.mount("acme/live");
    assert_eq!(fs::read(other.path("file")).unwrap(), b"hello");
    assert_eq!(fs::read(other.path("open")).unwrap(), b"still open");
}

#[test]
fn a_journal_belongs_to_one_mount_and_one_volume() {
    if !can_mount() {
        return;
    }
    let mut cell = Cell::start();
    let mut mount = cell.mount_with("acme/live", FAST);
    cell.volume("acme/dev");
    let journal = mount.cache().join("journal").display().to_string();
    let (point, cache) = (mount.cache().with_file_name("point"), mount.cache().with_file_name("cache-2"));
    fs::create_dir(&point).unwrap();
    let listen = cell.listen().to_owned();
    let other = |volume: &str| {
        let (point, cache) = (point.display().to_string(), cache.display().to_string());
        sitefs(&[
            "mount",
            volume,
            &point,
            "--cell",
            &listen,
            "--cache",
            &cache,
            "--journal",
            &journal,
            "--insecure",
        ])
    };
    other("acme/live").refused(75, "another mount uses the journal");
    let file = written(&mount.path("file"), b"hello");
    cell.kill9();
    close_without_cell(file);
    mount.kill9();
    cell.start_again();
    other("acme/dev").refused(75, "acme/live");
}

/// Every step at which a mount can die, in a process of its own: what close() has accepted is there
/// afterwards, once and whole; what it has not is absent, empty or whole.
#[test]
fn a_mount_that_dies_at_any_step_of_its_journal_loses_nothing_that_close_accepted() {
    if !can_mount() {
        return;
    }
    let before = ["Content", "ContentSynced", "Record", "RecordSynced", "Renamed", "NameSynced"];
    let after = ["Sending", "Committed", "Removed"];
    for step in before.into_iter().chain(after) {
        let mut cell = Cell::start();
        let mut mount = cell.mount_with("acme/live", FAST);
        fs::write(mount.path("there"), "old").unwrap();
        assert_eq!(mount.stop(), 0);
        mount.start_again_with(&[("SITEFS_TEST_JOURNAL_CUT", step)]);
        let (there, new) = (written(&mount.path("there"), b"changed"), mount.path("new"));
        let new = written(&new, &content(1, 100_000));
        cell.kill9();
        let accepted = close(there).is_ok();
        assert_eq!(accepted, after.contains(&step), "{step}");
        drop(new);
        cell.start_again();
        assert_eq!(mount.wait(), 128 + 6, "{step}: it ends by SIGABRT");
        mount.start_again();
        wait_until_committed(&mount);
        let found = fs::read(mount.path("there")).unwrap();
        let whole: &[&[u8]] = if accepted { &[b"changed"] } else { &[b"old", b"changed"] };
        assert!(whole.contains(&&found[..]), "{step}: {found:?}");
        let new = fs::read(mount.path("new")).unwrap_or_default();
        assert!(new == content(1, 100_000) || (!accepted && new.is_empty()), "{step}: {}", new.len());
        let other = cell.mount("acme/live");
        assert_eq!(fs::read(other.path("there")).unwrap(), found, "{step}");
    }
}
