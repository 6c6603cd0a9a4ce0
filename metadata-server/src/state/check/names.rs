//! Names against inodes: every name leads to an inode of its kind, every inode has as many names as it
//! counts, every directory is where it says.
//!
//! Names are in the order of their directories, inodes in their own. Sorting either would take memory or
//! disk, so both are first added up: each name adds a keyed hash of what it says, each inode what its names
//! should have said. Sums differ only in the buckets of wrong inodes, and only those are compared one by one.

use super::{
    super::{
        Family, Repair, keys,
        rows::{DentryRow, InodeRow},
    },
    Check, FindingKind as Found, Place,
    cursor::Cursor,
    tree::Tree,
};
use siphasher::sip::SipHasher13;
use sitefs_base::{FileKind, InodeId, Name, Result, Seq};
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hasher,
};

/// Sums that are kept apart, at most: 16 bytes each. Small volumes have fewer.
const BUCKETS_MAX: u64 = 1 << 16;
/// Inodes of a bucket, if there are not too many for that.
const INODES: u64 = 16;
/// Inodes that are compared one by one at a time, about.
const SOME: u64 = 1 << 18;

#[derive(Clone, Copy, Default)]
struct Bucket {
    sum: u64,
    inodes: u32,
}

/// The sums of a tree.
pub(super) struct Names {
    seed: (u64, u64),
    buckets: Vec<Bucket>,
}

/// What the names of an inode should say.
struct Expected {
    kind: FileKind,
    parent: InodeId,
    names: u32,
    born: Seq,
    found: u32,
}

impl Names {
    pub fn new(seed: (u64, u64), inodes: u64) -> Self {
        let buckets = usize::try_from((inodes / INODES).clamp(16, BUCKETS_MAX)).unwrap_or(16);
        Self { seed, buckets: vec![Bucket::default(); buckets] }
    }

    fn bucket_of(&self, ino: InodeId) -> usize {
        let mut hasher = SipHasher13::new_with_keys(self.seed.0, self.seed.1);
        hasher.write_u64(ino.get());
        usize::try_from(hasher.finish() % self.buckets.len() as u64).unwrap_or(0)
    }

    /// What a name adds; of directories it says the parent too.
    fn says(&self, ino: InodeId, kind: FileKind, parent: InodeId) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.seed.1, self.seed.0);
        hasher.write_u64(ino.get());
        hasher.write_u8(kind as u8);
        hasher.write_u64(if kind == FileKind::Directory { parent.get() } else { 0 });
        hasher.finish()
    }

    pub fn entry(&mut self, parent: InodeId, row: &DentryRow) {
        let says = self.says(row.ino, row.kind, parent);
        let at = self.bucket_of(row.ino);
        self.buckets[at].sum = self.buckets[at].sum.wrapping_add(says);
    }

    pub fn inode(&mut self, ino: InodeId, row: &InodeRow, names: u32) {
        let says = self.says(ino, row.kind, row.parent.unwrap_or(InodeId::new(0)));
        let at = self.bucket_of(ino);
        let bucket = &mut self.buckets[at];
        bucket.sum = bucket.sum.wrapping_sub(says.wrapping_mul(u64::from(names)));
        bucket.inodes = bucket.inodes.saturating_add(1);
    }

    /// Compares the inodes of those buckets whose sums differ.
    pub fn compare(&self, tree: &Tree, check: &mut Check, damaged: &BTreeSet<InodeId>) -> Result<()> {
        let mut wrong: Vec<usize> = (0..self.buckets.len()).filter(|at| self.buckets[*at].sum != 0).collect();
        while !wrong.is_empty() {
            let (mut some, mut inodes) = (BTreeSet::new(), 0);
            while inodes < SOME
                && let Some(at) = wrong.pop()
            {
                inodes += u64::from(self.buckets[at].inodes);
                some.insert(at);
            }
            self.compare_some(tree, check, &some, damaged)?;
        }
        Ok(())
    }

    fn compare_some(
        &self,
        tree: &Tree,
        check: &mut Check,
        some: &BTreeSet<usize>,
        damaged: &BTreeSet<InodeId>,
    ) -> Result<()> {
        let mut expected = self.expected(tree, check, some)?;
        let mut entries = Cursor::new(tree.read, Family::Dentry, tree.id.to_key().to_vec());
        while let Some((key, value)) = entries.next(check)? {
            let Ok(row) = super::super::rows::decode::<DentryRow>(Family::Dentry, &key, &value) else {
                continue;
            };
            let name = Name::new(key.get(16..).unwrap_or_default());
            let (Some(parent), Ok(name)) = (keys::part(&key, 8), name) else { continue };
            if !some.contains(&self.bucket_of(row.ino)) {
                continue;
            }
            let place = (InodeId::from_key(parent), name);
            entry(tree, check, expected.get_mut(&row.ino), &row, place, damaged.contains(&row.ino));
        }
        for (ino, expected) in &expected {
            counted(tree, check, *ino, expected);
        }
        Ok(())
    }

    fn expected(
        &self,
        tree: &Tree,
        check: &mut Check,
        some: &BTreeSet<usize>,
    ) -> Result<BTreeMap<InodeId, Expected>> {
        let mut expected = BTreeMap::new();
        let mut inodes = Cursor::new(tree.read, Family::Inode, tree.id.to_key().to_vec());
        while let Some((key, value)) = inodes.next(check)? {
            let Ok(row) = super::super::rows::decode::<InodeRow>(Family::Inode, &key, &value) else {
                continue;
            };
            let Some(ino) = keys::part(&key, 8).map(InodeId::from_key) else { continue };
            if some.contains(&self.bucket_of(ino)) {
                let names = tree.expected_names_of(ino, &row)?;
                let parent = row.parent.unwrap_or(InodeId::new(0));
                expected.insert(ino, Expected { kind: row.kind, parent, names, born: row.born, found: 0 });
            }
        }
        Ok(expected)
    }
}

