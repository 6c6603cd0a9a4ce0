//! `sitefs mount`.

use crate::{
    Done,
    failure::{Failure, Hint},
    metrics::{self, Page},
    mountpoint::{self, Missing},
    open_files,
    options::{self, Options, Unknown},
    output::Output,
    places,
    progress::Progress,
    signals::Stop,
    systemd,
};
use serde_json::json;
use sitefs_base::{ByteSize, Error, Identity, Kind, Role, VolumeView, limits::CLOSE_DEADLINE};
use sitefs_client::{DRAIN_MAX, JournalConfig, Mount, MountConfig, MountOptions, journal::Step};
use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::oneshot;

/// Signals within this time are one.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

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
    #[arg(long, value_name = "DIR", required_unless_present = "mount_options")]
    cache: Option<PathBuf>,
    /// Where close() keeps content while the cell does not answer: a directory on this host's own disk
    /// that outlives the mount, for this mount alone; `journal` in the cache directory if not given.
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    #[command(flatten)]
    options: OptionArguments,
    #[arg(short = 'o', value_name = "OPTIONS", help = options::HELP)]
    mount_options: Vec<String>,
    /// Mounts for reading only.
    #[arg(long)]
    read_only: bool,
    /// Connects without certificates; to loopback addresses only.
    #[arg(long)]
    insecure: bool,
    /// Leaves out options of -o that nobody knows.
    #[arg(long, hide = true)]
    sloppy: bool,
    /// Runs in the background of mount.sitefs: logs to syslog, and belongs to no terminal.
    #[arg(long, hide = true)]
    detached: bool,
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
    /// Serves metrics for Prometheus at /metrics of this address, to everybody who can reach it.
    #[arg(long, value_name = "HOST:PORT")]
    metrics: Option<SocketAddr>,
    /// Lets other users in; always so when you are root.
    #[arg(long)]
    allow_other: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, output: &Output) -> Done {
    if arguments.detached {
        // An error says that it has no terminal already.
        let _ = rustix::process::setsid();
    }
    let config = configure(arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("starting the runtime", error))?;
    let mut stop = runtime.block_on(async { Stop::listen() })?;
    let mount = start(config.mount.clone())?;
    let done = runtime.block_on(attend(&config, mount, &mut stop, output));
    // What a second signal cut short would be waited for.
    runtime.shutdown_background();
    if let (true, Err(failure)) = (arguments.detached, &done) {
        tracing::error!(failure = failure.line(), "the mount ended with an error");
    }
    done
}

/// Says that it is mounted, waits for the end, unmounts.
async fn attend(config: &Configured, mount: Arc<Mount>, stop: &mut Stop, output: &Output) -> Done {
    let ready = async {
        let exporter = metrics::maybe(config.metrics, page_of(&mount)).await?;
        show(&config.mount, exporter.as_ref(), output)?;
        Ok::<_, Failure>(exporter)
    };
    let ready = ready.await;
    if ready.is_ok() {
        tokio::select! {
            () = stop.next() => {}
            () = ended(&mount) => {}
        }
        output.say("unmounting: content on its way is finished first");
    }
    let done = end(mount, config.mount.mountpoint.clone(), stop).await;
    // Until here the metrics show how far the end has come.
    ready.map(drop).and(done)
}

/// What a mount is started with.
struct Configured {
    mount: MountConfig,
    metrics: Option<SocketAddr>,
}

fn configure(arguments: &Arguments) -> Result<Configured, Failure> {
    let unknown = if arguments.sloppy { Unknown::Tolerate } else { Unknown::Refuse };
    let given = Options::parse(&arguments.mount_options, unknown)?;
    check_cell(&arguments.cell)?;
    if !arguments.insecure && !given.insecure {
        return Err(insecure_needed());
    }
    let cache = arguments.cache.clone().or_else(|| given.cache.clone());
    let cache = cache.ok_or_else(|| Error::invalid("there is no cache directory"));
    let cache = cache.hint("give one with --cache, or with the option cache=DIR")?;
    let directory = mountpoint::prepare(&arguments.directory, Missing::Refuse)?;
    mountpoint::apart(&directory, &cache, "cache directory")?;
    let journal = arguments.journal.as_deref().or(given.journal.as_deref());
    let journal = journal.map(places::absolute).transpose()?;
    if let Some(journal) = &journal {
        mountpoint::apart(&directory, journal, "journal directory")?;
    }
    let (cache, view) = (places::absolute(&cache)?, &arguments.volume);
    let read_only = arguments.read_only || given.read_only || view.at.is_some();
    let metrics = arguments.options.metrics.or(given.metrics);
    let cell = arguments.cell.clone();
    let mut mount = arguments.options.config(view, directory, cell, cache, read_only);
    mount.cache_bytes = given.cache_size.map_or(mount.cache_bytes, ByteSize::get);
    mount.journal.dir = journal;
    mount.journal.max_bytes = given.journal_size.map_or(mount.journal.max_bytes, ByteSize::get);
    mount.options.allow_other |= given.allow_other;
    mount.options.owner = given.owner;
    mount.options.flags = given.flags;
    Ok(Configured { mount, metrics })
}

