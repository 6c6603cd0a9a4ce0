//! Files: create, open, read, write, flush, release.

use super::attrs::View;
use super::commit::Purpose;
use super::credit::{ONE_INODE, Obstacle};
use super::node::{Draft, Node, Unpublished};
use super::{Access, Cx, Fs, Handle, Op, lock};
use crate::data::{Working, read_content};
use crate::meta::Stop;
use sitefs_base::limits::{CHUNK_SIZE, FILE_MAX};
use sitefs_base::op::{Create, Credit, Place};
use sitefs_base::{Attr, AttrFlags, Errno, Error, FileKind, Inode, InodeId, Seq, Time};
use std::sync::Arc;

/// An opened file.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// The handle.
    pub fh: u64,
    /// Whether the kernel's pages of this inode are of the current version.
    pub keep_cache: bool,
    /// Whether the kernel must not use pages for this handle.
    pub direct: bool,
}

/// An open that empties the file.
#[derive(Clone, Copy, Debug)]
pub struct Truncate {
    /// The program may not keep set-id bits.
    pub kill_setid: bool,
}

/// How a write is meant.
#[derive(Clone, Copy, Debug)]
pub struct WriteKind {
    /// At the end, wherever that is.
    pub append: bool,
    /// By a program that may not keep set-id bits.
    pub kill_setid: bool,
    /// From the kernel's pages: a program stored into a mapping, some time ago.
    pub from_pages: bool,
}

/// The errno for a local failure: space is the only thing a program can act on. (Most file systems hold
/// files a little shorter than sitefs does.)
pub(super) fn local_errno(error: &Error) -> Errno {
    match error.errno() {
        full @ (Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG) => full,
        _ => Errno::EIO,
    }
}

fn failed(error: &Error) -> Stop {
    tracing::error!(error = error.chain(), "a working copy failed");
    local_errno(error).into()
}

impl Fs {
    /// Creates a file and opens it. The cell hears of it when it is closed, synced, or after a
    /// second; an exclusive create reserves the name at once.
    pub fn create(
        &self,
        cx: Cx,
        place: &Place,
        create: Create,
        exclusive: bool,
        how: (Access, Option<Truncate>),
    ) -> Op<(View, Opened)> {
        let (access, truncate) = how;
        self.takes_writers(cx)?;
        self.opens_for_writing()?;
        let create = self.owner.of(create);
        if let Some(found) = self.existing_for_create(cx, place, exclusive)? {
            let mut view = self.getattr(cx, found)?;
            let opened = self.open(cx, found, access, truncate)?;
            self.looked_up(found);
            if truncate.is_some() {
                (view.attr.size, view.lifetime) = (0, super::Lifetime::None);
            }
            return Ok((view, opened));
        }
        let dir = self.getattr(cx, place.parent)?.attr;
        if dir.nlink == 0 {
            return Err(Errno::ENOENT.into());
        }
        let claim = self.claim(cx, ONE_INODE)?;
        // A log that several mounts begin at once is one file from its first line on.
        if dir.flags.has_default_acl || (access.appends() && !exclusive) {
            return self.create_at_cell(cx, place, create, exclusive, access);
        }
        if exclusive {
            match self.meta.reserve(cx, place.clone()) {
                // So many names are reserved that this one is published at once.
                Err(Stop::Errno(Errno::EAGAIN)) => {
                    return self.create_at_cell(cx, place, create, exclusive, access);
                }
                reserved => reserved?,
            }
        }
        let ino = self.meta.new_number(cx)?;
        let create = own_create(create, &dir);
        let node = self.looked_up(ino);
        let attr = fresh_attr(ino, &create, self.clock.now());
        let (fh, view) = {
            let mut state = node.state();
            let since = self.clock.boottime();
            state.unpublished = Some(Unpublished {
                place: place.clone(),
                create,
                exclusive,
                sent: false,
                since,
                attr: attr.clone(),
            });
            state.claim = Some(claim);
            let copy = Working::empty(&self.work_dir);
            state.draft = Some(Draft::new(copy, None, true));
            drop(state);
            self.add_pending(place, &node);
            (
                self.add_handle(&node, Access::Write),
                View { node: ino, attr, lifetime: super::Lifetime::UntilChanged },
            )
        };
        Ok((view, Opened { fh, keep_cache: false, direct: false }))
    }

