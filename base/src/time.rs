//! Wall-clock time with nanoseconds, as POSIX files carry it.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A moment: whole seconds since 1970-01-01 UTC (may be negative) plus nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default, Debug)]
#[serde(try_from = "(i64, u32)")]
pub struct Time {
    secs: i64,
    nanos: u32,
}

impl Time {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self { secs: 0, nanos: 0 };

    /// A moment from its parts; `nanos` of a second or more are carried over.
    pub const fn new(secs: i64, nanos: u32) -> Self {
        Self { secs: secs.saturating_add((nanos / 1_000_000_000) as i64), nanos: nanos % 1_000_000_000 }
    }
    /// Whole seconds since the epoch, rounded down.
    pub const fn secs(self) -> i64 {
        self.secs
    }
    /// The nanoseconds within the second, below 1,000,000,000.
    pub const fn nanos(self) -> u32 {
        self.nanos
    }
    /// The first representable moment after this one; of the last one itself.
    #[must_use]
    pub const fn next(self) -> Self {
        match self {
            Self { secs: i64::MAX, nanos: 999_999_999 } => self,
            Self { secs, nanos } => Self::new(secs, nanos + 1),
        }
    }
    /// This moment moved by `duration` into the future, at most to the last representable one.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let secs = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        Self::new(self.secs.saturating_add(secs), self.nanos + duration.subsec_nanos())
    }
    /// How long after `earlier` this moment is; zero when it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        if self <= earlier {
            return Duration::ZERO;
        }
        let borrow = self.nanos < earlier.nanos;
        let secs = self.secs.saturating_sub(earlier.secs).saturating_sub(i64::from(borrow));
        let nanos =
            if borrow { self.nanos + 1_000_000_000 - earlier.nanos } else { self.nanos - earlier.nanos };
        Duration::new(u64::try_from(secs).unwrap_or(0), nanos)
    }
}

/// What is stored is checked: everything else relies on less than a second of nanoseconds.
impl TryFrom<(i64, u32)> for Time {
    type Error = Error;
    fn try_from((secs, nanos): (i64, u32)) -> Result<Self> {
        match nanos {
            0..1_000_000_000 => Ok(Self { secs, nanos }),
            _ => Err(Error::invalid(format!("{nanos} nanoseconds are a second or more"))),
        }
    }
}

impl FromStr for Time {
    type Err = Error;
    /// A time as RFC 3339 writes it, for example `2026-11-20T12:00:00Z` or `2026-11-20T12:00:00.5+02:00`.
    fn from_str(text: &str) -> Result<Self> {
        let parsed: jiff::Timestamp = text.parse().map_err(|error| {
            Error::invalid(format!("{text:?} is not a time: write it like 2026-11-20T12:00:00Z"))
                .because(error)
        })?;
        Ok(SystemTime::from(parsed).into())
    }
}

impl fmt::Display for Time {
    /// RFC 3339 in UTC; beyond the year 9999 the seconds since 1970, as `@SECONDS`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match i32::try_from(self.nanos).ok().and_then(|nanos| jiff::Timestamp::new(self.secs, nanos).ok()) {
            Some(timestamp) => timestamp.fmt(f),
            None => write!(f, "@{}.{:09}", self.secs, self.nanos),
        }
    }
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self::new(i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
            Err(before) => {
                let before = before.duration();
                let secs = -i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
                match before.subsec_nanos() {
                    0 => Self::new(secs, 0),
                    nanos => Self::new(secs - 1, 1_000_000_000 - nanos),
                }
            }
        }
    }
}

impl From<Time> for SystemTime {
    fn from(time: Time) -> Self {
        let nanos = Duration::from_nanos(u64::from(time.nanos));
        let whole = Duration::from_secs(time.secs.unsigned_abs());
        let base = if time.secs >= 0 { UNIX_EPOCH.checked_add(whole) } else { UNIX_EPOCH.checked_sub(whole) };
        base.and_then(|base| base.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_and_far_after_round_trip() {
        for (secs, nanos) in [(0, 0), (-1, 999_999_999), (-4_000_000_000, 5), (16_000_000_000, 1)] {
            let time = Time::new(secs, nanos);
            assert_eq!(Time::from(SystemTime::from(time)), time);
        }
    }

    #[test]
    fn times_are_written_and_read_in_utc() {
        for text in ["2026-11-20T12:00:00Z", "1969-12-31T23:59:59.5Z"] {
            assert_eq!(text.parse::<Time>().unwrap().to_string(), text);
        }
        assert_eq!("1970-01-01T01:00:00+01:00".parse::<Time>().unwrap(), Time::EPOCH);
        assert!("yesterday".parse::<Time>().is_err());
        assert_eq!(Time::new(i64::MAX, 1).to_string(), format!("@{}.000000001", i64::MAX));
    }

    #[test]
    fn the_last_moment_has_none_behind_it() {
        let last = Time::new(i64::MAX, 999_999_999);
        assert_eq!(last.next(), last);
        assert_eq!(Time::new(5, 999_999_999).next(), Time::new(6, 0));
        assert!(Time::try_from((5, 1_000_000_000)).is_err());
    }

    #[test]
    fn since_borrows_and_never_goes_below_zero() {
        assert_eq!(Time::new(2, 0).since(Time::new(0, 999_999_999)), Duration::new(1, 1));
        assert_eq!(Time::new(1, 0).since(Time::new(2, 0)), Duration::ZERO);
    }
}
