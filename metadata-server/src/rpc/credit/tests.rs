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
    wanting(in_use, 0, frames)
}

/// So much in use and so much wanted beside.
fn wanting(in_use: u64, wanted: u64, frames: u64) -> CreditUse {
    CreditUse { in_use: bytes(in_use + wanted), wanted: bytes(wanted), frames }
}

const START: Duration = Duration::ZERO;
const LONG_AFTER: Duration = Duration::from_secs(1);

/// The ledger of one volume, at one moment where it does not matter.
impl Credits {
    fn attach(&self, holder: Holder, counts_on: Credit, usage: &Usage, now: Duration) -> Told {
        self.ledger().attach(holder, counts_on, usage, now)
    }

    fn answer(&self, holder: Holder, usage: &Usage, now: Duration) -> Told {
        self.ledger().answer(holder, usage, now)
    }

    fn debit(&self, holder: Holder, op: OpId, bound: Credit, usage: &Usage, now: Duration) -> Debit {
        self.ledger().debit(holder, op, bound, usage, now)
    }

    fn begin(&self, holder: Holder, counts_on: Credit, usage: &Usage) -> Credit {
        self.attach(holder, counts_on, usage, START).credit
    }

    fn says(&self, holder: Holder, said: CreditUse) {
        self.report(holder, said, START);
    }

    fn tells(&self, holder: Holder, usage: &Usage) -> Credit {
        self.answer(holder, usage, START).credit
    }

    fn set_aside(&self, holder: Holder, op: u64, bound: u64, usage: &Usage) -> Debit {
        self.debit(holder, OpId::new(op), bytes(bound), usage, START)
    }
}

/// What the sessions of the volume may have in use together.
fn held(credits: &Credits) -> Credit {
    credits.lock().get(&VOLUME).map_or(Credit::NONE, |book| book.checked().held)
}

#[test]
fn a_session_gets_what_it_has_in_use_and_room_to_go_on() {
    let credits = Credits::default();
    let one = holder(1, 1);
    assert_eq!(credits.begin(one, Credit::NONE, &usage(0, 1 << 40)), HEADROOM);
    let in_use = Credit { bytes: 40 * MIB, inodes: 7 };
    credits.says(one, CreditUse { in_use, wanted: Credit::NONE, frames: 1 });
    let next = credits.tells(one, &usage(0, 1 << 40));
    assert_eq!(next, Credit { bytes: 104 * MIB, inodes: 1007 });
}

#[test]
fn a_session_alone_can_use_all_there_is_in_several_asks() {
    let credits = Credits::default();
    let one = holder(1, 1);
    let limit = 200 * MIB;
    let mut told = credits.begin(one, Credit::NONE, &usage(0, limit)).bytes;
    for frames in 1..=4 {
        credits.says(one, said(told, frames));
        told = credits.tells(one, &usage(0, limit)).bytes;
    }
    assert_eq!(told, limit);
}

#[test]
fn a_volume_of_no_bytes_gives_none() {
    let credits = Credits::default();
    let told = credits.begin(holder(1, 1), Credit::NONE, &usage(0, 0));
    assert_eq!(told, Credit { bytes: 0, inodes: HEADROOM.inodes });
    assert_eq!(credits.set_aside(holder(1, 1), 1, 1, &usage(0, 0)), Debit::Refused);
}

#[test]
fn near_the_limit_sessions_have_equal_shares_and_an_idle_one_gives_way() {
    let credits = Credits::default();
    let (one, two) = (holder(1, 1), holder(2, 2));
    let full = usage(0, 90 * MIB);
    let mut told = [one, two].map(|who| credits.begin(who, Credit::NONE, &full).bytes);
    assert_eq!(told, [64 * MIB, 26 * MIB], "the first took what it could");
    for frames in 1..3 {
        for (who, told) in [one, two].into_iter().zip(&mut told) {
            credits.says(who, said(0, frames));
            *told = credits.tells(who, &full).bytes;
        }
    }
    assert_eq!(told, [45 * MIB; 2]);
    // The second stays idle, the first uses all it gets.
    for frames in 3..80 {
        credits.says(one, said(told[0], frames));
        told[0] = credits.tells(one, &full).bytes;
        credits.says(two, said(0, frames));
        told[1] = credits.tells(two, &full).bytes;
    }
    assert!(told[0] > 90 * MIB - 1000 && told[1] < 1000, "{told:?}");
}

