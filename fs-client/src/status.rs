//! How a mount stands: for `sitefs status`, for the extended attribute of the root, for Prometheus.
//! All of it comes from memory, so that it is there when the cell is not.

use crate::fs::Fs;
use serde::Serialize;
use sitefs_base::limits::LEASE;
use sitefs_base::metrics::{Exposition, seconds};
use sitefs_base::{Clock, Seq, VolumeView};
use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

/// The extended attribute of the root that shows the status. Listings of attributes do not have it,
/// so copies do not take it along.
pub const STATUS_XATTR: &str = "user.sitefs.status";
/// What the kernel hears of its length: it may grow between two calls.
pub const STATUS_LEN: u32 = 8192;

/// How a mount stands.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The version of the program.
    pub version: &'static str,
    /// The volume, and its moment if it is one of the past.
    pub volume: String,
    /// The cell's name.
    pub cell: String,
    /// Where the cell is.
    pub address: String,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Where its cache, and in it its control socket, is.
    pub cache_dir: PathBuf,
    /// The process.
    pub pid: u32,
    /// How long it has been mounted, in seconds.
    pub uptime_seconds: u64,
    /// Whether it refuses changes, and why if operators chose so for the volume.
    pub read_only: ReadOnly,
    /// Its session at the cell.
    pub session: Session,
    /// Its lease.
    pub lease: Lease,
    /// Its cache of content on disk.
    pub cache: Cache,
    /// Files that the kernel reads by itself.
    pub passthrough: Passthrough,
    /// What the cell does not have yet.
    pub dirty: Amount,
    /// What waits in the journal.
    pub journal: Journal,
    /// What it may write and create without asking.
    pub credit: Credit,
    /// Open files.
    pub open_files: usize,
    /// Inodes that the kernel knows.
    pub known_inodes: usize,
    /// Whether opens for writing are refused because it is about to be unmounted.
    pub draining: bool,
}

/// Whether and why a mount refuses changes.
#[derive(Clone, Debug, Serialize)]
pub struct ReadOnly {
    /// It was mounted so, or shows the past.
    pub mount: bool,
    /// Why operators made the volume read-only, if they did.
    pub reason: Option<String>,
}

/// The session.
#[derive(Clone, Debug, Serialize)]
pub struct Session {
    /// Its id.
    pub id: String,
    /// Whether a stream is attached now.
    pub connected: bool,
    /// The position of the volume, as last heard.
    pub seq: u64,
    /// Events that came and are not in force at this kernel yet.
    pub events_behind: u64,
    /// Operations without an answer.
    pub unanswered: usize,
    /// How often everything remembered was dropped.
    pub resyncs: u64,
}

/// The lease.
#[derive(Clone, Debug, Serialize)]
pub struct Lease {
    /// Whether it holds now.
    pub held: bool,
    /// For how long still, in seconds.
    pub seconds_left: f64,
}

/// The cache on disk.
#[derive(Clone, Debug, Serialize)]
pub struct Cache {
    /// Bytes in it.
    pub bytes: u64,
    /// Bytes that it may hold.
    pub limit_bytes: u64,
    /// Blobs in it.
    pub blobs: u64,
    /// Blobs that were found in it when needed.
    pub hits: u64,
    /// Blobs that were not.
    pub misses: u64,
    /// The part that was found; none before the first was needed.
    pub hit_rate: Option<f64>,
}

/// Files and their bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Amount {
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Files that the kernel reads by itself.
#[derive(Clone, Debug, Serialize)]
pub struct Passthrough {
    /// Whether there can be any.
    pub on: bool,
    /// Files that the kernel may read so now.
    pub files: u64,
    /// Their bytes, which stay in the cache.
    pub bytes: u64,
    /// Opens that were served so.
    pub opens: u64,
}

/// The journal.
#[derive(Clone, Debug, Serialize)]
pub struct Journal {
    /// Records that wait.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records in conflict with what others wrote.
    pub conflicts: u64,
}

/// The credit that is free, and what is used of it.
#[derive(Clone, Debug, Serialize)]
pub struct Credit {
    /// Bytes that are free.
    pub bytes: u64,
    /// Inodes that are free.
    pub inodes: u64,
    /// Bytes in use for what is not committed.
    pub bytes_in_use: u64,
    /// Inodes in use.
    pub inodes_in_use: u64,
}

/// What does not change while a mount lives.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The volume.
    pub view: VolumeView,
    /// The cell's name.
    pub cell: String,
    /// Where the cell is.
    pub address: String,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The cache directory.
    pub cache_dir: PathBuf,
    /// The most that the cache may hold.
    pub cache_limit: u64,
    /// It was mounted for reading only.
    pub read_only: bool,
}

