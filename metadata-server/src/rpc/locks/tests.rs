//! The table of locks, by itself and against a model that has one kind for every byte.

use super::volume::{Asked, Caller, Verdict, Volume};
use proptest::{collection::vec, prelude::*};
use sitefs_base::{
    Errno, InodeId, Seq, SessionId,
    limits::{LOCK_ABSENCE, LOCK_WAITERS_MAX, LOCKS_MAX},
    lock::{
        ByteRange, HeldLock, LockAnswer, LockAsk, LockKind,
        LockKind::{Exclusive, Shared},
        LockOwner, LockRequest,
    },
};
use std::{collections::HashMap, collections::HashSet, time::Duration};

const FILE: InodeId = InodeId::new(7);
const OTHER: InodeId = InodeId::new(8);
const A: SessionId = SessionId::new(1);
const B: SessionId = SessionId::new(2);
const DONE: Result<LockAnswer, Errno> = Ok(LockAnswer::Done);

type Table = Volume<u64>;

fn caller(session: SessionId) -> Caller {
    Caller { session, stream: 1, at: None }
}

fn bytes(start: u64, last: u64) -> ByteRange {
    ByteRange::new(start, last).unwrap()
}

fn request(tag: u64, ino: InodeId, owner: u64, range: ByteRange, ask: LockAsk) -> LockRequest {
    LockRequest { tag, ino, owner: LockOwner::new(owner), pid: 100 + owner as u32, range, ask }
}

/// Asks about the whole of [`FILE`], for the only owner of a session.
fn ask(table: &mut Table, tag: u64, session: SessionId, ask: LockAsk) -> Vec<Verdict<u64>> {
    let request = request(tag, FILE, 1, ByteRange::WHOLE, ask);
    table.ask(Asked { caller: caller(session), request, reply: tag })
}

fn held(ino: InodeId, owner: u64, range: ByteRange, kind: LockKind) -> HeldLock {
    HeldLock { ino, owner: LockOwner::new(owner), pid: 100 + owner as u32, range, kind }
}

fn new() -> Table {
    Volume::new(HashSet::new())
}

#[test]
fn a_lock_excludes_others_until_it_is_given_back() {
    let mut table = new();
    assert_eq!(ask(&mut table, 1, A, LockAsk::Try(Exclusive)), [(1, DONE)]);
    assert_eq!(ask(&mut table, 2, A, LockAsk::Try(Exclusive)), [(2, DONE)], "a retry is harmless");
    assert_eq!(ask(&mut table, 3, B, LockAsk::Try(Shared)), [(3, Err(Errno::EAGAIN))]);
    let in_the_way = LockAnswer::InTheWay { range: ByteRange::WHOLE, kind: Exclusive, pid: 0 };
    assert_eq!(ask(&mut table, 4, B, LockAsk::Test(Shared)), [(4, Ok(in_the_way))]);
    assert_eq!(ask(&mut table, 5, A, LockAsk::Test(Shared)), [(5, DONE)], "one's own is not in the way");
    assert_eq!(ask(&mut table, 6, B, LockAsk::Wait(Exclusive)), []);
    assert_eq!(ask(&mut table, 7, A, LockAsk::Unlock), [(7, DONE), (6, DONE)]);
    assert_eq!(ask(&mut table, 8, A, LockAsk::Unlock), [(8, DONE)], "a retry is harmless");
    table.check_counts();
}

#[test]
fn those_who_share_are_granted_together_and_a_downgrade_lets_them_in() {
    let mut table = new();
    ask(&mut table, 1, A, LockAsk::Try(Exclusive));
    assert_eq!(ask(&mut table, 2, B, LockAsk::Wait(Shared)), []);
    let third = SessionId::new(3);
    assert_eq!(ask(&mut table, 3, third, LockAsk::Wait(Shared)), []);
    assert_eq!(ask(&mut table, 4, A, LockAsk::Try(Shared)), [(4, DONE), (2, DONE), (3, DONE)]);
}

#[test]
fn files_of_the_past_are_other_files() {
    let mut table = new();
    ask(&mut table, 1, A, LockAsk::Try(Exclusive));
    let past = Caller { at: Some(Seq::new(5)), ..caller(B) };
    let request = request(2, FILE, 1, ByteRange::WHOLE, LockAsk::Try(Exclusive));
    assert_eq!(table.ask(Asked { caller: past, request, reply: 2 }), [(2, DONE)]);
}

