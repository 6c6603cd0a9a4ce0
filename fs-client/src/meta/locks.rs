//! The locks of this mount (DESIGN D29): what was asked and not answered, and what is held, to be told
//! again when the session attaches again. Nobody waits in here: answers go to whoever asked.

use sitefs_base::limits::LOCK_WAITERS_MAX;
use sitefs_base::lock::{ByteRange, HeldLock, LockAnswer, LockAsk, LockKind, LockOwner, LockRequest, Ranges};
use sitefs_base::{Clock, Errno, InodeId, session::ToCell};
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;

/// How long a question that does not wait may stay unanswered: longer than a cell that starts waits for
/// other mounts.
const ANSWER_DEADLINE: Duration = Duration::from_secs(15);
/// Callers that are looked at in one go.
const LOOK_AT: usize = 64;

/// Gets the answer. Called by whoever brings it: must not block.
pub type Done = Box<dyn FnOnce(Result<LockAnswer, Errno>) + Send>;

/// What a program asks about a lock of an open file.
#[derive(Clone, Copy, Debug)]
pub struct LockCall {
    /// The inode at the cell.
    pub ino: InodeId,
    /// The open file through which it asks.
    pub fh: u64,
    /// Who will own the lock.
    pub owner: LockOwner,
    /// Its process.
    pub pid: u32,
    /// The thread that waits for the answer; 0 if that is not known.
    pub thread: u32,
    /// The bytes.
    pub range: ByteRange,
    /// The question.
    pub ask: LockAsk,
}

/// The locks of one mount.
pub struct Locks {
    state: Mutex<State>,
    /// Owners that may have locks: most files never have any, and closing them should cost nothing.
    owners: AtomicUsize,
    clock: Arc<dyn Clock>,
}

type Key = (InodeId, LockOwner);

#[derive(Default)]
struct State {
    link: Option<mpsc::Sender<ToCell>>,
    /// In the order in which the cell has to get them.
    unsent: VecDeque<ToCell>,
    next_tag: u64,
    /// Unanswered, in the order of asking.
    asked: BTreeMap<u64, Asked>,
    held: HashMap<Key, Held>,
    /// The files through which owners asked for locks since they last gave all back.
    owners: HashMap<Key, HashSet<u64>>,
    files: HashMap<u64, HashSet<Key>>,
    /// The question in which this stream said what is held.
    reclaiming: Option<u64>,
    /// Where the next look at waiting callers begins.
    looked_at: u64,
    ended: Option<Errno>,
}

#[derive(Default)]
struct Held {
    ranges: Ranges,
    pid: u32,
}

struct Asked {
    request: LockRequest,
    thread: u32,
    until: Option<Duration>,
    /// What the program gets if it turns out that the lock was not granted.
    giving_up: Option<Errno>,
    done: Done,
}

/// An answer that is ready.
type Answered = (Done, Result<LockAnswer, Errno>);

fn tell(answered: impl IntoIterator<Item = Answered>) {
    answered.into_iter().for_each(|(done, result)| done(result));
}

impl Locks {
    /// No locks, and no stream.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { state: Mutex::default(), owners: AtomicUsize::new(0), clock }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks; `done` gets the answer, perhaps at once.
    pub fn ask(&self, call: LockCall, done: Done) {
        let mut state = self.state();
        if matches!(call.ask, LockAsk::Try(_) | LockAsk::Wait(_)) {
            state.remember_owner(&call);
            self.owners.store(state.owners.len(), Ordering::Release);
        }
        let answered = state.ask(&call, done, self.clock.boottime());
        drop(state);
        tell(answered);
    }

    /// An owner gives back all its locks of a file; `done` is called when others can have them.
    pub fn release(&self, ino: InodeId, owner: LockOwner, done: Done) {
        if self.owners.load(Ordering::Acquire) == 0 {
            return done(Ok(LockAnswer::Done));
        }
        let mut state = self.state();
        let answered = if state.forget_owner((ino, owner)) {
            self.owners.store(state.owners.len(), Ordering::Release);
            state.release((ino, owner), done, self.clock.boottime())
        } else {
            Some((done, Ok(LockAnswer::Done)))
        };
        drop(state);
        tell(answered);
    }

    /// An open file is closed for good: what was locked through it, and not given back before, is free.
    pub fn closed(&self, fh: u64) {
        if self.owners.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut state = self.state();
        let now = self.clock.boottime();
        let mut answered = Vec::new();
        for key in state.files.remove(&fh).unwrap_or_default() {
            if state.forget_owner(key) {
                answered.extend(state.release(key, Box::new(|_| ()), now));
            }
        }
        self.owners.store(state.owners.len(), Ordering::Release);
        drop(state);
        tell(answered);
    }

