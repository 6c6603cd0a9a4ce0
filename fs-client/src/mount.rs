//! A mount as a whole: its parts put together, and taken apart in order.

use crate::cache::MIN_FREE;
use crate::control;
use crate::data::{BlobReader, CellBlobs, Pace, look_after};
use crate::ended::Ended;
use crate::fs::{Background, Fs, Keeping, Notices, Owner, Replay, Teller};
use crate::fuse::{Adapter, KernelFlags, KernelMount, MountArgs};
use crate::journal::{AbortAt, Cuts, Journal, Limits, NoCuts, Record, Step};
use crate::meta::{
    CellAddress, Meta, OldSessions, Route, Session, Watcher, attach, keep_attached, watch_lease,
};
use crate::status::{Facts, Reporter};
use sitefs_base::session::Attached;
use sitefs_base::{
    Clock, Errno, Error, Identity, Kind, OsRandom, Random, Result, SessionId, SystemClock, Tasks, VolumeView,
    make_private_dir, mode_for_others,
};
use sitefs_blobstore::{CacheOptions, DiskCache};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, sync::oneshot};

/// Threads that may wait for the cell at a time; more requests wait their turn.
const WAITERS_MAX: usize = 128;
/// An unmount tries to commit for as long as so many closes may take.
const DRAIN_DEADLINES: u32 = 3;
/// How long an unmount after a panic may take beyond draining.
const PANIC_GRACE: Duration = Duration::from_secs(10);
/// How long waiting threads get to finish when a mount ends.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a mount that begins waits for one that ends, and how often it looks.
const CACHE_WAIT: Duration = Duration::from_secs(5);
const CACHE_RETRY: Duration = Duration::from_millis(20);
/// How long a mount that ends tries to commit what is dirty (DESIGN D16).
pub const DRAIN_MAX: Duration = Duration::from_secs(30);
/// What of it is left at least for what was written after the first round.
const DRAIN_MIN: Duration = Duration::from_secs(2);

/// What people choose about a mount.
#[derive(Clone, Copy, Debug, Default)]
pub struct MountOptions {
    /// Refuse writing.
    pub read_only: bool,
    /// Let other users than the one who mounts in.
    pub allow_other: bool,
    /// Whom all files belong to, if not to their own owners.
    pub owner: Owner,
    /// What else the kernel is told.
    pub flags: KernelFlags,
    /// Let the kernel read cached files by itself where it can.
    pub passthrough: bool,
}

/// How a mount keeps what its cell does not take (DESIGN D15).
#[derive(Clone, Debug)]
pub struct JournalConfig {
    /// On the local disk; `journal` in the cache directory if not set. One mount at a time.
    pub dir: Option<PathBuf>,
    /// The most that it may take, in bytes; nothing is journaled if 0.
    pub max_bytes: u64,
    /// How long a close waits for the cell, and each transfer of a close for the store.
    pub close_deadline: Duration,
    /// Where a test ends the process.
    pub cut: Option<Step>,
}

/// What to mount, and with what.
#[derive(Clone, Debug)]
pub struct MountConfig {
    /// The volume, now or at a moment of its past; the past is mounted read-only.
    pub view: VolumeView,
    /// Where; an existing directory.
    pub mountpoint: PathBuf,
    /// The cell's session listener: `HOST:PORT`.
    pub cell: String,
    /// On the local disk: cached blobs, working copies and the journal. One mount at a time.
    pub cache_dir: PathBuf,
    /// The most that cached blobs may take, in bytes.
    pub cache_bytes: u64,
    /// What close() accepts without the cell.
    pub journal: JournalConfig,
    /// The choices.
    pub options: MountOptions,
    /// Who mounts.
    pub identity: Identity,
    /// A lookup of this name is a bug: for tests.
    pub panic_at: Option<OsString>,
}

/// A mounted volume; unmounts when dropped.
pub struct Mount {
    kernel: Mutex<KernelMount>,
    ended: Arc<Ended>,
    background: Mutex<Option<(Background, Replay)>>,
    drain_limit: Duration,
    clock: Arc<dyn Clock>,
    fs: Arc<Fs>,
    reporter: Arc<Reporter>,
    tasks: Tasks,
    network: Network,
}

/// The thread that runs the mount's runtime.
struct Network {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    fn start() -> Result<Self> {
        let failed = |error| Error::io("starting the mount's runtime", error);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(WAITERS_MAX)
            .build()
            .map_err(failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let run = move || {
            // An error says that the sender is gone: the mount ends either way.
            drop(runtime.block_on(stopped));
            runtime.shutdown_timeout(END_TIMEOUT);
        };
        let thread = std::thread::Builder::new().name("sitefs-net".into()).spawn(run).map_err(failed)?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the mount's runtime panicked");
        }
    }
}

