//! The mount's credit: how much it may write and create without asking the cell (DESIGN D17).
//!
//! Everything here that the cell has not committed is claimed: a [`Claim`] lives with the working copy
//! or create that it is for, and gives back what it no longer needs. The claims never add up to more
//! than the cell has told, so what fits here is never refused at close.

use sitefs_base::op::Credit;
use sitefs_base::session::CreditUse;
use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The credit of a session and what of it is in use.
#[derive(Debug, Default)]
pub struct Credits {
    state: Mutex<State>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The most that may be in use, as the last frame said.
    told: Credit,
    in_use: Credit,
    /// What writers wait for.
    wanted: Credit,
    /// Frames with a credit on this stream.
    frames: u64,
    /// Frames with a credit in all.
    answers: u64,
    /// What was free when the last frame came.
    room: Credit,
    /// Whether more was asked for since.
    asked: bool,
}

/// What became of a claim that should grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Growth {
    /// It has grown.
    Fits,
    /// It has grown, and it is time to ask for more.
    FitsAndAsk,
    /// There is no credit for it; it is as it was.
    Short,
}

/// Credit in use; given back when dropped.
#[derive(Debug)]
pub struct Claim {
    credits: Arc<Credits>,
    amount: Credit,
}

/// Writers wait for this; they do no more when it is dropped.
#[derive(Debug)]
pub struct Wanted<'a> {
    credits: &'a Credits,
    amount: Credit,
}

impl Credits {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A claim on nothing.
    pub fn claim(self: &Arc<Self>) -> Claim {
        Claim { credits: Arc::clone(self), amount: Credit::NONE }
    }

    /// A stream has begun: its first frame tells the credit.
    pub fn attached(&self, told: Credit) {
        self.lock().frames = 0;
        self.heard(told);
    }

    /// The next frame of the stream tells the credit.
    pub fn heard(&self, told: Credit) {
        let mut state = self.lock();
        state.frames += 1;
        state.answers += 1;
        state.told = told;
        state.room = told.less(state.in_use);
        state.asked = false;
        drop(state);
        self.answered.notify_all();
    }

    /// What the next ping says.
    pub fn said(&self) -> CreditUse {
        let state = self.lock();
        let in_use = state.in_use.plus(state.wanted);
        CreditUse { in_use, wanted: state.wanted, frames: state.frames }
    }

    /// What an attach says: all that may be in use before its answer is here.
    pub fn counted_on(&self) -> Credit {
        let state = self.lock();
        state.told.max(state.in_use)
    }

    /// What is not in use of what the last frame told.
    pub fn free(&self) -> Credit {
        let state = self.lock();
        state.told.less(state.in_use)
    }

    /// What is in use.
    pub fn in_use(&self) -> Credit {
        self.lock().in_use
    }