    /// What a create finds under its name; the kernel may not have known of it.
    fn existing_for_create(&self, cx: Cx, place: &Place, exclusive: bool) -> Op<Option<InodeId>> {
        let node = match self.pending_at(place) {
            Some(node) => node.ino,
            None => match self.meta.lookup(cx, place)?.value {
                Some(inode) if inode.attr.kind == FileKind::Directory => return Err(Errno::EISDIR.into()),
                Some(inode) => inode.attr.ino,
                None => return Ok(None),
            },
        };
        if exclusive {
            return Err(Errno::EEXIST.into());
        }
        Ok(Some(node))
    }

    /// Creates by a commit at once: the cell works out what the file inherits.
    fn create_at_cell(
        &self,
        cx: Cx,
        place: &Place,
        create: Create,
        exclusive: bool,
        access: Access,
    ) -> Op<(View, Opened)> {
        if cx == Cx::Fast {
            return Err(Stop::WouldBlock);
        }
        let ino = self.meta.new_number(cx)?;
        let ino = self.create_empty(place, ino, create, exclusive)?;
        self.looked_up(ino);
        let opened = self.open(cx, ino, access, None)?;
        if let Some(node) = self.known_node(ino).filter(|_| access != Access::Append) {
            let mut state = node.state();
            if let Some(last) = state.last.as_ref().filter(|last| last.attr.size == 0) {
                let (copy, cver) = (Working::empty(&self.work_dir), Some(last.attr.cver));
                state.draft.get_or_insert(Draft { cver, ..Draft::new(copy, None, true) });
            }
        }
        Ok((self.getattr(cx, ino)?, opened))
    }

    fn add_handle(&self, node: &Arc<Node>, access: Access) -> u64 {
        {
            let mut state = node.state();
            state.handles += 1;
            // A time that was set before counts for nothing that is written from now on.
            state.own_mtime = state.own_mtime.filter(|_| state.writers > 0);
            state.writers += u32::from(access.writes());
            state.appenders += u32::from(access == Access::Append);
        }
        let fh = self.new_handle();
        lock(&self.handles).insert(fh, Arc::new(Handle { node: Arc::clone(node), access }));
        fh
    }

    /// Opens a file; with `truncate` it is empty from now on, for this mount, and loses its set-id
    /// bits if the caller may not keep them.
    pub fn open(&self, cx: Cx, ino: InodeId, access: Access, truncate: Option<Truncate>) -> Op<Opened> {
        if access.writes() || truncate.is_some() {
            self.takes_writers(cx)?;
            self.opens_for_writing()?;
        }
        let node = self.node(ino);
        // Pages that the kernel fills from now on have what was appended here.
        self.try_tail(cx, &node)?;
        let access = access.with(truncate);
        let (unpublished, is_moving) = {
            let state = node.state();
            (state.unpublished.is_some(), state.moving)
        };
        if is_moving && truncate.is_some() {
            self.overcome(cx, &node, Obstacle::Moving)?;
        }
        let inode = if unpublished { None } else { Some(self.inode_of(cx, &node)?.0) };
        let keep_cache = {
            let mut state = node.state();
            let keep = match &inode {
                Some(inode) => {
                    state.is_dirty() || state.page_cver.replace(inode.attr.cver) == Some(inode.attr.cver)
                }
                None => true,
            };
            // Where a tail will stand is not sure before the cell has it.
            let keep = keep && state.tail.is_none();
            if state.tail.is_some() {
                state.page_cver = None;
            }
            if inode.is_some() {
                state.last = inode;
            }
            keep
        };
        if let Some(truncate) = truncate {
            self.truncate_at_open(&node, truncate)?;
        }
        let direct = access == Access::Append;
        let fh = self.add_handle(&node, access);
        Ok(Opened { fh, keep_cache: keep_cache && truncate.is_none(), direct })
    }

