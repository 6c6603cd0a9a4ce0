//! Requests about locks. A waiting one occupies no thread: its reply is kept with the question, and sent
//! when the cell has answered.

use super::convert::errno;
use super::replies::{finish, reply_empty};
use crate::fs::Fs;
use crate::meta::{Cx, LockCall, Locks, Stop};
use crate::metrics::{Call, Timer};
use fuser::{INodeNo, Notifier, ReplyEmpty, ReplyLock};
use sitefs_base::lock::{ByteRange, LockAnswer, LockAsk, LockKind, LockOwner};
use sitefs_base::{Errno, InodeId, Seq};
use std::{
    fs,
    io::Result,
    sync::{
        Arc, Weak,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};
use tokio::runtime::Handle;

/// Granted locks whose programs do not know it yet; more than can be asked for at a time.
const GRANTS_MAX: usize = 4096;
/// How often waiting callers are looked at, and how often it is looked whether there are any.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LOOK_FOR_ANY: Duration = Duration::from_millis(500);

/// A request about a lock, in the kernel's words.
#[derive(Clone, Copy, Debug)]
pub struct LockArgs {
    /// The open file.
    pub fh: u64,
    /// Process or open file description.
    pub owner: LockOwner,
    /// First and last byte.
    pub range: (u64, u64),
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub typ: i32,
    /// The process.
    pub pid: u32,
    /// The thread that waits for the reply.
    pub thread: u32,
}

/// A reply about a lock, counted when it is sent.
struct Counted {
    reply: ReplyEmpty,
    timer: Timer,
}

impl Counted {
    fn send(self, fs: &Fs, result: std::result::Result<(), Errno>) {
        finish(fs, self.timer, self.reply, result.map_err(Stop::Errno), reply_empty);
    }
}

/// A lock that is granted: before the program hears it, the kernel drops its old pages.
pub struct Grant {
    row: InodeId,
    heard: Seq,
    reply: Counted,
}

/// Answers requests about locks.
#[derive(Clone)]
pub struct LockDesk {
    fs: Arc<Fs>,
    runtime: Handle,
    grants: SyncSender<Grant>,
}

impl LockDesk {
    /// A desk, and the threads that have to run behind it.
    pub fn new(fs: Arc<Fs>, runtime: Handle) -> (Self, LockThreads) {
        let (grants, granted) = sync_channel(GRANTS_MAX);
        let threads = LockThreads { fs: Arc::clone(&fs), granted };
        (Self { fs, runtime, grants }, threads)
    }

    /// F_GETLK.
    pub fn get(&self, args: LockArgs, reply: ReplyLock) {
        let (fs, timer) = (Arc::clone(&self.fs), Timer::start(Call::Getlk));
        let call = match kind(args.typ).ok_or(Stop::Errno(Errno::EINVAL)).and_then(|kind| {
            let ino = self.fs.locked_inode(args.fh)?;
            call(args, ino, LockAsk::Test(kind))
        }) {
            Ok(call) => call,
            Err(stop) => return reply.error(errno(errno_of(stop))),
        };
        let answer = move |reply: ReplyLock, result| match result {
            Ok(LockAnswer::InTheWay { range, kind, pid }) => {
                let typ = if kind == LockKind::Exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
                reply.locked(range.start(), range.last(), typ, pid);
            }
            Ok(_) => reply.locked(args.range.0, args.range.1, libc::F_UNLCK, 0),
            Err(error) => reply.error(errno(error)),
        };
        let done = move |result: std::result::Result<_, Errno>| {
            finish(&fs, timer, reply, result.map_err(Stop::Errno), answer);
        };
        self.fs.ask_lock(call, Box::new(done));
    }

    /// F_SETLK and F_SETLKW, and flock(2).
    pub fn set(&self, args: LockArgs, waits: bool, reply: ReplyEmpty) {
        let timer = Timer::start(if waits { Call::Setlkw } else { Call::Setlk });
        let reply = Counted { reply, timer };
        match self.fs.settle_locked(Cx::Fast, args.fh) {
            Ok(()) => self.set_settled(args, waits, reply),
            Err(Stop::Errno(error)) => reply.send(&self.fs, Err(error)),
            Err(Stop::WouldBlock) => {
                let desk = self.clone();
                // The reply is the only thing that anybody waits for; the runtime owns the thread.
                drop(self.runtime.spawn_blocking(move || match desk.fs.settle_locked(Cx::Slow, args.fh) {
                    // The lock is given back all the same; close and fsync say what failed.
                    Err(stop) if args.typ != libc::F_UNLCK => reply.send(&desk.fs, Err(errno_of(stop))),
                    _ => desk.set_settled(args, waits, reply),
                }));
            }
        }
    }

    fn set_settled(&self, args: LockArgs, waits: bool, reply: Counted) {
        let ask = match (args.typ, kind(args.typ)) {
            (libc::F_UNLCK, _) => LockAsk::Unlock,
            (_, Some(kind)) if waits => LockAsk::Wait(kind),
            (_, Some(kind)) => LockAsk::Try(kind),
            (_, None) => return reply.send(&self.fs, Err(Errno::EINVAL)),
        };
        let called = self.fs.locked_inode(args.fh).and_then(|ino| call(args, ino, ask));
        let call = match called {
            Ok(call) => call,
            Err(stop) => return reply.send(&self.fs, Err(errno_of(stop))),
        };
        if ask == LockAsk::Unlock {
            let fs = Arc::clone(&self.fs);
            return self.fs.ask_lock(call, Box::new(move |result| reply.send(&fs, result.map(drop))));
        }
        let desk = self.clone();
        self.fs.ask_lock(call, Box::new(move |result| desk.answered(&call, reply, result)));
    }

    fn answered(&self, call: &LockCall, reply: Counted, result: std::result::Result<LockAnswer, Errno>) {
        if result.is_err() {
            return reply.send(&self.fs, result.map(drop));
        }
        let grant = Grant { row: call.ino, heard: self.fs.heard(), reply };
        let (TrySendError::Full(grant) | TrySendError::Disconnected(grant)) =
            match self.grants.try_send(grant) {
                Ok(()) => return,
                Err(error) => error,
            };
        // The mount is ending, or so busy that it cannot say yes in time.
        grant.reply.send(&self.fs, Err(Errno::ENOLCK));
        self.fs.ask_lock(LockCall { ask: LockAsk::Unlock, ..*call }, Box::new(|_| ()));
    }

    /// A descriptor is closed by `owner`: `reply` is sent when what it locked there is free.
    pub fn release(
        &self,
        fh: u64,
        owner: LockOwner,
        result: std::result::Result<(), Errno>,
        reply: ReplyEmpty,
    ) {
        let done = move |_| match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        };
        self.fs.release_locks(fh, owner, Box::new(done));
    }
}

