//! Requests of the kernel that are under way, and the changes that cross them (DESIGN D22 to D24).
//!
//! A reply that was worked out before a change and reaches the kernel behind the notice of it would be
//! believed for an hour. So every request notes how many changes there were when it began. What crossed
//! it since is given without a lifetime. What comes in the moment between that look and the kernel
//! having the reply is taken back once more, a little after the reply.

use super::attrs::{Lifetime, View};
use super::dirs::DirItem;
use super::feed::{Notice, Notices};
use super::handed::Handed;
use crate::meta::Session;
use sitefs_base::op::{Change, Place, RenameMode};
use sitefs_base::{Clock, InodeId, Name};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long the kernel may keep what the feed takes back: bounded, in case a notice is ever lost.
pub const KEEP: Duration = Duration::from_secs(3600);
/// Changes that are remembered. A request that more of them cross counts as crossed by everything.
const RECENT_MAX: usize = 4096;

/// Something that was changed by another mount while requests were under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Crossed {
    /// What a name leads to.
    Name(Place),
    /// The attributes of a node.
    Inode(InodeId),
    /// All of it.
    Everything,
}

/// What the requests in a directory do that have not been answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Traffic {
    /// There are none.
    None,
    /// They look: their answers wait for nothing but the cell.
    Looks,
    /// Some change names: their answers may wait for this mount to acknowledge something.
    Changes,
}

/// A request that holds a directory's lock in the kernel.
#[derive(Clone, Copy, Debug)]
struct Flying {
    number: u64,
    changes: bool,
}

#[derive(Default)]
struct Table {
    /// Changes so far; the last of them are in `recent`.
    changes: u64,
    recent: VecDeque<Crossed>,
    next: u64,
    dirs: HashMap<InodeId, Vec<Flying>>,
    handed: Handed,
}

impl Table {
    fn crossed(&mut self, change: Crossed) {
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(change);
        self.changes += 1;
    }

    /// The changes behind a position; `None` if they are not all remembered.
    fn since(&self, position: u64) -> Option<impl Iterator<Item = &Crossed>> {
        let count = usize::try_from(self.changes - position).ok()?;
        let skipped = self.recent.len().checked_sub(count)?;
        Some(self.recent.iter().skip(skipped))
    }

    fn is_crossed(&self, position: u64, touches: impl Fn(&Crossed) -> bool) -> bool {
        let touches = |change: &Crossed| *change == Crossed::Everything || touches(change);
        self.since(position).is_none_or(|mut since| since.any(touches))
    }
}

/// The requests under way on a mount, and the names that the kernel was given.
pub struct Flights {
    table: Mutex<Table>,
    session: Arc<Session>,
    clock: Arc<dyn Clock>,
    notices: Notices,
}

/// How long the kernel may keep the parts of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lasting {
    /// What the name leads to.
    pub entry: Lifetime,
    /// The attributes.
    pub attr: Lifetime,
}

impl Lasting {
    const NONE: Self = Self { entry: Lifetime::None, attr: Lifetime::None };

    /// The shorter one, for replies that have only one for both.
    pub fn both(self) -> Lifetime {
        if self.entry == Lifetime::None { self.entry } else { self.attr }
    }
}

