//! `sitefs volume restore`.

use crate::{
    Done,
    admin::{self, Admin, operator},
    output::Output,
};
use serde_json::json;
use sitefs_base::{Moment, VolumeName, display_bytes};
use sitefs_proto::{manage::Restore, pb};
use std::{
    ffi::OsString,
    io::Write,
    os::unix::ffi::OsStrExt,
    time::{Duration, Instant},
};

/// What takes longer shows how far it has come.
const PATIENCE: Duration = Duration::from_secs(1);

/// Brings a file or directory of the past back to its place; what is there now is replaced.
///
/// No content moves: it takes milliseconds for a file, and a moment per thousand files for a directory. A
/// file that is still there gets its content and attributes back; a directory comes back as a new one.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The volume.
    name: VolumeName,
    /// What to bring back: a path from the root of the volume.
    #[arg(long, value_name = "PATH")]
    path: OsString,
    /// When it was as it should be: a time such as 2026-11-20T12:00:00Z, or a snapshot's name.
    #[arg(long, value_name = "TIME|SNAPSHOT")]
    at: Moment,
    /// Only says how many files, directories and bytes it would bring back.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    target: admin::Target,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments, output: &Output) -> Done {
    let Arguments { name, path, at, dry_run, target } = arguments;
    let request = Restore {
        name: name.clone(),
        path: path.as_bytes().to_vec(),
        at: at.clone(),
        dry_run: *dry_run,
        claimed_identity: operator(),
    };
    let begun = Instant::now();
    let done = Admin::connect(target)?.restore(request.into(), |far| {
        if begun.elapsed() >= PATIENCE {
            // Nobody is left to tell when stderr is closed.
            let _ = writeln!(std::io::stderr(), "{} so far", counted(far));
        }
    })?;
    let shown = path.to_string_lossy();
    let result = json!({
        "name": name.to_string(),
        "path": shown,
        "at": at.to_string(),
        "entries": done.entries,
        "bytes": done.bytes,
        "dry_run": dry_run,
    });
    output.result(&result, || {
        let verb = if *dry_run { "would restore" } else { "restored" };
        format!("{verb} {shown} as of {at}: {}", counted(&done))
    })
}

fn counted(progress: &pb::RestoreProgress) -> String {
    format!("{} files and directories, {}", progress.entries, display_bytes(progress.bytes))
}
