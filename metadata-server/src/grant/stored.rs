//! What this process has hashed and stored itself, so that a commit needs no HEAD.

use sitefs_blobstore::ObjectKey;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Uploads remembered; the oldest are forgotten and looked up in the store instead.
const REMEMBERED: usize = 16 * 1024;

/// Keys and lengths of recent uploads through this process.
#[derive(Default)]
pub(super) struct Stored(Mutex<Recent>);

#[derive(Default)]
struct Recent {
    lens: HashMap<ObjectKey, u64>,
    order: VecDeque<ObjectKey>,
}

impl Stored {
    pub fn add(&self, key: ObjectKey, len: u64) {
        let mut recent = self.lock();
        if recent.lens.insert(key, len).is_none() {
            recent.order.push_back(key);
        }
        while recent.order.len() > REMEMBERED {
            if let Some(oldest) = recent.order.pop_front() {
                recent.lens.remove(&oldest);
            }
        }
    }

    pub fn len_of(&self, key: &ObjectKey) -> Option<u64> {
        self.lock().lens.get(key).copied()
    }

    /// Forgets a key. Whether it was known. Its place in the order runs out by itself.
    pub fn take(&self, key: &ObjectKey) -> bool {
        self.lock().lens.remove(key).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
