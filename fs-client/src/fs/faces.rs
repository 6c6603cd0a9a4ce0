//! The numbers under which the kernel knows one inode.
//!
//! Normally that is one. But the kernel reads all that is open under a number from the same file, so while an
//! older version is open in passthrough a newer one, or a writer, gets another number (DESIGN D25). Names lead to
//! the newest; programs see the inode's own number under each.

use crate::data::Loan;
use sitefs_base::{InodeId, Seq};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};

/// A number of an inode at the kernel.
#[derive(Debug)]
struct Face {
    ino: InodeId,
    /// References that the kernel holds.
    lookups: u64,
    /// Handles that are open in passthrough.
    passed: u32,
    /// CLOCK_BOOTTIME until which nothing is opened in passthrough.
    plain_until: Option<Duration>,
    /// The file that they read, as long as somebody may have it open or mapped.
    shown: Option<Shown>,
}

#[derive(Debug)]
struct Shown {
    loan: Weak<Loan>,
    /// The content version that the file holds, if it is one.
    version: Option<Seq>,
}

impl Face {
    fn new(ino: InodeId) -> Self {
        Self { ino, lookups: 0, passed: 0, plain_until: None, shown: None }
    }

    fn loan(&self) -> Option<Arc<Loan>> {
        self.shown.as_ref()?.loan.upgrade()
    }
}

/// All numbers of an inode.
#[derive(Debug)]
pub struct Faces {
    main: Face,
    more: Vec<Face>,
    front: InodeId,
    /// Content changed since what is shown was last looked after.
    pub are_old: bool,
}

impl Faces {
    /// One number.
    pub fn new(ino: InodeId) -> Self {
        Self { main: Face::new(ino), more: Vec::new(), front: ino, are_old: false }
    }

