//! What each volume still needs of its history, for a whole group at one point.

use super::{
    Family, Read, history, keys, reads,
    rows::{self, CountersRow, VolumeRow},
};
use sitefs_base::{Result, Seq, VolumeId};
use std::collections::BTreeMap;

/// Mutations by which a horizon must have moved on until [`Retention::released_since`] names its volume.
const MOVED_FAR: u64 = 100_000;

/// Horizon and pins of every volume at one point. The empty one lets go of nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Retention {
    volumes: BTreeMap<VolumeId, Needs>,
    /// No volume with a higher number was made yet.
    newest: VolumeId,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Needs {
    horizon: Seq,
    pins: Vec<Seq>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { volumes: BTreeMap::new(), newest: VolumeId::new(0) }
    }
}

/// What is needed according to the rows of `read`.
pub fn retention(read: &dyn Read) -> Result<Retention> {
    let counters: CountersRow = rows::fetch(read, Family::Meta, keys::COUNTERS)?.unwrap_or_default();
    let mut volumes = BTreeMap::new();
    reads::walk(read, Family::Meta, keys::VOLUMES, keys::VOLUMES, |key, value| {
        let id = keys::part(key, keys::VOLUMES.len())
            .ok_or_else(|| rows::damaged(Family::Meta, key, "is no key of a volume"))?;
        let row: VolumeRow = rows::decode(Family::Meta, key, value)?;
        volumes.insert(VolumeId::from_key(id), Needs { horizon: row.horizon, pins: row.pins });
        Ok(true)
    })?;
    Ok(Retention { volumes, newest: VolumeId::new(counters.volumes) })
}

impl Retention {
    /// Whether a row of a history family is needed: [`history::keep`] says so, or its volume is newer
    /// than this point. Nothing of a volume that is gone is needed. A damaged row is an error.
    pub fn keeps(&self, family: Family, key: &[u8], value: &[u8]) -> Result<bool> {
        let life = history::life_of(family, key, value)?;
        let volume = keys::part(key, 0).map(VolumeId::from_key);
        let volume = volume.ok_or_else(|| rows::damaged(family, key, "names no volume"))?;
        Ok(match self.volumes.get(&volume) {
            Some(needs) => history::keep(life, needs.horizon, &needs.pins),
            None => volume > self.newest,
        })
    }

    /// The volumes of which much less is needed than at the `older` point: they are gone, a pin is
    /// gone, or the horizon moved by 100,000 mutations.
    pub fn released_since(&self, older: &Self) -> Vec<VolumeId> {
        let released = |(id, old): &(&VolumeId, &Needs)| match self.volumes.get(id) {
            None => true,
            Some(new) => {
                new.horizon.get().saturating_sub(old.horizon.get()) >= MOVED_FAR
                    || old.pins.iter().any(|pin| new.pins.binary_search(pin).is_err())
            }
        };
        older.volumes.iter().filter(released).map(|(id, _)| *id).collect()
    }
}
