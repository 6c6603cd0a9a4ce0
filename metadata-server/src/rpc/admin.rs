//! Administration, on a listener of its own.

use super::Cell;
use crate::backup::Backups;
use crate::state::{self, CommandBody, Reply, VolumeLimits};
use sitefs_base::{Errno, Error, Result, VolumeId, VolumeName};
use sitefs_proto::{
    admin::{CellStatus, CreateVolume, VolumeInfo},
    pb,
    pb::admin_server::Admin,
    snapshots::{CreateSnapshot, DeleteSnapshot},
    status_from_error,
};
use std::sync::Arc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// What a volume may hold unless its maker says otherwise.
const DEFAULT_LIMITS: VolumeLimits = VolumeLimits { bytes: 100 << 30, inodes: 10_000_000 };

/// The service of that name.
pub(crate) struct AdminService(pub Arc<Cell>, pub Arc<Backups>);

/// The owner and mode of a volume's root directory, and what it may hold.
pub(crate) struct NewVolume {
    pub uid: u32,
    pub gid: u32,
    pub mode: u16,
    pub limits: VolumeLimits,
}

impl NewVolume {
    /// With the cell's default limits.
    pub fn owned_by(uid: u32, gid: u32, mode: u16) -> Self {
        Self { uid, gid, mode, limits: DEFAULT_LIMITS }
    }
}

impl Cell {
    /// Makes a volume; `AlreadyExists` if there is one of that name.
    pub async fn create_volume(&self, name: &VolumeName, new: NewVolume) -> Result<VolumeId> {
        let NewVolume { uid, gid, mode, limits } = new;
        let body = CommandBody::CreateVolume { name: name.clone(), limits, uid, gid, mode };
        match self.group.propose(body).await?.reply {
            Ok(Reply::Volume(volume)) => Ok(volume),
            Ok(_) => Err(Error::internal("creating a volume gave another reply")),
            Err(Errno::EEXIST) => Err(Error::already_exists(format!("volume {name} exists already"))),
            Err(errno) => Err(Error::refused(errno, format!("creating volume {name}: {errno}"))),
        }
    }
}

impl AdminService {
    async fn create(&self, request: pb::CreateVolumeRequest) -> Result<pb::CreateVolumeReply> {
        let create = CreateVolume::try_from(request)?;
        self.0.auth.caller(&create.claimed_identity)?.may_manage(create.name.site())?;
        let limits = VolumeLimits {
            bytes: create.bytes_limit.unwrap_or(DEFAULT_LIMITS.bytes),
            inodes: create.inodes_limit.unwrap_or(DEFAULT_LIMITS.inodes),
        };
        let new = NewVolume { uid: create.uid, gid: create.gid, mode: create.mode, limits };
        let volume = self.0.create_volume(&create.name, new).await?;
        tracing::info!(volume = %create.name, "volume created");
        Ok(pb::CreateVolumeReply { id: volume.get() })
    }

    fn list(&self, request: &pb::ListVolumesRequest) -> Result<pb::ListVolumesReply> {
        let caller = self.0.auth.caller(&request.claimed_identity)?;
        let mut volumes = Vec::new();
        for found in state::volumes(&self.0.group.reader())? {
            if caller.may_manage(found.name.site()).is_ok() {
                let state::VolumeInfo { name, id, site, usage, seq, .. } = found;
                volumes.push(VolumeInfo { name, id, site, seq, usage }.into());
            }
        }
        Ok(pb::ListVolumesReply { volumes })
    }

    async fn make_snapshot(&self, request: pb::CreateSnapshotRequest) -> Result<pb::SnapshotInfo> {
        let CreateSnapshot { volume, name, at, claimed_identity } = request.try_into()?;
        self.0.auth.caller(&claimed_identity)?.may_manage(volume.site())?;
        let made = self.0.create_snapshot(&volume, &name, at).await?;
        tracing::info!(%volume, snapshot = %name, "snapshot created");
        Ok(made.into())
    }

    fn snapshots(&self, request: &pb::ListSnapshotsRequest) -> Result<pb::ListSnapshotsReply> {
        let volume: VolumeName = request.volume.parse()?;
        self.0.auth.caller(&request.claimed_identity)?.may_manage(volume.site())?;
        let snapshots = self.0.list_snapshots(&volume)?.into_iter().map(Into::into).collect();
        Ok(pb::ListSnapshotsReply { snapshots })
    }

