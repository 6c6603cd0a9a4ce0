//! Attributes: modes, owners, times, lengths.

use super::{
    Family,
    acl::{self, Acl},
    content, keys,
    mutation::{Done, Mutation},
    namespace::{GROUP_EXEC, MODE_BITS, SET_GID, SET_UID},
    reads::Node,
    rows::{self, XattrRow},
    stop::Step,
};
use sitefs_base::{
    InodeId, Result, Time,
    op::{Change, SetAttr, SetTime},
};

pub(super) fn set_attr(m: &mut Mutation, ino: InodeId, set: &SetAttr) -> Step<Done> {
    let mut node = m.node(ino)?;
    m.touch(ino);
    if set.is_empty() {
        return Ok(Done::with(ino));
    }
    if let Some(size) = set.size {
        content::truncate(m, &mut node, size)?;
    }
    let written = set.size.is_some();
    update(m, &mut node, set, written)?;
    m.changed(if node.row.cver == m.seq { Change::Content(ino) } else { Change::Attr(ino) });
    m.save(&node)?;
    Ok(Done::with(ino))
}

/// Applies everything in `set` but the size; ctime moves in any case, and mtime if content was
/// `written` and `set` does not say otherwise.
pub(super) fn update(m: &mut Mutation, node: &mut Node, set: &SetAttr, written: bool) -> Result<()> {
    update_as_of(m, node, set, written, None)
}

/// [`update`] for changes that were made at `changed`, by the client's clock: ctime says so, but does
/// not go back and is not in the future.
pub(super) fn update_as_of(
    m: &mut Mutation,
    node: &mut Node,
    set: &SetAttr,
    written: bool,
    changed: Option<Time>,
) -> Result<()> {
    let at = m.at();
    if set.uid.is_some() || set.gid.is_some() || set.kill_setid {
        clear_set_id(node);
    }
    node.row.uid = set.uid.unwrap_or(node.row.uid);
    node.row.gid = set.gid.unwrap_or(node.row.gid);
    if let Some(mode) = set.mode {
        change_mode(m, node, mode & MODE_BITS)?;
    }
    if let Some(atime) = set.atime {
        node.row.atime = moment(atime, at);
    }
    let mtime = set.mtime.map(|time| moment(time, at)).or(written.then_some(at));
    let (own_mtime, own_ctime) = match &mut node.dir {
        Some(dir) => (&mut dir.mtime, &mut dir.ctime),
        None => (&mut node.row.mtime, &mut node.row.ctime),
    };
    *own_mtime = mtime.unwrap_or(*own_mtime);
    *own_ctime = changed.map_or(at, |changed| changed.min(at).max(*own_ctime));
    Ok(())
}

fn moment(time: SetTime, at: Time) -> Time {
    match time {
        SetTime::Now => at,
        SetTime::At(time) => time,
        SetTime::Written(time) => time.min(at),
    }
}

/// Set-group-id without group execution means mandatory locking, not a privilege: it stays.
fn clear_set_id(node: &mut Node) {
    if node.is_dir() {
        return;
    }
    let mode = &mut node.row.mode;
    *mode &= !SET_UID;
    if *mode & GROUP_EXEC != 0 {
        *mode &= !SET_GID;
    }
}

/// chmod(2): an access list follows.
fn change_mode(m: &mut Mutation, node: &mut Node, mode: u16) -> Result<()> {
    node.row.mode = mode;
    if !node.row.flags.has_access_acl {
        return Ok(());
    }
    let key = keys::xattr(m.id, node.ino, acl::ACCESS);
    let stored: Option<XattrRow> = rows::fetch(&m.scope.rows, Family::Small, &key)?;
    let Some(mut list) = stored.and_then(|row| Acl::parse(&row.value).ok().flatten()) else {
        return Err(rows::damaged(Family::Small, &key, "is not the access list that its inode promises"));
    };
    list.set_mode(mode);
    let row = XattrRow { born: m.seq, value: list.to_xattr() };
    m.replace(Family::Small, &key, Some(row))?;
    m.changed(Change::Xattr(node.ino));
    Ok(())
}
