//! `sitefs gc`: what nothing names any more, and deleting it.

use crate::{
    Done,
    admin::{self, Admin, operator},
    failure::Failure,
    output::{Output, table},
};
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use sitefs_base::{Error, Time, display_bytes};
use sitefs_proto::pb::{self, GcCount, GcPhase, GcProgress, GcReport, GcStatusReply};
use std::{io::IsTerminal, time::Duration};

/// Deletes content that nothing names any more, and shows what is kept and why.
///
/// Content that no file, no history and no snapshot names is condemned and stays for the grace time of the cell, so
/// that whoever reads it can finish. Then it is deleted. The cell does this by itself every few hours.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Looks everything through now.
    Run {
        /// Changes nothing: says what is kept and why, and what would be deleted.
        #[arg(long)]
        dry_run: bool,
        /// How many rows of metadata to look at in a second [default: the cell's].
        #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u64).range(1..))]
        rate: Option<u64>,
        #[command(flatten)]
        target: admin::Target,
    },
    /// Shows whether it runs or is paused, and what the last run came to.
    Status {
        #[command(flatten)]
        target: admin::Target,
    },
    /// Stops it, also over restarts of the cell, until `sitefs gc resume`.
    Pause {
        #[command(flatten)]
        target: admin::Target,
    },
    /// Lets it run again.
    Resume {
        #[command(flatten)]
        target: admin::Target,
    },
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, output: &Output) -> Done {
    match &arguments.command {
        Command::Run { dry_run, rate, target } => collect(*dry_run, *rate, target, output),
        Command::Status { target } => status(target, output),
        Command::Pause { target } => pause(true, target, output),
        Command::Resume { target } => pause(false, target, output),
    }
}

fn collect(dry_run: bool, rate: Option<u64>, target: &admin::Target, output: &Output) -> Done {
    let request = pb::RunGcRequest { dry_run, rate, claimed_identity: operator() };
    let bar = Bar::show();
    let done = Admin::connect(target)?.run_gc(request, |far| bar.tell(far));
    drop(bar);
    let report = done?.report.unwrap_or_default();
    let mut shown = as_json(&report);
    shown["dry_run"] = dry_run.into();
    output.result(&shown, || as_text(&report, dry_run))?;
    match report.wrong {
        0 => Ok(()),
        wrong => Err(Failure::from(Error::corrupt(format!(
            "{wrong} blobs are named though they were condemned: they are kept; look at the cell's log"
        )))),
    }
}

fn status(target: &admin::Target, output: &Output) -> Done {
    let status = Admin::connect(target)?.gc_status()?;
    let finished = status.finished.map(Time::try_from).transpose()?;
    let shown = json!({
        "paused": status.paused,
        "running": status.running.as_ref().map(far_as_json),
        "finished": finished.map(|at| at.to_string()),
        "last": status.last.as_ref().map(as_json),
        "grace_seconds": status.grace_seconds,
        "interval_seconds": status.interval_seconds,
        "rate": status.rate,
    });
    output.result(&shown, || status_text(&status, finished))
}

fn pause(paused: bool, target: &admin::Target, output: &Output) -> Done {
    Admin::connect(target)?.pause_gc(paused)?;
    output.result(&json!({ "paused": paused }), || {
        if paused { "paused; `sitefs gc resume` lets it run again" } else { "resumed" }.to_owned()
    })
}

fn status_text(status: &GcStatusReply, finished: Option<Time>) -> String {
    let state = match (&status.running, status.paused) {
        (Some(far), _) => format!("running: {}", far_text(far)),
        (None, true) => "paused: `sitefs gc resume` lets it run again".to_owned(),
        (None, false) => "waiting for its time".to_owned(),
    };
    let finished = finished.map_or("never".to_owned(), |at| at.to_string());
    let settings = format!(
        "last finished {finished}; every {} s, grace {} s, {} rows/s at most",
        status.interval_seconds, status.grace_seconds, status.rate
    );
    match &status.last {
        Some(last) => format!("{state}\n{settings}\n{}", as_text(last, false)),
        None => format!("{state}\n{settings}"),
    }
}

