//! The lease: until when this mount may believe what it remembers (DESIGN D20).
//!
//! It counts from the moment at which the mount asked for it, on the mount's own clock, and that clock
//! goes on while the machine sleeps or the process is stopped. So no clocks have to agree, and a reply
//! that was long on its way brings a lease that is over already.

use super::service::Watcher;
use super::session::Session;
use sitefs_base::Clock;
use sitefs_base::limits::LEASE;
use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// How soon the end of a lease is noticed after the machine has slept, and a new one without an end of
/// the old one in between.
const LOOK: Duration = Duration::from_millis(500);

/// Until when remembered answers are good.
pub struct Lease {
    clock: Arc<dyn Clock>,
    /// CLOCK_BOOTTIME of its end in nanoseconds; 0 before the first one.
    end: AtomicU64,
    /// How often a lease began that did not go on from another one.
    begun: AtomicU64,
    waiting: Mutex<()>,
    renewed: Condvar,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Lease {
    /// No lease yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let (end, begun) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { clock, end, begun, waiting: Mutex::new(()), renewed: Condvar::new() }
    }

    /// The cell answered what was asked at `asked` (CLOCK_BOOTTIME), `quorum_age` after its last contact
    /// with its quorum. Never makes the lease shorter: what was promised holds.
    pub fn renew(&self, asked: Duration, quorum_age: Duration) {
        self.extend(nanos(asked.saturating_add(LEASE).saturating_sub(quorum_age)));
    }

    /// What is shown cannot change: the past.
    pub fn renew_for_ever(&self) {
        self.extend(u64::MAX);
    }

    fn extend(&self, end: u64) {
        let now = nanos(self.clock.boottime());
        let before = self.end.fetch_max(end, Ordering::AcqRel);
        if before <= now && end > now {
            self.begun.fetch_add(1, Ordering::AcqRel);
        }
        // Taken, so that nobody misses this between looking and waiting.
        drop(self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.renewed.notify_all();
    }

    /// Whether remembered answers are good now.
    pub fn is_live(&self) -> bool {
        nanos(self.clock.boottime()) < self.end.load(Ordering::Acquire)
    }

    /// How long it goes on; `None` when it is over.
    pub fn left(&self) -> Option<Duration> {
        let (now, end) = (nanos(self.clock.boottime()), self.end.load(Ordering::Acquire));
        end.checked_sub(now).filter(|left| *left > 0).map(Duration::from_nanos)
    }

    /// How long it has been over; `None` while it is live, or if there never was one.
    pub fn over_for(&self) -> Option<Duration> {
        let (now, end) = (nanos(self.clock.boottime()), self.end.load(Ordering::Acquire));
        now.checked_sub(end).filter(|_| end > 0).map(Duration::from_nanos)
    }

    /// Waits until there is one, at most for `limit`; whether there is.
    pub fn wait(&self, limit: Duration) -> bool {
        let guard = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.renewed.wait_timeout_while(guard, limit, |()| !self.is_live());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        self.is_live()
    }
}

/// Tells `watcher` each time that the lease is lost, until the mount ends.
pub async fn watch_lease(session: Arc<Session>, watcher: Arc<dyn Watcher>) {
    let lease = session.lease();
    let mut told = 0;
    loop {
        let begun = lease.begun.load(Ordering::Acquire);
        let left = lease.left();
        if left.is_none() && begun != told {
            tracing::warn!("the cell does not renew the lease of this mount");
            watcher.lease_lost();
            told = begun;
        }
        // In steps: the runtime's own clock stands still while the machine sleeps.
        tokio::time::sleep(left.unwrap_or(LOOK).min(LOOK)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitefs_base::{ManualClock, Time};

    const SECOND: Duration = Duration::from_secs(1);

    fn lease() -> (Arc<ManualClock>, Lease) {
        let clock = Arc::new(ManualClock::new(Time::EPOCH));
        clock.advance(100 * SECOND);
        (clock.clone(), Lease::new(clock))
    }

    #[test]
    fn a_lease_counts_from_the_question_and_not_from_its_answer() {
        let (clock, lease) = lease();
        assert_eq!((lease.is_live(), lease.left(), lease.over_for()), (false, None, None));
        let asked = clock.boottime();
        clock.advance(3 * SECOND);
        lease.renew(asked, Duration::ZERO);
        assert_eq!(lease.left(), Some(2 * SECOND));
        clock.advance(2 * SECOND);
        assert_eq!((lease.is_live(), lease.over_for()), (false, Some(Duration::ZERO)));
    }

    #[test]
    fn the_age_of_the_leaders_contact_is_taken_off() {
        let (clock, lease) = lease();
        lease.renew(clock.boottime(), SECOND);
        assert_eq!(lease.left(), Some(4 * SECOND));
    }

    #[test]
    fn an_answer_that_was_too_long_on_its_way_brings_no_lease() {
        let (clock, lease) = lease();
        let asked = clock.boottime();
        clock.advance(60 * SECOND);
        lease.renew(asked, Duration::ZERO);
        assert_eq!((lease.is_live(), lease.over_for()), (false, Some(55 * SECOND)));
        assert_eq!(lease.begun.load(Ordering::Acquire), 0);
    }

    #[test]
    fn an_older_answer_never_shortens_it() {
        let (clock, lease) = lease();
        let first = clock.boottime();
        clock.advance(SECOND);
        lease.renew(clock.boottime(), Duration::ZERO);
        lease.renew(first, SECOND);
        assert_eq!(lease.left(), Some(5 * SECOND));
    }

    #[test]
    fn each_lease_that_begins_anew_is_counted_however_short() {
        let (clock, lease) = lease();
        for round in 1..=3 {
            lease.renew(clock.boottime(), Duration::ZERO);
            lease.renew(clock.boottime() + SECOND, Duration::ZERO);
            assert_eq!(lease.begun.load(Ordering::Acquire), round);
            clock.advance(6 * SECOND);
            assert!(!lease.is_live());
        }
    }

    #[test]
    fn who_waits_for_a_lease_goes_on_when_it_comes() {
        let (clock, lease) = lease();
        assert!(!lease.wait(Duration::from_millis(1)));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| lease.wait(60 * SECOND));
            lease.renew(clock.boottime(), Duration::ZERO);
            assert!(waiting.join().unwrap());
        });
    }
}
