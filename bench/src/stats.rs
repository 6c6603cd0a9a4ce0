//! Medians and percentiles, and the numbers that a series of timed operations gives.

use serde::Serialize;
use std::time::{Duration, Instant};

/// The middle value, or the mean of the two middle ones; none of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some((sorted[sorted.len() / 2 - 1] + upper) / 2.0)
}

/// The smallest value that at least `percent` of all values do not exceed (nearest rank).
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

/// What a number counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(crate) enum Unit {
    /// Operations in a second.
    #[serde(rename = "per_second")]
    PerSecond,
    /// Bytes in a second, in MiB.
    #[serde(rename = "mib_per_second")]
    MibPerSecond,
    #[serde(rename = "seconds")]
    Seconds,
    #[serde(rename = "milliseconds")]
    Millis,
    #[serde(rename = "microseconds")]
    Micros,
}

impl Unit {
    /// As the table shows it.
    pub(crate) fn short(self) -> &'static str {
        match self {
            Self::PerSecond => "/s",
            Self::MibPerSecond => "MiB/s",
            Self::Seconds => "s",
            Self::Millis => "ms",
            Self::Micros => "µs",
        }
    }

    /// How many times slower `target` is than `native`: 2 is half as fast, whether rates or times.
    pub(crate) fn times_slower(self, target: f64, native: f64) -> f64 {
        match self {
            Self::PerSecond | Self::MibPerSecond => native / target,
            Self::Seconds | Self::Millis | Self::Micros => target / native,
        }
    }
}

/// One number of one repetition.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// What was measured, within its case.
    pub(crate) what: &'static str,
    pub(crate) unit: Unit,
    pub(crate) value: f64,
}

impl Sample {
    /// How long something took, in milliseconds.
    pub(crate) fn millis(what: &'static str, took: Duration) -> Self {
        Self { what, unit: Unit::Millis, value: took.as_secs_f64() * 1e3 }
    }

    /// How long something took, in seconds.
    pub(crate) fn seconds(what: &'static str, took: Duration) -> Self {
        Self { what, unit: Unit::Seconds, value: took.as_secs_f64() }
    }

    /// How fast `bytes` went.
    #[allow(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
    pub(crate) fn throughput(what: &'static str, bytes: usize, took: Duration) -> Self {
        let mib = bytes as f64 / f64::from(1 << 20);
        Self { what, unit: Unit::MibPerSecond, value: mib / took.as_secs_f64() }
    }
}

/// How long each of many operations took, and all together on the clock.
#[derive(Default)]
pub(crate) struct Series {
    each: Vec<Duration>,
    wall: Duration,
}

impl Series {
    /// Does `operation` with each item, one after the other.
    pub(crate) fn run<T, E>(
        items: impl IntoIterator<Item = T>,
        mut operation: impl FnMut(T) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut each = Vec::new();
        let begun = Instant::now();
        for item in items {
            let begun = Instant::now();
            operation(item)?;
            each.push(begun.elapsed());
        }
        Ok(Self { each, wall: begun.elapsed() })
    }

    /// Series that ran side by side, taking `wall` together.
    pub(crate) fn side_by_side(all: Vec<Self>, wall: Duration) -> Self {
        Self { each: all.into_iter().flat_map(|series| series.each).collect(), wall }
    }

    /// Operations per second, the median and the 99th percentile of one operation.
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub(crate) fn samples(mut self) -> Vec<Sample> {
        self.each.sort_unstable();
        let rate = self.each.len() as f64 / self.wall.as_secs_f64();
        let latency = |what, percent| {
            let value = percentile(&self.each, percent)?.as_secs_f64() * 1e6;
            Some(Sample { what, unit: Unit::Micros, value })
        };
        let rate = Some(Sample { what: "rate", unit: Unit::PerSecond, value: rate });
        [rate, latency("p50", 50), latency("p99", 99)].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middle_values() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let hundred: Vec<Duration> = (1..=100).map(Duration::from_micros).collect();
        let at = |sorted: &[Duration], percent| percentile(sorted, percent).map(|value| value.as_micros());
        assert_eq!(at(&hundred, 50), Some(50));
        assert_eq!(at(&hundred, 99), Some(99));
        assert_eq!(at(&hundred, 100), Some(100));
        assert_eq!(at(&hundred[..10], 99), Some(10));
        assert_eq!(at(&hundred[..1], 50), Some(1));
        assert_eq!(at(&[], 50), None);
    }

    #[test]
    fn slower_is_above_one_for_rates_and_for_times() {
        assert_eq!(Unit::PerSecond.times_slower(50.0, 100.0), 2.0);
        assert_eq!(Unit::Micros.times_slower(100.0, 50.0), 2.0);
    }

    #[test]
    fn a_series_gives_its_rate_and_two_percentiles() {
        let each = [30, 10, 20].map(Duration::from_millis).to_vec();
        let series = Series::side_by_side(vec![Series { each, ..Series::default() }], Duration::from_secs(1));
        let samples: Vec<_> = series.samples().into_iter().map(|s| (s.what, s.value.round())).collect();
        assert_eq!(samples, [("rate", 3.0), ("p50", 20_000.0), ("p99", 30_000.0)]);
    }

    #[test]
    fn a_series_ends_at_the_first_error() {
        let mut done = 0;
        let result = Series::run(0..10, |item| {
            done += 1;
            if item == 3 { Err("no") } else { Ok(()) }
        });
        assert_eq!((result.err(), done), (Some("no"), 4));
    }
}
