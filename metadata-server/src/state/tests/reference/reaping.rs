//! Removal in slices. How far a slice goes is for the rows to say; everything else follows from which
//! names and inodes it took.

use super::{
    model::{Model, Volume},
    tree::{Body, Tree},
};
use crate::state::{CommandBody, Family, Read, Reply, keys, reap::NO_SESSION, tests::slices::slice_rows};
use sitefs_base::{InodeId, Time, VolumeId, op::Credit};
use std::collections::{BTreeMap, BTreeSet};

/// What a slice may take beyond its measure: the attributes of an inode, a name and what it leads to.
const OVER: usize = 16;

impl Model {
    /// Removes a slice; whether there is more.
    pub fn reap(&mut self, id: VolumeId) -> bool {
        let (before, at, rows) = (self.volumes[&id].now.clone(), self.next_at(), self.row_count());
        let (reply, event) = self.told(CommandBody::Reap { volume: id });
        assert_eq!(self.grown, Credit::NONE);
        let Ok(Reply::Reaped { more }) = reply else {
            panic!("{reply:?}");
        };
        assert!(self.row_count() + slice_rows() + OVER >= rows, "a slice takes about so many rows");
        let volume = self.volumes.get_mut(&id).unwrap();
        volume.now.awake = more;
        if volume.deleted {
            assert_eq!(event, None);
            volume.removed = !more;
            if !more {
                self.check_removed(id);
            }
            self.check(id);
            return more;
        }
        let had_work = !volume.orphans().is_empty() || !volume.now.leftovers.is_empty();
        take(volume, (&self.view, id), at);
        if !more {
            assert_eq!(volume.orphans(), BTreeSet::new(), "nothing is left");
            assert_eq!(volume.now.leftovers, BTreeSet::new(), "nothing is left");
        }
        if had_work {
            volume.advance(at);
        }
        self.check_event(id, (&before.tree, NO_SESSION), event);
        self.check(id);
        more
    }

    fn row_count(&self) -> usize {
        [Family::Dentry, Family::Inode, Family::Chunk].map(|family| self.view.rows(family).len()).iter().sum()
    }

    /// Removes all that awaits removal.
    pub fn reap_all(&mut self) {
        for id in self.volumes.keys().copied().collect::<Vec<_>>() {
            let mut slices = 0;
            while self.reap(id) {
                slices += 1;
                assert!(slices < 10_000, "it comes to an end");
            }
        }
    }
}

impl Volume {
    /// What has lost its name and awaits removal.
    pub fn orphans(&self) -> BTreeSet<InodeId> {
        let nameless = self.now.tree.nameless().into_iter();
        nameless.filter(|ino| !self.jobs.contains_key(ino)).collect()
    }

    /// The volume is at another seq.
    pub fn advance(&mut self, at: Time) {
        self.seq = self.seq.next();
        self.past.insert(self.seq, (self.now.tree.clone(), at));
    }
}

/// The names that a directory has by now.
fn names(view: &dyn Read, id: VolumeId, dir: InodeId) -> BTreeSet<Vec<u8>> {
    let prefix = keys::dentries(id, dir);
    let rows = view.scan(Family::Dentry, &prefix, &prefix, 10_000).unwrap();
    rows.into_iter().map(|(key, _)| key[prefix.len()..].to_vec()).collect()
}

fn is_there(view: &dyn Read, id: VolumeId, ino: InodeId) -> bool {
    view.get(Family::Inode, &keys::inode(id, ino)).unwrap().is_some()
}

fn take(volume: &mut Volume, (view, id): (&dyn Read, VolumeId), at: Time) {
    let mut next: Vec<InodeId> = volume.orphans().into_iter().collect();
    let mut leftovers = std::mem::take(&mut volume.now.leftovers);
    let tree = &mut volume.now.tree;
    while let Some(ino) = next.pop() {
        if tree.get(ino).unwrap().is_dir() {
            next.extend(empty(tree, (view, id), ino, (at, &mut leftovers)));
        }
        if !is_there(view, id, ino) {
            assert!(tree.get(ino).unwrap().entries().is_none_or(BTreeMap::is_empty), "names lead nowhere");
            forget(tree, ino, &mut leftovers);
        }
    }
    leftovers.retain(|ino| view.get(Family::Small, &keys::orphan(id, *ino)).unwrap().is_some());
    volume.now.leftovers = leftovers;
}

/// Takes the names that are gone out of a directory; gives the directories that lost theirs.
fn empty(
    tree: &mut Tree,
    (view, id): (&dyn Read, VolumeId),
    dir: InodeId,
    (at, leftovers): (Time, &mut BTreeSet<InodeId>),
) -> Vec<InodeId> {
    let left = names(view, id, dir);
    let mut lost = Vec::new();
    let mut gone = Vec::new();
    tree.entries(dir).retain(|name, ino| {
        let stays = left.contains(name);
        gone.extend((!stays).then_some(*ino));
        stays
    });
    // One inode may have had several names here.
    gone.sort_unstable();
    gone.dedup();
    for ino in gone {
        if let Body::Dir { parent, .. } = &mut tree.edit(ino).body {
            *parent = None;
            lost.push(ino);
        } else if tree.names().contains_key(&ino) {
            tree.edit(ino).ctime = at;
        } else {
            forget(tree, ino, leftovers);
        }
    }
    lost
}

fn forget(tree: &mut Tree, ino: InodeId, leftovers: &mut BTreeSet<InodeId>) {
    if tree.get(ino).unwrap().rows().is_some() {
        leftovers.insert(ino);
    }
    tree.remove(ino);
}
