//! How much of a volume each session may use without asking: leader memory (DESIGN D17).
//!
//! A session is told the most that it may have in use: the growth of working copies and creates that
//! it has not committed. What all sessions may have in use and what the volume uses never add up to
//! more than its limit, so a commit inside its credit is never refused. Credit is raised at any time;
//! it is taken back only when the mount says that it has heard so, for until then it may have used it.
//! After a restart, and when a limit was lowered, sessions get back what they count on, even beyond the
//! limit.
//!
//! What nobody has in use is shared out equally. Where a session has much less than its share because
//! others hold more than theirs, the others are asked at once: each hears of its smaller credit and says
//! so with a ping, so that the session gets its share within a round trip and not when they next happen
//! to ping. Who waits for credit is told when there is some.

mod book;

use book::Book;
use sitefs_base::{
    OpId, SessionId, VolumeId,
    op::{Credit, Usage},
    session::CreditUse,
};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{Notify, futures::Notified};

/// The most that a session may have beyond what it has in use.
pub(crate) const HEADROOM: Credit = Credit { bytes: 64 << 20, inodes: 1000 };

/// One stream of a session: frames are counted per stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Holder {
    /// The volume.
    pub volume: VolumeId,
    /// The session.
    pub session: SessionId,
    /// The number of its stream at this node.
    pub stream: u64,
}

/// What a frame tells a session of its credit.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Told {
    /// The most that it may have in use.
    pub credit: Credit,
    /// Sessions that should hear at once: they hold what it needs, or wait for what it does not.
    pub ask: Vec<SessionId>,
}

/// What became of the credit that an operation should have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Debit {
    /// So much is set aside for it.
    SetAside(Credit),
    /// Others hold what is missing and do not use it: these should hear at once.
    Awaited(Vec<SessionId>),
    /// There is not enough.
    Refused,
}

/// The credits of all sessions. Times are the cell's CLOCK_BOOTTIME.
#[derive(Debug, Default)]
pub(crate) struct Credits {
    books: Mutex<HashMap<VolumeId, Book>>,
    /// Notified when somebody gave something back.
    freed: Notify,
}

impl Credits {
    /// The ledger, while nobody else changes it.
    pub fn ledger(&self) -> Ledger<'_> {
        Ledger { books: self.lock() }
    }

    /// What a session says of its credit.
    pub fn report(&self, holder: Holder, said: CreditUse, now: Duration) {
        let mut books = self.lock();
        let Some(book) = books.get_mut(&holder.volume) else { return };
        let gave_back = book.report(holder, said, now);
        drop(books);
        if gave_back {
            self.freed.notify_waiters();
        }
    }

    /// Completes when credit was given back after the call.
    pub fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// An operation does not wait for credit any more.
    pub fn give_up(&self, holder: Holder, op: OpId) {
        if let Some(book) = self.lock().get_mut(&holder.volume) {
            book.give_up(holder.session, op);
        }
    }

    /// An operation was executed, or refused: what it did not need comes back.
    pub fn settle(&self, holder: Holder, op: OpId, grown: Credit) {
        if let Some(book) = self.lock().get_mut(&holder.volume) {
            book.settle(holder.session, op, grown);
        }
    }

    /// The session's stream is gone; it may come back.
    pub fn left(&self, holder: Holder, now: Duration) {
        if let Some(book) = self.lock().get_mut(&holder.volume) {
            book.left(holder.session, now);
        }
    }

    /// The session has ended.
    pub fn ended(&self, volume: VolumeId, session: SessionId) {
        let mut books = self.lock();
        let Some(book) = books.get_mut(&volume) else { return };
        book.remove(session);
        if book.is_empty() {
            books.remove(&volume);
        }
        drop(books);
        self.freed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<VolumeId, Book>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ledger while it is locked. The usage that it is asked with is read meanwhile: an operation is
/// settled after it was applied, so a usage from before would count what it added neither as used nor as
/// promised.
pub(crate) struct Ledger<'a> {
    books: MutexGuard<'a, HashMap<VolumeId, Book>>,
}

impl Ledger<'_> {
    /// A session begins a stream and says what it counts on. The credit for its first frame.
    pub fn attach(&mut self, holder: Holder, counts_on: Credit, usage: &Usage, now: Duration) -> Told {
        let book = self.books.entry(holder.volume).or_default();
        book.forget_absent(now);
        book.attach(holder, counts_on, usage);
        book.answer(holder, usage, now)
    }

    /// One that is told nothing begins: it gets credit by [`Self::debit`] only.
    pub fn enter(&mut self, holder: Holder, usage: &Usage) {
        self.books.entry(holder.volume).or_default().attach(holder, Credit::NONE, usage);
    }

    /// The credit for the next frame of a stream; nothing for sessions that have none.
    pub fn answer(&mut self, holder: Holder, usage: &Usage, now: Duration) -> Told {
        let Some(book) = self.books.get_mut(&holder.volume) else { return Told::default() };
        book.forget_absent(now);
        book.answer(holder, usage, now)
    }

    /// Sets `bound` of a session's credit aside for an operation, and what is free beside; a retry
    /// gets what was set aside before. Refused if that is not enough: others were promised the rest.
    pub fn debit(&mut self, holder: Holder, op: OpId, bound: Credit, usage: &Usage, now: Duration) -> Debit {
        let book = self.books.get_mut(&holder.volume);
        book.map_or(Debit::Refused, |book| book.debit(holder, op, bound, usage, now))
    }
}

#[cfg(test)]
mod tests;
