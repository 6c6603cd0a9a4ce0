//! The harness: starts demos, cells and mounts of the real binary, kills them, and cleans up.
//!
//! It panics with what went wrong, as tests want it. Nothing outlives its owner: processes are
//! killed and mounts detached when their guard is dropped.

mod cell;
mod demo;
mod journal;
mod process;
mod proxy;
mod suite;
mod tree;

pub use cell::{Cell, Mounted};
pub use demo::Demo;
pub use journal::{close_without_cell, entries, states, wait_until_committed};
pub use process::{Finished, Running, binary, run, sitefs};
pub use proxy::Proxy;
pub use suite::Suite;
pub use tree::{content, differences, files_of_size, snapshot};

use sitefs_base::{Clock, SystemClock, Time};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long anything may take that should take a moment.
pub const SOON: Duration = Duration::from_secs(60);

/// Whether this machine can mount. If not the test says SKIPPED, which `scripts/test` counts.
pub fn can_mount() -> bool {
    match fs::File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => true,
        Err(error) => skipped(&format!("/dev/fuse cannot be used: {error}")),
    }
}

/// Says loudly that a test could not run; always false.
pub fn skipped(reason: &str) -> bool {
    eprintln!("\nSKIPPED: {reason}");
    false
}

/// Waits until `condition` holds; panics with `what` when it does not within `deadline`.
pub fn wait_for(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain for: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Closes a file and gives what close() said, which dropping it does not.
#[allow(unsafe_code, reason = "the standard library has no close that tells its error")]
pub fn close(file: fs::File) -> std::io::Result<()> {
    use std::os::fd::IntoRawFd;
    // SAFETY: the descriptor was owned by `file`, which has given it up.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Waits until another second begins; that second.
pub fn next_second() -> Time {
    let now = || SystemClock.now().secs();
    let began = now();
    wait_for("the next second", SOON, || now() > began);
    Time::new(now(), 0)
}

/// Whether something is mounted at `path`, alive or dead.
pub fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("reading the mount table");
    let path = path.display().to_string();
    table.lines().any(|line| line.split(' ').nth(4) == Some(&path))
}

/// A directory that must not stay a mount: detached when this is dropped.
#[derive(Debug)]
pub struct MountPoint(PathBuf);

impl MountPoint {
    /// Makes the directory.
    pub fn create(path: PathBuf) -> Self {
        fs::create_dir_all(&path).expect("making a mount point");
        Self(path)
    }
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        for _ in 0..8 {
            if !is_mounted(&self.0) {
                return;
            }
            if rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).is_err() {
                let lazy =
                    std::process::Command::new("fusermount3").args(["-u", "-z", "--"]).arg(&self.0).status();
                drop(lazy);
            }
        }
    }
}

/// A temporary directory whose path is short, because addresses of sockets are, and has no
/// symbolic links in it.
pub fn scratch() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::Builder::new().prefix("sfs-").tempdir().expect("making a directory");
    let path = dir.path().canonicalize().expect("finding the directory");
    (dir, path)
}