/// Makes the cache directory and the one for working copies in it. They hold what customers store.
fn prepare_dirs(cache: &Path) -> Result<PathBuf> {
    make_private_dir(cache)?;
    if let Some(mode) = mode_for_others(cache)? {
        let (cache, mode) = (cache.display(), format!("{mode:o}"));
        tracing::warn!(%cache, mode, "other users may read the cache directory: chmod 700");
    }
    let work = cache.join("work");
    make_private_dir(&work)?;
    Ok(work)
}

fn check_mountpoint(path: &Path) -> Result<()> {
    let meta = std::fs::metadata(path)
        .map_err(|error| Error::io(format!("using {} as mount point", path.display()), error))?;
    if meta.is_dir() {
        return Ok(());
    }
    Err(Error::invalid(format!("{} is not a directory: a mount point must be one", path.display())))
}

/// Opens the cache; a mount that is just ending still has it.
fn open_cache(config: &MountConfig) -> Result<DiskCache> {
    let limits = CacheOptions { max_bytes: config.cache_bytes, min_free: MIN_FREE };
    let began = Instant::now();
    loop {
        match DiskCache::open(&config.cache_dir, limits) {
            Err(error) if error.kind() == Kind::Conflict && began.elapsed() < CACHE_WAIT => {
                std::thread::sleep(CACHE_RETRY);
            }
            opened => return opened,
        }
    }
}

impl Mount {
    /// Attaches to the cell and mounts. When it returns, the tree can be used.
    pub fn start(config: MountConfig) -> Result<Self> {
        check_mountpoint(&config.mountpoint)?;
        let work_dir = prepare_dirs(&config.cache_dir)?;
        let cache = open_cache(&config)?;
        let journal = open_journal(&config)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let random: Arc<dyn Random> = Arc::new(OsRandom);
        let network = Network::start()?;
        let id = SessionId::new(random.next_u128());
        let session = Arc::new(Session::new(id, network.handle.clone(), Arc::clone(&clock)));
        let address = CellAddress {
            volume: config.view.volume.clone(),
            moment: config.view.at.clone(),
            identity: config.identity.clone(),
        };
        let (route, stream) = network.handle.block_on(async {
            let route = Arc::new(Route::new(&config.cell)?);
            let stream = attach(&route, &address, &session).await?;
            Ok::<_, Error>((route, stream))
        })?;
        let attached = stream.attached().clone();
        let keeping = journal.map(|journal| keeping(journal, &route, &address, &network));
        let deadline = config.journal.close_deadline;
        let meta = Arc::new(Meta::new(Arc::clone(&session)));
        let cell = CellBlobs::new(Arc::clone(&session), Arc::clone(&route));
        let blobs = Arc::new(BlobReader::new(Arc::clone(&meta), cell, cache));
        let (notices, queue) = Notices::queue();
        let read_only = config.options.read_only || attached.read_only;
        let fs = Fs::new(meta, blobs, Arc::clone(&clock), notices, work_dir, read_only);
        let fs = Arc::new(fs.with_journal(keeping, deadline).owned_by(config.options.owner));
        fs.check_inherited(&attached)?;
        let facts = facts(&config, &attached, read_only);
        let reporter = Arc::new(Reporter::new(Arc::clone(&fs), Arc::clone(&clock), facts));
        let tasks = Tasks::new();
        let watcher: Arc<dyn Watcher> = Arc::clone(&fs) as Arc<dyn Watcher>;
        {
            let _in_runtime = network.handle.enter();
            tasks.spawn(look_after(Arc::clone(fs.blobs_shared()), Arc::clone(&clock), Pace::default()));
            tasks.spawn(watch_lease(Arc::clone(&session), Arc::clone(&watcher)));
            tasks.spawn(keep_attached(stream, route, address, session, watcher, random));
            let listener = control::listen(&config.cache_dir)?;
            tasks.spawn(control::serve(listener, Arc::clone(&fs), Arc::clone(&reporter)));
        }
        fs.inherit();
        let ended = Arc::new(Ended::default());
        let handle = network.handle.clone();
        let adapter = Adapter::new(Arc::clone(&fs), Arc::clone(&reporter), handle, Arc::clone(&ended));
        let adapter = adapter.with_bug(config.panic_at.clone());
        let adapter = adapter.with_passthrough(config.options.passthrough);
        let (kernel, device) = KernelMount::start(&mount_args(&config, &attached, read_only), adapter)?;
        let failed = |error| Error::io("starting the mount's threads", error);
        let teller: Arc<dyn Teller> = Arc::clone(&fs) as Arc<dyn Teller>;
        device.start(Arc::downgrade(&teller), Arc::clone(&clock), queue).map_err(failed)?;
        let background = Background::start(Arc::clone(&fs)).map_err(failed)?;
        let replay = Replay::start(Arc::clone(&fs)).map_err(failed)?;
        reporter.mounted();
        Ok(Self {
            kernel: Mutex::new(kernel),
            ended,
            background: Mutex::new(Some((background, replay))),
            drain_limit: DRAIN_MAX.min(deadline * DRAIN_DEADLINES),
            clock,
            fs,
            reporter,
            tasks,
            network,
        })
    }

