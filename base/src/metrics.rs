//! Counters and histograms that cost a few relaxed additions, and the text in which Prometheus
//! reads them. Names, help and labels are given where a metric is written out, so that there is one
//! place to look for all of a crate.

use std::{
    fmt::{Display, Write},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Bounds for the time that a request takes, in microseconds.
pub const LATENCY_US: &[u64] =
    &[25, 100, 250, 1_000, 2_500, 10_000, 25_000, 100_000, 500_000, 2_500_000, 10_000_000];

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// It is `n` now.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What a histogram measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unit {
    /// Microseconds, written as seconds.
    Time,
    /// A plain number.
    Count,
}

/// How often values fell between given bounds.
#[derive(Debug)]
pub struct Histogram {
    unit: Unit,
    bounds: &'static [u64],
    /// One more than there are bounds: the last takes what is above them.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// Of times, with bounds in microseconds.
    pub fn of_time(bounds_us: &'static [u64]) -> Self {
        Self::new(Unit::Time, bounds_us)
    }

    /// Of numbers.
    pub fn of_count(bounds: &'static [u64]) -> Self {
        Self::new(Unit::Count, bounds)
    }

    fn new(unit: Unit, bounds: &'static [u64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { unit, bounds, counts, sum: AtomicU64::new(0) }
    }

    /// Counts a time.
    pub fn took(&self, time: Duration) {
        self.saw(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// Counts a value in the unit of the bounds.
    pub fn saw(&self, value: u64) {
        let slot = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(slot) {
            count.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(value, Relaxed);
    }

    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Relaxed)).sum()
    }

    fn shown(&self, value: u64) -> String {
        match self.unit {
            Unit::Time => seconds(Duration::from_micros(value)).to_string(),
            Unit::Count => value.to_string(),
        }
    }
}

/// A duration as Prometheus wants it.
pub fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// Metrics as text, format 0.0.4 of Prometheus.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// The media type of the text.
    pub const MEDIA_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// Adds a counter.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "counter");
        self.sample(name, &[], value);
    }

    /// Adds a counter with one row for each value of `label`.
    pub fn counters<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        rows: impl IntoIterator<Item = (&'a str, u64)>,
    ) {
        self.head(name, help, "counter");
        for (value, count) in rows {
            self.sample(name, &[(label, value)], count);
        }
    }

    /// Adds a gauge.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, help, "gauge");
        self.sample(name, &[], value);
    }

    /// Adds a gauge that is always 1 and says something by its labels.
    pub fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) {
        self.head(name, help, "gauge");
        self.sample(name, labels, 1);
    }

    /// Adds a histogram.
    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, help, "histogram");
        self.buckets(name, &[], histogram);
    }

    /// Adds a histogram with one row for each value of `label`.
    pub fn histograms<'a, 'b>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        rows: impl IntoIterator<Item = (&'a str, &'b Histogram)>,
    ) {
        self.head(name, help, "histogram");
        for (value, histogram) in rows {
            self.buckets(name, &[(label, value)], histogram);
        }
    }

    /// Adds what is known of this process and its binary.
    pub fn process(&mut self, version: &str) {
        self.info("sitefs_build_info", "Always 1; its label says the version.", &[("version", version)]);
        if let Some(bytes) = resident_bytes() {
            self.gauge("process_resident_memory_bytes", "Resident memory of the process.", bytes);
        }
    }

    /// The text.
    pub fn finish(self) -> String {
        self.0
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{before}{label}=\"{}\"", escape(text));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }

    fn buckets(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let bucket = format!("{name}_bucket");
        let mut total = 0;
        for (at, count) in histogram.counts.iter().enumerate() {
            total += count.load(Relaxed);
            let bound = histogram.bounds.get(at).map(|bound| histogram.shown(*bound));
            let labels = [labels, &[("le", bound.as_deref().unwrap_or("+Inf"))]].concat();
            self.sample(&bucket, &labels, total);
        }
        self.sample(&format!("{name}_sum"), labels, histogram.shown(histogram.sum.load(Relaxed)));
        self.sample(&format!("{name}_count"), labels, total);
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * page_size())
}

#[allow(unsafe_code, reason = "sysconf reads a constant of the system and touches no memory of ours")]
fn page_size() -> u64 {
    // SAFETY: sysconf has no preconditions.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_the_bucket_that_bounds_them_and_buckets_add_up() {
        let histogram = Histogram::of_time(&[10, 100]);
        for us in [10, 11, 100, 5_000_000] {
            histogram.took(Duration::from_micros(us));
        }
        let mut text = Exposition::default();
        text.histogram("sitefs_x_seconds", "Some time.", &histogram);
        let expected = "# HELP sitefs_x_seconds Some time.\n# TYPE sitefs_x_seconds histogram\n\
                        sitefs_x_seconds_bucket{le=\"0.00001\"} 1\n\
                        sitefs_x_seconds_bucket{le=\"0.0001\"} 3\n\
                        sitefs_x_seconds_bucket{le=\"+Inf\"} 4\n\
                        sitefs_x_seconds_sum 5.000121\n\
                        sitefs_x_seconds_count 4\n";
        assert_eq!(text.finish(), expected);
        assert_eq!(histogram.count(), 4);
    }

    #[test]
    fn labels_are_escaped() {
        let mut text = Exposition::default();
        text.info("sitefs_x_info", "x", &[("a", "q\"b\\c\nd"), ("e", "f")]);
        let line = text.finish().lines().last().map(str::to_owned);
        assert_eq!(line.as_deref(), Some("sitefs_x_info{a=\"q\\\"b\\\\c\\nd\",e=\"f\"} 1"));
    }

    #[test]
    fn the_memory_of_this_process_is_known() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
