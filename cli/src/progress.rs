//! Shows that something takes its time, where a person looks on.

use indicatif::{ProgressBar, ProgressDrawTarget};
use std::{io::IsTerminal, time::Duration};

/// A line with a spinner on stderr until it is dropped; nothing unless stderr is a terminal.
pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    /// Begins to show `what`.
    pub(crate) fn show(what: &'static str) -> Self {
        // Where nobody looks on no thread is started for it.
        Self(std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_message(what);
            bar.enable_steady_tick(Duration::from_millis(150));
            bar
        }))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