/// Tells how a mount stands.
pub struct Reporter {
    fs: Arc<Fs>,
    clock: Arc<dyn Clock>,
    facts: Facts,
    /// CLOCK_BOOTTIME when the kernel took the mount.
    since: OnceLock<Duration>,
}

/// How the lease stands; of the past it never ends.
fn lease(left: Option<Duration>) -> Lease {
    let left = left.unwrap_or_default().min(LEASE);
    // Milliseconds say enough.
    let left = Duration::from_millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
    Lease { held: !left.is_zero(), seconds_left: seconds(left) }
}

impl Reporter {
    /// Of the mount that `fs` serves.
    pub fn new(fs: Arc<Fs>, clock: Arc<dyn Clock>, facts: Facts) -> Self {
        Self { fs, clock, facts, since: OnceLock::new() }
    }

    /// It is mounted.
    pub fn mounted(&self) {
        // Said once.
        let _ = self.since.set(self.clock.boottime());
    }

    /// How the mount stands.
    pub fn status(&self) -> Status {
        let facts = &self.facts;
        let session = self.fs.meta().session().status();
        let dirty = self.fs.dirty();
        let journal = self.fs.journal_pending();
        let (open_files, known_inodes) = self.fs.open_and_known();
        let since = self.since.get().copied().unwrap_or_else(|| self.clock.boottime());
        Status {
            version: env!("CARGO_PKG_VERSION"),
            volume: facts.view.to_string(),
            cell: facts.cell.clone(),
            address: facts.address.clone(),
            mountpoint: facts.mountpoint.clone(),
            cache_dir: facts.cache_dir.clone(),
            pid: std::process::id(),
            uptime_seconds: self.clock.boottime().saturating_sub(since).as_secs(),
            read_only: ReadOnly { mount: facts.read_only, reason: session.settings.read_only.clone() },
            lease: lease(session.lease_left),
            session: Session {
                id: session.id.to_string(),
                connected: session.connected,
                seq: Seq::get(session.seq),
                events_behind: session.behind,
                unanswered: session.unanswered,
                resyncs: self.fs.metrics().resyncs.get(),
            },
            cache: self.cache(),
            passthrough: self.passthrough(),
            dirty: Amount { files: dirty.files, bytes: dirty.bytes },
            journal: Journal {
                records: journal.records as u64,
                bytes: journal.bytes,
                conflicts: journal.conflicts as u64,
            },
            credit: self.credit(),
            open_files,
            known_inodes,
            draining: self.fs.is_draining(),
        }
    }

    fn cache(&self) -> Cache {
        let stats = self.fs.blobs().cache_stats();
        let needed = stats.hits + stats.misses;
        #[allow(clippy::cast_precision_loss, reason = "a rate needs a few digits only")]
        let hit_rate = (needed > 0).then(|| stats.hits as f64 / needed as f64);
        Cache {
            bytes: stats.bytes,
            limit_bytes: self.facts.cache_limit,
            blobs: stats.blobs,
            hits: stats.hits,
            misses: stats.misses,
            hit_rate,
        }
    }

    fn passthrough(&self) -> Passthrough {
        let loans = self.fs.blobs().loans();
        let stats = loans.stats();
        Passthrough { on: loans.are_on(), files: stats.files, bytes: stats.bytes, opens: loans.opens.get() }
    }

    fn credit(&self) -> Credit {
        let credits = self.fs.meta().session().credits();
        let (free, used) = (credits.free(), credits.in_use());
        Credit {
            bytes: free.bytes,
            inodes: free.inodes,
            bytes_in_use: used.bytes,
            inodes_in_use: used.inodes,
        }
    }

    /// The same as JSON.
    pub fn json(&self) -> String {
        // Numbers, texts and paths: the last are shown as well as they can be.
        serde_json::to_string(&self.status()).unwrap_or_else(|error| {
            tracing::error!(%error, "the status cannot be written as JSON");
            "{}".to_owned()
        })
    }

    /// Everything that is counted, as Prometheus reads it. `docs/METRICS.md` explains each.
    pub fn metrics(&self) -> String {
        let mut out = Exposition::default();
        let status = self.status();
        out.process(status.version);
        let labels = [("cell", status.cell.as_str()), ("volume", &status.volume)];
        out.info("sitefs_mount_info", "Always 1; its labels say what is mounted.", &labels);
        self.requests(&mut out);
        self.transfers(&mut out, &status);
        self.standing(&mut out, &status);
        out.finish()
    }

