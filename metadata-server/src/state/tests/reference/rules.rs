//! What POSIX and `docs/SEMANTICS.md` say about each operation.

use super::{
    acl::List,
    blobs::Blobs,
    content,
    tree::{ACCESS, Body, DEFAULT, Node, Tree},
};
use crate::state::tests::slices::slice_rows;
use bytes::Bytes;
use sitefs_base::{
    Errno, FileKind, InodeId, Seq, Time, VolumeId,
    limits::{INODE_RANGE, SYMLINK_MAX, XATTR_NAME_MAX, XATTRS_MAX},
    op::{BlobWanted, Create, Op, Place, RenameMode, SetAttr, SetTime, XattrMode},
};
use std::collections::{BTreeMap, BTreeSet};

pub type Verdict<T> = Result<T, Errno>;

pub fn refuse_if(condition: bool, errno: Errno) -> Verdict<()> {
    if condition { Err(errno) } else { Ok(()) }
}

/// What the reply must say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Effect {
    pub ino: Option<InodeId>,
    /// Inodes whose attributes the reply must carry, if they exist then.
    pub shown: Vec<InodeId>,
    /// Whether the volume's seq moves on.
    pub changed: bool,
    pub extra: Gives,
    /// A chunk that should be merged.
    pub crowded: Option<(InodeId, u32)>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Gives {
    #[default]
    Nothing,
    Inodes(InodeId, u32),
    /// A generation for each blob; `None`: the volume has it.
    Grants(Vec<Option<u64>>),
    Dropped,
    Appended(u64),
    Cloned(u64),
}

impl Effect {
    pub fn on(ino: InodeId, shown: &[InodeId]) -> Self {
        Self { ino: Some(ino), shown: [&[ino], shown].concat(), changed: true, ..Self::default() }
    }

    /// The inode is gone, and what was to be written with it.
    pub fn dropped(ino: InodeId) -> Self {
        Self { ino: Some(ino), extra: Gives::Dropped, ..Self::default() }
    }

    pub fn nothing(ino: InodeId, shown: &[InodeId]) -> Self {
        Self { changed: false, ..Self::on(ino, shown) }
    }
}

/// The parts of a volume that an operation changes; a refusal changes none of them.
#[derive(Clone, Debug)]
pub struct Now {
    pub tree: Tree,
    pub next_ino: u64,
    /// Inodes that are gone, but for rows of chunks that await removal.
    pub leftovers: BTreeSet<InodeId>,
    /// Whether something awaits removal, as far as anybody knows.
    pub awake: bool,
}

/// One operation at work.
pub struct Act<'a> {
    pub now: &'a mut Now,
    pub blobs: &'a mut Blobs,
    /// Inode numbers of the session: the first and how many.
    pub own: &'a mut Vec<(u64, u32)>,
    pub volume: VolumeId,
    pub at: Time,
    pub seq: Seq,
    /// A chunk that should be merged.
    pub crowded: Option<(InodeId, u32)>,
}

