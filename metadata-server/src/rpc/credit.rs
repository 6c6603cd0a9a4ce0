//! How much of a volume each session may use without asking: leader memory (DESIGN D17).
//!
//! A session is told the most that it may have in use: the growth of working copies and creates that
//! it has not committed. What all sessions may have in use and what the volume uses never add up to
//! more than its limit, so a commit inside its credit is never refused. Credit is raised at any time;
//! it is taken back only when the mount says that it has heard so, for until then it may have used it.
//! After a restart, and when a limit was lowered, sessions get back what they count on, even beyond the
//! limit, by at most [`HEADROOM`] per session.

use sitefs_base::{
    Errno, OpId, SessionId, VolumeId,
    op::{Credit, Usage},
    session::CreditUse,
};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The most that a session may have beyond what it has in use.
pub(crate) const HEADROOM: Credit = Credit { bytes: 64 << 20, inodes: 1000 };
/// A session whose stream is gone for so long loses its credit.
const ABSENCE: Duration = Duration::from_secs(60);

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

/// The credits of all sessions. Times are the cell's CLOCK_BOOTTIME.
#[derive(Debug, Default)]
pub(crate) struct Credits(Mutex<HashMap<VolumeId, Book>>);

/// The credits of one volume.
#[derive(Debug, Default)]
struct Book {
    accounts: HashMap<SessionId, Account>,
    /// What all accounts hold.
    held: Credit,
    /// When the first of those that are away now, or were, went away.
    away_since: Option<Duration>,
}

/// The credit of one session.
#[derive(Debug, Default)]
struct Account {
    stream: u64,
    /// The most that the session may have in use by any frame that it may go by.
    held: Credit,
    /// What it said that it has in use, less what was committed since.
    in_use: Credit,
    /// Of `held`: for operations that are under way.
    under_way: HashMap<OpId, Credit>,
    reserved: Credit,
    /// Frames with a credit that were sent on this stream.
    frames: u64,
    /// Credit that is being taken back: the frame that said so, and the most that was told since.
    taking_back: Option<(u64, Credit)>,
    left: Option<Duration>,
}

impl Credits {
    /// A session begins a stream and says what it counts on. The credit for its first frame.
    pub fn attach(&self, holder: Holder, counts_on: Credit, usage: &Usage, now: Duration) -> Credit {
        let mut books = self.lock();
        let book = books.entry(holder.volume).or_default();
        book.forget_absent(now);
        let known = book.accounts.get(&holder.session).map(|account| account.held);
        let most = match known {
            Some(held) => held.max(book.ceiling(holder.session, usage)),
            None => book.ceiling(holder.session, usage).plus(book.overshoot()),
        };
        let held = counts_on.min(most);
        book.insert(holder, held);
        let told = held.max(book.target(holder.session, usage));
        book.tell(holder, told)
    }

    /// What a session says of its credit.
    pub fn report(&self, holder: Holder, said: CreditUse) {
        let mut books = self.lock();
        let Some(book) = books.get_mut(&holder.volume) else { return };
        book.change(holder, |account| {
            account.in_use = said.in_use;
            if let Some((frame, most)) = account.taking_back
                && said.frames >= frame
            {
                account.held = most.max(said.in_use.max(account.reserved).min(account.held));
                account.taking_back = None;
            }
        });
    }

    /// The credit for the next frame of a stream; nothing for sessions that have none.
    pub fn answer(&self, holder: Holder, usage: &Usage, now: Duration) -> Credit {
        let mut books = self.lock();
        let Some(book) = books.get_mut(&holder.volume) else { return Credit::NONE };
        book.forget_absent(now);
        if book.account(holder).is_none() {
            return Credit::NONE;
        }
        let told = book.target(holder.session, usage);
        book.tell(holder, told)
    }

    /// Sets `bound` of a session's credit aside for an operation, and what is free beside; a retry
    /// gets what was set aside before. Refused with `EDQUOT` if that is not enough: others were promised
    /// the rest.
    pub fn debit(&self, holder: Holder, op: OpId, bound: Credit, usage: &Usage) -> Result<Credit, Errno> {
        let mut books = self.lock();
        let book = books.get_mut(&holder.volume).ok_or(Errno::EDQUOT)?;
        let free = usage.limit().less(usage.used()).less(book.held);
        let account = book.accounts.get_mut(&holder.session).ok_or(Errno::EDQUOT)?;
        if let Some(credit) = account.under_way.get(&op) {
            return Ok(*credit);
        }
        let rest = bound.less(account.held.less(account.reserved));
        if !free.covers(rest) {
            return Err(Errno::EDQUOT);
        }
        account.held = account.held.plus(rest);
        account.reserved = account.reserved.plus(bound);
        account.under_way.insert(op, bound);
        book.held = book.held.plus(rest);
        Ok(bound)
    }

