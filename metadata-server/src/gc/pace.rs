//! How fast a run may go.

use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// What deleting an object counts as, in rows.
pub(super) const OBJECT_ROWS: u64 = 100;

/// Rows per second.
pub(super) struct Pace {
    per_second: u64,
    /// When the rows that were taken so far may have been looked at.
    due: Option<Instant>,
}

impl Pace {
    pub fn new(per_second: u64) -> Self {
        Self { per_second: per_second.max(1), due: None }
    }

    /// Waits until `rows` more are allowed. What was not used before is not saved up.
    pub async fn take(&mut self, rows: u64) {
        let now = Instant::now();
        let takes = Duration::from_secs(1).mul_f64(rows as f64 / self.per_second as f64);
        let due = self.due.map_or(now, |due| due.max(now)) + takes;
        self.due = Some(due);
        sleep_until(due).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rows_take_their_time_and_idleness_saves_nothing_up() {
        let begun = Instant::now();
        let mut pace = Pace::new(1000);
        pace.take(500).await;
        pace.take(500).await;
        assert!(begun.elapsed() >= Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(60)).await;
        let begun = Instant::now();
        pace.take(1000).await;
        assert!(begun.elapsed() >= Duration::from_secs(1));
    }
}
