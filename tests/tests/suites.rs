//! The correctness suites of `tests/suites` on a mount. What is known to fail is listed here by
//! name, and in docs/SEMANTICS.md with the reason.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use sitefs_tests::{Cell, Demo, Mounted, Suite, can_mount, skipped};

fn can_run() -> bool {
    can_mount() && (rustix::process::geteuid().is_root() || skipped("the suites need root"))
}

fn demo() -> Option<Demo> {
    can_run().then(Demo::start)
}

/// Two mounts of one volume.
fn two_mounts() -> Option<(Cell, Mounted, Mounted)> {
    if !can_run() {
        return None;
    }
    let cell = Cell::start();
    let (one, two) = (cell.mount("acme/live"), cell.mount("acme/live"));
    Some((cell, one, two))
}

#[test]
fn pjdfstest() {
    let Some(demo) = demo() else { return };
    // A new file gets its times when it is published, which is at close (DESIGN D14): the case looks
    // at a file before and after closing it.
    Suite::new("pjdfstest_rs.sh", demo.root()).expect(&[]);
}

#[test]
fn limits() {
    let Some(demo) = demo() else { return };
    Suite::new("limits.py", demo.root()).args(&["--quick"]).expect(&[]);
}

#[test]
fn difffs() {
    let Some(demo) = demo() else { return };
    Suite::new("difffs.py", demo.root()).args(&["--seeds", "20"]).expect(&[]);
}

#[test]
fn git() {
    let Some(demo) = demo() else { return };
    Suite::new("git.sh", demo.root()).env("FILES", "500").expect(&[]);
}

#[test]
fn sqlite() {
    let Some(demo) = demo() else { return };
    Suite::new("sqlite.py", demo.root()).args(&["--secs", "4"]).expect(&[]);
}

#[test]
fn fio_verify() {
    let Some(demo) = demo() else { return };
    Suite::new("fio_verify.sh", demo.root()).env("SIZE", "16m").expect(&[]);
}

#[test]
fn difffs_seeds_that_failed_once() {
    let Some(demo) = demo() else { return };
    for seed in [33, 172, 199, 204, 225, 227] {
        Suite::new("difffs.py", demo.root()).args(&["--seeds", &format!("1@{seed}")]).expect(&[]);
    }
}

#[test]
fn coherence() {
    let Some((_cell, one, two)) = two_mounts() else { return };
    Suite::new("coherence.py", one.root())
        .and(two.root())
        .args(&["--rounds", "20", "--secs", "3"])
        .expect(&[]);
}

#[test]
fn sqlite_on_two_mounts() {
    let Some((_cell, one, two)) = two_mounts() else { return };
    Suite::new("sqlite.py", one.root()).and(two.root()).args(&["--secs", "4"]).expect(&[]);
}

#[test]
fn git_on_two_mounts() {
    let Some((_cell, one, two)) = two_mounts() else { return };
    Suite::new("git.sh", one.root()).and(two.root()).env("FILES", "500").expect(&[]);
}
