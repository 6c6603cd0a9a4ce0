//! Replies that changes cross. Between working an answer out and giving it to the kernel these tests do
//! what a delay there would let happen.

use super::*;
use crate::fs::Queue;
use sitefs_base::{Attr, AttrFlags, FileKind, ManualClock, Seq, SessionId, Time};
use tokio::runtime::Runtime;

const DIR: InodeId = InodeId::ROOT;
const FILE: InodeId = InodeId::new(7);
const LASTING: Lasting = Lasting { entry: Lifetime::UntilChanged, attr: Lifetime::UntilChanged };

struct World {
    clock: Arc<ManualClock>,
    session: Arc<Session>,
    flights: Arc<Flights>,
    queue: Queue,
    _runtime: Runtime,
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let clock = Arc::new(ManualClock::new(Time::EPOCH));
        let session = Session::new(SessionId::new(1), runtime.handle().clone(), clock.clone());
        let session = Arc::new(session);
        session.lease().renew(clock.boottime(), Duration::ZERO);
        let (notices, queue) = Notices::queue();
        let flights = Arc::new(Flights::new(Arc::clone(&session), clock.clone(), notices));
        Self { clock, session, flights, queue, _runtime: runtime }
    }

    /// What the kernel will be told once more.
    fn again(&self) -> Vec<Crossed> {
        let crossed = |notice| match notice {
            Notice::Again(crossed) => crossed,
            other => panic!("{other:?}"),
        };
        self.queue.notices.try_iter().map(crossed).collect()
    }
}

fn place(name: &str) -> Place {
    Place { parent: DIR, name: Name::new(name.as_bytes()).unwrap() }
}

fn view(node: InodeId) -> View {
    let attr = Attr {
        ino: node,
        kind: FileKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        nlink: 1,
        size: 0,
        allocated: 0,
        rdev: 0,
        atime: Time::EPOCH,
        mtime: Time::EPOCH,
        ctime: Time::EPOCH,
        cver: Seq::ZERO,
        flags: AttrFlags::default(),
    };
    View { node, attr, lifetime: Lifetime::UntilChanged }
}

#[test]
fn a_reply_that_nothing_crossed_may_be_kept() {
    let world = World::new();
    world.flights.crossed([Crossed::Name(place("a")), Crossed::Inode(FILE)]);
    let mut flight = world.flights.look(DIR);
    world.flights.crossed([Crossed::Name(place("b")), Crossed::Inode(InodeId::new(8))]);
    assert_eq!(flight.entry(&place("a"), &view(FILE), Lifetime::UntilChanged), LASTING);
    assert_eq!(flight.absent(&place("c"), Lifetime::UntilChanged), Lifetime::UntilChanged);
    assert_eq!(flight.attr(&view(FILE)), Lifetime::UntilChanged);
    drop(flight);
    assert_eq!(world.again(), []);
    let mut names = world.flights.take_handed();
    names.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(names, [place("a"), place("c")]);
}

#[test]
fn a_lookup_that_a_change_of_its_name_crosses_is_not_kept() {
    let world = World::new();
    let (mut found, mut absent) = (world.flights.look(DIR), world.flights.look(DIR));
    world.flights.crossed([Crossed::Name(place("a"))]);
    assert_eq!(found.entry(&place("a"), &view(FILE), Lifetime::UntilChanged), Lasting::NONE);
    assert_eq!(absent.absent(&place("a"), Lifetime::UntilChanged), Lifetime::None);
    drop((found, absent));
    assert_eq!(world.flights.take_handed(), [], "what is not kept need not be taken back");
}

#[test]
fn attributes_that_a_change_crosses_are_not_kept_though_the_name_is() {
    let world = World::new();
    let mut flight = world.flights.look(DIR);
    world.flights.crossed([Crossed::Inode(FILE)]);
    let lasting = flight.entry(&place("a"), &view(FILE), Lifetime::UntilChanged);
    assert_eq!(lasting, Lasting { attr: Lifetime::None, ..LASTING });
    assert_eq!((lasting.both(), flight.attr(&view(FILE))), (Lifetime::None, Lifetime::None));
}

#[test]
fn what_comes_between_the_decision_and_the_reply_is_told_again() {
    let world = World::new();
    let mut flight = world.flights.look(DIR);
    assert_eq!(flight.entry(&place("a"), &view(FILE), Lifetime::UntilChanged), LASTING);
    let elsewhere = Place { parent: InodeId::new(99), ..place("a") };
    world.flights.crossed([Crossed::Name(place("a")), Crossed::Name(elsewhere), Crossed::Inode(FILE)]);
    assert_eq!(world.again(), [], "not before the reply is there");
    drop(flight);
    assert_eq!(world.again(), [Crossed::Name(place("a")), Crossed::Inode(FILE)]);
}

#[test]
fn the_end_of_the_lease_crosses_everything_and_nothing_is_kept_without_one() {
    let world = World::new();
    let (mut early, mut late) = (world.flights.look(DIR), world.flights.look(DIR));
    assert_eq!(early.entry(&place("a"), &view(FILE), Lifetime::UntilChanged), LASTING);
    world.clock.advance(Duration::from_secs(6));
    assert_eq!(late.absent(&place("b"), Lifetime::UntilChanged), Lifetime::None, "no lease");
    world.flights.crossed([Crossed::Everything]);
    assert_eq!(world.flights.take_handed(), [place("a")]);
    // The lease is back before the replies are out.
    world.session.lease().renew(world.clock.boottime(), Duration::ZERO);
    assert_eq!(late.absent(&place("b"), Lifetime::UntilChanged), Lifetime::None, "worked out before");
    drop((early, late));
    assert_eq!(world.again(), [Crossed::Everything]);
    let mut next = world.flights.look(DIR);
    assert_eq!(next.absent(&place("b"), Lifetime::UntilChanged), Lifetime::UntilChanged);
}

#[test]
fn more_changes_than_are_remembered_cross_everything() {
    let world = World::new();
    let mut flight = world.flights.look(DIR);
    world.flights.crossed((0..=RECENT_MAX).map(|_| Crossed::Inode(InodeId::new(1000))));
    assert_eq!(flight.absent(&place("a"), Lifetime::UntilChanged), Lifetime::None);
}

#[test]
fn a_moved_name_is_believed_and_can_be_taken_back() {
    let world = World::new();
    let mut flight = world.flights.change_both(DIR, DIR);
    world.flights.crossed([Crossed::Name(place("to"))]);
    flight.renamed(&place("from"), &place("to"), RenameMode::Replace);
    drop(flight);
    assert_eq!(world.flights.take_handed(), [place("to")]);
    assert_eq!(world.again(), [Crossed::Name(place("to"))], "it changed while the request was under way");
}

#[test]
fn traffic_in_a_directory_is_known_until_it_has_landed() {
    let world = World::new();
    assert_eq!(world.flights.traffic(DIR).0, Traffic::None);
    let look = world.flights.look(DIR);
    let (traffic, number) = world.flights.traffic(DIR);
    assert_eq!(traffic, Traffic::Looks);
    let change = world.flights.change(DIR);
    assert_eq!(world.flights.traffic(DIR).0, Traffic::Changes);
    assert_eq!(world.flights.traffic(InodeId::new(99)).0, Traffic::None);
    assert!(!world.flights.has_landed(DIR, number));
    drop(look);
    assert!(world.flights.has_landed(DIR, number), "those that came later are not waited for");
    drop(change);
    assert_eq!(world.flights.traffic(DIR).0, Traffic::None);
}
