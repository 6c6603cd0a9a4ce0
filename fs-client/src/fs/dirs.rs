//! Directories: listings that stay whole while the directory changes.

use super::attrs::View;
use super::{Cx, Fs, Op, lock};
use crate::meta::{Listing, Stop};
use sitefs_base::limits::LISTING_PAGE;
use sitefs_base::{Errno, FileKind, InodeId};
use std::sync::{Arc, Mutex};

/// An open directory: its listing as it was when it was read from the beginning.
#[derive(Debug)]
pub(super) struct DirHandle {
    ino: InodeId,
    listing: Mutex<Option<Arc<Listing>>>,
}

/// An entry for the kernel.
#[derive(Debug)]
pub struct DirItem<'a> {
    /// The number that programs see.
    pub ino: InodeId,
    /// Where the listing goes on behind this entry.
    pub cookie: u64,
    /// Its kind.
    pub kind: FileKind,
    /// Its name.
    pub name: &'a [u8],
    /// The inode, if it is known here; never for `.` and `..`.
    pub view: Option<View>,
}

const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

impl Fs {
    /// Opens a directory.
    pub fn opendir(&self, ino: InodeId) -> u64 {
        let fh = self.new_handle();
        lock(&self.dirs).insert(fh, Arc::new(DirHandle { ino, listing: Mutex::new(None) }));
        fh
    }

    /// Closes a directory.
    pub fn releasedir(&self, fh: u64) {
        lock(&self.dirs).remove(&fh);
    }

    /// Gives the entries behind `cookie` (0: from the beginning, read anew) to `add` until it says
    /// that there is no more room. `plus` says that it wants the inodes too; for each one that
    /// it takes the kernel holds a reference.
    pub fn readdir(
        &self,
        cx: Cx,
        fh: u64,
        cookie: u64,
        plus: bool,
        add: &mut dyn FnMut(&DirItem<'_>) -> bool,
    ) -> Op<()> {
        let dir = lock(&self.dirs).get(&fh).cloned().ok_or(Errno::EBADF)?;
        let known = lock(&dir.listing).clone().filter(|_| cookie != 0);
        let listing = match known {
            Some(listing) => listing,
            None => {
                let listing = self.listing(cx, dir.ino)?;
                *lock(&dir.listing) = Some(Arc::clone(&listing));
                listing
            }
        };
        let dots = [(DOT, dir.ino, &b"."[..]), (DOT_DOT, listing.parent, &b".."[..])];
        for (own, ino, name) in dots.into_iter().filter(|(own, ..)| *own > cookie) {
            if !add(&DirItem { ino, cookie: own, kind: FileKind::Directory, name, view: None }) {
                return Ok(());
            }
        }
        let entries = listing.after(cookie);
        let mut learned = 0;
        for (at, entry) in entries.iter().enumerate() {
            if plus && at >= learned && !self.meta.knows(entry.ino) {
                let next = &entries[at..entries.len().min(at + LISTING_PAGE as usize)];
                learned = at + next.len();
                let published = next.iter().map(|entry| entry.ino).filter(|ino| !self.is_unpublished(*ino));
                self.learn(cx, published)?;
            }
            let view = match plus {
                false => None,
                true => match self.view_of_entry(cx, entry.ino)? {
                    // Removed since the listing was made.
                    None => continue,
                    view => view,
                },
            };
            let (ino, cookie, kind) = (entry.ino, entry.cookie, entry.kind);
            if !add(&DirItem { ino, cookie, kind, name: entry.name.as_bytes(), view }) {
                return Ok(());
            }
            if plus {
                self.looked_up(entry.ino);
            }
        }
        Ok(())
    }

    fn is_unpublished(&self, ino: InodeId) -> bool {
        self.known_node(ino).is_some_and(|node| node.state().unpublished.is_some())
    }

    /// Asks for many inodes at once. Without a lease, or an answer, each is asked for by itself.
    fn learn(&self, cx: Cx, inos: impl Iterator<Item = InodeId>) -> Op<()> {
        if !self.meta.session().has_lease() {
            return Ok(());
        }
        match self.meta.learn(cx, inos) {
            Err(Stop::WouldBlock) => Err(Stop::WouldBlock),
            Ok(()) | Err(Stop::Errno(_)) => Ok(()),
        }
    }

    /// An entry's inode, for the kernel to keep: the kernel takes what it is told for the truth, so it
    /// is never told less than everything.
    fn view_of_entry(&self, cx: Cx, ino: InodeId) -> Op<Option<View>> {
        let node = self.known_node(ino);
        if let Some(node) = &node {
            let unpublished = node.state().unpublished.as_ref().map(|own| own.attr.clone());
            if let Some(attr) = unpublished {
                return Ok(Some(self.view(node, attr, true)));
            }
        }
        let node = node.unwrap_or_else(|| Arc::new(super::Node::new(ino)));
        loop {
            let commits = node.state().commits;
            let found = self.meta.inode(cx, ino)?;
            let Some(inode) = found.value else { return Ok(None) };
            let view = self.view(&node, inode.attr, found.current);
            // A commit that ended in between is in neither: the row is older, and here nothing waits.
            if node.state().commits == commits {
                return Ok(Some(view));
            }
        }
    }

    /// The listing of a directory with the files that the cell does not know yet.
    fn listing(&self, cx: Cx, dir: InodeId) -> Op<Arc<Listing>> {
        // First those that the cell does not know: one that is published meanwhile is then in both.
        let pending: Vec<_> = match lock(&self.pending).get(&dir) {
            None => Vec::new(),
            Some(names) => {
                names.iter().map(|(name, node)| (name.clone(), node.ino, FileKind::File)).collect()
            }
        };
        let listing = self.meta.listing(cx, dir)?;
        if pending.is_empty() {
            return Ok(listing);
        }
        let known = listing.entries().iter().map(|entry| (entry.name.clone(), entry.ino, entry.kind));
        Ok(Arc::new(Listing::new(listing.parent, known.chain(pending))))
    }
}
