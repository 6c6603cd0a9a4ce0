//! `sitefs cache`: the disk cache of a mount, asked through its control socket, or the directory itself
//! when no mount uses it.

mod prefetch;

use crate::{
    Done,
    failure::{Failure, Hint},
    output::{Output, table},
    standing,
};
use clap::Subcommand;
use serde_json::{Value, json};
use sitefs_base::{Error, Kind, display_bytes};
use sitefs_client::{Control, IdleCache};
use std::path::{Path, PathBuf};

/// Shows, empties and fills the disk cache of a mount.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows what the cache holds, and what it was good for.
    Stats(Place),
    /// Drops everything that no read is using at the moment. It is fetched again when it is needed: nothing
    /// is lost.
    Drop(Place),
    Prefetch(prefetch::Arguments),
}

#[derive(clap::Args)]
struct Place {
    /// A directory of a mount, or a cache directory, also one that no mount uses.
    directory: PathBuf,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, output: &Output) -> Done {
    match &arguments.command {
        Command::Stats(place) => stats(&place.directory, output),
        Command::Drop(place) => drop_cached(&place.directory, output),
        Command::Prefetch(arguments) => prefetch::run(arguments, output),
    }
}

/// Who can say something of a cache.
enum Cache {
    Mounted(Control),
    Idle(Box<IdleCache>),
}

fn find(directory: &Path) -> Result<Cache, Failure> {
    if let Some((_, control)) = standing::control_holding(directory)? {
        return Ok(Cache::Mounted(control));
    }
    match Control::connect(directory) {
        Ok(control) => return Ok(Cache::Mounted(control)),
        Err(error) if error.kind() == Kind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let hint = "give a directory of a mount, or the directory that its --cache names";
    Ok(Cache::Idle(Box::new(IdleCache::open(directory).hint(hint)?)))
}

/// An answer of a mount, which may be that it could not.
fn parse(answer: &str) -> Result<Value, Failure> {
    let value: Value =
        serde_json::from_str(answer).map_err(|error| Error::internal("reading an answer").because(error))?;
    match value["error"].as_str() {
        Some("unknown request") => Err(Error::invalid("the mount runs another version of sitefs"))
            .hint("unmount and mount again with this version"),
        Some(error) => Err(Error::unavailable(format!("the mount says: {error}")).into()),
        None => Ok(value),
    }
}

fn stats(directory: &Path, output: &Output) -> Done {
    let report = match find(directory)? {
        Cache::Mounted(mut control) => parse(&control.cache()?)?,
        Cache::Idle(cache) => serde_json::to_value(cache.report()?)
            .map_err(|error| Error::internal("writing the report").because(error))?,
    };
    output.result(&report, || text(&report))
}

fn text(report: &Value) -> String {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let bytes = |value: &Value| display_bytes(number(value));
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mount = &report["mount"];
    let used_by = mount["mountpoint"].as_str().map_or("no mount".to_owned(), |at| format!("the mount {at}"));
    let mut rows = vec![
        row("directory", format!("{}, used by {used_by}", report["dir"].as_str().unwrap_or("?"))),
        row("holds", format!("{} in {} blobs", bytes(&report["bytes"]), number(&report["blobs"]))),
        row(
            "disk",
            format!(
                "{} free, the mount leaves {}",
                bytes(&report["disk_free_bytes"]),
                bytes(&report["disk_free_min_bytes"])
            ),
        ),
    ];
    if mount.is_null() {
        return table(&rows);
    }
    let (hits, misses) = (number(&mount["hits"]), number(&mount["misses"]));
    let scrubbed = match mount["scrubbed_seconds_ago"].as_u64() {
        Some(ago) => format!("all of it {} h ago", ago / 3600),
        None => "not all of it yet".to_owned(),
    };
    rows.extend([
        row("limit", bytes(&mount["limit_bytes"])),
        row("found", format!("{hits} of {} blobs that were opened", hits + misses)),
        row("left", format!("{} blobs, for want of space", number(&mount["evictions"]))),
        row("damaged", format!("{} files, which were dropped", number(&mount["damaged"]))),
        row("checked", format!("{} in the background, {scrubbed}", bytes(&mount["scrubbed_bytes"]))),
    ]);
    table(&rows)
}

fn drop_cached(directory: &Path, output: &Output) -> Done {
    let done = match find(directory)? {
        Cache::Mounted(mut control) => parse(&control.drop_cache()?)?,
        Cache::Idle(cache) => {
            let dropped = cache.drop_all()?;
            json!({ "blobs": dropped.blobs, "bytes": dropped.bytes, "kept": dropped.kept })
        }
    };
    output.result(&done, || {
        let number = |name: &str| done[name].as_u64().unwrap_or(0);
        let dropped = format!("dropped {} blobs, {}", number("blobs"), display_bytes(number("bytes")));
        match number("kept") {
            0 => dropped,
            kept => format!("{dropped}; {kept} are in use and stay"),
        }
    })
}