fn entry(
    tree: &Tree,
    check: &mut Check,
    expected: Option<&mut Expected>,
    row: &DentryRow,
    (parent, name): (InodeId, Name),
    is_damaged: bool,
) {
    let Some(expected) = expected else {
        if !is_damaged {
            let what = format!("{name:?} in {parent} leads to {}, which is not there", row.ino);
            check.found(tree.finding(Found::NameDangling, what).at(Place::Entry(parent, name)));
        }
        return;
    };
    expected.found = expected.found.saturating_add(1);
    let finding = if row.kind != expected.kind {
        let what = format!("{name:?} in {parent} is a {:?}, {} is a {:?}", row.kind, row.ino, expected.kind);
        tree.finding(Found::NameWrongKind, what)
    } else if row.kind == FileKind::Directory && expected.parent != parent && expected.names > 0 {
        let what = format!("{} is in {parent} and says that it is in {}", row.ino, expected.parent);
        tree.finding(Found::ParentWrong, what)
    } else {
        return;
    };
    check.found(finding.at(Place::Entry(parent, name)));
}

fn counted(tree: &Tree, check: &mut Check, ino: InodeId, expected: &Expected) {
    let Expected { kind, names, found, born, .. } = *expected;
    if names == found {
        return;
    }
    let finding = match kind {
        _ if found == 0 => {
            // Of the past nobody knows which of them were about to be removed, or copied.
            if tree.past.is_some() {
                return;
            }
            tree.finding(Found::InodeNameless, format!("{ino} is a {kind:?} and no name leads to it"))
        }
        FileKind::Directory if names == 0 => {
            let what =
                format!("{ino} awaits removal, is a copy in the making or the root, and has {found} names");
            tree.finding(Found::DirectoryTwice, what)
        }
        FileKind::Directory => tree.finding(Found::DirectoryTwice, format!("{ino} has {found} names")),
        _ => {
            let what = format!("{ino} has {found} names and the link count {names}");
            let finding = tree.finding(Found::LinkCount, what);
            // What awaits removal should have none.
            match names {
                0 => finding,
                _ => finding.repair(Repair::Links { volume: tree.id, ino, born, links: found }),
            }
        }
    };
    check.found(finding.ino(ino));
}