    /// Says with every ping that so much more is wanted.
    pub fn want(&self, amount: Credit) -> Wanted<'_> {
        let mut state = self.lock();
        state.wanted = state.wanted.plus(amount);
        Wanted { credits: self, amount }
    }

    /// Whether a claim could grow by `more`.
    pub fn has_room(&self, more: Credit) -> bool {
        self.lock().has_room(more)
    }

    /// How many frames have told a credit.
    pub fn answers(&self) -> u64 {
        self.lock().answers
    }

    /// Waits at most `limit` for a frame behind the first `seen`; whether one came.
    pub fn wait_behind(&self, seen: u64, limit: Duration) -> bool {
        let same = |state: &mut State| state.answers == seen;
        let waited = self.answered.wait_timeout_while(self.lock(), limit, same);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl State {
    fn has_room(&self, more: Credit) -> bool {
        self.told.covers(self.in_use.plus(more))
    }

    /// Whether less than half of the room is left and nobody has asked for more.
    fn should_ask(&self) -> bool {
        let left = self.told.less(self.in_use);
        !self.asked
            && (left.bytes < self.room.bytes.div_ceil(2) || left.inodes < self.room.inodes.div_ceil(2))
    }
}

impl Claim {
    /// What it holds.
    pub fn amount(&self) -> Credit {
        self.amount
    }

    /// Makes it at least `amount`, if there is credit for that.
    pub fn grow_to(&mut self, amount: Credit) -> Growth {
        let more = amount.less(self.amount);
        if more == Credit::NONE {
            return Growth::Fits;
        }
        let mut state = self.credits.lock();
        if !state.has_room(more) {
            return Growth::Short;
        }
        state.in_use = state.in_use.plus(more);
        self.amount = self.amount.plus(more);
        if state.should_ask() {
            state.asked = true;
            return Growth::FitsAndAsk;
        }
        Growth::Fits
    }

    /// Makes it exactly `amount`: what is not needed any more goes back.
    pub fn set(&mut self, amount: Credit) {
        if amount != self.amount {
            let mut state = self.credits.lock();
            state.in_use = state.in_use.less(self.amount).plus(amount);
            self.amount = amount;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.set(Credit::NONE);
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        let mut state = self.credits.lock();
        state.wanted = state.wanted.less(self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(bytes: u64) -> Credit {
        Credit { bytes, inodes: 0 }
    }

    #[test]
    fn claims_give_back_what_they_do_not_need() {
        let credits = Arc::new(Credits::default());
        credits.attached(Credit { bytes: 100, inodes: 1 });
        let (mut one, mut two) = (credits.claim(), credits.claim());
        assert_eq!(one.grow_to(Credit { bytes: 40, inodes: 1 }), Growth::FitsAndAsk, "inodes are used up");
        assert_eq!(two.grow_to(bytes(61)), Growth::Short);
        assert_eq!(two.grow_to(Credit { bytes: 1, inodes: 1 }), Growth::Short);
        assert_eq!(two.grow_to(bytes(60)), Growth::Fits, "asked already");
        one.set(bytes(10));
        assert_eq!(credits.in_use(), bytes(70));
        drop(two);
        assert_eq!((credits.in_use(), one.amount()), (bytes(10), bytes(10)));
    }

    #[test]
    fn more_is_asked_for_once_when_half_of_the_room_is_gone() {
        let credits = Arc::new(Credits::default());
        credits.attached(bytes(100));
        let mut claim = credits.claim();
        assert_eq!(claim.grow_to(bytes(50)), Growth::Fits);
        assert_eq!(claim.grow_to(bytes(51)), Growth::FitsAndAsk);
        assert_eq!(claim.grow_to(bytes(90)), Growth::Fits);
        credits.heard(bytes(110));
        assert_eq!(claim.grow_to(bytes(101)), Growth::FitsAndAsk, "half of the twenty that were left");
    }

    #[test]
    fn what_is_said_has_what_is_wanted_and_an_attach_what_is_counted_on() {
        let credits = Arc::new(Credits::default());
        credits.attached(bytes(100));
        let mut claim = credits.claim();
        claim.grow_to(bytes(30));
        let wanted = credits.want(bytes(90));
        let said = CreditUse { in_use: bytes(120), wanted: bytes(90), frames: 1 };
        assert_eq!(credits.said(), said);
        drop(wanted);
        credits.heard(bytes(20));
        assert_eq!(credits.said(), CreditUse { in_use: bytes(30), wanted: Credit::NONE, frames: 2 });
        assert_eq!(credits.counted_on(), bytes(30), "less was told than is in use");
        assert!(!credits.has_room(bytes(1)));
        credits.attached(bytes(50));
        assert_eq!((credits.said().frames, credits.counted_on()), (1, bytes(50)));
    }

    #[test]
    fn parallel_writers_never_use_more_than_was_told() {
        let credits = Arc::new(Credits::default());
        credits.attached(bytes(10_000));
        let most = std::thread::scope(|scope| {
            let write = || {
                let mut claim = credits.claim();
                let mut most = 0;
                for step in 0..5_000u64 {
                    let grown = claim.grow_to(claim.amount().plus(bytes(step % 97)));
                    most = most.max(credits.in_use().bytes);
                    if grown == Growth::Short {
                        claim.set(bytes(0));
                    }
                }
                most
            };
            let writers: Vec<_> = (0..4).map(|_| scope.spawn(write)).collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).max()
        });
        assert!(most.is_some_and(|most| (9_000..=10_000).contains(&most)), "{most:?}");
        assert_eq!(credits.in_use(), Credit::NONE);
    }

    #[test]
    fn an_answer_ends_a_wait() {
        let credits = Credits::default();
        let seen = credits.answers();
        assert!(!credits.wait_behind(seen, Duration::ZERO));
        std::thread::scope(|scope| {
            scope.spawn(|| credits.heard(bytes(1)));
            assert!(credits.wait_behind(seen, Duration::from_secs(20)));
        });
    }
}
