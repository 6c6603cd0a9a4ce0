//! Tells the kernel what it must not believe any more (DESIGN D22, D23).
//!
//! Notices about inodes never block: one thread sends them at once, and acknowledges events. Notices
//! about names take the lock of their directory in the kernel, so [`names`] has threads of its own for them.
//! None of these threads holds a lock that a request needs.

mod acks;
mod device;
mod names;

pub use device::Device;

use crate::fs::{Crossed, Notice, Queue, Teller, Told, Traffic};
use acks::Acks;
use names::{Expire, Shards};
use sitefs_base::op::Place;
use sitefs_base::{Clock, InodeId};
use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Weak,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

/// How long after a reply the kernel is told again what crossed it: by then it has taken the reply in.
const AGAIN: Duration = Duration::from_millis(50);
/// Notices that wait to be told again; beyond them everything is taken back.
const AGAIN_MAX: usize = 16_384;
/// How long the thread sleeps when there is nothing to do.
const IDLE: Duration = Duration::from_secs(3600);

/// The kernel, as far as it can be told something. An error would say that it does not know the inode or
/// name, and then there is nothing to take back.
pub(super) trait Kernel: Send + Sync + 'static {
    /// The attributes of an inode are not true any more. Never blocks.
    fn attributes(&self, ino: InodeId);
    /// Nor are the listing and attributes of a directory. Never blocks.
    fn listing(&self, dir: InodeId);
    /// A name may lead elsewhere: the next walk asks. What is below the name keeps its pages, mounts and
    /// working directories. May wait for requests in the directory.
    fn expire(&self, place: &Place);
}

/// The thread for inodes, and the entrance to those for names.
struct Notifier {
    kernel: Arc<dyn Kernel>,
    teller: Weak<dyn Teller>,
    clock: Arc<dyn Clock>,
    acks: Arc<Acks>,
    shards: Shards,
    again: VecDeque<(Duration, Crossed)>,
}

/// Starts the threads that tell `kernel` what comes out of `queue`, until its other end is dropped.
/// `teller` is held only weakly: the entrance of the queue is in it, and must be able to close.
pub(super) fn start(
    kernel: impl Kernel,
    teller: Weak<dyn Teller>,
    clock: Arc<dyn Clock>,
    queue: Queue,
) -> io::Result<()> {
    let kernel: Arc<dyn Kernel> = Arc::new(kernel);
    let acks = Arc::new(Acks::new(Weak::clone(&teller), Arc::clone(&clock)));
    let shards = Shards::start(&kernel, &teller, &clock, &acks)?;
    let notifier = Notifier { kernel, teller, clock, acks, shards, again: VecDeque::new() };
    let run = move || notifier.run(&queue);
    std::thread::Builder::new().name("sitefs-notify".into()).spawn(run).map(drop)
}

impl Notifier {
    fn run(mut self, Queue { notices, lost }: &Queue) {
        while let Ok(notice) = self.next(notices) {
            if let (Some(_), Some(teller)) = (&notice, self.teller.upgrade()) {
                teller.taken();
            }
            match notice {
                Some(Notice::Attr(ino)) => self.kernel.attributes(ino),
                Some(Notice::Event(told)) => self.event(told),
                Some(Notice::Again(crossed)) if self.again.len() < AGAIN_MAX => {
                    self.again.push_back((self.clock.boottime() + AGAIN, crossed));
                }
                Some(Notice::Again(_) | Notice::Everything) => self.everything(),
                None => {}
            }
            self.tell_again();
            self.acks.expire();
            if lost.swap(false, Ordering::AcqRel) | self.shards.have_lost() {
                self.make_good();
            }
        }
    }

    /// The next notice, or nothing when something else is due.
    fn next(&self, notices: &Receiver<Notice>) -> Result<Option<Notice>, ()> {
        let due = [self.again.front().map(|(due, _)| *due), self.acks.due()].into_iter().flatten().min();
        let patience = due.map_or(IDLE, |due| due.saturating_sub(self.clock.boottime()));
        match notices.recv_timeout(patience) {
            Ok(notice) => Ok(Some(notice)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(()),
        }
    }

    fn event(&self, told: Told) {
        let Some(teller) = self.teller.upgrade() else { return };
        told.attrs.iter().for_each(|ino| self.kernel.attributes(*ino));
        told.names.iter().for_each(|place| self.kernel.listing(place.parent));
        let expire = |place: Place| {
            let (traffic, number) = teller.traffic(place.parent);
            (traffic, Expire { place, number, of: told.seq })
        };
        let expires: Vec<(Traffic, Expire)> = told.names.iter().cloned().map(expire).collect();
        // Where names are being changed from here the answer may wait for our acknowledgement.
        let waits = expires.iter().filter(|(traffic, _)| *traffic != Traffic::Changes).count();
        if let Some(seq) = told.seq {
            self.acks.begin(seq, waits);
        }
        for (traffic, mut expire) in expires {
            if traffic == Traffic::Changes {
                expire.of = None;
            }
            self.shards.send(expire);
        }
    }

    fn everything(&mut self) {
        let Some(teller) = self.teller.upgrade() else { return };
        self.again.clear();
        let (nodes, names) = teller.everything();
        tracing::debug!(nodes = nodes.len(), names = names.len(), "the kernel is told to forget everything");
        for ino in nodes {
            self.kernel.attributes(ino);
            self.kernel.listing(ino);
        }
        self.shards.send_all(names, &*teller);
    }

    /// Notices were lost, and with them what the cell is to hear.
    fn make_good(&mut self) {
        let Some(teller) = self.teller.upgrade() else { return };
        let seq = teller.position();
        self.everything();
        teller.in_force(seq, 0);
    }

    fn tell_again(&mut self) {
        let now = self.clock.boottime();
        while self.again.front().is_some_and(|(due, _)| *due <= now) {
            match self.again.pop_front() {
                Some((_, Crossed::Inode(ino))) => {
                    self.kernel.attributes(ino);
                }
                Some((_, Crossed::Name(place))) => {
                    let Some(teller) = self.teller.upgrade() else { return };
                    let (_, number) = teller.traffic(place.parent);
                    self.shards.send(Expire { place, number, of: None });
                }
                Some((_, Crossed::Everything)) => self.everything(),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
