//! Measures what commands and questions cost: `state` on the store, without log, network and mount.
//!
//! All times are CPU time. Those of mutations are the process's, with its background threads, until
//! everything is on disk and compacted; those of questions are the asking thread's.

mod cases;
mod cell;
mod check;
mod mark;

use crate::say;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use sitefs_base::{Error, Result};
use std::{path::Path, time::Duration};

/// One number beside its goal.
#[derive(Serialize)]
pub(crate) struct Measured {
    what: String,
    unit: &'static str,
    value: f64,
    /// At most so much is wanted, where anything is.
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<f64>,
}

impl Measured {
    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let Self { what, unit, value, goal } = self;
        let line = format!("{what:64}  {value:>8.2} {unit:6}");
        let Some(goal) = goal else { return line };
        let verdict = if value <= goal { "met" } else { "missed" };
        format!("{line}  goal {goal:>5} {verdict}")
    }
}

/// Measures everything in a new directory below `dir`, with so many files as a million stands for.
pub(crate) fn measure(dir: &Path, million: u64) -> Result<Vec<Measured>> {
    std::fs::create_dir_all(dir).map_err(|error| Error::io(format!("creating {}", dir.display()), error))?;
    let place = tempfile::Builder::new().prefix("sitefs-bench-").tempdir_in(dir);
    let place =
        place.map_err(|error| Error::io(format!("making a directory in {}", dir.display()), error))?;
    cases::run(&place.path().join("state"), million)
}

/// The CPU time that `work` takes, of the process or of this thread.
fn cpu<T>(clock: ClockId, work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let now = || {
        let time = clock_gettime(clock);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
    };
    let before = now();
    let value = work()?;
    Ok((value, now().saturating_sub(before)))
}

fn micros(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / count as f64
}

/// Tells what is being done, and keeps the number.
fn note(
    found: &mut Vec<Measured>,
    what: impl Into<String>,
    unit: &'static str,
    value: f64,
    goal: impl Into<Option<f64>>,
) {
    let goal = goal.into();
    let measured = Measured { what: what.into(), unit, value, goal };
    say(&measured.line());
    found.push(measured);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_measured_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let found = measure(dir.path(), 2_000).unwrap();
        assert!(found.len() >= 10);
        assert!(found.iter().all(|measured| measured.value > 0.0));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
