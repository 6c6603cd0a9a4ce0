//! Which opens the kernel serves by itself from a cached blob (DESIGN D25 and D26), and how what is changed
//! meanwhile reaches those who read there.
//!
//! - A file of one whole blob that is here, opened for reading while nobody has it open otherwise, is lent.
//! - Whoever comes with something else, to write or to read a newer version, gets another number (`faces`).
//! - Who writes to a version that is shown makes its file the working copy, so that it is seen at once.
//! - What another mount, or an append, adds at the end is added to the file that is shown; other changes by other
//!   mounts are seen by who opens, or gets a lock, afterwards.

use super::node::{Node, NodeState};
use super::{Access, Cx, Fs, Handle, Notice, Op, lock};
use crate::data::{Loan, Working};
use crate::meta::Stop;
use sitefs_base::{Content, Digest, Errno, Inode, InodeId, Seq};
use std::{fs::File, os::unix::fs::FileExt, sync::Arc, time::Duration};

/// Attempts to open while others open and close.
const ATTEMPTS: u32 = 8;
/// How long a number that was made for who cannot be lent anything stays his: the kernel takes one refusal only.
const KEPT_FREE: Duration = Duration::from_secs(1);
/// Bytes compared and copied at a time.
const PIECE: usize = 1 << 20;
/// Where the numbers begin that only the kernel and this mount know: no inode has one of them, and the cell need
/// not be asked for them, which gives none to who may only read.
const FACES: u64 = 1 << 62;

/// Whether a file that is shown may be given other bytes than more at its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Refresh {
    /// Only more at its end.
    Grow,
    /// Whatever it needs.
    Replace,
}

/// How a file is opened.
enum Way {
    /// Under this number, in the ordinary way.
    Ordinary,
    /// In passthrough on a file that was borrowed already.
    Lent(Arc<Loan>),
    /// In passthrough, if this blob can be borrowed.
    Ask(Digest, u64),
    /// Under a number that there is not yet, in place of the one that names lead to, `left`; nothing is lent
    /// there for a moment if `plain`.
    New { left: InodeId, plain: bool },
    /// Under the number that names lead to.
    Front,
}

/// The blob that is the whole file.
fn whole_blob(inode: &Inode) -> Option<(Digest, u64)> {
    let Content::Extents(extents) = &inode.content else { return None };
    let [extent] = &extents[..] else { return None };
    let is_whole = extent.offset == 0 && extent.blob_offset == 0 && u64::from(extent.len) == inode.attr.size;
    is_whole.then_some((extent.digest, inode.attr.size))
}

impl NodeState {
    /// Handles that the kernel serves with its own pages.
    fn ordinary(&self) -> u32 {
        self.handles.saturating_sub(self.faces.passed())
    }

    fn can_be_lent(&self) -> bool {
        let is_here = self.draft.is_none() && self.tail.is_none() && !self.needs_commit();
        is_here && !self.moving && !self.gone && self.kept.is_none()
    }

    /// Names lead to another number: what is known of the kernel's pages does not hold for it.
    fn turn_to(&mut self, ino: InodeId) {
        self.faces.turn_to(ino);
        self.page_cver = None;
    }

    /// The working copy is not needed any more. If it is shown, its file still is what it was at the end.
    pub(super) fn drop_draft(&mut self) {
        if let Some(draft) = self.draft.take()
            && let Some(loan) = &draft.loan
            && !draft.copy.is_changed()
        {
            self.faces.holds(loan, draft.cver);
        }
    }
}

