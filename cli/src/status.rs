//! `sitefs status`: the state of a cell.

use crate::{
    Done,
    admin::{self, Admin},
    output::{Output, table},
};
use serde_json::json;
use sitefs_proto::admin::CellStatus;

/// Shows the state of a cell.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: admin::Target,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, output: &Output) -> Done {
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
    });
    output.result(&json, || {
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        table(&[
            row("cell", status.cell.clone()),
            row("group", format!("{} (incarnation {})", status.group.get(), status.incarnation.get())),
            row("node", format!("{} (term {})", status.node.get(), status.term)),
            row(
                "log",
                format!("last {}, applied {}, on disk {}", status.last_log, status.applied, status.flushed),
            ),
            row("volumes", status.volumes.to_string()),
            row("mounts", status.sessions.to_string()),
            row("version", status.version.clone()),
        ])
    })
}