#[test]
fn a_wait_that_would_never_end_is_refused() {
    let mut table = new();
    let mut on = |tag, session, ino, ask| {
        let request = request(tag, ino, 1, ByteRange::WHOLE, ask);
        table.ask(Asked { caller: caller(session), request, reply: tag })
    };
    on(1, A, FILE, LockAsk::Try(Exclusive));
    on(2, B, OTHER, LockAsk::Try(Exclusive));
    assert_eq!(on(3, A, OTHER, LockAsk::Wait(Shared)), []);
    assert_eq!(on(4, B, FILE, LockAsk::Wait(Shared)), [(4, Err(Errno::EDEADLK))]);
    assert_eq!(on(5, B, OTHER, LockAsk::Unlock), [(5, DONE), (3, DONE)]);
    assert_eq!(on(6, B, FILE, LockAsk::Wait(Shared)), []);
    table.check_counts();
}

#[test]
fn a_session_that_ends_or_stays_away_loses_its_locks_and_its_waits() {
    let mut table = new();
    ask(&mut table, 1, A, LockAsk::Try(Exclusive));
    assert_eq!(ask(&mut table, 2, B, LockAsk::Wait(Exclusive)), []);
    assert!(table.left(caller(A), Duration::from_secs(1)));
    assert_eq!(table.forget_absent(Duration::from_secs(1) + LOCK_ABSENCE / 2), []);
    assert_eq!(table.forget_absent(Duration::from_secs(1) + LOCK_ABSENCE), [(2, DONE)]);
    table.check_counts();

    assert_eq!(ask(&mut table, 3, A, LockAsk::Wait(Shared)), []);
    assert!(!table.left(caller(A), Duration::from_secs(20)), "it only waited: nothing stays");
    assert_eq!(table.ended(B), [], "nobody waits any more");
    assert!(table.is_idle());
}

#[test]
fn a_session_that_comes_back_keeps_what_it_had_and_no_more() {
    let mut table = new();
    let claim = |range, kind| held(FILE, 1, range, kind);
    let set = |table: &mut Table, tag, session, range, kind| {
        let request = request(tag, FILE, 1, range, LockAsk::Try(kind));
        assert_eq!(table.ask(Asked { caller: caller(session), request, reply: tag }), [(tag, DONE)]);
    };
    set(&mut table, 1, A, bytes(0, 9), Exclusive);
    set(&mut table, 2, A, bytes(10, 19), Shared);
    assert_eq!(ask(&mut table, 3, B, LockAsk::Wait(Shared)), []);
    assert!(table.left(caller(A), Duration::ZERO));
    let again = Caller { stream: 2, ..caller(A) };
    // An unlock of 0 to 4 had not arrived, and it says to have more than it had.
    let claims = vec![claim(bytes(5, 29), Exclusive)];
    let kept = vec![claim(bytes(5, 9), Exclusive), claim(bytes(10, 19), Shared)];
    assert_eq!(table.reclaim(again, claims, 4), [(4, Ok(LockAnswer::Kept(kept)))]);
    table.check_counts();
    assert_eq!(table.forget_absent(Duration::from_secs(3600)), [], "it is back");
    assert_eq!(ask(&mut table, 5, A, LockAsk::Unlock), [], "a frame of its old stream counts for nothing");
    assert_eq!(
        table.reclaim(Caller { stream: 3, ..again }, vec![], 6),
        [(6, Ok(LockAnswer::Kept(vec![]))), (3, DONE)]
    );

    let late = vec![held(OTHER, 1, ByteRange::WHOLE, Shared)];
    let verdicts = table.reclaim(Caller { stream: 4, ..again }, late, 7);
    assert_eq!(verdicts, [(7, Ok(LockAnswer::Kept(vec![])))], "what was lost stays lost");
    table.check_counts();
}

#[test]
fn a_node_that_starts_decides_when_all_have_said_what_they_hold() {
    let mut table: Table = Volume::new(HashSet::from([A, B]));
    assert_eq!(ask(&mut table, 1, B, LockAsk::Try(Exclusive)), []);
    assert_eq!(table.reclaim(caller(B), vec![], 2), [(2, Ok(LockAnswer::Kept(vec![])))]);
    // What waited on the stream before the frame is void: it comes again.
    assert_eq!(ask(&mut table, 3, B, LockAsk::Try(Exclusive)), []);
    assert_eq!(ask(&mut table, 4, B, LockAsk::Wait(Exclusive)), []);
    table.check_counts();
    let own = vec![held(FILE, 1, ByteRange::WHOLE, Exclusive)];
    let verdicts = table.reclaim(caller(A), own.clone(), 5);
    assert_eq!(verdicts, [(5, Ok(LockAnswer::Kept(own))), (3, Err(Errno::EAGAIN))]);
    assert_eq!(ask(&mut table, 6, A, LockAsk::Unlock), [(6, DONE), (4, DONE)]);
    table.check_counts();
}

