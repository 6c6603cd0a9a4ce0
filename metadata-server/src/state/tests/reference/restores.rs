//! Bringing the past back. How far a step copies is for the rows to say: which names a copy has by now
//! and which chunks. Everything else follows from what was there at the moment.

use super::{
    model::{Model, Volume, fits},
    rules::{Act, Verdict, refuse_if},
    tree::{Body, Node, Tree},
};
use crate::state::{
    CommandBody, Family, Read, Reply, Restore, RestoreEnd, RestoreState, keys, reap::NO_SESSION,
    tests::slices::slice_rows,
};
use sitefs_base::{
    Errno, FileKind, InodeId, Seq, Time, VolumeId,
    op::{Credit, Place},
};
use std::collections::{BTreeMap, BTreeSet};

/// Restores of a volume that may be under way.
const JOBS_MAX: usize = 16;

/// A restore under way.
#[derive(Clone, Debug)]
pub struct Job {
    pub seq: Seq,
    pub to: Place,
    pub moved_at: Time,
    /// Every inode that was copied so far, and of what it is the copy.
    copies: BTreeMap<InodeId, InodeId>,
    bytes: u64,
    /// A step said that it was the last one.
    is_done: bool,
}

impl Job {
    fn state(&self, job: Option<InodeId>, more: bool) -> RestoreState {
        RestoreState { job, entries: self.copies.len() as u64, bytes: self.bytes, more }
    }
}

impl Model {
    pub fn start_restore(&mut self, id: VolumeId, restore: &Restore) {
        let (at, before) = (self.next_at(), self.volumes[&id].now.tree.clone());
        let mut volume = self.volumes[&id].clone();
        let mut blobs = self.blobs.clone();
        let verdict = start(&mut volume, restore, at).and_then(|(state, source)| {
            fits(&volume.limits, (&before, &volume.now.tree), Credit::NONE)?;
            // The rows of a copy come later.
            let named = if state.more && source.rows().is_some() { &[] } else { source.extents() };
            named.iter().for_each(|extent| blobs.name_again(id, &extent.digest));
            Ok(state)
        });
        let (reply, event) = self.told(CommandBody::StartRestore { volume: id, restore: restore.clone() });
        assert_eq!(reply, verdict.map(Reply::Restore), "{restore:?}");
        if verdict.is_ok() {
            volume.advance(at);
            self.volumes.insert(id, volume);
            self.blobs = blobs;
            self.check_event(id, (&before, NO_SESSION), event);
        }
        self.check_growth(id, &before);
        self.check(id);
    }

    /// Copies some more; whether that is to be repeated.
    pub fn step_restore(&mut self, id: VolumeId, job: InodeId) -> bool {
        let (at, before) = (self.next_at(), self.volumes[&id].now.tree.clone());
        let (reply, event) = self.told(CommandBody::StepRestore { volume: id, job });
        let volume = self.volumes.get_mut(&id).unwrap();
        if volume.deleted || !volume.jobs.contains_key(&job) {
            assert_eq!(reply, Err(Errno::ENOENT));
            return false;
        }
        if reply == Err(Errno::EDQUOT) {
            assert!(volume.could_be_full(job), "there is room for the copy");
            self.check(id);
            return false;
        }
        let Ok(Reply::Restore(state)) = reply else {
            panic!("{reply:?}");
        };
        for digest in volume.go_on(job, (&self.view, id), at) {
            self.blobs.name_again(id, &digest);
        }
        fits(&volume.limits, (&before, &volume.now.tree), Credit::NONE).unwrap();
        assert!(state.more || volume.is_whole(job), "it stops before it is whole");
        let running = volume.jobs.get_mut(&job).unwrap();
        (running.moved_at, running.is_done) = (at, !state.more);
        assert_eq!(state, running.state(Some(job), state.more));
        volume.advance(at);
        self.check_event(id, (&before, NO_SESSION), event);
        self.check_growth(id, &before);
        self.check(id);
        state.more
    }

    pub fn end_restore(&mut self, id: VolumeId, job: InodeId, end: RestoreEnd) {
        let (at, before) = (self.next_at(), self.volumes[&id].now.tree.clone());
        let mut volume = self.volumes[&id].clone();
        let (reply, event) = self.told(CommandBody::EndRestore { volume: id, job, end });
        let Some(running) = volume.jobs.get(&job).cloned().filter(|_| !volume.deleted) else {
            return assert_eq!(reply, Err(Errno::ENOENT));
        };
        let verdict = match end {
            RestoreEnd::Abandon => Ok(()),
            // It may be whole without knowing: then another step says so.
            RestoreEnd::Publish if !volume.is_whole(job) => Err(Errno::EBUSY),
            RestoreEnd::Publish if !running.is_done && reply == Err(Errno::EBUSY) => Err(Errno::EBUSY),
            RestoreEnd::Publish => self.publish(&mut volume, (id, job), &running.to, at),
        };
        assert_eq!(reply, verdict.map(|()| Reply::Restore(running.state(None, false))), "{running:?}");
        if verdict.is_ok() {
            volume.jobs.remove(&job);
            volume.now.awake = true;
            volume.advance(at);
            self.volumes.insert(id, volume);
            self.check_event(id, (&before, NO_SESSION), event);
        }
        self.check_growth(id, &before);
        self.check(id);
    }

