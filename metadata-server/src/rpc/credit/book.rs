//! The credits of one volume.

use super::{Debit, HEADROOM, Holder, Told};
use sitefs_base::{
    OpId, SessionId,
    op::{Credit, Usage},
    session::CreditUse,
};
use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

/// A session whose stream is gone for so long loses its credit.
const ABSENCE: Duration = Duration::from_secs(60);
/// How soon a session is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// What a session said longer ago may not be true any more: where somebody waits it is asked.
const STALE: Duration = Duration::from_millis(250);
/// More than can be wanted or held; sums of it stay below the largest number.
const WANT_MAX: Credit = Credit { bytes: 1 << 48, inodes: 1 << 48 };

/// The accounts and their sums.
#[derive(Debug, Default)]
pub(super) struct Book {
    accounts: HashMap<SessionId, Account>,
    sums: Sums,
    /// Those that were told less than they need.
    waiting: HashSet<SessionId>,
    /// When the first of those that are away now, or were, went away.
    away_since: Option<Duration>,
}

/// What one account, or all, stand for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Sums {
    /// What may be in use.
    pub held: Credit,
    /// What is in use.
    used: Credit,
    /// What is wanted beside.
    wants: Credit,
}

/// The credit of one session.
#[derive(Debug, Default)]
struct Account {
    stream: u64,
    /// The most that the session may have in use by any frame that it may go by.
    held: Credit,
    /// What the last frame said.
    told: Credit,
    /// What it said that it has in use, less what was committed since.
    in_use: Credit,
    /// What its writers wait for.
    wanted: Credit,
    /// Operations that wait for credit.
    lacking: HashMap<OpId, Credit>,
    /// Of `held`: for operations that are under way.
    under_way: HashMap<OpId, Credit>,
    reserved: Credit,
    /// Frames with a credit that were sent on this stream.
    frames: u64,
    /// Credit that is being taken back: the frame that said so, and the most that was told since.
    taking_back: Option<(u64, Credit)>,
    /// When it last said what it has in use.
    said: Option<Duration>,
    /// When it was last asked, and whether it has not answered yet.
    asked: Option<Duration>,
    owes: bool,
    left: Option<Duration>,
}

/// Bytes, inodes, or both.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Parts {
    bytes: bool,
    inodes: bool,
}

/// How what is left of a volume is shared out at this moment.
struct Shares {
    /// The limit less what is used.
    total: Credit,
    /// What each gets at most of what it wants.
    level: Credit,
    /// What each gets beside what it has in use and wants.
    room: Credit,
}

impl Parts {
    /// Where `is` holds for the parts of several credits.
    fn of<const N: usize>(credits: [Credit; N], is: impl Fn([u64; N]) -> bool) -> Self {
        Self {
            bytes: is(credits.map(|credit| credit.bytes)),
            inodes: is(credits.map(|credit| credit.inodes)),
        }
    }

    fn any(self) -> bool {
        self.bytes || self.inodes
    }

    fn and(self, other: Self) -> Self {
        Self { bytes: self.bytes && other.bytes, inodes: self.inodes && other.inodes }
    }
}

impl Shares {
    /// What a session should hold.
    fn of(&self, account: &Account) -> Credit {
        account.used().plus(account.wants().min(self.level)).plus(self.room)
    }
}

impl Account {
    fn used(&self) -> Credit {
        self.in_use.max(self.reserved)
    }

    fn wants(&self) -> Credit {
        self.lacking.values().fold(self.wanted, |sum, lacking| sum.plus(*lacking)).min(WANT_MAX)
    }

    fn sums(&self) -> Sums {
        Sums { held: self.held, used: self.used(), wants: self.wants() }
    }

    /// Whether what it said may not be true any more.
    fn is_stale(&self, now: Duration) -> bool {
        self.said.is_none_or(|said| now.saturating_sub(said) >= STALE)
    }

    /// Whether it holds less as soon as it has said that it heard so.
    fn would_give_back(&self) -> bool {
        let keeps = self.taking_back.map_or(self.held, |(_, most)| most.max(self.used()));
        !keeps.covers(self.held)
    }

    fn may_be_asked(&self, now: Duration) -> bool {
        self.left.is_none() && self.asked.is_none_or(|asked| now.saturating_sub(asked) >= ASK_AGAIN)
    }
}

impl Book {
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// A session that this node knows keeps what it may have in use. Another one was promised what it
    /// counts on by a node that is gone, or before a long absence: at most all there is, for that was
    /// the most that could be promised, and a headroom more in case that the limit was lowered.
    pub fn attach(&mut self, holder: Holder, counts_on: Credit, usage: &Usage) {
        let most = match self.accounts.get(&holder.session) {
            Some(account) => account.held.max(self.ceiling(account.held, total(usage))),
            None => usage.limit().plus(HEADROOM),
        };
        self.remove(holder.session);
        let held = counts_on.min(most).min(WANT_MAX);
        // All of it counts as in use until the first ping.
        let account = Account { stream: holder.stream, held, told: held, in_use: held, ..Account::default() };
        self.sums = self.sums.plus(account.sums());
        self.accounts.insert(holder.session, account);
    }

