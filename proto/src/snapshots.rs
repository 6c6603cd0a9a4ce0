//! Administration of snapshots in domain types.

use crate::{
    convert::{TEXT_MAX, need, text},
    pb,
};
use sitefs_base::{Error, Result, Seq, SnapshotName, Time, VolumeName};

/// Names a moment of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreateSnapshot {
    /// The volume.
    pub volume: VolumeName,
    /// The snapshot's name.
    pub name: SnapshotName,
    /// A time of the past; now if not set.
    pub at: Option<Time>,
    /// Counts only where the server runs in insecure mode.
    pub claimed_identity: String,
}

impl From<CreateSnapshot> for pb::CreateSnapshotRequest {
    fn from(create: CreateSnapshot) -> Self {
        Self {
            volume: create.volume.to_string(),
            name: create.name.to_string(),
            at: create.at.map(pb::Time::from),
            claimed_identity: create.claimed_identity,
        }
    }
}

impl TryFrom<pb::CreateSnapshotRequest> for CreateSnapshot {
    type Error = Error;
    fn try_from(request: pb::CreateSnapshotRequest) -> Result<Self> {
        Ok(Self {
            volume: text(request.volume, TEXT_MAX, "a volume name")?.parse()?,
            name: text(request.name, TEXT_MAX, "a snapshot name")?.parse()?,
            at: request.at.map(Time::try_from).transpose()?,
            claimed_identity: text(request.claimed_identity, TEXT_MAX, "an identity")?,
        })
    }
}

/// Forgets a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeleteSnapshot {
    /// The volume.
    pub volume: VolumeName,
    /// The snapshot's name.
    pub name: SnapshotName,
    /// Counts only where the server runs in insecure mode.
    pub claimed_identity: String,
}

impl From<DeleteSnapshot> for pb::DeleteSnapshotRequest {
    fn from(delete: DeleteSnapshot) -> Self {
        Self {
            volume: delete.volume.to_string(),
            name: delete.name.to_string(),
            claimed_identity: delete.claimed_identity,
        }
    }
}

impl TryFrom<pb::DeleteSnapshotRequest> for DeleteSnapshot {
    type Error = Error;
    fn try_from(request: pb::DeleteSnapshotRequest) -> Result<Self> {
        Ok(Self {
            volume: text(request.volume, TEXT_MAX, "a volume name")?.parse()?,
            name: text(request.name, TEXT_MAX, "a snapshot name")?.parse()?,
            claimed_identity: text(request.claimed_identity, TEXT_MAX, "an identity")?,
        })
    }
}

/// A snapshot as a listing shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotInfo {
    /// Its name.
    pub name: SnapshotName,
    /// The seq that it keeps.
    pub seq: Seq,
    /// The moment that it shows.
    pub at: Time,
    /// When it was made.
    pub created_at: Time,
}

impl From<SnapshotInfo> for pb::SnapshotInfo {
    fn from(info: SnapshotInfo) -> Self {
        Self {
            name: info.name.to_string(),
            seq: info.seq.get(),
            at: Some(info.at.into()),
            created_at: Some(info.created_at.into()),
        }
    }
}

impl TryFrom<pb::SnapshotInfo> for SnapshotInfo {
    type Error = Error;
    fn try_from(info: pb::SnapshotInfo) -> Result<Self> {
        Ok(Self {
            name: text(info.name, TEXT_MAX, "a snapshot name")?.parse()?,
            seq: Seq::new(info.seq),
            at: need(info.at, "moment")?.try_into()?,
            created_at: need(info.created_at, "time of making")?.try_into()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_listings_survive_the_wire_and_bad_names_are_refused() {
        let create = CreateSnapshot {
            volume: "acme/live".parse().unwrap(),
            name: "before-upgrade".parse().unwrap(),
            at: Some(Time::new(-5, 7)),
            claimed_identity: "sitefs://main?role=operator".to_owned(),
        };
        let wire = pb::CreateSnapshotRequest::from(create.clone());
        assert_eq!(CreateSnapshot::try_from(wire.clone()).unwrap(), create);
        assert!(CreateSnapshot::try_from(pb::CreateSnapshotRequest { name: "a/b".into(), ..wire }).is_err());
        let CreateSnapshot { volume, name, claimed_identity, .. } = create;
        let delete = DeleteSnapshot { volume, name: name.clone(), claimed_identity };
        let wire = pb::DeleteSnapshotRequest::from(delete.clone());
        assert_eq!(DeleteSnapshot::try_from(wire).unwrap(), delete);
        let info = SnapshotInfo { name, seq: Seq::new(9), at: Time::new(1, 2), created_at: Time::new(3, 4) };
        assert_eq!(SnapshotInfo::try_from(pb::SnapshotInfo::from(info.clone())).unwrap(), info);
    }
}
