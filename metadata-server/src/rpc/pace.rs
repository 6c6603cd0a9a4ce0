//! How fast the mounts of one volume may change it (DESIGN D37).

use sitefs_base::{Rates, Result, VolumeId};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// What may come at once before anybody waits: as much as the rate allows in this time.
const BURST: Duration = Duration::from_millis(100);
/// How often it is looked whether the rates of a busy volume were changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Volumes that are remembered; beyond them those that have been idle for a moment are forgotten.
const VOLUMES_MAX: usize = 4096;

/// The rates at which volumes are being changed.
#[derive(Default)]
pub(super) struct Paces(Mutex<HashMap<VolumeId, Pace>>);

struct Pace {
    rates: Rates,
    looked_at: Duration,
    ops: Bucket,
    bytes: Bucket,
}

impl Paces {
    /// Takes room for one operation with so many bytes of content; how long it has to wait before it goes on.
    /// Waits get longer in the order of the calls, so nobody is overtaken. `rates` are asked for once a second.
    pub(super) fn take(
        &self,
        volume: VolumeId,
        bytes: usize,
        now: Duration,
        rates: impl Fn() -> Result<Rates>,
    ) -> Result<Duration> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.len() >= VOLUMES_MAX && !table.contains_key(&volume) {
            table.retain(|_, pace| !pace.is_idle(now));
        }
        let pace = match table.entry(volume) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                let rates = rates()?;
                place.insert(Pace { rates, looked_at: now, ops: Bucket::default(), bytes: Bucket::default() })
            }
        };
        if now.saturating_sub(pace.looked_at) >= LOOK_EVERY {
            (pace.rates, pace.looked_at) = (rates()?, now);
        }
        let Rates { ops_per_second, bytes_per_second } = pace.rates;
        let for_ops = pace.ops.take(1, ops_per_second, now);
        Ok(for_ops.max(pace.bytes.take(bytes as u64, bytes_per_second, now)))
    }
}

impl Pace {
    fn is_idle(&self, now: Duration) -> bool {
        self.ops.full_at.max(self.bytes.full_at) <= now
    }
}

/// A token bucket that may owe: what is taken is paid back at the rate, and who comes later waits for
/// that.
#[derive(Default)]
struct Bucket {
    /// When everything that was taken is paid back.
    full_at: Duration,
}

impl Bucket {
    fn take(&mut self, amount: u64, per_second: u64, now: Duration) -> Duration {
        let owed = self.full_at.max(now);
        let nanos = u128::from(amount) * 1_000_000_000 / u128::from(per_second.max(1));
        self.full_at = owed + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 2));
        (owed - now).saturating_sub(BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{self, Command, CommandBody, MemoryView, apply};
    use sitefs_base::{GroupId, Incarnation, Time};

    const ONE: VolumeId = VolumeId::new(1);
    const TWO: VolumeId = VolumeId::new(2);

    fn take(paces: &Paces, view: &MemoryView, volume: VolumeId, bytes: usize, now: Duration) -> Duration {
        paces.take(volume, bytes, now, || state::rates(view, volume)).unwrap()
    }

    fn at(millis: u64) -> Duration {
        Duration::from_secs(1000) + Duration::from_millis(millis)
    }

    fn set(view: &mut MemoryView, rates: Rates) {
        let body = CommandBody::SetRates { volume: ONE, rates };
        apply(view, &Command { at: Time::new(9, 0), body }).unwrap().reply.unwrap();
    }

    fn cell() -> MemoryView {
        let mut view = MemoryView::new();
        let (group, incarnation) = (GroupId::new(1), Incarnation::new(1));
        let init = CommandBody::Init { cell: "c".to_owned(), group, incarnation };
        let limits = crate::state::VolumeLimits { bytes: 1, inodes: 9 };
        let name = "acme/live".parse().unwrap();
        let create = CommandBody::CreateVolume { name, limits, uid: 0, gid: 0, mode: 0o755 };
        for body in [init, create] {
            apply(&mut view, &Command { at: Time::new(5, 0), body }).unwrap().reply.unwrap();
        }
        view
    }

    #[test]
    fn a_flood_is_held_to_the_rate_and_another_volume_is_not() {
        let (mut view, paces) = (cell(), Paces::default());
        set(&mut view, Rates { ops_per_second: 1000, bytes_per_second: 1 << 20 });
        let waits: Vec<Duration> = (0..1100).map(|_| take(&paces, &view, ONE, 0, at(0))).collect();
        assert!(waits[..100].iter().all(Duration::is_zero), "a burst goes through");
        assert!(waits.is_sorted());
        assert_eq!(waits[1099].as_millis(), 999);
        assert_eq!(take(&paces, &view, TWO, 0, at(0)), Duration::ZERO);
        assert_eq!(take(&paces, &view, ONE, 0, at(1100)), Duration::ZERO, "it is paid back");
    }

    #[test]
    fn bytes_count_by_themselves_and_a_change_is_seen_within_a_second() {
        let (mut view, paces) = (cell(), Paces::default());
        set(&mut view, Rates { ops_per_second: 1000, bytes_per_second: 1 << 20 });
        take(&paces, &view, ONE, 1 << 20, at(0));
        assert_eq!(take(&paces, &view, ONE, 0, at(0)).as_millis(), 900);
        set(&mut view, Rates::default());
        take(&paces, &view, ONE, 64 << 10, at(2000));
        let wait = take(&paces, &view, ONE, 64 << 10, at(2000));
        assert!(wait.is_zero(), "{wait:?}");
    }

    #[test]
    fn idle_volumes_are_forgotten() {
        let (view, paces) = (cell(), Paces::default());
        for volume in 0..10_000 {
            take(&paces, &view, VolumeId::new(volume), 0, at(volume));
        }
        assert!(paces.0.lock().unwrap().len() <= VOLUMES_MAX);
    }
}
