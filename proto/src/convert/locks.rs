//! Locks on byte ranges.

use super::{errno, list};
use crate::pb;
use sitefs_base::{
    Errno, Error, InodeId, Result,
    limits::LOCKS_MAX,
    lock::{ByteRange, HeldLock, LockAnswer, LockAsk, LockKind, LockOwner, LockRequest},
};

fn range(start: u64, last: u64) -> Result<ByteRange> {
    ByteRange::new(start, last)
        .ok_or_else(|| Error::invalid(format!("{start} to {last} are not bytes of a file")))
}

fn kind(exclusive: bool) -> LockKind {
    if exclusive { LockKind::Exclusive } else { LockKind::Shared }
}

impl From<LockRequest> for pb::LockRequest {
    fn from(request: LockRequest) -> Self {
        let (action, kind) = match request.ask {
            LockAsk::Test(kind) => (pb::LockAction::Test, kind),
            LockAsk::Try(kind) => (pb::LockAction::Try, kind),
            LockAsk::Wait(kind) => (pb::LockAction::Wait, kind),
            LockAsk::Unlock => (pb::LockAction::Unlock, LockKind::Shared),
        };
        Self {
            tag: request.tag,
            ino: request.ino.get(),
            owner: request.owner.get(),
            pid: request.pid,
            start: request.range.start(),
            last: request.range.last(),
            action: action.into(),
            exclusive: kind == LockKind::Exclusive,
        }
    }
}

impl TryFrom<pb::LockRequest> for LockRequest {
    type Error = Error;
    fn try_from(request: pb::LockRequest) -> Result<Self> {
        let kind = kind(request.exclusive);
        let ask = match pb::LockAction::try_from(request.action) {
            Ok(pb::LockAction::Test) => LockAsk::Test(kind),
            Ok(pb::LockAction::Try) => LockAsk::Try(kind),
            Ok(pb::LockAction::Wait) => LockAsk::Wait(kind),
            Ok(pb::LockAction::Unlock) => LockAsk::Unlock,
            Ok(pb::LockAction::Unspecified) | Err(_) => {
                return Err(Error::invalid(format!("{} is nothing to do with a lock", request.action)));
            }
        };
        Ok(Self {
            tag: request.tag,
            ino: InodeId::new(request.ino),
            owner: LockOwner::new(request.owner),
            pid: request.pid,
            range: range(request.start, request.last)?,
            ask,
        })
    }
}

pub(super) fn messages(locks: Vec<HeldLock>) -> Vec<pb::HeldLock> {
    let message = |lock: HeldLock| pb::HeldLock {
        ino: lock.ino.get(),
        owner: lock.owner.get(),
        pid: lock.pid,
        start: lock.range.start(),
        last: lock.range.last(),
        exclusive: lock.kind == LockKind::Exclusive,
    };
    locks.into_iter().map(message).collect()
}

pub(super) fn held(locks: Vec<pb::HeldLock>) -> Result<Vec<HeldLock>> {
    list(locks, LOCKS_MAX, "locks", |lock| {
        Ok(HeldLock {
            ino: InodeId::new(lock.ino),
            owner: LockOwner::new(lock.owner),
            pid: lock.pid,
            range: range(lock.start, lock.last)?,
            kind: kind(lock.exclusive),
        })
    })
}

pub(super) fn reply(tag: u64, result: Result<LockAnswer, Errno>) -> pb::LockReply {
    use pb::lock_reply::Result as Wire;
    let result = match result {
        Ok(LockAnswer::Done) => Wire::Done(pb::Empty {}),
        Ok(LockAnswer::InTheWay { range, kind, pid }) => Wire::InTheWay(pb::LockInTheWay {
            start: range.start(),
            last: range.last(),
            exclusive: kind == LockKind::Exclusive,
            pid,
        }),
        Ok(LockAnswer::Kept(locks)) => Wire::Kept(pb::HeldLocks { locks: messages(locks) }),
        Err(errno) => Wire::Errno(errno.get()),
    };
    pb::LockReply { tag, result: Some(result) }
}

pub(super) fn result(result: pb::lock_reply::Result) -> Result<Result<LockAnswer, Errno>> {
    use pb::lock_reply::Result as Wire;
    Ok(Ok(match result {
        Wire::Done(pb::Empty {}) => LockAnswer::Done,
        Wire::InTheWay(lock) => LockAnswer::InTheWay {
            range: range(lock.start, lock.last)?,
            kind: kind(lock.exclusive),
            pid: lock.pid,
        },
        Wire::Kept(kept) => LockAnswer::Kept(held(kept.locks)?),
        Wire::Errno(raw) => return Ok(Err(errno(raw)?)),
    }))
}
