//! Where time, randomness and tasks enter, so that tests can own them.

use crate::Time;
use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time.
    fn now(&self) -> Time;
    /// Time since some fixed moment; never goes back and goes on in suspend (CLOCK_BOOTTIME).
    fn boottime(&self) -> Duration;
}

/// The clocks of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    fn now(&self) -> Time {
        std::time::SystemTime::now().into()
    }

    #[allow(
        unsafe_code,
        reason = "clock_gettime fills a struct that we own; CLOCK_BOOTTIME always exists on Linux"
    )]
    fn boottime(&self) -> Duration {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `now` is a valid timespec for the duration of the call.
        unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) };
        Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
    }
}

/// A clock that moves only when told to.
#[derive(Debug, Default)]
pub struct ManualClock(Mutex<(Time, Duration)>);

impl ManualClock {
    /// A clock that shows `now`.
    pub fn new(now: Time) -> Self {
        Self(Mutex::new((now, Duration::ZERO)))
    }
    /// Moves both clocks on.
    pub fn advance(&self, by: Duration) {
        let mut clocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *clocks = (clocks.0.plus(by), clocks.1 + by);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }
    fn boottime(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

/// A source of random bits.
pub trait Random: Send + Sync + 'static {
    /// The next 64 bits.
    fn next_u64(&self) -> u64;
    /// The next 128 bits.
    fn next_u128(&self) -> u128 {
        (u128::from(self.next_u64()) << 64) | u128::from(self.next_u64())
    }
}

/// The randomness of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsRandom;

impl Random for OsRandom {
    fn next_u64(&self) -> u64 {
        // Without entropy nothing that must be unique can be made: stopping is the only safe answer.
        getrandom::u64().unwrap_or_else(|error| panic!("the operating system gives no random bits: {error}"))
    }
}

/// Repeats the same bits for the same seed (splitmix64).
#[derive(Debug)]
pub struct SeededRandom(Mutex<u64>);

impl SeededRandom {
    /// A source that `seed` determines.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }
}

impl Random for SeededRandom {
    fn next_u64(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// The owner of a component's tasks: they end when it is shut down or dropped.
#[derive(Clone, Debug)]
pub struct Tasks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    /// An owner without tasks.
    pub fn new() -> Self {
        let shared = Shared { stop: CancellationToken::new(), tracker: TaskTracker::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Runs `task` until it ends or the owner stops; must be called inside a tokio runtime.
    /// The task is dropped at its next await point when the owner stops.
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.shared.stop.clone();
        self.shared.tracker.spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Becomes cancelled when the owner stops, for tasks that have to finish something first.
    pub fn stopping(&self) -> CancellationToken {
        self.shared.stop.clone()
    }

    /// Stops all tasks and waits until they have ended.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.tracker.close();
        self.shared.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_repeat_and_differ() {
        let draw = |seed| SeededRandom::new(seed).next_u128();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[tokio::test]
    async fn shutdown_ends_every_task() {
        let tasks = Tasks::new();
        tasks.spawn(std::future::pending());
        tasks.shutdown().await;
    }
}