    /// A stream is attached: it begins with what is held and all that is unanswered.
    pub fn link_up(&self, link: mpsc::Sender<ToCell>) {
        self.link_down();
        let mut state = self.state();
        let tag = state.new_tag();
        let held = state.held.iter().flat_map(|((ino, owner), held)| {
            let (ino, owner, pid) = (*ino, *owner, held.pid);
            held.ranges.pieces().iter().map(move |(range, kind)| HeldLock {
                ino,
                owner,
                pid,
                range: *range,
                kind: *kind,
            })
        });
        let reclaim = ToCell::ReclaimLocks { tag, locks: held.collect() };
        let again: Vec<_> = state.asked.values().map(|asked| ToCell::Lock(asked.request)).collect();
        state.unsent.push_back(reclaim);
        state.unsent.extend(again);
        state.reclaiming = Some(tag);
        state.link = Some(link);
        state.pump();
    }

    /// The stream is gone. What is unlocked will not be told as held, so it is free; what nobody waits
    /// for any more is not asked again.
    pub fn link_down(&self) {
        let mut state = self.state();
        (state.link, state.reclaiming) = (None, None);
        state.unsent.clear();
        let settled = |asked: &mut Asked| asked.request.ask == LockAsk::Unlock || asked.giving_up.is_some();
        let over: Vec<_> = state.asked.extract_if(.., |_, asked| settled(asked)).collect();
        let mut answered: Vec<Answered> = Vec::new();
        for (_, asked) in over {
            let result = match asked.giving_up {
                Some(errno) => Err(errno),
                None => {
                    state.hold(&asked.request, None);
                    Ok(LockAnswer::Done)
                }
            };
            answered.push((asked.done, result));
        }
        drop(state);
        tell(answered);
    }

    /// The session is another one from now on, or has ended: its locks are lost, and nobody waits.
    pub fn lost(&self) {
        let mut state = self.state();
        let count: usize = state.held.drain().map(|(_, held)| held.ranges.len()).sum();
        if count > 0 {
            tracing::warn!(count, "locks of programs are lost with the session");
        }
        state.unsent.clear();
        let answered: Vec<Answered> = std::mem::take(&mut state.asked)
            .into_values()
            .map(|asked| match asked.request.ask {
                LockAsk::Unlock => (asked.done, Ok(LockAnswer::Done)),
                _ => (asked.done, Err(asked.giving_up.unwrap_or(Errno::ENOLCK))),
            })
            .collect();
        drop(state);
        tell(answered);
    }

    /// Nothing can be locked any more.
    pub fn end(&self, errno: Errno) {
        self.state().ended = Some(errno);
        self.lost();
    }

    /// Takes in an answer of the cell.
    pub fn receive(&self, tag: u64, result: Result<LockAnswer, Errno>) {
        let mut state = self.state();
        let answered = match result {
            Ok(LockAnswer::Kept(locks)) if state.reclaiming == Some(tag) => {
                state.kept(locks);
                None
            }
            result => state.asked.remove(&tag).map(|asked| state.answer(asked, result)),
        };
        state.pump();
        drop(state);
        tell(answered);
    }

    /// Sends what had no room, and gives up what is late or whose caller `is_interrupted`.
    pub fn look_after(&self, is_interrupted: impl Fn(u32) -> bool) {
        let mut state = self.state();
        state.pump();
        let now = self.clock.boottime();
        let late = |asked: &Asked| asked.until.is_some_and(|until| until <= now);
        let mut over: Vec<(u64, Errno)> =
            state.asked.iter().filter(|(_, a)| late(a)).map(|(tag, _)| (*tag, Errno::ENOLCK)).collect();
        let callers = state.next_callers();
        drop(state);
        // Not under the lock: it looks into /proc.
        let interrupted = callers.into_iter().filter(|(_, thread)| is_interrupted(*thread));
        over.extend(interrupted.map(|(tag, _)| (tag, Errno::EINTR)));
        let mut state = self.state();
        let answered: Vec<Answered> =
            over.into_iter().filter_map(|(tag, errno)| state.give_up(tag, errno)).collect();
        drop(state);
        tell(answered);
    }

    /// Whether anybody waits for an answer.
    pub fn is_waited_for(&self) -> bool {
        !self.state().asked.is_empty()
    }
}

impl State {
    fn new_tag(&mut self) -> u64 {
        self.next_tag += 1;
        self.next_tag
    }

    fn remember_owner(&mut self, call: &LockCall) {
        let key = (call.ino, call.owner);
        self.owners.entry(key).or_default().insert(call.fh);
        self.files.entry(call.fh).or_default().insert(key);
    }

    /// Whether the owner may have had locks.
    fn forget_owner(&mut self, key: Key) -> bool {
        let Some(files) = self.owners.remove(&key) else { return false };
        for fh in files {
            if let Some(keys) = self.files.get_mut(&fh) {
                keys.remove(&key);
                if keys.is_empty() {
                    self.files.remove(&fh);
                }
            }
        }
        true
    }