fn counts(report: &GcReport) -> [(&'static str, GcCount); 9] {
    let of = |count: &Option<GcCount>| count.unwrap_or_default();
    [
        ("live", of(&report.live)),
        ("history", of(&report.history)),
        ("snapshot", of(&report.snapshot)),
        ("pin", of(&report.pin)),
        ("grace", of(&report.grace)),
        ("condemned", of(&report.condemned)),
        ("given_up", of(&report.given_up)),
        ("orphans", of(&report.orphans)),
        ("young", of(&report.young)),
    ]
}

fn as_json(report: &GcReport) -> Value {
    let mut shown = json!({
        "sites": report.sites,
        "rows": report.rows,
        "waiting": report.waiting,
        "deleted": report.deleted,
        "expired_uploads": report.expired,
        "foreign": report.foreign,
        "wrong": report.wrong,
        "took_ms": report.took_ms,
        "error": report.error,
    });
    for (name, GcCount { blobs, bytes }) in counts(report) {
        shown[name] = json!({ "blobs": blobs, "bytes": bytes });
    }
    shown
}

fn as_text(report: &GcReport, dry_run: bool) -> String {
    let names = [
        "kept: a file has it",
        "kept: history has it",
        "kept: a snapshot has it",
        "kept: a mount of the past or a restore reads it",
        "kept: its grace is not over",
        if dry_run { "would be condemned" } else { "condemned: its grace begins" },
        if dry_run { "would be given up: its grace is over" } else { "given up: its grace was over" },
        if dry_run { "would be deleted: no row knows it" } else { "deleted: no row knew it" },
        "kept: no row knows it, but it is new",
    ];
    let row = |(name, (_, count)): (&str, (&str, GcCount))| {
        vec![name.to_owned(), count.blobs.to_string(), display_bytes(count.bytes)]
    };
    let heading = ["what", "blobs", "bytes"].map(str::to_owned).to_vec();
    let rows: Vec<_> =
        std::iter::once(heading).chain(names.into_iter().zip(counts(report)).map(row)).collect();
    let mut lines = vec![table(&rows)];
    lines.push(format!(
        "{} objects deleted, {} wait; {} uploads given up; {} rows of {} sites in {:.1} s",
        report.deleted,
        report.waiting,
        report.expired,
        report.rows,
        report.sites,
        Duration::from_millis(report.took_ms).as_secs_f64()
    ));
    if report.foreign > 0 {
        lines.push(format!("{} objects are no blobs of this cell and were left alone", report.foreign));
    }
    if let Some(error) = &report.error {
        lines.push(format!("ended early: {error}"));
    }
    lines.join("\n")
}

fn phase_text(far: &GcProgress) -> &'static str {
    match far.phase() {
        GcPhase::Mark => "reading what rows name",
        GcPhase::Sweep => "comparing blobs",
        GcPhase::Delete => "deleting objects",
        GcPhase::Orphans => "looking for unknown objects",
    }
}

fn far_text(far: &GcProgress) -> String {
    let rows = far.report.as_ref().map_or(0, |report| report.rows);
    format!("{}, {rows} of about {} rows", phase_text(far), far.expected.max(rows))
}

fn far_as_json(far: &GcProgress) -> Value {
    let rows = far.report.as_ref().map_or(0, |report| report.rows);
    json!({
        "phase": phase_text(far),
        "rows": rows,
        "expected": far.expected,
        "dry_run": far.dry_run,
    })
}

/// A bar on stderr until it is dropped; nothing unless stderr is a terminal.
struct Bar(Option<ProgressBar>);

impl Bar {
    fn show() -> Self {
        Self(std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let style =
                ProgressStyle::with_template("{msg} [{bar:40}] {human_pos} of {human_len} rows, {per_sec}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar
        }))
    }

    fn tell(&self, far: &GcProgress) {
        let Some(bar) = &self.0 else { return };
        let rows = far.report.as_ref().map_or(0, |report| report.rows);
        bar.set_length(far.expected.max(rows));
        bar.set_message(phase_text(far));
        bar.set_position(rows);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
