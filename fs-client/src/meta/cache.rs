//! What is remembered of the tree. Every entry is true at its seq and dropped by the feed, never
//! by time; the tables are bounded.

use super::listing::Listing;
use bytes::Bytes;
use lru::LruCache;
use sitefs_base::op::{Change, Place};
use sitefs_base::{Attr, Inode, InodeId, Seq};
use std::{num::NonZeroUsize, sync::Arc};

const INODES_MAX: NonZeroUsize = non_zero(65_536);
const NAMES_MAX: NonZeroUsize = non_zero(131_072);
const LISTINGS_MAX: NonZeroUsize = non_zero(64);
const OWN_MAX: NonZeroUsize = non_zero(8192);
/// Directories above each other in a path that is told to people.
const PATH_DEPTH_MAX: usize = 64;
const XATTRS_MAX: NonZeroUsize = non_zero(1024);

const fn non_zero(n: usize) -> NonZeroUsize {
    match NonZeroUsize::new(n) {
        Some(n) => n,
        None => NonZeroUsize::MIN,
    }
}

/// Names and values of an inode's extended attributes.
pub type Xattrs = Arc<Vec<(Bytes, Bytes)>>;

struct At<T> {
    seq: Seq,
    value: T,
}

/// The remembered rows.
pub struct Cache {
    inodes: LruCache<InodeId, At<Inode>>,
    names: LruCache<Place, At<Option<InodeId>>>,
    listings: LruCache<InodeId, At<Arc<Listing>>>,
    xattrs: LruCache<InodeId, At<Xattrs>>,
    /// Where this mount itself last changed an inode: an older answer may still be on its way.
    own: LruCache<InodeId, Seq>,
    /// The last event that was applied: an older answer must not be remembered.
    watermark: Seq,
}

fn remember<K: std::hash::Hash + Eq, T>(table: &mut LruCache<K, At<T>>, key: K, seq: Seq, value: T) {
    if table.peek(&key).is_none_or(|known| known.seq <= seq) {
        table.put(key, At { seq, value });
    }
}

impl Cache {
    /// Nothing remembered.
    pub fn new() -> Self {
        Self {
            inodes: LruCache::new(INODES_MAX),
            names: LruCache::new(NAMES_MAX),
            listings: LruCache::new(LISTINGS_MAX),
            xattrs: LruCache::new(XATTRS_MAX),
            own: LruCache::new(OWN_MAX),
            watermark: Seq::ZERO,
        }
    }

    /// Whether an answer that holds at `seq` may be remembered and handed out with a lifetime.
    pub fn is_current(&self, seq: Seq) -> bool {
        seq >= self.watermark
    }

    fn is_current_for(&self, seq: Seq, ino: InodeId) -> bool {
        self.is_current(seq) && self.own.peek(&ino).is_none_or(|own| *own <= seq)
    }

    pub fn inode(&mut self, ino: InodeId) -> Option<Inode> {
        self.inodes.get(&ino).map(|known| known.value.clone())
    }

    /// Whether an inode is remembered; it counts as no use of it.
    pub fn knows(&self, ino: InodeId) -> bool {
        self.inodes.contains(&ino)
    }

    pub fn name(&mut self, place: &Place) -> Option<Option<InodeId>> {
        if let Some(known) = self.names.get(place) {
            return Some(known.value);
        }
        // What a whole listing does not have is not there.
        self.listings.peek(&place.parent).map(|known| known.value.find(&place.name))
    }

    pub fn listing(&mut self, dir: InodeId) -> Option<Arc<Listing>> {
        self.listings.get(&dir).map(|known| Arc::clone(&known.value))
    }

    pub fn xattrs(&mut self, ino: InodeId) -> Option<Xattrs> {
        self.xattrs.get(&ino).map(|known| Arc::clone(&known.value))
    }

    pub fn put_inode(&mut self, seq: Seq, inode: Inode) {
        if self.is_current_for(seq, inode.attr.ino) {
            remember(&mut self.inodes, inode.attr.ino, seq, inode);
        }
    }

    pub fn put_name(&mut self, seq: Seq, place: Place, ino: Option<InodeId>) {
        if self.is_current(seq) {
            remember(&mut self.names, place, seq, ino);
        }
    }

