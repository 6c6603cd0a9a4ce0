//! Garbage collection in random histories: it may only take what no tree names that anybody can still see.

use super::{model::Model, steps::Collecting};
use crate::state::{
    CommandBody, GcStep, Standing, doomed,
    tests::{
        gc::{Seen, look},
        harness::SITE,
    },
};
use sitefs_base::Digest;
use std::collections::BTreeSet;

impl Model {
    /// What trees name that are there now, or that history holds.
    fn needed(&self) -> BTreeSet<Digest> {
        let mut needed = BTreeSet::new();
        for volume in self.volumes.values().filter(|volume| !volume.deleted) {
            let kept = volume.kept();
            let past = volume.past.iter().filter(|(seq, _)| kept.contains(seq)).map(|(_, (tree, _))| tree);
            for tree in past.chain([&volume.now.tree]) {
                let extents = tree.nodes().flat_map(|(_, node)| node.extents());
                needed.extend(extents.map(|extent| extent.digest));
            }
        }
        needed
    }

    fn gc(&mut self, step: GcStep) {
        self.plain(CommandBody::Gc(step)).unwrap();
    }

    /// A run of the collector, or a part of one that began some time ago.
    pub fn collect(&mut self, how: Collecting) {
        if how.expires {
            self.gc(GcStep::ExpireUploads { site: SITE, before: self.last_at.next() });
            self.blobs.uploads.clear();
        }
        let seen = look(&self.view, SITE);
        let named = |digest: &Digest| seen.named.contains_key(digest);
        assert!(self.needed().iter().all(named), "the mark sees all that is needed");
        let seen = if how.is_late { self.marked.replace(seen) } else { Some(seen) };
        if let Some(seen) = seen {
            self.condemn(&seen, how.deletes);
        }
        if how.forgets {
            self.deleted();
        }
    }

    fn condemn(&mut self, seen: &Seen, deletes: bool) {
        let (site, mark) = (SITE, seen.mark);
        self.gc(GcStep::Condemn { site, mark, blobs: seen.unnamed() });
        if deletes {
            let before = self.last_at;
            self.gc(GcStep::BeginDelete { site, mark, before, blobs: seen.condemned() });
        }
        let needed = self.needed();
        let found = look(&self.view, SITE).blobs;
        for digest in self.blobs.present.keys().copied().collect::<Vec<_>>() {
            let standing = found.iter().find(|info| info.blob.digest == digest).map(|info| info.standing);
            let present = standing == Some(Standing::Present);
            assert!(present || !needed.contains(&digest), "{digest} is needed, and {standing:?}");
            match standing {
                None => drop(self.blobs.present.remove(&digest)),
                Some(Standing::Deleting) => {
                    let blob = self.blobs.present.remove(&digest).unwrap();
                    self.blobs.deleting.insert(digest, blob.volumes);
                }
                Some(_) => self.blobs.present.get_mut(&digest).unwrap().condemned = !present,
            }
        }
        self.check_all();
    }

    /// The store has deleted what it should.
    fn deleted(&mut self) {
        let gone = doomed(&self.view, SITE, None, 1000).unwrap();
        gone.iter().filter(|doomed| doomed.had_grace).for_each(|doomed| {
            self.blobs.deleting.remove(&doomed.object.digest);
        });
        let objects = gone.into_iter().map(|doomed| doomed.object).collect();
        self.gc(GcStep::Deleted { site: SITE, objects });
    }
}