#[test]
fn nobody_is_waited_for_longer_than_a_while() {
    let mut table: Table = Volume::new(HashSet::from([A]));
    assert_eq!(ask(&mut table, 1, B, LockAsk::Try(Exclusive)), []);
    assert_eq!(table.await_nobody(), [(1, DONE)]);
    let own = vec![held(FILE, 1, ByteRange::WHOLE, Exclusive)];
    assert_eq!(table.reclaim(caller(A), own, 2), [(2, Ok(LockAnswer::Kept(vec![])))]);
    table.check_counts();

    let mut table: Table = Volume::new(HashSet::from([A]));
    assert_eq!(ask(&mut table, 1, B, LockAsk::Try(Exclusive)), []);
    assert_eq!(table.ended(A), [(1, DONE)], "it has detached");
}

#[test]
fn there_are_limits() {
    let mut table = new();
    for n in 0..LOCKS_MAX as u64 {
        let request = request(n, FILE, 1, bytes(2 * n, 2 * n), LockAsk::Try(Exclusive));
        assert_eq!(table.ask(Asked { caller: caller(A), request, reply: n }), [(n, DONE)]);
    }
    let mut set = |range, ask| {
        let request = request(0, FILE, 1, range, ask);
        table.ask(Asked { caller: caller(A), request, reply: 0 })[0].1.clone()
    };
    assert_eq!(set(bytes(1 << 30, 1 << 30), LockAsk::Try(Shared)), Err(Errno::ENOLCK));
    assert_eq!(set(bytes(1, 1), LockAsk::Try(Exclusive)), DONE, "it joins two");
    assert_eq!(set(bytes(1, 1), LockAsk::Unlock), DONE);
    assert_eq!(set(bytes(0, 0), LockAsk::Unlock), DONE);
    assert_eq!(set(ByteRange::WHOLE, LockAsk::Unlock), DONE);
    let mut table = new();
    ask(&mut table, 0, A, LockAsk::Try(Exclusive));
    for n in 0..LOCK_WAITERS_MAX as u64 {
        assert_eq!(ask(&mut table, n, B, LockAsk::Wait(Shared)), []);
    }
    assert_eq!(ask(&mut table, 1, B, LockAsk::Wait(Shared)), [(1, Err(Errno::ENOLCK))]);
    assert_eq!(ask(&mut table, 2, B, LockAsk::Try(Shared)), [(2, Err(Errno::EAGAIN))]);
    table.check_counts();
}

// ---- against a model

const BYTES: u64 = 8;

type Whose = (SessionId, u64);
type Bytes = [Option<LockKind>; BYTES as usize];

#[derive(Clone, Copy, Debug)]
struct Wanted {
    tag: u64,
    whose: Whose,
    ino: InodeId,
    range: ByteRange,
    kind: LockKind,
}

#[derive(Default)]
struct Model {
    held: HashMap<(InodeId, Whose), Bytes>,
    waiting: Vec<Wanted>,
}

impl Model {
    fn blockers(&self, wanted: &Wanted) -> HashSet<Whose> {
        let mut found = HashSet::new();
        for ((ino, whose), bytes) in &self.held {
            let part = &bytes[wanted.range.start() as usize..=wanted.range.last() as usize];
            let conflicts = part.iter().flatten().any(|kind| kind.conflicts(wanted.kind));
            if *ino == wanted.ino && *whose != wanted.whose && conflicts {
                found.insert(*whose);
            }
        }
        found
    }

    fn set(&mut self, ino: InodeId, whose: Whose, range: ByteRange, kind: Option<LockKind>) {
        let bytes = self.held.entry((ino, whose)).or_default();
        bytes[range.start() as usize..=range.last() as usize].fill(kind);
    }

    fn grant(&mut self) -> Vec<Verdict<u64>> {
        let mut verdicts = Vec::new();
        while let Some(at) = self.waiting.iter().position(|wanted| self.blockers(wanted).is_empty()) {
            let wanted = self.waiting.remove(at);
            self.set(wanted.ino, wanted.whose, wanted.range, Some(wanted.kind));
            verdicts.push((wanted.tag, DONE));
        }
        verdicts
    }

