//! What the mount knows of an inode beside the cell's row: lookups, open handles, changes that are
//! not committed yet.

use super::merge::Starts;
use super::tail::Tail;
use crate::data::{LayoutView, Working};
use crate::meta::{Claim, OpKey, Xattrs};
use sitefs_base::op::{Create, Credit, Place, SetAttr, SetTime};
use sitefs_base::{Attr, FileKind, Inode, InodeId, Seq, Time};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How soon something that failed is tried again; twice as long each time.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The longest time between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(10);
const RETRY_DOUBLINGS: u32 = 4;

/// An inode that the kernel knows, or that has open handles.
#[derive(Debug)]
pub struct Node {
    /// Its number at the kernel.
    pub ino: InodeId,
    /// Held by whoever commits, so that commits of one file do not overlap. May be held while
    /// waiting for the cell; never taken by the session's task.
    pub committing: Mutex<()>,
    /// Layout rows that reads needed. May be held while waiting for the cell.
    pub layout: Mutex<LayoutView>,
    state: Mutex<NodeState>,
}

impl Node {
    /// A node nobody has looked up.
    pub fn new(ino: InodeId) -> Self {
        let state = NodeState {
            row: ino,
            lookups: 0,
            handles: 0,
            writers: 0,
            appenders: 0,
            tail: None,
            last: None,
            gone: false,
            unpublished: None,
            draft: None,
            set: SetAttr::default(),
            sending: None,
            commits: 0,
            unsure: None,
            kept: None,
            changes: 0,
            written: None,
            changed: None,
            claim: None,
            retry_at: Duration::ZERO,
            failures: 0,
            page_cver: None,
            moving: false,
            own_mtime: None,
            xattrs: None,
            pages_are_old: false,
        };
        Self { ino, committing: Mutex::new(()), layout: Mutex::default(), state: Mutex::new(state) }
    }

    /// The changing part; held for moments only, never while waiting.
    pub fn state(&self) -> MutexGuard<'_, NodeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The changing part of a node.
#[derive(Debug)]
pub struct NodeState {
    /// The inode at the cell: another than the node's number if two mounts created one name.
    pub row: InodeId,
    /// References that the kernel holds.
    pub lookups: u64,
    /// Open handles.
    pub handles: u32,
    /// Handles that can write.
    pub writers: u32,
    /// Those of them that can only append.
    pub appenders: u32,
    /// What append handles wrote and the cell does not have yet.
    pub tail: Option<Tail>,
    /// The row as last seen while handles were open: what is read after the last name is gone.
    pub last: Option<Inode>,
    /// The inode has no names any more.
    pub gone: bool,
    /// Created here, and the cell does not know it yet.
    pub unpublished: Option<Unpublished>,
    /// The working copy.
    pub draft: Option<Draft>,
    /// Changes of attributes that ride in the next commit.
    pub set: SetAttr,
    /// What a commit that is on its way carries: until its reply it is neither waiting nor at the cell.
    pub sending: Option<Sending>,
    /// Commits and appends that have ended: their changes are in the cell's row since.
    pub commits: u64,
    /// A commit whose outcome is not known. Another is sent only when it is.
    pub unsure: Option<Unsure>,
    /// The journal has what is not committed.
    pub kept: Option<Kept>,
    /// Counts the changes that are made here.
    pub changes: u64,
    /// When content last changed here, if that is not committed.
    pub written: Option<Time>,
    /// When anything last changed here, if that is not committed.
    pub changed: Option<Time>,
    /// The credit for what is not committed.
    pub claim: Option<Claim>,
    /// CLOCK_BOOTTIME before which what failed is not tried again, unless somebody waits for it.
    pub retry_at: Duration,
    /// How often it failed since it last succeeded.
    pub failures: u32,
    /// The content version that fills the kernel's pages, if they hold one version.
    pub page_cver: Option<Seq>,
    /// The cell is changing the content itself. Who wants to do so here waits for the commit lock first.
    pub moving: bool,
    /// The mtime that a program set since the last write that was more than the kernel's pages.
    pub own_mtime: Option<SetTime>,
    /// The extended attributes that a file had when its last name went.
    pub xattrs: Option<Xattrs>,
    /// The kernel may have pages from before another mount's change; who gets a lock must not see them.
    pub pages_are_old: bool,
}

/// Changes that are on their way to the cell.
#[derive(Clone, Debug)]
pub struct Sending {
    /// Whether content is among them: then length and bytes are those of the working copy.
    pub content: bool,
    /// Changes of attributes.
    pub set: SetAttr,
    /// When content changed.
    pub written: Option<Time>,
    /// When anything changed.
    pub changed: Option<Time>,
    /// By how many bytes the content may make the file larger at the cell.
    pub growth: u64,
    /// The bytes that the file took at the cell before.
    pub allocated: u64,
}

/// A commit that was sent and not answered in time.
#[derive(Clone, Copy, Debug)]
pub struct Unsure {
    /// The operation.
    pub key: OpKey,
    /// Whether it carried the file's first name.
    pub publishes: bool,
    /// Whether it carried content.
    pub content: bool,
    /// Whether it carried all that there was to commit.
    pub all: bool,
    /// The node's count of changes then.
    pub changes: u64,
}

/// What the journal has of a file.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// The number of the record.
    pub record: u64,
    /// The node's count of changes then: what came after is not in it.
    pub changes: u64,
    /// An operation that the record names. The cell keeps its receipt until the record is gone.
    pub held: Option<OpKey>,
    /// The appends of the record that the cell may not have: the first pieces of the tail.
    pub appends: u32,
    /// Those that it has.
    pub landed: u32,
    /// Whether the record holds nothing but appends.
    pub only_appends: bool,
}

