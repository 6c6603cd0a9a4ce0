//! Names: of directory entries (bytes) and of sites and volumes (text).

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The name of a directory entry: 1 to 255 bytes without NUL and `/`, not `.` or `..`. Not
/// necessarily UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Name(Box<[u8]>);

impl Name {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 255;

    /// Checks `bytes` and takes them over; the error is an `Invalid` that names the reason.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<Self> {
        let bytes = bytes.into();
        let reason = match &*bytes {
            [] => "an empty name",
            [b'.'] | [b'.', b'.'] => "the name '.' or '..'",
            long if long.len() > Self::MAX_LEN => "a name of more than 255 bytes",
            other if other.iter().any(|b| *b == 0 || *b == b'/') => "a name with NUL or '/'",
            _ => return Ok(Self(bytes)),
        };
        Err(Error::invalid(format!("{reason} cannot be a directory entry")))
    }

    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let bytes = Box::<[u8]>::deserialize(deserializer)?;
        Self::new(bytes).map_err(serde::de::Error::custom)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

fn check_label(text: &str, what: &str) -> Result<()> {
    let letters =
        text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
    if text.is_empty() || text.len() > 63 || !letters || text.starts_with('-') {
        return Err(Error::invalid(format!(
            "{text:?} is not a {what} name: use 1 to 63 of a-z, 0-9, '-' and '_', not beginning with '-'"
        )));
    }
    Ok(())
}

/// The name of a site, for example `acme`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct SiteName(String);

impl SiteName {
    /// The text of the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SiteName {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        check_label(text, "site")?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The full name of a volume: `SITE/ENVIRONMENT`, for example `acme/live`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct VolumeName {
    site: SiteName,
    environment: String,
}

impl VolumeName {
    /// The site that the volume belongs to.
    pub fn site(&self) -> &SiteName {
        &self.site
    }
    /// The environment within the site.
    pub fn environment(&self) -> &str {
        &self.environment
    }
}

impl FromStr for VolumeName {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let Some((site, environment)) = text.split_once('/') else {
            return Err(Error::invalid(format!(
                "{text:?} is not a volume name: write SITE/ENVIRONMENT, for example acme/live"
            )));
        };
        check_label(environment, "environment")?;
        Ok(Self { site: site.parse()?, environment: environment.to_owned() })
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.site, self.environment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_names_are_bytes_with_few_exceptions() {
        for good in [&b"a"[..], b"\xff\xfe", b"...", &[b'x'; 255]] {
            assert!(Name::new(good).is_ok(), "{good:?}");
        }
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; 256]] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn volume_names_round_trip_and_bad_ones_say_what_to_write() {
        let name: VolumeName = "acme/live".parse().unwrap();
        assert_eq!((name.site().as_str(), name.environment()), ("acme", "live"));
        assert_eq!(name.to_string(), "acme/live");
        for bad in ["acme", "acme/", "/live", "Acme/live", "a/b/c", "-a/b"] {
            assert!(bad.parse::<VolumeName>().is_err(), "{bad}");
        }
    }
}