    fn release(&mut self, (ino, owner): Key, done: Done, now: Duration) -> Option<Answered> {
        let is_its = |asked: &Asked| (asked.request.ino, asked.request.owner) == (ino, owner);
        if !self.held.contains_key(&(ino, owner)) && !self.asked.values().any(is_its) {
            return Some((done, Ok(LockAnswer::Done)));
        }
        let (range, ask) = (ByteRange::WHOLE, LockAsk::Unlock);
        self.ask(&LockCall { ino, fh: 0, owner, pid: 0, thread: 0, range, ask }, done, now)
    }

    fn ask(&mut self, call: &LockCall, done: Done, now: Duration) -> Option<Answered> {
        let LockCall { ino, owner, pid, range, ask, .. } = *call;
        let request = LockRequest { tag: self.new_tag(), ino, owner, pid, range, ask };
        let is_unlock = ask == LockAsk::Unlock;
        if let Some(errno) = self.ended {
            return Some((done, if is_unlock { Ok(LockAnswer::Done) } else { Err(errno) }));
        }
        if is_unlock && self.link.is_none() {
            self.hold(&request, None);
            return Some((done, Ok(LockAnswer::Done)));
        }
        if !is_unlock && self.asked.len() >= LOCK_WAITERS_MAX {
            return Some((done, Err(Errno::ENOLCK)));
        }
        let until = matches!(ask, LockAsk::Test(_) | LockAsk::Try(_)).then(|| now + ANSWER_DEADLINE);
        self.asked.insert(request.tag, Asked { request, thread: call.thread, until, giving_up: None, done });
        if self.link.is_some() {
            self.unsent.push_back(ToCell::Lock(request));
            self.pump();
        }
        None
    }

    /// Never waits: what has no room now is sent with the next frame or look.
    fn pump(&mut self) {
        let Some(link) = &self.link else { return };
        while let Some(frame) = self.unsent.pop_front() {
            if let Err(full) = link.try_send(frame) {
                self.unsent.push_front(full.into_inner());
                return;
            }
        }
    }

    fn hold(&mut self, request: &LockRequest, kind: Option<LockKind>) {
        let key = (request.ino, request.owner);
        if kind.is_none() && !self.held.contains_key(&key) {
            return;
        }
        let held = self.held.entry(key).or_default();
        held.ranges.set(request.range, kind);
        if kind.is_some() {
            held.pid = request.pid;
        }
        if held.ranges.is_empty() {
            self.held.remove(&key);
        }
    }

    fn answer(&mut self, asked: Asked, result: Result<LockAnswer, Errno>) -> Answered {
        match (&result, asked.request.ask) {
            (Ok(_), LockAsk::Try(kind) | LockAsk::Wait(kind)) => self.hold(&asked.request, Some(kind)),
            (Ok(_), LockAsk::Unlock) => self.hold(&asked.request, None),
            _ => {}
        }
        let result = match (result, asked.giving_up) {
            (Err(Errno::EINTR), Some(errno)) => Err(errno),
            (result, _) => result,
        };
        (asked.done, result)
    }

    fn kept(&mut self, locks: Vec<HeldLock>) {
        self.reclaiming = None;
        let before: usize = self.held.values().map(|held| held.ranges.len()).sum();
        self.held.clear();
        for lock in &locks {
            let held = self.held.entry((lock.ino, lock.owner)).or_default();
            held.ranges.set(lock.range, Some(lock.kind));
            held.pid = lock.pid;
        }
        if before > locks.len() {
            let count = before - locks.len();
            tracing::warn!(count, "locks were lost because the cell did not hear from this mount");
        }
    }

    /// Callers to look at now; over time everybody's turn comes.
    fn next_callers(&mut self) -> Vec<(u64, u32)> {
        let from = self.looked_at;
        let behind = self.asked.range(from..).chain(self.asked.range(..from));
        let known = behind.filter(|(_, asked)| asked.thread != 0 && asked.giving_up.is_none());
        let callers: Vec<_> = known.take(LOOK_AT).map(|(tag, asked)| (*tag, asked.thread)).collect();
        self.looked_at = callers.last().map_or(0, |(tag, _)| tag + 1);
        callers
    }

    /// Gives a question up, unless it was granted meanwhile: the cell knows.
    fn give_up(&mut self, tag: u64, errno: Errno) -> Option<Answered> {
        if self.link.is_none() {
            return self.asked.remove(&tag).map(|asked| (asked.done, Err(errno)));
        }
        let asked = self.asked.get_mut(&tag)?;
        if asked.request.ask == LockAsk::Unlock || asked.giving_up.is_some() {
            return None;
        }
        asked.giving_up = Some(errno);
        asked.until = None;
        self.unsent.push_back(ToCell::CancelLock { tag });
        self.pump();
        None
    }
}

#[cfg(test)]
mod tests;