    /// Takes in what a session says; whether it gave something back.
    pub fn report(&mut self, holder: Holder, said: CreditUse, now: Duration) -> bool {
        if self.account(holder).is_none() {
            return false;
        }
        let before = self.sums;
        self.change(holder.session, |account| {
            (account.said, account.owes) = (Some(now), false);
            // Never more than it holds: what is above that was committed since.
            account.in_use = said.in_use.less(said.wanted).min(account.held);
            account.wanted = said.wanted.min(WANT_MAX);
            if let Some((frame, most)) = account.taking_back
                && said.frames >= frame
            {
                account.held = most.max(account.used().min(account.held));
                account.taking_back = None;
            }
        });
        self.sums.held != before.held || self.sums.used != before.used
    }

    /// What the next frame of a stream tells. Where there is enough that is what a session has in use
    /// and wants, and an equal share of the rest.
    pub fn answer(&mut self, holder: Holder, usage: &Usage, now: Duration) -> Told {
        let shares = self.shares(usage);
        let Some(account) = self.account(holder) else { return Told::default() };
        let (share, needs) = (shares.of(account), account.used().plus(account.wants()));
        let credit = share.min(self.ceiling(account.held, shares.total));
        let few = Parts::of([credit, needs, share], |[credit, needs, share]| {
            credit < share && (credit < needs || credit - needs < (share - needs).div_ceil(2))
        });
        let waits = Parts::of([credit, needs], |[credit, needs]| credit < needs);
        if waits.any() {
            self.waiting.insert(holder.session);
        } else {
            self.waiting.remove(&holder.session);
        }
        self.tell(holder.session, credit);
        let mut ask = self.whom_to_ask(holder.session, few, waits, &shares, now);
        ask.extend(self.who_can_have_more(holder.session, &shares));
        if self.should_confirm(holder.session) {
            ask.push(holder.session);
        }
        Told { credit, ask }
    }

    pub fn debit(&mut self, holder: Holder, op: OpId, bound: Credit, usage: &Usage, now: Duration) -> Debit {
        let Some(account) = self.accounts.get(&holder.session) else { return Debit::Refused };
        if let Some(credit) = account.under_way.get(&op) {
            return Debit::SetAside(*credit);
        }
        let total = total(usage);
        let free = total.less(self.sums.held);
        let rest = bound.less(account.held.less(account.reserved));
        let others_use = self.sums.used.less(account.used());
        if free.covers(rest) {
            self.set_aside(holder.session, op, (bound, rest));
            return Debit::SetAside(bound);
        }
        if !total.less(others_use).covers(account.reserved.plus(bound)) {
            self.give_up(holder.session, op);
            return Debit::Refused;
        }
        self.change(holder.session, |account| {
            account.lacking.insert(op, bound);
        });
        let few = Parts::of([free, rest], |[free, rest]| free < rest);
        let shares = self.shares(usage);
        Debit::Awaited(self.whom_to_ask(holder.session, few, few, &shares, now))
    }

    /// Of `bound` the session did not hold `rest`.
    fn set_aside(&mut self, session: SessionId, op: OpId, (bound, rest): (Credit, Credit)) {
        self.change(session, |account| {
            account.lacking.remove(&op);
            account.held = account.held.plus(rest);
            account.reserved = account.reserved.plus(bound);
            account.under_way.insert(op, bound);
        });
    }

    pub fn give_up(&mut self, session: SessionId, op: OpId) {
        self.change(session, |account| {
            account.lacking.remove(&op);
        });
    }

    pub fn settle(&mut self, session: SessionId, op: OpId, grown: Credit) {
        self.change(session, |account| {
            let set_aside = account.under_way.remove(&op).unwrap_or_default();
            account.reserved = account.reserved.less(set_aside);
            account.held = account.held.less(grown);
            account.told = account.told.less(grown);
            account.in_use = account.in_use.less(grown);
            account.taking_back = account.taking_back.map(|(frame, most)| (frame, most.less(grown)));
        });
    }

    pub fn left(&mut self, session: SessionId, now: Duration) {
        if !self.accounts.contains_key(&session) {
            return;
        }
        self.waiting.remove(&session);
        self.away_since.get_or_insert(now);
        self.change(session, |account| {
            account.left = Some(now);
            account.wanted = Credit::NONE;
            account.lacking.clear();
        });
    }

    pub fn remove(&mut self, session: SessionId) {
        self.waiting.remove(&session);
        if let Some(account) = self.accounts.remove(&session) {
            self.sums = self.sums.less(account.sums());
        }
    }

