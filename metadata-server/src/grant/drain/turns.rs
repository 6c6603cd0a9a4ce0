//! Whose hot blobs are moved next.

use crate::state::{self, HotBlob, Read};
use sitefs_base::{Generation, Incarnation, Result, SiteId};
use std::collections::HashMap;

/// Blobs of one site that are moved in its turn.
pub(super) const SHARE: usize = 16;
/// After all blobs of a site.
const LAST: Generation = Generation { incarnation: Incarnation::new(u32::MAX), counter: u64::MAX };

/// The sites in turn, and how far each has come.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Whose turn it was.
    site: Option<SiteId>,
    /// Where sites go on that have more than a share.
    reached: HashMap<SiteId, Generation>,
    /// Whether some site of this round has more.
    more: bool,
}

/// What is moved now.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Blobs of one site, the oldest first.
    pub blobs: Vec<HotBlob>,
    /// All sites had their turn.
    pub ends_round: bool,
    /// There is more to be moved at once.
    pub more: bool,
}

impl Turns {
    /// The next site's share.
    pub fn next(&mut self, read: &dyn Read) -> Result<Turn> {
        let mut blobs = state::hot_blobs(read, self.site.map(|site| (site, LAST)), SHARE)?;
        let Some(site) = blobs.first().map(|blob| blob.site) else {
            self.site = None;
            let more = std::mem::take(&mut self.more);
            return Ok(Turn { blobs, ends_round: true, more });
        };
        self.site = Some(site);
        if let Some(reached) = self.reached.get(&site) {
            blobs = state::hot_blobs(read, Some((site, *reached)), SHARE)?;
        }
        blobs.retain(|blob| blob.site == site);
        match blobs.last() {
            Some(last) if blobs.len() == SHARE => {
                self.reached.insert(site, last.generation);
                self.more = true;
            }
            // From the beginning next time: for those that failed, or came meanwhile.
            _ => {
                self.reached.remove(&site);
            }
        }
        Ok(Turn { blobs, ends_round: false, more: true })
    }

    /// The turn of a site ended early: what comes after `last` was not tried and is not passed by.
    pub fn tried_upto(&mut self, site: SiteId, last: Generation) {
        self.reached.insert(site, last);
    }

    /// The oldest of each site come next.
    pub fn restart(&mut self) {
        self.reached.clear();
    }
}
