//! Shows that something takes its time, where a person looks on.

use indicatif::{ProgressBar, ProgressDrawTarget};
use std::time::Duration;

/// A line with a spinner on stderr until it is dropped; nothing unless stderr is a terminal.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Begins to show `what`.
    pub(crate) fn show(what: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_message(what);
        bar.enable_steady_tick(Duration::from_millis(150));
        Self(bar)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
