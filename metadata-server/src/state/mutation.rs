//! One mutation of a volume: its seq, the rows it replaces, what it tells the watchers.

use super::{
    CrowdedChunk, Family, Read, history,
    history::Life,
    keys,
    reads::{self, Node},
    reap::{self, slice_rows},
    rows::{self, DentryRow, FeedRow, Lived, SecondRow, VolumeRow},
    scope::Scope,
    stop::{Step, refuse, require},
};
use sitefs_base::{
    Content, Digest, Errno, Extent, FileKind, InodeId, Result, Seq, SessionId, Time, VolumeId,
    op::{Change, Credit, Event, Extra, Place},
};
use std::collections::BTreeSet;

/// Events that the feed of a volume keeps.
const FEED_EVENTS: u64 = 100_000;

/// What an operation did, before it is turned into an outcome.
pub(super) struct Done {
    pub ino: Option<InodeId>,
    pub extra: Extra,
}

impl Done {
    pub(super) fn with(ino: InodeId) -> Self {
        Self { ino: Some(ino), extra: Extra::None }
    }
}

/// A mutation in progress.
pub(super) struct Mutation<'s, 'a> {
    pub scope: &'s mut Scope<'a>,
    pub id: VolumeId,
    pub volume: VolumeRow,
    /// The seq of this mutation.
    pub seq: Seq,
    pub session: SessionId,
    before: VolumeRow,
    changes: Vec<Change>,
    touched: Vec<InodeId>,
    moves: bool,
    crowded: Option<(InodeId, u32)>,
}

impl<'s, 'a> Mutation<'s, 'a> {
    pub(super) fn begin(
        scope: &'s mut Scope<'a>,
        id: VolumeId,
        stored: VolumeRow,
        session: SessionId,
    ) -> Self {
        let mut volume = stored.clone();
        if scope.at.secs() > volume.second {
            volume.second = scope.at.secs();
            volume.second_floor = volume.seq;
        }
        let seq = volume.seq.next();
        Self {
            scope,
            id,
            volume,
            seq,
            session,
            before: stored,
            changes: Vec::new(),
            touched: Vec::new(),
            moves: false,
            crowded: None,
        }
    }

    pub(super) fn at(&self) -> Time {
        self.scope.at
    }

    /// Notes that something changed, for the feed.
    pub(super) fn changed(&mut self, change: Change) {
        if !self.changes.contains(&change) {
            self.changes.push(change);
        }
    }

    /// Notes that rows change of which no watcher knows: the seq moves on all the same.
    pub(super) fn moves(&mut self) {
        self.moves = true;
    }

    /// Notes an inode whose attributes the reply carries if it still exists.
    pub(super) fn touch(&mut self, ino: InodeId) {
        if !self.touched.contains(&ino) {
            self.touched.push(ino);
        }
    }

    /// Notes a chunk whose extents are so many that they should be merged.
    pub(super) fn crowded(&mut self, ino: InodeId, chunk: u32) {
        self.crowded = Some((ino, chunk));
    }

    /// Replaces a row by one that says the same in other words: it keeps its life, and history
    /// needs no copy.
    pub(super) fn reword<T: Lived>(&mut self, family: Family, key: &[u8], new: &T) -> Result<()> {
        self.scope.put(family, key, new)
    }

    /// Replaces (or with `None` removes) a row; the old one goes to history. Returns the old one.
    pub(super) fn replace<T: Lived>(
        &mut self,
        family: Family,
        key: &[u8],
        new: Option<T>,
    ) -> Result<Option<T>> {
        let Some(bytes) = self.scope.rows.get(family, key)? else {
            if let Some(mut new) = new {
                new.set_born(self.seq);
                self.scope.put(family, key, &new)?;
            }
            return Ok(None);
        };
        let old: T = rows::decode(family, key, &bytes)?;
        match new {
            Some(mut new) => {
                new.set_born(old.born());
                if new != old {
                    new.set_born(self.seq);
                    self.bury(family, key, &old, Some(&new), bytes);
                    self.scope.put(family, key, &new)?;
                }
            }
            None => {
                self.bury(family, key, &old, None, bytes);
                self.scope.rows.delete(family, key);
            }
        }
        Ok(Some(old))
    }

    /// Keeps a superseded row, unless nobody could ask for it: one that this mutation itself made, for
    /// example, held at no seq at all.
    fn bury<T: Lived>(&mut self, family: Family, key: &[u8], old: &T, new: Option<&T>, bytes: Vec<u8>) {
        let life = Life { born: old.born(), died: self.seq };
        let Some(history) = history::family_of(family, key) else { return };
        if history::worth_keeping(life, self.volume.second_floor, &self.volume.pins) {
            let key = keys::died(family, key, self.seq);
            let size = (key.len() + bytes.len()) as u64 + dropped(old.named(), new.map_or(&[], T::named));
            self.volume.history_bytes = self.volume.history_bytes.saturating_add(size);
            self.scope.rows.put(history, &key, bytes);
        }
    }

