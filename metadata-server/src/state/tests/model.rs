//! Random operations against a small model of a POSIX tree.

use super::{harness::*, history};
use proptest::prelude::*;
use sitefs_base::{Errno, FileKind, InodeId, op::*};
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Step {
    Mkdir(u8, u8),
    Mknod(u8, u8),
    Write(u8, u8, u16),
    Commit(u8, u8, u16),
    Truncate(u8, u16),
    Link(u8, u8, u8),
    Unlink(u8, u8),
    Rmdir(u8, u8),
    Rename((u8, u8), (u8, u8), u8),
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    let (dir, name) = (0..6u8, 0..4u8);
    let at = (dir.clone(), name.clone());
    prop_oneof![
        3 => at.clone().prop_map(|(d, n)| Step::Mkdir(d, n)),
        2 => at.clone().prop_map(|(d, n)| Step::Mknod(d, n)),
        2 => (dir.clone(), name.clone(), 0..500u16).prop_map(|(d, n, len)| Step::Write(d, n, len)),
        3 => (0..9u8, 0..4u8, 0..500u16).prop_map(|(f, how, len)| Step::Commit(f, how, len)),
        2 => (0..9u8, 0..700u16).prop_map(|(f, size)| Step::Truncate(f, size)),
        2 => (0..9u8, dir, name).prop_map(|(f, d, n)| Step::Link(f, d, n)),
        2 => at.clone().prop_map(|(d, n)| Step::Unlink(d, n)),
        2 => at.clone().prop_map(|(d, n)| Step::Rmdir(d, n)),
        4 => (at.clone(), at, 0..3u8).prop_map(|(from, to, mode)| Step::Rename(from, to, mode)),
        1 => Just(Step::Wait),
    ]
}

#[derive(Clone, Debug, PartialEq)]
enum Thing {
    Dir(BTreeMap<String, InodeId>),
    File { size: u64, inline: bool },
}

struct Model {
    things: BTreeMap<InodeId, Thing>,
    cell: Cell,
    past: Vec<(sitefs_base::Seq, history::Tree)>,
}

type Verdict = Result<(), Errno>;

impl Model {
    fn new() -> Self {
        let things = BTreeMap::from([(ROOT, Thing::Dir(BTreeMap::new()))]);
        Self { things, cell: Cell::new(), past: Vec::new() }
    }

    fn pick(&self, index: u8, dirs: bool) -> Option<InodeId> {
        let of_kind = |thing: &Thing| matches!(thing, Thing::Dir(_)) == dirs;
        let all: Vec<_> =
            self.things.iter().filter(|(_, thing)| of_kind(thing)).map(|(ino, _)| *ino).collect();
        (!all.is_empty()).then(|| all[index as usize % all.len()])
    }

    fn place(&self, dir: u8, name: u8) -> Place {
        place(self.pick(dir, true).unwrap(), ["a", "b", "c", "d"][name as usize])
    }

    fn entries(&mut self, dir: InodeId) -> &mut BTreeMap<String, InodeId> {
        match self.things.get_mut(&dir) {
            Some(Thing::Dir(entries)) => entries,
            other => panic!("{other:?} is no directory"),
        }
    }

    fn name(at: &Place) -> String {
        String::from_utf8(at.name.as_bytes().to_vec()).unwrap()
    }

    fn get(&mut self, at: &Place) -> Option<InodeId> {
        self.entries(at.parent).get(&Self::name(at)).copied()
    }

    fn is_dir(&self, ino: InodeId) -> bool {
        matches!(self.things[&ino], Thing::Dir(_))
    }

    fn is_empty(&self, ino: InodeId) -> bool {
        self.things[&ino] == Thing::Dir(BTreeMap::new())
    }

    fn names_of(&self, ino: InodeId) -> usize {
        let entries = self.things.values().filter_map(|thing| match thing {
            Thing::Dir(entries) => Some(entries),
            Thing::File { .. } => None,
        });
        entries.flat_map(BTreeMap::values).filter(|other| **other == ino).count()
    }

    /// Whether `dir` is `top` or below it.
    fn below(&self, dir: InodeId, top: InodeId) -> bool {
        dir == top
            || match &self.things[&top] {
                Thing::Dir(entries) => entries.values().any(|child| self.below(dir, *child)),
                Thing::File { .. } => false,
            }
    }

    fn unset(&mut self, at: &Place) {
        let gone = self.entries(at.parent).remove(&Self::name(at)).unwrap();
        if self.names_of(gone) == 0 {
            self.things.remove(&gone);
        }
    }

