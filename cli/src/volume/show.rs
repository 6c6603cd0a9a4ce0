//! `sitefs volume show`.

use super::as_json;
use crate::{
    Done,
    admin::{self, Admin},
    output::{Output, table},
};
use serde_json::{Value, json};
use sitefs_base::{Seq, VolumeName, display_bytes};
use sitefs_proto::manage::VolumeDetails;

/// Shows everything about a volume.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The volume.
    name: VolumeName,
    #[command(flatten)]
    target: admin::Target,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments, output: &Output) -> Done {
    let details = Admin::connect(&arguments.target)?.show_volume(&arguments.name)?;
    output.result(&json(&details), || text(&details))
}

fn json(details: &VolumeDetails) -> Value {
    let mut shown = as_json(&details.volume);
    let pins: Vec<u64> = details.pins.iter().copied().map(Seq::get).collect();
    let more = json!({
        "created_at": details.created_at.to_string(),
        "history": {
            "bytes": details.history_bytes,
            "bytes_limit": details.history_limit,
            "horizon": details.horizon.get(),
            "horizon_at": details.horizon_at.to_string(),
            "pins": pins,
            "snapshots": details.snapshots,
        },
        "settings": {
            "serve_stale": details.settings.serve_stale.to_string(),
            "read_only": details.settings.read_only,
            "ops_per_second": details.rates.ops_per_second,
            "bytes_per_second": details.rates.bytes_per_second,
        },
    });
    if let (Value::Object(shown), Value::Object(more)) = (&mut shown, more) {
        shown.extend(more);
    }
    shown
}

fn text(details: &VolumeDetails) -> String {
    let volume = &details.volume;
    let usage = volume.usage;
    let history_limit = details.history_limit.unwrap_or(usage.bytes_limit);
    let (history, limit) = (display_bytes(details.history_bytes), display_bytes(history_limit));
    let line = |name: &str, value: String| vec![name.to_owned(), value];
    let (bytes, bytes_limit) = (display_bytes(usage.bytes_used), display_bytes(usage.bytes_limit));
    table(&[
        line("volume", volume.name.to_string()),
        line("id", format!("{} of site {}", volume.id.get(), volume.site.get())),
        line("created", details.created_at.to_string()),
        line("seq", volume.seq.get().to_string()),
        line("content", format!("{bytes} of {bytes_limit}")),
        line("inodes", format!("{} of {}", usage.inodes_used, usage.inodes_limit)),
        line("history", format!("{history} of {limit}")),
        line("horizon", format!("{} (seq {})", details.horizon_at, details.horizon.get())),
        line("pins", details.pins.len().to_string()),
        line("snapshots", details.snapshots.to_string()),
        line("serve stale", details.settings.serve_stale.to_string()),
        line(
            "writing",
            match &details.settings.read_only {
                None => "allowed".to_owned(),
                Some(reason) => format!("refused: {reason}"),
            },
        ),
    ])
}