    pub fn forget_absent(&mut self, now: Duration) {
        if self.away_since.is_none_or(|since| now.saturating_sub(since) < ABSENCE) {
            return;
        }
        let away = |account: &Account| account.left.is_some_and(|left| now.saturating_sub(left) >= ABSENCE);
        let gone: Vec<_> = self.accounts.iter().filter(|(_, a)| away(a)).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|session| self.remove(session));
        self.away_since = self.accounts.values().filter_map(|account| account.left).min();
    }

    fn account(&self, holder: Holder) -> Option<&Account> {
        self.accounts.get(&holder.session).filter(|account| account.stream == holder.stream)
    }

    /// The most that a session that holds `own` may hold beside what is used and what others hold.
    fn ceiling(&self, own: Credit, total: Credit) -> Credit {
        total.less(self.sums.held.less(own))
    }

    fn shares(&self, usage: &Usage) -> Shares {
        let total = total(usage);
        let needs = self.sums.used.plus(self.sums.wants);
        let level = if total.covers(needs) { WANT_MAX } else { self.level(total.less(self.sums.used)) };
        let (rest, sessions) = (total.less(needs), self.accounts.len().max(1) as u64);
        let room = Credit { bytes: rest.bytes / sessions, inodes: rest.inodes / sessions };
        Shares { total, level, room: room.min(HEADROOM) }
    }

    /// How much each may get of what it wants when there is only `left` for all: who wants little gets
    /// it, whatever others want.
    fn level(&self, left: Credit) -> Credit {
        let wants: Vec<Credit> = self.accounts.values().map(Account::wants).collect();
        Credit {
            bytes: level_of(left.bytes, wants.iter().map(|want| want.bytes).collect()),
            inodes: level_of(left.inodes, wants.iter().map(|want| want.inodes).collect()),
        }
    }

    /// Counts a frame that tells a session its credit. A smaller one than it has counts only when the
    /// session has heard of it.
    fn tell(&mut self, session: SessionId, told: Credit) {
        self.change(session, |account| {
            account.frames += 1;
            account.told = told;
            account.taking_back = match account.taking_back {
                Some((frame, most)) => Some((frame, most.max(told))),
                None if told.covers(account.held) => None,
                None => Some((account.frames, told)),
            };
            account.held = account.held.max(told);
        });
    }

    /// Those that hold more than their share of what `session` has too little of. Where it waits also
    /// those who may not need what they last said.
    fn whom_to_ask(
        &mut self,
        session: SessionId,
        few: Parts,
        waits: Parts,
        shares: &Shares,
        now: Duration,
    ) -> Vec<SessionId> {
        if !few.any() && !waits.any() {
            return Vec::new();
        }
        let mut ask = Vec::new();
        for (id, account) in &mut self.accounts {
            let over = Parts::of([account.held, shares.of(account)], |[held, share]| held > share);
            let holds = Parts::of([account.held], |[held]| held > 0);
            let gives = over.and(few).any() || holds.and(waits).any() && account.is_stale(now);
            if *id != session && gives && account.may_be_asked(now) {
                (account.asked, account.owes) = (Some(now), true);
                ask.push(*id);
            }
        }
        ask
    }

    /// Whether a session that was told less should say at once that it has heard so, because others
    /// wait; if it is asked already it will.
    fn should_confirm(&mut self, session: SessionId) -> bool {
        let others_wait = self.waiting.iter().any(|waiting| *waiting != session);
        let Some(account) = self.accounts.get_mut(&session) else { return false };
        let confirms = others_wait && !account.owes && account.would_give_back();
        account.owes |= confirms;
        confirms
    }

    /// Those who wait and can now be told more than they were.
    fn who_can_have_more(&self, but: SessionId, shares: &Shares) -> Vec<SessionId> {
        let can = |session: &&SessionId| {
            **session != but
                && self.accounts.get(session).is_some_and(|account| {
                    let credit = shares.of(account).min(self.ceiling(account.held, shares.total));
                    let needs = account.used().plus(account.wants());
                    let more = |[credit, told, needs]: [u64; 3]| told < needs && credit > told;
                    Parts::of([credit, account.told, needs], more).any()
                })
        };
        self.waiting.iter().filter(can).copied().collect()
    }

    fn change(&mut self, session: SessionId, change: impl FnOnce(&mut Account)) {
        let Some(account) = self.accounts.get_mut(&session) else { return };
        let before = account.sums();
        change(account);
        self.sums = self.sums.less(before).plus(account.sums());
    }
}

impl Sums {
    fn plus(self, other: Self) -> Self {
        Self {
            held: self.held.plus(other.held),
            used: self.used.plus(other.used),
            wants: self.wants.plus(other.wants),
        }
    }

    fn less(self, other: Self) -> Self {
        Self {
            held: self.held.less(other.held),
            used: self.used.less(other.used),
            wants: self.wants.less(other.wants),
        }
    }
}

/// What sessions can have in all.
fn total(usage: &Usage) -> Credit {
    usage.limit().less(usage.used())
}

/// The most that each may get so that all together get at most `left`.
fn level_of(mut left: u64, mut wants: Vec<u64>) -> u64 {
    wants.sort_unstable();
    let mut sharing = wants.len() as u64;
    for want in wants {
        let share = left / sharing;
        if want > share {
            return share;
        }
        left -= want;
        sharing -= 1;
    }
    u64::MAX
}

#[cfg(test)]
impl Book {
    /// The sums as they are kept, after a look whether they are right.
    pub fn checked(&self) -> Sums {
        let sum = self.accounts.values().fold(Sums::default(), |sum, account| sum.plus(account.sums()));
        assert_eq!(sum, self.sums, "the sums are kept right");
        sum
    }
}