#[test]
fn who_holds_more_than_its_share_is_asked_as_soon_as_another_has_little() {
    let credits = Credits::default();
    let (one, two) = (holder(1, 1), holder(2, 2));
    let full = usage(0, 64 * MIB);
    assert_eq!(credits.attach(one, Credit::NONE, &full, START), Told { credit: HEADROOM, ask: vec![] });
    credits.says(one, said(0, 1));
    let nothing = Told { credit: Credit { bytes: 0, ..HEADROOM }, ask: vec![one.session] };
    assert_eq!(credits.attach(two, Credit::NONE, &full, START), nothing, "it has nothing, and one is asked");
    assert_eq!(credits.tells(one, &full).bytes, 32 * MIB);
    credits.says(one, said(0, 2));
    // It was asked a moment ago, and it has given way: nobody is asked more.
    let share = Told { credit: bytes(32 * MIB).plus(Credit { bytes: 0, ..HEADROOM }), ask: vec![] };
    assert_eq!(credits.answer(two, &full, START), share);
    // A little less than a share is no reason to ask.
    credits.report(two, said(20 * MIB, 2), LONG_AFTER);
    assert_eq!(credits.answer(two, &full, LONG_AFTER).ask, []);
    credits.report(two, said(28 * MIB, 3), LONG_AFTER);
    assert_eq!(credits.answer(two, &full, LONG_AFTER).ask, [one.session], "four of eighteen are left");
}

#[test]
fn who_wants_little_gets_it_whatever_others_want() {
    let credits = Credits::default();
    let (greedy, modest, idle) = (holder(1, 1), holder(2, 2), holder(3, 3));
    let full = usage(0, 10 * MIB);
    for who in [greedy, modest, idle] {
        credits.begin(who, Credit::NONE, &full);
        credits.says(who, said(0, 1));
    }
    credits.says(greedy, wanting(0, 1 << 40, 1));
    credits.tells(greedy, &full);
    credits.says(modest, wanting(0, MIB, 1));
    credits.report(greedy, wanting(0, 1 << 40, 2), LONG_AFTER);
    let asked = credits.answer(modest, &full, LONG_AFTER).ask;
    assert!(asked.contains(&greedy.session), "{asked:?}");
    assert_eq!(credits.tells(greedy, &full).bytes, 9 * MIB, "all but what the other wants");
    credits.says(greedy, wanting(0, 1 << 40, 3));
    assert_eq!(credits.tells(modest, &full).bytes, MIB);
    assert_eq!(credits.tells(idle, &full).bytes, 0);
}

#[test]
fn who_waits_hears_when_another_gave_back() {
    let credits = Credits::default();
    let (one, two) = (holder(1, 1), holder(2, 2));
    let full = usage(0, 8 * MIB);
    credits.begin(one, Credit::NONE, &full);
    credits.says(one, said(8 * MIB, 1));
    credits.begin(two, Credit::NONE, &full);
    credits.says(two, wanting(0, MIB, 1));
    assert_eq!(credits.answer(two, &full, START).ask, [], "all is in use, as was said just now");
    assert_eq!(credits.answer(two, &full, LONG_AFTER).ask, [one.session], "that may have changed");
    credits.report(one, said(5 * MIB, 1), LONG_AFTER);
    assert_eq!(credits.answer(one, &full, LONG_AFTER).ask, [one.session], "it should say that it heard");
    credits.report(one, said(5 * MIB, 2), LONG_AFTER);
    let told = credits.answer(one, &full, LONG_AFTER);
    assert_eq!(told.ask, [two.session], "there is something for it now");
    assert_eq!(credits.tells(two, &full).bytes, 2 * MIB);
}

#[test]
fn credit_is_taken_back_only_when_the_mount_has_heard_of_it() {
    let credits = Credits::default();
    let (one, two) = (holder(1, 1), holder(2, 2));
    let full = usage(0, 64 * MIB);
    assert_eq!(credits.begin(one, Credit::NONE, &full).bytes, 64 * MIB);
    assert_eq!(credits.begin(two, Credit::NONE, &full).bytes, 0);
    assert_eq!(credits.tells(one, &full).bytes, 32 * MIB, "it has company now");
    credits.says(one, said(0, 1));
    assert_eq!(credits.tells(two, &full).bytes, 0, "the mount had not heard of it when it said that");
    // It was told more again before it said that it had heard of less.
    credits.left(two, START);
    credits.ended(VOLUME, two.session);
    assert_eq!(credits.tells(one, &full).bytes, 64 * MIB);
    credits.says(one, said(0, 2));
    assert_eq!(held(&credits).bytes, 64 * MIB);
    assert_eq!(credits.begin(two, Credit::NONE, &full).bytes, 0);
    assert_eq!(credits.tells(one, &full).bytes, 32 * MIB);
    // Meanwhile it used more than it may now: that stays.
    credits.says(one, said(40 * MIB, 4));
    assert_eq!(credits.tells(two, &full).bytes, 12 * MIB);
    assert_eq!(held(&credits).bytes, 52 * MIB);
}