    fn requests(&self, out: &mut Exposition) {
        let metrics = self.fs.metrics();
        let calls = &metrics.calls;
        out.histograms(
            "sitefs_mount_request_seconds",
            "Time from the kernel's request to the reply.",
            "op",
            calls.seconds(),
        );
        out.counters(
            "sitefs_mount_request_errors_total",
            "Requests that were answered with an error, whatever it was.",
            "op",
            calls.errors(),
        );
        out.counters(
            "sitefs_mount_trouble_total",
            "Requests that were answered with an error that no program asks for.",
            "errno",
            calls.trouble(),
        );
        let session = self.fs.meta().session().counters();
        let rows = [("operation", session.operations.get()), ("question", session.questions.get())];
        out.counters("sitefs_mount_cell_requests_total", "Requests to the cell.", "kind", rows);
        let help = "Requests to the cell that had no answer in time; their outcome is unknown.";
        out.counter("sitefs_mount_cell_timeouts_total", help, session.unanswered.get());
        out.counter("sitefs_mount_attaches_total", "Streams attached to the cell.", session.attached.get());
        let help = "Times that everything remembered was dropped because events were lost.";
        out.counter("sitefs_mount_resyncs_total", help, metrics.resyncs.get());
    }

    fn transfers(&self, out: &mut Exposition, status: &Status) {
        let moved = self.fs.blobs().cell().counters();
        out.counter("sitefs_mount_blobs_fetched_total", "Blobs fetched.", moved.fetches.get());
        out.counter("sitefs_mount_fetched_bytes_total", "Bytes of them.", moved.fetched_bytes.get());
        out.counter("sitefs_mount_blobs_uploaded_total", "Blobs uploaded.", moved.uploads.get());
        out.counter("sitefs_mount_uploaded_bytes_total", "Bytes of them.", moved.uploaded_bytes.get());
        let help = "Transfers of blobs that failed, or brought wrong bytes.";
        out.counter("sitefs_mount_transfer_errors_total", help, moved.failed.get());
        let (cache, stats) = (&status.cache, self.fs.blobs().cache_stats());
        out.counter("sitefs_mount_cache_hits_total", "Blobs found in the disk cache.", cache.hits);
        out.counter("sitefs_mount_cache_misses_total", "Blobs not found in the disk cache.", cache.misses);
        let help = "Blobs that left the disk cache for want of space.";
        out.counter("sitefs_mount_cache_evictions_total", help, stats.evictions);
        let help = "Files of the disk cache that no longer had their digest.";
        out.counter("sitefs_mount_cache_damaged_total", help, stats.damaged);
        let (passed, loans) = (&status.passthrough, self.fs.blobs().loans());
        let help = "Opens that the kernel serves by itself from the disk cache.";
        out.counter("sitefs_mount_passthrough_opens_total", help, passed.opens);
        let help = "Opens under another inode number at the kernel, because an older version was open.";
        out.counter("sitefs_mount_passthrough_moved_total", help, loans.moved.get());
        let help = "1 while the kernel can read cached files by itself.";
        out.gauge("sitefs_mount_passthrough", help, u8::from(passed.on));
        let help = "Files of the disk cache that the kernel may read by itself.";
        out.gauge("sitefs_mount_passthrough_files", help, passed.files);
        out.gauge("sitefs_mount_passthrough_bytes", "Bytes of them, which stay in the cache.", passed.bytes);
        out.gauge("sitefs_mount_cache_bytes", "Bytes in the disk cache.", cache.bytes);
        out.gauge("sitefs_mount_cache_limit_bytes", "Bytes that the cache may hold.", cache.limit_bytes);
    }

    fn standing(&self, out: &mut Exposition, status: &Status) {
        let session = &status.session;
        out.gauge("sitefs_mount_connected", "1 while a stream is attached.", u8::from(session.connected));
        out.gauge("sitefs_mount_lease_seconds", "How long the lease holds still.", status.lease.seconds_left);
        let help = "Events that came and are not in force at this kernel yet.";
        out.gauge("sitefs_mount_events_behind", help, session.events_behind);
        let help = "Notices to the kernel that wait.";
        out.gauge("sitefs_mount_notices_waiting", help, self.fs.notices().waiting());
        out.gauge("sitefs_mount_unanswered", "Operations without an answer.", session.unanswered);
        out.gauge("sitefs_mount_dirty_files", "Files that the cell does not have yet.", status.dirty.files);
        out.gauge("sitefs_mount_dirty_bytes", "Bytes of them, in whole chunks.", status.dirty.bytes);
        out.gauge("sitefs_mount_credit_bytes", "Bytes that may be written unasked.", status.credit.bytes);
        out.gauge("sitefs_mount_credit_inodes", "Inodes that may be made unasked.", status.credit.inodes);
        out.gauge("sitefs_mount_open_files", "Open files.", status.open_files);
        out.gauge("sitefs_mount_known_inodes", "Inodes that the kernel knows.", status.known_inodes);
        out.gauge("sitefs_mount_uptime_seconds", "How long it is mounted.", status.uptime_seconds);
    }
}
