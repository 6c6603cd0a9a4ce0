//! `sitefs volume delete`.

use crate::{
    Done,
    admin::{self, Admin, operator},
    failure::Hint,
    output::Output,
};
use serde_json::json;
use sitefs_base::{Error, VolumeName, display_bytes};
use sitefs_proto::manage::{DeleteVolume, VolumeDetails};

/// Deletes a volume with its history and its snapshots, for good; its mounts end.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The volume.
    name: VolumeName,
    /// Yes, really; without it the command only says what would go.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    target: admin::Target,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments, output: &Output) -> Done {
    let name = &arguments.name;
    let mut admin = Admin::connect(&arguments.target)?;
    let details = admin.show_volume(name)?;
    if !arguments.yes {
        return Err(Error::invalid(format!("nothing was deleted: with {name} {} would go", plan(&details))))
            .hint("add --yes to delete all of it, for good");
    }
    let id = details.volume.id;
    let request = DeleteVolume { name: name.clone(), id, claimed_identity: operator() };
    admin.delete_volume(request.into())?;
    let gone = json!({ "name": name.to_string(), "id": id.get(), "deleted": true });
    output.result(&gone, || format!("deleted {name}: {} are gone", plan(&details)))
}

fn plan(details: &VolumeDetails) -> String {
    let usage = details.volume.usage;
    // The root is no file of the user's.
    let files = usage.inodes_used.saturating_sub(1);
    let bytes = display_bytes(usage.bytes_used);
    let snapshots = details.snapshots;
    format!("{files} files and directories, {bytes} of content and {snapshots} snapshots")
}
