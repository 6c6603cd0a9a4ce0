//! `sitefs volume snapshot`: names for moments of a volume's past.

use crate::{
    Done,
    admin::{self, Admin, operator},
    output::{Output, table},
};
use clap::Subcommand;
use serde_json::{Value, json};
use sitefs_base::{Error, SnapshotName, Time, VolumeName};
use sitefs_proto::snapshots::{CreateSnapshot, DeleteSnapshot, SnapshotInfo};

/// Makes, lists and deletes snapshots of a volume.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a snapshot: it keeps the volume as it is, or was, until it is deleted.
    Create {
        /// The volume, for example acme/live.
        volume: VolumeName,
        /// The snapshot's name, for example before-upgrade.
        name: SnapshotName,
        /// A time of the past instead of now, for example 2026-11-20T12:00:00Z.
        #[arg(long, value_name = "TIME")]
        at: Option<Time>,
        #[command(flatten)]
        target: admin::Target,
    },
    /// Lists the snapshots of a volume.
    List {
        /// The volume.
        volume: VolumeName,
        #[command(flatten)]
        target: admin::Target,
    },
    /// Deletes a snapshot. What it kept is gone, unless mounts that show it still keep it.
    Delete {
        /// The volume.
        volume: VolumeName,
        /// The snapshot's name.
        name: SnapshotName,
        #[command(flatten)]
        target: admin::Target,
    },
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, output: &Output) -> Done {
    match &arguments.command {
        Command::Create { volume, name, at, target } => create(volume, name, *at, target, output),
        Command::List { volume, target } => list(volume, target, output),
        Command::Delete { volume, name, target } => delete(volume, name, target, output),
    }
}

fn create(
    volume: &VolumeName,
    name: &SnapshotName,
    at: Option<Time>,
    target: &admin::Target,
    output: &Output,
) -> Done {
    let (volume, name) = (volume.clone(), name.clone());
    let request = CreateSnapshot { volume: volume.clone(), name, at, claimed_identity: operator() };
    let made: SnapshotInfo = Admin::connect(target)?.create_snapshot(request.into())?.try_into()?;
    output.result(&as_json(&made), || {
        let SnapshotInfo { name, at, .. } = &made;
        format!("created {volume}@{name}, which shows {at}; mount it: sitefs mount {volume}@{name} DIR …")
    })
}

fn list(volume: &VolumeName, target: &admin::Target, output: &Output) -> Done {
    let found = Admin::connect(target)?.list_snapshots(volume)?;
    let found = found.into_iter().map(SnapshotInfo::try_from).collect::<Result<Vec<_>, Error>>()?;
    let json: Vec<Value> = found.iter().map(as_json).collect();
    output.result(&Value::from(json), || match &found[..] {
        [] => format!("no snapshots; make one: sitefs volume snapshot create {volume} NAME"),
        found => {
            let heading = ["snapshot", "shows", "created", "seq"].map(str::to_owned).to_vec();
            table(&std::iter::once(heading).chain(found.iter().map(as_row)).collect::<Vec<_>>())
        }
    })
}

fn delete(volume: &VolumeName, name: &SnapshotName, target: &admin::Target, output: &Output) -> Done {
    let request = DeleteSnapshot { volume: volume.clone(), name: name.clone(), claimed_identity: operator() };
    Admin::connect(target)?.delete_snapshot(request.into())?;
    let deleted = format!("{volume}@{name}");
    output.result(&json!({ "deleted": deleted }), || format!("deleted {deleted}"))
}

fn as_row(info: &SnapshotInfo) -> Vec<String> {
    let SnapshotInfo { name, seq, at, created_at } = info;
    vec![name.to_string(), at.to_string(), created_at.to_string(), seq.get().to_string()]
}

fn as_json(info: &SnapshotInfo) -> Value {
    json!({
        "name": info.name.to_string(),
        "seq": info.seq.get(),
        "at": info.at.to_string(),
        "created_at": info.created_at.to_string(),
    })
}
