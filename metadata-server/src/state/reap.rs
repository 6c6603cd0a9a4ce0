//! Removing in slices what is too large for one command: trees and files without a name, and deleted
//! volumes. A leader asks for slices as long as there is work.

use super::{
    Family, Read, keys,
    mutation::{Finished, Mutation},
    reads::{self, Node},
    rows::{self, ChunkRow, DentryRow, OrphanRow, ReapRow, RestoreRow},
    scope::Scope,
    stop::Step,
};
use sitefs_base::{
    FileKind, InodeId, Name, Result, SessionId, VolumeId,
    op::{Change, Credit, Event, Place},
};
use std::collections::VecDeque;

/// Rows that one command removes or makes, about.
#[cfg(not(test))]
pub(super) const fn slice_rows() -> usize {
    1000
}
/// The same; tests may cut small things into slices too.
#[cfg(test)]
pub(super) use super::tests::slices::slice_rows;

/// What a name costs of a slice: its dentry, its inode, its directory.
pub(super) const NAME_ROWS: usize = 3;
/// The session of changes that no mount makes.
pub(super) const NO_SESSION: SessionId = SessionId::new(0);

/// What a slice did.
pub(super) struct Slice {
    /// Whether there is more to remove.
    pub more: bool,
    pub event: Option<Event>,
}

/// An inode lost its last name and its rows are left for later.
pub(super) fn orphan(m: &mut Mutation, ino: InodeId) -> Result<()> {
    m.scope.put(Family::Small, &keys::orphan(m.id, ino), &OrphanRow::default())?;
    wake(m.scope, m.id)
}

/// Whether the number is one of an inode whose rows await removal.
pub(super) fn is_orphan(m: &Mutation, ino: InodeId) -> Result<bool> {
    Ok(m.scope.rows.get(Family::Small, &keys::orphan(m.id, ino))?.is_some())
}

/// A directory loses its name with everything in it. The caller removes the name.
pub(super) fn detach(m: &mut Mutation, ino: InodeId) -> Result<()> {
    let mut node = m.named(ino)?;
    node.row.parent = None;
    m.save(&node)?;
    m.changed(Change::Attr(ino));
    orphan(m, ino)
}

/// Enters a volume in the list of those with work.
pub(super) fn wake(scope: &mut Scope, volume: VolumeId) -> Result<()> {
    let key = keys::reap(volume);
    match scope.rows.get(Family::Meta, &key)? {
        Some(_) => Ok(()),
        None => scope.put(Family::Meta, &key, &ReapRow::default()),
    }
}

/// Removes the next rows of a volume.
pub(super) fn slice(scope: &mut Scope, id: VolumeId) -> Step<Slice> {
    match reads::volume(&scope.rows, id)? {
        None => {
            scope.rows.delete(Family::Meta, &keys::reap(id));
            Ok(Slice { more: false, event: None })
        }
        Some(row) if row.deleted.is_some() => Ok(Slice { more: remove_volume(scope, id)?, event: None }),
        Some(row) => {
            let mut reaper = Reaper {
                m: Mutation::begin(scope, id, row, NO_SESSION),
                left: slice_rows(),
                waiting: VecDeque::new(),
            };
            let more = reaper.run()?;
            let Finished { event, .. } = reaper.m.finish(Credit::NONE)?;
            if !more {
                scope.rows.delete(Family::Meta, &keys::reap(id));
            }
            Ok(Slice { more, event })
        }
    }
}

/// One slice in a volume that lives.
struct Reaper<'s, 'a> {
    m: Mutation<'s, 'a>,
    /// Rows that may still go in this slice.
    left: usize,
    waiting: VecDeque<(InodeId, OrphanRow)>,
}

