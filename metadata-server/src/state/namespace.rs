//! Names: making, linking and removing them.

use super::{
    Family,
    acl::{self, Acl},
    keys,
    mutation::{Done, Mutation},
    reads::Node,
    rows::{self, DirRow, InodeRow, XattrRow},
    stop::{Step, refuse, require},
};
use bytes::Bytes;
use sitefs_base::{
    AttrFlags, Content, Errno, FileKind, InodeId, Result, Time,
    limits::{LINKS_MAX, SYMLINK_MAX},
    op::{Change, Create, Place},
};

pub(super) const SET_UID: u16 = 0o4000;
pub(super) const SET_GID: u16 = 0o2000;
pub(super) const GROUP_EXEC: u16 = 0o010;
pub(super) const MODE_BITS: u16 = 0o7777;

pub(super) fn mkdir(m: &mut Mutation, at: &Place, create: &Create) -> Step<Done> {
    let parent = free_place(m, at)?;
    let ino = m.next_ino();
    let node = new_node(m, &parent, ino, FileKind::Directory, create)?;
    publish(m, at, &node)
}

pub(super) fn symlink(m: &mut Mutation, at: &Place, target: &Bytes, create: &Create) -> Step<Done> {
    require(!target.is_empty(), Errno::ENOENT)?;
    require(target.len() <= SYMLINK_MAX, Errno::ENAMETOOLONG)?;
    require(!target.contains(&0), Errno::EINVAL)?;
    let parent = free_place(m, at)?;
    let ino = m.next_ino();
    let mut node = new_node(m, &parent, ino, FileKind::Symlink, create)?;
    node.row.size = target.len() as u64;
    node.row.content = Content::Target(target.clone());
    publish(m, at, &node)
}

pub(super) fn mknod(m: &mut Mutation, at: &Place, kind: FileKind, rdev: u32, create: &Create) -> Step<Done> {
    let is_device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
    require(!matches!(kind, FileKind::Directory | FileKind::Symlink), Errno::EINVAL)?;
    let parent = free_place(m, at)?;
    let ino = m.next_ino();
    let mut node = new_node(m, &parent, ino, kind, create)?;
    node.row.rdev = if is_device { rdev } else { 0 };
    publish(m, at, &node)
}

/// The directory of a place whose name is free, else `EEXIST`.
fn free_place(m: &Mutation, at: &Place) -> Step<Node> {
    let parent = m.parent(at)?;
    require(m.dentry(at)?.is_none(), Errno::EEXIST)?;
    Ok(parent)
}

/// Stores a new inode and its first name.
pub(super) fn publish(m: &mut Mutation, at: &Place, node: &Node) -> Step<Done> {
    publish_as_of(m, at, node, None)
}

/// The same for a file that a mount made at `moment`.
pub(super) fn publish_as_of(m: &mut Mutation, at: &Place, node: &Node, moment: Option<Time>) -> Step<Done> {
    m.save(node)?;
    m.set_name(at, Some((node.row.kind, node.ino)))?;
    m.changed(Change::Attr(node.ino));
    m.entries_changed_as_of(at.parent, i32::from(node.is_dir()), moment)?;
    Ok(Done::with(node.ino))
}

/// A new inode with owner, mode and lists as its directory hands them down. Lists are stored here,
/// the inode itself by the caller.
pub(super) fn new_node(
    m: &mut Mutation,
    parent: &Node,
    ino: InodeId,
    kind: FileKind,
    create: &Create,
) -> Result<Node> {
    let at = m.at();
    let is_dir = kind == FileKind::Directory;
    let inherits_group = parent.row.mode & SET_GID != 0;
    let mut flags = AttrFlags::default();
    let mut mode = match kind {
        FileKind::Symlink => 0o777,
        _ => inherited_mode(m, parent, ino, is_dir, create, &mut flags)?,
    };
    if is_dir && inherits_group {
        mode |= SET_GID;
    }
    let row = InodeRow {
        born: m.seq,
        kind,
        mode,
        uid: create.uid,
        gid: if inherits_group { parent.row.gid } else { create.gid },
        nlink: if is_dir { 0 } else { 1 },
        size: 0,
        allocated: 0,
        rdev: 0,
        atime: at,
        mtime: if is_dir { Default::default() } else { at },
        ctime: if is_dir { Default::default() } else { at },
        cver: m.seq,
        flags,
        parent: is_dir.then_some(parent.ino),
        content: Content::Empty,
    };
    let dir = is_dir.then_some(DirRow { born: m.seq, nlink: 2, mtime: at, ctime: at });
    Ok(Node { ino, row, dir })
}

