//! `sitefs mount` and `sitefs umount`.

use crate::{
    Done,
    failure::{Failure, Hint},
    mountpoint::{self, Missing},
    output::Output,
    places,
    progress::Progress,
    signals::Stop,
};
use serde_json::json;
use sitefs_base::{ByteSize, Error, Identity, Kind, Role, VolumeView, limits::CLOSE_DEADLINE};
use sitefs_client::{JournalConfig, Mount, MountConfig, MountOptions, journal::Step};
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::oneshot;

/// Mounts a volume until it is unmounted or told to stop (Ctrl-C, SIGTERM).
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The volume: SITE/ENVIRONMENT, for example acme/live. With @SNAPSHOT or @TIME as it was then,
    /// read-only: acme/live@before-upgrade, acme/live@2026-11-20T12:00:00Z.
    volume: VolumeView,
    /// Where to mount it: an empty directory.
    directory: PathBuf,
    /// Where the cell is.
    #[arg(long, value_name = "HOST:PORT")]
    cell: String,
    /// Where content is cached, and kept that the cell could not take yet: a directory on this
    /// host's own disk, for this mount alone.
    #[arg(long, value_name = "DIR")]
    cache: PathBuf,
    /// Where close() keeps content while the cell does not answer: a directory on this host's own disk
    /// that outlives the mount, for this mount alone; `journal` in the cache directory if not given.
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    #[command(flatten)]
    options: OptionArguments,
    /// Mounts for reading only.
    #[arg(long)]
    read_only: bool,
    /// Connects without certificates; to loopback addresses only.
    #[arg(long)]
    insecure: bool,
}

/// What `mount` and `demo` have in common.
#[derive(clap::Args)]
pub(crate) struct OptionArguments {
    /// How much content is cached.
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    cache_size: ByteSize,
    /// How much close() keeps while the cell does not answer, conflicts included; 0 keeps nothing.
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    journal_size: ByteSize,
    /// After how many seconds without an answer close() leaves content to the journal.
    #[arg(long, value_name = "SECONDS", default_value_t = CLOSE_DEADLINE.as_secs(), hide = true)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=600))]
    close_deadline: u64,
    /// Lets other users in; always so when you are root.
    #[arg(long)]
    allow_other: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, output: &Output) -> Done {
    check_cell(&arguments.cell)?;
    if !arguments.insecure {
        return Err(insecure_needed());
    }
    let directory = mountpoint::prepare(&arguments.directory, Missing::Refuse)?;
    mountpoint::apart(&directory, &arguments.cache, "cache directory")?;
    if let Some(journal) = &arguments.journal {
        mountpoint::apart(&directory, journal, "journal directory")?;
    }
    let view = &arguments.volume;
    let mut config = arguments.options.config(
        view,
        directory.clone(),
        arguments.cell.clone(),
        arguments.cache.clone(),
        arguments.read_only || view.at.is_some(),
    );
    config.journal.dir.clone_from(&arguments.journal);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("starting the runtime", error))?;
    let mut stop = runtime.block_on(async { Stop::listen() })?;
    let mount = start(config)?;
    let shown = directory.display().to_string();
    output.result(&json!({ "volume": view.to_string(), "mountpoint": shown }), || {
        format!("{view} is mounted at {shown}; Ctrl-C or `sitefs umount {shown}` ends it")
    })?;
    runtime.block_on(async {
        tokio::select! {
            () = stop.next() => {}
            () = ended(&mount) => {}
        }
    });
    output.say("unmounting: content on its way is finished first");
    end(&mount, &directory)
}

/// Mounts, and shows that this takes time.
pub(crate) fn start(config: MountConfig) -> Result<Arc<Mount>, Failure> {
    check_cache(&config.cache_dir)?;
    if let Some(journal) = &config.journal.dir {
        places::outside_cells(journal, "journal")?;
        places::on_own_disk(journal, "journal")?;
    }
    let _progress = Progress::show("mounting");
    let (cell, view, at) = (config.cell.clone(), config.view.clone(), config.mountpoint.clone());
    let error = match Mount::start(config) {
        Ok(mount) => return Ok(Arc::new(mount)),
        Err(error) => error.while_doing(format_args!("mounting {view} at {}", at.display())),
    };
    let hint = match error.kind() {
        Kind::Unavailable => format!("is a cell running at {cell}?"),
        // An errno is one of this machine's files; the cell gives none for a missing volume.
        Kind::NotFound if error.named_errno().is_none() && view.at.is_none() => {
            format!("`sitefs volume create {view}` makes a volume")
        }
        Kind::Denied => "mount as root, or install fuse3 for fusermount3".to_owned(),
        _ => return Err(error.into()),
    };
    Err(error).hint(hint)
}

