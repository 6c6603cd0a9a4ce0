//! Administration of a cell as a whole, in domain types.

use crate::{
    convert::{TEXT_MAX, need, text},
    pb,
};
use sitefs_base::{
    BACKUP_PATH_MAX, BackupInfo, BackupPlan, CellChange, Error, Incarnation, READ_ONLY_REASON_MAX, Result,
    VolumeAccess,
};
use std::path::PathBuf;

/// Changes settings of the cell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetCell {
    /// What changes.
    pub change: CellChange,
    /// Counts only where the server runs in insecure mode.
    pub claimed_identity: String,
}

impl From<SetCell> for pb::SetCellRequest {
    fn from(set: SetCell) -> Self {
        use pb::set_cell_request::Access;
        let CellChange { access, backup_to, backup_every_secs, backup_keep_secs } = set.change;
        Self {
            access: access.map(|access| match access {
                VolumeAccess::ReadWrite => Access::ReadWrite(pb::Empty {}),
                VolumeAccess::ReadOnly(reason) => Access::ReadOnly(reason),
            }),
            backup_to: backup_to.map(|to| to.to_string()),
            backup_every_secs,
            backup_keep_secs,
            claimed_identity: set.claimed_identity,
        }
    }
}

impl TryFrom<pb::SetCellRequest> for SetCell {
    type Error = Error;
    fn try_from(request: pb::SetCellRequest) -> Result<Self> {
        use pb::set_cell_request::Access;
        let access = match request.access {
            None => None,
            Some(Access::ReadWrite(pb::Empty {})) => Some(VolumeAccess::ReadWrite),
            Some(Access::ReadOnly(reason)) => {
                Some(VolumeAccess::ReadOnly(text(reason, READ_ONLY_REASON_MAX, "a reason")?))
            }
        };
        let change = CellChange {
            access,
            backup_to: request.backup_to.as_deref().map(str::parse).transpose()?,
            backup_every_secs: request.backup_every_secs,
            backup_keep_secs: request.backup_keep_secs,
        };
        Ok(Self { change, claimed_identity: text(request.claimed_identity, TEXT_MAX, "an identity")? })
    }
}

/// Makes a backup, or lists those that there are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackUp {
    /// A directory of the node that leads; where the cell makes them by itself if not set.
    pub to: Option<PathBuf>,
    /// Counts only where the server runs in insecure mode.
    pub claimed_identity: String,
}

fn directory(to: Option<String>) -> Result<Option<PathBuf>> {
    to.map(|to| Ok(text(to, BACKUP_PATH_MAX, "a directory")?.into())).transpose()
}

impl TryFrom<pb::BackUpRequest> for BackUp {
    type Error = Error;
    fn try_from(request: pb::BackUpRequest) -> Result<Self> {
        let claimed_identity = text(request.claimed_identity, TEXT_MAX, "an identity")?;
        Ok(Self { to: directory(request.to)?, claimed_identity })
    }
}

impl TryFrom<pb::ListBackupsRequest> for BackUp {
    type Error = Error;
    fn try_from(request: pb::ListBackupsRequest) -> Result<Self> {
        let claimed_identity = text(request.claimed_identity, TEXT_MAX, "an identity")?;
        Ok(Self { to: directory(request.to)?, claimed_identity })
    }
}

impl From<BackupInfo> for pb::BackupInfo {
    fn from(info: BackupInfo) -> Self {
        Self {
            id: info.id,
            cell: info.cell,
            incarnation: info.incarnation.get(),
            index: info.index,
            at: Some(info.at.into()),
            bytes: info.bytes,
            place: info.place,
        }
    }
}

impl TryFrom<pb::BackupInfo> for BackupInfo {
    type Error = Error;
    fn try_from(info: pb::BackupInfo) -> Result<Self> {
        Ok(Self {
            id: text(info.id, TEXT_MAX, "the id of a backup")?,
            cell: text(info.cell, TEXT_MAX, "a cell name")?,
            incarnation: Incarnation::new(info.incarnation),
            index: info.index,
            at: need(info.at, "a time")?.try_into()?,
            bytes: info.bytes,
            place: text(info.place, TEXT_MAX, "a place")?,
        })
    }
}

impl From<BackupPlan> for pb::BackupPlan {
    fn from(plan: BackupPlan) -> Self {
        Self { to: plan.to.to_string(), every_secs: plan.every_secs, keep_secs: plan.keep_secs }
    }
}

impl TryFrom<pb::BackupPlan> for BackupPlan {
    type Error = Error;
    fn try_from(plan: pb::BackupPlan) -> Result<Self> {
        let pb::BackupPlan { to, every_secs, keep_secs } = plan;
        Ok(Self { to: to.parse()?, every_secs, keep_secs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitefs_base::{BackupTo, Time};

    #[test]
    fn changes_and_backups_survive_the_wire() {
        let change = CellChange {
            access: Some(VolumeAccess::ReadOnly("moving".to_owned())),
            backup_to: Some(BackupTo::Directory("/b".to_owned())),
            backup_every_secs: Some(60),
            backup_keep_secs: None,
        };
        for change in [change, CellChange::default()] {
            let set = SetCell { change, claimed_identity: "me".to_owned() };
            assert_eq!(SetCell::try_from(pb::SetCellRequest::from(set.clone())).unwrap(), set);
        }
        let info = BackupInfo {
            id: "i".to_owned(),
            cell: "main".to_owned(),
            incarnation: Incarnation::new(2),
            index: 3,
            at: Time::new(4, 5),
            bytes: 6,
            place: "/b".to_owned(),
        };
        assert_eq!(BackupInfo::try_from(pb::BackupInfo::from(info.clone())).unwrap(), info);
        let plan = BackupPlan::default();
        assert_eq!(BackupPlan::try_from(pb::BackupPlan::from(plan.clone())).unwrap(), plan);
    }
}
