//! The ledger of credits, and mounts that go by it while frames are on their way.

use super::*;
use proptest::{collection::vec, prelude::*};
use std::collections::VecDeque;

const VOLUME: VolumeId = VolumeId::new(1);
const MIB: u64 = 1 << 20;

fn holder(session: u128, stream: u64) -> Holder {
    Holder { volume: VOLUME, session: SessionId::new(session), stream }
}

fn bytes(bytes: u64) -> Credit {
    Credit { bytes, inodes: 0 }
}

fn usage(used: u64, limit: u64) -> Usage {
    Usage { bytes_used: used, bytes_limit: limit, inodes_used: 1, inodes_limit: 1_000_000 }
}

fn said(in_use: u64, frames: u64) -> CreditUse {
    CreditUse { in_use: bytes(in_use), frames }
}

const START: Duration = Duration::ZERO;

/// What the sessions of the volume may have in use together.
fn held(credits: &Credits) -> Credit {
    let books = credits.lock();
    let Some(book) = books.get(&VOLUME) else { return Credit::NONE };
    let sum = book.accounts.values().fold(Credit::NONE, |sum, account| sum.plus(account.held));
    assert_eq!(sum, book.held, "the sum is kept right");
    sum
}

#[test]
fn a_session_gets_what_it_has_in_use_and_room_to_go_on() {
    let credits = Credits::default();
    let one = holder(1, 1);
    let first = credits.attach(one, Credit::NONE, &usage(0, 1 << 40), START);
    assert_eq!(first, HEADROOM);
    credits.report(one, CreditUse { in_use: Credit { bytes: 40 * MIB, inodes: 7 }, frames: 1 });
    let next = credits.answer(one, &usage(0, 1 << 40), START);
    assert_eq!(next, Credit { bytes: 104 * MIB, inodes: 1007 });
}

#[test]
fn a_session_alone_can_use_all_there_is_in_several_asks() {
    let credits = Credits::default();
    let one = holder(1, 1);
    let limit = 200 * MIB;
    let mut told = credits.attach(one, Credit::NONE, &usage(0, limit), START).bytes;
    for frames in 1..=4 {
        credits.report(one, said(told, frames));
        told = credits.answer(one, &usage(0, limit), START).bytes;
    }
    assert_eq!(told, limit);
}

#[test]
fn a_volume_of_no_bytes_gives_none() {
    let credits = Credits::default();
    let told = credits.attach(holder(1, 1), Credit::NONE, &usage(0, 0), START);
    assert_eq!(told, Credit { bytes: 0, inodes: HEADROOM.inodes });
    let refused = credits.debit(holder(1, 1), OpId::new(1), bytes(1), &usage(0, 0));
    assert_eq!(refused, Err(Errno::EDQUOT));
}

#[test]
fn near_the_limit_sessions_come_to_equal_shares_and_an_idle_one_gives_way() {
    let credits = Credits::default();
    let (one, two) = (holder(1, 1), holder(2, 2));
    let limit = 90 * MIB;
    let mut told = [one, two].map(|who| credits.attach(who, Credit::NONE, &usage(0, limit), START).bytes);
    assert!(told[0] > told[1], "the first took what it could");
    for frames in 1..40 {
        for (who, told) in [one, two].into_iter().zip(&mut told) {
            credits.report(who, said(0, frames));
            *told = credits.answer(who, &usage(0, limit), START).bytes;
        }
    }
    assert!(told.iter().all(|told| told.abs_diff(30 * MIB) < MIB), "a third each and one left: {told:?}");
    // The second stays idle, the first uses all it gets.
    for frames in 40..100 {
        credits.report(one, said(told[0], frames));
        told[0] = credits.answer(one, &usage(0, limit), START).bytes;
        credits.report(two, said(0, frames));
        told[1] = credits.answer(two, &usage(0, limit), START).bytes;
    }
    assert!(told[0] > limit - 1000 && told[1] < 1000, "{told:?}");
}

#[test]
fn credit_is_taken_back_only_when_the_mount_has_heard_of_it() {
    let credits = Credits::default();
    let (one, two) = (holder(1, 1), holder(2, 2));
    let full = usage(0, 64 * MIB);
    assert_eq!(credits.attach(one, Credit::NONE, &full, START).bytes, 64 * MIB);
    assert_eq!(credits.attach(two, Credit::NONE, &full, START).bytes, 0);
    assert_eq!(credits.answer(one, &full, START).bytes, 32 * MIB, "it has company now");
    credits.report(one, said(0, 1));
    assert_eq!(credits.answer(two, &full, START).bytes, 0, "the mount had not heard of it when it said that");
    // It was told more again before it said that it had heard of less.
    credits.left(two, START);
    credits.ended(VOLUME, two.session);
    assert_eq!(credits.answer(one, &full, START).bytes, 64 * MIB);
    credits.report(one, said(0, 2));
    assert_eq!(held(&credits).bytes, 64 * MIB);
    assert_eq!(credits.attach(two, Credit::NONE, &full, START).bytes, 0);
    assert_eq!(credits.answer(one, &full, START).bytes, 32 * MIB);
    // Meanwhile it used more than it may now: that stays.
    credits.report(one, said(40 * MIB, 4));
    assert_eq!(credits.answer(two, &full, START).bytes, 12 * MIB);
    assert_eq!(held(&credits).bytes, 52 * MIB);
}