impl Reaper<'_, '_> {
    /// Whether there is more.
    fn run(&mut self) -> Result<bool> {
        let prefix = keys::orphans(self.m.id);
        for (key, value) in self.m.scope.rows.scan(Family::Small, &prefix, &prefix, slice_rows())? {
            let ino = keys::part(&key, prefix.len())
                .ok_or_else(|| rows::damaged(Family::Small, &key, "is no key of an orphan"))?;
            self.waiting.push_back((InodeId::from_key(ino), rows::decode(Family::Small, &key, &value)?));
        }
        while self.left > 0
            && let Some((ino, orphan)) = self.waiting.pop_front()
        {
            self.m.moves();
            self.spend(1);
            match self.m.find(ino)? {
                Some(node) if node.is_dir() => self.directory(node, orphan)?,
                Some(node) => self.unlinked(&node)?,
                None => self.chunks(ino, orphan)?,
            }
        }
        if self.left > 0 {
            self.working_rows()?;
        }
        Ok(self.left == 0)
    }

    fn spend(&mut self, rows: usize) {
        self.left = self.left.saturating_sub(rows);
    }

    fn done(&mut self, ino: InodeId) {
        self.m.scope.rows.delete(Family::Small, &keys::orphan(self.m.id, ino));
    }

    /// Goes on with an orphan in another slice.
    fn put_off(&mut self, ino: InodeId, from: Vec<u8>) -> Result<()> {
        self.left = 0;
        self.m.scope.put(Family::Small, &keys::orphan(self.m.id, ino), &OrphanRow { from })
    }

    fn wait(&mut self, ino: InodeId) -> Result<()> {
        orphan(&mut self.m, ino)?;
        self.waiting.push_back((ino, OrphanRow::default()));
        Ok(())
    }

    /// Takes names out of a directory; nobody can put new ones in, because it has none itself.
    fn directory(&mut self, mut node: Node, orphan: OrphanRow) -> Result<()> {
        let (dir, prefix) = (node.ino, keys::dentries(self.m.id, node.ino));
        let from = if orphan.from.is_empty() { prefix.clone() } else { orphan.from };
        let limit = self.left.div_ceil(NAME_ROWS).max(1);
        let found = self.m.scope.rows.scan(Family::Dentry, &prefix, &from, limit + 1)?;
        for (key, value) in found.iter().take(limit) {
            let entry: DentryRow = rows::decode(Family::Dentry, key, value)?;
            let name = Name::new(&key[prefix.len()..])
                .map_err(|error| rows::damaged(Family::Dentry, key, "has no valid name").because(error))?;
            self.m.set_name(&Place { parent: dir, name }, None)?;
            self.spend(NAME_ROWS);
            self.drop_name(entry, &mut node)?;
        }
        // Whoever has it open sees its link count go down.
        self.m.changed(Change::Attr(dir));
        if let Some((next, _)) = found.get(limit) {
            self.m.save(&node)?;
            return self.put_off(dir, next.clone());
        }
        self.m.remove_but_chunks(&node)?;
        self.done(dir);
        Ok(())
    }

    fn drop_name(&mut self, entry: DentryRow, parent: &mut Node) -> Result<()> {
        if entry.kind == FileKind::Directory {
            detach(&mut self.m, entry.ino)?;
            self.waiting.push_back((entry.ino, OrphanRow::default()));
            if let Some(dir) = &mut parent.dir {
                dir.nlink = dir.nlink.saturating_sub(1);
            }
            return Ok(());
        }
        let mut node = self.m.named(entry.ino)?;
        if node.row.nlink <= 1 {
            return self.unlinked(&node);
        }
        node.row.nlink -= 1;
        node.row.ctime = self.m.at();
        self.m.changed(Change::Attr(entry.ino));
        self.m.save(&node)
    }

    /// Removes an inode that is no directory.
    fn unlinked(&mut self, node: &Node) -> Result<()> {
        self.m.changed(Change::Attr(node.ino));
        let (removed, has_chunks) = self.m.remove_but_chunks(node)?;
        self.spend(removed.saturating_sub(1));
        if has_chunks {
            return self.wait(node.ino);
        }
        self.done(node.ino);
        Ok(())
    }

    /// Removes chunk rows of a file whose inode is gone.
    fn chunks(&mut self, ino: InodeId, orphan: OrphanRow) -> Result<()> {
        let prefix = keys::chunks(self.m.id, ino);
        let from = if orphan.from.is_empty() { prefix.clone() } else { orphan.from };
        let limit = self.left.max(1);
        let found = self.m.scope.rows.scan(Family::Chunk, &prefix, &from, limit + 1)?;
        for (key, _) in found.iter().take(limit) {
            self.m.replace::<ChunkRow>(Family::Chunk, key, None)?;
            self.spend(1);
        }
        if let Some((next, _)) = found.get(limit) {
            return self.put_off(ino, next.clone());
        }
        self.done(ino);
        Ok(())
    }

