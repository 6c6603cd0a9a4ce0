//! Admission of mounts that attach (DESIGN D37): after a restart all come at once.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

/// Attaches that are worked on at a time; each is an entry of the log.
const AT_ONCE: usize = 64;
/// Attaches that wait for one of these to end; further ones come again.
const WAITING_MAX: usize = 256;
/// How long they wait.
const WAIT: Duration = Duration::from_secs(1);
/// Those that are sent away come again one after the other, at this distance.
const APART: Duration = Duration::from_millis(2);
/// The soonest and the latest moment at which they are told to come.
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(10);

/// Lets mounts in.
pub(super) struct Admission {
    working: Semaphore,
    waiting: Semaphore,
    /// When the last of those that were sent away comes again.
    last: Mutex<Duration>,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            working: Semaphore::new(AT_ONCE),
            waiting: Semaphore::new(WAITING_MAX),
            last: Mutex::default(),
        }
    }
}

impl Admission {
    /// A place, held while the attach is worked on; or how long to stay away. `now` is of a clock that never
    /// goes back.
    pub(super) async fn enter(&self, now: Duration) -> Result<SemaphorePermit<'_>, Duration> {
        if let Ok(place) = self.working.try_acquire() {
            return Ok(place);
        }
        let Ok(_waiting) = self.waiting.try_acquire() else { return Err(self.later(now)) };
        match timeout(WAIT, self.working.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(self.later(now)),
        }
    }

    fn later(&self, now: Duration) -> Duration {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = (*last + APART).clamp(now + SOONEST, now + LATEST);
        *last - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_storm_is_let_in_in_portions_and_the_rest_is_spread_out() {
        let admission = Admission::default();
        let now = Duration::from_secs(100);
        let mut working = Vec::new();
        for _ in 0..AT_ONCE {
            working.push(admission.enter(now).await.unwrap());
        }
        let queued: Vec<_> = (0..WAITING_MAX).map(|_| Box::pin(admission.enter(now))).collect();
        let mut queued = tokio_stream::StreamExt::collect::<Vec<_>>(tokio_stream::iter(queued)).await;
        for one in &mut queued {
            assert!(
                std::future::poll_fn(|cx| std::task::Poll::Ready(one.as_mut().poll(cx).is_pending())).await
            );
        }
        let away: Vec<Duration> = {
            let mut away = Vec::new();
            for _ in 0..100 {
                away.push(admission.enter(now).await.unwrap_err());
            }
            away
        };
        assert!(away.is_sorted() && away[0] == SOONEST + APART - APART && away[99] > away[0]);
        drop(working.pop());
        assert!(queued.remove(0).await.is_ok(), "the first that waits is the next");
        assert!(queued.pop().unwrap().await.is_err(), "nobody waits for ever");
    }

    #[test]
    fn nobody_is_sent_away_for_longer_than_the_latest() {
        let admission = Admission::default();
        for _ in 0..100_000 {
            assert!(admission.later(Duration::ZERO) <= LATEST);
        }
    }
}
