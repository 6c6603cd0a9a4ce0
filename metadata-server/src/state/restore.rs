//! Bringing files and directories of the past back, by reference: no content moves.
//!
//! A copy of what was there grows in slices under an inode that has no name; the last command gives it
//! the name. A file that is still in its place has its old content back in one command.

use super::{
    Family, Read, Restore, RestoreEnd, RestoreState,
    asof::{AsOf, as_of},
    blobs, keys, layout, moments,
    mutation::{Finished, Mutation},
    namespace::drop_link,
    pins::{self, Holder},
    reads::{self, Node},
    reap::{self, NAME_ROWS, NO_SESSION, slice_rows},
    rename::require_way_up,
    rows::{
        self, ChunkRow, CopyRow, DentryRow, DirCursor, DirRow, FileCursor, InodeRow, RestoreRow, VolumeRow,
        XattrRow,
    },
    scope::Scope,
    stop::{Step, require},
};
use sitefs_base::{
    Content, Errno, Extent, FileKind, InodeId, Name, Result, Time, VolumeId,
    op::{Change, Credit, Event},
};

/// Restores of one volume that may be under way.
const JOBS_MAX: usize = 16;

/// Where it stands, what watchers hear, and by how much the volume has grown.
pub(super) type Answer = (RestoreState, Option<Event>, Credit);

/// Begins a restore, or does it at once. Refused: `ENOENT` if the source was not there or the directory
/// is not there, `ESTALE` if history does not hold the moment, `EBUSY` if too many are under way.
pub(super) fn start(scope: &mut Scope, id: VolumeId, restore: &Restore) -> Step<Answer> {
    let row = reads::live(&scope.rows, id)?.ok_or(Errno::ENOENT)?;
    let past = as_of(scope.rows.stored(), id, restore.seq)??;
    let source = reads::node(&past, id, restore.source)?.ok_or(Errno::ENOENT)?;
    let mut m = Mutation::begin(scope, id, row.clone(), NO_SESSION);
    m.parent(&restore.to)?;
    require_way_up(&m, restore.to.parent, None)?;
    if let Some(chunks) = in_place(&m, &past, restore, &source)? {
        let bytes = source.row.allocated;
        take_back(&mut m, &past, source, chunks)?;
        let state = RestoreState { job: None, entries: 1, bytes, more: false };
        return answer(state, m);
    }
    let prefix = keys::restores(id);
    let jobs = m.scope.rows.scan(Family::Meta, &prefix, &prefix, JOBS_MAX)?;
    require(jobs.len() < JOBS_MAX, Errno::EBUSY)?;
    begin(m, &row, past, restore, &source)
}

/// Pins the moment and makes the root of the copy.
fn begin<'a>(
    mut m: Mutation<'_, 'a>,
    row: &VolumeRow,
    past: AsOf<'a>,
    restore: &Restore,
    source: &Node,
) -> Step<Answer> {
    let point = moments::exactly(m.scope.rows.stored(), m.id, row, restore.seq)?;
    let job = m.volume.next_ino;
    pins::hold(m.scope, m.id, &mut m.volume, point, Holder::Restore(job))?;
    let row = RestoreRow {
        seq: restore.seq,
        to: restore.to.clone(),
        moved_at: m.at(),
        entries: 0,
        bytes: 0,
        dir: None,
        file: None,
    };
    let mut copier = Copier { m, past, job, row, left: slice_rows() };
    copier.inode(source, None)?;
    copier.finish(true)
}

/// Copies the next rows.
pub(super) fn step(scope: &mut Scope, id: VolumeId, job: InodeId) -> Step<Answer> {
    let volume = reads::live(&scope.rows, id)?.ok_or(Errno::ENOENT)?;
    let row = find(&scope.rows, id, job)?;
    let past = as_of(scope.rows.stored(), id, row.seq)??;
    let m = Mutation::begin(scope, id, volume, NO_SESSION);
    let mut copier = Copier { m, past, job, row, left: slice_rows() };
    let more = copier.run()?;
    copier.finish(more)
}

fn find(read: &dyn Read, id: VolumeId, job: InodeId) -> Step<RestoreRow> {
    Ok(rows::fetch(read, Family::Meta, &keys::restore(id, job))?.ok_or(Errno::ENOENT)?)
}