#[test]
fn a_retry_is_set_aside_once_and_what_it_did_not_need_comes_back() {
    let credits = Credits::default();
    let one = holder(1, 1);
    let full = usage(0, 10);
    credits.begin(one, Credit::NONE, &full);
    let aside = |of| Debit::SetAside(bytes(of));
    assert_eq!([1, 1].map(|op| credits.set_aside(one, op, 6, &full)), [aside(6), aside(6)]);
    assert_eq!([5, 4].map(|of| credits.set_aside(one, 2, of, &full)), [Debit::Refused, aside(4)]);
    credits.settle(one, OpId::new(1), bytes(2));
    let used = usage(2, 10);
    assert_eq!(held(&credits), Credit { bytes: 8, inodes: HEADROOM.inodes });
    assert_eq!(credits.set_aside(one, 3, 4, &used), aside(4));
    assert_eq!(credits.set_aside(one, 4, 1, &used), Debit::Refused);
}

#[test]
fn an_operation_waits_for_what_others_hold_and_do_not_use() {
    let credits = Credits::default();
    let (one, two) = (holder(1, 1), holder(2, 2));
    let full = usage(0, 10 * MIB);
    credits.begin(one, Credit::NONE, &full);
    credits.says(one, said(4 * MIB, 1));
    credits.begin(two, Credit::NONE, &full);
    credits.says(two, said(0, 1));
    let debit = |of| credits.debit(two, OpId::new(1), bytes(of), &full, LONG_AFTER);
    assert_eq!(debit(7 * MIB), Debit::Refused, "others use more than would be left");
    assert_eq!(debit(6 * MIB), Debit::Awaited(vec![one.session]));
    assert_eq!(credits.tells(one, &full).bytes, 4 * MIB);
    credits.says(one, said(4 * MIB, 2));
    assert_eq!(credits.tells(one, &full).bytes, 4 * MIB, "what is awaited is not given away again");
    assert_eq!(debit(6 * MIB), Debit::SetAside(bytes(6 * MIB)));
    assert_eq!(credits.set_aside(one, 9, 5 * MIB, &full), Debit::Refused);
    // One that gives up leaves nothing behind.
    credits.settle(two, OpId::new(1), Credit::NONE);
    assert_eq!(credits.set_aside(one, 9, 5 * MIB, &full), Debit::Awaited(vec![two.session]));
    credits.give_up(one, OpId::new(9));
    assert_eq!(credits.tells(two, &full).bytes, 3 * MIB);
}

#[test]
fn a_session_that_is_away_for_a_minute_loses_its_credit_and_an_ended_one_at_once() {
    let credits = Credits::default();
    let (one, two) = (holder(1, 1), holder(2, 2));
    let full = usage(0, 64 * MIB);
    let second = Duration::from_secs(1);
    let answer = |who, now| credits.answer(who, &full, now).credit;
    credits.begin(one, Credit::NONE, &full);
    credits.left(one, second);
    assert_eq!(credits.attach(two, Credit::NONE, &full, second).credit.bytes, 0);
    assert_eq!(answer(two, 60 * second).bytes, 0);
    assert_eq!(answer(two, 61 * second).bytes, 64 * MIB);
    assert_eq!(answer(one, 61 * second), Credit::NONE);
    credits.ended(VOLUME, two.session);
    assert_eq!(credits.attach(one, Credit::NONE, &full, 61 * second).credit.bytes, 64 * MIB);
}

#[test]
fn after_a_restart_a_session_gets_back_what_it_counts_on() {
    let credits = Credits::default();
    let (one, two) = (holder(1, 1), holder(2, 2));
    let full = usage(0, 64 * MIB);
    // Another one comes first and takes everything.
    credits.begin(two, Credit::NONE, &full);
    assert_eq!(credits.begin(one, bytes(20 * MIB), &full).bytes, 0, "there is nothing to go on with");
    let promised = credits.set_aside(one, 1, 20 * MIB, &full);
    assert_eq!(promised, Debit::SetAside(bytes(20 * MIB)), "but what it has in use is not refused");
    // What it does not use goes back as soon as it has said so.
    credits.settle(one, OpId::new(1), bytes(15 * MIB));
    credits.says(one, said(MIB, 1));
    assert_eq!(held(&credits).bytes, 65 * MIB);
    // Nobody can claim without bound.
    credits.begin(holder(3, 3), bytes(u64::MAX), &full);
    assert_eq!(held(&credits).bytes, 65 * MIB + 64 * MIB + HEADROOM.bytes);
}

