//! `sitefs volume set`.

use crate::{
    Done,
    admin::{self, Admin, operator},
    failure::Hint,
    output::Output,
};
use serde_json::json;
use sitefs_base::{
    ByteSize, Error, HistoryLimit, ServeStale, VolumeAccess, VolumeChange, VolumeName, check_reason,
    display_bytes, op::Usage,
};
use sitefs_proto::{
    manage::{SetVolume, VolumeDetails},
    pb,
};

/// Changes limits and settings of a volume; what is not given stays.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The volume.
    name: VolumeName,
    /// How much content it may hold, for example 10GiB; with 0 nothing can be written.
    #[arg(long, value_name = "SIZE")]
    bytes_limit: Option<ByteSize>,
    /// How many files and directories it may hold.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    inodes_limit: Option<u64>,
    /// How much its history may take beside snapshots: a size, or default for as much as the volume (at
    /// least 16 MiB).
    #[arg(long, value_name = "SIZE|default", value_parser = history_limit)]
    history_limit: Option<HistoryLimit>,
    /// What mounts do while no cell answers: off (nothing), or reads (answer from what they know).
    #[arg(long, value_name = "off|reads")]
    serve_stale: Option<ServeStale>,
    /// Refuses writing (EROFS) for this reason, one line for people.
    #[arg(long, value_name = "REASON", value_parser = reason, conflicts_with = "read_write")]
    read_only: Option<String>,
    /// Allows writing again.
    #[arg(long)]
    read_write: bool,
    /// How many operations of all its mounts together are taken in a second; what comes faster waits.
    #[arg(long, value_name = "COUNT")]
    ops_rate: Option<u64>,
    /// How much content of small files is taken in a second, for example 200MiB.
    #[arg(long, value_name = "SIZE")]
    bytes_rate: Option<ByteSize>,
    #[command(flatten)]
    target: admin::Target,
}

fn history_limit(text: &str) -> Result<HistoryLimit, Error> {
    match text {
        "default" => Ok(HistoryLimit::Default),
        size => Ok(HistoryLimit::Bytes(size.parse::<ByteSize>()?.get())),
    }
}

fn reason(text: &str) -> Result<String, Error> {
    check_reason(text).map(|()| text.to_owned())
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments, output: &Output) -> Done {
    let name = &arguments.name;
    let change = change(arguments);
    let paced = arguments.ops_rate.is_some() || arguments.bytes_rate.is_some();
    if change == VolumeChange::default() && !paced {
        return Err(Error::invalid("nothing to change was given"))
            .hint("`sitefs volume set --help` lists what can be changed");
    }
    let request = SetVolume { name: name.clone(), change, claimed_identity: operator() };
    let mut admin = Admin::connect(&arguments.target)?;
    let before = match (arguments.bytes_limit, arguments.history_limit) {
        (Some(_), None) => Some(admin.show_volume(name)?),
        _ => None,
    };
    if request.change != VolumeChange::default() {
        admin.set_volume(request.into())?;
    }
    if paced {
        admin.set_rates(pb::SetRatesRequest {
            name: name.to_string(),
            ops_per_second: arguments.ops_rate,
            bytes_per_second: arguments.bytes_rate.map(ByteSize::get),
            claimed_identity: operator(),
        })?;
    }
    if let Some(before) = before {
        warnings(&before, &admin.show_volume(name)?).iter().for_each(|warning| output.say(warning));
    }
    output.result(&json!({ "name": name.to_string(), "changed": true }), || format!("changed {name}"))
}

/// What a smaller volume means for what is there.
fn warnings(before: &VolumeDetails, after: &VolumeDetails) -> Vec<String> {
    let mut warnings = Vec::new();
    let Usage { bytes_used, bytes_limit, .. } = after.volume.usage;
    if bytes_used >= bytes_limit {
        let (used, limit) = (display_bytes(bytes_used), display_bytes(bytes_limit));
        warnings.push(format!("warning: it holds {used} of {limit}: nothing more can be written"));
    }
    if let (None, Some(kept)) = (before.history_limit, after.history_limit) {
        warnings.push(format!(
            "warning: its history ({}) stays and may take {} as before; --history-limit gives some of it up",
            display_bytes(after.history_bytes),
            display_bytes(kept)
        ));
    }
    warnings
}

fn change(arguments: &Arguments) -> VolumeChange {
    let access = match &arguments.read_only {
        Some(reason) => Some(VolumeAccess::ReadOnly(reason.clone())),
        None => arguments.read_write.then_some(VolumeAccess::ReadWrite),
    };
    VolumeChange {
        bytes_limit: arguments.bytes_limit.map(ByteSize::get),
        inodes_limit: arguments.inodes_limit,
        history_limit: arguments.history_limit,
        serve_stale: arguments.serve_stale,
        access,
    }
}
