//! Read-ahead: who reads a large file from one blob into the next finds the ones behind it on their way.

use super::BlobReader;
use sitefs_base::limits::CHUNK_SIZE;
use sitefs_base::{Digest, InodeId};
use std::{ops::Range, sync::Arc};
use tokio_util::sync::CancellationToken;

/// Chunks that are fetched before they are asked for.
const WINDOW_MAX: u32 = 8;
/// How far reads of several threads may be out of order and still count as one sequence, in chunks.
const DISORDER: u32 = 2;

/// How a file is being read.
#[derive(Debug, Default)]
pub struct Ahead {
    last: Option<u32>,
    window: u32,
    /// Chunks below were fetched, or are being fetched.
    upto: u32,
    cancel: CancellationToken,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Ahead {
    /// The reader is at `offset`, and what is there is not open yet: which chunks to fetch beside it.
    pub fn plan(&mut self, offset: u64, size: u64) -> Range<u32> {
        let chunk = u32::try_from(offset / CHUNK_SIZE).unwrap_or(u32::MAX);
        let chunks = u32::try_from(size.div_ceil(CHUNK_SIZE)).unwrap_or(u32::MAX);
        let last = self.last.replace(chunk);
        let is_next = last.is_some_and(|last| chunk == last.saturating_add(1));
        if last.is_some_and(|last| chunk <= last && chunk.saturating_add(DISORDER) > last) {
            self.last = last;
            return 0..0;
        }
        if !is_next {
            // Another reader may still be where this one came from: nothing is given up.
            (self.window, self.upto) = (0, 0);
            return 0..0;
        }
        self.window = (self.window * 2).clamp(2, WINDOW_MAX);
        let from = self.upto.max(chunk.saturating_add(1));
        let to = chunk.saturating_add(1).saturating_add(self.window).min(chunks);
        self.upto = self.upto.max(to);
        from..to.max(from)
    }

    /// Nobody reads any more: what is on its way is given up.
    pub fn stop(&mut self) {
        self.cancel.cancel();
        *self = Self::default();
    }

    /// Ends when reading does.
    pub fn token(&self) -> CancellationToken {
        self.cancel.clone()
    }
}

impl BlobReader {
    /// Fetches blobs of `ino` in the background, as far as there is room for it, until `cancel` says
    /// that nobody needs them.
    pub fn read_ahead(self: &Arc<Self>, ino: InodeId, digests: Vec<Digest>, cancel: &CancellationToken) {
        for digest in digests {
            if self.cache.has(&digest) {
                continue;
            }
            let Ok(place) = Arc::clone(&self.ahead).try_acquire_owned() else { return };
            let (own, cancel) = (Arc::clone(self), cancel.clone());
            // The runtime owns its blocking threads and waits for them when it ends.
            drop(self.meta.session().runtime().spawn_blocking(move || {
                let _place = place;
                if let Err(stop) = own.bring(ino, digest, &cancel) {
                    // Who reads it says why.
                    tracing::debug!(%digest, ?stop, "a blob was not read ahead");
                }
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 40 * CHUNK_SIZE;

    fn at(ahead: &mut Ahead, chunk: u64) -> Range<u32> {
        ahead.plan(chunk * CHUNK_SIZE, SIZE)
    }

    #[test]
    fn who_goes_on_to_the_next_chunk_gets_more_and_more_of_those_behind_it() {
        let mut ahead = Ahead::default();
        assert!(at(&mut ahead, 0).is_empty(), "the head of a file is not a sequence");
        assert_eq!(at(&mut ahead, 1), 2..4);
        assert_eq!(at(&mut ahead, 2), 4..7);
        assert!(at(&mut ahead, 1).is_empty() && at(&mut ahead, 2).is_empty(), "late reads");
        assert_eq!(at(&mut ahead, 3), 7..12);
        assert_eq!(at(&mut ahead, 4), 12..13);
        for chunk in 5..30 {
            at(&mut ahead, chunk);
        }
        assert_eq!(at(&mut ahead, 30), 38..39);
        assert_eq!(at(&mut ahead, 31), 39..40);
        assert!(at(&mut ahead, 32).is_empty(), "the end");
    }

    #[test]
    fn who_jumps_begins_anew_and_who_closes_gives_up_what_was_on_its_way() {
        let mut ahead = Ahead::default();
        for chunk in 0..3 {
            at(&mut ahead, chunk);
        }
        let token = ahead.token();
        assert!(at(&mut ahead, 20).is_empty() && !token.is_cancelled());
        assert_eq!(at(&mut ahead, 21), 22..24);
        ahead.stop();
        assert!(token.is_cancelled() && !ahead.token().is_cancelled());
        let token = ahead.token();
        drop(ahead);
        assert!(token.is_cancelled());
    }
}
