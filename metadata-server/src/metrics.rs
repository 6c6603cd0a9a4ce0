//! What a node of a cell counts, as Prometheus reads it. `docs/METRICS.md` explains each.

use crate::{grant::Hot, raft::Group, rpc::Cell, state};
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
        drained(&cell.blobs.hot, &mut out);
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

fn drained(hot: &Hot, out: &mut Exposition) {
    let help = "The most that the cell holds of small blobs; beyond it they go to the object store first.";
    out.gauge("sitefs_cell_hot_limit_bytes", help, hot.limits().group);
    let help = "Commits that were told to upload their small content first.";
    out.counter("sitefs_cell_hot_refused_total", help, hot.refused.get());
    let help = "Small blobs that were written to the object store.";
    out.counter("sitefs_cell_drained_blobs_total", help, hot.drained.get());
    out.counter("sitefs_cell_drained_bytes_total", "Bytes of these.", hot.drained_bytes.get());
    out.counter("sitefs_cell_drain_errors_total", "Attempts at that which failed.", hot.failed.get());
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