    fn all(&self) -> impl Iterator<Item = &Face> {
        std::iter::once(&self.main).chain(&self.more)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Face> {
        std::iter::once(&mut self.main).chain(&mut self.more)
    }

    fn of(&mut self, ino: InodeId) -> Option<&mut Face> {
        self.all_mut().find(|face| face.ino == ino)
    }

    /// The number that names lead to.
    pub fn front(&self) -> InodeId {
        self.front
    }

    /// All of them.
    pub fn numbers(&self) -> impl Iterator<Item = InodeId> {
        self.all().map(|face| face.ino)
    }

    /// Whether there are several.
    pub fn are_many(&self) -> bool {
        !self.more.is_empty()
    }

    /// The kernel has another reference to a number.
    pub fn looked_up(&mut self, ino: InodeId) {
        if let Some(face) = self.of(ino) {
            face.lookups += 1;
        }
    }

    /// The kernel gives references back.
    pub fn forget(&mut self, ino: InodeId, count: u64) {
        if let Some(face) = self.of(ino) {
            face.lookups = face.lookups.saturating_sub(count);
        }
    }

    /// Whether the kernel knows none of them.
    pub fn are_forgotten(&self) -> bool {
        self.all().all(|face| face.lookups == 0)
    }

    /// Drops numbers beside the inode's own that the kernel has forgotten: nothing is open under them then. While
    /// anything `is_open`, the one that names lead to stays: the kernel gives it back and asks again before it opens.
    pub fn drop_forgotten(&mut self, is_open: bool) -> Vec<InodeId> {
        let front = self.front;
        let stays = |face: &Face| face.lookups > 0 || face.passed > 0 || (is_open && face.ino == front);
        let dropped: Vec<InodeId> =
            self.more.iter().filter(|face| !stays(face)).map(|face| face.ino).collect();
        self.more.retain(stays);
        if dropped.contains(&front) {
            self.front = self.main.ino;
        }
        dropped
    }

    /// Names lead to a new number from now on, under which nothing is opened in passthrough until then.
    pub fn begin(&mut self, ino: InodeId, plain_until: Option<Duration>) {
        self.more.push(Face { plain_until, ..Face::new(ino) });
        self.front = ino;
    }

    /// Whether nothing may be opened in passthrough under a number now.
    pub fn is_plain(&mut self, ino: InodeId, now: Duration) -> bool {
        self.of(ino).and_then(|face| face.plain_until).is_some_and(|until| now < until)
    }

    /// Nothing is opened in passthrough under a number until then.
    pub fn keep_plain(&mut self, ino: InodeId, until: Duration) {
        if let Some(face) = self.of(ino) {
            face.plain_until = Some(until);
        }
    }

    /// Whether the kernel has references to a number.
    pub fn is_known(&mut self, ino: InodeId) -> bool {
        self.of(ino).is_some_and(|face| face.lookups > 0)
    }

    /// Names lead to this number from now on.
    pub fn turn_to(&mut self, ino: InodeId) {
        if self.of(ino).is_some() {
            self.front = ino;
        }
    }

    /// Handles that are open in passthrough, under all numbers.
    pub fn passed(&self) -> u32 {
        self.all().map(|face| face.passed).sum()
    }

    /// The same under one number.
    pub fn passed_under(&mut self, ino: InodeId) -> u32 {
        self.of(ino).map_or(0, |face| face.passed)
    }

    /// A handle is open in passthrough on a file that holds this version.
    pub fn opened(&mut self, ino: InodeId, loan: &Arc<Loan>, version: Seq) {
        if let Some(face) = self.of(ino) {
            face.passed += 1;
            face.shown = Some(Shown { loan: Arc::downgrade(loan), version: Some(version) });
        }
    }

    /// It is closed; mappings may be left.
    pub fn closed(&mut self, ino: InodeId) {
        if let Some(face) = self.of(ino) {
            face.passed = face.passed.saturating_sub(1);
        }
    }

    /// The file that is shown under a number, if it holds this version.
    pub fn shown_under(&mut self, ino: InodeId, version: Seq) -> Option<Arc<Loan>> {
        let face = self.of(ino)?;
        face.shown.as_ref().filter(|shown| shown.version == Some(version))?;
        face.loan()
    }

    /// The file that is shown under any number and holds this version: there is at most one.
    pub fn shown_at(&self, version: Seq) -> Option<Arc<Loan>> {
        let holds = |face: &&Face| face.shown.as_ref().is_some_and(|shown| shown.version == Some(version));
        self.all().filter(holds).find_map(Face::loan)
    }

    /// All files that are shown, with the versions that they hold.
    pub fn shown(&self) -> Vec<(Arc<Loan>, Option<Seq>)> {
        let one = |face: &Face| Some((face.loan()?, face.shown.as_ref().and_then(|shown| shown.version)));
        self.all().filter_map(one).collect()
    }

    /// A file that is shown holds another version, or none.
    pub fn holds(&mut self, loan: &Arc<Loan>, version: Option<Seq>) {
        for face in self.all_mut() {
            if let Some(shown) = &mut face.shown
                && std::ptr::eq(shown.loan.as_ptr(), Arc::as_ptr(loan))
            {
                shown.version = version;
            }
        }
    }

    /// Nobody uses a file any more.
    pub fn is_unused(&mut self, loan: &Arc<Loan>) {
        for face in self.all_mut() {
            let is_it = |shown: &Shown| std::ptr::eq(shown.loan.as_ptr(), Arc::as_ptr(loan));
            if face.passed == 0 && face.shown.as_ref().is_some_and(is_it) {
                face.shown = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: InodeId = InodeId::new(1);
    const OTHER: InodeId = InodeId::new(2);

    #[test]
    fn names_lead_to_the_newest_number_until_the_kernel_has_forgotten_it_and_nothing_is_open() {
        let mut faces = Faces::new(OWN);
        faces.looked_up(OWN);
        faces.begin(OTHER, Some(Duration::from_secs(2)));
        assert!(
            faces.is_plain(OTHER, Duration::from_secs(1)) && !faces.is_plain(OTHER, Duration::from_secs(2))
        );
        assert!(!faces.is_plain(OWN, Duration::ZERO));
        assert_eq!((faces.front(), faces.are_many()), (OTHER, true));
        // What the kernel looks up before it opens it gives back at once.
        faces.looked_up(OTHER);
        faces.forget(OTHER, 1);
        assert!(faces.drop_forgotten(true).is_empty());
        faces.looked_up(OTHER);
        assert!(faces.drop_forgotten(false).is_empty());
        faces.forget(OTHER, 1);
        assert_eq!(faces.drop_forgotten(false), [OTHER]);
        assert_eq!((faces.front(), faces.are_many(), faces.are_forgotten()), (OWN, false, false));
        faces.forget(OWN, 1);
        assert!(faces.are_forgotten());
    }
}
