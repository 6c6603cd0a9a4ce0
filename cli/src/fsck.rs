//! `sitefs fsck`: checks a cell, or a node that does not run.

mod show;

use crate::{
    Done,
    admin::{self, Admin},
    failure::{Failure, Hint},
    output::Output,
};
use show::{Bar, report};
use sitefs_base::{
    ByteSize, Error, Result,
    check::{CheckEvent, CheckFinding, CheckOptions, CheckSummary},
};
#[cfg(feature = "server")]
use std::path::PathBuf;

/// Something was found and all of it is put right.
const REPAIRED: u8 = 1;
/// Something was found and is as it was.
const LEFT: u8 = 4;
/// The check was ended before it was done.
const ENDED: u8 = 32;
/// Findings that are shown; more are counted.
const SHOWN_MAX: usize = 100_000;

/// Checks all volumes of a cell: names, attributes, layouts, history, blobs, sessions, counters, and whether the object
/// store has every object. The cell serves on meanwhile; the check sees it as it was when it began.
///
/// Exit codes: 0 nothing found, 1 everything found is put right, 4 something found is left, 32 ended before it was done; errors as
/// for other commands.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Checks this data directory, of a server or a demo that does not run; nothing in it is changed.
    #[cfg(feature = "server")]
    #[arg(long, value_name = "DIR", conflicts_with_all = ["repair", "yes"])]
    data: Option<PathBuf>,
    /// Checks the tree of every snapshot too.
    #[arg(long)]
    snapshots: bool,
    /// Leaves the object store alone.
    #[arg(long, conflicts_with = "deep")]
    no_objects: bool,
    /// Reads every object too and hashes it.
    #[arg(long)]
    deep: bool,
    /// Rows to read in a second at most [default: 200000 of a cell that runs].
    #[arg(long, value_name = "ROWS")]
    rows_per_second: Option<u64>,
    /// Bytes of objects to read in a second at most, with --deep [default: 64MiB of a cell that runs].
    #[arg(long, value_name = "SIZE", requires = "deep")]
    bytes_per_second: Option<ByteSize>,
    /// Goes on with --deep where an earlier check has said.
    #[arg(long, value_name = "PLACE", requires = "deep")]
    resume: Option<String>,
    /// Puts right what is safe to put right: says what it would do, and does it with --yes.
    #[arg(long)]
    repair: bool,
    /// Yes, really.
    #[arg(long, requires = "repair")]
    yes: bool,
    #[command(flatten)]
    target: admin::Target,
}

/// What a check has told.
#[derive(Default)]
struct Told {
    findings: Vec<CheckFinding>,
    more: u64,
    resume: Option<String>,
    summary: Option<CheckSummary>,
}

impl Told {
    fn hear(&mut self, event: CheckEvent, bar: &mut Bar) {
        match event {
            CheckEvent::Found(finding) if self.findings.len() < SHOWN_MAX => self.findings.push(*finding),
            CheckEvent::Found(_) => self.more += 1,
            CheckEvent::Progress(progress) => {
                bar.show(&progress);
                self.resume = progress.resume.or(self.resume.take());
            }
            CheckEvent::Done(summary) => self.summary = Some(summary),
        }
    }

    fn damage(&self) -> usize {
        self.findings.iter().filter(|finding| finding.is_damage).count()
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, output: &Output) -> Done {
    let options = CheckOptions {
        rows_per_second: arguments.rows_per_second,
        snapshots: arguments.snapshots,
        objects: !arguments.no_objects,
        deep: arguments.deep,
        bytes_per_second: arguments.bytes_per_second.map(ByteSize::get),
        resume: arguments.resume.clone(),
    };
    #[cfg(feature = "server")]
    if let Some(data) = &arguments.data {
        let (told, ended) = offline::check(data, options);
        return finish(&told, ended, output, 0);
    }
    let mut admin = Admin::connect(&arguments.target)?;
    let (told, ended) = online(&mut admin, options);
    if ended.is_err() || !arguments.repair {
        return finish(&told, ended, output, 0);
    }
    let repairs: Vec<_> = told.findings.iter().filter_map(|finding| finding.repair.clone()).collect();
    if !arguments.yes && !repairs.is_empty() {
        report(&told, output, 0)?;
        let plan: Vec<_> = repairs.iter().map(|(what, _)| format!("  {what}")).collect();
        output.say(&format!("the plan:\n{}", plan.join("\n")));
        return Err(Error::invalid("nothing was changed")).hint("add --yes to do what the plan says");
    }
    let done = admin.repair(repairs.into_iter().map(|(_, body)| body).collect())?;
    finish(&told, Ok(()), output, done)
}

fn online(admin: &mut Admin, options: CheckOptions) -> (Told, Result<()>) {
    let (mut told, mut bar) = (Told::default(), Bar::default());
    let ended = admin.check(options, |event| told.hear(event, &mut bar));
    (told, ended)
}

/// Shows what was found and says by the exit code what that is.
fn finish(told: &Told, ended: Result<()>, output: &Output, repaired: u64) -> Done {
    report(told, output, repaired)?;
    if let Err(error) = ended {
        let Some(resume) = &told.resume else { return Err(error.into()) };
        let hint = format!("to go on with reading objects, add --resume {resume}");
        return Err(Failure::new(error, hint).with_code(ENDED));
    }
    let found = u64::try_from(told.findings.len()).unwrap_or(u64::MAX).saturating_add(told.more);
    if found == 0 {
        return Ok(());
    }
    let damage = told.damage();
    let left = found.saturating_sub(repaired);
    let what = format!("found {found} ({damage} of them damage), repaired {repaired}");
    let error = Error::corrupt(what);
    Err(if left == 0 {
        Failure::new(error, "run fsck again: nothing should be found").with_code(REPAIRED)
    } else {
        Failure::from(error).with_code(LEFT)
    })
}

#[cfg(feature = "server")]
mod offline {
    use super::{Bar, CheckOptions, Told};
    use crate::signals::Stop;
    use sitefs_base::{Error, Result, SystemClock};
    use std::{path::Path, sync::Arc};
    use tokio_util::sync::CancellationToken;

    pub(super) fn check(data: &Path, options: CheckOptions) -> (Told, Result<()>) {
        let (mut told, mut bar) = (Told::default(), Bar::default());
        // A demo keeps the data directory of its cell in its own.
        let cell = data.join("cell");
        let dir = if data.join("sitefs-demo").exists() { &cell } else { data };
        let ended = runtime().and_then(|runtime| {
            runtime.block_on(async {
                let token = CancellationToken::new();
                let check = sitefs_metadata::server::check_stopped(
                    dir,
                    options,
                    Arc::new(SystemClock),
                    |event| told.hear(event, &mut bar),
                    token.clone(),
                );
                let mut stop = Stop::listen()?;
                tokio::pin!(check);
                tokio::select! {
                    done = &mut check => return done,
                    () = stop.next() => token.cancel(),
                }
                check.await
            })
        });
        (told, ended)
    }

    fn runtime() -> Result<tokio::runtime::Runtime> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        runtime.map_err(|error| Error::io("starting the runtime", error))
    }
}
