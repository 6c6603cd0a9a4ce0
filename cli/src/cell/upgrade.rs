//! `sitefs cell upgrade`.

use crate::{
    Done,
    admin::{self, Admin},
    output::Output,
};
use serde_json::json;
use sitefs_proto::admin::CellStatus;

/// Shows of which version the cell is, and raises it after an upgrade.
///
/// Until it is raised nodes of the old and the new program work side by side, and what is new is refused.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Raises the cell to the highest version of its program. Every node must run it; there is no way back.
    #[arg(long)]
    finalize: bool,
    #[command(flatten)]
    target: admin::Target,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, output: &Output) -> Done {
    let mut admin = Admin::connect(&arguments.target)?;
    let status = CellStatus::try_from(admin.status()?)?;
    let (before, (min, max)) = (status.cluster_version, status.versions);
    let now = if arguments.finalize { admin.finalize_upgrade()? } else { before };
    let json = json!({ "version": now, "before": before, "program_min": min, "program_max": max });
    output.result(&json, || match now {
        _ if now > before => format!("raised from version {before} to {now}"),
        _ if now < max => format!(
            "version {now}; the program knows {min} to {max}: when every node runs it, add --finalize"
        ),
        _ => format!("version {now}, the highest that the program knows"),
    })
}
