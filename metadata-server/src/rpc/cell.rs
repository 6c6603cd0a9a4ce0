//! What administration does with the cell as a whole.

use super::AdminService;
use crate::state::CommandBody;
use sitefs_base::{Error, Result};
use sitefs_proto::{
    cell::{BackUp, SetCell},
    pb,
};

impl AdminService {
    pub(super) async fn change_cell(&self, request: pb::SetCellRequest) -> Result<pb::Empty> {
        let SetCell { change, claimed_identity } = request.try_into()?;
        self.0.auth.caller(&claimed_identity)?.may_operate()?;
        change.check()?;
        tracing::info!(?change, "the cell is changed");
        match self.0.group.propose(CommandBody::SetCell { change }).await?.reply {
            Ok(_) => Ok(pb::Empty {}),
            Err(errno) => Err(Error::refused(errno, format!("changing the cell: {errno}"))),
        }
    }

    pub(super) async fn finalize(
        &self,
        request: &pb::FinalizeUpgradeRequest,
    ) -> Result<pb::FinalizeUpgradeReply> {
        self.0.auth.caller(&request.claimed_identity)?.may_operate()?;
        let version = self.0.group.finalize().await?;
        tracing::info!(version, "the cell is raised");
        Ok(pb::FinalizeUpgradeReply { version: version.into() })
    }

    pub(super) async fn make_backup(&self, request: pb::BackUpRequest) -> Result<pb::BackupInfo> {
        let BackUp { to, claimed_identity } = request.try_into()?;
        self.0.auth.caller(&claimed_identity)?.may_operate()?;
        Ok(self.1.make(to.as_deref()).await?.into())
    }

    pub(super) async fn backups(&self, request: pb::ListBackupsRequest) -> Result<pb::ListBackupsReply> {
        let BackUp { to, claimed_identity } = request.try_into()?;
        self.0.auth.caller(&claimed_identity)?.may_operate()?;
        let backups = self.1.list(to.as_deref()).await?.into_iter().map(Into::into).collect();
        Ok(pb::ListBackupsReply { backups })
    }
}
