//! Extended attributes.

use super::{
    Family, Read,
    acl::{self, Acl},
    keys,
    mutation::{Done, Mutation},
    namespace::MODE_BITS,
    reads::{self, Node},
    rows::{self, XattrRow},
    stop::{Step, refuse, require},
};
use bytes::Bytes;
use sitefs_base::{
    Errno, FileKind, InodeId, Result,
    limits::{XATTR_NAME_MAX, XATTRS_MAX},
    op::{Change, XattrMode},
};

const SPACES: [&[u8]; 3] = [b"user.", b"security.", b"trusted."];

pub(super) fn set(
    m: &mut Mutation,
    ino: InodeId,
    name: &Bytes,
    value: &Bytes,
    mode: XattrMode,
) -> Step<Done> {
    check_name(name)?;
    let mut node = m.node(ino)?;
    let exists = stored(m, ino, name)?.is_some();
    match mode {
        XattrMode::Create if exists => return refuse(Errno::EEXIST),
        XattrMode::Replace if !exists => return refuse(Errno::ENODATA),
        XattrMode::Any | XattrMode::Create | XattrMode::Replace => {}
    }
    let value = match &name[..] {
        acl::ACCESS => access_list(&mut node, value)?,
        acl::DEFAULT => default_list(&node, value)?,
        _ => Some(value.clone()),
    };
    write(m, node, name, value)
}

pub(super) fn remove(m: &mut Mutation, ino: InodeId, name: &Bytes) -> Step<Done> {
    check_name(name)?;
    let node = m.node(ino)?;
    if stored(m, ino, name)?.is_none() {
        let is_acl = matches!(&name[..], acl::ACCESS | acl::DEFAULT);
        require(is_acl, Errno::ENODATA)?;
        m.touch(ino);
        return Ok(Done::with(ino));
    }
    write(m, node, name, None)
}

fn check_name(name: &[u8]) -> Step<()> {
    require(name.len() <= XATTR_NAME_MAX, Errno::ERANGE)?;
    require(!name.contains(&0), Errno::EINVAL)?;
    let known = matches!(name, acl::ACCESS | acl::DEFAULT)
        || SPACES.iter().any(|space| name.starts_with(space) && name.len() > space.len());
    require(known, Errno::EOPNOTSUPP)
}

fn stored(m: &Mutation, ino: InodeId, name: &[u8]) -> Result<Option<XattrRow>> {
    rows::fetch(&m.scope.rows, Family::Small, &keys::xattr(m.id, ino, name))
}

/// An access list sets the mode; one that says no more than a mode is not stored.
fn access_list(node: &mut Node, value: &Bytes) -> Step<Option<Bytes>> {
    require(node.row.kind != FileKind::Symlink, Errno::EOPNOTSUPP)?;
    let Some(list) = Acl::parse(value)? else {
        return Ok(None);
    };
    node.row.mode = (node.row.mode & MODE_BITS & !0o777) | list.mode_bits();
    Ok((!list.is_only_a_mode()).then(|| list.to_xattr()))
}

fn default_list(node: &Node, value: &Bytes) -> Step<Option<Bytes>> {
    require(node.is_dir(), Errno::EACCES)?;
    Ok(Acl::parse(value)?.map(|list| list.to_xattr()))
}

/// Stores the attribute, and in the inode what spares others a look.
fn write(m: &mut Mutation, mut node: Node, name: &[u8], value: Option<Bytes>) -> Step<Done> {
    let present = value.is_some();
    let row = value.map(|value| XattrRow { born: m.seq, value });
    m.replace(Family::Small, &keys::xattr(m.id, node.ino, name), row)?;
    if present {
        check_total(m, node.ino)?;
    }
    match name {
        acl::ACCESS => node.row.flags.has_access_acl = present,
        acl::DEFAULT => node.row.flags.has_default_acl = present,
        _ => {}
    }
    let prefix = keys::xattrs(m.id, node.ino);
    node.row.flags.has_xattrs = !m.scope.rows.scan(Family::Small, &prefix, &prefix, 1)?.is_empty();
    let at = m.at();
    match &mut node.dir {
        Some(dir) => dir.ctime = at,
        None => node.row.ctime = at,
    }
    m.changed(Change::Xattr(node.ino));
    m.save(&node)?;
    Ok(Done::with(node.ino))
}

fn check_total(m: &Mutation, ino: InodeId) -> Step<()> {
    let mut total = 0;
    for (name, value) in list(&m.scope.rows, m.id, ino)? {
        total += name.len() + value.len();
    }
    require(total <= XATTRS_MAX, Errno::ENOSPC)
}

/// All attributes of an inode: names and values.
pub(super) fn list(
    read: &dyn Read,
    volume: sitefs_base::VolumeId,
    ino: InodeId,
) -> Result<Vec<(Bytes, Bytes)>> {
    let prefix = keys::xattrs(volume, ino);
    let mut found = Vec::new();
    for (key, value) in reads::all(read, Family::Small, &prefix)? {
        let row: XattrRow = rows::decode(Family::Small, &key, &value)?;
        found.push((Bytes::copy_from_slice(&key[prefix.len()..]), row.value));
    }
    Ok(found)
}