impl Flights {
    /// Nothing under way.
    pub(super) fn new(session: Arc<Session>, clock: Arc<dyn Clock>, notices: Notices) -> Self {
        Self { table: Mutex::default(), session, clock, notices }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lookup or listing in a directory begins.
    pub fn look(self: &Arc<Self>, dir: InodeId) -> Flight {
        self.begin([Some(dir), None], false)
    }

    /// A change of names in a directory begins.
    pub fn change(self: &Arc<Self>, dir: InodeId) -> Flight {
        self.begin([Some(dir), None], true)
    }

    /// A change of names in two directories begins.
    pub fn change_both(self: &Arc<Self>, from: InodeId, to: InodeId) -> Flight {
        self.begin([Some(from), Some(to).filter(|to| *to != from)], true)
    }

    /// A request about the attributes of an inode begins.
    pub fn attributes(self: &Arc<Self>) -> Flight {
        self.begin([None, None], false)
    }

    fn begin(self: &Arc<Self>, dirs: [Option<InodeId>; 2], changes: bool) -> Flight {
        let mut table = self.table();
        let number = table.next;
        table.next += 1;
        for dir in dirs.into_iter().flatten() {
            table.dirs.entry(dir).or_default().push(Flying { number, changes });
        }
        let began = table.changes;
        drop(table);
        Flight { flights: Arc::clone(self), number, began, dirs, decided: None }
    }

    /// Notes changes by another mount. Called when the memory of this mount has taken them in: what begins
    /// behind this is answered rightly.
    pub(super) fn crossed(&self, changes: impl IntoIterator<Item = Crossed>) {
        let mut table = self.table();
        changes.into_iter().for_each(|change| table.crossed(change));
    }

    /// Whether the kernel may keep anything of a name.
    fn is_sure_of(&self, place: &Place) -> bool {
        let doubted = |change: &Change| matches!(change, Change::Name(changed) if changed == place);
        self.session.has_lease() && !self.session.is_in_doubt(doubted)
    }

    /// Whether the kernel may keep attributes.
    fn is_sure_of_inode(&self, view: &View) -> bool {
        let doubted = |change: &Change| match change {
            Change::Name(_) => false,
            Change::Attr(ino) | Change::Content(ino) | Change::Xattr(ino) => *ino == view.attr.ino,
        };
        self.session.has_lease() && !self.session.is_in_doubt(doubted)
    }

    /// The requests in a directory now, and a number for [`Self::has_landed`].
    pub fn traffic(&self, dir: InodeId) -> (Traffic, u64) {
        let table = self.table();
        let traffic = match table.dirs.get(&dir) {
            None => Traffic::None,
            Some(flying) if flying.iter().any(|one| one.changes) => Traffic::Changes,
            Some(_) => Traffic::Looks,
        };
        (traffic, table.next)
    }

    /// Whether all requests in a directory that began before `number` was given have been answered.
    pub fn has_landed(&self, dir: InodeId, number: u64) -> bool {
        let table = self.table();
        table.dirs.get(&dir).is_none_or(|flying| flying.iter().all(|one| one.number >= number))
    }

    /// Gives every name that the kernel was told of, and forgets them.
    pub(super) fn take_handed(&self) -> Vec<Place> {
        self.table().handed.take_all()
    }

    /// Makes room in the table of names if it is getting full; `nodes` are those that the kernel knows.
    pub(super) fn reclaim(&self, nodes: impl FnOnce() -> HashSet<InodeId>) {
        let now = self.clock.boottime();
        if self.table().handed.is_due(now) {
            let nodes = nodes();
            self.table().handed.reclaim(now, |ino| nodes.contains(&ino));
        }
    }
}

/// A request under way. It lands when it is dropped, which is to be after its reply was written.
pub struct Flight {
    flights: Arc<Flights>,
    number: u64,
    began: u64,
    dirs: [Option<InodeId>; 2],
    /// The changes that there were when something was first given with a lifetime.
    decided: Option<u64>,
}

impl Flight {
    /// How long the kernel may keep that `place` leads to `view`; `entry` says how long as far as the
    /// answer itself is concerned.
    pub fn entry(&mut self, place: &Place, view: &View, entry: Lifetime) -> Lasting {
        if !self.flights.is_sure_of(place) {
            return Lasting::NONE;
        }
        let sure = self.flights.is_sure_of_inode(view);
        let until = self.flights.clock.boottime() + KEEP;
        let mut table = self.flights.table();
        let crossed = table.is_crossed(self.began, |change| names(change, place));
        if crossed || entry == Lifetime::None || !table.handed.add(place, Some(view.node), until) {
            return Lasting::NONE;
        }
        // Entries have one number for the node and for what programs see: the right one comes with attributes.
        let sure = sure && view.node == view.attr.ino;
        let sure = sure && !table.is_crossed(self.began, |change| is_of(change, view));
        self.decided.get_or_insert(table.changes);
        Lasting { entry, attr: if sure { view.lifetime } else { Lifetime::None } }
    }

