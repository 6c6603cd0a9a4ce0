//! How fast the mounts of a volume may change it (DESIGN D37).

use super::{
    Family, Read, keys, reads, rows,
    scope::Scope,
    stop::{Step, require},
};
use sitefs_base::{Errno, Rates, Result, VolumeId};

pub(super) fn set(scope: &mut Scope, volume: VolumeId, rates: &Rates) -> Step<()> {
    require(rates.check().is_ok(), Errno::EINVAL)?;
    reads::live(&scope.rows, volume)?.ok_or(Errno::ENOENT)?;
    Ok(scope.put(Family::Meta, &keys::rates(volume), rates)?)
}

/// The rates of a volume; the defaults unless they were set.
pub fn rates(read: &dyn Read, volume: VolumeId) -> Result<Rates> {
    Ok(rows::fetch(read, Family::Meta, &keys::rates(volume))?.unwrap_or_default())
}