/// Refuses what can be no cache of this mount.
fn check_cache(cache: &Path) -> Result<(), Error> {
    if cache.exists() && !cache.is_dir() {
        return Err(Error::invalid(format!(
            "{} is not a directory, so it cannot be the cache: choose a directory with --cache",
            cache.display()
        )));
    }
    places::outside_cells(cache, "cache")?;
    places::on_own_disk(cache, "cache")
}

/// Waits until somebody unmounts.
pub(crate) async fn ended(mount: &Arc<Mount>) {
    let (tell, told) = oneshot::channel();
    let mount = mount.clone();
    let waiter = std::thread::Builder::new().name("sitefs-ended".to_owned());
    // The thread ends with the mount. Without it the mount still ends at a signal.
    let started = waiter.spawn(move || {
        mount.wait_ended();
        let _ = tell.send(());
    });
    match started {
        Ok(_) => drop(told.await),
        Err(_) => std::future::pending().await,
    }
}

/// Unmounts in order, and leaves no stale mount where that fails.
pub(crate) fn end(mount: &Mount, directory: &Path) -> Done {
    let ended = mount.unmount();
    if mountpoint::is_mounted(directory)? {
        mountpoint::detach(directory)?;
    }
    Ok(ended?)
}

/// Unmounts a volume.
#[derive(clap::Args)]
pub(crate) struct UmountArguments {
    /// Where it is mounted.
    directory: PathBuf,
}

/// Runs `sitefs umount`.
pub(crate) fn umount(arguments: &UmountArguments, output: &Output) -> Done {
    mountpoint::unmount(&arguments.directory)?;
    let shown = arguments.directory.display().to_string();
    output.result(&json!({ "unmounted": shown }), || format!("{shown} is unmounted"))
}

impl OptionArguments {
    /// The whole configuration of a mount.
    pub(crate) fn config(
        &self,
        view: &VolumeView,
        mountpoint: PathBuf,
        cell: String,
        cache_dir: PathBuf,
        read_only: bool,
    ) -> MountConfig {
        let volume = view.volume.clone();
        let role = if read_only { Role::Reader(volume) } else { Role::Writer(volume) };
        let allow_other = self.allow_other || rustix::process::geteuid().is_root();
        MountConfig {
            view: view.clone(),
            mountpoint,
            cell,
            cache_dir,
            cache_bytes: self.cache_size.get(),
            journal: JournalConfig {
                dir: None,
                max_bytes: self.journal_size.get(),
                close_deadline: Duration::from_secs(self.close_deadline),
                cut: journal_cut(),
            },
            options: MountOptions { read_only, allow_other },
            // In insecure mode a cell does not compare its name, which the mount learns at attach.
            identity: Identity::new("local", role),
        }
    }
}

/// Where a test of a debug build wants the process to end, as a crash would end it.
fn journal_cut() -> Option<Step> {
    let asked = std::env::var("SITEFS_TEST_JOURNAL_CUT").ok().filter(|_| cfg!(debug_assertions))?;
    Step::ALL.into_iter().find(|step| format!("{step:?}") == asked)
}

/// `HOST:PORT` on this machine: without certificates nothing else is safe.
fn check_cell(cell: &str) -> Done {
    let parts = cell.rsplit_once(':').filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    let Some((host, _)) = parts else {
        return Err(Error::invalid(format!("{cell:?} is not an address")))
            .hint("write HOST:PORT, for example 127.0.0.1:7440");
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
        return Ok(());
    }
    Err(Error::invalid(format!("{host} is not this machine"))).hint(
        "this version has no certificates yet: mounts connect to loopback addresses only, such as 127.0.0.1",
    )
}

fn insecure_needed() -> Failure {
    Failure::new(
        Error::invalid("this version has no certificates yet, so the mount cannot prove who it is"),
        "add --insecure to connect without; only loopback addresses are allowed then",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_cannot_be_the_cache() {
        let error = check_cache(&std::env::current_exe().unwrap()).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.doing().contains("--cache"), "{error}");
        check_cache(&std::env::temp_dir().join("sitefs-no-such-cache")).unwrap();
    }
}
