//! What the kernel is told, in which order, and what the cell hears of it.

use super::*;
use crate::fs::Notices;
use sitefs_base::{Name, Seq, SystemClock};
use std::{
    collections::HashSet,
    sync::{Condvar, Mutex},
    time::Instant,
};

const SOON: Duration = Duration::from_secs(20);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Heard {
    Attributes(InodeId),
    Listing(InodeId),
    Expired(Place),
    InForce(Seq),
}

/// A kernel, and a mount, that note what they hear.
#[derive(Default)]
struct World {
    heard: Mutex<Vec<Heard>>,
    /// Directories whose lock is taken.
    locked: Mutex<HashSet<InodeId>>,
    moved: Condvar,
    traffic: Mutex<Vec<(InodeId, Traffic)>>,
    everything: Mutex<(Vec<InodeId>, Vec<Place>)>,
}

impl World {
    fn hear(&self, heard: Heard) {
        self.heard.lock().unwrap().push(heard);
        self.moved.notify_all();
    }

    /// Waits until something is heard; what was before it.
    fn wait_for(&self, what: &Heard) -> Vec<Heard> {
        let all = self.heard.lock().unwrap();
        let (all, late) = self.moved.wait_timeout_while(all, SOON, |all| !all.contains(what)).unwrap();
        assert!(!late.timed_out(), "never heard {what:?}, but {all:?}");
        all.iter().take_while(|heard| *heard != what).cloned().collect()
    }

    fn unlock(&self, dir: InodeId) {
        self.locked.lock().unwrap().remove(&dir);
        self.moved.notify_all();
    }

    fn land(&self, dir: InodeId) {
        self.traffic.lock().unwrap().retain(|(known, _)| *known != dir);
    }
}

struct FakeKernel(Arc<World>);

impl Kernel for FakeKernel {
    fn attributes(&self, ino: InodeId) {
        self.0.hear(Heard::Attributes(ino));
    }

    fn listing(&self, dir: InodeId) {
        self.0.hear(Heard::Listing(dir));
    }

    fn expire(&self, place: &Place) {
        let locked = self.0.locked.lock().unwrap();
        drop(self.0.moved.wait_while(locked, |locked| locked.contains(&place.parent)).unwrap());
        self.0.hear(Heard::Expired(place.clone()));
    }
}

impl Teller for World {
    fn in_force(&self, seq: Seq, _events: u64) {
        self.hear(Heard::InForce(seq));
    }

    fn taken(&self) {}

    fn position(&self) -> Seq {
        Seq::new(1000)
    }

    fn everything(&self) -> (Vec<InodeId>, Vec<Place>) {
        std::mem::take(&mut self.everything.lock().unwrap())
    }

    fn traffic(&self, dir: InodeId) -> (Traffic, u64) {
        let traffic = self.traffic.lock().unwrap();
        (traffic.iter().find(|(known, _)| *known == dir).map_or(Traffic::None, |(_, traffic)| *traffic), 1)
    }

    fn has_landed(&self, dir: InodeId, _number: u64) -> bool {
        self.traffic(dir).0 == Traffic::None
    }
}

fn world() -> (Arc<World>, Notices) {
    let world = Arc::new(World::default());
    let (notices, queue) = Notices::queue();
    let teller: Arc<dyn Teller> = world.clone();
    start(FakeKernel(world.clone()), Arc::downgrade(&teller), Arc::new(SystemClock), queue).unwrap();
    (world, notices)
}

fn place(dir: u64, name: &str) -> Place {
    Place { parent: InodeId::new(dir), name: Name::new(name.as_bytes()).unwrap() }
}

fn event(seq: u64, attrs: &[u64], names: &[Place]) -> Notice {
    let attrs = attrs.iter().map(|ino| InodeId::new(*ino)).collect();
    Notice::Event(Told { seq: Some(Seq::new(seq)), attrs, names: names.to_vec() })
}

#[test]
fn an_event_is_acknowledged_when_the_kernel_has_been_told() {
    let (world, notices) = world();
    notices.send(event(5, &[9], &[place(1, "a")]));
    let before = world.wait_for(&Heard::InForce(Seq::new(5)));
    let told =
        [Heard::Attributes(InodeId::new(9)), Heard::Listing(InodeId::new(1)), Heard::Expired(place(1, "a"))];
    assert_eq!(before, told);
}

#[test]
fn a_name_that_blocks_holds_up_neither_acknowledgements_nor_inodes_nor_other_directories() {
    let (world, notices) = world();
    world.locked.lock().unwrap().insert(InodeId::new(1));
    notices.send(event(5, &[], &[place(1, "a")]));
    notices.send(event(6, &[9], &[place(2, "b")]));
    world.wait_for(&Heard::Attributes(InodeId::new(9)));
    world.wait_for(&Heard::Expired(place(2, "b")));
    let before = world.wait_for(&Heard::InForce(Seq::new(6)));
    assert!(!before.contains(&Heard::Expired(place(1, "a"))));
    world.unlock(InodeId::new(1));
    world.wait_for(&Heard::Expired(place(1, "a")));
}

#[test]
fn a_name_waits_for_lookups_in_its_directory_and_the_acknowledgement_waits_a_little() {
    let (world, notices) = world();
    world.traffic.lock().unwrap().push((InodeId::new(1), Traffic::Looks));
    let start = Instant::now();
    notices.send(event(5, &[], &[place(1, "a")]));
    let before = world.wait_for(&Heard::InForce(Seq::new(5)));
    assert!(start.elapsed() >= acks::PATIENCE, "{before:?}");
    assert_eq!(before, [Heard::Listing(InodeId::new(1))], "the lookup is not answered");
    world.land(InodeId::new(1));
    world.wait_for(&Heard::Expired(place(1, "a")));
}

#[test]
fn where_names_are_being_changed_from_here_the_acknowledgement_does_not_wait() {
    let (world, notices) = world();
    world.traffic.lock().unwrap().push((InodeId::new(1), Traffic::Changes));
    notices.send(event(5, &[], &[place(1, "a")]));
    // Would it wait, this would be a deadlock of two mounts until the patience of both is over.
    let before = world.wait_for(&Heard::InForce(Seq::new(5)));
    assert_eq!(before, [Heard::Listing(InodeId::new(1))]);
    world.land(InodeId::new(1));
    world.wait_for(&Heard::Expired(place(1, "a")));
}

#[test]
fn what_crossed_a_reply_is_told_again_a_little_later() {
    let (world, notices) = world();
    let start = Instant::now();
    notices.send(Notice::Again(Crossed::Name(place(1, "a"))));
    notices.send(Notice::Again(Crossed::Inode(InodeId::new(9))));
    world.wait_for(&Heard::Expired(place(1, "a")));
    world.wait_for(&Heard::Attributes(InodeId::new(9)));
    assert!(start.elapsed() >= AGAIN);
}

#[test]
fn everything_means_all_inodes_and_all_names() {
    let (world, notices) = world();
    *world.everything.lock().unwrap() =
        (vec![InodeId::ROOT, InodeId::new(7)], vec![place(1, "a"), place(7, "b"), place(9, "c")]);
    notices.send(Notice::Everything);
    for ino in [InodeId::ROOT, InodeId::new(7)] {
        world.wait_for(&Heard::Attributes(ino));
        world.wait_for(&Heard::Listing(ino));
    }
    for place in [place(1, "a"), place(7, "b"), place(9, "c")] {
        world.wait_for(&Heard::Expired(place));
    }
}