#[test]
fn a_retry_is_set_aside_once_and_what_it_did_not_need_comes_back() {
    let credits = Credits::default();
    let one = holder(1, 1);
    let full = usage(0, 10);
    credits.attach(one, Credit::NONE, &full, START);
    let debit = |op, of| credits.debit(one, OpId::new(op), bytes(of), &full);
    assert_eq!((debit(1, 6), debit(1, 6)), (Ok(bytes(6)), Ok(bytes(6))));
    assert_eq!((debit(2, 5), debit(2, 4)), (Err(Errno::EDQUOT), Ok(bytes(4))));
    credits.settle(one, OpId::new(1), bytes(2));
    let used = usage(2, 10);
    assert_eq!(held(&credits), Credit { bytes: 8, inodes: HEADROOM.inodes });
    assert_eq!(credits.debit(one, OpId::new(3), bytes(4), &used), Ok(bytes(4)));
    assert_eq!(credits.debit(one, OpId::new(4), bytes(1), &used), Err(Errno::EDQUOT));
}

#[test]
fn a_session_that_is_away_for_a_minute_loses_its_credit_and_an_ended_one_at_once() {
    let credits = Credits::default();
    let (one, two) = (holder(1, 1), holder(2, 2));
    let full = usage(0, 64 * MIB);
    let second = Duration::from_secs(1);
    credits.attach(one, Credit::NONE, &full, START);
    credits.left(one, second);
    assert_eq!(credits.attach(two, Credit::NONE, &full, second).bytes, 0);
    assert_eq!(credits.answer(two, &full, 60 * second).bytes, 0);
    assert_eq!(credits.answer(two, &full, 61 * second).bytes, 64 * MIB);
    assert_eq!(credits.answer(one, &full, 61 * second), Credit::NONE);
    credits.ended(VOLUME, two.session);
    assert_eq!(credits.attach(one, Credit::NONE, &full, 61 * second).bytes, 64 * MIB);
}

#[test]
fn after_a_restart_a_session_gets_back_what_it_counts_on() {
    let credits = Credits::default();
    let (one, two) = (holder(1, 1), holder(2, 2));
    let full = usage(0, 64 * MIB);
    // Another one comes first and takes everything.
    credits.attach(two, Credit::NONE, &full, START);
    let told = credits.attach(one, bytes(20 * MIB), &full, START);
    assert_eq!(told.bytes, 20 * MIB);
    assert_eq!(credits.debit(one, OpId::new(1), bytes(20 * MIB), &full), Ok(bytes(20 * MIB)));
    // Nobody can claim without bound.
    let three = holder(3, 3);
    assert_eq!(credits.attach(three, bytes(u64::MAX), &full, START).bytes, 2 * HEADROOM.bytes);
}

#[test]
fn a_stream_that_was_replaced_changes_nothing() {
    let credits = Credits::default();
    let full = usage(0, 64 * MIB);
    credits.attach(holder(1, 1), Credit::NONE, &full, START);
    credits.attach(holder(1, 2), bytes(5), &full, START);
    assert_eq!(credits.answer(holder(1, 1), &full, START), Credit::NONE);
    credits.report(holder(1, 1), said(64 * MIB, 9));
    assert_eq!(credits.answer(holder(1, 2), &full, START).bytes, 64 * MIB);
}

/// A mount that keeps to its credit, and the frames between it and the cell.
#[derive(Default)]
struct Model {
    credit: u64,
    in_use: u64,
    frames: u64,
    next_op: u64,
    stream: u64,
    attached: bool,
    /// Operations without a reply: growth counted, growth in truth, whether executed.
    unanswered: Vec<(u64, u64, u64, bool)>,
    to_cell: VecDeque<ToCell>,
    to_mount: VecDeque<(u64, Option<u64>)>,
    /// Operations under way at the cell, each with the stream that it came on.
    proposed: VecDeque<(u64, u64)>,
}

enum ToCell {
    Ping(CreditUse),
    Op(u64),
}

struct World {
    credits: Credits,
    used: u64,
    limit: u64,
    streams: u64,
    mounts: Vec<Model>,
}

impl World {
    fn holder(&self, who: usize) -> Holder {
        holder(who as u128, self.mounts[who].stream)
    }

    fn usage(&self) -> Usage {
        usage(self.used, self.limit)
    }

