//! Pins: seqs of a volume's past that history keeps below the horizon too, as long as anybody holds
//! them. The volume's row has the distinct seqs; who holds one is a row of its own.

use super::{
    Family, Read, keys,
    moments::Point,
    rows::{PinRow, VolumeRow},
    scope::Scope,
    stop::{Step, require},
};
use sitefs_base::{Errno, Result, Seq, SessionId, SnapshotName, VolumeId, limits::PINS_MAX};

/// Who holds a pin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Holder<'a> {
    Snapshot(&'a SnapshotName),
    Session(SessionId),
}

impl Holder<'_> {
    fn key(self, volume: VolumeId, pin: Seq) -> Vec<u8> {
        match self {
            Self::Snapshot(name) => keys::holder(volume, pin, b'W', name.as_str().as_bytes()),
            Self::Session(session) => keys::holder(volume, pin, b'S', &session.to_key()),
        }
    }
}

/// Pins a point that history holds exactly; the caller stores `row`. `EDQUOT` if there are too many
/// pins.
pub(super) fn hold(
    scope: &mut Scope,
    id: VolumeId,
    row: &mut VolumeRow,
    point: Point,
    holder: Holder,
) -> Step<()> {
    let Point { seq, bytes_used, inodes_used } = point;
    if let Err(place) = row.pins.binary_search(&seq) {
        require(row.pins.len() < PINS_MAX, Errno::EDQUOT)?;
        row.pins.insert(place, seq);
    }
    Ok(scope.put(Family::Meta, &holder.key(id, seq), &PinRow { bytes_used, inodes_used })?)
}

/// Gives up a pin, which goes with its last holder; the caller stores `row`.
pub(super) fn release(
    scope: &mut Scope,
    id: VolumeId,
    row: &mut VolumeRow,
    pin: Seq,
    holder: Holder,
) -> Result<()> {
    scope.rows.delete(Family::Meta, &holder.key(id, pin));
    let prefix = keys::holders(id, pin);
    if scope.rows.scan(Family::Meta, &prefix, &prefix, 1)?.is_empty() {
        row.pins.retain(|seq| *seq != pin);
    }
    Ok(())
}
