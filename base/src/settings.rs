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
