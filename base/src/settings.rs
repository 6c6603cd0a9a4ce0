//! What operators choose about a volume.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What a mount may do while it has no lease (DESIGN D28).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
pub enum ServeStale {
    /// Nothing: every operation fails.
    Off,
    /// Answer reads from what it knows, for up to 24 hours.
    #[default]
    Reads,
}

impl FromStr for ServeStale {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "off" => Ok(Self::Off),
            "reads" => Ok(Self::Reads),
            _ => Err(Error::invalid(format!("{text:?} is neither off nor reads"))),
        }
    }
}

impl fmt::Display for ServeStale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Reads => "reads",
        })
    }
}

/// What mounts have to know of a volume's settings; it reaches them with each renewal.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VolumeSettings {
    /// What a mount may do while it has no lease.
    pub serve_stale: ServeStale,
    /// Why nobody may write (`EROFS`), if so: one line of at most [`READ_ONLY_REASON_MAX`] bytes for
    /// people.
    pub read_only: Option<String>,
}

/// The longest reason for a read-only volume, in bytes.
pub const READ_ONLY_REASON_MAX: usize = 200;

/// Changes some of what operators choose about a volume; what is not set stays.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VolumeChange {
    /// Bytes of content that it may hold; with 0 nothing may be written.
    pub bytes_limit: Option<u64>,
    /// Inodes that it may hold; at least 1, the root.
    pub inodes_limit: Option<u64>,
    /// What its history may take beside pins.
    pub history_limit: Option<HistoryLimit>,
    /// What a mount may do while it has no lease.
    pub serve_stale: Option<ServeStale>,
    /// Whether mounts may write.
    pub access: Option<VolumeAccess>,
}

/// What the history of a volume may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum HistoryLimit {
    /// As much as the volume itself.
    Default,
    /// So many bytes.
    Bytes(u64),
}

/// Whether mounts may write.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum VolumeAccess {
    /// They may.
    ReadWrite,
    /// Nobody may, for this reason; [`check_reason`] says what a reason is.
    ReadOnly(String),
}

/// A reason for a read-only volume is one line of 1 to [`READ_ONLY_REASON_MAX`] bytes.
pub fn check_reason(reason: &str) -> Result<()> {
    if reason.trim().is_empty() || reason.len() > READ_ONLY_REASON_MAX || reason.chars().any(char::is_control)
    {
        return Err(Error::invalid(format!(
            "a reason is one line of 1 to {READ_ONLY_REASON_MAX} bytes, and this one is not"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_short_line() {
        check_reason("moved to acme/new until Monday").unwrap();
        check_reason(&"r".repeat(READ_ONLY_REASON_MAX)).unwrap();
        for bad in ["", "  ", "two\nlines", "tab\t", &"r".repeat(READ_ONLY_REASON_MAX + 1)] {
            assert!(check_reason(bad).is_err(), "{bad:?}");
        }
    }
}
