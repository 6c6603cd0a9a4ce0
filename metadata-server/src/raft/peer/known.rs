//! What this node has heard of the others. What they have promised is kept on disk, so that a node that
//! comes back with an older copy of its directory is recognised.

use crate::raft::{data_dir::write_durably, member::Birth};
use sitefs_base::{Error, Result};
use std::{
    collections::HashMap,
    fmt::Write,
    fs,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

const FORMAT: &str = "sitefs-peers 1";

/// What a node has promised durably: its vote and what it has applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::raft) struct Progress {
    pub(in crate::raft) term: u64,
    pub(in crate::raft) applied: u64,
}

impl Progress {
    fn max(self, other: Self) -> Self {
        Self { term: self.term.max(other.term), applied: self.applied.max(other.applied) }
    }

    /// Whether a directory with `own` may be one that had come to `self`.
    pub(super) fn is_reached_by(self, own: Self) -> bool {
        own.term >= self.term && own.applied >= self.applied
    }
}

/// How a node stands, in its own words.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(in crate::raft) struct Report {
    pub(in crate::raft) node: u64,
    pub(in crate::raft) birth: Birth,
    pub(in crate::raft) progress: Progress,
    pub(in crate::raft) last_log: u64,
    pub(in crate::raft) flushed: u64,
    pub(in crate::raft) log_bytes: u64,
    pub(in crate::raft) state_bytes: u64,
    pub(in crate::raft) disk_free: u64,
    pub(in crate::raft) disk_total: u64,
    pub(in crate::raft) version: String,
    pub(in crate::raft) leads: bool,
    pub(in crate::raft) clock_ns: i64,
}

/// A report, and when it came.
#[derive(Clone, Debug)]
pub(in crate::raft) struct Heard {
    pub(in crate::raft) report: Report,
    pub(in crate::raft) at: Duration,
    /// How far the node's clock was ahead of this one's then.
    pub(in crate::raft) ahead_ms: i64,
}

/// The table of other nodes.
#[derive(Debug)]
pub(in crate::raft) struct Known {
    path: PathBuf,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    promised: HashMap<u64, (Birth, Progress)>,
    heard: HashMap<u64, Heard>,
    changed: bool,
}

impl Known {
    /// Reads what was known; nothing if there is no file.
    pub(in crate::raft) fn open(path: PathBuf) -> Result<Self> {
        let promised = match fs::read(&path) {
            Ok(bytes) => parse(&String::from_utf8_lossy(&bytes))
                .ok_or_else(|| Error::corrupt(format!("{} has an unknown form", path.display())))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => HashMap::new(),
            Err(error) => return Err(Error::io(format!("reading {}", path.display()), error)),
        };
        Ok(Self { path, table: Mutex::new(Table { promised, ..Table::default() }) })
    }

    /// Takes a report; what was known of the node before it.
    pub(super) fn hear(&self, report: Report, at: Duration, ahead_ms: i64) -> Progress {
        let mut table = self.lock();
        let before = table.promised.get(&report.node).copied();
        let before = before.filter(|(birth, _)| *birth == report.birth).map(|(_, progress)| progress);
        let now = before.unwrap_or_default().max(report.progress);
        table.changed |= before != Some(now);
        table.promised.insert(report.node, (report.birth, now));
        table.heard.insert(report.node, Heard { report, at, ahead_ms });
        before.unwrap_or_default()
    }

    /// What was last heard of a node.
    pub(in crate::raft) fn last(&self, node: u64, birth: Birth) -> Option<Heard> {
        let table = self.lock();
        table.heard.get(&node).filter(|heard| heard.report.birth == birth).cloned()
    }

    /// The last entry that a node is known to have applied.
    pub(in crate::raft) fn applied(&self, node: u64, birth: Birth) -> Option<u64> {
        let table = self.lock();
        table.promised.get(&node).filter(|(known, _)| *known == birth).map(|(_, progress)| progress.applied)
    }

    /// Writes down what has changed.
    pub(super) fn save(&self) -> Result<()> {
        let text = {
            let mut table = self.lock();
            if !std::mem::take(&mut table.changed) {
                return Ok(());
            }
            text(&table.promised)
        };
        // What was not written down is tried again.
        write_durably(&self.path, text.as_bytes()).inspect_err(|_| self.lock().changed = true)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn text(promised: &HashMap<u64, (Birth, Progress)>) -> String {
    let mut out = format!("{FORMAT}\n");
    for (node, (birth, Progress { term, applied })) in promised {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{node} {birth} {term} {applied}");
    }
    out
}

fn parse(text: &str) -> Option<HashMap<u64, (Birth, Progress)>> {
    let mut lines = text.lines();
    if lines.next() != Some(FORMAT) {
        return None;
    }
    lines.map(line).collect()
}

fn line(line: &str) -> Option<(u64, (Birth, Progress))> {
    let mut parts = line.split(' ');
    let node = parts.next()?.parse().ok()?;
    let birth = Birth::new(u128::from_str_radix(parts.next()?, 16).ok()?);
    let progress = Progress { term: parts.next()?.parse().ok()?, applied: parts.next()?.parse().ok()? };
    Some((node, (birth, progress)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(birth: u128, term: u64, applied: u64) -> Report {
        let progress = Progress { term, applied };
        Report { node: 2, birth: Birth::new(birth), progress, ..Report::default() }
    }

    #[test]
    fn what_a_node_promised_is_remembered_over_a_restart_and_only_grows() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Known::open(dir.path().join("peers")).unwrap();
        let known = open();
        assert_eq!(known.hear(report(1, 5, 100), Duration::ZERO, 0), Progress::default());
        known.hear(report(1, 4, 200), Duration::ZERO, 0);
        known.save().unwrap();
        assert_eq!(open().applied(2, Birth::new(1)), Some(200));
        assert_eq!(open().applied(2, Birth::new(9)), None, "another directory");
        let before = open().hear(report(1, 5, 150), Duration::ZERO, 0);
        assert_eq!(before, Progress { term: 5, applied: 200 });
        assert!(!before.is_reached_by(Progress { term: 5, applied: 150 }));
        assert!(!before.is_reached_by(Progress { term: 4, applied: 300 }));
        assert!(before.is_reached_by(Progress { term: 5, applied: 200 }));
        // Another directory begins anew.
        assert_eq!(open().hear(report(9, 0, 0), Duration::ZERO, 0), Progress::default());
        fs::write(dir.path().join("peers"), "something").unwrap();
        assert!(Known::open(dir.path().join("peers")).is_err());
    }
}
