//! Slices that are cut small, so that a few rows already need several of them.

use std::cell::Cell;

/// As many rows as one command removes or makes in earnest.
pub const WHOLE: usize = 1000;

thread_local! {
    static ROWS: Cell<usize> = const { Cell::new(WHOLE) };
}

/// Rows that one command removes or makes in this thread.
pub fn slice_rows() -> usize {
    ROWS.get()
}

/// Until this is dropped, commands in this thread remove or make about so many rows.
pub struct Slices(usize);

impl Slices {
    pub fn of(rows: usize) -> Self {
        Self(ROWS.replace(rows))
    }
}

impl Drop for Slices {
    fn drop(&mut self) {
        ROWS.set(self.0);
    }
}
