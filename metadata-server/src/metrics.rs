//! What a node of a cell counts, as Prometheus reads it. `docs/METRICS.md` explains each.

use crate::{raft::Group, rpc::Cell, state};
use sitefs_base::metrics::Exposition;
use std::sync::{Arc, Weak};

/// Blobs that are counted one by one; more take too long for a page.
const HOT_COUNTED_MAX: usize = 20_000;

/// The metrics of a server; holding it does not keep the server.
#[derive(Clone)]
pub struct ServerMetrics(Weak<Cell>);

impl ServerMetrics {
    pub(crate) fn of(cell: &Arc<Cell>) -> Self {
        Self(Arc::downgrade(cell))
    }

    /// The page; empty once the server has ended.
    pub fn page(&self) -> String {
        let Some(cell) = self.0.upgrade() else { return String::new() };
        let mut out = Exposition::default();
        out.process(env!("CARGO_PKG_VERSION"));
        out.info(
            "sitefs_cell_info",
            "Always 1; its label says which cell.",
            &[("cell", &cell.group.info().cell)],
        );
        log(&cell.group, &mut out);
        disk(&cell.group, &mut out);
        mounts(&cell, &mut out);
        hot(&cell.group, &mut out);
        scrub(&cell, &mut out);
        gc(&cell, &mut out);
        out.finish()
    }
}

fn log(group: &Group, out: &mut Exposition) {
    let (status, meters) = (group.status(), group.meters());
    out.gauge("sitefs_cell_leads", "1 while this node leads its group.", u8::from(status.leads));
    out.gauge("sitefs_cell_term", "The Raft term.", status.term);
    out.gauge("sitefs_cell_last_log_index", "The last entry in the log.", status.last_log_index);
    out.gauge("sitefs_cell_applied_index", "The last entry that readers see.", status.applied);
    out.gauge("sitefs_cell_flushed_index", "The last entry in the state database on disk.", status.flushed);
    out.histogram("sitefs_cell_entry_commands", "Commands in an entry.", &meters.entry_commands);
    out.histogram("sitefs_cell_apply_seconds", "Time to apply an entry.", &meters.apply);
    out.histogram("sitefs_cell_log_sync_seconds", "Time of a sync of the log.", &meters.log_sync);
}

fn disk(group: &Group, out: &mut Exposition) {
    let status = group.status();
    out.gauge("sitefs_cell_log_bytes", "Bytes of entries in the log.", status.log_bytes);
    out.gauge("sitefs_cell_state_bytes", "Bytes of the state database.", status.state_bytes);
    if let Ok(free) = group.disk_free() {
        out.gauge("sitefs_cell_disk_free_bytes", "Bytes free on the disk of the data directory.", free);
    }
    let failed = u8::from(status.poisoned.is_some());
    out.gauge("sitefs_cell_storage_failed", "1 once the storage has failed: the node stops.", failed);
}

fn mounts(cell: &Cell, out: &mut Exposition) {
    let standing = cell.standing();
    out.gauge("sitefs_cell_sessions", "Mounts that are attached.", standing.sessions);
    out.gauge("sitefs_cell_watchers", "Mounts that hear of changes.", standing.watchers);
    let help = "Mounts that do not keep up, so that nobody waits for them.";
    out.gauge("sitefs_cell_watchers_late", help, standing.watchers_late);
}

fn gc(cell: &Cell, out: &mut Exposition) {
    let Ok(status) = cell.gc.status() else { return };
    let never = cell.clock.now().since(sitefs_base::Time::EPOCH);
    let age = status.info.finished.map_or(never, |finished| cell.clock.now().since(finished));
    let help = "Time since a garbage collection was finished; since 1970 if none was.";
    out.gauge("sitefs_cell_gc_age_seconds", help, age.as_secs());
    out.gauge("sitefs_cell_gc_paused", "1 while garbage is not collected.", u8::from(status.info.paused));
    out.gauge("sitefs_cell_gc_running", "1 during a run.", u8::from(status.progress.is_some()));
    let last = status.last.unwrap_or_default();
    let blobs = last.grace.blobs + last.condemned.blobs;
    let bytes = last.grace.bytes + last.condemned.bytes;
    let help = "Blobs that nothing names and whose grace was not over at the last run of this node.";
    out.gauge("sitefs_cell_gc_condemned_blobs", help, blobs);
    out.gauge("sitefs_cell_gc_condemned_bytes", "Bytes of these.", bytes);
    let help = "Objects that waited to be deleted at the end of the last run of this node.";
    out.gauge("sitefs_cell_gc_waiting_objects", help, last.waiting);
    let help = "Blobs named though they were condemned, in the last run of this node: a fault if not 0.";
    out.gauge("sitefs_cell_gc_wrong_blobs", help, last.wrong);
    let meters = &cell.gc.meters;
    out.counter("sitefs_cell_gc_rows_total", "Rows looked at.", meters.rows.get());
    out.counter("sitefs_cell_gc_deleted_objects_total", "Objects deleted.", meters.deleted.get());
    let help = "Bytes of blobs that were given up.";
    out.counter("sitefs_cell_gc_given_up_bytes_total", help, meters.given_up_bytes.get());
    out.counter("sitefs_cell_gc_failures_total", "Objects that could not be deleted.", meters.failures.get());
}

fn hot(group: &Group, out: &mut Exposition) {
    match state::hot_blobs(&group.reader(), None, HOT_COUNTED_MAX) {
        Ok(waiting) => {
            let bytes: u64 = waiting.iter().map(|blob| u64::from(blob.len)).sum();
            let help = "Small blobs that wait to be written to the object store, 20,000 at most.";
            out.gauge("sitefs_cell_hot_blobs", help, waiting.len());
            out.gauge("sitefs_cell_hot_bytes", "Bytes of these.", bytes);
        }
        Err(error) => tracing::debug!(error = error.chain(), "hot blobs are not counted"),
    }
}

fn scrub(cell: &Cell, out: &mut Exposition) {
    let scrub = &cell.scrub;
    let age = scrub.whole_since().map_or(0.0, |since| cell.clock.now().since(since).as_secs_f64());
    let help = "Seconds since the last whole round of reading every object began; 0: there was none yet.";
    out.gauge("sitefs_cell_scrub_age_seconds", help, age);
    out.counter("sitefs_cell_scrub_objects_total", "Objects read again and hashed.", scrub.objects());
    out.counter("sitefs_cell_scrub_bytes_total", "Bytes of these.", scrub.bytes());
    let help = "Objects found to be wrong or missing; the log says which files use them.";
    out.counter("sitefs_cell_scrub_bad_total", help, scrub.bad());
}
