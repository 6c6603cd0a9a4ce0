//! A checksum by which replicas compare their state (DESIGN D13).

use super::{Family, Read, history, keys, reads};
use siphasher::sip::SipHasher13;
use sitefs_base::{Result, Seq, VolumeId};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    hash::Hasher,
};

/// A checksum of the rows of a family that must be equal on every replica. Superseded rows that
/// nobody may ask for any more do not count: each replica's compaction drops them when it likes.
pub fn checksum(read: &dyn Read, family: Family) -> Result<u64> {
    let mut hasher = SipHasher13::new();
    let mut views = Views::default();
    reads::walk(read, family, &[], &[], |key, value| {
        if !is_history(family) || views.keep(read, family, key, value)? {
            for part in [key, value] {
                hasher.write_usize(part.len());
                hasher.write(part);
            }
        }
        Ok(true)
    })?;
    Ok(hasher.finish())
}

fn is_history(family: Family) -> bool {
    use Family::{ChunkHistory, DentryHistory, InodeHistory, SmallHistory};
    matches!(family, DentryHistory | InodeHistory | ChunkHistory | SmallHistory)
}

/// Horizon and pins of the volumes met.
#[derive(Default)]
struct Views(BTreeMap<VolumeId, Option<(Seq, Vec<Seq>)>>);

impl Views {
    fn keep(&mut self, read: &dyn Read, family: Family, key: &[u8], value: &[u8]) -> Result<bool> {
        let life = history::life_of(family, key, value)?;
        let Some(volume) = keys::part(key, 0).map(VolumeId::from_key) else {
            return Ok(true);
        };
        let view = match self.0.entry(volume) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(reads::volume(read, volume)?.map(|row| (row.horizon, row.pins))),
        };
        Ok(view.as_ref().is_some_and(|(horizon, pins)| history::keep(life, *horizon, pins)))
    }
}
