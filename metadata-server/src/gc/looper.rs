//! The loop that collects in the background.

use super::Gc;
use crate::state;
use sitefs_base::{Kind, Result};
use std::{sync::Arc, time::Duration};

/// How often it is looked whether a run is due.
const LOOK: Duration = Duration::from_secs(60);

/// Runs until its owner stops it.
pub(crate) async fn collect(gc: Arc<Gc>) {
    loop {
        tokio::time::sleep(LOOK.min(gc.config.interval)).await;
        match is_due(&gc) {
            Ok(false) => continue,
            Ok(true) => {}
            Err(error) => {
                tracing::debug!(error = error.chain(), "garbage is left to collect later");
                continue;
            }
        }
        match gc.run(false, None).await {
            Ok(report) => tracing::info!(
                condemned = report.condemned.blobs,
                given_up = report.given_up.blobs,
                deleted = report.deleted,
                rows = report.rows,
                "garbage collected"
            ),
            Err(error) if error.kind() == Kind::Conflict => {}
            Err(error) => tracing::warn!(error = error.chain(), "collecting garbage ended early"),
        }
    }
}

/// Whether this node leads and the last whole run is long enough ago.
fn is_due(gc: &Gc) -> Result<bool> {
    if gc.group.quorum_age().is_none() {
        return Ok(false);
    }
    let info = state::gc_info(&gc.group.reader())?;
    let is_old = |finished| gc.clock.now().since(finished) >= gc.config.interval;
    Ok(!info.paused && info.finished.is_none_or(is_old))
}
