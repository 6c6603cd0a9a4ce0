//! The group, its sites and its volumes.

use super::{
    Family, Read, VolumeLimits, keys,
    namespace::MODE_BITS,
    reads,
    rows::{self, DirRow, GroupRow, InodeRow, NameRow, VolumeRow},
    scope::Scope,
    stop::{Step, refuse, require},
};
use sitefs_base::{
    AttrFlags, Content, Errno, FileKind, GroupId, Incarnation, InodeId, Result, Seq, SiteId, Time, VolumeId,
    VolumeName, VolumeSettings, op::Usage,
};

/// The owner and mode of a new root directory.
pub(super) struct Root {
    pub uid: u32,
    pub gid: u32,
    pub mode: u16,
}

pub(super) fn init(scope: &mut Scope, cell: &str, group: GroupId, incarnation: Incarnation) -> Step<()> {
    require(scope.group().is_none(), Errno::EEXIST)?;
    let row = GroupRow { cell: cell.to_owned(), group, incarnation };
    Ok(scope.put(Family::Meta, keys::GROUP, &row)?)
}

pub(super) fn create(
    scope: &mut Scope,
    name: &VolumeName,
    limits: VolumeLimits,
    root: &Root,
) -> Step<VolumeId> {
    scope.require_group()?;
    let name_key = keys::name(&name.to_string());
    require(scope.rows.get(Family::Meta, &name_key)?.is_none(), Errno::EEXIST)?;
    require(limits.inodes >= 1, Errno::EINVAL)?;
    let site = site(scope, name)?;
    scope.counters.volumes += 1;
    let id = VolumeId::new(scope.counters.volumes);
    scope.put(Family::Meta, &name_key, &NameRow::Volume(id))?;
    scope.put(Family::Meta, &keys::volume(id), &new_volume(site, name, limits, scope.at))?;
    store_root(scope, id, root)?;
    Ok(id)
}

fn new_volume(site: SiteId, name: &VolumeName, limits: VolumeLimits, at: Time) -> VolumeRow {
    VolumeRow {
        site,
        name: name.clone(),
        limits,
        settings: VolumeSettings::default(),
        created_at: at,
        seq: Seq::ZERO,
        next_ino: InodeId::new(InodeId::ROOT.get() + 1),
        bytes_used: 0,
        inodes_used: 1,
        second: at.secs(),
        second_floor: Seq::ZERO,
        feed_floor: Seq::ZERO,
        horizon: Seq::ZERO,
        pins: Vec::new(),
        history_bytes: 0,
        history_limit: None,
        deleted: None,
    }
}

fn store_root(scope: &mut Scope, id: VolumeId, root: &Root) -> Result<()> {
    let at = scope.at;
    let row = InodeRow {
        born: Seq::ZERO,
        kind: FileKind::Directory,
        mode: root.mode & MODE_BITS,
        uid: root.uid,
        gid: root.gid,
        nlink: 0,
        size: 0,
        allocated: 0,
        rdev: 0,
        atime: at,
        mtime: Time::EPOCH,
        ctime: Time::EPOCH,
        cver: Seq::ZERO,
        flags: AttrFlags::default(),
        parent: Some(InodeId::ROOT),
        content: Content::Empty,
    };
    let dir = DirRow { born: Seq::ZERO, nlink: 2, mtime: at, ctime: at };
    scope.put(Family::Inode, &keys::inode(id, InodeId::ROOT), &row)?;
    scope.put(Family::Small, &keys::directory(id, InodeId::ROOT), &dir)
}

/// The site of a volume's name; made if it is new.
fn site(scope: &mut Scope, name: &VolumeName) -> Step<SiteId> {
    let key = keys::name(name.site().as_str());
    match rows::fetch(&scope.rows, Family::Meta, &key)? {
        Some(NameRow::Site(site)) => Ok(site),
        Some(NameRow::Volume(_)) => refuse(Errno::EEXIST),
        None => {
            scope.counters.sites += 1;
            let site = SiteId::new(scope.counters.sites);
            scope.put(Family::Meta, &key, &NameRow::Site(site))?;
            Ok(site)
        }
    }
}

/// The identity of the group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupInfo {
    /// The cell's name.
    pub cell: String,
    /// The group's number.
    pub group: GroupId,
    /// Its incarnation.
    pub incarnation: Incarnation,
}

/// The group, if it was made.
pub fn group_info(read: &dyn Read) -> Result<Option<GroupInfo>> {
    let row: Option<GroupRow> = rows::fetch(read, Family::Meta, keys::GROUP)?;
    Ok(row.map(|row| GroupInfo { cell: row.cell, group: row.group, incarnation: row.incarnation }))
}

/// The time of the last command; the leader stamps later ones (DESIGN D8).
pub fn last_at(read: &dyn Read) -> Result<Time> {
    let row: Option<rows::CountersRow> = rows::fetch(read, Family::Meta, keys::COUNTERS)?;
    Ok(row.map_or(Time::EPOCH, |row| row.last_at))
}

/// A volume as administrators see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeInfo {
    /// Its name.
    pub name: VolumeName,
    /// Its number.
    pub id: VolumeId,
    /// Its site.
    pub site: SiteId,
    /// Space and inodes used.
    pub usage: Usage,
    /// Its limits.
    pub limits: VolumeLimits,
    /// Its seq.
    pub seq: Seq,
}

impl VolumeInfo {
    fn new(id: VolumeId, row: VolumeRow) -> Self {
        let usage = row.usage();
        Self { name: row.name, id, site: row.site, usage, limits: row.limits, seq: row.seq }
    }
}

impl VolumeRow {
    pub(super) fn usage(&self) -> Usage {
        Usage {
            bytes_used: self.bytes_used,
            bytes_limit: self.limits.bytes,
            inodes_used: self.inodes_used,
            inodes_limit: self.limits.inodes,
        }
    }
}

/// A volume by number.
pub fn volume_info(read: &dyn Read, volume: VolumeId) -> Result<Option<VolumeInfo>> {
    Ok(reads::volume(read, volume)?.map(|row| VolumeInfo::new(volume, row)))
}

/// A volume by name.
pub fn volume_by_name(read: &dyn Read, name: &VolumeName) -> Result<Option<VolumeInfo>> {
    match rows::fetch(read, Family::Meta, &keys::name(&name.to_string()))? {
        Some(NameRow::Volume(id)) => volume_info(read, id),
        Some(NameRow::Site(_)) | None => Ok(None),
    }
}

/// The ids of up to `limit` volumes behind `after`, ascending.
pub fn volumes_after(read: &dyn Read, after: Option<VolumeId>, limit: usize) -> Result<Vec<VolumeId>> {
    let from = after.map_or_else(|| keys::VOLUMES.to_vec(), |id| reads::after(&keys::volume(id)));
    let rows = read.scan(Family::Meta, keys::VOLUMES, &from, limit)?;
    rows.iter().map(|(key, _)| id_of(key)).collect()
}

fn id_of(key: &[u8]) -> Result<VolumeId> {
    let id = keys::part(key, keys::VOLUMES.len());
    id.map(VolumeId::from_key).ok_or_else(|| rows::damaged(Family::Meta, key, "is no key of a volume"))
}

/// All volumes, in the order in which they were made.
pub fn volumes(read: &dyn Read) -> Result<Vec<VolumeInfo>> {
    let mut found = Vec::new();
    reads::walk(read, Family::Meta, keys::VOLUMES, keys::VOLUMES, |key, value| {
        found.push(VolumeInfo::new(id_of(key)?, rows::decode(Family::Meta, key, value)?));
        Ok(true)
    })?;
    Ok(found)
}