    pub(super) fn find(&self, ino: InodeId) -> Result<Option<Node>> {
        reads::node(&self.scope.rows, self.id, ino)
    }

    /// An inode that the caller names by number: `ESTALE` if it is gone.
    pub(super) fn node(&self, ino: InodeId) -> Step<Node> {
        Ok(self.find(ino)?.ok_or(Errno::ESTALE)?)
    }

    /// An inode to which a name leads.
    pub(super) fn named(&self, ino: InodeId) -> Result<Node> {
        reads::named(&self.scope.rows, self.id, ino)
    }

    /// The directory of a place: `ENOENT` if it is gone or has lost its name, `ENOTDIR` if it is none.
    pub(super) fn parent(&self, place: &Place) -> Step<Node> {
        let node = self.find(place.parent)?.ok_or(Errno::ENOENT)?;
        require(node.is_dir(), Errno::ENOTDIR)?;
        require(node.row.parent.is_some(), Errno::ENOENT)?;
        Ok(node)
    }

    pub(super) fn dentry(&self, place: &Place) -> Result<Option<DentryRow>> {
        reads::dentry(&self.scope.rows, self.id, place.parent, &place.name)
    }

    /// Stores an inode's rows as they are in `node`, and keeps the volume's counters right.
    pub(super) fn save(&mut self, node: &Node) -> Result<()> {
        let key = keys::inode(self.id, node.ino);
        let old = self.replace(Family::Inode, &key, Some(node.row.clone()))?;
        if let Some(dir) = &node.dir {
            self.replace(Family::Small, &keys::directory(self.id, node.ino), Some(dir.clone()))?;
        }
        match old {
            Some(old) => self.count_bytes(old.allocated, node.row.allocated),
            None => {
                self.volume.inodes_used += 1;
                self.count_bytes(0, node.row.allocated);
            }
        }
        self.touch(node.ino);
        Ok(())
    }

    /// Removes an inode that lost its last name. All its rows go now, but for more chunk rows than one
    /// command removes: those become an orphan.
    pub(super) fn remove(&mut self, node: &Node) -> Result<()> {
        if !self.remove_but_chunks(node)?.1 {
            return Ok(());
        }
        let chunks = keys::chunks(self.id, node.ino);
        let some = self.scope.rows.scan(Family::Chunk, &chunks, &chunks, slice_rows() + 1)?;
        if some.len() > slice_rows() {
            return reap::orphan(self, node.ino);
        }
        super::layout::remove_from(self, node.ino, 0).map(drop)
    }

    /// Removes an inode that lost its last name. Gives how many rows went, and whether its chunk rows
    /// have yet to go.
    pub(super) fn remove_but_chunks(&mut self, node: &Node) -> Result<(usize, bool)> {
        self.replace::<rows::InodeRow>(Family::Inode, &keys::inode(self.id, node.ino), None)?;
        if node.is_dir() {
            self.replace::<rows::DirRow>(Family::Small, &keys::directory(self.id, node.ino), None)?;
        }
        let xattrs = match node.row.flags.has_xattrs {
            true => reads::all(&self.scope.rows, Family::Small, &keys::xattrs(self.id, node.ino))?,
            false => Vec::new(),
        };
        for (key, _) in &xattrs {
            self.replace::<rows::XattrRow>(Family::Small, key, None)?;
        }
        self.volume.inodes_used = self.volume.inodes_used.saturating_sub(1);
        self.count_bytes(node.row.allocated, 0);
        self.touch(node.ino);
        Ok((1 + usize::from(node.is_dir()) + xattrs.len(), node.row.content == Content::Chunked))
    }

    fn count_bytes(&mut self, old: u64, new: u64) {
        self.volume.bytes_used = self.volume.bytes_used.saturating_add(new).saturating_sub(old);
    }

    /// Sets (or removes) a name.
    pub(super) fn set_name(&mut self, place: &Place, to: Option<(FileKind, InodeId)>) -> Result<()> {
        let key = keys::dentry(self.id, place.parent, &place.name);
        let row = to.map(|(kind, ino)| DentryRow { born: self.seq, kind, ino });
        self.replace(Family::Dentry, &key, row)?;
        self.changed(Change::Name(place.clone()));
        Ok(())
    }

    /// A directory's entries changed: its times move on, and its link count by `subdirs`.
    pub(super) fn entries_changed(&mut self, parent: InodeId, subdirs: i32) -> Result<()> {
        self.entries_changed_as_of(parent, subdirs, None)
    }

