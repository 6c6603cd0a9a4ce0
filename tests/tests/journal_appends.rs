//! What append handles wrote before close() found no cell is in the log once, whatever dies in between.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use sitefs_tests::{
    Cell, Mounted, can_mount, close, close_without_cell, entries, sitefs, states, wait_for,
    wait_until_committed,
};
use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::Path,
    time::Duration,
};

const SOON: Duration = Duration::from_secs(40);
/// Closes of these tests wait a second for the cell.
const FAST: &[&str] = &["--close-deadline", "1"];

fn log(path: &Path) -> File {
    OpenOptions::new().append(true).create(true).open(path).unwrap()
}

/// A line that is in no other, long enough that four of them take several operations.
fn line(name: &str) -> String {
    format!("{name} {}\n", "x".repeat(40_000))
}

fn lines(names: &[&str]) -> String {
    names.iter().map(|name| line(name)).collect()
}

/// A log with one line that the cell has, and a handle that wrote others that it has not.
fn opened_log(mount: &Mounted, names: &[&str]) -> File {
    let path = mount.path("log");
    log(&path).write_all(line("first").as_bytes()).unwrap();
    // Without the cell the mount shows what is in its cache.
    fs::read(&path).unwrap();
    let mut file = log(&path);
    names.iter().for_each(|name| file.write_all(line(name).as_bytes()).unwrap());
    file
}

/// The first words of the lines of a log, each of which must be whole.
fn found(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let words = text.split_inclusive('\n').map(|line| line.split(' ').next().unwrap().to_owned());
    let words: Vec<String> = words.collect();
    assert!(text == lines(&words.iter().map(String::as_str).collect::<Vec<_>>()), "{words:?}");
    words
}

#[test]
fn what_was_appended_without_the_cell_is_kept_and_reaches_the_log_after_a_crash() {
    if !can_mount() {
        return;
    }
    let mut cell = Cell::start();
    let mut mount = cell.mount_with("acme/live", FAST);
    let file = opened_log(&mount, &["one", "two", "three"]);
    cell.kill9();
    close_without_cell(file);
    assert_eq!(states(&mount), ["waiting"]);
    assert_eq!(found(&mount.path("log")), ["first", "one", "two", "three"], "this mount shows it");
    let entry = &entries(&mount.cache())[0];
    assert_eq!((entry["appended"].as_bool(), entry["path"].as_str()), (Some(true), Some("/log")));
    assert_eq!(entry["size"], lines(&["one", "two", "three"]).len());
    mount.kill9();
    cell.start_again();
    mount.start_again();
    assert_eq!(found(&mount.path("log")), ["first", "one", "two", "three"], "the next one does");
    wait_until_committed(&mount);
    let other = cell.mount("acme/live");
    assert_eq!(found(&other.path("log")), ["first", "one", "two", "three"]);
    assert_eq!(mount.umount(), 0);
}

#[test]
fn a_mount_appends_what_it_kept_when_the_cell_is_back() {
    if !can_mount() {
        return;
    }
    let mut cell = Cell::start();
    let mount = cell.mount_with("acme/live", FAST);
    let mut file = opened_log(&mount, &["one", "two", "three"]);
    let again = file.try_clone().unwrap();
    cell.kill9();
    close_without_cell(again);
    file.write_all(line("four").as_bytes()).unwrap();
    close_without_cell(file);
    assert_eq!(states(&mount), ["waiting"], "the later record takes the place of the earlier one");
    cell.start_again();
    wait_until_committed(&mount);
    let other = cell.mount("acme/live");
    assert_eq!(found(&other.path("log")), ["first", "one", "two", "three", "four"]);
    wait_for("a write", SOON, || log(&mount.path("log")).write_all(line("five").as_bytes()).is_ok());
    wait_for("its line", SOON, || found(&other.path("log")).len() == 6);
}

/// A mount whose append the cell executes after the mount has given up waiting, and which never hears so.
/// Another mount has appended since.
fn executed_without_reply(cell: &Cell) -> (Mounted, Mounted) {
    let (one, two) = (cell.mount_with("acme/live", FAST), cell.mount("acme/live"));
    let file = opened_log(&one, &["one", "two", "three"]);
    cell.freeze();
    close_without_cell(file);
    one.freeze();
    // The first of its appends is in the cell's socket: it is executed now.
    cell.thaw();
    wait_for("the append", SOON, || found(&two.path("log")).len() > 1);
    wait_for("another line", SOON, || log(&two.path("log")).write_all(line("theirs").as_bytes()).is_ok());
    assert_eq!(states(&one), ["waiting"]);
    (one, two)
}

fn check_once(one: &Mounted, two: &Mounted) {
    wait_until_committed(one);
    for mount in [one, two] {
        wait_for("all lines", SOON, || found(&mount.path("log")).len() >= 5);
        let mut found = found(&mount.path("log"));
        let own: Vec<&String> = found.iter().filter(|name| *name != "theirs").collect();
        assert_eq!(own, ["first", "one", "two", "three"]);
        found.sort();
        assert_eq!(found, ["first", "one", "theirs", "three", "two"]);
    }
}

#[test]
fn an_append_that_did_happen_is_not_repeated_by_the_next_mount() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let (mut one, two) = executed_without_reply(&cell);
    one.kill9();
    one.start_again();
    check_once(&one, &two);
}

