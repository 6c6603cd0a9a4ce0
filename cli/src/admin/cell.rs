//! Calls about the cell as a whole.

use super::{Admin, answer, operator};
use sitefs_base::{BackupInfo, CellChange, Error};
use sitefs_proto::{cell::SetCell, pb};

impl Admin {
    /// Changes settings of the cell.
    pub(crate) fn set_cell(&mut self, change: CellChange) -> Result<(), Error> {
        let request = SetCell { change, claimed_identity: operator() };
        answer(&self.runtime, self.client.set_cell(pb::SetCellRequest::from(request))).map(drop)
    }

    /// Raises the cell to the highest version of its program; that version.
    pub(crate) fn finalize_upgrade(&mut self) -> Result<u32, Error> {
        let request = pb::FinalizeUpgradeRequest { claimed_identity: operator() };
        Ok(answer(&self.runtime, self.client.finalize_upgrade(request))?.version)
    }

    /// Says how fast a volume may be changed.
    pub(crate) fn set_rates(&mut self, request: pb::SetRatesRequest) -> Result<(), Error> {
        answer(&self.runtime, self.client.set_rates(request)).map(drop)
    }

    /// Makes a backup; takes as long as it takes.
    pub(crate) fn back_up(&mut self, to: Option<String>) -> Result<BackupInfo, Error> {
        let request = pb::BackUpRequest { to, claimed_identity: operator() };
        answer(&self.runtime, self.long.back_up(request))?.try_into()
    }

    /// The backups that there are.
    pub(crate) fn backups(&mut self, to: Option<String>) -> Result<Vec<BackupInfo>, Error> {
        let request = pb::ListBackupsRequest { to, claimed_identity: operator() };
        let found = answer(&self.runtime, self.long.list_backups(request))?.backups;
        found.into_iter().map(TryInto::try_into).collect()
    }
}
