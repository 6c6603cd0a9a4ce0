//! When the cell may count on an event (DESIGN D22): as soon as the kernel was told, but never later than
//! the cell waits, for a notice about a name can hang on requests in its directory.

use crate::fs::Teller;
use sitefs_base::{Clock, Seq};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

/// How long an acknowledgement waits for the names of its event; the cell waits 25 ms for us.
pub(super) const PATIENCE: Duration = Duration::from_millis(10);

struct Waiting {
    seq: Seq,
    names: usize,
    due: Duration,
}

/// Events that are not acknowledged, oldest first: an acknowledgement is for all before it too.
pub(super) struct Acks {
    waiting: Mutex<VecDeque<Waiting>>,
    teller: Weak<dyn Teller>,
    clock: Arc<dyn Clock>,
}

impl Acks {
    pub fn new(teller: Weak<dyn Teller>, clock: Arc<dyn Clock>) -> Self {
        Self { waiting: Mutex::default(), teller, clock }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An event has come; `names` of its names are going to be told to the kernel.
    pub fn begin(&self, seq: Seq, names: usize) {
        let due = self.clock.boottime() + PATIENCE;
        self.waiting().push_back(Waiting { seq, names, due });
        self.expire();
    }

    /// One of the names of an event was told.
    pub fn told(&self, seq: Seq) {
        {
            let mut waiting = self.waiting();
            let found = waiting.binary_search_by_key(&seq, |event| event.seq);
            if let Some(event) = found.ok().and_then(|at| waiting.get_mut(at)) {
                event.names = event.names.saturating_sub(1);
            }
        }
        self.expire();
    }

    /// Acknowledges what is told, and what has waited long enough.
    pub fn expire(&self) {
        let mut waiting = self.waiting();
        let (now, mut last, mut events) = (self.clock.boottime(), None, 0);
        while let Some(event) = waiting.pop_front_if(|event| event.names == 0 || event.due <= now) {
            last = Some(event.seq);
            events += 1;
        }
        // With the lock, so that acknowledgements go out in order.
        if let (Some(seq), Some(teller)) = (last, self.teller.upgrade()) {
            teller.in_force(seq, events);
        }
    }

    /// When the next one has waited long enough.
    pub fn due(&self) -> Option<Duration> {
        self.waiting().front().map(|event| event.due)
    }
}
