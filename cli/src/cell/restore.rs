//! `sitefs cell restore`: a data directory from a backup, where the cell is lost.

use super::backup::as_json;
use crate::{Done, failure::Failure, output::Output, places, progress::Progress, server};
use serde_json::json;
use sitefs_base::{Error, SystemClock};
use sitefs_blobstore::{DirBackend, Vault};
use sitefs_metadata::{
    backup::{RestoreFrom, Restored, restore},
    server::BackendConfig,
};
use std::{path::PathBuf, sync::Arc};

/// Makes a data directory from a backup; a server that is started with it is the first node of the cell.
///
/// Everything that was acknowledged after the backup was begun is missing then. The cell has a higher
/// incarnation: mounts that lived through attach anew, and keep as conflicts what does not fit any more. It makes
/// no backups by itself until `sitefs cell set --backup-to` says where: the cell before may still make its own.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where the backups are: a directory, or s3://BUCKET with the keys in AWS_ACCESS_KEY_ID and
    /// AWS_SECRET_ACCESS_KEY.
    #[arg(long, value_name = "DIR|s3://BUCKET")]
    from: String,
    /// The new data directory; empty, or left by an interrupted restore.
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    data: Option<PathBuf>,
    /// Reads and checks the whole backup, and makes nothing.
    #[arg(long)]
    dry_run: bool,
    /// The cell, if there are backups of several.
    #[arg(long, value_name = "NAME")]
    cell: Option<String>,
    /// The backup [default: the newest].
    #[arg(long, value_name = "ID")]
    backup: Option<String>,
    /// The URL of an S3 service that is not AWS.
    #[arg(long, value_name = "URL")]
    s3_endpoint: Option<String>,
    /// The region of the bucket.
    #[arg(long, env = "AWS_REGION", value_name = "NAME")]
    region: Option<String>,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, output: &Output) -> Done {
    let data = arguments.data.as_deref().filter(|_| !arguments.dry_run);
    if let Some(data) = data {
        places::on_own_disk(data, "data directory")?;
    }
    let from = RestoreFrom { cell: arguments.cell.clone(), id: arguments.backup.clone() };
    let restored = {
        let _progress = Progress::show(if data.is_some() { "restoring" } else { "checking the backup" });
        let vault = vault(arguments)?;
        server::runtime()?.block_on(restore(&*vault, &from, data))?
    };
    let mut json = as_json(&restored.backup);
    json["backend"] = restored.backend.clone().into();
    json["new_incarnation"] = json!(restored.incarnation);
    output.result(&json, || told(arguments, &restored))
}

fn told(arguments: &Arguments, restored: &Restored) -> String {
    let Restored { backup, incarnation, backend } = restored;
    let what = format!("backup {} of cell {}, begun at {}", backup.id, backup.cell, backup.at);
    match (incarnation, &arguments.data) {
        (Some(incarnation), Some(data)) => format!(
            "restored {what}; incarnation {incarnation}, blobs in {backend}\nstart it: sitefs server {} --name {} … with \
             the options of before\nonce the cell before is gone for good let it make backups by itself: sitefs cell \
             set --backup-to {}",
            data.display(),
            backup.cell,
            planned(&arguments.from)
        ),
        _ => format!("{what} is whole; blobs in {backend}"),
    }
}

/// Where the cell makes its backups by itself, if it does that where this one was.
fn planned(from: &str) -> String {
    match from.starts_with("s3://") {
        true => "bucket".to_owned(),
        false => {
            std::path::absolute(from).map_or_else(|_| from.to_owned(), |path| path.display().to_string())
        }
    }
}

fn vault(arguments: &Arguments) -> Result<Arc<dyn Vault>, Failure> {
    let Some(bucket) = arguments.from.strip_prefix("s3://") else {
        let path = PathBuf::from(&arguments.from);
        if !path.join("backup").is_dir() {
            return Err(Error::not_found(format!("{} has no backups in it", path.display())).into());
        }
        return Ok(Arc::new(DirBackend::open(path)?));
    };
    let bucket = BackendConfig::S3 {
        endpoint: arguments.s3_endpoint.clone(),
        bucket: bucket.to_owned(),
        region: arguments.region.clone(),
    };
    let vault = bucket.vault(Arc::new(SystemClock))?;
    Ok(vault.ok_or_else(|| Error::internal("a bucket is no place for backups"))?)
}