fn show(mount: &MountConfig, exporter: Option<&metrics::Exporter>, output: &Output) -> Done {
    let (view, shown) = (&mount.view, mount.mountpoint.display().to_string());
    let mut json = json!({ "volume": view.to_string(), "mountpoint": shown, "pid": std::process::id() });
    if let Some(exporter) = exporter {
        json["metrics"] = exporter.address().to_string().into();
    }
    let text = || format!("{view} is mounted at {shown}; Ctrl-C or `sitefs umount {shown}` ends it");
    output.result(&json, text)?;
    systemd::ready(&format!("{view} is mounted at {shown}"));
    Ok(())
}

/// The metrics of a mount, while there is one.
pub(crate) fn page_of(mount: &Arc<Mount>) -> Page {
    let mount = Arc::downgrade(mount);
    Arc::new(move || mount.upgrade().map(|mount| mount.metrics()).unwrap_or_default())
}

/// Mounts, and shows that this takes time.
pub(crate) fn start(config: MountConfig) -> Result<Arc<Mount>, Failure> {
    check_cache(&config.cache_dir)?;
    if let Some(journal) = &config.journal.dir {
        places::outside_cells(journal, "journal")?;
        places::on_own_disk(journal, "journal")?;
    }
    open_files::raise();
    let _progress = Progress::show("mounting");
    let (cell, view, at) = (config.cell.clone(), config.view.clone(), config.mountpoint.clone());
    let error = match Mount::start(config) {
        Ok(mount) => {
            let mount = Arc::new(mount);
            mount.end_on_panic(move || cut_off(&at));
            return Ok(mount);
        }
        Err(error) => error.while_doing(format_args!("mounting {view} at {}", at.display())),
    };
    let hint = match error.kind() {
        Kind::NotFound if error.named_errno().is_some_and(places::is_no_place) => {
            places::CHOOSE_A_DISK.to_owned()
        }
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

/// Unmounts in order, and leaves no stale mount where that fails. A second signal ends it at once.
pub(crate) async fn end(mount: Arc<Mount>, directory: PathBuf, stop: &mut Stop) -> Done {
    systemd::stopping("committing what is not committed, then unmounting", DRAIN_MAX.as_secs() + 15);
    let at = directory.clone();
    let ending = tokio::task::spawn_blocking(move || unmount(&mount, &at));
    tokio::select! {
        ended = ending => ended.map_err(|panic| Error::internal("unmounting").because(panic))?,
        () = insisted(stop) => {
            detach_if_mounted(&directory)?;
            let cut = Error::conflict("a second signal ended this before everything was committed");
            Err(cut).hint("what was not committed is lost")
        }
    }
}

/// Returns at the next signal that is one of its own: terminals and shells send the same one twice.
async fn insisted(stop: &mut Stop) {
    let until = tokio::time::Instant::now() + SAME_SIGNAL;
    while tokio::time::timeout_at(until, stop.next()).await.is_ok() {}
    stop.next().await;
}

fn unmount(mount: &Mount, directory: &Path) -> Done {
    let ended = mount.unmount();
    // Conflict: it is unmounted, but something was not committed. What is there now is somebody else's.
    if ended.as_ref().is_err_and(|error| error.kind() != Kind::Conflict) {
        detach_if_mounted(directory)?;
    }
    Ok(ended?)
}

/// Ends the process after a panic whose mount could not be ended in order.
fn cut_off(directory: &Path) {
    if let Err(error) = detach_if_mounted(directory) {
        tracing::error!(error = error.chain(), "the mount stays behind");
    }
    Failure::from(Error::internal("a thread panicked: what was not committed is lost")).exit()
}

fn detach_if_mounted(directory: &Path) -> Result<(), Error> {
    if mountpoint::is_mounted(directory)? { mountpoint::detach(directory) } else { Ok(()) }
}

impl Arguments {
    /// Whether nobody reads what it writes to stderr.
    pub(crate) fn is_detached(&self) -> bool {
        self.detached
    }
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
            options: MountOptions { read_only, allow_other, ..MountOptions::default() },
            // In insecure mode a cell does not compare its name, which the mount learns at attach.
            identity: Identity::new("local", role),
            panic_at: std::env::var_os("SITEFS_TEST_PANIC_AT").filter(|_| cfg!(debug_assertions)),
        }
    }

    /// Where metrics are served, if they are.
    #[cfg(feature = "server")]
    pub(crate) fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
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
