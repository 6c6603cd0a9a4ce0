//! `sitefs journal`: what close() accepted while the cell was away, seen from outside.

use crate::{
    Done,
    failure::{Failure, Hint},
    output::{Output, table},
    places,
};
use clap::Subcommand;
use serde_json::{Value, json};
use sitefs_base::{Error, Kind, Result, display_bytes};
use sitefs_client::journal::{self, Entry, Record, State};
use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Shows what waits in the journal of a mount, and settles conflicts.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists what waits for the cell, conflicts, and what is damaged. Changes nothing, also while a mount
    /// uses the journal.
    List {
        /// The journal directory, or the cache directory that it is in.
        journal: PathBuf,
    },
    /// Copies the content of entries into a directory: conflicts, unless numbers are given.
    Export {
        /// The journal directory, or the cache directory that it is in.
        journal: PathBuf,
        /// Where to: files NUMBER-NAME are made there, none is replaced.
        directory: PathBuf,
        /// The entries.
        numbers: Vec<u64>,
    },
    /// Settles a conflict: writes its content into the tree, or drops it. Says what it would do, and does it
    /// with --yes.
    Apply(Apply),
}

#[derive(clap::Args)]
struct Apply {
    /// The journal directory, or the cache directory that it is in.
    journal: PathBuf,
    /// The entry.
    number: u64,
    /// The file on a mount of the volume that gets the content.
    #[arg(long, value_name = "FILE", required_unless_present = "discard", conflicts_with = "discard")]
    to: Option<PathBuf>,
    /// Drops the entry and its content, for good.
    #[arg(long)]
    discard: bool,
    /// Yes, really; without it the command only says what it would do.
    #[arg(long)]
    yes: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, output: &Output) -> Done {
    match &arguments.command {
        Command::List { journal } => list(&find(journal), output),
        Command::Export { journal, directory, numbers } => export(&find(journal), directory, numbers, output),
        Command::Apply(apply) => settle(&find(&apply.journal), apply, output),
    }
}

/// People may name the cache directory that the journal is in.
fn find(dir: &Path) -> PathBuf {
    let inside = dir.join("journal");
    if dir.join("blobs").is_dir() && inside.is_dir() { inside } else { dir.to_owned() }
}

fn list(dir: &Path, output: &Output) -> Done {
    let entries = journal::list(dir)?;
    let json: Vec<Value> = entries.iter().map(as_json).collect();
    output.result(&Value::from(json), || match &entries[..] {
        [] => "the journal is empty".to_owned(),
        entries => {
            let heading = ["number", "state", "volume", "file", "size", "closed"].map(str::to_owned).to_vec();
            table(&std::iter::once(heading).chain(entries.iter().map(as_row)).collect::<Vec<_>>())
        }
    })
}

fn record_of(entry: &Entry) -> Option<&Record> {
    match &entry.state {
        State::Waiting(record) | State::Conflict(record) => Some(record),
        State::Damaged(_) | State::Newer(_) => None,
    }
}

fn state_of(entry: &Entry) -> &'static str {
    match entry.state {
        State::Waiting(_) => "waiting",
        State::Conflict(_) => "conflict",
        State::Damaged(_) => "damaged",
        State::Newer(_) => "newer",
    }
}

/// The length of a record's content: of appends, of those that the cell may not have.
fn length_of(record: &Record) -> Option<u64> {
    record.content.as_ref().map(|stored| stored.size - record.appends.landed_bytes())
}

fn size_of(record: &Record) -> String {
    match length_of(record).map(display_bytes) {
        None => "attributes only".to_owned(),
        Some(size) if record.appends.is_empty() => size,
        Some(size) => format!("{size} appended"),
    }
}

fn as_row(entry: &Entry) -> Vec<String> {
    let number = entry.number.to_string();
    let Some(record) = record_of(entry) else {
        let why = match &entry.state {
            State::Damaged(why) => why.clone(),
            _ => "a later version of sitefs wrote it".to_owned(),
        };
        return vec![number, state_of(entry).to_owned(), String::new(), why];
    };
    let size = size_of(record);
    let (volume, path) = (record.owner.volume.clone(), record.path.clone());
    vec![number, state_of(entry).to_owned(), volume, path, size, record.at.to_string()]
}

