//! Reads through the cache, and mutations that keep it true.

use super::cache::{Cache, Xattrs};
use super::listing::Listing;
use super::session::{Sent, Session};
use super::{Cx, Op, Stop};
use sitefs_base::limits::{COMMIT_CHUNKS_MAX, INODE_RANGE, LISTING_PAGE, METADATA_DEADLINE};
use sitefs_base::op::{
    AnswerBody, Change, ChunkLayout, Event, Extra, Location, Outcome, Place, Query, Usage,
};
use sitefs_base::{Digest, Errno, Inode, InodeId, Seq, op};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Hears of other mounts' mutations, in order. Called by the session's task: must not block.
pub trait Watcher: Send + Sync {
    /// Something changed.
    fn event(&self, event: &Event);
    /// Events were lost: nothing remembered may be trusted.
    fn resync(&self);
    /// The outcome of an own operation is known after its deadline: programs were told that it is not.
    fn resolved(&self, changes: &[Change]);
    /// The lease is over: what the kernel remembers may not be trusted any more.
    fn lease_lost(&self);
}

/// An answer, and whether it may be handed to the kernel with a lifetime.
#[derive(Clone, Debug)]
pub struct Found<T> {
    /// The answer.
    pub value: T,
    /// Whether the feed covers it.
    pub current: bool,
}

/// The metadata of the mounted volume.
pub struct Meta {
    session: Arc<Session>,
    cache: Mutex<Cache>,
    numbers: Mutex<VecDeque<(u64, u64)>>,
}

fn unexpected<T>() -> Op<T> {
    tracing::error!("the cell answered another question than was asked");
    Err(Errno::EIO.into())
}