/// A file that only this mount knows.
#[derive(Clone, Debug)]
pub struct Unpublished {
    /// The name that it will have.
    pub place: Place,
    /// Its owner and mode.
    pub create: Create,
    /// Whether the name is reserved for it at the cell.
    pub exclusive: bool,
    /// Whether a commit of it was sent of which the cell never told what became of it.
    pub sent: bool,
    /// CLOCK_BOOTTIME of its creation.
    pub since: Duration,
    /// Its attributes as far as they are known.
    pub attr: Attr,
}

/// A working copy and the version that it began from.
#[derive(Debug)]
pub struct Draft {
    /// The local content.
    pub copy: Working,
    /// Where chunks that are not local come from.
    pub base: Option<Inode>,
    /// The content version at the cell that this copy began from, or made; none if the cell has none.
    pub cver: Option<Seq>,
    /// The bytes that the file takes at the cell; fewer if that is not known.
    pub allocated: u64,
    /// CLOCK_BOOTTIME of the first change that is not committed.
    pub dirty_since: Option<Duration>,
    /// Whether a handle of this mount created or emptied the file: then it is not shown half done.
    pub whole: bool,
    /// Whether a handle appends: then others see it every second.
    pub append: bool,
    /// If nothing but appends waits for a commit: where they begin.
    pub appended: Option<Starts>,
}

impl Draft {
    /// A working copy that nobody has changed yet.
    pub fn new(copy: Working, base: Option<Inode>, whole: bool) -> Self {
        let allocated = base.as_ref().map_or(0, |base| base.attr.allocated);
        let cver = base.as_ref().map(|base| base.attr.cver);
        Self { copy, base, cver, allocated, dirty_since: None, whole, append: false, appended: None }
    }
}

impl NodeState {
    /// Whether attributes here differ from the cell's row, or may soon.
    pub fn is_ahead(&self) -> bool {
        self.tail.is_some() || self.needs_commit()
    }

    /// Whether a commit is under way, or would carry something.
    pub fn needs_commit(&self) -> bool {
        self.unpublished.is_some() || self.sending.is_some() || !self.set.is_empty() || self.is_dirty()
    }

    /// The credit that is in use for this file, and would be if its content grew the file by `growth`
    /// bytes at the cell. A file without names costs nothing: the cell drops what is committed to it.
    pub fn needed(&self, growth: u64) -> Credit {
        if self.gone {
            return Credit::NONE;
        }
        let sending = self.sending.as_ref().map_or(0, |sending| sending.growth);
        let tail = self.tail.as_ref().map_or(0, |tail| tail.len() as u64);
        let bytes = growth.saturating_add(sending).saturating_add(tail);
        Credit { bytes, inodes: u64::from(self.unpublished.is_some()) }
    }

    /// Gives back the credit that is not needed any more.
    pub fn recount(&mut self) {
        let growth = self.draft.as_ref().map_or(0, |draft| draft.copy.growth(draft.allocated));
        let needed = self.needed(growth);
        if let Some(claim) = &mut self.claim {
            claim.set(needed);
        }
    }

    /// Whether the journal has everything that is not committed.
    pub fn is_kept(&self) -> bool {
        self.kept.is_some_and(|kept| kept.changes == self.changes)
    }

    /// Whether content here is newer than the cell's.
    pub fn is_dirty(&self) -> bool {
        self.draft.as_ref().is_some_and(|draft| draft.copy.is_changed())
    }

