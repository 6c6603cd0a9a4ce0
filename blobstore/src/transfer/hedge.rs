//! A second request where the first answer does not begin, so that one slow server of a store does not
//! hold up a read. There are few of them: a store that is slow as a whole is not asked twice.

use super::{Call, Failure, Transfer};
use hyper::{Response, body::Incoming};
use std::{
    pin::pin,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use tokio::time::timeout;

/// How long an answer has to begin.
const AFTER: Duration = Duration::from_millis(700);
/// Requests that pay for one hedge, and how many hedges may be saved up.
const PRICE: u32 = 10;
const SAVED_MAX: u32 = 10 * PRICE;

/// What may be spent on second requests: one in ten.
#[derive(Debug)]
pub(super) struct Hedges(AtomicU32);

impl Default for Hedges {
    fn default() -> Self {
        Self(AtomicU32::new(SAVED_MAX))
    }
}

impl Hedges {
    fn earn(&self) {
        let more = |saved: u32| Some((saved + 1).min(SAVED_MAX));
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    fn spend(&self) -> bool {
        let less = |saved: u32| saved.checked_sub(PRICE);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

impl Transfer {
    /// The answer that begins first.
    pub(super) async fn send_hedged(&self, call: &Call) -> Result<Response<Incoming>, Failure> {
        let hedges = &self.shared.hedges;
        hedges.earn();
        let mut first = pin!(self.send(call));
        if let Ok(answer) = timeout(AFTER, &mut first).await {
            return answer;
        }
        if !hedges.spend() {
            return first.await;
        }
        tracing::debug!(call = call.name, "no answer yet, asking again beside it");
        let mut second = pin!(self.send(call));
        tokio::select! {
            answer = &mut first => if answer.is_ok() { answer } else { second.await },
            answer = &mut second => if answer.is_ok() { answer } else { first.await },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_in_ten_may_be_sent_twice() {
        let hedges = Hedges::default();
        assert_eq!((0..20).filter(|_| hedges.spend()).count(), 10);
        (0..25).for_each(|_| hedges.earn());
        assert_eq!((0..20).filter(|_| hedges.spend()).count(), 2);
    }
}