    async fn forget_snapshot(&self, request: pb::DeleteSnapshotRequest) -> Result<pb::Empty> {
        let DeleteSnapshot { volume, name, claimed_identity } = request.try_into()?;
        self.0.auth.caller(&claimed_identity)?.may_manage(volume.site())?;
        self.0.delete_snapshot(&volume, &name).await?;
        tracing::info!(%volume, snapshot = %name, "snapshot deleted");
        Ok(pb::Empty {})
    }

    fn cell_status(&self, request: &pb::StatusRequest) -> Result<pb::StatusReply> {
        self.0.auth.caller(&request.claimed_identity)?.may_operate()?;
        let (info, status) = (self.0.group.info(), self.0.group.status());
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let status = CellStatus {
            cell: info.cell,
            group: info.group,
            incarnation: info.incarnation,
            node: self.0.node,
            term: status.term,
            last_log: status.last_log_index,
            applied: status.applied,
            flushed: status.flushed,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            volumes: count(state::volumes(&self.0.group.reader())?.len()),
            sessions: count(self.0.sessions.count()),
            read_only: state::cell_read_only(&self.0.group.reader())?,
            backup_plan: state::backup_plan(&self.0.group.reader())?,
            newest_backup: state::backups(&self.0.group.reader())?.first().map(|kept| kept.newest),
            cluster_version: state::cluster_version(&self.0.group.reader())?.into(),
            versions: (state::Versions::THIS.min.into(), state::Versions::THIS.max.into()),
        };
        Ok(status.into())
    }
}

pub(super) fn answer<T>(result: Result<T>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| status_from_error(&error))
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn create_volume(
        &self,
        request: Request<pb::CreateVolumeRequest>,
    ) -> Result<Response<pb::CreateVolumeReply>, Status> {
        answer(self.create(request.into_inner()).await)
    }

    async fn list_volumes(
        &self,
        request: Request<pb::ListVolumesRequest>,
    ) -> Result<Response<pb::ListVolumesReply>, Status> {
        answer(self.list(request.get_ref()))
    }

    async fn create_snapshot(
        &self,
        request: Request<pb::CreateSnapshotRequest>,
    ) -> Result<Response<pb::SnapshotInfo>, Status> {
        answer(self.make_snapshot(request.into_inner()).await)
    }

    async fn list_snapshots(
        &self,
        request: Request<pb::ListSnapshotsRequest>,
    ) -> Result<Response<pb::ListSnapshotsReply>, Status> {
        answer(self.snapshots(request.get_ref()))
    }

    async fn delete_snapshot(
        &self,
        request: Request<pb::DeleteSnapshotRequest>,
    ) -> Result<Response<pb::Empty>, Status> {
        answer(self.forget_snapshot(request.into_inner()).await)
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusReply>, Status> {
        answer(self.cell_status(request.get_ref()))
    }

    async fn set_volume(
        &self,
        request: Request<pb::SetVolumeRequest>,
    ) -> Result<Response<pb::SetVolumeReply>, Status> {
        answer(self.set(request.into_inner()).await)
    }

    async fn show_volume(
        &self,
        request: Request<pb::ShowVolumeRequest>,
    ) -> Result<Response<pb::VolumeDetails>, Status> {
        answer(self.show(request.get_ref()))
    }

    async fn delete_volume(
        &self,
        request: Request<pb::DeleteVolumeRequest>,
    ) -> Result<Response<pb::DeleteVolumeReply>, Status> {
        answer(self.delete(request.into_inner()).await)
    }

    async fn set_cell(&self, request: Request<pb::SetCellRequest>) -> Result<Response<pb::Empty>, Status> {
        answer(self.change_cell(request.into_inner()).await)
    }

    async fn back_up(&self, request: Request<pb::BackUpRequest>) -> Result<Response<pb::BackupInfo>, Status> {
        answer(self.make_backup(request.into_inner()).await)
    }

    async fn list_backups(
        &self,
        request: Request<pb::ListBackupsRequest>,
    ) -> Result<Response<pb::ListBackupsReply>, Status> {
        answer(self.backups(request.into_inner()).await)
    }

    async fn finalize_upgrade(
        &self,
        request: Request<pb::FinalizeUpgradeRequest>,
    ) -> Result<Response<pb::FinalizeUpgradeReply>, Status> {
        answer(self.finalize(request.get_ref()).await)
    }

    async fn set_rates(&self, request: Request<pb::SetRatesRequest>) -> Result<Response<pb::Empty>, Status> {
        answer(self.change_rates(request.into_inner()).await)
    }

    type RestoreStream = ReceiverStream<Result<pb::RestoreProgress, Status>>;

    async fn restore(
        &self,
        request: Request<pb::RestoreRequest>,
    ) -> Result<Response<Self::RestoreStream>, Status> {
        answer(self.start_restore(request.into_inner()))
    }
}
