//! Whether a mount has to end, and why.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Why {
    /// The kernel has ended the session.
    Kernel,
    /// A thread panicked.
    Panic,
}

/// Set once, when a mount has to end.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    why: Mutex<Option<Why>>,
    changed: Condvar,
}

impl Ended {
    /// The kernel has ended the session.
    pub fn set(&self) {
        self.set_to(Why::Kernel);
    }

    /// A thread panicked.
    pub fn panicked(&self) {
        self.set_to(Why::Panic);
    }

    fn set_to(&self, why: Why) {
        self.why().get_or_insert(why);
        self.changed.notify_all();
    }

    fn why(&self) -> MutexGuard<'_, Option<Why>> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is nothing left to unmount.
    pub fn by_kernel(&self) -> bool {
        *self.why() == Some(Why::Kernel)
    }

    /// Whether a panic is the reason.
    pub fn by_panic(&self) -> bool {
        *self.why() == Some(Why::Panic)
    }

    /// Waits until it has to end.
    pub fn wait(&self) {
        let waited = self.changed.wait_while(self.why(), |why| why.is_none());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}
