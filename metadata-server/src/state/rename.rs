//! Moving names.

use super::{
    Family, keys,
    mutation::{Done, Mutation},
    namespace::{drop_directory, drop_link},
    rows::{self, DentryRow},
    stop::{Step, refuse, require},
};
use sitefs_base::{
    Errno, FileKind, InodeId, Result,
    op::{Change, Place, RenameMode},
};

/// Directories are not moved to a place deeper than this: the way up is walked while every other
/// operation of the group waits.
const DEPTH_MAX: usize = 1 << 14;

pub(super) fn rename(m: &mut Mutation, from: &Place, to: &Place, mode: RenameMode) -> Step<Done> {
    m.parent(from)?;
    m.parent(to)?;
    let source = m.dentry(from)?.ok_or(Errno::ENOENT)?;
    let target = m.dentry(to)?;
    match (mode, &target) {
        (RenameMode::NoReplace, Some(_)) => return refuse(Errno::EEXIST),
        (RenameMode::Exchange, None) => return refuse(Errno::ENOENT),
        (_, Some(target)) if target.ino == source.ino => return Ok(unchanged(m, from, to, &source)),
        _ => {}
    }
    if from.parent != to.parent {
        refuse_loop(m, &source, to.parent)?;
    }
    match target {
        Some(target) if mode == RenameMode::Exchange => exchange(m, from, to, &source, &target)?,
        Some(target) => replace(m, from, to, &source, &target)?,
        None => shift(m, from, to, &source, false)?,
    }
    Ok(Done::with(source.ino))
}

/// Both names lead to the same inode: POSIX asks for success and no change.
fn unchanged(m: &mut Mutation, from: &Place, to: &Place, source: &DentryRow) -> Done {
    for ino in [source.ino, from.parent, to.parent] {
        m.touch(ino);
    }
    Done::with(source.ino)
}

fn replace(m: &mut Mutation, from: &Place, to: &Place, source: &DentryRow, target: &DentryRow) -> Step<()> {
    match (is_dir(source), is_dir(target)) {
        (true, false) => return refuse(Errno::ENOTDIR),
        (false, true) => return refuse(Errno::EISDIR),
        (true, true) => {
            m.require_empty(target.ino)?;
            drop_directory(m, target.ino)?;
        }
        (false, false) => drop_link(m, target.ino)?,
    }
    Ok(shift(m, from, to, source, is_dir(target))?)
}

/// Moves the name; the target, if there was one, is gone already (`lost_dir`: it was a directory).
fn shift(m: &mut Mutation, from: &Place, to: &Place, source: &DentryRow, lost_dir: bool) -> Result<()> {
    m.set_name(from, None)?;
    m.set_name(to, Some((source.kind, source.ino)))?;
    moved(m, source.ino, to.parent)?;
    let dir = i32::from(is_dir(source));
    let lost = i32::from(lost_dir);
    if from.parent == to.parent {
        return m.entries_changed(from.parent, -lost);
    }
    m.entries_changed(from.parent, -dir)?;
    m.entries_changed(to.parent, dir - lost)
}

fn exchange(m: &mut Mutation, from: &Place, to: &Place, source: &DentryRow, target: &DentryRow) -> Step<()> {
    if from.parent != to.parent {
        refuse_loop(m, target, from.parent)?;
    }
    m.set_name(from, Some((target.kind, target.ino)))?;
    m.set_name(to, Some((source.kind, source.ino)))?;
    moved(m, source.ino, to.parent)?;
    moved(m, target.ino, from.parent)?;
    if from.parent == to.parent {
        m.entries_changed(from.parent, 0)?;
    } else {
        let gained = i32::from(is_dir(target)) - i32::from(is_dir(source));
        m.entries_changed(from.parent, gained)?;
        m.entries_changed(to.parent, -gained)?;
    }
    Ok(())
}

/// The inode has another name now: its ctime moves, and a directory's way up.
fn moved(m: &mut Mutation, ino: InodeId, parent: InodeId) -> Result<()> {
    let at = m.at();
    let mut node = m.named(ino)?;
    match &mut node.dir {
        Some(dir) => {
            dir.ctime = at;
            node.row.parent = Some(parent);
        }
        None => node.row.ctime = at,
    }
    m.changed(Change::Attr(ino));
    m.save(&node)
}

/// `EINVAL` if `into` is the directory `moving` or lies below it, `ELOOP` if it lies too deep to tell.
fn refuse_loop(m: &Mutation, moving: &DentryRow, into: InodeId) -> Step<()> {
    if is_dir(moving) { require_way_up(m, into, Some(moving.ino)) } else { Ok(()) }
}

/// A way leads from the directory up to the root, and not through `around` (`EINVAL`). `ENOENT` if it
/// has lost its name, or one above it has.
pub(super) fn require_way_up(m: &Mutation, from: InodeId, around: Option<InodeId>) -> Step<()> {
    let mut dir = from;
    for _ in 0..DEPTH_MAX {
        require(Some(dir) != around, Errno::EINVAL)?;
        if dir == InodeId::ROOT {
            return Ok(());
        }
        let key = keys::inode(m.id, dir);
        let row: Option<rows::InodeRow> = rows::fetch(&m.scope.rows, Family::Inode, &key)?;
        let row =
            row.ok_or_else(|| rows::damaged(Family::Inode, &key, "is missing on the way to the root"))?;
        dir = row.parent.ok_or(Errno::ENOENT)?;
    }
    refuse(Errno::ELOOP)
}

fn is_dir(entry: &DentryRow) -> bool {
    entry.kind == FileKind::Directory
}
