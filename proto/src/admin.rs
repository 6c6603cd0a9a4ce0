//! Administration requests and replies in domain types.

use crate::{
    convert::{TEXT_MAX, group, mode, need, text},
    pb,
};
use sitefs_base::{
    BackupPlan, Error, GroupId, Incarnation, NodeId, Result, Seq, SiteId, Time, VolumeId, VolumeName,
    op::Usage,
};

/// Makes a volume, and its site if that is new.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreateVolume {
    /// Its name.
    pub name: VolumeName,
    /// The owner of its root directory.
    pub uid: u32,
    /// The group of its root directory.
    pub gid: u32,
    /// The permission bits of its root directory.
    pub mode: u16,
    /// How many bytes it may hold; the cell's default if not set.
    pub bytes_limit: Option<u64>,
    /// How many inodes it may hold; the cell's default if not set.
    pub inodes_limit: Option<u64>,
    /// Counts only where the server runs in insecure mode.
    pub claimed_identity: String,
}

impl From<CreateVolume> for pb::CreateVolumeRequest {
    fn from(create: CreateVolume) -> Self {
        Self {
            name: create.name.to_string(),
            uid: create.uid,
            gid: create.gid,
            mode: create.mode.into(),
            bytes_limit: create.bytes_limit,
            inodes_limit: create.inodes_limit,
            claimed_identity: create.claimed_identity,
        }
    }
}

impl TryFrom<pb::CreateVolumeRequest> for CreateVolume {
    type Error = Error;
    fn try_from(request: pb::CreateVolumeRequest) -> Result<Self> {
        Ok(Self {
            name: text(request.name, TEXT_MAX, "a volume name")?.parse()?,
            uid: request.uid,
            gid: request.gid,
            mode: mode(request.mode)?,
            bytes_limit: request.bytes_limit,
            inodes_limit: request.inodes_limit,
            claimed_identity: text(request.claimed_identity, TEXT_MAX, "an identity")?,
        })
    }
}

/// A volume as a listing shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeInfo {
    /// Its name.
    pub name: VolumeName,
    /// Its id.
    pub id: VolumeId,
    /// Its site.
    pub site: SiteId,
    /// Its last mutation.
    pub seq: Seq,
    /// Its space and inodes.
    pub usage: Usage,
}

impl From<VolumeInfo> for pb::VolumeInfo {
    fn from(info: VolumeInfo) -> Self {
        Self {
            name: info.name.to_string(),
            id: info.id.get(),
            site: info.site.get(),
            seq: info.seq.get(),
            usage: Some(info.usage.into()),
        }
    }
}

impl TryFrom<pb::VolumeInfo> for VolumeInfo {
    type Error = Error;
    fn try_from(info: pb::VolumeInfo) -> Result<Self> {
        Ok(Self {
            name: text(info.name, TEXT_MAX, "a volume name")?.parse()?,
            id: VolumeId::new(info.id),
            site: SiteId::new(info.site),
            seq: Seq::new(info.seq),
            usage: need(info.usage, "usage")?.into(),
        })
    }
}

/// The state of a node and its group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CellStatus {
    /// The cell's name.
    pub cell: String,
    /// The group.
    pub group: GroupId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// The node that answers.
    pub node: NodeId,
    /// Its Raft term.
    pub term: u64,
    /// The last entry of its log.
    pub last_log: u64,
    /// The last entry applied.
    pub applied: u64,
    /// The last entry whose effect is on disk in the state database.
    pub flushed: u64,
    /// The version of its program.
    pub version: String,
    /// How many volumes there are.
    pub volumes: u64,
    /// How many mounts are attached.
    pub sessions: u64,
    /// Why no mount may write, if so.
    pub read_only: Option<String>,
    /// When backups are made by themselves.
    pub backup_plan: BackupPlan,
    /// When the newest backup was begun.
    pub newest_backup: Option<Time>,
    /// The version that the cell was raised to.
    pub cluster_version: u32,
    /// The lowest and the highest version that the program of the node knows.
    pub versions: (u32, u32),
}

impl From<CellStatus> for pb::StatusReply {
    fn from(status: CellStatus) -> Self {
        Self {
            cell: status.cell,
            group: status.group.get(),
            incarnation: status.incarnation.get(),
            node: status.node.get(),
            term: status.term,
            last_log: status.last_log,
            applied: status.applied,
            flushed: status.flushed,
            version: status.version,
            volumes: status.volumes,
            sessions: status.sessions,
            read_only: status.read_only,
            backup_plan: Some(status.backup_plan.into()),
            newest_backup: status.newest_backup.map(Into::into),
            cluster_version: status.cluster_version,
            version_min: status.versions.0,
            version_max: status.versions.1,
        }
    }
}

impl TryFrom<pb::StatusReply> for CellStatus {
    type Error = Error;
    fn try_from(reply: pb::StatusReply) -> Result<Self> {
        Ok(Self {
            cell: text(reply.cell, TEXT_MAX, "a cell name")?,
            group: group(reply.group)?,
            incarnation: Incarnation::new(reply.incarnation),
            node: NodeId::new(reply.node),
            term: reply.term,
            last_log: reply.last_log,
            applied: reply.applied,
            flushed: reply.flushed,
            version: text(reply.version, TEXT_MAX, "a version")?,
            volumes: reply.volumes,
            sessions: reply.sessions,
            read_only: reply.read_only.map(|reason| text(reason, TEXT_MAX, "a reason")).transpose()?,
            backup_plan: reply.backup_plan.map(TryInto::try_into).transpose()?.unwrap_or_default(),
            newest_backup: reply.newest_backup.map(TryInto::try_into).transpose()?,
            cluster_version: reply.cluster_version,
            versions: (reply.version_min, reply.version_max),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_the_wire_and_bad_ones_are_refused() {
        let create = CreateVolume {
            name: "acme/live".parse().unwrap(),
            uid: 1000,
            gid: 1000,
            mode: 0o755,
            bytes_limit: Some(1 << 30),
            inodes_limit: None,
            claimed_identity: "sitefs://main?role=operator".to_owned(),
        };
        let wire = pb::CreateVolumeRequest::from(create.clone());
        assert_eq!(CreateVolume::try_from(wire.clone()).unwrap(), create);
        assert!(CreateVolume::try_from(pb::CreateVolumeRequest { mode: 0o10000, ..wire.clone() }).is_err());
        assert!(CreateVolume::try_from(pb::CreateVolumeRequest { name: "acme".into(), ..wire }).is_err());
    }

    #[test]
    fn listings_and_status_survive_the_wire() {
        let info = VolumeInfo {
            name: "acme/live".parse().unwrap(),
            id: VolumeId::new(2),
            site: SiteId::new(1),
            seq: Seq::new(9),
            usage: Usage { bytes_used: 1, bytes_limit: 2, inodes_used: 3, inodes_limit: 4 },
        };
        assert_eq!(VolumeInfo::try_from(pb::VolumeInfo::from(info.clone())).unwrap(), info);
        let status = CellStatus {
            cell: "main".to_owned(),
            group: GroupId::new(1),
            incarnation: Incarnation::new(1),
            node: NodeId::new(1),
            term: 2,
            last_log: 10,
            applied: 10,
            flushed: 8,
            version: "0.1.0".to_owned(),
            volumes: 1,
            sessions: 3,
            read_only: Some("moving".to_owned()),
            backup_plan: BackupPlan::default(),
            newest_backup: Some(Time::new(5, 6)),
            cluster_version: 2,
            versions: (1, 2),
        };
        assert_eq!(CellStatus::try_from(pb::StatusReply::from(status.clone())).unwrap(), status);
    }
}
