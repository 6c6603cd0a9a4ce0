//! Calls to a cell's admin service.

mod cell;

use crate::failure::{Failure, Hint};
use sitefs_base::{Error, Identity, Role, VolumeName, limits::METADATA_DEADLINE};
use sitefs_proto::{
    MESSAGE_MAX, error_from_status,
    manage::VolumeDetails,
    pb::{self, admin_client::AdminClient},
};
use std::future::Future;
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};

/// Where the admin service is.
#[derive(clap::Args)]
pub(crate) struct Target {
    /// The admin address of the cell.
    #[arg(long, env = "SITEFS_ADMIN", value_name = "HOST:PORT", default_value = "127.0.0.1:7441")]
    admin: String,
}

/// A connection to the admin service of a cell.
pub(crate) struct Admin {
    runtime: tokio::runtime::Runtime,
    client: AdminClient<Channel>,
    /// For calls without a deadline.
    long: AdminClient<Channel>,
}

impl Admin {
    /// Connects.
    pub(crate) fn connect(target: &Target) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::io("starting the runtime", error))?;
        let address = &target.admin;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| Error::invalid(format!("{address:?} is not an address")).because(error))
            .hint("write HOST:PORT, for example 127.0.0.1:7441")?
            .connect_timeout(METADATA_DEADLINE);
        let channel = runtime
            .block_on(endpoint.clone().timeout(METADATA_DEADLINE).connect())
            .map_err(|error| Error::unavailable(format!("no cell answers at {address}")).because(error))
            .hint("is `sitefs server` or `sitefs demo` running? give its admin address with --admin")?;
        let client = AdminClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
        let long = {
            let _in_runtime = runtime.enter();
            AdminClient::new(endpoint.connect_lazy())
        };
        Ok(Self { runtime, client, long })
    }

    /// Makes a volume; its id.
    pub(crate) fn create_volume(&mut self, request: pb::CreateVolumeRequest) -> Result<u64, Error> {
        let call = self.client.create_volume(request);
        Ok(answer(&self.runtime, call)?.id)
    }

    /// All volumes.
    pub(crate) fn list_volumes(&mut self) -> Result<Vec<pb::VolumeInfo>, Error> {
        let call = self.client.list_volumes(pb::ListVolumesRequest { claimed_identity: operator() });
        Ok(answer(&self.runtime, call)?.volumes)
    }

    /// Changes a volume.
    pub(crate) fn set_volume(&mut self, request: pb::SetVolumeRequest) -> Result<(), Error> {
        let call = self.client.set_volume(request);
        answer(&self.runtime, call).map(drop)
    }

    /// Everything about a volume.
    pub(crate) fn show_volume(&mut self, name: &VolumeName) -> Result<VolumeDetails, Error> {
        let request = pb::ShowVolumeRequest { name: name.to_string(), claimed_identity: operator() };
        let call = self.client.show_volume(request);
        answer(&self.runtime, call)?.try_into()
    }

    /// Deletes a volume.
    pub(crate) fn delete_volume(&mut self, request: pb::DeleteVolumeRequest) -> Result<(), Error> {
        let call = self.client.delete_volume(request);
        answer(&self.runtime, call).map(drop)
    }

    /// Restores, and hears how far it has come; gives the last that was heard.
    pub(crate) fn restore(
        &mut self,
        request: pb::RestoreRequest,
        mut tell: impl FnMut(&pb::RestoreProgress),
    ) -> Result<pb::RestoreProgress, Error> {
        self.runtime.block_on(async {
            let opened = self.long.restore(request).await.map_err(|status| error_from_status(&status))?;
            let mut progress = opened.into_inner();
            loop {
                match progress.message().await.map_err(|status| error_from_status(&status))? {
                    Some(last) if last.done => return Ok(last),
                    Some(far) => tell(&far),
                    None => return Err(Error::unavailable("the cell went away before the restore was done")),
                }
            }
        })
    }

    /// Makes a snapshot.
    pub(crate) fn create_snapshot(
        &mut self,
        request: pb::CreateSnapshotRequest,
    ) -> Result<pb::SnapshotInfo, Error> {
        answer(&self.runtime, self.client.create_snapshot(request))
    }

    /// The snapshots of a volume.
    pub(crate) fn list_snapshots(&mut self, volume: &VolumeName) -> Result<Vec<pb::SnapshotInfo>, Error> {
        let request = pb::ListSnapshotsRequest { volume: volume.to_string(), claimed_identity: operator() };
        Ok(answer(&self.runtime, self.client.list_snapshots(request))?.snapshots)
    }

    /// Forgets a snapshot.
    pub(crate) fn delete_snapshot(&mut self, request: pb::DeleteSnapshotRequest) -> Result<(), Error> {
        answer(&self.runtime, self.client.delete_snapshot(request)).map(|_| ())
    }

    /// The state of the cell.
    pub(crate) fn status(&mut self) -> Result<pb::StatusReply, Error> {
        let call = self.client.status(pb::StatusRequest { claimed_identity: operator() });
        answer(&self.runtime, call)
    }
}

fn answer<T>(
    runtime: &tokio::runtime::Runtime,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Error> {
    runtime.block_on(call).map(Response::into_inner).map_err(|status| match status.code() {
        // A deadline that has passed here is Cancelled; the cell itself says neither.
        Code::Cancelled | Code::DeadlineExceeded => Error::unavailable(format!(
            "the cell took the call and did not answer within {} s: it is stopped, or its disk is stuck; \
             look at its log, and at `sitefs status`",
            METADATA_DEADLINE.as_secs()
        ))
        .because(error_from_status(&status)),
        _ => error_from_status(&status),
    })
}

/// Who calls, until certificates say it: a cell in insecure mode takes the word for it and does
/// not compare the cell's name.
pub(crate) fn operator() -> String {
    Identity::new("local", Role::Operator).to_string()
}
