//! What tests look for in the journal of a mount.

use crate::{Mounted, close, sitefs, wait_for};
use serde_json::Value;
use std::{
    fs::File,
    path::Path,
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(40);

/// What `sitefs journal list` says of a journal.
pub fn entries(journal: &Path) -> Vec<Value> {
    let journal = journal.display().to_string();
    let listed = sitefs(&["journal", "list", "--json", &journal]).ok().json();
    listed.as_array().expect("a list of entries").clone()
}

/// The states of what the journal of a mount has.
pub fn states(mount: &Mounted) -> Vec<String> {
    let state = |entry: &Value| entry["state"].as_str().expect("a state").to_owned();
    entries(&mount.cache()).iter().map(state).collect()
}

/// Waits until nothing is left in the journal of a mount.
pub fn wait_until_committed(mount: &Mounted) {
    wait_for("an empty journal", SOON, || states(mount).is_empty());
}

/// A close, by a mount that waits a second, that the cell does not answer: it takes its time and says
/// that all is well.
pub fn close_without_cell(file: File) {
    let start = Instant::now();
    close(file).expect("closing a file without the cell");
    let took = start.elapsed();
    assert!((Duration::from_millis(900)..SOON).contains(&took), "{took:?}");
}
