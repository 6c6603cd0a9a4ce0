//! Typed reads of single rows, and of rows in pages.

use super::{
    Family, Read, keys,
    rows::{self, DentryRow, DirRow, InodeRow, VolumeRow},
    view::Row,
};
use sitefs_base::{Attr, Error, FileKind, Inode, InodeId, Name, Result, VolumeId};

/// Rows that one step of a long scan reads.
const PAGE: usize = 256;

/// An inode with what stands beside its row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Node {
    pub ino: InodeId,
    pub row: InodeRow,
    /// Set exactly for directories.
    pub dir: Option<DirRow>,
}

impl Node {
    pub(super) fn attr(&self) -> Attr {
        self.row.attr(self.ino, self.dir.as_ref())
    }

    pub(super) fn into_inode(self) -> Inode {
        Inode { attr: self.attr(), content: self.row.content }
    }

    pub(super) fn is_dir(&self) -> bool {
        self.row.kind == FileKind::Directory
    }
}

pub(super) fn volume(read: &dyn Read, volume: VolumeId) -> Result<Option<VolumeRow>> {
    rows::fetch(read, Family::Meta, &keys::volume(volume))
}

/// A volume that is not deleted.
pub(super) fn live(read: &dyn Read, id: VolumeId) -> Result<Option<VolumeRow>> {
    Ok(volume(read, id)?.filter(|row| row.deleted.is_none()))
}

pub(super) fn node(read: &dyn Read, volume: VolumeId, ino: InodeId) -> Result<Option<Node>> {
    let Some(row) = rows::fetch::<InodeRow>(read, Family::Inode, &keys::inode(volume, ino))? else {
        return Ok(None);
    };
    let dir = match row.kind {
        FileKind::Directory => Some(dir(read, volume, ino)?),
        _ => None,
    };
    Ok(Some(Node { ino, row, dir }))
}

/// Whether an inode is a directory: directories have a row that others do not.
pub(super) fn is_dir(read: &dyn Read, volume: VolumeId, ino: InodeId) -> Result<bool> {
    let row: Option<DirRow> = rows::fetch(read, Family::Small, &keys::directory(volume, ino))?;
    Ok(row.is_some())
}

fn dir(read: &dyn Read, volume: VolumeId, ino: InodeId) -> Result<DirRow> {
    let key = keys::directory(volume, ino);
    rows::fetch(read, Family::Small, &key)?
        .ok_or_else(|| rows::damaged(Family::Small, &key, "is missing, though its directory exists"))
}

/// The inode that a dentry names: it must exist.
pub(super) fn named(read: &dyn Read, volume: VolumeId, ino: InodeId) -> Result<Node> {
    node(read, volume, ino)?.ok_or_else(|| missing(volume, ino))
}

/// The inodes that dentries name, in their order: all must exist.
pub(super) fn all_named(read: &dyn Read, volume: VolumeId, inodes: &[InodeId]) -> Result<Vec<Node>> {
    if are_neighbours(inodes) {
        return neighbours(read, volume, inodes);
    }
    let keys: Vec<_> = inodes.iter().map(|ino| keys::inode(volume, *ino)).collect();
    let values = read.get_many(Family::Inode, &keys)?;
    let mut nodes = Vec::with_capacity(keys.len());
    for ((key, value), ino) in keys.iter().zip(values).zip(inodes) {
        let value = value.ok_or_else(|| missing(volume, *ino))?;
        nodes.push(decoded(read, volume, *ino, rows::decode(Family::Inode, key, &value)?)?);
    }
    Ok(nodes)
}

fn decoded(read: &dyn Read, volume: VolumeId, ino: InodeId, row: InodeRow) -> Result<Node> {
    let dir = match row.kind {
        FileKind::Directory => Some(dir(read, volume, ino)?),
        _ => None,
    };
    Ok(Node { ino, row, dir })
}

/// Whether most numbers between the lowest and the highest are asked for: files that were made
/// together. A step of a scan costs a tenth of a single read.
fn are_neighbours(inodes: &[InodeId]) -> bool {
    let span = inodes.iter().max().zip(inodes.iter().min()).map(|(last, first)| last.get() - first.get());
    span.is_some_and(|span| span < 4 * inodes.len() as u64)
}

/// The inodes of [`all_named`] by scans, which end at the last of them: behind it there may be thousands
/// of deleted rows.
fn neighbours(read: &dyn Read, volume: VolumeId, inodes: &[InodeId]) -> Result<Vec<Node>> {
    let mut sorted: Vec<InodeId> = inodes.to_vec();
    sorted.sort_unstable();
    // Several names may lead to one inode.
    sorted.dedup();
    let mut found: Vec<InodeRow> = Vec::with_capacity(sorted.len());
    let mut problem = None;
    while let Some(next) = sorted.get(found.len()).filter(|_| problem.is_none()) {
        let (from, limit, known) = (keys::inode(volume, *next), sorted.len() - found.len(), found.len());
        read.visit(Family::Inode, &volume.to_key(), &from, limit, &mut |key, value| {
            if sorted.get(found.len()).is_some_and(|ino| key == keys::inode(volume, *ino)) {
                match rows::decode(Family::Inode, key, value) {
                    Ok(row) => found.push(row),
                    Err(error) => problem = problem.take().or(Some(error)),
                }
            }
        })?;
        if found.len() == known {
            problem = problem.or_else(|| Some(missing(volume, *next)));
        }
    }
    if let Some(problem) = problem {
        return Err(problem);
    }
    let node = |ino: &InodeId| {
        let place = sorted.binary_search(ino).map_err(|_| missing(volume, *ino))?;
        decoded(read, volume, *ino, found[place].clone())
    };
    inodes.iter().map(node).collect()
}

fn missing(volume: VolumeId, ino: InodeId) -> Error {
    rows::damaged(Family::Inode, &keys::inode(volume, ino), "is missing, though a name leads to it")
}

pub(super) fn dentry(
    read: &dyn Read,
    volume: VolumeId,
    parent: InodeId,
    name: &Name,
) -> Result<Option<DentryRow>> {
    rows::fetch(read, Family::Dentry, &keys::dentry(volume, parent, name))
}

/// Calls `each` for the rows under `prefix`, from `from` on, until it returns false.
pub(super) fn walk(
    read: &dyn Read,
    family: Family,
    prefix: &[u8],
    from: &[u8],
    mut each: impl FnMut(&[u8], &[u8]) -> Result<bool>,
) -> Result<()> {
    let mut from = from.to_vec();
    loop {
        let page = read.scan(family, prefix, &from, PAGE)?;
        for (key, value) in &page {
            if !each(key, value)? {
                return Ok(());
            }
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE => from = after(last),
            _ => return Ok(()),
        }
    }
}

/// The rows under `prefix`, all of them: only for prefixes whose rows are few by a limit.
pub(super) fn all(read: &dyn Read, family: Family, prefix: &[u8]) -> Result<Vec<Row>> {
    all_from(read, family, prefix, prefix)
}

/// The same, from `from` on.
pub(super) fn all_from(read: &dyn Read, family: Family, prefix: &[u8], from: &[u8]) -> Result<Vec<Row>> {
    let mut found = Vec::new();
    walk(read, family, prefix, from, |key, value| {
        found.push((key.to_vec(), value.to_vec()));
        Ok(true)
    })?;
    Ok(found)
}

/// The first possible key behind `key`.
pub(super) fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}
