//! The file that says whose objects are in a shared directory.

use super::DirBackend;
use sitefs_base::{Error, Result};
use std::{fs, io};

const OWNER: &str = "owner";

impl DirBackend {
    /// Writes `owner` unless somebody has written before; gives what is there.
    pub(super) fn own_now(&self, owner: &str) -> Result<String> {
        let path = self.root.join(OWNER);
        let found = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.put_new(&path, owner.as_bytes())?;
                fs::read_to_string(&path)
            }
            // Nothing is written then: what is deleted makes room on a disk that is full.
            found => found,
        };
        found.map_err(|error| Error::io(format!("reading {}", path.display()), error))
    }
}