    fn attach(&mut self, who: usize) {
        self.streams += 1;
        let (stream, usage) = (self.streams, self.usage());
        let mount = &mut self.mounts[who];
        (mount.stream, mount.frames, mount.attached) = (stream, 1, true);
        mount.to_cell.clear();
        mount.to_mount.clear();
        let counts_on = bytes(mount.in_use.max(mount.credit));
        mount.to_cell.extend(mount.unanswered.iter().map(|(op, ..)| ToCell::Op(*op)));
        self.mounts[who].credit =
            self.credits.attach(holder(who as u128, stream), counts_on, &usage, START).bytes;
    }

    fn step(&mut self, (kind, who, amount): (u8, u8, u64)) {
        let who = usize::from(who) % self.mounts.len();
        if !self.mounts[who].attached {
            self.attach(who);
        }
        match kind {
            0..=2 => self.grow(who, amount * MIB / 2),
            3..=4 => self.send_commit(who, amount),
            5 => self.ping(who),
            6..=8 => self.cell_takes(who),
            9..=10 => self.execute(who),
            11..=13 => self.mount_takes(who),
            14 => self.shrink(who, amount),
            15 => self.used -= (amount * MIB).min(self.used),
            _ => self.attach(who),
        }
    }

    fn grow(&mut self, who: usize, more: u64) {
        let mount = &mut self.mounts[who];
        if mount.in_use + more <= mount.credit {
            mount.in_use += more;
        }
    }

    fn waiting(mount: &Model) -> u64 {
        mount.in_use - mount.unanswered.iter().map(|(_, counted, ..)| counted).sum::<u64>()
    }

    fn send_commit(&mut self, who: usize, amount: u64) {
        let mount = &mut self.mounts[who];
        let counted = Self::waiting(mount).min(amount * MIB);
        mount.next_op += 1;
        mount.unanswered.push((mount.next_op, counted, counted * (amount % 3) / 2, false));
        mount.to_cell.push_back(ToCell::Op(mount.next_op));
    }

    fn shrink(&mut self, who: usize, amount: u64) {
        let mount = &mut self.mounts[who];
        mount.in_use -= Self::waiting(mount).min(amount * MIB);
    }

    fn ping(&mut self, who: usize) {
        let mount = &mut self.mounts[who];
        let said = CreditUse { in_use: bytes(mount.in_use), frames: mount.frames };
        mount.to_cell.push_back(ToCell::Ping(said));
    }

    fn cell_takes(&mut self, who: usize) {
        let (holder, usage) = (self.holder(who), self.usage());
        match self.mounts[who].to_cell.pop_front() {
            None => {}
            Some(ToCell::Ping(said)) => {
                self.credits.report(holder, said);
                let told = self.credits.answer(holder, &usage, START).bytes;
                self.mounts[who].to_mount.push_back((told, None));
            }
            Some(ToCell::Op(op)) => {
                let unanswered = &self.mounts[who].unanswered;
                let (_, counted, _, executed) = unanswered.iter().find(|(known, ..)| *known == op).unwrap();
                if !executed {
                    let set_aside = self.credits.debit(holder, OpId::new(op), bytes(*counted), &usage);
                    assert_eq!(set_aside, Ok(bytes(*counted)), "refused inside its credit");
                }
                self.mounts[who].proposed.push_back((op, holder.stream));
            }
        }
    }

    fn execute(&mut self, who: usize) {
        let holder = self.holder(who);
        let mount = &mut self.mounts[who];
        let Some((op, stream)) = mount.proposed.pop_front() else { return };
        let Some(entry) = mount.unanswered.iter_mut().find(|(known, ..)| *known == op) else { return };
        let grown = if entry.3 { 0 } else { entry.2.min(entry.1) };
        entry.3 = true;
        self.used += grown;
        self.credits.settle(holder, OpId::new(op), bytes(grown));
        if stream != holder.stream {
            return;
        }
        let told = self.credits.answer(holder, &usage(self.used, self.limit), START).bytes;
        self.mounts[who].to_mount.push_back((told, Some(op)));
    }

    fn mount_takes(&mut self, who: usize) {
        let mount = &mut self.mounts[who];
        let Some((told, reply)) = mount.to_mount.pop_front() else { return };
        mount.frames += 1;
        mount.credit = told;
        if let Some(at) = mount.unanswered.iter().position(|(op, ..)| Some(*op) == reply) {
            mount.in_use -= mount.unanswered.remove(at).1;
        }
    }

    fn check(&self) {
        let held = held(&self.credits).bytes;
        assert!(self.used + held <= self.limit, "{} used and {held} promised of {}", self.used, self.limit);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_limit_is_passed_and_nobody_is_refused_inside_its_credit(
        limit in 0..600u64, mounts in 1..4usize, steps in vec((0..17u8, any::<u8>(), 0..60u64), 1..300),
    ) {
        let mut world = World {
            credits: Credits::default(),
            used: 0,
            limit: limit * MIB,
            streams: 0,
            mounts: (0..mounts).map(|_| Model::default()).collect(),
        };
        for step in steps {
            world.step(step);
            world.check();
        }
    }
}