fn kind(typ: i32) -> Option<LockKind> {
    match typ {
        libc::F_RDLCK => Some(LockKind::Shared),
        libc::F_WRLCK => Some(LockKind::Exclusive),
        _ => None,
    }
}

fn call(args: LockArgs, ino: InodeId, ask: LockAsk) -> std::result::Result<LockCall, Stop> {
    let (start, last) = args.range;
    let range = ByteRange::new(start, last.min(ByteRange::LAST)).ok_or(Errno::EINVAL)?;
    let LockArgs { fh, owner, pid, thread, .. } = args;
    Ok(LockCall { ino, fh, owner, pid, thread, range, ask })
}

fn errno_of(stop: Stop) -> Errno {
    match stop {
        Stop::Errno(errno) => errno,
        Stop::WouldBlock => Errno::EIO,
    }
}

/// The threads behind a desk: one says what is granted, the other looks after those who wait.
pub struct LockThreads {
    fs: Arc<Fs>,
    granted: Receiver<Grant>,
}

impl LockThreads {
    /// Starts them; they end with the mount.
    pub fn start(self, kernel: Notifier) -> Result<()> {
        let (weak, granted) = (Arc::downgrade(&self.fs), self.granted);
        let (alive, ended) = sync_channel::<()>(0);
        let grant = move || {
            // Held as long as this thread runs.
            let _alive = alive;
            for grant in granted {
                let Some(fs) = weak.upgrade() else { return };
                for ino in fs.take_old_pages(grant.row, grant.heard) {
                    // An error says that the kernel does not know the inode.
                    let _ = kernel.inval_inode(INodeNo(ino.get()), 0, 0);
                }
                grant.reply.send(&fs, Ok(()));
            }
        };
        std::thread::Builder::new().name("sitefs-locks".into()).spawn(grant).map(drop)?;
        let weak = Arc::downgrade(&self.fs);
        let look = move || look_after(&weak, &ended);
        std::thread::Builder::new().name("sitefs-waits".into()).spawn(look).map(drop)
    }
}

fn look_after(fs: &Weak<Fs>, ended: &Receiver<()>) {
    let mut next = LOOK_FOR_ANY;
    while ended.recv_timeout(next) == Err(RecvTimeoutError::Timeout) {
        let Some(fs) = fs.upgrade() else { return };
        let locks: &Locks = fs.meta().session().locks();
        next = if locks.is_waited_for() { LOOK_EVERY } else { LOOK_FOR_ANY };
        locks.look_after(has_signal);
    }
}

/// Whether a signal is about to interrupt a thread. fuser does not hand INTERRUPT requests over, and
/// without an answer not even SIGKILL ends a wait. EINTR without such a signal would reach the program
/// as an unknown errno, so one that another thread of the process may take does not count.
fn has_signal(thread: u32) -> bool {
    fs::read_to_string(format!("/proc/{thread}/status")).is_ok_and(|status| is_interrupted(&status))
}

fn is_interrupted(status: &str) -> bool {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|line| line.trim_start_matches(':').trim())
    };
    let signals = |name| field(name).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
    let of_process = if field("Threads") == Some("1") { signals("ShdPnd") } else { 0 };
    (signals("SigPnd") | of_process) & !signals("SigBlk") != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_signals_that_reach_the_thread_interrupt_it() {
        let status = |threads: u32, own: u64, process: u64, blocked: u64| {
            format!(
                "Name:\tphp\nThreads:\t{threads}\nSigPnd:\t{own:016x}\nShdPnd:\t{process:016x}\nSigBlk:\t{blocked:016x}\n"
            )
        };
        assert!(!is_interrupted(&status(1, 0, 0, 0)));
        assert!(is_interrupted(&status(4, 0x100, 0, 0)), "killed");
        assert!(is_interrupted(&status(1, 0, 0x2000, 0)), "an alarm");
        assert!(!is_interrupted(&status(2, 0, 0x2000, 0)), "another thread may take it");
        assert!(!is_interrupted(&status(1, 0, 0x2000, 0x2000)), "blocked");
        assert!(!is_interrupted(""), "the process is gone");
        assert!(!has_signal(std::process::id()));
    }
}