/// The mode of a new entry: of the directory's default list if it has one, else less the umask.
fn inherited_mode(
    m: &mut Mutation,
    parent: &Node,
    ino: InodeId,
    is_dir: bool,
    create: &Create,
    flags: &mut AttrFlags,
) -> Result<u16> {
    let asked = create.mode & MODE_BITS;
    let Some((default, mut acl)) = default_acl(m, parent)? else {
        return Ok(asked & !(create.umask & 0o777));
    };
    acl.limit_to_mode(asked);
    if !acl.is_only_a_mode() {
        store_list(m, ino, acl::ACCESS, acl.to_xattr())?;
        flags.has_access_acl = true;
        flags.has_xattrs = true;
    }
    if is_dir {
        store_list(m, ino, acl::DEFAULT, default)?;
        flags.has_default_acl = true;
        flags.has_xattrs = true;
    }
    Ok((asked & !0o777) | acl.mode_bits())
}

fn default_acl(m: &Mutation, parent: &Node) -> Result<Option<(Bytes, Acl)>> {
    if !parent.row.flags.has_default_acl {
        return Ok(None);
    }
    let key = keys::xattr(m.id, parent.ino, acl::DEFAULT);
    let stored: Option<XattrRow> = rows::fetch(&m.scope.rows, Family::Small, &key)?;
    let parsed = stored.and_then(|row| Some((row.value.clone(), Acl::parse(&row.value).ok().flatten()?)));
    match parsed {
        Some(found) => Ok(Some(found)),
        None => Err(rows::damaged(Family::Small, &key, "is not the access list that its directory promises")),
    }
}

fn store_list(m: &mut Mutation, ino: InodeId, name: &[u8], value: Bytes) -> Result<()> {
    let row = XattrRow { born: m.seq, value };
    m.replace(Family::Small, &keys::xattr(m.id, ino, name), Some(row)).map(drop)
}

pub(super) fn link(m: &mut Mutation, ino: InodeId, at: &Place) -> Step<Done> {
    let mut node = m.node(ino)?;
    require(!node.is_dir(), Errno::EPERM)?;
    free_place(m, at)?;
    require(node.row.nlink < LINKS_MAX, Errno::EMLINK)?;
    node.row.nlink += 1;
    node.row.ctime = m.at();
    m.save(&node)?;
    m.set_name(at, Some((node.row.kind, ino)))?;
    m.changed(Change::Attr(ino));
    m.entries_changed(at.parent, 0)?;
    Ok(Done::with(ino))
}

pub(super) fn unlink(m: &mut Mutation, at: &Place) -> Step<Done> {
    m.parent(at)?;
    let entry = m.dentry(at)?.ok_or(Errno::ENOENT)?;
    if entry.kind == FileKind::Directory {
        return refuse(Errno::EISDIR);
    }
    m.set_name(at, None)?;
    drop_link(m, entry.ino)?;
    m.entries_changed(at.parent, 0)?;
    Ok(Done::with(entry.ino))
}

pub(super) fn rmdir(m: &mut Mutation, at: &Place) -> Step<Done> {
    m.parent(at)?;
    let entry = m.dentry(at)?.ok_or(Errno::ENOENT)?;
    require(entry.kind == FileKind::Directory, Errno::ENOTDIR)?;
    m.require_empty(entry.ino)?;
    m.set_name(at, None)?;
    drop_directory(m, entry.ino)?;
    m.entries_changed(at.parent, -1)?;
    Ok(Done::with(entry.ino))
}

/// One name of a file fewer; without names it is removed.
pub(super) fn drop_link(m: &mut Mutation, ino: InodeId) -> Result<()> {
    let mut node = m.named(ino)?;
    m.changed(Change::Attr(ino));
    if node.row.nlink <= 1 {
        return m.remove(&node);
    }
    node.row.nlink -= 1;
    node.row.ctime = m.at();
    m.save(&node)
}

/// Removes an empty directory that lost its name.
pub(super) fn drop_directory(m: &mut Mutation, ino: InodeId) -> Result<()> {
    let node = m.named(ino)?;
    m.changed(Change::Attr(ino));
    m.remove(&node)
}