    /// How long the kernel may keep an entry of a listing of `dir`, with its inode if it has one.
    pub fn listed(&mut self, dir: InodeId, item: &DirItem<'_>) -> Lifetime {
        match (&item.view, Name::new(item.name)) {
            (Some(view), Ok(name)) => {
                self.entry(&Place { parent: dir, name }, view, Lifetime::UntilChanged).both()
            }
            _ => Lifetime::None,
        }
    }

    /// How long the kernel may keep that there is no `place`.
    pub fn absent(&mut self, place: &Place, lifetime: Lifetime) -> Lifetime {
        if lifetime == Lifetime::None || !self.flights.is_sure_of(place) {
            return Lifetime::None;
        }
        let until = self.flights.clock.boottime() + KEEP;
        let mut table = self.flights.table();
        let crossed = table.is_crossed(self.began, |change| names(change, place));
        if crossed || !table.handed.add(place, None, until) {
            return Lifetime::None;
        }
        self.decided.get_or_insert(table.changes);
        lifetime
    }

    /// How long the kernel may keep attributes.
    pub fn attr(&mut self, view: &View) -> Lifetime {
        if view.lifetime == Lifetime::None || !self.flights.is_sure_of_inode(view) {
            return Lifetime::None;
        }
        let table = self.flights.table();
        if table.is_crossed(self.began, |change| is_of(change, view)) {
            return Lifetime::None;
        }
        self.decided.get_or_insert(table.changes);
        view.lifetime
    }

    /// The request moved a name, and the kernel moves with it what it believes.
    pub fn renamed(&mut self, from: &Place, to: &Place, mode: RenameMode) {
        self.decided = Some(self.began);
        let until = self.flights.clock.boottime() + KEEP;
        let mut table = self.flights.table();
        let kept = match mode {
            RenameMode::Exchange => table.handed.add(from, None, until) & table.handed.add(to, None, until),
            RenameMode::Replace | RenameMode::NoReplace => {
                table.handed.remove(from);
                table.handed.add(to, None, until)
            }
        };
        drop(table);
        if !kept || !self.flights.session.has_lease() {
            // Nobody would take it back: it is taken back now.
            for place in [from, to] {
                self.flights.notices.send(Notice::Again(Crossed::Name(place.clone())));
            }
        }
    }

    /// The request removed a name; the kernel believes nothing of it any more.
    pub fn removed(&mut self, place: &Place) {
        self.flights.table().handed.remove(place);
    }

    /// What came between the decision and the kernel having the reply.
    fn land(&self, table: &mut Table) -> Vec<Crossed> {
        for dir in self.dirs.into_iter().flatten() {
            if let Some(flying) = table.dirs.get_mut(&dir) {
                flying.retain(|one| one.number != self.number);
                if flying.is_empty() {
                    table.dirs.remove(&dir);
                }
            }
        }
        let Some(decided) = self.decided else { return Vec::new() };
        let Some(since) = table.since(decided) else { return vec![Crossed::Everything] };
        let here = |change: &&Crossed| match change {
            Crossed::Name(place) => self.dirs.contains(&Some(place.parent)),
            Crossed::Inode(_) | Crossed::Everything => true,
        };
        since.filter(here).cloned().collect()
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let again = self.land(&mut self.flights.table());
        for change in again {
            self.flights.notices.send(Notice::Again(change));
        }
    }
}

fn names(change: &Crossed, place: &Place) -> bool {
    matches!(change, Crossed::Name(changed) if changed == place)
}

fn is_of(change: &Crossed, view: &View) -> bool {
    matches!(change, Crossed::Inode(ino) if [view.node, view.attr.ino].contains(ino))
}

#[cfg(test)]
mod tests;
