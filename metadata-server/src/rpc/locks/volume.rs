//! The locks of one volume as a table that knows neither clocks nor channels: what comes in, and what
//! that answers.

use sitefs_base::{
    Errno, InodeId, Seq, SessionId,
    limits::{LOCK_ABSENCE, LOCK_WAITERS_MAX, LOCKS_MAX, VOLUME_LOCKS_MAX},
    lock::{ByteRange, HeldLock, LockAnswer, LockAsk, LockKind, LockOwner, LockRequest, Ranges},
};
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::Duration,
};

/// Who asks: one stream of a session, and the moment that the session sees. Files of other moments are
/// other files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Caller {
    pub session: SessionId,
    pub stream: u64,
    pub at: Option<Seq>,
}

/// A question with the way for its answer.
#[derive(Debug)]
pub(super) struct Asked<R> {
    pub caller: Caller,
    pub request: LockRequest,
    pub reply: R,
}

/// The answer to a question.
pub(super) type Verdict<R> = (R, Result<LockAnswer, Errno>);

/// The locks of one volume. `R` is the way for an answer.
#[derive(Debug)]
pub(super) struct Volume<R> {
    files: HashMap<File, FileLocks<R>>,
    sessions: HashMap<SessionId, Standing>,
    /// Sessions from before this node began to serve, which may have locks that it does not know.
    awaited: HashSet<SessionId>,
    /// Questions that wait until none is awaited any more.
    deferred: VecDeque<Asked<R>>,
    /// Locked ranges of all sessions.
    pieces: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct File {
    at: Option<Seq>,
    ino: InodeId,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Owner {
    session: SessionId,
    owner: LockOwner,
}

#[derive(Debug)]
struct FileLocks<R> {
    held: BTreeMap<Owner, Held>,
    /// In the order of their arrival.
    waiting: VecDeque<Asked<R>>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Held {
    ranges: Ranges,
    pid: u32,
}

/// What the table knows of a session.
#[derive(Debug, Default)]
struct Standing {
    stream: u64,
    left: Option<Duration>,
    pieces: usize,
    /// Questions that wait for a lock, or are deferred.
    parked: usize,
}

impl<R> Asked<R> {
    fn file(&self) -> File {
        File { at: self.caller.at, ino: self.request.ino }
    }
    fn owner(&self) -> Owner {
        Owner { session: self.caller.session, owner: self.request.owner }
    }
    /// The lock that is wanted.
    fn wish(&self) -> Option<Wish> {
        let (LockAsk::Test(kind) | LockAsk::Try(kind) | LockAsk::Wait(kind)) = self.request.ask else {
            return None;
        };
        Some(Wish { file: self.file(), owner: self.owner(), range: self.request.range, kind })
    }
}

/// A lock that an owner wants.
#[derive(Clone, Copy, Debug)]
struct Wish {
    file: File,
    owner: Owner,
    range: ByteRange,
    kind: LockKind,
}

impl<R> Volume<R> {
    /// No locks; those of `awaited` have to be told.
    pub fn new(awaited: HashSet<SessionId>) -> Self {
        Self {
            files: HashMap::new(),
            sessions: HashMap::new(),
            awaited,
            deferred: VecDeque::new(),
            pieces: 0,
        }
    }

    /// Whether there is nothing to remember.
    pub fn is_idle(&self) -> bool {
        self.sessions.is_empty() && self.awaited.is_empty() && self.deferred.is_empty()
    }

    /// Takes a question in.
    pub fn ask(&mut self, asked: Asked<R>) -> Vec<Verdict<R>> {
        let mut verdicts = Vec::new();
        if !self.is_current(asked.caller) {
            return verdicts;
        }
        if asked.request.ask == LockAsk::Unlock {
            let (file, owner) = (asked.file(), asked.owner());
            let unlocked = self.set(file, owner, asked.request.pid, asked.request.range, None);
            verdicts.push((asked.reply, unlocked.map(|()| LockAnswer::Done)));
            self.grant(file, &mut verdicts);
        } else if self.awaited.is_empty() {
            self.decide(asked, &mut verdicts);
        } else {
            match self.park(asked.caller.session) {
                Ok(()) => self.deferred.push_back(asked),
                Err(errno) => verdicts.push((asked.reply, Err(errno))),
            }
        }
        verdicts
    }

    /// A session gives up waiting.
    pub fn cancel(&mut self, caller: Caller, tag: u64) -> Vec<Verdict<R>> {
        let is_it = |asked: &Asked<R>| asked.caller == caller && asked.request.tag == tag;
        let mut gone = take_where(&mut self.deferred, is_it);
        for file in self.files.values_mut() {
            gone.extend(take_where(&mut file.waiting, is_it));
        }
        self.drop_empty_files();
        if let Some(standing) = self.sessions.get_mut(&caller.session) {
            standing.parked -= gone.len();
        }
        gone.into_iter().map(|asked| (asked.reply, Err(Errno::EINTR))).collect()
    }

    /// A session says what it has locked, at the beginning of a stream. It keeps what this node knows
    /// of, and all that nobody else has if the node is new.
    pub fn reclaim(&mut self, caller: Caller, locks: Vec<HeldLock>, reply: R) -> Vec<Verdict<R>> {
        let mut verdicts = Vec::new();
        if !self.is_current(caller) {
            return verdicts;
        }
        let is_new_here = self.awaited.remove(&caller.session);
        self.forget_questions(caller.session);
        let before = self.take_held(caller.session);
        let mut claims: BTreeMap<(InodeId, LockOwner), Held> = BTreeMap::new();
        for lock in locks {
            let claim = claims.entry((lock.ino, lock.owner)).or_default();
            claim.ranges.set(lock.range, Some(lock.kind));
            claim.pid = lock.pid;
        }
        let mut kept = Vec::new();
        for ((ino, owner), claim) in claims {
            let file = File { at: caller.at, ino };
            let whose = Owner { session: caller.session, owner };
            let own = match before.get(&(file, whose)) {
                Some(held) => claim.ranges.meet(&held.ranges),
                None if is_new_here => claim.ranges,
                None => continue,
            };
            for (range, kind) in own.pieces().iter().copied() {
                let wish = Wish { file, owner: whose, range, kind };
                if self.obstacle(wish).is_none()
                    && self.set(file, whose, claim.pid, range, Some(kind)).is_ok()
                {
                    kept.push(HeldLock { ino, owner, pid: claim.pid, range, kind });
                }
            }
        }
        verdicts.push((reply, Ok(LockAnswer::Kept(kept))));
        before.into_keys().for_each(|(file, _)| self.grant(file, &mut verdicts));
        self.drop_empty_files();
        self.decide_deferred(&mut verdicts);
        verdicts
    }

    /// A stream is gone; its session may come back. Whether there are locks that wait for it.
    pub fn left(&mut self, caller: Caller, now: Duration) -> bool {
        match self.sessions.get(&caller.session) {
            Some(standing) if standing.stream == caller.stream => {}
            _ => return false,
        }
        self.forget_questions(caller.session);
        self.drop_empty_files();
        match self.sessions.get_mut(&caller.session) {
            Some(standing) if standing.pieces > 0 => standing.left = Some(now),
            _ => drop(self.sessions.remove(&caller.session)),
        }
        self.sessions.contains_key(&caller.session)
    }

    /// A session has ended: it holds nothing any more.
    pub fn ended(&mut self, session: SessionId) -> Vec<Verdict<R>> {
        let mut verdicts = Vec::new();
        self.awaited.remove(&session);
        self.forget_questions(session);
        let held = self.take_held(session);
        self.sessions.remove(&session);
        held.into_keys().for_each(|(file, _)| self.grant(file, &mut verdicts));
        self.drop_empty_files();
        self.decide_deferred(&mut verdicts);
        verdicts
    }

    /// Ends the sessions that were away for too long.
    pub fn forget_absent(&mut self, now: Duration) -> Vec<Verdict<R>> {
        let is_gone =
            |standing: &Standing| standing.left.is_some_and(|left| now.saturating_sub(left) >= LOCK_ABSENCE);
        let gone: Vec<_> = self.sessions.iter().filter(|(_, s)| is_gone(s)).map(|(id, _)| *id).collect();
        gone.into_iter().flat_map(|session| self.ended(session)).collect()
    }

    /// Whoever has not said by now what it has locked has lost it.
    pub fn await_nobody(&mut self) -> Vec<Verdict<R>> {
        let mut verdicts = Vec::new();
        self.awaited.clear();
        self.decide_deferred(&mut verdicts);
        verdicts
    }

    /// Whether a frame is of the session's newest stream.
    fn is_current(&mut self, caller: Caller) -> bool {
        let standing = self.sessions.entry(caller.session).or_default();
        if caller.stream > standing.stream {
            (standing.stream, standing.left) = (caller.stream, None);
        }
        caller.stream == standing.stream
    }

    fn decide(&mut self, asked: Asked<R>, verdicts: &mut Vec<Verdict<R>>) {
        let Some(wish) = asked.wish() else { return };
        match (asked.request.ask, self.obstacle(wish)) {
            (LockAsk::Test(_), in_the_way) => {
                verdicts.push((asked.reply, Ok(in_the_way.unwrap_or(LockAnswer::Done))));
            }
            (_, None) => {
                let set = self.set(wish.file, wish.owner, asked.request.pid, wish.range, Some(wish.kind));
                verdicts.push((asked.reply, set.map(|()| LockAnswer::Done)));
                // What was exclusive may be shared now.
                self.grant(wish.file, verdicts);
            }
            (LockAsk::Wait(_), Some(_)) => self.wait(asked, wish, verdicts),
            (_, Some(_)) => verdicts.push((asked.reply, Err(Errno::EAGAIN))),
        }
    }

    fn wait(&mut self, asked: Asked<R>, wish: Wish, verdicts: &mut Vec<Verdict<R>>) {
        let parked =
            if self.would_deadlock(wish) { Err(Errno::EDEADLK) } else { self.park(asked.caller.session) };
        match parked {
            Ok(()) => self.files.entry(wish.file).or_default().waiting.push_back(asked),
            Err(errno) => verdicts.push((asked.reply, Err(errno))),
        }
    }

    /// Grants what nobody is in the way of any more, first come first served.
    fn grant(&mut self, at: File, verdicts: &mut Vec<Verdict<R>>) {
        loop {
            let is_free = |asked: &Asked<R>| asked.wish().is_some_and(|wish| self.obstacle(wish).is_none());
            let next = self.files.get(&at).and_then(|file| file.waiting.iter().position(is_free));
            let Some(next) = next else { break };
            let asked = self.files.get_mut(&at).and_then(|file| file.waiting.remove(next));
            let Some((asked, wish)) = asked.and_then(|asked| asked.wish().map(|wish| (asked, wish))) else {
                break;
            };
            self.unpark(wish.owner.session);
            let set = self.set(wish.file, wish.owner, asked.request.pid, wish.range, Some(wish.kind));
            verdicts.push((asked.reply, set.map(|()| LockAnswer::Done)));
        }
        if self.files.get(&at).is_some_and(FileLocks::is_empty) {
            self.files.remove(&at);
        }
    }

    fn decide_deferred(&mut self, verdicts: &mut Vec<Verdict<R>>) {
        if !self.awaited.is_empty() {
            return;
        }
        for asked in std::mem::take(&mut self.deferred) {
            self.unpark(asked.caller.session);
            self.decide(asked, verdicts);
        }
    }

    /// Locks a range in that kind, or unlocks it.
    fn set(
        &mut self,
        at: File,
        owner: Owner,
        pid: u32,
        range: ByteRange,
        kind: Option<LockKind>,
    ) -> Result<(), Errno> {
        let held = self.files.get(&at).and_then(|file| file.held.get(&owner));
        if kind.is_none() && held.is_none() {
            return Ok(());
        }
        // An unlock does not say whose the rest is.
        let pid = held.filter(|_| kind.is_none()).map_or(pid, |held| held.pid);
        let mut ranges = held.map(|held| held.ranges.clone()).unwrap_or_default();
        let before = ranges.len();
        ranges.set(range, kind);
        let after = ranges.len();
        let standing = self.sessions.entry(owner.session).or_default();
        let (own, all) = (standing.pieces - before + after, self.pieces - before + after);
        if after > before && (own > LOCKS_MAX || all > VOLUME_LOCKS_MAX) {
            return Err(Errno::ENOLCK);
        }
        (standing.pieces, self.pieces) = (own, all);
        let file = self.files.entry(at).or_default();
        if ranges.is_empty() {
            file.held.remove(&owner);
        } else {
            file.held.insert(owner, Held { ranges, pid });
        }
        Ok(())
    }

    /// What is in the way of a wish, as its owner may know it.
    fn obstacle(&self, wish: Wish) -> Option<LockAnswer> {
        let held = &self.files.get(&wish.file)?.held;
        held.iter().filter(|(owner, _)| **owner != wish.owner).find_map(|(owner, held)| {
            let (range, kind) = held.ranges.obstacle(wish.range, wish.kind)?;
            let pid = if owner.session == wish.owner.session { held.pid } else { 0 };
            Some(LockAnswer::InTheWay { range, kind, pid })
        })
    }

    fn in_the_way(&self, wish: Wish) -> impl Iterator<Item = Owner> {
        let held = self.files.get(&wish.file).into_iter().flat_map(|file| &file.held);
        held.filter(move |(owner, held)| {
            **owner != wish.owner && held.ranges.obstacle(wish.range, wish.kind).is_some()
        })
        .map(|(owner, _)| *owner)
    }

    /// Whether those in the way of a wish wait, perhaps by others, for its own owner.
    fn would_deadlock(&self, wish: Wish) -> bool {
        let mut waits: HashMap<Owner, Vec<Wish>> = HashMap::new();
        for other in self.files.values().flat_map(|file| &file.waiting).filter_map(Asked::wish) {
            waits.entry(other.owner).or_default().push(other);
        }
        let mut seen = HashSet::new();
        let mut next: Vec<Owner> = self.in_the_way(wish).collect();
        while let Some(owner) = next.pop() {
            if owner == wish.owner {
                return true;
            }
            if seen.insert(owner) {
                let wishes = waits.get(&owner).into_iter().flatten();
                next.extend(wishes.flat_map(|wish| self.in_the_way(*wish)));
            }
        }
        false
    }

    fn park(&mut self, session: SessionId) -> Result<(), Errno> {
        let standing = self.sessions.entry(session).or_default();
        if standing.parked >= LOCK_WAITERS_MAX {
            return Err(Errno::ENOLCK);
        }
        standing.parked += 1;
        Ok(())
    }

    fn unpark(&mut self, session: SessionId) {
        if let Some(standing) = self.sessions.get_mut(&session) {
            standing.parked = standing.parked.saturating_sub(1);
        }
    }

    /// Nobody waits for the answers any more.
    fn forget_questions(&mut self, session: SessionId) {
        self.deferred.retain(|asked| asked.caller.session != session);
        for file in self.files.values_mut() {
            file.waiting.retain(|asked| asked.caller.session != session);
        }
        if let Some(standing) = self.sessions.get_mut(&session) {
            standing.parked = 0;
        }
    }

    fn take_held(&mut self, session: SessionId) -> HashMap<(File, Owner), Held> {
        let mut taken = HashMap::new();
        for (at, file) in &mut self.files {
            let gone: Vec<Owner> =
                file.held.keys().filter(|owner| owner.session == session).copied().collect();
            for owner in gone {
                taken.extend(file.held.remove(&owner).map(|held| ((*at, owner), held)));
            }
        }
        let pieces: usize = taken.values().map(|held| held.ranges.len()).sum();
        self.pieces -= pieces;
        if let Some(standing) = self.sessions.get_mut(&session) {
            standing.pieces -= pieces;
        }
        taken
    }

    fn drop_empty_files(&mut self) {
        self.files.retain(|_, file| !file.is_empty());
    }

    /// The locks of one owner, for tests.
    #[cfg(test)]
    pub fn held_by(&self, session: SessionId, ino: InodeId, owner: LockOwner) -> Ranges {
        let file = self.files.get(&File { at: None, ino });
        let held = file.and_then(|file| file.held.get(&Owner { session, owner }));
        held.map(|held| held.ranges.clone()).unwrap_or_default()
    }

    /// That what is counted is what is there.
    #[cfg(test)]
    pub fn check_counts(&self) {
        let mut pieces: HashMap<SessionId, usize> = HashMap::new();
        let mut parked: HashMap<SessionId, usize> = HashMap::new();
        for file in self.files.values() {
            assert!(!file.is_empty(), "a file without locks is remembered");
            for (owner, held) in &file.held {
                assert!(!held.ranges.is_empty(), "an owner without locks is remembered");
                *pieces.entry(owner.session).or_default() += held.ranges.len();
            }
            file.waiting.iter().for_each(|asked| *parked.entry(asked.caller.session).or_default() += 1);
        }
        self.deferred.iter().for_each(|asked| *parked.entry(asked.caller.session).or_default() += 1);
        assert_eq!(self.pieces, pieces.values().sum::<usize>());
        for (session, standing) in &self.sessions {
            assert_eq!(standing.pieces, pieces.remove(session).unwrap_or(0));
            assert_eq!(standing.parked, parked.remove(session).unwrap_or(0));
        }
        assert!(pieces.is_empty() && parked.is_empty(), "of sessions that nobody knows");
    }
}

impl<R> FileLocks<R> {
    fn is_empty(&self) -> bool {
        self.held.is_empty() && self.waiting.is_empty()
    }
}

impl<R> Default for FileLocks<R> {
    fn default() -> Self {
        Self { held: BTreeMap::new(), waiting: VecDeque::new() }
    }
}

fn take_where<R>(queue: &mut VecDeque<Asked<R>>, is_it: impl Fn(&Asked<R>) -> bool) -> Vec<Asked<R>> {
    let mut taken = Vec::new();
    while let Some(at) = queue.iter().position(&is_it) {
        taken.extend(queue.remove(at));
    }
    taken
}
