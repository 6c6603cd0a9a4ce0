//! Looks at mount points: what is there, may we mount on it, and how to get a mount off it.

use crate::places::{MountEntry, absolute, mounts, outside_cells};
use sitefs_base::{Error, Result};
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

/// How long a mount has to answer.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// Whether a missing mount point is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Make it.
    #[cfg(feature = "server")]
    Create,
    /// Refuse.
    Refuse,
}

/// Checks that `path` can be mounted on and gives its absolute form. A dead mount of ours that
/// a killed process left there is detached first.
pub(crate) fn prepare(path: &Path, missing: Missing) -> Result<PathBuf> {
    if !Path::new("/dev/fuse").exists() {
        return Err(Error::unavailable(
            "there is no /dev/fuse: load the module (modprobe fuse), or start the container with \
             --device /dev/fuse --cap-add SYS_ADMIN",
        ));
    }
    let path = absolute(path)?;
    outside_cells(&path, "mount point")?;
    let mounted = mounts()?.into_iter().rev().find(|mount| mount.at == path);
    // Another mount there may hang: only the table is looked at.
    let there = if mounted.is_some() { Ok(()) } else { fs::metadata(&path).map(drop) };
    match (there, mounted) {
        (_, Some(mount)) if mount.is_ours() && life(&path) == Life::Dead => detach(&path)?,
        (_, Some(mount)) => return Err(taken(&path, &mount)),
        (Err(error), None) if error.kind() == io::ErrorKind::NotFound => make(&path, missing)?,
        (Err(error), None) => return Err(Error::io(format!("looking at {}", path.display()), error)),
        (Ok(_), None) => {}
    }
    empty_directory(&path)?;
    Ok(path)
}

fn taken(path: &Path, mount: &MountEntry) -> Error {
    let kind = String::from_utf8_lossy(&mount.kind);
    Error::already_exists(format!(
        "{} is a mount of {kind} already: unmount it first (sitefs umount, or umount)",
        path.display()
    ))
}

fn make(path: &Path, missing: Missing) -> Result<()> {
    if missing == Missing::Refuse {
        return Err(Error::not_found(format!("{} does not exist: mkdir it first", path.display())));
    }
    fs::create_dir_all(path).map_err(|error| Error::io(format!("making {}", path.display()), error))
}

fn empty_directory(path: &Path) -> Result<()> {
    let mut entries = fs::read_dir(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotADirectory => {
            Error::invalid(format!("{} is not a directory, so it cannot be a mount point", path.display()))
        }
        _ => Error::io(format!("reading {}", path.display()), error),
    })?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(Error::invalid(format!(
            "{} is not empty, and a mount would hide what is in it: choose an empty directory",
            path.display()
        ))),
    }
}

/// Refuses if one of the two directories is the other or inside it.
pub(crate) fn apart(mountpoint: &Path, other: &Path, what: &str) -> Result<()> {
    let (mountpoint, other) = (absolute(mountpoint)?, absolute(other)?);
    if mountpoint.starts_with(&other) || other.starts_with(&mountpoint) {
        return Err(Error::invalid(format!(
            "the mount point {} and the {what} {} must not contain each other",
            mountpoint.display(),
            other.display()
        )));
    }
    Ok(())
}

/// What became of an attempt to unmount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Taken {
    /// It is unmounted.
    Off,
    /// Programs use it.
    InUse,
}

/// Refuses what is no mount of ours.
pub(crate) fn is_ours(path: &Path) -> Result<()> {
    let Some(mount) = mounts()?.into_iter().rev().find(|mount| mount.at == path) else {
        return Err(Error::not_found(format!("nothing is mounted at {}", path.display())));
    };
    if mount.is_ours() {
        return Ok(());
    }
    let kind = String::from_utf8_lossy(&mount.kind);
    Err(Error::invalid(format!("{} is a mount of {kind}, not of sitefs", path.display())))
}

/// Whether the process of our mount at `path` has died.
pub(crate) fn is_dead_mount(path: &Path) -> Result<bool> {
    is_ours(path)?;
    Ok(life(path) == Life::Dead)
}

/// Unmounts our mount at `path`, which must be absolute, unless it is in use; refuses what is not ours.
pub(crate) fn unmount(path: &Path) -> Result<Taken> {
    is_ours(path)?;
    if life(path) == Life::Dead {
        return detach(path).map(|()| Taken::Off);
    }
    match rustix::mount::unmount(path, rustix::mount::UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(Taken::Off),
        Err(rustix::io::Errno::PERM) => fusermount(path, &["-u"]).map(|()| Taken::Off),
        Err(rustix::io::Errno::BUSY) => Ok(Taken::InUse),
        Err(error) => Err(Error::io(format!("unmounting {}", path.display()), error.into())),
    }
}

/// Takes a mount out of the tree at once; programs that are in it keep it until they leave.
pub(crate) fn detach(path: &Path) -> Result<()> {
    match rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM) => fusermount(path, &["-u", "-z"]),
        Err(error) => Err(Error::io(format!("detaching the mount at {}", path.display()), error.into())),
    }
}

/// Whether one of our mounts is at `path`, which must be absolute.
pub(crate) fn is_mounted(path: &Path) -> Result<bool> {
    Ok(mounts()?.iter().any(|mount| mount.at == path && mount.is_ours()))
}

fn fusermount(path: &Path, flags: &[&str]) -> Result<()> {
    let done = Command::new("fusermount3").args(flags).arg("--").arg(path).stdin(Stdio::null()).output();
    let done = done.map_err(|error| Error::io("running fusermount3 (Debian package fuse3)", error))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(Error::unavailable(format!("fusermount3 could not unmount: {}", said.trim())))
}

/// How the process behind a mount is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    /// It answers, or at least it is there.
    There,
    /// It has died.
    Dead,
}

/// Looks at our mount at `path`. Attributes may still come from the kernel's cache when its process is
/// gone; statfs always asks. One that hangs must not hang this too, so a thread asks, and is left behind.
fn life(path: &Path) -> Life {
    let (tell, told) = mpsc::channel();
    let path = path.to_owned();
    std::thread::spawn(move || {
        let asked = rustix::fs::statvfs(&path);
        // Nobody waits any more if it came late.
        let _ = tell.send(asked.is_err_and(|error| error == rustix::io::Errno::NOTCONN));
    });
    match told.recv_timeout(ANSWER_TIME) {
        Ok(true) => Life::Dead,
        _ => Life::There,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_that_contain_each_other_are_refused() {
        let tmp = std::env::temp_dir();
        let (outer, inner) = (tmp.join("sitefs-x"), tmp.join("sitefs-x/missing/y"));
        assert!(apart(&outer, &inner, "data directory").is_err());
        assert!(apart(&inner, &outer, "data directory").is_err());
        assert!(apart(&outer, &outer, "data directory").is_err());
        assert!(apart(&outer, &tmp.join("sitefs-xy"), "data directory").is_ok());
    }

    #[test]
    fn what_cannot_be_a_mount_point_is_refused() {
        let file = std::env::current_exe().unwrap();
        assert!(empty_directory(&file).is_err());
        assert!(empty_directory(file.parent().unwrap()).is_err());
        assert_eq!(unmount(&file).unwrap_err().kind(), sitefs_base::Kind::NotFound);
        assert_eq!(unmount(Path::new("/proc")).unwrap_err().kind(), sitefs_base::Kind::Invalid);
    }
}
