//! How far the store's clock is from ours. Requests of the SDK correct themselves; what others will send later
//! is dated by us.

use aws_sdk_s3::config::{
    ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeDeserializationInterceptorContextRef,
};
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use sitefs_base::{Clock, Time};
use std::{
    error::Error,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

/// Less than this does not matter: signatures count for 15 minutes, grants for five.
const TOLERATED: i64 = 60;

/// Learns from the `Date` of every answer.
#[derive(Clone)]
pub(super) struct Skew {
    clock: Arc<dyn Clock>,
    /// Seconds that the store is ahead.
    ahead: Arc<AtomicI64>,
}

impl fmt::Debug for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Skew({} s)", self.ahead.load(Ordering::Relaxed))
    }
}

impl Skew {
    pub fn of(clock: Arc<dyn Clock>) -> Self {
        Self { clock, ahead: Arc::default() }
    }

    /// The time as the store sees it.
    pub fn now(&self) -> Time {
        let (now, ahead) = (self.clock.now(), self.ahead.load(Ordering::Relaxed));
        let by = Duration::from_secs(ahead.unsigned_abs());
        match ahead {
            ..=-1 => Time::new(now.secs().saturating_add(ahead), now.nanos()),
            0 => now,
            1.. => now.plus(by),
        }
    }

    /// Whether the last answer was dated so that a signature of ours may not have counted.
    pub fn is_off(&self) -> bool {
        self.ahead.load(Ordering::Relaxed) != 0
    }

    fn learn(&self, date: i64) {
        let found = date.saturating_sub(self.clock.now().secs());
        let ahead = if found.abs() > TOLERATED { found } else { 0 };
        let before = self.ahead.swap(ahead, Ordering::Relaxed);
        if (before - ahead).abs() > TOLERATED {
            match ahead {
                0 => tracing::info!("this machine's clock and the store's agree again"),
                _ => tracing::warn!(
                    seconds = ahead,
                    "the store's clock is ahead by so much (behind if negative): set this machine's by NTP; grants are dated by the store's"
                ),
            }
        }
    }
}

impl Intercept for Skew {
    fn name(&self) -> &'static str {
        "sitefs-date"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let date = context.response().headers().get("date");
        if let Some(Ok(date)) = date.map(|date| DateTime::from_str(date, DateTimeFormat::HttpDate)) {
            self.learn(date.secs());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitefs_base::ManualClock;

    #[test]
    fn small_differences_do_not_count_and_large_ones_date_grants() {
        let skew = Skew::of(Arc::new(ManualClock::new(Time::new(1_000_000, 5))));
        for (date, now) in
            [(1_000_000, 1_000_000), (1_000_050, 1_000_000), (1_003_600, 1_003_600), (996_400, 996_400)]
        {
            skew.learn(date);
            assert_eq!(skew.now(), Time::new(now, 5));
        }
    }
}