#[test]
fn an_append_that_did_happen_is_not_repeated_by_the_mount_that_kept_it() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let (one, two) = executed_without_reply(&cell);
    one.thaw();
    check_once(&one, &two);
}

#[test]
fn a_mount_that_dies_when_it_has_asked_the_cell_appends_nothing_twice() {
    if !can_mount() {
        return;
    }
    for step in ["Settled", "Sending", "Committed", "Removed"] {
        let cell = Cell::start();
        let (mut one, two) = executed_without_reply(&cell);
        one.kill9();
        let cut = [("SITEFS_TEST_JOURNAL_CUT", step)];
        if step == "Settled" {
            assert_eq!(one.ends_at_its_start(&cut), 128 + 6, "{step}");
        } else {
            one.start_again_with(&cut);
            assert_eq!(one.wait(), 128 + 6, "{step}");
        }
        one.start_again();
        check_once(&one, &two);
    }
}

#[test]
fn a_mount_that_dies_at_any_step_of_its_journal_loses_no_line_that_close_accepted() {
    if !can_mount() {
        return;
    }
    let before = ["Content", "ContentSynced", "Record", "RecordSynced", "Renamed", "NameSynced"];
    let after = ["Sending", "Committed", "Removed"];
    for step in before.into_iter().chain(after) {
        let mut cell = Cell::start();
        let mut mount = cell.mount_with("acme/live", FAST);
        assert_eq!(mount.stop(), 0);
        mount.start_again_with(&[("SITEFS_TEST_JOURNAL_CUT", step)]);
        let file = opened_log(&mount, &["one", "two", "three"]);
        cell.kill9();
        let accepted = close(file).is_ok();
        assert_eq!(accepted, after.contains(&step), "{step}");
        cell.start_again();
        assert_eq!(mount.wait(), 128 + 6, "{step}: it ends by SIGABRT");
        mount.start_again();
        wait_until_committed(&mount);
        let names = found(&mount.path("log"));
        let all = ["first", "one", "two", "three"];
        assert!(names == all || (!accepted && names == ["first"]), "{step}: {names:?}");
        assert_eq!(found(&cell.mount("acme/live").path("log")), names, "{step}");
    }
}

#[test]
fn several_mounts_that_keep_lines_lose_and_double_none() {
    if !can_mount() {
        return;
    }
    let mut cell = Cell::start();
    let mut mounts: Vec<Mounted> = (0..3).map(|_| cell.mount_with("acme/live", FAST)).collect();
    drop(log(&mounts[0].path("log")));
    let name = |mount: usize, n: usize| format!("{mount}-{n}");
    let write = |file: &mut File, mount: usize, n: usize| {
        file.write_all(line(&name(mount, n)).as_bytes()).unwrap();
    };
    let mut files: Vec<File> = mounts.iter().map(|mount| log(&mount.path("log"))).collect();
    for (mount, file) in files.iter_mut().enumerate() {
        (0..3).for_each(|n| write(file, mount, n));
    }
    cell.freeze();
    for (mount, mut file) in files.into_iter().enumerate() {
        (3..5).for_each(|n| write(&mut file, mount, n));
        close_without_cell(file);
    }
    mounts[0].kill9();
    cell.thaw();
    mounts[1].kill9();
    mounts[0].start_again();
    cell.kill9();
    mounts[0].kill9();
    cell.start_again();
    mounts[..2].iter_mut().for_each(Mounted::start_again);
    mounts.iter().for_each(wait_until_committed);
    let mut expected: Vec<String> = (0..3).flat_map(|mount| (0..5).map(move |n| name(mount, n))).collect();
    expected.sort();
    for mount in &mounts {
        let path = mount.path("log");
        wait_for("all lines", SOON, || found(&path).len() >= 15);
        let mut all = found(&path);
        all.sort();
        assert_eq!(all, expected);
    }
}

#[test]
fn what_was_appended_to_a_file_that_others_removed_is_a_conflict() {
    if !can_mount() {
        return;
    }
    let mut cell = Cell::start();
    let (mut one, two) = (cell.mount_with("acme/live", FAST), cell.mount("acme/live"));
    let file = opened_log(&one, &["one", "two"]);
    cell.kill9();
    close_without_cell(file);
    one.kill9();
    cell.start_again();
    wait_for("the removal", SOON, || fs::remove_file(two.path("log")).is_ok());
    one.start_again();
    wait_for("a conflict", SOON, || states(&one) == ["conflict"]);
    assert_eq!(fs::read_dir(one.root()).unwrap().count(), 0, "nothing comes into the tree");
    let cache = one.cache().display().to_string();
    let number = entries(&one.cache())[0]["number"].to_string();
    let out = one.cache().with_file_name("out").display().to_string();
    let exported = sitefs(&["journal", "export", "--json", &cache, &out]).ok().json();
    let file = exported[0]["file"].as_str().unwrap();
    assert_eq!(fs::read_to_string(file).unwrap(), lines(&["one", "two"]));
    fs::write(two.path("other"), line("there")).unwrap();
    let to = two.path("other").display().to_string();
    sitefs(&["journal", "apply", &cache, &number, "--to", &to]).refused(65, "behind what is there now");
    sitefs(&["journal", "apply", &cache, &number, "--to", &to, "--yes"]).ok();
    assert!(states(&one).is_empty());
    assert_eq!(found(&two.path("other")), ["there", "one", "two"]);
}
