//! Directories that hold what customers store: for nobody but their owner.

use crate::{Error, Result};
use std::{
    fs::{self, DirBuilder},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

/// The bits of group and others.
const OTHERS: u32 = 0o077;

/// Makes a directory with mode 0700, with what is missing above it as usual. One that is there keeps its
/// mode.
pub fn make_private_dir(path: &Path) -> Result<()> {
    let doing = |error| Error::io(format!("making the directory {}", path.display()), error);
    if let Some(above) = path.parent() {
        fs::create_dir_all(above).map_err(doing)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Err(Error::invalid(format!("{} is there and is not a directory", path.display())))
        }
        made => made.map_err(doing),
    }
}

/// The mode of a directory that others than its owner can use, which is worth a warning.
pub fn mode_for_others(path: &Path) -> Result<Option<u32>> {
    let there = fs::metadata(path);
    let there = there.map_err(|error| Error::io(format!("looking at {}", path.display()), error))?;
    let mode = there.permissions().mode() & 0o7777;
    Ok(Some(mode).filter(|mode| mode & OTHERS != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_directory_is_private_and_one_that_is_there_keeps_its_mode() {
        let base = std::env::temp_dir().join(format!("sitefs-private-{}", std::process::id()));
        let dir = base.join("above/private");
        make_private_dir(&dir).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(mode_for_others(&dir).unwrap(), None);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o750)).unwrap();
        make_private_dir(&dir).unwrap();
        assert_eq!(mode_for_others(&dir).unwrap(), Some(0o750));
        fs::write(base.join("file"), "").unwrap();
        assert!(make_private_dir(&base.join("file")).is_err());
        fs::remove_dir_all(&base).unwrap();
    }
}