impl Meta {
    /// Metadata of the volume that `session` is attached to.
    pub fn new(session: Arc<Session>) -> Self {
        Self { session, cache: Mutex::new(Cache::new()), numbers: Mutex::new(VecDeque::new()) }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Drops what `event` made untrue.
    pub fn apply(&self, event: &Event) {
        self.cache().apply(event.seq, &event.changes);
    }

    /// Drops what own operations of late may have made untrue.
    pub fn forget(&self, changes: &[Change]) {
        self.cache().forget(changes);
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.cache().clear();
    }

    /// What is remembered, if there is a lease; else what the cell says. Where that gives nothing, and
    /// operators want it so, what was remembered is better than nothing (DESIGN D28). What is not
    /// remembered then is unknown: `EIO`, never `ENOENT`.
    fn known_or<T>(
        &self,
        known: impl Fn(&mut Cache) -> Option<T>,
        ask: impl FnOnce() -> Op<Found<T>>,
    ) -> Op<Found<T>> {
        if self.session.has_lease()
            && let Some(value) = known(&mut self.cache())
        {
            return Ok(Found { value, current: true });
        }
        match ask() {
            Err(Stop::Errno(Errno::EIO)) if self.session.may_serve_stale() => {
                let value = known(&mut self.cache()).ok_or(Errno::EIO)?;
                Ok(Found { value, current: false })
            }
            answered => answered,
        }
    }

    /// The inode under a name; `None` if there is none in that directory.
    pub fn lookup(&self, cx: Cx, place: &Place) -> Op<Found<Option<Inode>>> {
        let known = |cache: &mut Cache| match cache.name(place)? {
            None => Some(None),
            Some(ino) => cache.inode(ino).map(Some),
        };
        self.known_or(known, || {
            let (seq, body) = self.session.ask(cx, Query::Lookup { at: place.clone() })?;
            let AnswerBody::Inode(inode) = body else { return unexpected() };
            let mut cache = self.cache();
            cache.put_name(seq, place.clone(), inode.as_ref().map(|inode| inode.attr.ino));
            if let Some(inode) = &inode {
                cache.put_inode(seq, inode.clone());
            }
            Ok(Found { value: inode, current: cache.is_current(seq) })
        })
    }

    /// An inode by number; `None` if it has no name any more.
    pub fn inode(&self, cx: Cx, ino: InodeId) -> Op<Found<Option<Inode>>> {
        self.known_or(
            |cache| cache.inode(ino).map(Some),
            || {
                let (seq, body) = self.session.ask(cx, Query::Inode { ino })?;
                let AnswerBody::Inode(inode) = body else { return unexpected() };
                let mut cache = self.cache();
                if let Some(inode) = &inode {
                    cache.put_inode(seq, inode.clone());
                }
                Ok(Found { value: inode, current: cache.is_current(seq) })
            },
        )
    }

    /// Learns what is not remembered of `inos`, in one question if there are not too many.
    pub fn learn(&self, cx: Cx, inos: impl Iterator<Item = InodeId>) -> Op<()> {
        let unknown: Vec<InodeId> = {
            let cache = self.cache();
            inos.filter(|ino| !cache.knows(*ino)).take(LISTING_PAGE as usize).collect()
        };
        if unknown.is_empty() {
            return Ok(());
        }
        let (seq, body) = self.session.ask(cx, Query::Inodes { inos: unknown })?;
        let AnswerBody::Inodes(inodes) = body else { return unexpected() };
        let mut cache = self.cache();
        inodes.into_iter().for_each(|inode| cache.put_inode(seq, inode));
        Ok(())
    }

    /// Whether an inode is remembered, and may be believed.
    pub fn knows(&self, ino: InodeId) -> bool {
        self.session.has_lease() && self.cache().knows(ino)
    }

    /// The whole listing of a directory.
    pub fn listing(&self, cx: Cx, dir: InodeId) -> Op<Arc<Listing>> {
        let found = self.known_or(|cache| cache.listing(dir), || self.fetch_listing(cx, dir))?;
        Ok(found.value)
    }

    fn fetch_listing(&self, cx: Cx, dir: InodeId) -> Op<Found<Arc<Listing>>> {
        let mut names = Vec::new();
        let mut after = None;
        let mut first_seq = None;
        loop {
            let query = Query::ReadDir { dir, after: after.take(), limit: LISTING_PAGE };
            let (seq, body) = self.session.ask(cx, query)?;
            let AnswerBody::Entries { dir: own, parent, entries, complete } = body else {
                return unexpected();
            };
            let mut cache = self.cache();
            cache.put_inode(seq, Inode { attr: own, content: sitefs_base::Content::Empty });
            for entry in entries {
                cache.put_name(
                    seq,
                    Place { parent: dir, name: entry.name.clone() },
                    Some(entry.inode.attr.ino),
                );
                names.push((entry.name.clone(), entry.inode.attr.ino, entry.inode.attr.kind));
                after = Some(entry.name);
                cache.put_inode(seq, entry.inode);
            }
            let oldest = *first_seq.get_or_insert(seq);
            if complete || after.is_none() {
                let listing = Arc::new(Listing::new(parent, names));
                // Pages are of different moments: remember the whole only if nothing moved meanwhile.
                if oldest == seq {
                    cache.put_listing(seq, dir, Arc::clone(&listing));
                }
                return Ok(Found { value: listing, current: cache.is_current(seq) });
            }
        }
    }

    /// Layout rows of a chunked file; of the version `cver` if it is gone.
    pub fn chunks(&self, cx: Cx, ino: InodeId, cver: Seq, first: u32, count: u32) -> Op<Vec<ChunkLayout>> {
        let count = count.min(u32::try_from(COMMIT_CHUNKS_MAX).unwrap_or(u32::MAX));
        let (_, body) = self.session.ask(cx, Query::Chunks { ino, cver: Some(cver), first, count })?;
        let AnswerBody::Chunks(chunks) = body else { return unexpected() };
        Ok(chunks)
    }

    /// All extended attributes.
    pub fn xattrs(&self, cx: Cx, ino: InodeId) -> Op<Xattrs> {
        let found = self.known_or(
            |cache| cache.xattrs(ino),
            || {
                let (seq, body) = self.session.ask(cx, Query::Xattrs { ino })?;
                let AnswerBody::Xattrs(xattrs) = body else { return unexpected() };
                let value = Arc::new(xattrs);
                let mut cache = self.cache();
                cache.put_xattrs(seq, ino, Arc::clone(&value));
                Ok(Found { value, current: cache.is_current(seq) })
            },
        )?;
        Ok(found.value)
    }

    /// Where blobs of an inode can be read.
    pub fn resolve(&self, cx: Cx, ino: InodeId, digests: Vec<Digest>) -> Op<Vec<Option<Location>>> {
        let (_, body) = self.session.ask(cx, Query::Resolve { ino, digests })?;
        let AnswerBody::Locations(locations) = body else { return unexpected() };
        Ok(locations)
    }

    /// Space and inodes, as last heard with a renewal.
    pub fn usage(&self) -> Usage {
        self.session.usage()
    }

    /// Reserves a name for an exclusive create.
    pub fn reserve(&self, cx: Cx, at: Place) -> Op<()> {
        match self.session.ask(cx, Query::Reserve { at })? {
            (_, AnswerBody::Reserved) => Ok(()),
            _ => unexpected(),
        }
    }

    /// A number for a new inode, from the session's range.
    pub fn new_number(&self, cx: Cx) -> Op<InodeId> {
        {
            let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((next, end)) = numbers.front_mut() {
                let number = *next;
                *next += 1;
                if *next == *end {
                    numbers.pop_front();
                }
                return Ok(InodeId::new(number));
            }
        }
        if cx == Cx::Fast {
            return Err(Stop::WouldBlock);
        }
        let outcome = self.mutate(op::Op::AllocInodes { count: INODE_RANGE }, METADATA_DEADLINE)?;
        let Extra::Inodes { first, count } = outcome.extra else { return unexpected() };
        let range = (first.get(), first.get() + u64::from(count));
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).push_back(range);
        self.new_number(Cx::Fast)
    }

