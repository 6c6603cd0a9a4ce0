//! What administration does with one volume: settings and deletion.

use super::AdminService;
use crate::state::{self, CommandBody};
use sitefs_base::{Error, Rates, Result, VolumeAccess, VolumeName, check_reason};
use sitefs_proto::{
    admin::VolumeInfo,
    manage::{DeleteVolume, SetVolume, VolumeDetails},
    pb,
};

impl AdminService {
    /// The volume of a name, for a caller that may manage it.
    pub(super) fn managed(&self, claim: &str, name: &VolumeName) -> Result<state::VolumeInfo> {
        self.0.auth.caller(claim)?.may_manage(name.site())?;
        let found = state::volume_by_name(&self.0.group.reader(), name)?;
        found.ok_or_else(|| Error::not_found(format!("there is no volume {name}")))
    }

    pub(super) async fn set(&self, request: pb::SetVolumeRequest) -> Result<pb::SetVolumeReply> {
        let SetVolume { name, change, claimed_identity } = request.try_into()?;
        if let Some(VolumeAccess::ReadOnly(reason)) = &change.access {
            check_reason(reason)?;
        }
        if change.inodes_limit == Some(0) {
            return Err(Error::invalid("a volume has at least one inode, its root"));
        }
        let volume = self.managed(&claimed_identity, &name)?.id;
        self.propose(CommandBody::SetVolume { volume, change }, &format!("changing volume {name}")).await?;
        tracing::info!(volume = %name, "volume changed");
        Ok(pb::SetVolumeReply {})
    }

    pub(super) async fn change_rates(&self, request: pb::SetRatesRequest) -> Result<pb::Empty> {
        let name: VolumeName = request.name.parse()?;
        let volume = self.managed(&request.claimed_identity, &name)?.id;
        let now = state::rates(&self.0.group.reader(), volume)?;
        let rates = Rates {
            ops_per_second: request.ops_per_second.unwrap_or(now.ops_per_second),
            bytes_per_second: request.bytes_per_second.unwrap_or(now.bytes_per_second),
        };
        rates.check()?;
        self.propose(CommandBody::SetRates { volume, rates }, &format!("changing volume {name}")).await?;
        tracing::info!(volume = %name, ?rates, "volume changed");
        Ok(pb::Empty {})
    }

    async fn propose(&self, body: CommandBody, doing: &str) -> Result<()> {
        match self.0.group.propose(body).await?.reply {
            Ok(_) => Ok(()),
            Err(errno) => Err(Error::refused(errno, format!("{doing}: {errno}"))),
        }
    }

    pub(super) fn show(&self, request: &pb::ShowVolumeRequest) -> Result<pb::VolumeDetails> {
        let found = self.managed(&request.claimed_identity, &request.name.parse()?)?;
        let reader = self.0.group.reader();
        let horizon_at = state::time_of(&reader, found.id, found.horizon)?.unwrap_or(found.created_at);
        let snapshots = state::snapshots(&reader, found.id)?.len();
        let snapshots = u64::try_from(snapshots).unwrap_or(u64::MAX);
        let state::VolumeInfo { name, id, site, usage, seq, .. } = found;
        let details = VolumeDetails {
            volume: VolumeInfo { name, id, site, seq, usage },
            created_at: found.created_at,
            history_bytes: state::history_bytes(&reader, found.id)?,
            history_limit: found.history_limit,
            horizon: found.horizon,
            horizon_at,
            pins: found.pins,
            snapshots,
            settings: found.settings,
            rates: state::rates(&reader, found.id)?,
        };
        Ok(details.into())
    }

    /// Mounts of the volume end, its name is free, and its rows are removed in the background.
    pub(super) async fn delete(&self, request: pb::DeleteVolumeRequest) -> Result<pb::DeleteVolumeReply> {
        let DeleteVolume { name, id, claimed_identity } = request.try_into()?;
        let volume = self.managed(&claimed_identity, &name)?.id;
        if volume != id {
            return Err(Error::conflict(format!("{name} is another volume now than a moment ago")));
        }
        self.propose(CommandBody::DeleteVolume { volume }, &format!("deleting volume {name}")).await?;
        self.0.sessions.volume_deleted(volume);
        self.0.orphaned.notify_one();
        tracing::info!(volume = %name, "volume deleted");
        Ok(pb::DeleteVolumeReply {})
    }
}