    /// Whether a wait would never end although everybody who can goes on and gives all back: owners
    /// who are not blocked by the remaining ones are taken away until none can be.
    fn never_ends(&self, wanted: &Wanted) -> bool {
        let mut stuck: HashMap<Whose, HashSet<Whose>> =
            self.waiting.iter().chain([wanted]).map(|one| (one.whose, self.blockers(one))).collect();
        loop {
            let names: HashSet<Whose> = stuck.keys().copied().collect();
            let before = stuck.len();
            stuck.retain(|_, blockers| !blockers.is_disjoint(&names));
            if stuck.len() == before {
                return stuck.contains_key(&wanted.whose);
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Ask { whose: Whose, ino: InodeId, range: ByteRange, ask: LockAsk },
    Cancel(prop::sample::Index),
    End(SessionId),
}

fn a_step() -> impl Strategy<Value = Step> {
    let whose = || (prop::sample::select(vec![A, B]), 1..=2u64);
    let kind = || prop_oneof![Just(Shared), Just(Exclusive)];
    let ask = prop_oneof![
        2 => kind().prop_map(LockAsk::Try),
        3 => kind().prop_map(LockAsk::Wait),
        1 => kind().prop_map(LockAsk::Test),
        3 => Just(LockAsk::Unlock),
    ];
    let range = (0..BYTES, 0..BYTES).prop_map(|(a, b)| bytes(a.min(b), a.max(b)));
    prop_oneof![
        20 => (whose(), prop::sample::select(vec![FILE, OTHER]), range, ask)
            .prop_map(|(whose, ino, range, ask)| Step::Ask { whose, ino, range, ask }),
        2 => any::<prop::sample::Index>().prop_map(Step::Cancel),
        1 => prop::sample::select(vec![A, B]).prop_map(Step::End),
    ]
}

/// Both take the step; `None` if a program could not do it, because it waits.
fn step(table: &mut Table, model: &mut Model, tag: u64, step: &Step) -> Option<[Vec<Verdict<u64>>; 2]> {
    match step {
        Step::Ask { whose, ino, range, ask } => {
            let (whose, ino, range) = (*whose, *ino, *range);
            if model.waiting.iter().any(|wanted| wanted.whose == whose) {
                return None;
            }
            let request = request(tag, ino, whose.1, range, *ask);
            let real = table.ask(Asked { caller: caller(whose.0), request, reply: tag });
            let (LockAsk::Try(kind) | LockAsk::Wait(kind) | LockAsk::Test(kind)) = *ask else {
                model.set(ino, whose, range, None);
                return Some([real, [vec![(tag, DONE)], model.grant()].concat()]);
            };
            let wanted = Wanted { tag, whose, ino, range, kind };
            let is_free = model.blockers(&wanted).is_empty();
            let expected = match ask {
                LockAsk::Test(_) if is_free => vec![(tag, DONE)],
                // Which of several is in the way does not matter.
                LockAsk::Test(_) => real.iter().filter(|(_, r)| *r != DONE).cloned().collect(),
                _ if is_free => {
                    model.set(ino, whose, range, Some(kind));
                    [vec![(tag, DONE)], model.grant()].concat()
                }
                LockAsk::Try(_) => vec![(tag, Err(Errno::EAGAIN))],
                _ if model.never_ends(&wanted) => vec![(tag, Err(Errno::EDEADLK))],
                _ => {
                    model.waiting.push(wanted);
                    vec![]
                }
            };
            Some([real, expected])
        }
        Step::Cancel(which) => {
            if model.waiting.is_empty() {
                return None;
            }
            let wanted = model.waiting.remove(which.index(model.waiting.len()));
            let real = table.cancel(caller(wanted.whose.0), wanted.tag);
            Some([real, vec![(wanted.tag, Err(Errno::EINTR))]])
        }
        Step::End(session) => {
            model.held.retain(|(_, whose), _| whose.0 != *session);
            model.waiting.retain(|wanted| wanted.whose.0 != *session);
            let mut verdicts = [table.ended(*session), model.grant()];
            // Files are freed in any order.
            verdicts.iter_mut().for_each(|verdicts| verdicts.sort_by_key(|(tag, _)| *tag));
            Some(verdicts)
        }
    }
}

proptest! {
    #[test]
    fn the_table_does_what_an_array_of_bytes_does(steps in vec(a_step(), 1..60)) {
        let (mut table, mut model) = (new(), Model::default());
        for (tag, one) in steps.iter().enumerate() {
            let Some([real, expected]) = step(&mut table, &mut model, tag as u64, one) else { continue };
            prop_assert_eq!(real, expected, "{:?}", one);
            table.check_counts();
            for ((ino, (session, owner)), bytes) in &model.held {
                let held = table.held_by(*session, *ino, LockOwner::new(*owner));
                let mut spread: Bytes = [None; BYTES as usize];
                for (range, kind) in held.pieces() {
                    spread[range.start() as usize..=range.last() as usize].fill(Some(*kind));
                }
                prop_assert_eq!(&spread, bytes);
            }
        }
    }
}