fn as_json(entry: &Entry) -> Value {
    let mut json = json!({ "number": entry.number, "state": state_of(entry), "disk_bytes": entry.bytes });
    if let Some(record) = record_of(entry) {
        json["cell"] = json!(record.owner.cell);
        json["volume"] = json!(record.owner.volume);
        json["path"] = json!(record.path);
        json["ino"] = json!(record.ino.get());
        json["closed_at"] = json!(record.at.to_string());
        json["size"] = json!(length_of(record));
        json["appended"] = json!(!record.appends.is_empty());
        json["complete"] = json!(record.content.as_ref().map(|stored| stored.complete));
    }
    if let State::Damaged(why) = &entry.state {
        json["reason"] = json!(why);
    }
    json
}

fn export(dir: &Path, to: &Path, numbers: &[u64], output: &Output) -> Done {
    let entries = journal::list(dir)?;
    if let Some(missing) = numbers.iter().find(|number| !entries.iter().any(|entry| entry.number == **number))
    {
        return Err(no_entry(*missing));
    }
    places::on_own_disk(to, "directory of the export")?;
    fs::create_dir_all(to).map_err(|error| Error::io(format!("making {}", to.display()), error))?;
    let is_wanted = |entry: &&Entry| match numbers {
        [] => matches!(entry.state, State::Conflict(_)),
        numbers => numbers.contains(&entry.number),
    };
    let mut made = Vec::new();
    for entry in entries.iter().filter(is_wanted) {
        let Some(record) = record_of(entry) else {
            return Err(Error::new(Kind::Corrupt, format!("entry {} cannot be read", entry.number)).into());
        };
        let file = to.join(export_name(entry.number, record));
        let bytes = journal::export(dir, entry.number, record, &file)?;
        let complete = record.content.as_ref().is_none_or(|stored| stored.complete);
        made.push((entry.number, file.display().to_string(), bytes, complete));
    }
    let json: Vec<Value> = made
        .iter()
        .map(|(number, file, bytes, complete)| {
            json!({ "number": number, "file": file, "bytes": bytes, "complete": complete })
        })
        .collect();
    output.result(&Value::from(json), || match &made[..] {
        [] => "nothing to export: there are no conflicts".to_owned(),
        made => made.iter().map(exported).collect::<Vec<_>>().join("\n"),
    })
}

fn exported((number, file, bytes, complete): &(u64, String, u64, bool)) -> String {
    let part = if *complete { "" } else { ", only the changed chunks of it: the rest reads as zeros" };
    format!("{number}: {file}, {}{part}", display_bytes(*bytes))
}

fn export_name(number: u64, record: &Record) -> String {
    match record.path.rsplit('/').next() {
        None | Some("" | "." | "..") => number.to_string(),
        Some(name) => format!("{number}-{}", name.chars().take(80).collect::<String>()),
    }
}

fn no_entry(number: u64) -> Failure {
    Failure::new(
        Error::not_found(format!("the journal has no entry {number}")),
        "`sitefs journal list` shows what there is",
    )
}

fn settle(dir: &Path, apply: &Apply, output: &Output) -> Done {
    let entry = journal::list(dir)?.into_iter().find(|entry| entry.number == apply.number);
    let entry = entry.ok_or_else(|| no_entry(apply.number))?;
    match &apply.to {
        None => discard(dir, &entry, apply.yes, output),
        Some(to) => write(dir, &entry, to, apply.yes, output),
    }
}

/// What an entry is, in a sentence.
fn shown(entry: &Entry) -> String {
    match record_of(entry) {
        None => format!("entry {} ({})", entry.number, state_of(entry)),
        Some(record) => {
            let size = size_of(record);
            let (path, at) = (&record.path, record.at);
            format!("entry {} ({}: {size} for {path}, closed at {at})", entry.number, state_of(entry))
        }
    }
}