    /// The copy gets its name; what had it goes.
    fn publish(
        &mut self,
        volume: &mut Volume,
        (id, job): (VolumeId, InodeId),
        to: &Place,
        at: Time,
    ) -> Verdict<()> {
        let (seq, mut own) = (volume.seq.next(), Vec::new());
        let (now, blobs) = (&mut volume.now, &mut self.blobs);
        let mut act = Act { now, blobs, own: &mut own, volume: id, at, seq, crowded: None };
        act.parent(to)?;
        act.way_up(to.parent, None)?;
        match act.now.tree.find(to) {
            Some(old) if act.is_dir(old) => {
                act.now.tree.entries(to.parent).remove(to.name.as_bytes());
                set_parent(&mut act.now.tree, old, None);
            }
            Some(_) => drop(act.drop_name(to)),
            None => {}
        }
        act.now.tree.entries(to.parent).insert(to.name.as_bytes().to_vec(), job);
        set_parent(&mut act.now.tree, job, Some(to.parent));
        act.stamp(to.parent);
        for known in volume.jobs[&job].copies.keys() {
            volume.unknown.remove(known);
        }
        Ok(())
    }
}

fn set_parent(tree: &mut Tree, ino: InodeId, to: Option<InodeId>) {
    if let Body::Dir { parent, .. } = &mut tree.edit(ino).body {
        *parent = to;
    }
}

/// A new inode that is as `source` was; what is in a directory and in rows of chunks comes later.
fn copy_of(source: &Node, parent: Option<InodeId>, (at, seq): (Time, Seq)) -> Node {
    let mut copy = Node { ctime: at, cver: seq, ..source.clone() };
    match &mut copy.body {
        Body::Dir { parent: up, entries } => {
            *up = parent;
            entries.clear();
        }
        Body::Blobs { rows: Some(rows), .. } => rows.clear(),
        _ => {}
    }
    copy
}

/// Begins a restore, or does it at once; gives what was there.
fn start(volume: &mut Volume, restore: &Restore, at: Time) -> Verdict<(RestoreState, Node)> {
    let Restore { seq, source, to } = restore;
    refuse_if(volume.deleted, Errno::ENOENT)?;
    refuse_if(*seq > volume.seq, Errno::EINVAL)?;
    refuse_if(*seq != volume.seq && !volume.kept().contains(seq), Errno::ESTALE)?;
    let then = volume.past[seq].0.get(*source).cloned().ok_or(Errno::ENOENT)?;
    let next = volume.seq.next();
    let (mut blobs, mut own) = (Default::default(), Vec::new());
    let id = VolumeId::new(0);
    let now = &mut volume.now;
    let act = Act { now, blobs: &mut blobs, own: &mut own, volume: id, at, seq: next, crowded: None };
    act.parent(to)?;
    act.way_up(to.parent, None)?;
    let tree = &mut volume.now.tree;
    let small = |node: &Node| node.rows().is_none_or(|rows| rows.len() <= slice_rows());
    let few = then.rows().is_none() || then.extents().len() <= slice_rows();
    let in_place = tree.find(to) == Some(*source) && then.kind == FileKind::File;
    if in_place && few && small(tree.get(*source).unwrap()) {
        let bytes = then.allocated();
        *tree.edit(*source) = Node { ctime: at, cver: next, ..then.clone() }.relaid(next);
        return Ok((RestoreState { job: None, entries: 1, bytes, more: false }, then));
    }
    refuse_if(volume.jobs.len() >= JOBS_MAX, Errno::EBUSY)?;
    let job = InodeId::new(volume.now.next_ino);
    volume.now.next_ino += 1;
    tree.insert(job, copy_of(&then, None, (at, next)));
    let copies = BTreeMap::from([(job, *source)]);
    let bytes = then.allocated();
    let running = Job { seq: *seq, to: to.clone(), moved_at: at, copies, bytes, is_done: false };
    let state = running.state(Some(job), true);
    volume.jobs.insert(job, running);
    volume.unknown.insert(job);
    Ok((state, then))
}

impl Volume {
    /// What was there at the moment that is brought back.
    fn then(&self, job: &Job) -> Tree {
        self.past[&job.seq].0.clone()
    }