    fn truncate_at_open(&self, node: &Node, truncate: Truncate) -> Op<()> {
        let (now, since) = (self.clock.now(), self.clock.boottime());
        let mut state = node.state();
        let (cell_len, allocated) =
            state.last.as_ref().map_or((0, 0), |last| (last.attr.size, last.attr.allocated));
        let cver = state.last.as_ref().map(|last| last.attr.cver);
        match &mut state.draft {
            Some(draft) => draft.copy.resize(0).map_err(|error| failed(&error))?,
            none => {
                let copy = Working::truncated(&self.work_dir, cell_len);
                *none = Some(Draft { cver, allocated, ..Draft::new(copy, None, true) });
            }
        }
        if let Some(draft) = &mut state.draft {
            (draft.whole, draft.appended) = (true, None);
            draft.dirty_since.get_or_insert(since);
        }
        state.wrote(now);
        if truncate.kill_setid {
            state.kill_setid();
        }
        state.recount();
        Ok(())
    }

    /// Reads up to `len` bytes.
    pub fn read(&self, cx: Cx, fh: u64, offset: u64, len: usize) -> Op<Vec<u8>> {
        let node = Arc::clone(&self.handle(fh)?.node);
        self.try_tail(cx, &node)?;
        let local = {
            let state = node.state();
            match &state.draft {
                None => None,
                Some(draft) => {
                    let bytes = draft.copy.read(offset, len).map_err(|error| failed(&error))?;
                    let missing = draft.copy.missing(offset, bytes.len() as u64);
                    Some((bytes, missing, draft.copy.base_len(), draft.base.clone()))
                }
            }
        };
        let Some((mut bytes, missing, base_len, base)) = local else {
            let (inode, _) = self.inode_of(cx, &node)?;
            let mut bytes = self.read_row(cx, &node, &inode, offset, len)?;
            Self::read_tail(&node, &inode, offset, len, &mut bytes);
            return Ok(bytes);
        };
        let end = (offset + bytes.len() as u64).min(base_len);
        for chunk in missing {
            let start = u64::from(chunk) * CHUNK_SIZE;
            let (from, to) = (start.max(offset), (start + CHUNK_SIZE).min(end));
            let Some(base) = base.as_ref().filter(|_| from < to) else { continue };
            let part = self.read_row(cx, &node, base, from, index(to - from))?;
            bytes[index(from - offset)..][..part.len()].copy_from_slice(&part);
        }
        Ok(bytes)
    }

    /// Reads the cell's version of a file.
    fn read_row(&self, cx: Cx, node: &Node, inode: &Inode, offset: u64, len: usize) -> Op<Vec<u8>> {
        let mut layout = match cx {
            Cx::Fast => node.layout.try_lock().map_err(|_| Stop::WouldBlock)?,
            Cx::Slow => lock(&node.layout),
        };
        read_content(cx, &self.blobs, &self.meta, &mut layout, inode, offset, len)
    }

    /// Writes; gives the number of bytes written, which is all of them.
    pub fn write(&self, cx: Cx, fh: u64, offset: u64, bytes: &[u8], kind: WriteKind) -> Op<u32> {
        self.writable()?;
        let handle = self.handle(fh)?;
        if handle.access == Access::Append
            && let Some(written) = self.append(cx, &handle.node, bytes, kind)?
        {
            return Ok(written);
        }
        self.write_here(cx, &handle.node, offset, bytes, kind)
    }