    /// Waits until somebody unmounts, or [`Self::end_on_panic`] has something to end.
    pub fn wait_ended(&self) {
        self.ended.wait();
    }

    /// From now on a panic of any thread of this process ends this mount: [`Self::wait_ended`] returns, and
    /// [`Self::unmount`] unmounts as ever and says why. Meanwhile that thread stays where it is, with what
    /// it holds: nobody goes on with what it left half done. Where an unmount cannot do without that, or
    /// nobody unmounts, `cut` ends the process after a time in which it could.
    pub fn end_on_panic(self: &Arc<Self>, cut: impl Fn() + Send + Sync + 'static) {
        let limit = self.drain_limit + PANIC_GRACE;
        let (ended, clock) = (Arc::downgrade(&self.ended), Arc::clone(&self.clock));
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            report(panic);
            // Without it the mount is gone already.
            let Some(ended) = ended.upgrade() else { return };
            ended.panicked();
            let until = clock.boottime() + limit;
            while clock.boottime() < until {
                std::thread::park_timeout(until.saturating_sub(clock.boottime()));
            }
            cut();
        }));
    }

    /// Everything that is counted, as Prometheus reads it.
    pub fn metrics(&self) -> String {
        self.reporter.metrics()
    }

    /// Opens nothing for writing any more, commits what is not committed for three times as long as a
    /// close may take ([`DRAIN_MAX`] at most), unmounts, and ends the session. What is left is in the
    /// journal, and an error of kind `Conflict`; the mount is gone all the same. From here on nothing of
    /// this process goes through its own mount: it would wait for itself.
    pub fn unmount(&self) -> Result<()> {
        let until = self.clock.boottime() + self.drain_limit;
        let _draining = self.fs.stop_opening();
        self.fs.drain(self.drain_limit);
        let unmounted = {
            let mut kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
            if self.ended.by_kernel() {
                kernel.has_ended();
            }
            kernel.unmount()
        };
        drop(self.background.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.fs.drain(until.saturating_sub(self.clock.boottime()).max(DRAIN_MIN));
        let lost = self.fs.keep_rest();
        let waiting = self.fs.journal_pending().records;
        self.network.handle.block_on(async {
            // The next mount asks this session what became of its operations.
            if waiting == 0 {
                self.fs.meta().session().detach().await;
            }
            // What still waits for an answer would keep its thread.
            self.fs.meta().session().end(Errno::EIO);
            self.tasks.shutdown().await;
        });
        unmounted?;
        if self.ended.by_panic() {
            return Err(Error::internal("a thread panicked, and the mount was ended"));
        }
        match (lost, waiting) {
            (0, 0) => Ok(()),
            (0, waiting) => Err(Error::conflict(format!(
                "{waiting} changed files are not committed and wait in the journal for the next mount"
            ))),
            (lost, _) => Err(Error::conflict(format!("{lost} changed files could not be committed"))),
        }
    }
}

type Opened = (Journal, Vec<(u64, Record)>);

/// The journal of a mount; one that cannot write needs none.
fn open_journal(config: &MountConfig) -> Result<Option<Opened>> {
    let JournalConfig { dir, max_bytes, cut, .. } = &config.journal;
    if config.options.read_only || config.view.at.is_some() {
        return Ok(None);
    }
    let dir = dir.clone().unwrap_or_else(|| config.cache_dir.join("journal"));
    let cuts: Arc<dyn Cuts> = match cut {
        Some(step) => Arc::new(AbortAt(*step)),
        None => Arc::new(NoCuts),
    };
    Journal::open(&dir, Limits { bytes: *max_bytes, min_free: MIN_FREE }, cuts).map(Some)
}

fn keeping(
    (journal, records): Opened,
    route: &Arc<Route>,
    address: &CellAddress,
    network: &Network,
) -> Keeping {
    let old = OldSessions::new(Arc::clone(route), address.clone(), network.handle.clone());
    Keeping::new(journal, address.volume.clone(), old, records)
}

fn facts(config: &MountConfig, attached: &Attached, read_only: bool) -> Facts {
    Facts {
        view: config.view.clone(),
        cell: attached.cell.clone(),
        address: config.cell.clone(),
        mountpoint: config.mountpoint.clone(),
        cache_dir: config.cache_dir.clone(),
        cache_limit: config.cache_bytes,
        read_only,
    }
}

fn mount_args(config: &MountConfig, attached: &Attached, read_only: bool) -> MountArgs {
    MountArgs {
        mountpoint: config.mountpoint.clone(),
        source: format!("{}:{}", attached.cell, config.view),
        read_only,
        allow_other: config.options.allow_other,
        flags: config.options.flags,
    }
}
