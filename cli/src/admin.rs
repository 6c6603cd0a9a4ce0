//! Calls to a cell's admin service.

use crate::failure::{Failure, Hint};
use sitefs_base::{
    Error, Identity, Role, VolumeName,
    check::{CheckEvent, CheckOptions},
    limits::METADATA_DEADLINE,
};
use sitefs_proto::{
    MESSAGE_MAX, RepairAll, error_from_status,
    manage::VolumeDetails,
    pb::{self, admin_client::AdminClient},
};
use std::future::Future;
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};

/// Each is an entry of the log.
const REPAIRS_AT_A_TIME: usize = 100;

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

    /// Checks the cell and hears what is found; a signal ends it.
    pub(crate) fn check(
        &mut self,
        options: CheckOptions,
        mut tell: impl FnMut(CheckEvent),
    ) -> Result<(), Error> {
        let request = pb::CheckRequest { claimed_identity: operator(), ..options.into() };
        self.runtime.block_on(async {
            let opened = self.long.check(request).await.map_err(|status| error_from_status(&status))?;
            let mut events = opened.into_inner();
            let mut done = false;
            let ctrl_c = tokio::signal::ctrl_c();
            tokio::pin!(ctrl_c);
            loop {
                let event = tokio::select! {
                    event = events.message() => event.map_err(|status| error_from_status(&status))?,
                    _ = &mut ctrl_c => return Err(Error::unavailable("the check was ended before it was done")),
                };
                match event {
                    Some(event) => {
                        let event: CheckEvent = event.try_into()?;
                        done |= matches!(event, CheckEvent::Done(_));
                        tell(event);
                    }
                    None if done => return Ok(()),
                    None => return Err(Error::unavailable("the cell went away before the check was done")),
                }
            }
        })
    }

    /// Has repairs done; how many were.
    pub(crate) fn repair(&mut self, mut repairs: Vec<Vec<u8>>) -> Result<u64, Error> {
        let mut done = 0;
        while !repairs.is_empty() {
            let rest = repairs.split_off(repairs.len().min(REPAIRS_AT_A_TIME));
            let request = RepairAll { repairs, claimed_identity: operator() };
            done += answer(&self.runtime, self.client.repair(pb::RepairRequest::from(request)))?.done;
            repairs = rest;
        }
        Ok(done)
    }

    /// Collects garbage, and hears how far it has come; gives the last that was heard.
    pub(crate) fn run_gc(
        &mut self,
        request: pb::RunGcRequest,
        tell: impl Fn(&pb::GcProgress),
    ) -> Result<pb::GcProgress, Error> {
        self.runtime.block_on(async {
            let opened = self.long.run_gc(request).await.map_err(|status| error_from_status(&status))?;
            let mut progress = opened.into_inner();
            loop {
                match progress.message().await.map_err(|status| error_from_status(&status))? {
                    Some(last) if last.done => return Ok(last),
                    Some(far) => tell(&far),
                    None => return Err(Error::unavailable("the cell went away before it was done")),
                }
            }
        })
    }

    /// How garbage collection stands.
    pub(crate) fn gc_status(&mut self) -> Result<pb::GcStatusReply, Error> {
        let call = self.client.gc_status(pb::GcStatusRequest { claimed_identity: operator() });
        answer(&self.runtime, call)
    }

    /// Pauses or resumes garbage collection.
    pub(crate) fn pause_gc(&mut self, paused: bool) -> Result<(), Error> {
        let call = self.client.pause_gc(pb::PauseGcRequest { paused, claimed_identity: operator() });
        answer(&self.runtime, call).map(drop)
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
