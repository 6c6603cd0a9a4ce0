//! Moments of a volume's past, as people name them.

use crate::{Error, Result, Time, VolumeName};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The name of a snapshot: 1 to 63 of a-z, A-Z, 0-9, `-`, `_` and `.`, not beginning with `-` or `.`.
/// No name is also a time, because times have a `:`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct SnapshotName(String);

impl SnapshotName {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 63;

    /// The text of the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotName {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let letters = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if text.is_empty() || text.len() > Self::MAX_LEN || !letters || text.starts_with(['-', '.']) {
            return Err(Error::invalid(format!(
                "{text:?} is not a snapshot name: use 1 to 63 of a-z, A-Z, 0-9, '-', '_' and '.', not beginning \
                 with '-' or '.'"
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A moment of a volume's past: a snapshot, or a time. A time means the tree as it was when that
/// second began, which history holds exactly (DESIGN D2).
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum Moment {
    /// When the snapshot of this name was made.
    Snapshot(SnapshotName),
    /// At this time.
    Time(Time),
}

impl FromStr for Moment {
    type Err = Error;
    /// A snapshot's name, or a time as RFC 3339 writes it, for example `2026-11-20T12:00:00Z`.
    fn from_str(text: &str) -> Result<Self> {
        if text.contains(':') { text.parse().map(Self::Time) } else { text.parse().map(Self::Snapshot) }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot(name) => name.fmt(f),
            Self::Time(time) => time.fmt(f),
        }
    }
}

/// A volume now, or at a moment of its past: `acme/live`, `acme/live@before-upgrade`,
/// `acme/live@2026-11-20T12:00:00Z`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct VolumeView {
    /// The volume.
    pub volume: VolumeName,
    /// The moment; now if not set.
    pub at: Option<Moment>,
}

impl FromStr for VolumeView {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let (volume, at) = match text.split_once('@') {
            None => (text, None),
            Some((volume, at)) => (volume, Some(at.parse()?)),
        };
        Ok(Self { volume: volume.parse()?, at })
    }
}

impl fmt::Display for VolumeView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            None => self.volume.fmt(f),
            Some(at) => write!(f, "{}@{at}", self.volume),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_named_now_by_snapshot_or_by_time() {
        for text in ["acme/live", "acme/live@before-upgrade", "acme/live@2026-11-20T12:00:00Z"] {
            assert_eq!(text.parse::<VolumeView>().unwrap().to_string(), text);
        }
        let zoned: VolumeView = "acme/live@2026-11-20T12:00:00+02:00".parse().unwrap();
        assert_eq!(zoned.to_string(), "acme/live@2026-11-20T10:00:00Z");
        for bad in
            ["acme/live@", "acme/live@.x", "acme@x", "acme/live@a/b", "acme/live@12:00", "acme/live@a:b"]
        {
            assert!(bad.parse::<VolumeView>().is_err(), "{bad}");
        }
    }
}