#[test]
fn a_stream_that_was_replaced_changes_nothing() {
    let credits = Credits::default();
    let full = usage(0, 64 * MIB);
    credits.begin(holder(1, 1), Credit::NONE, &full);
    credits.begin(holder(1, 2), bytes(5), &full);
    assert_eq!(credits.tells(holder(1, 1), &full), Credit::NONE);
    credits.says(holder(1, 1), said(64 * MIB, 9));
    assert_eq!(credits.tells(holder(1, 2), &full).bytes, 64 * MIB);
}

/// A mount that keeps to its credit, and the frames between it and the cell.
#[derive(Default)]
struct Model {
    credit: u64,
    in_use: u64,
    wanted: u64,
    frames: u64,
    next_op: u64,
    stream: u64,
    attached: bool,
    /// Whether the cell is about to tell it its credit.
    news: bool,
    /// Operations without a reply: growth counted, growth in truth, whether executed.
    unanswered: Vec<(u64, u64, u64, bool)>,
    to_cell: VecDeque<ToCell>,
    to_mount: VecDeque<ToMount>,
    /// Operations under way at the cell, each with the stream that it came on.
    proposed: VecDeque<(u64, u64)>,
}

enum ToCell {
    Ping(CreditUse),
    Op(u64),
}

/// A frame with a credit: a reply, news that have to be answered, or a renewal.
struct ToMount {
    told: u64,
    reply: Option<u64>,
    answer: bool,
}

struct World {
    credits: Credits,
    now: Duration,
    used: u64,
    limit: u64,
    /// The most that was used and promised, as cells found it that did not know what others had promised.
    found: u64,
    streams: u64,
    mounts: Vec<Model>,
}

