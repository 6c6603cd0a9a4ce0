//! `sitefs umount`.

use crate::{
    Done,
    failure::{Failure, Hint},
    holders,
    mountpoint::{self, Taken},
    output::Output,
    places, standing,
};
use serde_json::{Value, json};
use sitefs_base::Error;
use sitefs_client::{Control, DRAIN_MAX};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Unmounts a volume.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where it is mounted.
    directory: PathBuf,
    /// First commits what is not committed, while nothing new is opened for writing, and returns when the
    /// mount's process has ended. Exit code 75 and still mounted, if something cannot be committed in time.
    #[arg(long)]
    wait: bool,
    /// How long --wait tries to commit [default: 30].
    #[arg(long, value_name = "SECONDS", requires = "wait", value_parser = clap::value_parser!(u64).range(..=3600))]
    timeout: Option<u64>,
    /// Unmounts also while programs use it, which keep what they have open until they end; with --wait
    /// also what cannot be committed in time, which is lost.
    #[arg(long)]
    force: bool,
    /// The cache directory of the mount: needed for --wait when the mount itself does not answer.
    #[arg(long, value_name = "DIR", requires = "wait")]
    cache: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, output: &Output) -> Done {
    let how = How {
        directory: &arguments.directory,
        drain: arguments.wait.then(|| arguments.timeout.map_or(DRAIN_MAX, Duration::from_secs)),
        force: arguments.force,
        cache: arguments.cache.as_deref(),
    };
    how.take_off()?;
    let shown = arguments.directory.display().to_string();
    output.result(&json!({ "unmounted": shown }), || format!("{shown} is unmounted"))
}

/// How a mount is taken off.
pub(crate) struct How<'a> {
    /// Where it is.
    pub(crate) directory: &'a Path,
    /// Whether everything is committed first, and how long that may take.
    pub(crate) drain: Option<Duration>,
    /// Whether it goes although it is in use or something is not committed.
    pub(crate) force: bool,
    /// Its cache directory, if the mount need not be asked for it.
    pub(crate) cache: Option<&'a Path>,
}

impl How<'_> {
    /// Does it.
    pub(crate) fn take_off(&self) -> Done {
        let at = places::absolute(self.directory)?;
        // Held until the end: while it is open nothing is opened for writing.
        let control = match self.drain {
            Some(limit) if !mountpoint::is_dead_mount(&at)? => Some(self.drain(&at, limit)?),
            _ => None,
        };
        if let Taken::InUse = mountpoint::unmount(&at)? {
            if !self.force {
                return Err(in_use(&at));
            }
            mountpoint::detach(&at)?;
        }
        // Detached by force it ends when its last user does.
        let (Some(mut control), false) = (control, self.force) else { return Ok(()) };
        if control.ended(DRAIN_MAX) {
            return Ok(());
        }
        Err(Error::unavailable("it is unmounted, but the mount's process has not ended yet").into())
    }

    fn drain(&self, at: &Path, limit: Duration) -> Result<Control, Failure> {
        let mut control = match self.cache {
            Some(cache) => Control::connect(cache)?,
            None => standing::control_of(at)?,
        };
        let answer = control.drain(limit)?;
        let left = serde_json::from_str::<Value>(&answer).ok().and_then(|answer| answer["left"].as_u64());
        match left {
            Some(0) => Ok(control),
            Some(_) if self.force => Ok(control),
            Some(left) => {
                let seconds = limit.as_secs();
                Err(Error::conflict(format!("{left} changed files could not be committed in {seconds} s")))
                    .hint("it is still mounted: see whether the cell answers, or lose them with --force")
            }
            None => Err(Error::internal(format!("the mount answered {answer}")).into()),
        }
    }
}

fn in_use(at: &Path) -> Failure {
    let shown = at.display();
    let held = holders::of(at);
    let by = match held.as_slice() {
        [] => String::new(),
        some => format!(" by {}", some.join(", ")),
    };
    Failure::new(
        Error::unavailable(format!("{shown} is in use{by}")),
        format!(
            "end these programs or leave the directory, then try again; --force detaches it at once; \
             `fuser -vm {shown}` shows all"
        ),
    )
}
