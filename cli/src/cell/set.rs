//! `sitefs cell set`.

use crate::{
    Done,
    admin::{self, Admin},
    output::Output,
};
use serde_json::json;
use sitefs_base::{BackupTo, CellChange, VolumeAccess};

/// Changes what holds for the whole cell; what is not named stays.
#[derive(clap::Args)]
#[group(skip)]
pub(crate) struct Arguments {
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    target: admin::Target,
}

#[derive(clap::Args)]
#[group(required = true, multiple = true)]
struct Change {
    /// No mount may write from now on, for a reason that they are told (EROFS).
    #[arg(long, value_name = "REASON", conflicts_with = "read_write")]
    read_only: Option<String>,
    /// Mounts may write again.
    #[arg(long)]
    read_write: bool,
    /// Where backups are made by themselves: bucket (the one of the blobs), off, or a directory.
    #[arg(long, value_name = "bucket|off|DIR")]
    backup_to: Option<BackupTo>,
    /// How far backups are apart, for example 1h.
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    backup_every: Option<u32>,
    /// How long a backup is kept, for example 7d. The newest always is.
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    backup_keep: Option<u32>,
}

/// `30s`, `15m`, `1h` or `7d`.
fn seconds(text: &str) -> Result<u32, String> {
    let bad = || format!("{text:?} is not a time: write it like 30m, 1h or 7d");
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 24 * 3600,
        _ => return Err(bad()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| bad())?;
    number.checked_mul(unit).ok_or_else(bad)
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, output: &Output) -> Done {
    let Change { read_only, read_write, backup_to, backup_every, backup_keep } = &arguments.change;
    let access = match read_only {
        Some(reason) => Some(VolumeAccess::ReadOnly(reason.clone())),
        None => read_write.then_some(VolumeAccess::ReadWrite),
    };
    let change = CellChange {
        access,
        backup_to: backup_to.clone(),
        backup_every_secs: *backup_every,
        backup_keep_secs: *backup_keep,
    };
    change.check()?;
    Admin::connect(&arguments.target)?.set_cell(change)?;
    output.result(&json!({ "changed": true }), || "changed; `sitefs status` shows it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        for (text, secs) in [("30s", 30), ("15m", 900), ("1h", 3600), ("7d", 604_800)] {
            assert_eq!(seconds(text), Ok(secs));
        }
        for bad in ["", "7", "d", "-1h", "1.5h", "99999999999d", "1ü"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
