//! What operators choose about a cell as a whole.

use crate::{Error, Incarnation, Result, Time, VolumeAccess};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, time::Duration};

/// Backups are at least so far apart.
pub const BACKUP_EVERY_MIN: Duration = Duration::from_secs(60);
/// Backups are kept for so long at most: what they need is not deleted meanwhile.
pub const BACKUP_KEEP_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// The longest path of a directory for backups, in bytes.
pub const BACKUP_PATH_MAX: usize = 1024;

/// When backups are made, and how long they are kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackupPlan {
    /// Where they are made by themselves.
    pub to: BackupTo,
    /// How far they are apart, in seconds.
    pub every_secs: u32,
    /// How long one is kept, in seconds; the newest is always kept.
    pub keep_secs: u32,
}

impl Default for BackupPlan {
    fn default() -> Self {
        Self { to: BackupTo::Bucket, every_secs: 3600, keep_secs: 7 * 24 * 3600 }
    }
}

/// Where backups are made by themselves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum BackupTo {
    /// In the bucket that has the blobs; nowhere if the blobs are in the data directory.
    Bucket,
    /// Nowhere.
    Nowhere,
    /// In a directory of the node that leads: an absolute path.
    Directory(String),
    /// In the bucket, once an operator says so again; until then nowhere.
    HeldBucket,
    /// In this directory, once an operator says so again; until then nowhere.
    HeldDirectory(String),
}

impl BackupTo {
    /// The same place, for another life of a cell: the one before may still run and make its backups there.
    #[must_use]
    pub fn held(self) -> Self {
        match self {
            Self::Bucket => Self::HeldBucket,
            Self::Directory(path) => Self::HeldDirectory(path),
            Self::Nowhere | Self::HeldBucket | Self::HeldDirectory(_) => self,
        }
    }

    /// Why no backups are made by themselves though there is a place for them, and what to do.
    pub fn why_held(&self) -> Option<String> {
        let place = match self {
            Self::Nowhere | Self::Bucket | Self::Directory(_) => return None,
            Self::HeldBucket => "bucket",
            Self::HeldDirectory(path) => path.as_str(),
        };
        Some(format!(
            "backups by themselves wait since this cell was restored, because the one before may still run and make \
             its own: once that is gone for good, `sitefs cell set --backup-to {place}` (or another place, or off)"
        ))
    }
}

impl FromStr for BackupTo {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "bucket" => Ok(Self::Bucket),
            "off" => Ok(Self::Nowhere),
            "held bucket" => Ok(Self::HeldBucket),
            path if is_path(path) => Ok(Self::Directory(path.to_owned())),
            _ => match text.strip_prefix("held ").filter(|path| is_path(path)) {
                Some(path) => Ok(Self::HeldDirectory(path.to_owned())),
                None => {
                    Err(Error::invalid(format!("{text:?} is neither bucket, nor off, nor an absolute path")))
                }
            },
        }
    }
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.len() <= BACKUP_PATH_MAX
}

impl fmt::Display for BackupTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bucket => f.write_str("bucket"),
            Self::Nowhere => f.write_str("off"),
            Self::Directory(path) => f.write_str(path),
            Self::HeldBucket => f.write_str("held bucket"),
            Self::HeldDirectory(path) => write!(f, "held {path}"),
        }
    }
}

/// A backup as people see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupInfo {
    /// Names it; byte order is the order of time.
    pub id: String,
    /// The cell.
    pub cell: String,
    /// The group's incarnation.
    pub incarnation: Incarnation,
    /// The last log entry that it contains.
    pub index: u64,
    /// When it was begun.
    pub at: Time,
    /// Bytes of its files.
    pub bytes: u64,
    /// Where it is.
    pub place: String,
}

/// Changes some of what operators choose about a cell; what is not set stays.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CellChange {
    /// Whether mounts may write.
    pub access: Option<VolumeAccess>,
    /// Where backups are made by themselves.
    pub backup_to: Option<BackupTo>,
    /// How far they are apart, in seconds.
    pub backup_every_secs: Option<u32>,
    /// How long one is kept, in seconds.
    pub backup_keep_secs: Option<u32>,
}

impl CellChange {
    /// Says what of it no cell can take.
    pub fn check(&self) -> Result<()> {
        let (min, max) = (BACKUP_EVERY_MIN.as_secs(), BACKUP_KEEP_MAX.as_secs());
        if self.backup_every_secs.is_some_and(|secs| u64::from(secs) < min) {
            return Err(Error::invalid(format!("backups are at least {min} s apart")));
        }
        if self.backup_keep_secs.is_some_and(|secs| u64::from(secs) < min || u64::from(secs) > max) {
            return Err(Error::invalid(format!("backups are kept for {min} s to {max} s")));
        }
        match &self.backup_to {
            Some(BackupTo::Directory(path)) => drop(path.parse::<BackupTo>()?),
            Some(to @ (BackupTo::HeldBucket | BackupTo::HeldDirectory(_))) => {
                return Err(Error::invalid(format!("nobody can choose `{to}`: give bucket, off or a path")));
            }
            Some(BackupTo::Bucket | BackupTo::Nowhere) | None => {}
        }
        match &self.access {
            Some(VolumeAccess::ReadOnly(reason)) => crate::check_reason(reason),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_backups_have_one_form() {
        for text in ["bucket", "off", "/var/backups", "held bucket", "held /var/backups"] {
            assert_eq!(text.parse::<BackupTo>().unwrap().to_string(), text);
        }
        for bad in ["backups", "held off", "held ", "held held /b"] {
            assert!(bad.parse::<BackupTo>().is_err(), "{bad}");
        }
    }

    #[test]
    fn another_life_holds_a_place_and_says_how_it_is_used_again() {
        for text in ["bucket", "/var/backups"] {
            let to: BackupTo = text.parse().unwrap();
            assert_eq!(to.why_held(), None);
            let held = to.held();
            assert!(held.why_held().unwrap().contains(&format!("--backup-to {text}`")));
            assert_eq!(held.clone().held(), held);
        }
        assert_eq!(BackupTo::Nowhere.held(), BackupTo::Nowhere);
    }

    #[test]
    fn what_no_cell_can_take_is_refused() {
        let every = CellChange { backup_every_secs: Some(59), ..CellChange::default() };
        let keep = CellChange { backup_keep_secs: Some(u32::MAX), ..CellChange::default() };
        let reason = VolumeAccess::ReadOnly("two\nlines".to_owned());
        let access = CellChange { access: Some(reason), ..CellChange::default() };
        let to = Some(BackupTo::Directory("relative".to_owned()));
        let to = CellChange { backup_to: to, ..CellChange::default() };
        let held = CellChange { backup_to: Some(BackupTo::HeldBucket), ..CellChange::default() };
        assert!([every, keep, access, to, held].iter().all(|change| change.check().is_err()));
        assert!(CellChange::default().check().is_ok());
    }
}
