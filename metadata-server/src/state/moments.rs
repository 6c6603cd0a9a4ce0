//! Which seq a moment of the past means, and which seqs history holds exactly (DESIGN D2).
//!
//! The rows `T` say the seq at the end of each second in which it moved. Both their seconds and their
//! seqs ascend, so they are searched by halving the time since the volume was made.

use super::{
    Family, Read, keys, reads,
    rows::{self, PinRow, SecondRow, SnapshotRow, VolumeRow},
    stop::{Step, Stop, refuse, require},
};
use sitefs_base::{Errno, Moment, Result, Seq, SnapshotName, Time, VolumeId};

/// A seq of a volume's past, with what no row of the tree tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Point {
    pub seq: Seq,
    pub bytes_used: u64,
    pub inodes_used: u64,
}

impl Point {
    /// The volume as it is.
    pub(super) fn now(row: &VolumeRow) -> Self {
        Self { seq: row.seq, bytes_used: row.bytes_used, inodes_used: row.inodes_used }
    }

    fn second(row: &SecondRow) -> Self {
        Self { seq: row.seq, bytes_used: row.bytes_used, inodes_used: row.inodes_used }
    }
}

/// The seq of a moment. Refused: `ENOENT` if there is no such snapshot, or the volume was not there
/// yet; `ESTALE` if history no longer reaches back so far, or the volume is gone; `EINVAL` if the
/// time is after `now`.
pub fn seq_at(
    read: &dyn Read,
    volume: VolumeId,
    moment: &Moment,
    now: Time,
) -> Result<std::result::Result<Seq, Errno>> {
    let found = match reads::volume(read, volume)? {
        Some(row) => point_at(read, volume, &row, moment, now),
        None => refuse(Errno::ESTALE),
    };
    match found {
        Ok(point) => Ok(Ok(point.seq)),
        Err(Stop::Refused(errno)) => Ok(Err(errno)),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// As [`seq_at`], for a volume whose row was read.
pub(super) fn point_at(
    read: &dyn Read,
    id: VolumeId,
    row: &VolumeRow,
    moment: &Moment,
    now: Time,
) -> Step<Point> {
    match moment {
        Moment::Snapshot(name) => exactly(read, id, row, snapshot(read, id, name)?.seq),
        Moment::Time(time) => {
            require(*time <= now, Errno::EINVAL)?;
            require(time.secs() > row.created_at.secs(), Errno::ENOENT)?;
            let point = before(read, id, row, time.secs())?;
            require(point.seq >= row.horizon, Errno::ESTALE)?;
            Ok(point)
        }
    }
}

pub(super) fn snapshot(read: &dyn Read, id: VolumeId, name: &SnapshotName) -> Step<SnapshotRow> {
    let row = rows::fetch(read, Family::Meta, &keys::snapshot(id, name))?;
    Ok(row.ok_or(Errno::ENOENT)?)
}

/// The end of the last second before the second `secs`: when `secs` began. `ESTALE` if that is
/// forgotten.
fn before(read: &dyn Read, id: VolumeId, row: &VolumeRow, secs: i64) -> Step<Point> {
    if row.second < secs {
        return Ok(Point::now(row));
    }
    let last = last_second(read, id, row, |second, _| second < secs)?;
    Ok(last.map(|(_, row)| Point::second(&row)).ok_or(Errno::ESTALE)?)
}

/// The point of `seq`, if history holds it exactly: else `ESTALE`, and `EINVAL` above the volume's.
pub(super) fn exactly(read: &dyn Read, id: VolumeId, row: &VolumeRow, seq: Seq) -> Step<Point> {
    require(seq <= row.seq, Errno::EINVAL)?;
    if seq == row.seq {
        return Ok(Point::now(row));
    }
    if row.pins.binary_search(&seq).is_ok() {
        return pinned(read, id, seq);
    }
    require(seq >= row.horizon, Errno::ESTALE)?;
    match last_second(read, id, row, |_, second| second.seq <= seq)? {
        Some((_, second)) if second.seq == seq => Ok(Point::second(&second)),
        _ => refuse(Errno::ESTALE),
    }
}

fn pinned(read: &dyn Read, id: VolumeId, seq: Seq) -> Step<Point> {
    let prefix = keys::holders(id, seq);
    let holder = read.scan(Family::Meta, &prefix, &prefix, 1)?.pop();
    let (key, value) =
        holder.ok_or_else(|| rows::damaged(Family::Meta, &prefix, "is missing, though its seq is pinned"))?;
    let PinRow { bytes_used, inodes_used } = rows::decode(Family::Meta, &key, &value)?;
    Ok(Point { seq, bytes_used, inodes_used })
}

/// The last row `T` for which `holds`, which must hold for none behind one for which it does not.
pub(super) fn last_second(
    read: &dyn Read,
    id: VolumeId,
    row: &VolumeRow,
    holds: impl Fn(i64, &SecondRow) -> bool,
) -> Result<Option<(i64, SecondRow)>> {
    let (mut low, mut high) = (row.created_at.secs(), row.second);
    let mut found = None;
    while low < high {
        let middle = low.midpoint(high);
        match second_from(read, id, middle)? {
            Some((secs, second)) if holds(secs, &second) => {
                low = secs + 1;
                found = Some((secs, second));
            }
            _ => high = middle,
        }
    }
    Ok(found)
}

/// The first row `T` of the second `secs` or a later one.
pub(super) fn second_from(read: &dyn Read, id: VolumeId, secs: i64) -> Result<Option<(i64, SecondRow)>> {
    let Some((key, value)) = read.scan(Family::Small, &keys::seconds(id), &keys::second(id, secs), 1)?.pop()
    else {
        return Ok(None);
    };
    let secs =
        keys::secs_of(&key).ok_or_else(|| rows::damaged(Family::Small, &key, "is no key of a second"))?;
    Ok(Some((secs, rows::decode(Family::Small, &key, &value)?)))
}