impl Fs {
    /// Counts a handle of `access` under the number `ino` and decides how the kernel serves it; `None` if it
    /// has to be opened under another number. `inode` is what the cell has, if it knows the file.
    pub(super) fn begin_handle(
        &self,
        cx: Cx,
        node: &Arc<Node>,
        ino: InodeId,
        (inode, access): (Option<&Inode>, Access),
    ) -> Op<Option<(u64, Option<Arc<Loan>>)>> {
        let mut wanted = inode.filter(|inode| self.is_lendable(node, access, inode));
        for attempt in 1..=ATTEMPTS {
            if attempt == ATTEMPTS {
                // So much happens here that it is read as ever.
                wanted = None;
            }
            let mut state = node.state();
            let loan = match self.way(&mut state, ino, wanted) {
                Way::Ordinary => None,
                Way::Lent(loan) => Some(loan),
                Way::Ask(digest, len) => {
                    let owner = state.row;
                    drop(state);
                    match self.blobs.lend(cx, owner, digest, len)? {
                        None => wanted = None,
                        Some(loan) => match self.open_lent(node, ino, wanted, loan) {
                            None => {}
                            opened => return Ok(opened),
                        },
                    }
                    continue;
                }
                Way::New { left, plain } => {
                    drop(state);
                    self.begin_face(node, left, plain);
                    return self.elsewhere();
                }
                Way::Front => return self.elsewhere(),
            };
            if let (Some(loan), Some(inode)) = (&loan, inode) {
                state.faces.opened(ino, loan, inode.attr.cver);
                self.blobs.loans().opens.inc();
            }
            let fh = self.count_handle(&mut state, node, (ino, access), loan.clone());
            if access.writes() {
                // Under other numbers the kernel must not go on with the attributes from before.
                self.tell_others(&state);
            }
            return Ok(Some((fh, loan)));
        }
        Err(Errno::EIO.into())
    }

    fn elsewhere<T>(&self) -> Op<Option<T>> {
        self.blobs.loans().moved.inc();
        Ok(None)
    }

    fn is_lendable(&self, node: &Node, access: Access, inode: &Inode) -> bool {
        self.blobs.loans().are_on() && access == Access::Read && inode.attr.ino == node.ino
    }

    /// How a handle can be opened now; what is lent is borrowed by then.
    fn way(&self, state: &mut NodeState, ino: InodeId, wanted: Option<&Inode>) -> Way {
        let now = self.clock.boottime();
        let wanted = wanted.filter(|_| state.can_be_lent());
        let front = state.faces.front();
        let is_passed = state.faces.passed_under(ino) > 0;
        // What the kernel serves with its own pages is open under the front.
        let is_free = !state.faces.is_plain(ino, now) && (ino != front || state.ordinary() == 0);
        if let Some(inode) = wanted {
            let version = inode.attr.cver;
            let shown = if is_passed {
                // The kernel takes nothing but the same file under this number.
                state.faces.shown_under(ino, version)
            } else {
                state.faces.shown_at(version).filter(|_| is_free)
            };
            if let Some(loan) = shown.filter(|loan| self.blobs.loans().borrow_again(loan, state.row)) {
                return Way::Lent(loan);
            }
        }
        if state.faces.passed_under(front) > 0 {
            return Way::New { left: front, plain: wanted.is_none() };
        }
        if ino != front {
            // Who was told to look the name up again, and has done so, must find the front as it was: the kernel
            // does not do it twice.
            let is_awaited = state.faces.is_plain(front, now) || state.faces.is_known(front);
            if is_awaited || is_passed || state.ordinary() > 0 || state.is_ahead() {
                if wanted.is_none() {
                    state.faces.keep_plain(front, now + KEPT_FREE);
                }
                return Way::Front;
            }
            state.turn_to(ino);
        }
        let Some(inode) = wanted.filter(|_| is_free) else { return Way::Ordinary };
        whole_blob(inode).map_or(Way::Ordinary, |(digest, len)| Way::Ask(digest, len))
    }