/// Ends a restore. Refused: `EBUSY` if the copy is to be published and not whole, `ENOENT` if its
/// directory is gone.
pub(super) fn end(scope: &mut Scope, id: VolumeId, job: InodeId, end: RestoreEnd) -> Step<Answer> {
    let volume = reads::live(&scope.rows, id)?.ok_or(Errno::ENOENT)?;
    let row = find(&scope.rows, id, job)?;
    let mut m = Mutation::begin(scope, id, volume, NO_SESSION);
    m.moves();
    match end {
        RestoreEnd::Publish => publish(&mut m, job, &row)?,
        RestoreEnd::Abandon => reap::orphan(&mut m, job)?,
    }
    pins::release(m.scope, id, &mut m.volume, row.seq, Holder::Restore(job))?;
    m.scope.rows.delete(Family::Meta, &keys::restore(id, job));
    reap::wake(m.scope, id)?;
    answer(RestoreState { job: None, entries: row.entries, bytes: row.bytes, more: false }, m)
}

fn answer(state: RestoreState, m: Mutation) -> Step<Answer> {
    let Finished { event, grown, .. } = m.finish(Credit::NONE)?;
    Ok((state, event, grown))
}

/// Gives the copy its name. What had the name goes.
fn publish(m: &mut Mutation, job: InodeId, row: &RestoreRow) -> Step<()> {
    let unfilled = keys::unfilled(m.id, job);
    let is_whole = row.dir.is_none()
        && row.file.is_none()
        && m.scope.rows.scan(Family::Meta, &unfilled, &unfilled, 1)?.is_empty();
    require(is_whole, Errno::EBUSY)?;
    m.parent(&row.to)?;
    require_way_up(m, row.to.parent, None)?;
    let mut copy = m.node(job)?;
    let old = m.dentry(&row.to)?;
    let lost_dir = old.as_ref().is_some_and(|old| old.kind == FileKind::Directory);
    match old {
        Some(old) if lost_dir => reap::detach(m, old.ino)?,
        Some(old) => drop_link(m, old.ino)?,
        None => {}
    }
    if copy.is_dir() {
        copy.row.parent = Some(row.to.parent);
        m.save(&copy)?;
    }
    m.set_name(&row.to, Some((copy.row.kind, job)))?;
    m.changed(Change::Attr(job));
    Ok(m.entries_changed(row.to.parent, i32::from(copy.is_dir()) - i32::from(lost_dir))?)
}

/// One slice of copying.
struct Copier<'s, 'a> {
    m: Mutation<'s, 'a>,
    past: AsOf<'a>,
    job: InodeId,
    row: RestoreRow,
    /// Rows that may still be made in this slice.
    left: usize,
}