impl World {
    fn new(limit: u64, mounts: usize) -> Self {
        Self {
            credits: Credits::default(),
            now: START,
            used: 0,
            limit,
            found: 0,
            streams: 0,
            mounts: (0..mounts).map(|_| Model::default()).collect(),
        }
    }

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
        (mount.stream, mount.frames, mount.attached, mount.news) = (stream, 1, true, false);
        mount.to_cell.clear();
        mount.to_mount.clear();
        let counts_on = bytes(mount.in_use.max(mount.credit));
        mount.to_cell.extend(mount.unanswered.iter().map(|(op, ..)| ToCell::Op(*op)));
        let told = self.credits.attach(holder(who as u128, stream), counts_on, &usage, self.now);
        self.found = self.found.max(self.used + held(&self.credits).bytes);
        self.mounts[who].credit = self.hear(told);
        self.ping(who);
    }

    /// Notes who should hear at once.
    fn hear(&mut self, told: Told) -> u64 {
        for session in told.ask {
            self.mounts[usize::try_from(session.get()).unwrap()].news = true;
        }
        told.credit.bytes
    }

    fn tell(&mut self, who: usize, reply: Option<u64>, answer: bool) {
        let told = self.credits.answer(self.holder(who), &self.usage(), self.now);
        let told = self.hear(told);
        self.mounts[who].to_mount.push_back(ToMount { told, reply, answer });
    }

    /// The cell ends and begins again: it knows what is committed, and nothing else.
    fn restart(&mut self) {
        self.credits = Credits::default();
        for mount in &mut self.mounts {
            (mount.attached, mount.news) = (false, false);
            mount.proposed.clear();
            mount.to_cell.clear();
            mount.to_mount.clear();
        }
    }

    fn step(&mut self, (kind, who, amount): (u8, u8, u64)) {
        let who = usize::from(who) % self.mounts.len();
        self.now += Duration::from_millis(amount);
        if !self.mounts[who].attached && (5..19).contains(&kind) {
            self.attach(who);
        }
        match kind {
            0..=2 => self.grow(who, amount * MIB / 2),
            3 => self.mounts[who].wanted = amount % 8 * MIB,
            4 => self.shrink(who, amount),
            5..=6 => self.send_commit(who, amount),
            7 => self.ping(who),
            8..=10 => self.cell_takes(who),
            11..=12 => self.execute(who),
            13..=15 => self.mount_takes(who),
            16 => self.used -= (amount * MIB).min(self.used),
            17..=18 => self.tell_news(who),
            19 => self.attach(who),
            _ => self.restart(),
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
        mount.to_cell.push_back(ToCell::Ping(wanting(mount.in_use, mount.wanted, mount.frames)));
    }

    fn tell_news(&mut self, who: usize) {
        if std::mem::take(&mut self.mounts[who].news) {
            self.tell(who, None, true);
        }
    }

    fn cell_takes(&mut self, who: usize) {
        let (holder, usage) = (self.holder(who), self.usage());
        match self.mounts[who].to_cell.pop_front() {
            None => {}
            Some(ToCell::Ping(said)) => {
                self.credits.report(holder, said, self.now);
                self.tell(who, None, false);
            }
            Some(ToCell::Op(op)) => {
                let unanswered = &self.mounts[who].unanswered;
                let (_, counted, _, executed) = unanswered.iter().find(|(known, ..)| *known == op).unwrap();
                if !executed {
                    let debit = self.credits.debit(holder, OpId::new(op), bytes(*counted), &usage, self.now);
                    assert_eq!(debit, Debit::SetAside(bytes(*counted)), "refused inside its credit");
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
        if stream == holder.stream {
            self.tell(who, Some(op), false);
        }
    }

    fn mount_takes(&mut self, who: usize) {
        let mount = &mut self.mounts[who];
        let Some(ToMount { told, reply, answer }) = mount.to_mount.pop_front() else { return };
        mount.frames += 1;
        mount.credit = told;
        if let Some(at) = mount.unanswered.iter().position(|(op, ..)| Some(*op) == reply) {
            mount.in_use -= mount.unanswered.remove(at).1;
        }
        if answer {
            self.ping(who);
        }
    }

    fn check(&self) {
        let (held, most) = (held(&self.credits).bytes, self.limit.max(self.found));
        assert!(self.used + held <= most, "{} used and {held} promised of {most}", self.used);
    }

    fn everything_arrives(&mut self) {
        let under_way = |mount: &Model| {
            mount.news || mount.to_cell.len() + mount.to_mount.len() + mount.proposed.len() > 0
        };
        for _ in 0..10_000 {
            if !self.mounts.iter().any(under_way) {
                return;
            }
            for who in 0..self.mounts.len() {
                self.cell_takes(who);
                self.execute(who);
                self.mount_takes(who);
                self.tell_news(who);
            }
            self.check();
        }
        panic!("they do not come to rest");
    }

    /// One mount wants credit and asks each 100 ms, the others do nothing. How often it asks until it
    /// has it.
    fn asks_for(&mut self, who: usize, wanted: u64) -> Option<u32> {
        self.mounts[who].wanted = wanted;
        (1..=5).find(|_| {
            self.ping(who);
            self.everything_arrives();
            self.now += Duration::from_millis(100);
            let mount = &self.mounts[who];
            mount.in_use + wanted <= mount.credit
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_limit_is_passed_and_nobody_is_refused_inside_its_credit(
        limit in 0..600u64, mounts in 1..4usize, steps in vec((0..20u8, any::<u8>(), 0..60u64), 1..300),
    ) {
        let mut world = World::new(limit * MIB, mounts);
        for step in steps {
            world.step(step);
            world.check();
            prop_assert!(world.used <= world.limit && world.found <= world.limit);
        }
    }

    #[test]
    fn who_wants_what_nobody_uses_gets_it_within_a_second_whatever_happened_before(
        limit in 0..600u64, mounts in 1..5usize, steps in vec((0..21u8, any::<u8>(), 0..60u64), 1..300),
        writer in any::<u8>(), part in 1..=4u64,
    ) {
        let mut world = World::new(limit * MIB, mounts);
        for step in steps {
            world.step(step);
            world.check();
        }
        // Nobody writes any more but one.
        for who in 0..mounts {
            world.mounts[who].wanted = 0;
            if !world.mounts[who].attached {
                world.attach(who);
            }
        }
        world.everything_arrives();
        let in_use: u64 = world.mounts.iter().map(|mount| mount.in_use).sum();
        let wanted = world.limit.saturating_sub(world.used + in_use) * part / 4;
        if wanted > 0 {
            let asks = world.asks_for(usize::from(writer) % mounts, wanted);
            prop_assert!(asks.is_some(), "{wanted} of {limit} MiB");
        }
    }
}