    /// Whether everything was copied.
    fn is_whole(&self, job: InodeId) -> bool {
        let (job, tree) = (&self.jobs[&job], &self.now.tree);
        let then = self.then(job);
        job.copies.iter().all(|(copy, source)| {
            let (copy, source) = (tree.get(*copy).unwrap(), then.get(*source).unwrap());
            copy.entries().map(BTreeMap::len) == source.entries().map(BTreeMap::len)
                && copy.rows().map(BTreeMap::len) == source.rows().map(BTreeMap::len)
        })
    }

    /// Whether the rest of a copy may be more than the limits allow.
    fn could_be_full(&self, job: InodeId) -> bool {
        let job = &self.jobs[&job];
        let then = self.then(job);
        let (bytes, inodes) = (self.now.tree.bytes(), self.now.tree.len() as u64);
        let source = job.copies.values().next().unwrap();
        let all = then.below(*source);
        let rest: Vec<_> = all.iter().filter(|ino| !job.copies.values().any(|of| of == *ino)).collect();
        let more: u64 = rest.iter().map(|ino| then.get(**ino).unwrap().allocated()).sum();
        (more > 0 && bytes + more > self.limits.bytes)
            || (!rest.is_empty() && inodes + rest.len() as u64 > self.limits.inodes)
    }

    /// Copies what a step has copied; gives the blobs that it named.
    fn go_on(
        &mut self,
        job: InodeId,
        (view, id): (&dyn Read, VolumeId),
        at: Time,
    ) -> BTreeSet<sitefs_base::Digest> {
        let (seq, then) = (self.seq.next(), self.then(&self.jobs[&job]));
        let mut named = BTreeSet::new();
        let mut made = BTreeSet::new();
        let mut next: Vec<InodeId> = self.jobs[&job].copies.keys().copied().collect();
        while let Some(copy) = next.pop() {
            let source = then.get(self.jobs[&job].copies[&copy]).unwrap();
            for (name, of) in source.entries().into_iter().flatten() {
                let Some(ino) = entry(view, id, copy, name) else { continue };
                if self.now.tree.entries(copy).insert(name.clone(), ino).is_some() {
                    continue;
                }
                let of_child = then.get(*of).unwrap();
                let running = self.jobs.get_mut(&job).unwrap();
                if let Some(known) = running.copies.get(&ino) {
                    assert_eq!((known, of_child.is_dir()), (of, false), "a name of a file that has several");
                    continue;
                }
                assert!(running.copies.values().all(|known| known != of), "{of} is copied twice");
                running.copies.insert(ino, *of);
                running.bytes += of_child.allocated();
                self.now.tree.insert(ino, copy_of(of_child, Some(copy), (at, seq)));
                let with_it = of_child.extents().iter().filter(|_| of_child.rows().is_none());
                named.extend(with_it.map(|extent| extent.digest));
                made.insert(ino);
                next.push(ino);
            }
            named.extend(self.go_on_with_rows(copy, source, (view, id), seq));
        }
        let numbers = (self.now.next_ino..).map(InodeId::new).take(made.len());
        assert!(numbers.eq(made.iter().copied()), "numbers are drawn one after the other");
        self.now.next_ino += made.len() as u64;
        self.unknown.extend(made);
        named
    }

    /// Copies the rows of chunks that are there by now.
    fn go_on_with_rows(
        &mut self,
        copy: InodeId,
        source: &Node,
        (view, id): (&dyn Read, VolumeId),
        seq: Seq,
    ) -> BTreeSet<sitefs_base::Digest> {
        let mut named = BTreeSet::new();
        let Body::Blobs { rows: Some(rows), extents, .. } = &mut self.now.tree.edit(copy).body else {
            return named;
        };
        for chunk in source.rows().into_iter().flat_map(BTreeMap::keys) {
            let is_there = view.get(Family::Chunk, &keys::chunk(id, copy, *chunk)).unwrap().is_some();
            if is_there && !rows.contains_key(chunk) {
                rows.insert(*chunk, seq);
                extents.retain(|extent| super::tree::chunk_of(extent) != *chunk);
                extents.extend(source.chunk(*chunk));
                named.extend(source.chunk(*chunk).iter().map(|extent| extent.digest));
            }
        }
        extents.sort_by_key(|extent| extent.offset);
        named
    }
}

/// To which inode a name of a copy leads, if it is there by now.
fn entry(view: &dyn Read, id: VolumeId, dir: InodeId, name: &[u8]) -> Option<InodeId> {
    let key = [keys::dentries(id, dir), name.to_vec()].concat();
    let row: Option<crate::state::rows::DentryRow> =
        crate::state::rows::fetch(view, Family::Dentry, &key).unwrap();
    row.map(|row| row.ino)
}