    /// An operation was executed, or refused: what it did not need comes back.
    pub fn settle(&self, holder: Holder, op: OpId, grown: Credit) {
        let mut books = self.lock();
        let Some(book) = books.get_mut(&holder.volume) else { return };
        let Some(account) = book.accounts.get_mut(&holder.session) else { return };
        let before = account.held;
        let set_aside = account.under_way.remove(&op).unwrap_or_default();
        account.reserved = account.reserved.less(set_aside);
        account.held = account.held.less(grown);
        account.in_use = account.in_use.less(grown);
        account.taking_back = account.taking_back.map(|(frame, most)| (frame, most.less(grown)));
        book.held = book.held.less(before).plus(account.held);
    }

    /// The session's stream is gone; it may come back.
    pub fn left(&self, holder: Holder, now: Duration) {
        let mut books = self.lock();
        let Some(book) = books.get_mut(&holder.volume) else { return };
        if let Some(account) = book.accounts.get_mut(&holder.session) {
            account.left = Some(now);
            book.away_since.get_or_insert(now);
        }
    }

    /// The session has ended.
    pub fn ended(&self, volume: VolumeId, session: SessionId) {
        let mut books = self.lock();
        let Some(book) = books.get_mut(&volume) else { return };
        book.remove(session);
        if book.accounts.is_empty() {
            books.remove(&volume);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<VolumeId, Book>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn account(&self, holder: Holder) -> Option<&Account> {
        self.accounts.get(&holder.session).filter(|account| account.stream == holder.stream)
    }

    /// The most that a session may hold beside what is used and what others hold.
    fn ceiling(&self, session: SessionId, usage: &Usage) -> Credit {
        let own = self.accounts.get(&session).map_or(Credit::NONE, |account| account.held);
        usage.limit().less(usage.used()).less(self.held.less(own))
    }

    /// What a session that this node does not know may get back beyond the limit: as much as the others
    /// may have been given before it came.
    fn overshoot(&self) -> Credit {
        let others = self.accounts.len().max(1) as u64;
        let times = |part: u64| part.saturating_mul(others);
        Credit { bytes: times(HEADROOM.bytes), inodes: times(HEADROOM.inodes) }
    }

    /// What a session should hold: what it has in use, and room to go on. Where there are others it
    /// gets half of what is left, so that all come to the same share.
    fn target(&self, session: SessionId, usage: &Usage) -> Credit {
        let in_use = self.accounts.get(&session).map_or(Credit::NONE, |account| account.in_use);
        let ceiling = self.ceiling(session, usage);
        let spare = ceiling.less(in_use);
        let room = if self.accounts.len() == 1 {
            spare
        } else {
            Credit { bytes: spare.bytes.div_ceil(2), inodes: spare.inodes.div_ceil(2) }
        };
        in_use.plus(room.min(HEADROOM)).min(ceiling)
    }

    /// Counts a frame that tells a session its credit. A smaller one than it has counts only when the
    /// session has heard of it.
    fn tell(&mut self, holder: Holder, told: Credit) -> Credit {
        self.change(holder, |account| {
            account.frames += 1;
            account.taking_back = match account.taking_back {
                Some((frame, most)) => Some((frame, most.max(told))),
                None if told.covers(account.held) => None,
                None => Some((account.frames, told)),
            };
            account.held = account.held.max(told);
        });
        told
    }

    fn change(&mut self, holder: Holder, change: impl FnOnce(&mut Account)) {
        let account = self.accounts.get_mut(&holder.session);
        let Some(account) = account.filter(|account| account.stream == holder.stream) else { return };
        let before = account.held;
        change(account);
        self.held = self.held.less(before).plus(account.held);
    }

    fn insert(&mut self, holder: Holder, held: Credit) {
        self.remove(holder.session);
        self.held = self.held.plus(held);
        let account = Account { stream: holder.stream, held, ..Account::default() };
        self.accounts.insert(holder.session, account);
    }

    fn remove(&mut self, session: SessionId) {
        if let Some(account) = self.accounts.remove(&session) {
            self.held = self.held.less(account.held);
        }
    }

    fn forget_absent(&mut self, now: Duration) {
        if self.away_since.is_none_or(|since| now.saturating_sub(since) < ABSENCE) {
            return;
        }
        let away = |account: &Account| account.left.is_some_and(|left| now.saturating_sub(left) >= ABSENCE);
        let gone: Vec<_> = self.accounts.iter().filter(|(_, a)| away(a)).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|session| self.remove(session));
        self.away_since = self.accounts.values().filter_map(|account| account.left).min();
    }
}

#[cfg(test)]
mod tests;
