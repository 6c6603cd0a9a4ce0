//! Snapshots for administrators, and what to say of moments that cannot be shown.

use super::Cell;
use crate::state::{self, CommandBody, Reply, VolumeInfo};
use sitefs_base::{Errno, Error, Moment, Result, SnapshotName, Time, VolumeName};
use sitefs_proto::snapshots::SnapshotInfo;

impl Cell {
    /// Makes a snapshot, of a time of the past if that is set.
    pub async fn create_snapshot(
        &self,
        volume: &VolumeName,
        name: &SnapshotName,
        at: Option<Time>,
    ) -> Result<SnapshotInfo> {
        let id = self.find_volume(volume)?.id;
        let body = CommandBody::CreateSnapshot { volume: id, name: name.clone(), at };
        match (self.group.propose(body).await?.reply, at) {
            (Ok(Reply::Snapshot(_)), _) => {}
            (Ok(_), _) => return Err(Error::internal("making a snapshot gave another reply")),
            (Err(Errno::EEXIST), _) => {
                return Err(Error::already_exists(format!("snapshot {name} of {volume} exists already")));
            }
            (Err(errno), Some(at)) => return Err(no_such_moment(errno, volume, &Moment::Time(at))),
            (Err(errno), None) => {
                return Err(no_such_moment(errno, volume, &Moment::Snapshot(name.clone())));
            }
        }
        let made = self.list_snapshots(volume)?.into_iter().find(|made| made.name == *name);
        made.ok_or_else(|| Error::conflict(format!("snapshot {name} of {volume} was deleted meanwhile")))
    }

    /// The snapshots of a volume.
    pub fn list_snapshots(&self, volume: &VolumeName) -> Result<Vec<SnapshotInfo>> {
        let id = self.find_volume(volume)?.id;
        let found = state::snapshots(&self.group.reader(), id)?.into_iter();
        let wire = |found: state::SnapshotInfo| {
            let state::SnapshotInfo { name, seq, at, created_at } = found;
            SnapshotInfo { name, seq, at, created_at }
        };
        Ok(found.map(wire).collect())
    }

    /// Forgets a snapshot.
    pub async fn delete_snapshot(&self, volume: &VolumeName, name: &SnapshotName) -> Result<()> {
        let id = self.find_volume(volume)?.id;
        let body = CommandBody::DeleteSnapshot { volume: id, name: name.clone() };
        match self.group.propose(body).await?.reply {
            Ok(_) => Ok(()),
            Err(errno) => Err(no_such_moment(errno, volume, &Moment::Snapshot(name.clone()))),
        }
    }

    fn find_volume(&self, name: &VolumeName) -> Result<VolumeInfo> {
        let found = state::volume_by_name(&self.group.reader(), name)?;
        found.ok_or_else(|| Error::not_found(format!("there is no volume {name}")))
    }
}

/// Why a moment of a volume cannot be shown or named.
pub(super) fn no_such_moment(errno: Errno, volume: &VolumeName, moment: &Moment) -> Error {
    match (errno, moment) {
        (Errno::ENOENT, Moment::Snapshot(name)) => Error::not_found(format!(
            "there is no snapshot {name} of {volume}; list them with: sitefs volume snapshot list {volume}"
        )),
        (Errno::ENOENT, Moment::Time(time)) => {
            Error::not_found(format!("{volume} did not exist yet at {time}"))
        }
        (Errno::ESTALE, Moment::Time(time)) => Error::not_found(format!(
            "the history of {volume} no longer reaches back to {time}; its snapshots are listed by: sitefs \
             volume snapshot list {volume}"
        )),
        (Errno::EINVAL, Moment::Time(time)) => Error::invalid(format!("{time} is in the future")),
        (Errno::EINVAL, Moment::Snapshot(name)) => Error::invalid(format!(
            "this session shows {volume} as it is: another one can show its snapshot {name}"
        )),
        (Errno::EDQUOT, _) => Error::limit(format!(
            "{volume} has as many snapshots and mounts of its past as it can: delete snapshots or unmount some"
        )),
        (errno, moment) => Error::refused(errno, format!("finding {volume}@{moment}: {errno}")),
    }
}