impl Act<'_> {
    pub fn perform(&mut self, op: &Op) -> Verdict<Effect> {
        match op {
            Op::Commit(commit) => self.commit(commit),
            Op::SetAttr { ino, set } => self.set_attr(*ino, set),
            Op::Mkdir { at, create } => self.make(at, create, FileKind::Directory, 0),
            Op::Symlink { at, target, create } => self.symlink(at, target, create),
            Op::Mknod { at, kind, rdev, create } => {
                refuse_if(matches!(kind, FileKind::Directory | FileKind::Symlink), Errno::EINVAL)?;
                self.make(at, create, *kind, *rdev)
            }
            Op::Link { ino, at } => self.link(*ino, at),
            Op::Unlink { at } => self.unlink(at),
            Op::Rmdir { at } => self.rmdir(at),
            Op::Rename { from, to, mode } => self.rename(from, to, *mode),
            Op::SetXattr { ino, name, value, mode } => self.set_xattr(*ino, name, value, *mode),
            Op::RemoveXattr { ino, name } => self.remove_xattr(*ino, name),
            Op::AllocInodes { count } => self.alloc(*count),
            Op::Grant { blobs } => self.grant(blobs),
            Op::Append { ino, bytes, changed, kill_setid } => {
                self.append(*ino, bytes, (*changed, *kill_setid))
            }
            Op::Punch { ino, offset, len } => self.punch(*ino, *offset, *len),
            Op::CloneRange { from, from_offset, to, to_offset, len, expect_from_cver } => {
                self.clone_range((*from, *from_offset), (*to, *to_offset), *len, *expect_from_cver)
            }
        }
    }

    pub fn node(&self, ino: InodeId) -> Verdict<&Node> {
        self.now.tree.get(ino).ok_or(Errno::ESTALE)
    }

    pub fn parent(&self, at: &Place) -> Verdict<&Node> {
        let node = self.now.tree.get(at.parent).ok_or(Errno::ENOENT)?;
        refuse_if(!node.is_dir(), Errno::ENOTDIR)?;
        refuse_if(matches!(node.body, Body::Dir { parent: None, .. }), Errno::ENOENT)?;
        Ok(node)
    }

    /// A way leads up to the root, and not through `around`.
    pub fn way_up(&self, from: InodeId, around: Option<InodeId>) -> Verdict<()> {
        refuse_if(Some(from) == around, Errno::EINVAL)?;
        match &self.now.tree.get(from).unwrap().body {
            _ if from == InodeId::ROOT => Ok(()),
            Body::Dir { parent, .. } => self.way_up(parent.ok_or(Errno::ENOENT)?, around),
            other => panic!("{other:?} is no directory"),
        }
    }

    fn free(&self, at: &Place) -> Verdict<()> {
        self.parent(at)?;
        refuse_if(self.now.tree.find(at).is_some(), Errno::EEXIST)
    }

    fn draw_ino(&mut self) -> InodeId {
        self.now.next_ino += 1;
        InodeId::new(self.now.next_ino - 1)
    }

    /// Owner, mode and lists of a new entry of `parent`.
    pub fn new_node(&self, parent: InodeId, kind: FileKind, create: &Create) -> Node {
        let dir = self.now.tree.get(parent).unwrap();
        let mut xattrs = BTreeMap::new();
        let mut mode = match (kind, dir.xattrs.get(DEFAULT)) {
            (FileKind::Symlink, _) => 0o777,
            (_, None) => create.mode & 0o7777 & !(create.umask & 0o777),
            (_, Some(default)) => {
                let list = List::parse(default).unwrap().unwrap().inherited(create.mode);
                if !list.is_minimal() {
                    xattrs.insert(ACCESS.to_vec(), list.bytes());
                }
                if kind == FileKind::Directory {
                    xattrs.insert(DEFAULT.to_vec(), default.clone());
                }
                (create.mode & 0o7000) | list.mode()
            }
        };
        let set_gid = dir.mode & 0o2000 != 0;
        let body = match kind {
            FileKind::Directory => Body::Dir { parent: Some(parent), entries: BTreeMap::new() },
            FileKind::File => Body::Bytes(Bytes::new()),
            _ => Body::Special,
        };
        if set_gid && kind == FileKind::Directory {
            mode |= 0o2000;
        }
        let (atime, mtime, ctime) = (self.at, self.at, self.at);
        let gid = if set_gid { dir.gid } else { create.gid };
        let (uid, cver) = (create.uid, self.seq);
        Node { kind, mode, uid, gid, rdev: 0, atime, mtime, ctime, cver, xattrs, body }
    }

    fn make(&mut self, at: &Place, create: &Create, kind: FileKind, rdev: u32) -> Verdict<Effect> {
        self.free(at)?;
        let mut node = self.new_node(at.parent, kind, create);
        if matches!(kind, FileKind::CharDevice | FileKind::BlockDevice) {
            node.rdev = rdev;
        }
        let ino = self.draw_ino();
        self.add(at, ino, node, None)
    }

    /// A new inode gets its first name; a mount may have made it earlier.
    pub fn add(&mut self, at: &Place, ino: InodeId, node: Node, made: Option<Time>) -> Verdict<Effect> {
        self.now.tree.insert(ino, node);
        self.now.tree.entries(at.parent).insert(at.name.as_bytes().to_vec(), ino);
        let dir = self.now.tree.get(at.parent).unwrap();
        let (mtime, ctime) = (dir.mtime, dir.ctime);
        self.stamp(at.parent);
        if let Some(made) = made {
            let now = self.at;
            let dir = self.now.tree.edit(at.parent);
            dir.mtime = now.min(made.max(mtime.next()));
            dir.ctime = now.min(made.max(ctime.next()));
        }
        Ok(Effect::on(ino, &[at.parent]))
    }

    fn symlink(&mut self, at: &Place, target: &Bytes, create: &Create) -> Verdict<Effect> {
        refuse_if(target.is_empty(), Errno::ENOENT)?;
        refuse_if(target.len() > SYMLINK_MAX, Errno::ENAMETOOLONG)?;
        refuse_if(target.contains(&0), Errno::EINVAL)?;
        let effect = self.make(at, create, FileKind::Symlink, 0)?;
        self.now.tree.edit(effect.ino.unwrap()).body = Body::Target(target.clone());
        Ok(effect)
    }

    /// The entries of a directory changed.
    pub fn stamp(&mut self, dir: InodeId) {
        let at = self.at;
        let node = self.now.tree.edit(dir);
        (node.mtime, node.ctime) = (at, at);
    }

    fn link(&mut self, ino: InodeId, at: &Place) -> Verdict<Effect> {
        refuse_if(self.node(ino)?.is_dir(), Errno::EPERM)?;
        self.free(at)?;
        self.now.tree.edit(ino).ctime = self.at;
        self.now.tree.entries(at.parent).insert(at.name.as_bytes().to_vec(), ino);
        self.stamp(at.parent);
        Ok(Effect::on(ino, &[at.parent]))
    }

    /// Takes a name away; what has none any more goes.
    pub fn drop_name(&mut self, at: &Place) -> InodeId {
        let ino = self.now.tree.entries(at.parent).remove(at.name.as_bytes()).unwrap();
        if self.now.tree.names().contains_key(&ino) {
            self.now.tree.edit(ino).ctime = self.at;
        } else {
            // More chunks than one command removes are left over.
            let chunks = self.now.tree.get(ino).unwrap().rows().map_or(0, BTreeMap::len);
            if chunks > slice_rows() {
                self.now.leftovers.insert(ino);
                self.now.awake = true;
            }
            self.now.tree.remove(ino);
        }
        ino
    }

    pub fn is_dir(&self, ino: InodeId) -> bool {
        self.now.tree.get(ino).unwrap().is_dir()
    }

    fn is_empty(&self, ino: InodeId) -> bool {
        self.now.tree.get(ino).unwrap().entries().unwrap().is_empty()
    }

    fn unlink(&mut self, at: &Place) -> Verdict<Effect> {
        self.parent(at)?;
        let ino = self.now.tree.find(at).ok_or(Errno::ENOENT)?;
        refuse_if(self.is_dir(ino), Errno::EISDIR)?;
        self.drop_name(at);
        self.stamp(at.parent);
        Ok(Effect::on(ino, &[at.parent]))
    }

    fn rmdir(&mut self, at: &Place) -> Verdict<Effect> {
        self.parent(at)?;
        let ino = self.now.tree.find(at).ok_or(Errno::ENOENT)?;
        refuse_if(!self.is_dir(ino), Errno::ENOTDIR)?;
        refuse_if(!self.is_empty(ino), Errno::ENOTEMPTY)?;
        self.drop_name(at);
        self.stamp(at.parent);
        Ok(Effect::on(ino, &[at.parent]))
    }

    fn rename(&mut self, from: &Place, to: &Place, mode: RenameMode) -> Verdict<Effect> {
        self.parent(from)?;
        self.parent(to)?;
        let source = self.now.tree.find(from).ok_or(Errno::ENOENT)?;
        let target = self.now.tree.find(to);
        let effect = Effect::on(source, &[from.parent, to.parent]);
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(Errno::EEXIST),
            (RenameMode::Exchange, None) => return Err(Errno::ENOENT),
            (_, Some(target)) if target == source => return Ok(Effect { changed: false, ..effect }),
            _ => {}
        }
        if from.parent != to.parent && self.is_dir(source) {
            self.way_up(to.parent, Some(source))?;
        }
        let Some(target) = target else {
            self.now.tree.entries(from.parent).remove(from.name.as_bytes());
            self.arrive(source, to);
            self.stamp(from.parent);
            return Ok(effect);
        };
        if mode == RenameMode::Exchange {
            if from.parent != to.parent && self.is_dir(target) {
                self.way_up(from.parent, Some(target))?;
            }
            self.arrive(target, from);
        } else {
            match (self.is_dir(source), self.is_dir(target)) {
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                (true, true) => refuse_if(!self.is_empty(target), Errno::ENOTEMPTY)?,
                (false, false) => {}
            }
            self.drop_name(to);
            self.now.tree.entries(from.parent).remove(from.name.as_bytes());
        }
        self.arrive(source, to);
        self.stamp(from.parent);
        Ok(Effect { shown: [effect.shown, vec![target]].concat(), ..effect })
    }

    /// The name leads to this inode now.
    fn arrive(&mut self, ino: InodeId, to: &Place) {
        self.now.tree.entries(to.parent).insert(to.name.as_bytes().to_vec(), ino);
        let at = self.at;
        let node = self.now.tree.edit(ino);
        node.ctime = at;
        if let Body::Dir { parent, .. } = &mut node.body {
            *parent = Some(to.parent);
        }
        self.stamp(to.parent);
    }

    fn set_attr(&mut self, ino: InodeId, set: &SetAttr) -> Verdict<Effect> {
        self.node(ino)?;
        if set.is_empty() {
            return Ok(Effect::nothing(ino, &[]));
        }
        let (at, seq) = (self.at, self.seq);
        let node = self.now.tree.edit(ino);
        if let Some(size) = set.size {
            content::truncate(node, size, seq)?;
        }
        update(node, set, (set.size.is_some(), None), at);
        Ok(Effect::on(ino, &[]))
    }

    fn set_xattr(&mut self, ino: InodeId, name: &Bytes, value: &Bytes, mode: XattrMode) -> Verdict<Effect> {
        check_xattr_name(name)?;
        let exists = self.node(ino)?.xattrs.contains_key(&name[..]);
        refuse_if(mode == XattrMode::Create && exists, Errno::EEXIST)?;
        refuse_if(mode == XattrMode::Replace && !exists, Errno::ENODATA)?;
        let at = self.at;
        let node = self.now.tree.edit(ino);
        let kept = match &name[..] {
            ACCESS => {
                refuse_if(node.kind == FileKind::Symlink, Errno::EOPNOTSUPP)?;
                let list = List::parse(value)?;
                if let Some(list) = &list {
                    node.mode = (node.mode & 0o7000) | list.mode();
                }
                list.is_some_and(|list| !list.is_minimal())
            }
            DEFAULT => {
                refuse_if(!node.is_dir(), Errno::EACCES)?;
                List::parse(value)?.is_some()
            }
            _ => true,
        };
        if kept {
            node.xattrs.insert(name.to_vec(), value.clone());
            let total: usize = node.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
            refuse_if(total > XATTRS_MAX, Errno::ENOSPC)?;
        } else {
            node.xattrs.remove(&name[..]);
        }
        node.ctime = at;
        Ok(Effect::on(ino, &[]))
    }

    fn remove_xattr(&mut self, ino: InodeId, name: &Bytes) -> Verdict<Effect> {
        check_xattr_name(name)?;
        let exists = self.node(ino)?.xattrs.contains_key(&name[..]);
        if !exists {
            refuse_if(!is_acl(name), Errno::ENODATA)?;
            return Ok(Effect::nothing(ino, &[]));
        }
        let at = self.at;
        let node = self.now.tree.edit(ino);
        node.xattrs.remove(&name[..]);
        node.ctime = at;
        Ok(Effect::on(ino, &[]))
    }

    fn alloc(&mut self, count: u32) -> Verdict<Effect> {
        refuse_if(count == 0 || count > INODE_RANGE, Errno::EINVAL)?;
        let first = self.now.next_ino;
        self.now.next_ino += u64::from(count);
        self.own.push((first, count));
        Ok(Effect { extra: Gives::Inodes(InodeId::new(first), count), ..Effect::default() })
    }

    fn grant(&mut self, wanted: &[BlobWanted]) -> Verdict<Effect> {
        let fits = |blob: &BlobWanted| (1..=4 << 20).contains(&blob.len);
        refuse_if(wanted.len() > 1024 || !wanted.iter().all(fits), Errno::EINVAL)?;
        let grants = wanted.iter().map(|wanted| self.blobs.grant(self.volume, wanted)).collect();
        Ok(Effect { extra: Gives::Grants(grants), ..Effect::default() })
    }

    pub fn owns(&self, ino: InodeId) -> bool {
        self.own.iter().any(|(first, count)| (*first..first + u64::from(*count)).contains(&ino.get()))
    }
}