    fn set(&mut self, at: &Place, ino: InodeId) {
        self.entries(at.parent).insert(Self::name(at), ino);
    }

    /// What POSIX says about a rename; it is done if it is allowed.
    fn rename(&mut self, from: &Place, to: &Place, mode: RenameMode) -> Verdict {
        let source = self.get(from).ok_or(Errno::ENOENT)?;
        let target = self.get(to);
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(Errno::EEXIST),
            (RenameMode::Exchange, None) => return Err(Errno::ENOENT),
            (_, Some(target)) if target == source => return Ok(()),
            _ => {}
        }
        if self.is_dir(source) && self.below(to.parent, source) {
            return Err(Errno::EINVAL);
        }
        if let (RenameMode::Exchange, Some(target)) = (mode, target) {
            if self.is_dir(target) && self.below(from.parent, target) {
                return Err(Errno::EINVAL);
            }
            self.set(from, target);
            self.set(to, source);
            return Ok(());
        }
        if let Some(target) = target {
            match (self.is_dir(source), self.is_dir(target)) {
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                (true, true) if !self.is_empty(target) => return Err(Errno::ENOTEMPTY),
                _ => self.unset(to),
            }
        }
        self.set(to, source);
        self.entries(from.parent).remove(&Self::name(from));
        Ok(())
    }

    fn create(&mut self, at: Place, thing: Thing, op: Op) {
        let result = self.cell.op(op).map(|outcome| outcome.ino.unwrap());
        match self.get(&at) {
            Some(_) => assert_eq!(result, Err(Errno::EEXIST)),
            None => {
                let ino = result.unwrap();
                self.things.insert(ino, thing);
                self.set(&at, ino);
            }
        }
    }

    fn write(&mut self, at: Place, len: u16) {
        let text = "x".repeat(len.into());
        let commit = self.cell.new_file(at.clone(), Some(inline(&text)), false);
        let number = commit.ino;
        let result = self.cell.op(Op::Commit(commit)).map(|outcome| outcome.ino.unwrap());
        let thing = Thing::File { size: len.into(), inline: len > 0 };
        match self.get(&at) {
            Some(found) if self.is_dir(found) => assert_eq!(result, Err(Errno::EISDIR)),
            Some(found) => {
                assert_eq!(result, Ok(found));
                self.things.insert(found, thing);
            }
            None => {
                assert_eq!(result, Ok(number));
                self.things.insert(number, thing);
                self.set(&at, number);
            }
        }
    }

    fn commit(&mut self, ino: InodeId, how: u8, len: u16) {
        let new = match how {
            0 => inline(&"y".repeat(len.into())),
            1 => hot(1, 600 + usize::from(len)),
            _ => {
                let count = if how == 2 { 2 } else { 9 };
                let extents = (0..count).map(|at| extent(at * 50, 20, 2)).collect();
                NewContent::Chunks {
                    size: 450 + u64::from(len),
                    changed: vec![ChunkLayout { chunk: 0, extents }],
                }
            }
        };
        let blob = match &new {
            // One digest stands for one length.
            NewContent::Hot { bytes, .. } => {
                NewContent::Hot { digest: length_digest(bytes.len()), bytes: bytes.clone() }
            }
            other => other.clone(),
        };
        let upload = if how >= 2 { self.cell.grant(2, 4096) } else { Grant::Have };
        let uploaded = match upload {
            Grant::Upload { generation, .. } => {
                let upload = Uploaded { digest: digest(2), generation };
                if self.cell.slot(&upload).is_some_and(|slot| slot.contested) {
                    self.cell.verified(&upload); // as the leader does before it proposes
                }
                vec![upload]
            }
            Grant::Have => vec![],
        };
        self.cell.op(Op::Commit(Commit { uploaded, ..content(ino, blob) })).unwrap();
        let (size, inline) = match new {
            NewContent::Inline(bytes) => (bytes.len() as u64, !bytes.is_empty()),
            NewContent::Hot { bytes, .. } => (bytes.len() as u64, false),
            NewContent::Chunks { size, .. } => (size, false),
        };
        self.things.insert(ino, Thing::File { size, inline });
    }

    fn truncate(&mut self, ino: InodeId, new: u64) {
        let result = self.cell.set(ino, SetAttr { size: Some(new), ..Default::default() });
        let Thing::File { size, inline } = self.things[&ino] else { panic!("{ino} is no file") };
        if inline && new > 512 && new != size {
            assert_eq!(result, Err(Errno::EINVAL));
        } else {
            assert_eq!(result.err(), None);
            self.things.insert(ino, Thing::File { size: new, inline: inline && new > 0 });
        }
    }

    fn unlink(&mut self, at: Place) {
        let result = self.cell.op(Op::Unlink { at: at.clone() });
        match self.get(&at) {
            None => assert_eq!(result, Err(Errno::ENOENT)),
            Some(ino) if self.is_dir(ino) => assert_eq!(result, Err(Errno::EISDIR)),
            Some(ino) => {
                assert_eq!(result.unwrap().ino, Some(ino));
                self.unset(&at);
            }
        }
    }

    fn rmdir(&mut self, at: Place) {
        let result = self.cell.op(Op::Rmdir { at: at.clone() });
        match self.get(&at) {
            None => assert_eq!(result, Err(Errno::ENOENT)),
            Some(ino) if !self.is_dir(ino) => assert_eq!(result, Err(Errno::ENOTDIR)),
            Some(ino) if !self.is_empty(ino) => assert_eq!(result, Err(Errno::ENOTEMPTY)),
            Some(_) => {
                assert_eq!(result.err(), None);
                self.unset(&at);
            }
        }
    }

    fn link(&mut self, ino: InodeId, at: Place) {
        let result = self.cell.op(Op::Link { ino, at: at.clone() });
        if self.get(&at).is_some() {
            assert_eq!(result, Err(Errno::EEXIST));
        } else {
            assert_eq!(result.err(), None);
            self.set(&at, ino);
        }
    }

    fn take(&mut self, step: Step) {
        let file = |create| Thing::File { size: 0, inline: create };
        match step {
            Step::Mkdir(d, n) => {
                let at = self.place(d, n);
                self.create(at.clone(), Thing::Dir(BTreeMap::new()), Op::Mkdir { at, create: by(0o755) });
            }
            Step::Mknod(d, n) => {
                let at = self.place(d, n);
                let op = Op::Mknod { at: at.clone(), kind: FileKind::File, rdev: 0, create: by(0o644) };
                self.create(at, file(false), op);
            }
            Step::Write(d, n, len) => self.write(self.place(d, n), len),
            Step::Commit(f, how, len) => {
                self.pick(f, false).into_iter().for_each(|ino| self.commit(ino, how, len));
            }
            Step::Truncate(f, size) => {
                self.pick(f, false).into_iter().for_each(|ino| self.truncate(ino, size.into()));
            }
            Step::Link(f, d, n) => {
                self.pick(f, false).into_iter().for_each(|ino| self.link(ino, self.place(d, n)));
            }
            Step::Unlink(d, n) => self.unlink(self.place(d, n)),
            Step::Rmdir(d, n) => self.rmdir(self.place(d, n)),
            Step::Rename((d, n), (e, o), mode) => {
                let mode = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][mode as usize];
                let (from, to) = (self.place(d, n), self.place(e, o));
                let result = self.cell.rename(from.clone(), to.clone(), mode).map(drop);
                assert_eq!(result, self.rename(&from, &to, mode), "{from:?} {to:?} {mode:?}");
            }
            Step::Wait => {
                self.past.push((self.cell.seq(), history::tree_now(&self.cell.view)));
                self.cell.wait_a_second();
            }
        }
    }

    /// The whole tree is as the model has it, and so is the end of every second.
    fn check(&self) {
        for (ino, thing) in &self.things {
            match thing {
                Thing::Dir(entries) => {
                    assert!(self.cell.names(*ino).iter().eq(entries.keys()));
                    for (name, child) in entries {
                        assert_eq!(self.cell.lookup(place(*ino, name)), Some(*child));
                    }
                }
                Thing::File { size, .. } => assert_eq!(self.cell.attr(*ino).size, *size),
            }
        }
        assert_eq!(self.cell.usage().inodes_used, self.things.len() as u64);
        for (seq, tree) in &self.past {
            assert_eq!(&history::tree_at(&self.cell.view, *seq), tree, "at {seq}");
        }
    }
}

fn length_digest(len: usize) -> sitefs_base::Digest {
    let mut raw = [3; 64];
    raw[..8].copy_from_slice(&(len as u64).to_be_bytes());
    sitefs_base::Digest::new(raw)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_operations_agree_with_the_model(steps in prop::collection::vec(step(), 1..60)) {
        let mut model = Model::new();
        for step in steps {
            model.take(step);
        }
        model.check();
    }
}
