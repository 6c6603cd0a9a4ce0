//! `sitefs status`: the state of a cell, or of a mount.

use crate::{
    Done,
    admin::{self, Admin},
    output::{Output, table},
};
use serde_json::json;
use sitefs_proto::admin::CellStatus;

/// Shows the state of a cell, or of the mount at a directory.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A directory in a mount: shows that mount, without asking the cell.
    #[cfg(feature = "mount")]
    #[arg(conflicts_with = "admin")]
    directory: Option<std::path::PathBuf>,
    /// The cache directory of a mount: asks its control socket, also when the mount itself hangs.
    #[cfg(feature = "mount")]
    #[arg(long, value_name = "DIR", conflicts_with = "admin")]
    cache: Option<std::path::PathBuf>,
    #[command(flatten)]
    target: admin::Target,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, output: &Output) -> Done {
    #[cfg(feature = "mount")]
    if arguments.directory.is_some() || arguments.cache.is_some() {
        let directory = arguments.directory.as_deref().unwrap_or("/".as_ref());
        return crate::standing::show(directory, arguments.cache.as_deref(), output);
    }
    let status = CellStatus::try_from(Admin::connect(&arguments.target)?.status()?)?;
    let json = json!({
        "cell": status.cell,
        "group": status.group.get(),
        "incarnation": status.incarnation.get(),
        "node": status.node.get(),
        "term": status.term,
        "last_log": status.last_log,
        "applied": status.applied,
        "flushed": status.flushed,
        "version": status.version,
        "volumes": status.volumes,
        "sessions": status.sessions,
        "damaged_objects": status.damaged_objects,
        "scrub_age": status.scrub_age,
        "read_only": status.read_only,
        "backup": {
            "to": status.backup_plan.to.to_string(),
            "every_seconds": status.backup_plan.every_secs,
            "keep_seconds": status.backup_plan.keep_secs,
            "held": status.backup_plan.to.why_held(),
            "newest": status.newest_backup.map(|at| at.to_string()),
        },
    });
    output.result(&json, || {
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        let mut rows = vec![
            row("cell", status.cell.clone()),
            row("group", format!("{} (incarnation {})", status.group.get(), status.incarnation.get())),
            row("node", format!("{} (term {})", status.node.get(), status.term)),
            row(
                "log",
                format!("last {}, applied {}, on disk {}", status.last_log, status.applied, status.flushed),
            ),
            row("volumes", status.volumes.to_string()),
            row("mounts", status.sessions.to_string()),
            row(
                "mounts may write",
                status.read_only.clone().map_or_else(|| "yes".to_owned(), |why| format!("no: {why}")),
            ),
            row("newest backup", status.newest_backup.map_or_else(|| "none".to_owned(), |at| at.to_string())),
            row("version", status.version.clone()),
        ];
        rows.extend(status.backup_plan.to.why_held().map(|why| row("BACKUPS OFF", why)));
        rows.extend(
            status.scrub_age.map(|age| row("scrub", format!("every object was read in the last {age} s"))),
        );
        rows.extend(status.damaged_objects.iter().map(|object| row("DAMAGED", object.clone())));
        table(&rows)
    })
}