fn is_acl(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

fn check_xattr_name(name: &[u8]) -> Verdict<()> {
    refuse_if(name.len() > XATTR_NAME_MAX, Errno::ERANGE)?;
    refuse_if(name.contains(&0), Errno::EINVAL)?;
    let spaces: [&[u8]; 3] = [b"user.", b"security.", b"trusted."];
    let spaced = spaces.iter().any(|space| name.strip_prefix(*space).is_some_and(|rest| !rest.is_empty()));
    refuse_if(!spaced && !is_acl(name), Errno::EOPNOTSUPP)
}

/// Attributes after a change; `written`: content too; `changed`: when, by the client's clock.
pub fn update(node: &mut Node, set: &SetAttr, (written, changed): (bool, Option<Time>), at: Time) {
    let loses_privileges = set.uid.is_some() || set.gid.is_some() || set.kill_setid;
    if loses_privileges && !node.is_dir() {
        node.mode &= !0o4000;
        if node.mode & 0o010 != 0 {
            node.mode &= !0o2000;
        }
    }
    node.uid = set.uid.unwrap_or(node.uid);
    node.gid = set.gid.unwrap_or(node.gid);
    if let Some(mode) = set.mode {
        node.mode = mode & 0o7777;
        if let Some(value) = node.xattrs.get_mut(ACCESS) {
            let mut list = List::parse(value).unwrap().unwrap();
            list.chmod(mode);
            *value = list.bytes();
        }
    }
    let time = |time: SetTime| match time {
        SetTime::Now => at,
        SetTime::At(time) => time,
        SetTime::Written(time) => time.min(at),
    };
    node.atime = set.atime.map_or(node.atime, time);
    node.mtime = set.mtime.map_or(if written { at } else { node.mtime }, time);
    node.ctime = match changed {
        None => at,
        Some(changed) if changed >= at => at,
        Some(changed) => changed.max(node.ctime),
    };
}
