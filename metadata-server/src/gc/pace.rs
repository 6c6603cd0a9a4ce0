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
        sleep_until(self.due(Instant::now(), rows)).await;
    }

    /// When `rows` more are allowed.
    fn due(&mut self, now: Instant, rows: u64) -> Instant {
        let takes = Duration::from_secs(1).mul_f64(rows as f64 / self.per_second as f64);
        let due = self.due.map_or(now, |due| due.max(now)) + takes;
        self.due = Some(due);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_take_their_time_and_idleness_saves_nothing_up() {
        let (begun, second) = (Instant::now(), Duration::from_secs(1));
        let mut pace = Pace::new(1000);
        assert_eq!(pace.due(begun, 500), begun + second / 2);
        assert_eq!(pace.due(begun, 500), begun + second);
        let later = begun + 60 * second;
        assert_eq!(pace.due(later, 1000), later + second);
    }
}
