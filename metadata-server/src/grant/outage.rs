//! Backing off from a store that fails, and saying so once.

use sitefs_base::Error;
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(10);

/// Whether the store works, as one loop sees it.
pub(super) struct Outage {
    task: &'static str,
    wait: Option<Duration>,
}

impl Outage {
    pub fn new(task: &'static str) -> Self {
        Self { task, wait: None }
    }

    /// It failed: how long to wait now. The first failure of an outage is logged.
    pub fn failed(&mut self, error: &Error) -> Duration {
        let wait = match self.wait {
            None => {
                tracing::warn!(task = self.task, error = error.chain(), "object store fails, trying again");
                FIRST
            }
            Some(wait) => (wait * 2).min(LONGEST),
        };
        self.wait = Some(wait);
        wait
    }

    /// It worked.
    pub fn over(&mut self) {
        if self.wait.take().is_some() {
            tracing::info!(task = self.task, "object store works again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_begin_again() {
        let mut outage = Outage::new("test");
        let error = Error::unavailable("no store");
        let waits: Vec<_> = (0..8).map(|_| outage.failed(&error)).collect();
        assert_eq!((waits[0], waits[1], waits[7]), (FIRST, FIRST * 2, LONGEST));
        outage.over();
        assert_eq!(outage.failed(&error), FIRST);
    }
}