    /// Opens on a file that was borrowed while the node was not locked, if that is still right.
    #[allow(clippy::type_complexity, reason = "what begin_handle gives")]
    fn open_lent(
        &self,
        node: &Arc<Node>,
        ino: InodeId,
        wanted: Option<&Inode>,
        loan: Arc<Loan>,
    ) -> Option<(u64, Option<Arc<Loan>>)> {
        let mut state = node.state();
        let way = self.way(&mut state, ino, wanted);
        let (Way::Ask(..), Some(inode)) = (&way, wanted) else {
            drop(state);
            if let Way::Lent(other) = &way {
                self.blobs.loans().give_back(other);
            }
            self.blobs.loans().give_back(&loan);
            return None;
        };
        state.faces.opened(ino, &loan, inode.attr.cver);
        self.blobs.loans().opens.inc();
        let fh = self.count_handle(&mut state, node, (ino, Access::Read), Some(Arc::clone(&loan)));
        Some((fh, Some(loan)))
    }

    /// Makes a number that names lead to from now on, if `left` still is the one and has to be left.
    fn begin_face(&self, node: &Arc<Node>, left: InodeId, plain: bool) {
        let number = InodeId::new(FACES | self.new_handle());
        let mut nodes = lock(&self.nodes);
        let mut state = node.state();
        if state.faces.front() == left && state.faces.passed_under(left) > 0 {
            state.faces.begin(number, plain.then(|| self.clock.boottime() + KEPT_FREE));
            state.turn_to(number);
            nodes.insert(number, Arc::clone(node));
            // From now on the kernel keeps no attributes.
            self.tell_others(&state);
        }
    }

    /// A handle that is gone was open in passthrough.
    pub(super) fn end_lent(&self, handle: &Handle) {
        if let Some(loan) = &handle.loan {
            self.blobs.loans().give_back(loan);
        }
    }

    /// Tells the kernel that attributes changed, under each number.
    pub(super) fn tell_attributes(&self, node: &Node) {
        let numbers: Vec<InodeId> = node.state().faces.numbers().collect();
        numbers.into_iter().for_each(|ino| self.notices.send(Notice::Attr(ino)));
    }

    /// The same for a change that the kernel has made itself, under the number that names lead to.
    pub(super) fn tell_others(&self, state: &NodeState) {
        if state.faces.are_many() {
            state.faces.numbers().for_each(|ino| self.notices.send(Notice::Attr(ino)));
        }
    }

    /// Whether anybody reads a file of this node past the daemon.
    pub(super) fn is_shown(&self, node: &Node) -> bool {
        let shown = node.state().faces.shown();
        shown.iter().any(|(loan, _)| self.blobs.loans().is_used(loan, node.ino))
    }

    /// The file that is shown and holds this version, if anybody uses it.
    fn used_at(&self, node: &Node, version: Seq) -> Option<Arc<Loan>> {
        let loan = node.state().faces.shown_at(version)?;
        if self.blobs.loans().is_used(&loan, node.ino) {
            return Some(loan);
        }
        node.state().faces.is_unused(&loan);
        None
    }

    /// A working copy of the cell's version: of the file that is shown, if there is one.
    pub(super) fn copy_of(&self, cx: Cx, node: &Node, inode: &Inode) -> Op<(Working, Option<Arc<Loan>>)> {
        let size = inode.attr.size;
        if let Some(loan) = self.used_at(node, inode.attr.cver) {
            if let Some(file) = self.take_shown(cx, node, &loan)? {
                return Ok((Working::in_file(&self.work_dir, file, size), Some(loan)));
            }
            node.state().faces.is_unused(&loan);
        }
        Ok((Working::of_existing(&self.work_dir, size), None))
    }

    /// A file that is shown, to be written to; nothing, if it shows another inode by now.
    fn take_shown(&self, cx: Cx, node: &Node, loan: &Arc<Loan>) -> Op<Option<File>> {
        if cx == Cx::Fast {
            return Err(Stop::WouldBlock);
        }
        self.blobs.take(loan, node.ino).map_err(|error| {
            tracing::error!(error = error.chain(), "a file that is open for reading cannot be written to");
            Errno::EIO.into()
        })
    }

    /// Lets those who read past the daemon see what was added at the end.
    pub(super) fn show_growth(&self, node: &Arc<Node>) {
        self.refresh(node, Refresh::Grow);
    }