    /// Takes in what this mount itself did to a name. If events behind it have come already it may be
    /// undone again, but what was remembered from before it is wrong in any case.
    pub fn put_own_name(&mut self, seq: Seq, place: Place, ino: Option<InodeId>) {
        if self.is_current(seq) {
            remember(&mut self.names, place, seq, ino);
        } else if self.names.peek(&place).is_some_and(|known| known.seq < seq) {
            self.names.pop(&place);
        }
    }

    pub fn put_listing(&mut self, seq: Seq, dir: InodeId, listing: Arc<Listing>) {
        if self.is_current_for(seq, dir) {
            remember(&mut self.listings, dir, seq, listing);
        }
    }

    pub fn put_xattrs(&mut self, seq: Seq, ino: InodeId, xattrs: Xattrs) {
        if self.is_current_for(seq, ino) {
            remember(&mut self.xattrs, ino, seq, xattrs);
        }
    }

    /// Takes in attributes from a reply to this mount's own mutation. Content stays if its version
    /// did not change; otherwise the row is asked for again.
    pub fn put_attr(&mut self, seq: Seq, attr: Attr) {
        self.own.put(attr.ino, seq);
        let Some(known) = self.inodes.get_mut(&attr.ino) else { return };
        if known.seq > seq {
            return;
        }
        if known.value.attr.cver == attr.cver {
            known.seq = seq;
            known.value.attr = attr;
        } else {
            self.inodes.pop(&attr.ino);
        }
    }

    pub fn forget_inode(&mut self, ino: InodeId) {
        self.inodes.pop(&ino);
    }

    pub fn forget_listing(&mut self, dir: InodeId) {
        self.listings.pop(&dir);
    }

    pub fn forget_xattrs(&mut self, ino: InodeId) {
        self.xattrs.pop(&ino);
    }

    /// The path of an inode, from as high up as names are remembered. Looks through all of them.
    pub fn path_of(&self, ino: InodeId) -> String {
        let (mut path, mut at) = (String::new(), ino);
        // A remembered name may be out of date: no tree is that deep, and no circle is followed.
        for _ in 0..PATH_DEPTH_MAX {
            if at == InodeId::ROOT {
                return path;
            }
            let leads_here = |(_, known): &(&Place, &At<Option<InodeId>>)| known.value == Some(at);
            let Some((place, _)) = self.names.iter().find(leads_here) else { break };
            path = format!("/{}{path}", String::from_utf8_lossy(place.name.as_bytes()));
            at = place.parent;
        }
        format!("{at}{path}")
    }

    /// Drops what an event of another mount made untrue.
    pub fn apply(&mut self, seq: Seq, changes: &[Change]) {
        self.watermark = self.watermark.max(seq);
        self.forget(changes);
    }

    /// Drops what may be untrue.
    pub fn forget(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Name(place) => {
                    self.names.pop(place);
                    self.listings.pop(&place.parent);
                    self.inodes.pop(&place.parent);
                }
                Change::Attr(ino) | Change::Content(ino) => {
                    self.inodes.pop(ino);
                }
                Change::Xattr(ino) => {
                    self.inodes.pop(ino);
                    self.xattrs.pop(ino);
                }
            }
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.inodes.clear();
        self.names.clear();
        self.listings.clear();
        self.xattrs.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitefs_base::Name;

    fn place(name: &str) -> Place {
        Place { parent: InodeId::ROOT, name: Name::new(name.as_bytes()).unwrap() }
    }

    #[test]
    fn what_was_known_before_an_own_change_is_forgotten_although_events_behind_it_came_first() {
        let mut cache = Cache::new();
        let (name, other) = (place("new"), place("other"));
        cache.put_own_name(Seq::new(5), name.clone(), None);
        // The cell has sent event 7 while it held back the reply to our own change 6.
        cache.apply(Seq::new(7), &[Change::Name(other)]);
        cache.put_own_name(Seq::new(6), name.clone(), Some(InodeId::new(9)));
        assert_eq!(cache.name(&name), None, "the name is there, and may be something else by now");
    }

    #[test]
    fn an_own_change_does_not_replace_what_was_learned_later() {
        let mut cache = Cache::new();
        let name = place("new");
        cache.apply(Seq::new(7), &[Change::Name(name.clone())]);
        cache.put_name(Seq::new(7), name.clone(), Some(InodeId::new(3)));
        cache.put_own_name(Seq::new(6), name.clone(), None);
        assert_eq!(cache.name(&name), Some(Some(InodeId::new(3))));
    }
}