fn discard(dir: &Path, entry: &Entry, yes: bool, output: &Output) -> Done {
    if !yes {
        return Err(Error::invalid(format!("nothing was changed: {} would be dropped", shown(entry))))
            .hint("add --yes to drop it for good; `sitefs journal export` keeps a copy");
    }
    journal::discard(dir, entry)?;
    output.result(&json!({ "discarded": entry.number }), || format!("dropped {}", shown(entry)))
}

fn write(dir: &Path, entry: &Entry, to: &Path, yes: bool, output: &Output) -> Done {
    let State::Conflict(record) = &entry.state else {
        let hint = "what waits is committed by the next mount with this journal; damaged entries can only be dropped";
        return Err(Error::invalid(format!("{} is no conflict", shown(entry)))).hint(hint);
    };
    let to = places::absolute(to)?;
    on_a_mount_of(record, &to)?;
    let Some(stored) = &record.content else {
        return Err(Error::invalid(format!("{} has no content", shown(entry))))
            .hint("drop it with --discard");
    };
    let appends = !record.appends.is_empty();
    let there = match fs::symlink_metadata(&to) {
        Ok(meta) if meta.is_file() && appends => {
            format!("behind what is there now, {}", display_bytes(meta.len()))
        }
        Ok(meta) if meta.is_file() => format!("in place of what is there now, {}", display_bytes(meta.len())),
        Ok(_) => return Err(Error::invalid(format!("{} is not a regular file", to.display())).into()),
        Err(_) => "which does not exist".to_owned(),
    };
    let part = if stored.complete { "all of it" } else { "its changed chunks, and nothing between them" };
    let file = to.display();
    if !yes {
        let plan =
            format!("nothing was changed: {} would be written to {file}, {there}; {part}", shown(entry));
        return Err(Error::invalid(plan))
            .hint("add --yes to write it, and to drop it from the journal after that");
    }
    put(dir, entry.number, record, &to)?;
    journal::discard(dir, entry)?;
    let size = length_of(record);
    output.result(&json!({ "applied": entry.number, "file": file.to_string(), "bytes": size }), || {
        format!("wrote {} to {file}", shown(entry))
    })
}

/// Other file systems would take the bytes too, but then they would be in the tree of no volume.
fn on_a_mount_of(record: &Record, path: &Path) -> Done {
    let mounts = places::mounts()?;
    let source = format!("{}:{}", record.owner.cell, record.owner.volume);
    match places::mount_of(path, &mounts) {
        Some(mount) if mount.is_ours() && mount.source == source.as_bytes() => Ok(()),
        _ => Err(Error::invalid(format!("{} is not on a mount of {}", path.display(), record.owner.volume)))
            .hint("mount the volume, and name a file there; `sitefs journal export` copies to anywhere"),
    }
}

/// Writes the content; the cell has it when this returns.
fn put(dir: &Path, number: u64, record: &Record, to: &Path) -> Result<()> {
    let doing = |error| Error::io(format!("writing {}", to.display()), error);
    let Some(stored) = &record.content else { return Ok(()) };
    // Damage shows before the file is touched: what is closed is committed.
    journal::read_all(dir, number, record, |_, _| Ok(()))?;
    let mut options = OpenOptions::new();
    options.create(true);
    if !record.appends.is_empty() {
        let mut file: File = options.append(true).open(to).map_err(doing)?;
        journal::read_all(dir, number, record, |_, bytes| file.write_all(bytes).map_err(doing))?;
        return file.sync_all().map_err(doing);
    }
    let file: File = options.write(true).truncate(stored.complete).open(to).map_err(doing)?;
    file.set_len(stored.size).map_err(doing)?;
    journal::read_all(dir, number, record, |offset, bytes| file.write_all_at(bytes, offset).map_err(doing))?;
    file.sync_all().map_err(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_found_in_a_cache_directory() {
        let base = std::env::temp_dir().join(format!("sitefs-journal-test-{}", std::process::id()));
        fs::create_dir_all(base.join("cache/journal")).unwrap();
        fs::create_dir_all(base.join("cache/blobs")).unwrap();
        assert_eq!(find(&base.join("cache")), base.join("cache/journal"));
        assert_eq!(find(&base.join("cache/journal")), base.join("cache/journal"));
        fs::remove_dir_all(&base).unwrap();
    }
}
