//! The last step of every test: nothing is wrong with what it leaves behind.

use crate::sitefs;
use std::path::Path;

/// Checks the data directory of a server or demo that has ended, if the test has not failed yet. Blobs in a
/// bucket are left alone: the bucket may be gone by now.
pub(crate) fn nothing_is_wrong(data: &Path) {
    // A test that never started anything, or took its data away, leaves nothing to check.
    let is_there = data.join("state/CURRENT").exists() || data.join("cell/state/CURRENT").exists();
    if std::thread::panicking() || !is_there {
        return;
    }
    let mut arguments = vec!["fsck".to_owned(), "--data".to_owned(), data.display().to_string()];
    arguments.extend(["--snapshots", "--json"].map(str::to_owned));
    let is_bucket =
        |dir: &Path| std::fs::read_to_string(dir.join("backend")).is_ok_and(|text| text.starts_with("s3"));
    if is_bucket(data) || is_bucket(&data.join("cell")) {
        arguments.push("--no-objects".to_owned());
    }
    let checked = sitefs(&arguments);
    assert_eq!(checked.code, 0, "fsck after the test: {}\n{}", checked.stdout, checked.stderr);
}