impl Copier<'_, '_> {
    /// Whether there is more.
    fn run(&mut self) -> Step<bool> {
        while self.left > 0 {
            if let Some(file) = self.row.file.take() {
                self.chunks(file)?;
            } else if let Some(dir) = self.row.dir.take() {
                self.entries(dir)?;
            } else if !self.next_dir()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn finish(mut self, more: bool) -> Step<Answer> {
        self.m.moves();
        self.row.moved_at = self.m.at();
        let state =
            RestoreState { job: Some(self.job), entries: self.row.entries, bytes: self.row.bytes, more };
        self.m.scope.put(Family::Meta, &keys::restore(self.m.id, self.job), &self.row)?;
        answer(state, self.m)
    }

    fn spend(&mut self, rows: usize) {
        self.left = self.left.saturating_sub(rows);
    }

    /// Turns to a directory that was made and not filled; false if there is none.
    fn next_dir(&mut self) -> Result<bool> {
        self.spend(1);
        let prefix = keys::unfilled(self.m.id, self.job);
        let found = self.m.scope.rows.scan(Family::Meta, &prefix, &prefix, 1)?;
        let Some((key, value)) = found.first() else {
            return Ok(false);
        };
        let source = keys::part(key, prefix.len())
            .ok_or_else(|| rows::damaged(Family::Meta, key, "is no working row of a restore"))?;
        let CopyRow { copy } = rows::decode(Family::Meta, key, value)?;
        self.row.dir = Some(DirCursor { source: InodeId::from_key(source), copy, after: None });
        Ok(true)
    }

    /// Copies entries of a directory.
    fn entries(&mut self, mut dir: DirCursor) -> Step<()> {
        let prefix = keys::dentries(self.m.id, dir.source);
        let from = match &dir.after {
            None => prefix.clone(),
            Some(name) => reads::after(&keys::dentry(self.m.id, dir.source, name)),
        };
        let limit = self.left.div_ceil(NAME_ROWS);
        let found = self.past.scan(Family::Dentry, &prefix, &from, limit)?;
        let mut is_last = found.len() < limit;
        let mut into = self.m.node(dir.copy)?;
        for (number, (key, value)) in found.iter().enumerate() {
            let entry: DentryRow = rows::decode(Family::Dentry, key, value)?;
            let name = Name::new(&key[prefix.len()..]).map_err(|_| Errno::EIO)?;
            self.entry(&mut into, &name, &entry)?;
            dir.after = Some(name);
            // A large file is finished before its neighbours.
            if self.left == 0 || self.row.file.is_some() {
                is_last &= number + 1 == found.len();
                break;
            }
        }
        self.m.save(&into)?;
        if is_last {
            let done = keys::unfilled_one(self.m.id, self.job, dir.source);
            self.m.scope.rows.delete(Family::Meta, &done);
        } else {
            self.row.dir = Some(dir);
        }
        Ok(())
    }

    fn entry(&mut self, into: &mut Node, name: &Name, entry: &DentryRow) -> Step<()> {
        self.spend(NAME_ROWS - 1);
        let source = reads::node(&self.past, self.m.id, entry.ino)?.ok_or(Errno::EIO)?;
        let ino = match self.linked(&source)? {
            Some(mut copy) => {
                copy.row.nlink = copy.row.nlink.saturating_add(1);
                self.m.save(&copy)?;
                copy.ino
            }
            None => self.inode(&source, Some(into.ino))?,
        };
        if let Some(dir) = into.dir.as_mut().filter(|_| source.is_dir()) {
            dir.nlink = dir.nlink.saturating_add(1);
        }
        let key = keys::dentry(self.m.id, into.ino, name);
        let row = DentryRow { born: self.m.seq, kind: source.row.kind, ino };
        self.m.replace(Family::Dentry, &key, Some(row))?;
        Ok(())
    }

    /// The copy of a file with several names, if one of them was met before.
    fn linked(&self, source: &Node) -> Result<Option<Node>> {
        if source.is_dir() || source.row.nlink <= 1 {
            return Ok(None);
        }
        let key = keys::linked(self.m.id, self.job, source.ino);
        match rows::fetch::<CopyRow>(&self.m.scope.rows, Family::Meta, &key)? {
            Some(CopyRow { copy }) => self.m.find(copy),
            None => Ok(None),
        }
    }

    /// Copies an inode; of a directory and of a large file what is in them comes later.
    fn inode(&mut self, source: &Node, parent: Option<InodeId>) -> Step<InodeId> {
        let (id, seq, at, copy) = (self.m.id, self.m.seq, self.m.at(), self.m.next_ino());
        let is_dir = source.is_dir();
        reference(&mut self.m, source.row.extents())?;
        let row = InodeRow {
            born: seq,
            nlink: u32::from(!is_dir),
            ctime: if is_dir { Time::default() } else { at },
            cver: seq,
            parent: parent.filter(|_| is_dir),
            ..source.row.clone()
        };
        let dir = source.dir.as_ref().map(|dir| DirRow { born: seq, nlink: 2, ctime: at, ..dir.clone() });
        self.m.save(&Node { ino: copy, row, dir })?;
        let xattrs = copy_xattrs(&mut self.m, &self.past, source.ino, copy)?;
        self.spend(1 + xattrs);
        self.row.entries = self.row.entries.saturating_add(1);
        self.row.bytes = self.row.bytes.saturating_add(source.row.allocated);
        if is_dir {
            let key = keys::unfilled_one(id, self.job, source.ino);
            self.m.scope.put(Family::Meta, &key, &CopyRow { copy })?;
        } else if source.row.nlink > 1 {
            let key = keys::linked(id, self.job, source.ino);
            self.m.scope.put(Family::Meta, &key, &CopyRow { copy })?;
        }
        if source.row.content == Content::Chunked {
            self.row.file = Some(FileCursor { source: source.ino, copy, chunk: 0 });
        }
        Ok(copy)
    }

    /// Copies chunk rows of a file.
    fn chunks(&mut self, mut file: FileCursor) -> Step<()> {
        let prefix = keys::chunks(self.m.id, file.source);
        let from = keys::chunk(self.m.id, file.source, file.chunk);
        let limit = self.left;
        let found = self.past.scan(Family::Chunk, &prefix, &from, limit)?;
        let mut is_last = found.len() < limit;
        for (number, (key, value)) in found.iter().enumerate() {
            let (chunk, row) = chunk_row(key, prefix.len(), value)?;
            self.spend(row.extents.len().max(1));
            set_chunk(&mut self.m, file.copy, chunk, row)?;
            file.chunk = chunk.saturating_add(1);
            if self.left == 0 {
                is_last &= number + 1 == found.len();
                break;
            }
        }
        if !is_last {
            self.row.file = Some(file);
        }
        Ok(())
    }
}

fn reference(m: &mut Mutation, extents: &[Extent]) -> Step<()> {
    extents.iter().try_for_each(|extent| {
        let end = u64::from(extent.blob_offset) + u64::from(extent.len);
        blobs::reference_again(m, &extent.digest, end)
    })
}

fn chunk_row(key: &[u8], offset: usize, value: &[u8]) -> Result<(u32, ChunkRow)> {
    let chunk = keys::part(key, offset).map(u32::from_be_bytes);
    let chunk = chunk.ok_or_else(|| rows::damaged(Family::Chunk, key, "is no key of a chunk"))?;
    Ok((chunk, rows::decode(Family::Chunk, key, value)?))
}

fn set_chunk(m: &mut Mutation, ino: InodeId, chunk: u32, row: ChunkRow) -> Step<()> {
    reference(m, &row.extents)?;
    m.replace(Family::Chunk, &keys::chunk(m.id, ino, chunk), Some(row))?;
    Ok(())
}

/// Gives `into` the attributes that `from` had; gives how many.
fn copy_xattrs(m: &mut Mutation, past: &AsOf, from: InodeId, into: InodeId) -> Result<usize> {
    let prefix = keys::xattrs(m.id, from);
    let found = reads::all(past, Family::Small, &prefix)?;
    for (key, value) in &found {
        let row: XattrRow = rows::decode(Family::Small, key, value)?;
        m.replace(Family::Small, &keys::xattr(m.id, into, &key[prefix.len()..]), Some(row))?;
    }
    Ok(found.len())
}

/// The old chunk rows of a file that is still in its place and small enough for one command.
fn in_place(
    m: &Mutation,
    past: &AsOf,
    restore: &Restore,
    source: &Node,
) -> Result<Option<Vec<(u32, ChunkRow)>>> {
    let here = m.dentry(&restore.to)?.is_some_and(|entry| entry.ino == source.ino);
    if !here || source.row.kind != FileKind::File {
        return Ok(None);
    }
    let prefix = keys::chunks(m.id, source.ino);
    let (mut old, mut extents) = (Vec::new(), 0);
    for (key, value) in past.scan(Family::Chunk, &prefix, &prefix, slice_rows() + 1)? {
        let (chunk, row) = chunk_row(&key, prefix.len(), &value)?;
        extents += row.extents.len();
        old.push((chunk, row));
    }
    let now = m.scope.rows.scan(Family::Chunk, &prefix, &prefix, slice_rows() + 1)?;
    Ok((extents <= slice_rows() && now.len() <= slice_rows()).then_some(old))
}

/// Gives a file the content and the attributes back that it had: a new version of the same inode.
fn take_back(m: &mut Mutation, past: &AsOf, source: Node, chunks: Vec<(u32, ChunkRow)>) -> Step<()> {
    let (ino, at) = (source.ino, m.at());
    let mut node = m.node(ino)?;
    layout::change(m, &mut node, 0, &[])?;
    reference(m, source.row.extents())?;
    for (chunk, row) in chunks {
        set_chunk(m, ino, chunk, row)?;
    }
    let nlink = node.row.nlink;
    node.row = InodeRow { nlink, ctime: at, cver: m.seq, ..source.row };
    let prefix = keys::xattrs(m.id, ino);
    for (key, _) in reads::all(&m.scope.rows, Family::Small, &prefix)? {
        if past.get(Family::Small, &key)?.is_none() {
            m.replace::<XattrRow>(Family::Small, &key, None)?;
        }
    }
    copy_xattrs(m, past, ino, ino)?;
    m.changed(Change::Content(ino));
    m.changed(Change::Xattr(ino));
    Ok(m.save(&node)?)
}

/// A restore under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestoreJob {
    /// The volume.
    pub volume: VolumeId,
    /// Its number in the volume.
    pub job: InodeId,
    /// When the last step was made.
    pub moved_at: Time,
}

/// The restores under way in all volumes that are not deleted, at most `limit`.
pub fn restores(read: &dyn Read, limit: usize) -> Result<Vec<RestoreJob>> {
    let mut found = Vec::new();
    for (key, value) in read.scan(Family::Meta, keys::RESTORES, keys::RESTORES, limit)? {
        let ids = keys::part(&key, keys::RESTORES.len()).zip(keys::part(&key, keys::RESTORES.len() + 8));
        let (volume, job) = ids.ok_or_else(|| rows::damaged(Family::Meta, &key, "is no key of a restore"))?;
        let volume = VolumeId::from_key(volume);
        let RestoreRow { moved_at, .. } = rows::decode(Family::Meta, &key, &value)?;
        if reads::live(read, volume)?.is_some() {
            found.push(RestoreJob { volume, job: InodeId::from_key(job), moved_at });
        }
    }
    Ok(found)
}
