//! Names reserved for exclusive creates: leader memory, owned by sessions (DESIGN D14).

use sitefs_base::{Errno, SessionId, VolumeId, op::Place};
use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// A session whose stream is gone for so long loses its reservations.
const ABSENCE: Duration = Duration::from_secs(10);
/// Names that one session may hold.
const HELD_MAX: usize = 1024;

/// The table of reserved names. Times are the cell's CLOCK_BOOTTIME.
#[derive(Debug, Default)]
pub(crate) struct Reservations(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    owners: HashMap<(VolumeId, Place), SessionId>,
    sessions: HashMap<SessionId, Held>,
}

#[derive(Debug, Default)]
struct Held {
    names: HashSet<(VolumeId, Place)>,
    left: Option<Duration>,
}

impl Reservations {
    /// Reserves a name, or says `EEXIST` because another session has it.
    pub fn reserve(
        &self,
        volume: VolumeId,
        at: &Place,
        session: SessionId,
        now: Duration,
    ) -> Result<(), Errno> {
        let mut table = self.lock();
        table.forget_absent(now);
        let key = (volume, at.clone());
        if let Some(owner) = table.owners.get(&key) {
            return if *owner == session { Ok(()) } else { Err(Errno::EEXIST) };
        }
        let held = table.sessions.entry(session).or_default();
        if held.names.len() >= HELD_MAX {
            return Err(Errno::EAGAIN);
        }
        held.names.insert(key.clone());
        table.owners.insert(key, session);
        Ok(())
    }

    /// Whether a session other than `session` has reserved the name.
    pub fn is_held_by_another(
        &self,
        volume: VolumeId,
        at: &Place,
        session: SessionId,
        now: Duration,
    ) -> bool {
        let mut table = self.lock();
        if table.owners.is_empty() {
            return false;
        }
        table.forget_absent(now);
        table.owners.get(&(volume, at.clone())).is_some_and(|owner| *owner != session)
    }

    /// The name is published, or its owner gave up.
    pub fn release(&self, volume: VolumeId, at: &Place, session: SessionId) {
        let mut table = self.lock();
        let key = (volume, at.clone());
        if table.owners.get(&key) == Some(&session) {
            table.owners.remove(&key);
            if let Some(held) = table.sessions.get_mut(&session) {
                held.names.remove(&key);
            }
        }
    }

    /// The session's stream is gone; it may come back.
    pub fn left(&self, session: SessionId, now: Duration) {
        if let Some(held) = self.lock().sessions.get_mut(&session) {
            held.left = Some(now);
        }
    }

    /// The session has a stream again.
    pub fn returned(&self, session: SessionId, now: Duration) {
        let mut table = self.lock();
        table.forget_absent(now);
        if let Some(held) = table.sessions.get_mut(&session) {
            held.left = None;
        }
    }

    /// The session has ended.
    pub fn ended(&self, session: SessionId) {
        self.lock().forget(session);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn forget_absent(&mut self, now: Duration) {
        let absent = |held: &Held| held.left.is_some_and(|left| now.saturating_sub(left) >= ABSENCE);
        let gone: Vec<_> = self.sessions.iter().filter(|(_, held)| absent(held)).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|session| self.forget(session));
    }

    fn forget(&mut self, session: SessionId) {
        for key in self.sessions.remove(&session).unwrap_or_default().names {
            self.owners.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitefs_base::{InodeId, Name};

    const VOLUME: VolumeId = VolumeId::new(1);
    const A: SessionId = SessionId::new(1);
    const B: SessionId = SessionId::new(2);

    fn lock_file() -> Place {
        Place { parent: InodeId::ROOT, name: Name::new(&b"lock"[..]).unwrap() }
    }

    #[test]
    fn a_name_has_one_owner_until_it_is_released() {
        let table = Reservations::default();
        let reserve = |session| table.reserve(VOLUME, &lock_file(), session, Duration::ZERO);
        assert_eq!(reserve(A), Ok(()));
        assert_eq!(reserve(A), Ok(()));
        assert_eq!(reserve(B), Err(Errno::EEXIST));
        table.release(VOLUME, &lock_file(), B);
        assert_eq!(reserve(B), Err(Errno::EEXIST), "only the owner can release");
        table.release(VOLUME, &lock_file(), A);
        assert_eq!(reserve(B), Ok(()));
        let held = |session| table.is_held_by_another(VOLUME, &lock_file(), session, Duration::ZERO);
        assert!(held(A) && !held(B));
        table.ended(B);
        assert!(!held(A));
        assert_eq!(reserve(A), Ok(()));
    }

    #[test]
    fn an_owner_that_stays_away_for_ten_seconds_loses_its_names() {
        let table = Reservations::default();
        let reserve = |session, secs| table.reserve(VOLUME, &lock_file(), session, Duration::from_secs(secs));
        assert_eq!(reserve(A, 0), Ok(()));
        table.left(A, Duration::from_secs(1));
        assert_eq!(reserve(B, 10), Err(Errno::EEXIST));
        table.returned(A, Duration::from_secs(10));
        assert_eq!(reserve(B, 30), Err(Errno::EEXIST), "it came back in time");
        table.left(A, Duration::from_secs(30));
        assert_eq!(reserve(B, 40), Ok(()));
    }
}
