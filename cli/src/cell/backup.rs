//! `sitefs cell backup`.

use crate::{
    Done,
    admin::{self, Admin},
    output::{Output, table},
};
use clap::Subcommand;
use serde_json::{Value, json};
use sitefs_base::{BackupInfo, display_bytes};
use std::path::PathBuf;

/// Makes a backup of the cell while it serves, and removes those that were kept long enough.
///
/// Only what the last backup at the same place does not have is sent. Without --to it goes to the bucket
/// that has the blobs.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Args)]
struct Place {
    /// A directory on another disk of the machine whose server leads; made if missing.
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    #[command(flatten)]
    target: admin::Target,
}

#[derive(Subcommand)]
enum Command {
    /// Lists backups; without --to those that the cell makes by itself.
    List(Place),
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, output: &Output) -> Done {
    match &arguments.command {
        None => make(&arguments.place, output),
        Some(Command::List(place)) => list(place, output),
    }
}

/// The server may have another working directory.
fn absolute(to: Option<&PathBuf>) -> Result<Option<String>, sitefs_base::Error> {
    let Some(to) = to else { return Ok(None) };
    let path = std::path::absolute(to)
        .map_err(|error| sitefs_base::Error::io(format!("finding {}", to.display()), error))?;
    Ok(Some(path.display().to_string()))
}

fn make(place: &Place, output: &Output) -> Done {
    let to = absolute(place.to.as_ref())?;
    let made = {
        #[cfg(any(feature = "server", feature = "mount"))]
        let _progress = crate::progress::Progress::show("making a backup");
        Admin::connect(&place.target)?.back_up(to)?
    };
    output.result(&as_json(&made), || {
        let BackupInfo { id, bytes, place, .. } = &made;
        format!("backup {id}: {} in {place}", display_bytes(*bytes))
    })
}

fn list(place: &Place, output: &Output) -> Done {
    let found = Admin::connect(&place.target)?.backups(absolute(place.to.as_ref())?)?;
    let json: Vec<Value> = found.iter().map(as_json).collect();
    output.result(&Value::from(json), || match &found[..] {
        [] => "no backups; make one: sitefs cell backup --to DIR".to_owned(),
        found => {
            let heading = ["backup", "at", "size", "incarnation", "place"].map(str::to_owned).to_vec();
            table(&std::iter::once(heading).chain(found.iter().map(as_row)).collect::<Vec<_>>())
        }
    })
}

fn as_row(info: &BackupInfo) -> Vec<String> {
    vec![
        info.id.clone(),
        info.at.to_string(),
        display_bytes(info.bytes),
        info.incarnation.get().to_string(),
        info.place.clone(),
    ]
}

/// A backup as JSON.
pub(super) fn as_json(info: &BackupInfo) -> Value {
    json!({
        "id": info.id,
        "cell": info.cell,
        "incarnation": info.incarnation.get(),
        "index": info.index,
        "at": info.at.to_string(),
        "bytes": info.bytes,
        "place": info.place,
    })
}
