//! Findings and progress for people and programs.

use super::Told;
use crate::{Done, output::Output};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use sitefs_base::{
    check::{CheckFinding, CheckProgress},
    display_bytes,
};
use std::{fmt::Write, io::IsTerminal};

/// A bar per stage, where a person looks on.
#[derive(Default)]
pub(super) struct Bar {
    stage: String,
    bar: Option<ProgressBar>,
}

impl Bar {
    pub fn show(&mut self, progress: &CheckProgress) {
        if !std::io::stderr().is_terminal() {
            return;
        }
        if self.stage != progress.stage {
            self.end();
            self.stage.clone_from(&progress.stage);
            let bar = ProgressBar::with_draw_target(Some(progress.total), ProgressDrawTarget::stderr());
            // A template that cannot be parsed would leave the usual style.
            if let Ok(style) = ProgressStyle::with_template("{msg:8} {wide_bar} {pos}/{len} {per_sec} {eta}")
            {
                bar.set_style(style);
            }
            bar.set_message(progress.stage.clone());
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.end();
    }
}

/// Everything that was told.
pub(super) fn report(told: &Told, output: &Output, repaired: u64) -> Done {
    let summary = told.summary.unwrap_or_default();
    let json = json!({
        "complete": told.summary.is_some(),
        "findings": told.findings.iter().map(as_json).collect::<Vec<_>>(),
        "more_findings": told.more + summary.untold,
        "damage": told.damage(),
        "repaired": repaired,
        "resume": told.resume,
        "checked": {
            "rows": summary.rows,
            "volumes": summary.volumes,
            "inodes": summary.inodes,
            "references": summary.references,
            "blobs": summary.blobs,
            "objects": summary.objects,
            "unused_objects": summary.unused_objects,
            "bytes_read": summary.bytes_read,
            "replayed_entries": summary.replayed,
        },
    });
    output.result(&json, || text(told))
}

fn as_json(finding: &CheckFinding) -> Value {
    json!({
        "kind": finding.kind,
        "damage": finding.is_damage,
        "volume": finding.volume,
        "path": finding.path,
        "what": finding.what,
        "means": finding.means,
        "advice": finding.advice,
        "object": finding.object,
        "repair": finding.repair.as_ref().map(|(what, _)| what),
    })
}

fn text(told: &Told) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for finding in &told.findings {
        let place = match (&finding.volume, &finding.path) {
            (Some(volume), Some(path)) => format!("{volume}:{path}: "),
            (Some(volume), None) => format!("{volume}: "),
            _ => String::new(),
        };
        let CheckFinding { kind, what, means, advice, .. } = finding;
        let _ = writeln!(text, "{place}{kind}: {what}\n    {means}\n    To do: {advice}.");
    }
    let more = told.more + told.summary.map_or(0, |summary| summary.untold);
    if more > 0 {
        let _ = writeln!(text, "and {more} more");
    }
    match told.summary {
        Some(summary) => {
            let _ = write!(
                text,
                "checked {} volumes: {} inodes, {} references to {} blobs, {} rows; {} objects ({} belong to no blob), {} read",
                summary.volumes,
                summary.inodes,
                summary.references,
                summary.blobs,
                summary.rows,
                summary.objects,
                summary.unused_objects,
                display_bytes(summary.bytes_read),
            );
        }
        None => text.push_str("the check did not come to its end"),
    }
    text
}
