//! What the leader and operators do in a random history.

use super::{
    histories::{Run, choose, snapshot},
    merges::joined,
    model::Volume,
    steps::{At, JoinedBlob, Merging, Restoring},
    tree::{Node, Tree, by_chunk},
};
use crate::state::{Joined, Restore, RestoreEnd};
use sitefs_base::{
    Extent, FileKind, InodeId, Name, Seq, VolumeId,
    op::{BlobWanted, Place},
};
use std::collections::BTreeMap;

/// Extents that the leader joins.
#[derive(Clone, Debug)]
pub struct Plan {
    volume: VolumeId,
    ino: InodeId,
    old: Vec<Extent>,
    blob: JoinedBlob,
}

/// Extents of one chunk without a hole between them, at least two.
fn runs(node: &Node) -> Vec<Vec<Extent>> {
    let mut runs: Vec<Vec<Extent>> = Vec::new();
    for extent in by_chunk(node.extents()).into_values().flatten() {
        let run = runs.last_mut().filter(|run| run.last().is_some_and(|last| last.end() == extent.offset));
        match run.filter(|run| run[0].offset >> 22 == extent.offset >> 22) {
            Some(run) => run.push(extent),
            None => runs.push(vec![extent]),
        }
    }
    runs.retain(|run| run.len() >= 2);
    runs
}

/// Files in rows come first: the leader joins no others, but it may come too late.
fn candidates(volume: &Volume) -> Vec<(InodeId, Vec<Extent>)> {
    let files = volume.now.tree.nodes().filter(|(ino, _)| !volume.unknown.contains(ino));
    let runs_of = |(ino, node)| runs(node).into_iter().map(move |run| (ino, run, node.rows().is_none()));
    let mut found: Vec<_> = files.flat_map(runs_of).collect();
    found.sort_by_key(|(_, _, in_inode)| *in_inode);
    found.into_iter().map(|(ino, run, _)| (ino, run)).collect()
}

impl Run {
    pub(super) fn merge(&mut self, id: VolumeId, merging: &Merging) {
        for plan in std::mem::take(&mut self.slow) {
            self.join(plan);
        }
        let all = candidates(&self.model.volumes[&id]);
        let Some((ino, run)) = all.get(usize::from(merging.pick) % all.len().max(1)).cloned() else { return };
        let first = usize::from(merging.first) % (run.len() - 1);
        let old: Vec<Extent> = run.into_iter().skip(first).take(merging.count.into()).collect();
        let plan = Plan { volume: id, ino, old, blob: merging.blob };
        if merging.is_slow {
            self.slow.push(plan);
        } else {
            self.join(plan);
        }
    }

    fn join(&mut self, Plan { volume, ino, mut old, blob }: Plan) {
        let (digest, bytes) = joined(&old);
        let len = bytes.len() as u32;
        let new = match blob {
            JoinedBlob::Hot => Joined::Hot { digest, bytes: bytes.into() },
            JoinedBlob::Object(is_drawn, is_verified) => {
                let generation = match is_drawn {
                    true => self.model.draw(volume, BlobWanted { digest, len }),
                    false => None,
                };
                if let Some(generation) = generation.filter(|_| is_verified) {
                    self.model.verified(digest, generation.counter);
                }
                Joined::Object { digest, generation }
            }
            JoinedBlob::Wrong(0..80) => Joined::Hot { digest, bytes: vec![0; bytes.len() + 1].into() },
            JoinedBlob::Wrong(wrong) => {
                old.remove(usize::from(wrong) % old.len());
                Joined::Hot { digest, bytes: bytes.into() }
            }
        };
        self.model.join(volume, ino, old, new);
    }

    pub(super) fn restore(&mut self, id: VolumeId, restoring: &Restoring) {
        let volume = &self.model.volumes[&id];
        let seq = match restoring.moment {
            Ok(back) if back < 8 => {
                choose(&volume.kept().into_iter().rev().collect::<Vec<_>>(), back).unwrap()
            }
            Ok(_) => Seq::new(volume.seq.get() + 1 - u64::from(restoring.source % 16).min(volume.seq.get())),
            Err(name) => volume.snapshots.get(&snapshot(name)).copied().unwrap_or(Seq::ZERO),
        };
        let then = volume.past.get(&seq).map(|(tree, _)| tree).unwrap_or(&volume.now.tree);
        let named: Vec<_> = places(then).into_iter().collect();
        let Some((source, was)) = named.get(usize::from(restoring.source) % named.len().max(1)) else {
            return;
        };
        let to = match restoring.to {
            None => was.clone(),
            Some(At(dir, name)) => {
                let dirs =
                    volume.now.tree.nodes().filter(|(ino, node)| {
                        node.kind == FileKind::Directory && !volume.unknown.contains(ino)
                    });
                let dirs: Vec<_> = dirs.map(|(ino, _)| ino).collect();
                let parent = choose(&dirs, dir).unwrap();
                Place { parent, name: Name::new([b'a' + name % 4]).unwrap() }
            }
        };
        let restore = Restore { seq, source: *source, to };
        self.model.start_restore(id, &restore);
    }

    /// Mostly a restore under way, or none.
    fn job(&self, id: VolumeId, pick: u8) -> Option<InodeId> {
        let jobs: Vec<_> = self.model.volumes[&id].jobs.keys().copied().collect();
        if pick < 250 { choose(&jobs, pick) } else { Some(InodeId::new(u64::from(pick % 16))) }
    }

    pub(super) fn step_restore(&mut self, id: VolumeId, pick: u8) {
        let Some(job) = self.job(id, pick) else { return };
        self.model.step_restore(id, job);
    }

    pub(super) fn end_restore(&mut self, id: VolumeId, pick: u8, publish: bool) {
        let Some(job) = self.job(id, pick) else { return };
        let end = if publish { RestoreEnd::Publish } else { RestoreEnd::Abandon };
        while publish && !pick.is_multiple_of(4) && self.model.step_restore(id, job) {}
        self.model.end_restore(id, job, end);
    }

    pub(super) fn delete_or_make(&mut self) {
        let old = &self.model.volumes[&self.volumes[1]];
        if old.deleted {
            let name = old.name.clone();
            self.volumes[1] = self.model.create_volume(&name, self.limits).unwrap();
        } else {
            self.model.delete_volume(self.volumes[1]);
        }
        self.look();
    }
}

/// Every inode to which a way leads from the root, and one of its places.
fn places(tree: &Tree) -> BTreeMap<InodeId, Place> {
    let mut found = BTreeMap::new();
    for dir in tree.below(InodeId::ROOT) {
        for (name, ino) in tree.get(dir).unwrap().entries().into_iter().flatten() {
            found.insert(*ino, Place { parent: dir, name: Name::new(&name[..]).unwrap() });
        }
    }
    found
}
