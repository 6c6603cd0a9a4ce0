//! The correctness suites of `tests/suites` on a mount. What is known to fail is listed here by
//! name, and in docs/SEMANTICS.md with the reason.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use sitefs_tests::{Cell, Demo, Mounted, Suite, can_mount, skipped};

fn can_run() -> bool {
    can_mount() && (rustix::process::geteuid().is_root() || skipped("the suites need root"))
}

/// Whether the kernel may read cached files by itself; the suites find the same in either case.
const MODES: [&[&str]; 2] = [&[], &["--passthrough"]];

/// Runs a suite on a mount of each mode.
fn on_one(run: impl Fn(&Demo)) {
    if can_run() {
        MODES.iter().for_each(|mode| run(&Demo::with(mode, &[])));
    }
}

/// Runs a suite on two mounts of one volume, in each mode.
fn on_two(run: impl Fn(&Mounted, &Mounted)) {
    if !can_run() {
        return;
    }
    for mode in MODES {
        let cell = Cell::start();
        run(&cell.mount_with("acme/live", mode), &cell.mount_with("acme/live", mode));
    }
}

#[test]
fn pjdfstest() {
    on_one(|demo| {
        // A new file gets its times when it is published, which is at close (DESIGN D14): the case looks
        // at a file before and after closing it.
        Suite::new("pjdfstest_rs.sh", demo.root()).expect(&[]);
    });
}

#[test]
fn limits() {
    on_one(|demo| {
        Suite::new("limits.py", demo.root()).args(&["--quick"]).expect(&[]);
    });
}

#[test]
fn difffs() {
    on_one(|demo| {
        Suite::new("difffs.py", demo.root()).args(&["--seeds", "20"]).expect(&[]);
    });
}

#[test]
fn git() {
    on_one(|demo| {
        Suite::new("git.sh", demo.root()).env("FILES", "500").expect(&[]);
    });
}

#[test]
fn sqlite() {
    on_one(|demo| {
        Suite::new("sqlite.py", demo.root()).args(&["--secs", "4"]).expect(&[]);
    });
}

#[test]
fn fio_verify() {
    on_one(|demo| {
        Suite::new("fio_verify.sh", demo.root()).env("SIZE", "16m").expect(&[]);
    });
}

#[test]
fn difffs_seeds_that_failed_once() {
    on_one(|demo| {
        for seed in [33, 172, 199, 204, 225, 227] {
            Suite::new("difffs.py", demo.root()).args(&["--seeds", &format!("1@{seed}")]).expect(&[]);
        }
    });
}

#[test]
fn coherence() {
    on_two(|one, two| {
        Suite::new("coherence.py", one.root())
            .and(two.root())
            .args(&["--rounds", "20", "--secs", "3"])
            .expect(&[]);
    });
}

#[test]
fn sqlite_on_two_mounts() {
    on_two(|one, two| {
        Suite::new("sqlite.py", one.root()).and(two.root()).args(&["--secs", "4"]).expect(&[]);
    });
}

#[test]
fn git_on_two_mounts() {
    on_two(|one, two| {
        Suite::new("git.sh", one.root()).and(two.root()).env("FILES", "500").expect(&[]);
    });
}