    /// The same for a change that a mount made at `moment` and tells now. The times move on all the same:
    /// who has seen an earlier one sees that something changed.
    pub(super) fn entries_changed_as_of(
        &mut self,
        parent: InodeId,
        subdirs: i32,
        moment: Option<Time>,
    ) -> Result<()> {
        let mut node = self.named(parent)?;
        let at = self.at();
        let after = |old: Time| moment.map_or(at, |moment| moment.max(old.next()).min(at));
        if let Some(dir) = &mut node.dir {
            dir.mtime = after(dir.mtime);
            dir.ctime = after(dir.ctime);
            dir.nlink = dir.nlink.saturating_add_signed(subdirs);
        }
        self.changed(Change::Attr(parent));
        self.save(&node)
    }

    /// The directory has no entries, or the refusal `ENOTEMPTY`.
    pub(super) fn require_empty(&self, dir: InodeId) -> Step<()> {
        let prefix = keys::dentries(self.id, dir);
        let first = self.scope.rows.scan(Family::Dentry, &prefix, &prefix, 1)?;
        require(first.is_empty(), Errno::ENOTEMPTY)
    }

    pub(super) fn next_ino(&mut self) -> InodeId {
        let ino = self.volume.next_ino;
        self.volume.next_ino = InodeId::new(ino.get() + 1);
        ino
    }

    /// Writes what every mutation writes: the feed, the second, the volume. Refuses growth beyond a
    /// limit that `credit` does not cover.
    pub(super) fn finish(mut self, credit: Credit) -> Step<Finished> {
        let grown = self.grown();
        self.check_limits(grown, credit)?;
        let event = if self.changes.is_empty() && !self.moves { None } else { Some(self.publish()?) };
        if self.volume.seq == self.before.seq {
            // Only a mutation moves the second on: the row stays equal if nothing changed.
            self.volume.second = self.before.second;
            self.volume.second_floor = self.before.second_floor;
        }
        if self.volume != self.before {
            self.scope.put(Family::Meta, &keys::volume(self.id), &self.volume)?;
        }
        let crowded = self.crowded.map(|(ino, chunk)| CrowdedChunk { volume: self.id, ino, chunk });
        Ok(Finished { seq: self.volume.seq, touched: self.touched, event, crowded, grown })
    }

    fn grown(&self) -> Credit {
        self.volume.usage().used().less(self.before.usage().used())
    }

    /// Growth that a session was promised before a limit was reached is never refused: `close` is too
    /// late for that (DESIGN D17).
    fn check_limits(&self, grown: Credit, credit: Credit) -> Step<()> {
        let beyond = |used: u64, limit: u64, grown: u64, credit: u64| used > limit && grown > credit;
        let (volume, limits) = (&self.volume, self.volume.limits);
        if beyond(volume.bytes_used, limits.bytes, grown.bytes, credit.bytes)
            || beyond(volume.inodes_used, limits.inodes, grown.inodes, credit.inodes)
        {
            return refuse(Errno::EDQUOT);
        }
        Ok(())
    }

    fn publish(&mut self) -> Result<Event> {
        if self.volume.second != self.before.second {
            let key = keys::second(self.id, self.before.second);
            let VolumeRow { seq, history_bytes, bytes_used, inodes_used, .. } = self.before;
            self.scope.put(
                Family::Small,
                &key,
                &SecondRow { seq, history_bytes, bytes_used, inodes_used },
            )?;
        }
        self.volume.seq = self.seq;
        let changes = std::mem::take(&mut self.changes);
        let row = FeedRow { origin: self.session, changes };
        self.scope.put(Family::Feed, &keys::feed(self.id, self.seq), &row)?;
        if let Some(oldest @ 1..) = self.seq.get().checked_sub(FEED_EVENTS) {
            let floor = Seq::new(oldest);
            self.scope.rows.delete(Family::Feed, &keys::feed(self.id, floor));
            self.volume.feed_floor = floor;
        }
        Ok(Event { seq: self.seq, origin: self.session, changes: row.changes })
    }
}

/// Bytes of the content that `old` names and `new` does not: from now on history alone may need it.
fn dropped(old: &[Extent], new: &[Extent]) -> u64 {
    let still: BTreeSet<&Digest> = new.iter().map(|extent| &extent.digest).collect();
    let gone = old.iter().filter(|extent| !still.contains(&extent.digest));
    gone.map(|extent| u64::from(extent.len)).sum()
}

/// A mutation whose rows are complete.
pub(super) struct Finished {
    pub seq: Seq,
    pub touched: Vec<InodeId>,
    pub event: Option<Event>,
    pub crowded: Option<CrowdedChunk>,
    pub grown: Credit,
}