    /// Numbers of another session are void.
    pub fn drop_numbers(&self) {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Executes a mutation and takes in the attributes that it changed.
    pub fn mutate(&self, op: op::Op, deadline: Duration) -> Result<Outcome, Errno> {
        let outcome = self.session.mutate(op, deadline)?;
        self.take_in(&outcome);
        Ok(outcome)
    }

    /// Executes a mutation like [`Self::mutate`], and tells a reply from the lack of one.
    pub fn send(&self, op: op::Op, deadline: Duration) -> Sent {
        let sent = self.session.send(op, deadline);
        if let Sent::Answered(Ok(outcome)) = &sent {
            self.take_in(outcome);
        }
        sent
    }

    /// Takes in the attributes that a mutation of this mount changed.
    pub fn take_in(&self, outcome: &Outcome) {
        let mut cache = self.cache();
        for attr in &outcome.attrs {
            cache.put_attr(outcome.seq, attr.clone());
        }
    }

    /// The path of an inode, as far as names are remembered: for people.
    pub fn path_of(&self, ino: InodeId) -> String {
        self.cache().path_of(ino)
    }

    /// Remembers the result of this mount's own mutation: a name leads to `ino`, or to nothing.
    pub fn name_changed(&self, seq: Seq, place: &Place, ino: Option<InodeId>) {
        let mut cache = self.cache();
        cache.put_own_name(seq, place.clone(), ino);
        cache.forget_listing(place.parent);
    }

    /// Remembers an inode that this mount knows whole.
    pub fn inode_changed(&self, seq: Seq, inode: Inode) {
        self.cache().put_inode(seq, inode);
    }

    /// Forgets a listing, because the directory moved.
    pub fn forget_listing(&self, dir: InodeId) {
        self.cache().forget_listing(dir);
    }

    /// Forgets an inode.
    pub fn forget_inode(&self, ino: InodeId) {
        self.cache().forget_inode(ino);
    }

    /// Forgets an inode's extended attributes, which this mount changed.
    pub fn forget_xattrs(&self, ino: InodeId) {
        self.cache().forget_xattrs(ino);
    }
}
