//! Sizes as people write them.

use crate::{Error, Result};
use std::{fmt, str::FromStr};

/// A number of bytes, written `1234`, `64KiB`, `64MiB`, `10GiB` or `1TiB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct ByteSize(u64);

const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];

impl ByteSize {
    /// A size in bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }
    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = &text[digits.len()..];
        let shift = match UNITS.iter().find(|(name, _)| *name == unit) {
            Some((_, shift)) => *shift,
            None if unit.is_empty() || unit == "B" => 0,
            None => return Err(Error::invalid(format!("{text:?} is not a size: use KiB, MiB, GiB or TiB"))),
        };
        let number: u64 = digits
            .parse()
            .map_err(|_| Error::invalid(format!("{text:?} is not a size, for example 64MiB")))?;
        number
            .checked_shl(shift)
            .filter(|bytes| bytes >> shift == number)
            .map(Self)
            .ok_or_else(|| Error::invalid(format!("{text:?} is too large")))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&display_bytes(self.0))
    }
}

/// `bytes` for people: three significant digits and a binary unit.
pub fn display_bytes(bytes: u64) -> String {
    let Some((unit, shift)) = UNITS.iter().rev().find(|(_, shift)| bytes >> shift > 0) else {
        return format!("{bytes} B");
    };
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    let value = bytes as f64 / (1u64 << shift) as f64;
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_and_bad_ones_are_refused() {
        assert_eq!("64MiB".parse::<ByteSize>().unwrap().get(), 64 << 20);
        assert_eq!("7".parse::<ByteSize>().unwrap().get(), 7);
        for bad in ["", "MiB", "64MB", "-1", "99999999999TiB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
        assert_eq!(display_bytes(64 << 20), "64.0 MiB");
        assert_eq!(display_bytes(512), "512 B");
    }
}
