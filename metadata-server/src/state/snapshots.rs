//! Snapshots: names for moments of a volume's past. Making one costs a few rows, whatever the tree
//! holds.

use super::{
    Family, Read, keys,
    moments::{self, Point},
    pins::{self, Holder},
    reads,
    rows::{self, SnapshotRow, VolumeRow},
    scope::Scope,
    stop::{Step, require},
};
use sitefs_base::{Errno, Moment, Result, Seq, SnapshotName, Time, VolumeId, limits::PINS_MAX};

/// Names a moment; now without `at`. `EEXIST` if the name is taken, `EDQUOT` if there are too many.
pub(super) fn create(scope: &mut Scope, id: VolumeId, name: &SnapshotName, at: Option<Time>) -> Step<Seq> {
    let mut row = reads::volume(&scope.rows, id)?.ok_or(Errno::ENOENT)?;
    let key = keys::snapshot(id, name);
    require(scope.rows.get(Family::Meta, &key)?.is_none(), Errno::EEXIST)?;
    let prefix = keys::snapshots(id);
    let count = scope.rows.scan(Family::Meta, &prefix, &prefix, PINS_MAX)?.len();
    require(count < PINS_MAX, Errno::EDQUOT)?;
    let point = match at {
        None => Point::now(&row),
        Some(time) => moments::point_at(&scope.rows, id, &row, &Moment::Time(time), scope.at)?,
    };
    pins::hold(scope, id, &mut row, point, Holder::Snapshot(name))?;
    let at = at.map_or(scope.at, |time| Time::new(time.secs(), 0));
    let created_at = scope.at;
    scope.put(Family::Meta, &key, &SnapshotRow { seq: point.seq, at, created_at })?;
    store(scope, id, &row)?;
    Ok(point.seq)
}

/// Forgets a snapshot; `ENOENT` if there is none of that name.
pub(super) fn delete(scope: &mut Scope, id: VolumeId, name: &SnapshotName) -> Step<()> {
    let mut row = reads::volume(&scope.rows, id)?.ok_or(Errno::ENOENT)?;
    let snapshot = moments::snapshot(&scope.rows, id, name)?;
    scope.rows.delete(Family::Meta, &keys::snapshot(id, name));
    pins::release(scope, id, &mut row, snapshot.seq, Holder::Snapshot(name))?;
    Ok(store(scope, id, &row)?)
}

fn store(scope: &mut Scope, id: VolumeId, row: &VolumeRow) -> Result<()> {
    scope.put(Family::Meta, &keys::volume(id), row)
}

/// A snapshot as administrators see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotInfo {
    /// Its name.
    pub name: SnapshotName,
    /// The seq that it pins.
    pub seq: Seq,
    /// The moment that it shows.
    pub at: Time,
    /// When it was made.
    pub created_at: Time,
}

/// The snapshots of a volume, by name.
pub fn snapshots(read: &dyn Read, volume: VolumeId) -> Result<Vec<SnapshotInfo>> {
    let prefix = keys::snapshots(volume);
    let mut found = Vec::new();
    for (key, value) in reads::all(read, Family::Meta, &prefix)? {
        let SnapshotRow { seq, at, created_at } = rows::decode(Family::Meta, &key, &value)?;
        let name = std::str::from_utf8(&key[prefix.len()..]).ok().and_then(|name| name.parse().ok());
        let name = name.ok_or_else(|| rows::damaged(Family::Meta, &key, "is no key of a snapshot"))?;
        found.push(SnapshotInfo { name, seq, at, created_at });
    }
    Ok(found)
}
