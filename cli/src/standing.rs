//! `sitefs status DIR`: how a mount stands. The mount says it from memory, so it does not need the cell.

use crate::{
    Done,
    failure::{Failure, Hint},
    mountpoint,
    output::{Output, table},
    places,
};
use serde_json::Value;
use sitefs_base::{Error, display_bytes};
use sitefs_client::{Control, STATUS_XATTR};
use std::{
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

/// How long a mount has to answer.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// More than a status is long.
const STATUS_MAX: usize = 64 * 1024;

/// Shows how the mount at `directory` stands; asks its control socket if `cache` is given.
pub(crate) fn show(directory: &Path, cache: Option<&Path>, output: &Output) -> Done {
    let status = match cache {
        Some(cache) => parse(&Control::connect(cache)?.status()?)?,
        None => read(&mount_at(directory)?)?,
    };
    output.result(&status, || text(&status))
}

/// A connection to the control socket of the mount at `at`.
pub(crate) fn control_of(at: &Path) -> Result<Control, Failure> {
    mountpoint::is_ours(at)?;
    let status = read(at)?;
    let cache = status["cache_dir"].as_str().ok_or_else(|| Error::internal("the status has no cache_dir"))?;
    Ok(Control::connect(Path::new(cache))?)
}

/// The mount that holds `directory`, which may be anything in it.
fn mount_at(directory: &Path) -> Result<PathBuf, Failure> {
    let path = places::absolute(directory)?;
    let mounts = places::mounts()?;
    match places::mount_of(&path, &mounts) {
        Some(mount) if mount.is_ours() => Ok(mount.at.clone()),
        _ => Err(Error::not_found(format!("no volume is mounted at {}", path.display()))).hint(
            "give the directory of a mount; without one `sitefs status` shows a cell, with --cache the mount \
             that uses that cache",
        ),
    }
}

/// Asks the mount through the extended attribute of its root. A mount that hangs must not hang this too,
/// so a thread asks; it is left behind if nothing comes.
fn read(at: &Path) -> Result<Value, Failure> {
    let (tell, told) = mpsc::channel();
    let path = at.to_owned();
    std::thread::spawn(move || {
        let mut value = vec![0; STATUS_MAX];
        let answer = rustix::fs::getxattr(&path, STATUS_XATTR, &mut value[..]).map(|len| {
            value.truncate(len);
            value
        });
        // Nobody waits any more if it came late.
        let _ = tell.send(answer);
    });
    let shown = at.display();
    let hint = "its control socket may still answer: give the mount's cache directory with --cache";
    let answer = told.recv_timeout(ANSWER_TIME).map_err(|_| {
        Error::unavailable(format!("the mount at {shown} does not answer within {} s", ANSWER_TIME.as_secs()))
    });
    match answer.hint(hint)? {
        Ok(value) => parse(&String::from_utf8_lossy(&value)),
        Err(rustix::io::Errno::NOTCONN) => {
            Err(Error::unavailable(format!("the process of the mount at {shown} has died")))
                .hint("`sitefs mount` at the same place takes it over, `sitefs umount` removes it")
        }
        Err(error) => Err(Error::io(format!("asking the mount at {shown}"), error.into())).hint(hint),
    }
}

fn parse(text: &str) -> Result<Value, Failure> {
    Ok(serde_json::from_str(text).map_err(|error| Error::internal("reading the status").because(error))?)
}

fn text(status: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let bytes = |value: &Value| display_bytes(number(value));
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let (session, lease, cache) = (&status["session"], &status["lease"], &status["cache"]);
    let (dirty, journal, credit) = (&status["dirty"], &status["journal"], &status["credit"]);
    let connected = if session["connected"].as_bool() == Some(true) { "attached" } else { "not attached" };
    let held = match lease["held"].as_bool() {
        Some(true) => format!("held, ends in {:.1} s", lease["seconds_left"].as_f64().unwrap_or(0.0)),
        _ => "not held".to_owned(),
    };
    let rate = cache["hit_rate"].as_f64().map_or_else(
        || "not used yet".to_owned(),
        |rate| {
            format!("{:.0} % of {} found", rate * 100.0, number(&cache["hits"]) + number(&cache["misses"]))
        },
    );
    let passed = &status["passthrough"];
    let passthrough = match passed["on"].as_bool() {
        Some(true) => format!(
            "{} opens; {} files, {}",
            number(&passed["opens"]),
            number(&passed["files"]),
            bytes(&passed["bytes"])
        ),
        _ => "off".to_owned(),
    };
    let mut rows = vec![
        row("volume", format!("{} at {}", word(&status["volume"]), word(&status["mountpoint"]))),
        row("cell", format!("{} ({})", word(&status["cell"]), word(&status["address"]))),
        row("session", format!("{}, {connected}", word(&session["id"]))),
        row("lease", held),
        row(
            "lag",
            format!(
                "{} events behind, at seq {}",
                number(&session["events_behind"]),
                number(&session["seq"])
            ),
        ),
        row("unanswered", format!("{} operations", number(&session["unanswered"]))),
        row("cache", format!("{} of {}, {rate}", bytes(&cache["bytes"]), bytes(&cache["limit_bytes"]))),
        row("passthrough", passthrough),
        row("dirty", format!("{} files, {}", number(&dirty["files"]), bytes(&dirty["bytes"]))),
        row(
            "journal",
            format!(
                "{} records, {}, {} conflicts",
                number(&journal["records"]),
                bytes(&journal["bytes"]),
                number(&journal["conflicts"])
            ),
        ),
        row("credit", format!("{}, {} inodes", bytes(&credit["bytes"]), number(&credit["inodes"]))),
        row("open files", number(&status["open_files"]).to_string()),
        row("process", format!("{}, up {} s", number(&status["pid"]), number(&status["uptime_seconds"]))),
        row("version", word(&status["version"])),
    ];
    if let Some(reason) = status["read_only"]["reason"].as_str() {
        rows.push(row("read-only", reason.to_owned()));
    } else if status["read_only"]["mount"].as_bool() == Some(true) {
        rows.push(row("read-only", "mounted for reading".to_owned()));
    }
    if status["draining"].as_bool() == Some(true) {
        rows.push(row("draining", "nothing is opened for writing: it is about to be unmounted".to_owned()));
    }
    table(&rows)
}