    /// Removes working rows of restores that have ended.
    fn working_rows(&mut self) -> Result<()> {
        let all = keys::all_work(self.m.id);
        let mut from = all.clone();
        while let Some((key, _)) = self.m.scope.rows.scan(Family::Meta, &all, &from, 1)?.first() {
            let job = keys::part(key, all.len())
                .ok_or_else(|| rows::damaged(Family::Meta, key, "is no working row of a restore"))?;
            let job = InodeId::from_key(job);
            let work = keys::work(self.m.id, job);
            let running: Option<RestoreRow> =
                rows::fetch(&self.m.scope.rows, Family::Meta, &keys::restore(self.m.id, job))?;
            if running.is_none() {
                for (key, _) in self.m.scope.rows.scan(Family::Meta, &work, &work, self.left)? {
                    self.m.scope.rows.delete(Family::Meta, &key);
                    self.spend(1);
                }
                if self.left == 0 {
                    return Ok(());
                }
            }
            from = [&work[..], &[0xff]].concat();
        }
        Ok(())
    }
}

/// The rows of a volume that are not history and not its own row.
fn ranges(id: VolumeId) -> [(Family, Vec<u8>); 12] {
    let own = id.to_key().to_vec();
    [
        (Family::Meta, keys::sessions(id)),
        (Family::Meta, keys::all_receipts(id)),
        (Family::Meta, keys::all_ranges(id)),
        (Family::Meta, keys::snapshots(id)),
        (Family::Meta, keys::all_holders(id)),
        (Family::Meta, keys::restores(id)),
        (Family::Meta, keys::all_work(id)),
        (Family::Dentry, own.clone()),
        (Family::Inode, own.clone()),
        (Family::Chunk, own.clone()),
        (Family::Small, own.clone()),
        (Family::Feed, own),
    ]
}

/// Removes the next rows of a deleted volume, its own row last. History goes with that one: every replica
/// drops what belongs to no volume when it likes. Gives whether there is more.
fn remove_volume(scope: &mut Scope, id: VolumeId) -> Result<bool> {
    let reap_key = keys::reap(id);
    let mut at: ReapRow = rows::fetch(&scope.rows, Family::Meta, &reap_key)?.unwrap_or_default();
    let ranges = ranges(id);
    let mut left = slice_rows();
    while let Some((family, prefix)) = usize::try_from(at.range).ok().and_then(|range| ranges.get(range)) {
        let from = if at.from.is_empty() { prefix } else { &at.from };
        let found = scope.rows.scan(*family, prefix, from, left + 1)?;
        for (key, _) in found.iter().take(left) {
            scope.rows.delete(*family, key);
        }
        if let Some((next, _)) = found.get(left) {
            at.from = next.clone();
            scope.put(Family::Meta, &reap_key, &at)?;
            return Ok(true);
        }
        left -= found.len();
        at = ReapRow { range: at.range + 1, from: Vec::new() };
    }
    scope.rows.delete(Family::Meta, &reap_key);
    scope.rows.delete(Family::Meta, &keys::volume(id));
    Ok(false)
}

/// The volumes behind `after` with rows that await removal, at most `limit`.
pub fn volumes_to_reap(read: &dyn Read, after: Option<VolumeId>, limit: usize) -> Result<Vec<VolumeId>> {
    let from = after.map_or_else(|| keys::REAPS.to_vec(), |id| reads::after(&keys::reap(id)));
    let mut found = Vec::new();
    for (key, _) in read.scan(Family::Meta, keys::REAPS, &from, limit)? {
        let id = keys::part(&key, keys::REAPS.len())
            .ok_or_else(|| rows::damaged(Family::Meta, &key, "is no key of a volume"))?;
        found.push(VolumeId::from_key(id));
    }
    Ok(found)
}