    /// Lets all who have an inode open see what it holds now: one of them has got a lock.
    pub fn show_newest(&self, row: InodeId) {
        for ino in self.nodes_of(row) {
            if let Some(node) = self.known_node(ino).filter(|node| node.state().faces.are_old) {
                self.refresh(&node, Refresh::Replace);
            }
        }
    }

    /// Lets those who read see what other mounts added, and takes back what nobody uses.
    pub(super) fn look_after_shown(&self) {
        self.blobs.loans().look_after();
        if !self.cell_is_there() {
            return;
        }
        let is_old = |node: &Node| {
            let state = node.state();
            state.faces.are_old && state.faces.passed() > 0 && state.draft.is_none()
        };
        self.waiting_nodes(is_old).iter().for_each(|node| self.show_growth(node));
    }

    fn refresh(&self, node: &Arc<Node>, how: Refresh) {
        {
            // Who shows nothing waits for no commit.
            let mut state = node.state();
            if state.faces.shown().is_empty() {
                state.faces.are_old = false;
                return;
            }
        }
        let _alone = lock(&node.committing);
        let shown = {
            let mut state = node.state();
            // What is shown is looked after when the working copy is gone.
            state.faces.are_old = state.draft.is_some();
            state.faces.shown()
        };
        let Ok((inode, _)) = self.inode_of(Cx::Slow, node) else {
            node.state().faces.are_old = true;
            return;
        };
        for (loan, version) in shown {
            let is_older = version != Some(inode.attr.cver) && node.state().draft.is_none();
            let is_known = version.is_some() || how == Refresh::Replace;
            if is_older && is_known && self.blobs.loans().is_used(&loan, node.ino) {
                let done = self.bring_up(node, &inode, &loan, how);
                node.state().faces.holds(&loan, done.is_ok_and(|done| done).then_some(inode.attr.cver));
            }
        }
    }

    /// Brings a file that is shown to the content of `inode`; false if it would need more than it may get.
    fn bring_up(&self, node: &Node, inode: &Inode, loan: &Arc<Loan>, how: Refresh) -> Op<bool> {
        let failed = |error: std::io::Error| {
            tracing::warn!(ino = %node.ino, %error, "a file that is open for reading cannot be brought up to date");
            Stop::Errno(Errno::EIO)
        };
        let had = rustix::fs::fstat(loan.blob()).map_err(|error| failed(error.into()))?.st_size;
        let (had, size) = (u64::try_from(had).unwrap_or(0), inode.attr.size);
        if how == Refresh::Grow && size < had {
            return Ok(false);
        }
        // It leaves the cache only if it has to be written to.
        let mut file = None;
        let mut at = 0;
        while at < size {
            let new = self.read_row(Cx::Slow, node, inode, at, PIECE)?;
            if new.is_empty() {
                break;
            }
            let known = usize::try_from(had.saturating_sub(at)).unwrap_or(usize::MAX).min(new.len());
            let mut old = vec![0; known];
            let read = rustix::io::pread(loan.blob(), &mut old, at).map_err(|error| failed(error.into()))?;
            let differs = read < known || old != new[..known];
            if differs && how == Refresh::Grow {
                return Ok(false);
            }
            if differs || known < new.len() {
                let from = if differs { 0 } else { known };
                let file = self.taken(&mut file, node, loan)?;
                file.write_all_at(&new[from..], at + from as u64).map_err(failed)?;
            }
            at += new.len() as u64;
        }
        if size < had {
            self.taken(&mut file, node, loan)?.set_len(size).map_err(failed)?;
        }
        Ok(true)
    }

    fn taken<'f>(&self, file: &'f mut Option<File>, node: &Node, loan: &Arc<Loan>) -> Op<&'f File> {
        if file.is_none() {
            *file = self.take_shown(Cx::Slow, node, loan)?;
        }
        file.as_ref().ok_or_else(|| Errno::EIO.into())
    }
}
