//! Notices about names. Each takes the lock of its directory in the kernel, and behind one that waits
//! for that lock every lookup in the directory has to wait too. So a notice is held back here until the
//! requests that it would wait for are answered, and a few threads share the directories among them: one that
//! blocks all the same holds up no others for long.

use super::{Kernel, acks::Acks};
use crate::fs::Teller;
use sitefs_base::op::Place;
use sitefs_base::{Clock, InodeId, Seq};
use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Threads.
const SHARDS: usize = 3;
/// Names of events that may wait for one of them; beyond them everything is taken back.
const QUEUE_MAX: usize = 65_536;
/// How often held back notices are looked at.
const LOOK: Duration = Duration::from_millis(1);
/// How long a notice is held back at most. Requests have deadlines; this is for one that breaks them.
const HOLD_MAX: Duration = Duration::from_secs(15);

/// A name to be taken back.
pub(super) struct Expire {
    pub place: Place,
    /// Requests in the directory that began before this are waited for.
    pub number: u64,
    /// The event that it belongs to, if its acknowledgement waits.
    pub of: Option<Seq>,
}

/// What waits for one thread.
#[derive(Default)]
struct Inbox {
    state: Mutex<(Vec<Expire>, bool)>,
    moved: Condvar,
}

impl Inbox {
    fn state(&self) -> MutexGuard<'_, (Vec<Expire>, bool)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, expires: impl IntoIterator<Item = Expire>) {
        self.state().0.extend(expires);
        self.moved.notify_one();
    }

    fn close(&self) {
        self.state().1 = true;
        self.moved.notify_one();
    }

    /// What has come, waited for at most for `patience` if that is set; `None` at the end.
    fn take(&self, patience: Option<Duration>) -> Option<Vec<Expire>> {
        let nothing = |(expires, closed): &mut (Vec<Expire>, bool)| expires.is_empty() && !*closed;
        let state = self.state();
        let mut state = match patience {
            None => self.moved.wait_while(state, nothing).unwrap_or_else(PoisonError::into_inner),
            Some(patience) => {
                let waited = self.moved.wait_timeout_while(state, patience, nothing);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        if state.1 { None } else { Some(std::mem::take(&mut state.0)) }
    }
}

/// The entrances of the threads, which end when this is dropped.
pub(super) struct Shards {
    inboxes: [Arc<Inbox>; SHARDS],
    lost: AtomicBool,
}

impl Shards {
    pub fn start(
        kernel: &Arc<dyn Kernel>,
        teller: &Weak<dyn Teller>,
        clock: &Arc<dyn Clock>,
        acks: &Arc<Acks>,
    ) -> io::Result<Self> {
        let shards = Self { inboxes: Default::default(), lost: AtomicBool::new(false) };
        for inbox in &shards.inboxes {
            let inbox = Arc::clone(inbox);
            let shard = Shard {
                kernel: Arc::clone(kernel),
                teller: Weak::clone(teller),
                clock: Arc::clone(clock),
                acks: Arc::clone(acks),
                held: VecDeque::new(),
            };
            std::thread::Builder::new().name("sitefs-names".into()).spawn(move || shard.run(&inbox))?;
        }
        Ok(shards)
    }

    fn inbox(&self, dir: InodeId) -> &Inbox {
        &self.inboxes[usize::try_from(dir.get() % SHARDS as u64).unwrap_or(0)]
    }

    /// Takes a name back.
    pub fn send(&self, expire: Expire) {
        let inbox = self.inbox(expire.place.parent);
        if inbox.state().0.len() < QUEUE_MAX {
            inbox.put([expire]);
        } else {
            self.lost.store(true, Ordering::Release);
        }
    }

    /// Takes many back: as many as the table of names holds, at most.
    pub fn send_all(&self, places: Vec<Place>, teller: &dyn Teller) {
        let mut all: [Vec<Expire>; SHARDS] = Default::default();
        for place in places {
            let (_, number) = teller.traffic(place.parent);
            let shard = usize::try_from(place.parent.get() % SHARDS as u64).unwrap_or(0);
            all[shard].push(Expire { place, number, of: None });
        }
        for (inbox, expires) in self.inboxes.iter().zip(all).filter(|(_, expires)| !expires.is_empty()) {
            inbox.put(expires);
        }
    }

    /// Whether names were lost since this was last asked.
    pub fn have_lost(&self) -> bool {
        self.lost.swap(false, Ordering::AcqRel)
    }
}

impl Drop for Shards {
    fn drop(&mut self) {
        self.inboxes.iter().for_each(|inbox| inbox.close());
    }
}

/// One thread.
struct Shard {
    kernel: Arc<dyn Kernel>,
    teller: Weak<dyn Teller>,
    clock: Arc<dyn Clock>,
    acks: Arc<Acks>,
    /// What waits for requests, with the end of its patience.
    held: VecDeque<(Duration, Expire)>,
}

impl Shard {
    fn run(mut self, inbox: &Inbox) {
        while let Some(more) = inbox.take((!self.held.is_empty()).then_some(LOOK)) {
            let until = self.clock.boottime() + HOLD_MAX;
            self.held.extend(more.into_iter().map(|expire| (until, expire)));
            self.send_what_may_go();
        }
    }

    fn send_what_may_go(&mut self) {
        let Some(teller) = self.teller.upgrade() else { return self.held.clear() };
        for _ in 0..self.held.len() {
            let Some((until, expire)) = self.held.pop_front() else { return };
            let Expire { place, number, of } = &expire;
            if teller.has_landed(place.parent, *number) || until <= self.clock.boottime() {
                self.kernel.expire(place);
                if let Some(seq) = of {
                    self.acks.told(*seq);
                }
            } else {
                self.held.push_back((until, expire));
            }
        }
    }
}