    /// `attr` with the changes that are not committed.
    pub fn view(&self, mut attr: Attr) -> Attr {
        attr.ino = self.row;
        if let Some(draft) = &self.draft
            && (draft.copy.is_changed() || self.sending.as_ref().is_some_and(|sending| sending.content))
        {
            attr.size = draft.copy.size();
            attr.allocated = attr.size;
        }
        if let Some(tail) = &self.tail {
            attr.size = attr.size.max(tail.promised);
            let written = tail.written().unwrap_or(attr.mtime);
            attr.mtime = attr.mtime.max(written);
            attr.ctime = attr.ctime.max(written);
            attr.mode = if tail.kills_setid() { without_setid(attr.mode) } else { attr.mode };
        }
        if let Some(sending) = &self.sending {
            show(&mut attr, &sending.set, sending.written, sending.changed);
        }
        show(&mut attr, &self.set, self.written, self.changed);
        if self.gone {
            attr.nlink = 0;
        }
        attr
    }

    /// The row as somebody just saw it, unless a newer one is known.
    pub fn saw(&mut self, inode: Inode) {
        if self.last.as_ref().is_none_or(|last| last.attr.cver <= inode.attr.cver) {
            self.last = Some(inode);
        }
    }

    /// Something did not reach the cell: it is tried again later and later, but never given up.
    pub fn failed(&mut self, now: Duration) {
        let wait = RETRY_AFTER.saturating_mul(1 << self.failures.min(RETRY_DOUBLINGS));
        self.retry_at = now + wait.min(RETRY_MAX);
        self.failures = self.failures.saturating_add(1);
    }

    /// Something reached the cell.
    pub fn succeeded(&mut self) {
        (self.retry_at, self.failures) = (Duration::ZERO, 0);
    }

    /// Content changed at `now`.
    pub fn wrote(&mut self, now: Time) {
        self.written = Some(now);
        self.changed = Some(now);
        self.changes += 1;
    }

    /// Set-id bits go, also those of a mode that waits.
    pub fn kill_setid(&mut self) {
        self.changes += 1;
        self.clear_setid();
    }

    fn clear_setid(&mut self) {
        self.set.mode = self.set.mode.map(without_setid);
        self.set.kill_setid = true;
    }

    /// Adds changes of attributes to those that wait.
    pub fn merge(&mut self, set: &SetAttr) {
        self.changes += 1;
        self.put_over(set);
    }

    /// [`Self::merge`] for changes that were counted when they were made.
    pub fn put_over(&mut self, set: &SetAttr) {
        if set.kill_setid {
            self.clear_setid();
        }
        let waiting = &mut self.set;
        waiting.mode = set.mode.or(waiting.mode);
        waiting.uid = set.uid.or(waiting.uid);
        waiting.gid = set.gid.or(waiting.gid);
        waiting.atime = set.atime.or(waiting.atime);
        waiting.mtime = set.mtime.or(waiting.mtime);
        if set.mtime.is_some() {
            self.written = None;
        }
    }
}

fn show(attr: &mut Attr, set: &SetAttr, written: Option<Time>, changed: Option<Time>) {
    attr.mtime = written.unwrap_or(attr.mtime);
    attr.ctime = attr.ctime.max(changed.unwrap_or(attr.ctime));
    let now = attr.ctime;
    apply(attr, set, now);
}

/// Applies `set` to `attr` as the cell will: for views of what is not committed.
fn apply(attr: &mut Attr, set: &SetAttr, now: Time) {
    let is_file = attr.kind != FileKind::Directory;
    if let Some(mode) = set.mode {
        attr.mode = mode;
    }
    if set.mode.is_none() && is_file && (set.kill_setid || set.uid.is_some() || set.gid.is_some()) {
        attr.mode = without_setid(attr.mode);
    }
    attr.uid = set.uid.unwrap_or(attr.uid);
    attr.gid = set.gid.unwrap_or(attr.gid);
    let time = |set: Option<SetTime>, old: Time| match set {
        None => old,
        Some(SetTime::Now) => now,
        Some(SetTime::At(time) | SetTime::Written(time)) => time,
    };
    attr.atime = time(set.atime, attr.atime);
    attr.mtime = time(set.mtime, attr.mtime);
}

/// A mode without set-user-id, and without set-group-id where that means execution.
pub fn without_setid(mode: u16) -> u16 {
    let group = if mode & 0o010 != 0 { 0o2000 } else { 0 };
    mode & !(0o4000 | group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_id_bits_that_wait_go_with_a_later_write() {
        let node = Node::new(InodeId::new(5));
        let mut state = node.state();
        state.merge(&SetAttr { mode: Some(0o6755), ..SetAttr::default() });
        state.kill_setid();
        assert_eq!(state.set.mode, Some(0o755));
        state.merge(&SetAttr { mode: Some(0o4711), ..SetAttr::default() });
        assert_eq!(state.set.mode, Some(0o4711), "a later chmod counts");
    }
}
