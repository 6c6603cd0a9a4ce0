//! Runs the correctness suites of `tests/suites`.

use crate::run;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// Enough for the slowest suite on a slow machine.
const DEADLINE: Duration = Duration::from_secs(1800);

/// One run of a suite.
pub struct Suite {
    command: Command,
    name: String,
}

impl Suite {
    /// The suite `name` on the mount `root`.
    pub fn new(name: &str, root: &Path) -> Self {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("suites").join(name);
        assert!(script.exists(), "{} is not there", script.display());
        let interpreter = if name.ends_with(".py") { "python3" } else { "bash" };
        let mut command = Command::new(interpreter);
        command.arg(script).arg(root).env("SUITE_FSTYPE", "fuse.sitefs");
        Self { command, name: name.to_owned() }
    }

    /// The same with a second mount of the volume.
    #[must_use]
    pub fn and(mut self, second: &Path) -> Self {
        self.command.arg(second);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it. It must find no failure but those `known`, which a later issue owns.
    pub fn expect(self, known: &[&str]) {
        let finished = run(self.command, DEADLINE);
        let last = finished.stdout.lines().last().unwrap_or_default().to_owned();
        println!("\n{}: {last}", self.name);
        let failed: BTreeSet<String> = finished.stdout.lines().filter_map(failure).collect();
        let new: Vec<&String> = failed.iter().filter(|name| !known.contains(&name.as_str())).collect();
        let gone: Vec<&&str> = known.iter().filter(|name| !failed.contains(**name)).collect();
        if !gone.is_empty() {
            println!("{}: these pass now and can be taken off the list: {gone:?}", self.name);
        }
        assert!(new.is_empty(), "{} fails in {new:?}\n{}\n{}", self.name, finished.stdout, finished.stderr);
        let ran = last.split(' ').next().and_then(|count| count.parse::<u32>().ok());
        assert!(ran.is_some_and(|passed| passed > 0), "{} tested nothing: {finished:#?}", self.name);
        assert!(finished.code == 0 || !failed.is_empty(), "{}: {finished:#?}", self.name);
    }
}

/// The name in a line such as `FAIL name : reason`, `FAIL name: reason` or `FAIL [class] name: reason`.
fn failure(line: &str) -> Option<String> {
    let mut words = line.strip_prefix("FAIL ")?.split_whitespace();
    let name = words.find(|word| !word.starts_with('['))?;
    Some(name.trim_end_matches(':').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_found_by_name() {
        assert_eq!(failure("FAIL chmod::etxtbsy").as_deref(), Some("chmod::etxtbsy"));
        assert_eq!(failure("FAIL acl_inherit: x y").as_deref(), Some("acl_inherit"));
        assert_eq!(failure("FAIL gc : exit 1").as_deref(), Some("gc"));
        assert_eq!(failure("FAIL [A] listing_is_stable: x").as_deref(), Some("listing_is_stable"));
        assert_eq!(failure("ok FAIL"), None);
    }
}
