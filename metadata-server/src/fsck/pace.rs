//! So much in a second, and no more once it is told to stop.

use sitefs_base::{Clock, Error, Result};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// The longest wait at a time, so that a stop is noticed.
const STEP: Duration = Duration::from_millis(100);

/// Counts what was done, and says how long to wait.
pub(super) struct Pace {
    clock: Arc<dyn Clock>,
    began: Duration,
    done: u64,
    per_second: Option<u64>,
    stop: CancellationToken,
}

impl Pace {
    pub fn new(clock: Arc<dyn Clock>, per_second: Option<u64>, stop: CancellationToken) -> Self {
        let began = clock.boottime();
        let per_second = per_second.filter(|rate| *rate > 0);
        Self { clock, began, done: 0, per_second, stop }
    }

    /// So much was done; what is to be waited for now.
    fn ahead(&mut self, more: u64) -> Result<Duration> {
        self.done = self.done.saturating_add(more);
        self.going_on()?;
        let Some(rate) = self.per_second else { return Ok(Duration::ZERO) };
        let due = Duration::from_secs_f64(self.done as f64 / rate as f64);
        Ok(due.saturating_sub(self.clock.boottime().saturating_sub(self.began)))
    }

    fn going_on(&self) -> Result<()> {
        if self.stop.is_cancelled() {
            return Err(Error::unavailable("the check was ended before it was done"));
        }
        Ok(())
    }

    /// Waits on a thread that may wait.
    pub fn block(&mut self, more: u64) -> Result<()> {
        let mut ahead = self.ahead(more)?;
        while !ahead.is_zero() {
            std::thread::sleep(ahead.min(STEP));
            ahead = self.ahead(0)?;
        }
        Ok(())
    }

    /// The same in a task.
    pub async fn wait(&mut self, more: u64) -> Result<()> {
        let mut ahead = self.ahead(more)?;
        while !ahead.is_zero() {
            tokio::time::sleep(ahead.min(STEP)).await;
            ahead = self.ahead(0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitefs_base::{ManualClock, Time};

    #[test]
    fn what_is_ahead_of_its_time_waits_and_a_stop_ends_it() {
        let clock = Arc::new(ManualClock::new(Time::new(1, 0)));
        let stop = CancellationToken::new();
        let mut pace = Pace::new(clock.clone(), Some(100), stop.clone());
        assert_eq!(pace.ahead(50).unwrap(), Duration::from_millis(500));
        clock.advance(Duration::from_millis(500));
        assert_eq!(pace.ahead(0).unwrap(), Duration::ZERO);
        assert_eq!(Pace::new(clock, None, stop.clone()).ahead(1 << 40).unwrap(), Duration::ZERO);
        stop.cancel();
        assert!(pace.ahead(1).is_err());
    }
}