    /// Writes into the working copy.
    pub(super) fn write_here(
        &self,
        cx: Cx,
        node: &Arc<Node>,
        offset: u64,
        bytes: &[u8],
        kind: WriteKind,
    ) -> Op<u32> {
        let len = bytes.len() as u64;
        loop {
            // An event of another mount may drop a working copy that is not changed yet.
            self.begin_draft(cx, node)?;
            let obstacle = {
                let mut state = node.state();
                let is_moving = state.moving;
                let Some(draft) = &mut state.draft else { continue };
                draft.append |= kind.append;
                let offset = if kind.append { draft.copy.size() } else { offset };
                offset.checked_add(len).filter(|end| *end <= FILE_MAX).ok_or(Errno::EFBIG)?;
                let missing = draft.copy.missing_for_write(offset, len);
                let growth = draft.copy.growth_with(draft.allocated, offset, len);
                if is_moving {
                    Obstacle::Moving
                } else if !missing.is_empty() {
                    Obstacle::Missing(missing)
                } else if let Some(more) = self.short_of(&mut state, growth) {
                    Obstacle::Credit(more)
                } else if let Some(draft) = &mut state.draft {
                    let was_changed = draft.copy.is_changed();
                    draft.copy.write(offset, bytes).map_err(|error| failed(&error))?;
                    draft.wrote(was_changed, kind.append && !kind.from_pages, offset, len);
                    draft.dirty_since.get_or_insert_with(|| self.clock.boottime());
                    let own_mtime = state.own_mtime.filter(|_| kind.from_pages);
                    state.wrote(self.clock.now());
                    (state.own_mtime, state.set.mtime) = (own_mtime, own_mtime);
                    if own_mtime.is_some() {
                        state.written = None;
                    }
                    if kind.kill_setid {
                        state.kill_setid();
                    }
                    return Ok(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                } else {
                    continue;
                }
            };
            self.overcome(cx, node, obstacle)?;
        }
    }

    /// Makes a working copy of the cell's version, if there is none.
    pub(super) fn begin_draft(&self, cx: Cx, node: &Arc<Node>) -> Op<()> {
        loop {
            self.send_tail(cx, node)?;
            if node.state().draft.is_some() {
                return Ok(());
            }
            let (inode, _) = self.inode_of(cx, node)?;
            let copy = Working::of_existing(&self.work_dir, inode.attr.size);
            let mut state = node.state();
            if state.tail.is_none() {
                state.draft.get_or_insert(Draft::new(copy, Some(inode), false));
                return Ok(());
            }
        }
    }

    /// Brings chunks of the cell's version into the working copy.
    pub(super) fn fill(&self, cx: Cx, node: &Node, missing: &[u32]) -> Op<()> {
        for chunk in missing {
            let base = { node.state().draft.as_ref().and_then(|draft| draft.base.clone()) };
            let start = u64::from(*chunk) * CHUNK_SIZE;
            let bytes = match &base {
                Some(base) => self.read_row(cx, node, base, start, index(CHUNK_SIZE))?,
                None => Vec::new(),
            };
            if let Some(draft) = &mut node.state().draft {
                draft.copy.fill(*chunk, &bytes).map_err(|error| failed(&error))?;
            }
        }
        Ok(())
    }

    /// Changes the length of the working copy, which is made if there is none.
    pub(super) fn resize_here(&self, cx: Cx, node: &Arc<Node>, size: u64) -> Op<()> {
        loop {
            self.begin_draft(cx, node)?;
            let obstacle = {
                let mut state = node.state();
                let is_moving = state.moving;
                let Some(draft) = &mut state.draft else { continue };
                let missing = draft.copy.missing_for_resize(size);
                let grows = size > draft.copy.size();
                let growth = if grows { draft.copy.growth_at(draft.allocated, size) } else { 0 };
                if is_moving {
                    Obstacle::Moving
                } else if !missing.is_empty() {
                    Obstacle::Missing(missing)
                } else if let Some(more) = self.short_of(&mut state, growth) {
                    Obstacle::Credit(more)
                } else if let Some(draft) = &mut state.draft {
                    draft.copy.resize(size).map_err(|error| failed(&error))?;
                    draft.appended = None;
                    // This is how an open with O_TRUNC begins.
                    draft.whole |= size == 0;
                    draft.dirty_since.get_or_insert_with(|| self.clock.boottime());
                    state.wrote(self.clock.now());
                    state.recount();
                    return Ok(());
                } else {
                    continue;
                }
            };
            self.overcome(cx, node, obstacle)?;
        }
    }

    /// Allocates or removes space in the working copy.
    pub fn fallocate(&self, fh: u64, offset: u64, len: u64, mode: i32) -> Op<()> {
        let handle = self.handle(fh)?;
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let zero = mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0;
        self.writable()?;
        let end = offset.checked_add(len).filter(|end| *end <= FILE_MAX).ok_or(Errno::EFBIG)?;
        self.send_tail(Cx::Slow, &handle.node)?;
        if mode & libc::FALLOC_FL_PUNCH_HOLE != 0 && self.punch_at_cell(&handle.node, offset, end)? {
            return Ok(());
        }
        self.begin_draft(Cx::Slow, &handle.node)?;
        let size = { handle.node.state().draft.as_ref().map_or(0, |draft| draft.copy.size()) };
        if !keep_size || end <= size {
            // A hole takes no room, but who allocates wants to know that there is some.
            self.claim(Cx::Slow, Credit { bytes: end.saturating_sub(size), inodes: 0 })?;
        }
        if !keep_size && end > size {
            self.resize_here(Cx::Slow, &handle.node, end)?;
        }
        if zero { self.punch_here(&handle.node, offset, len) } else { Ok(()) }
    }

    fn punch_here(&self, node: &Arc<Node>, offset: u64, len: u64) -> Op<()> {
        loop {
            self.begin_draft(Cx::Slow, node)?;
            let obstacle = {
                let mut state = node.state();
                let is_moving = state.moving;
                let Some(draft) = &mut state.draft else { continue };
                let end = (offset + len).min(draft.copy.size());
                if offset >= end {
                    return Ok(());
                }
                let missing = draft.copy.missing_for_write(offset, len);
                let growth = draft.copy.growth_with(draft.allocated, offset, end.saturating_sub(offset));
                if is_moving {
                    Obstacle::Moving
                } else if !missing.is_empty() {
                    Obstacle::Missing(missing)
                } else if let Some(more) = self.short_of(&mut state, growth) {
                    Obstacle::Credit(more)
                } else if let Some(draft) = &mut state.draft {
                    draft.copy.punch(offset, len).map_err(|error| failed(&error))?;
                    draft.appended = None;
                    draft.dirty_since.get_or_insert_with(|| self.clock.boottime());
                    state.wrote(self.clock.now());
                    return Ok(());
                } else {
                    continue;
                }
            };
            self.overcome(Cx::Slow, node, obstacle)?;
        }
    }

    /// A descriptor is being closed: what it wrote is committed when this returns, or in the journal.
    pub fn flush(&self, fh: u64) -> Op<()> {
        let handle = self.handle(fh)?;
        if handle.access.writes() { self.commit(&handle.node, Purpose::Close) } else { Ok(()) }
    }

    /// Whether [`Self::flush`] has nothing to do.
    pub fn flush_is_idle(&self, fh: u64) -> bool {
        self.handle(fh).is_ok_and(|handle| !handle.access.writes() || !handle.node.state().is_ahead())
    }

    /// Content and attributes are committed when this returns.
    pub fn fsync(&self, fh: u64) -> Op<()> {
        self.commit(&Arc::clone(&self.handle(fh)?.node), Purpose::Sync)
    }

    /// The last descriptor of a handle is gone. What a mapping wrote after the last flush is
    /// committed now.
    pub fn release(&self, cx: Cx, fh: u64) -> Op<()> {
        let handle = self.handle(fh)?;
        if handle.access.writes() && handle.node.state().is_ahead() {
            if cx == Cx::Fast {
                return Err(Stop::WouldBlock);
            }
            if let Err(stop) = self.commit(&handle.node, Purpose::Close) {
                tracing::error!(ino = %handle.node.ino, ?stop, "changes of a closed file could not be committed");
            }
        }
        lock(&self.handles).remove(&fh);
        let mut state = handle.node.state();
        state.handles -= 1;
        state.writers -= u32::from(handle.access.writes());
        state.appenders -= u32::from(handle.access == Access::Append);
        if state.writers == 0 && !state.is_ahead() && !(state.gone && state.handles > 0) {
            state.draft = None;
            state.recount();
        }
        drop(state);
        self.meta.session().locks().closed(fh);
        // What could not be committed stays, and is tried again in the background.
        self.forget(handle.node.ino, 0);
        Ok(())
    }
}

fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// The attributes of a file that is created at `now`.
pub(super) fn fresh_attr(ino: InodeId, create: &Create, now: Time) -> Attr {
    Attr {
        ino,
        kind: FileKind::File,
        mode: create.mode,
        uid: create.uid,
        gid: create.gid,
        nlink: 1,
        size: 0,
        allocated: 0,
        rdev: 0,
        atime: now,
        mtime: now,
        ctime: now,
        cver: Seq::ZERO,
        flags: AttrFlags::default(),
    }
}

/// Owner and mode of a new file in a directory without a default ACL.
fn own_create(create: Create, dir: &Attr) -> Create {
    let inherits_group = dir.mode & 0o2000 != 0;
    let gid = if inherits_group { dir.gid } else { create.gid };
    // The kernel has taken set-group-id from callers that may not give it away: it knows all their groups.
    let mode = create.mode & !create.umask & 0o7777;
    Create { mode, umask: 0, uid: create.uid, gid }
}
