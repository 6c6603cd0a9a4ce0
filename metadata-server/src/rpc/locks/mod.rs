//! Locks on byte ranges, for flock and fcntl alike: leader memory, owned by sessions (DESIGN D29).
//!
//! A node that begins to serve does not know what was locked. Until the sessions from before have said
//! it, at most for [`LOCK_ABSENCE`], it decides about nothing that is new.

mod volume;

use super::{Cell, session::Stream};
use crate::state;
use sitefs_base::{
    Errno, Result, SessionId, VolumeId,
    limits::{LOCK_ABSENCE, LOCK_WAITERS_MAX},
    lock::{HeldLock, LockAnswer, LockRequest},
};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::mpsc;
use volume::{Asked, Caller, Verdict, Volume};

/// Answers about locks that may be under way to one mount. Waiting ones have their place from the
/// beginning, so that a granted lock never waits for room; what unlocks needs places beside them.
pub(super) const REPLIES: usize = LOCK_WAITERS_MAX + 64;
/// Clocks may differ by rounding.
const ROUNDING: Duration = Duration::from_millis(20);

/// An answer for the outbox: the question's tag, and what the mount is told.
pub(super) type LockReply = (u64, std::result::Result<LockAnswer, Errno>);
/// The way for one answer.
type Way = (u64, mpsc::OwnedPermit<LockReply>);

/// The locks of all volumes.
#[derive(Default)]
pub(crate) struct Locks(Mutex<HashMap<VolumeId, Volume<Way>>>);

impl Locks {
    /// These sessions may have locks that this node does not know.
    fn expect(&self, sessions: Vec<(VolumeId, SessionId)>) {
        let mut awaited: HashMap<VolumeId, HashSet<SessionId>> = HashMap::new();
        for (volume, session) in sessions {
            awaited.entry(volume).or_default().insert(session);
        }
        self.lock().extend(awaited.into_iter().map(|(id, sessions)| (id, Volume::new(sessions))));
    }

    /// Lets `change` work on the locks of a volume, and sends the answers in the order in which they were
    /// given: the mount takes them for the order of events.
    fn with(&self, id: VolumeId, change: impl FnOnce(&mut Volume<Way>) -> Vec<Verdict<Way>>) {
        let mut volumes = self.lock();
        let volume = volumes.entry(id).or_insert_with(|| Volume::new(HashSet::new()));
        tell(change(volume));
        if volume.is_idle() {
            volumes.remove(&id);
        }
    }

    fn forget_absent(&self, now: Duration) {
        let mut volumes = self.lock();
        volumes.values_mut().for_each(|volume| tell(volume.forget_absent(now)));
        volumes.retain(|_, volume| !volume.is_idle());
    }

    fn await_nobody(&self) {
        let mut volumes = self.lock();
        volumes.values_mut().for_each(|volume| tell(volume.await_nobody()));
        volumes.retain(|_, volume| !volume.is_idle());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<VolumeId, Volume<Way>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(verdicts: Vec<Verdict<Way>>) {
    for ((tag, way), result) in verdicts {
        way.send((tag, result));
    }
}

impl Cell {
    /// Begins to serve locks: those of the sessions that the state knows may be told again.
    pub fn await_locks(&self) -> Result<()> {
        self.locks.expect(state::sessions(&self.group.reader())?);
        Ok(())
    }

    /// Ends the time in which locks may be told again.
    pub async fn end_of_awaiting(self: Arc<Self>) {
        tokio::time::sleep(LOCK_ABSENCE).await;
        self.locks.await_nobody();
    }

    /// A session has ended.
    pub(super) fn locks_ended(&self, volume: VolumeId, session: SessionId) {
        self.locks.with(volume, |locks| locks.ended(session));
    }
}

impl Stream {
    /// A question about locks.
    pub(super) fn lock(&self, request: LockRequest, permit: mpsc::OwnedPermit<LockReply>) {
        let asked = Asked { caller: self.caller(), request, reply: (request.tag, permit) };
        self.cell.locks.with(self.member.volume, |locks| locks.ask(asked));
    }

    /// A question is given up.
    pub(super) fn cancel_lock(&self, tag: u64) {
        let caller = self.caller();
        self.cell.locks.with(self.member.volume, |locks| locks.cancel(caller, tag));
    }

    /// What the mount has locked.
    pub(super) fn reclaim_locks(&self, tag: u64, locks: Vec<HeldLock>, permit: mpsc::OwnedPermit<LockReply>) {
        let caller = self.caller();
        self.cell.locks.with(self.member.volume, |table| table.reclaim(caller, locks, (tag, permit)));
    }

    /// The stream is gone: the session's locks stay for a while.
    pub(super) fn locks_left(&self) {
        let (cell, caller) = (self.cell.clone(), self.caller());
        let now = cell.clock.boottime();
        let mut stays = false;
        cell.locks.with(self.member.volume, |locks| {
            stays = locks.left(caller, now);
            Vec::new()
        });
        if !stays {
            return;
        }
        self.cell.tasks.spawn(async move {
            tokio::select! {
                () = cell.closing.cancelled() => {}
                () = tokio::time::sleep(LOCK_ABSENCE + ROUNDING) => cell.locks.forget_absent(cell.clock.boottime()),
            }
        });
    }

    fn caller(&self) -> Caller {
        Caller { session: self.member.session, stream: self.holder.stream, at: self.member.at }
    }
}

#[cfg(test)]
mod tests;
