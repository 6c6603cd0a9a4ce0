//! A model of garbage collection that drives the real `apply`, the real mark and the real lists: one content, several
//! clients, PUTs and DELETEs that arrive at any time and again, crashes, expiry, damage, backups and restores,
//! in every order (DESIGN D32). Each mistake of the study, and some more, is made once and has to be caught.

mod world;

use sitefs_base::Generation;
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
};
use world::World;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mistake {
    None,
    /// Keys have no generation.
    KeyWithoutGeneration,
    /// That the cell had the blob when it was asked is enough for a commit.
    NoRecheckAtCommit,
    /// What was named since the mark is condemned all the same.
    CondemnWithoutLastRef,
    /// A blob that is being deleted comes back.
    UndeleteFromDeleting,
    /// A PUT without an answer counts as done.
    TrustTimedOutPut,
    /// Somebody else's upload under way counts as done.
    HaveWhileUploading,
    /// The object is deleted before the log has given it up.
    DeleteBeforeCommitted,
    /// Nobody waits for readers.
    NoGrace,
    /// After a restore the same generations are drawn again.
    RepeatedGeneration,
    /// A retained backup may name what is deleted.
    DeleteInBackup,
    /// That a retained backup has the blob as condemned is enough to delete it.
    DeleteCondemnedInBackup,
}

/// How much may happen.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    clients: usize,
    grants: u8,
    commits: u8,
    ticks: u8,
    crashes: u8,
    damages: u8,
    backups: u8,
    reads: u8,
}

/// That the interesting things happen at all.
#[derive(Default)]
struct Reached {
    again: AtomicU64,
    revived: AtomicU64,
    replaced: AtomicU64,
    orphaned: AtomicU64,
    refused: AtomicU64,
    restored: AtomicU64,
}

struct Collection {
    mistake: Mistake,
    bounds: Bounds,
    reached: Reached,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Want(usize),
    Prove(usize),
    Commit(usize),
    Remove(usize),
    Crash(usize),
    LandPut(Generation),
    Mark,
    Condemn,
    BeginDelete,
    Issue(Generation),
    LandDelete(Generation),
    Deleted(Generation),
    Expire,
    Resolve,
    Damage,
    Backup,
    Restore,
    Tick,
}

const LIVE: &str = "what a row names is there";
const READ: &str = "what somebody reads stays";

impl Model for Collection {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.bounds)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for client in 0..self.bounds.clients {
            steps.extend([Step::Want(client), Step::Prove(client), Step::Commit(client)]);
            steps.extend([Step::Remove(client), Step::Crash(client)]);
        }
        steps.extend(world.puts().map(Step::LandPut));
        steps.extend([Step::Mark, Step::Condemn, Step::BeginDelete, Step::Expire]);
        steps.extend(world.to_delete(self.mistake).into_iter().map(Step::Issue));
        steps.extend(world.deletes().map(Step::LandDelete));
        steps.extend(world.answered().map(Step::Deleted));
        steps.extend([Step::Resolve, Step::Damage, Step::Backup, Step::Restore, Step::Tick]);
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        next.step(step, self)?;
        next.settle();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(LIVE, |model: &Self, world: &World| world.names_what_is_there(model.mistake)),
            Property::always(READ, |model: &Self, world: &World| world.reads_what_is_there(model.mistake)),
        ]
    }
}

fn check(mistake: Mistake, bounds: Bounds, until: HasDiscoveries, states: usize) -> impl Checker<Collection> {
    let model = Collection { mistake, bounds, reached: Reached::default() };
    model.checker().threads(2).target_state_count(states).finish_when(until).spawn_bfs().join()
}

/// How many states are made of each world without a mistake; 0 makes all of them, which takes many minutes.
fn states() -> usize {
    std::env::var("SITEFS_MODEL_STATES").map_or(60_000, |text| text.parse().expect("a number of states"))
}

/// Nothing but the protocol itself.
const PLAIN: Bounds =
    Bounds { clients: 2, grants: 2, commits: 2, ticks: 3, crashes: 0, damages: 0, backups: 0, reads: 0 };

fn holds(bounds: Bounds) -> Reached {
    let begun = std::time::Instant::now();
    let checked = check(Mistake::None, bounds, HasDiscoveries::Any, states());
    println!("{} states in {:?}: {bounds:?}", checked.unique_state_count(), begun.elapsed());
    for property in [LIVE, READ] {
        let found = checked.discovery(property).map(|path| path.into_actions());
        assert_eq!(found, None, "{property}");
    }
    assert!(checked.unique_state_count() > 100);
    let reached = &checked.model().reached;
    let copy = |count: &AtomicU64| AtomicU64::new(count.load(Ordering::Relaxed));
    Reached {
        again: copy(&reached.again),
        revived: copy(&reached.revived),
        replaced: copy(&reached.replaced),
        orphaned: copy(&reached.orphaned),
        refused: copy(&reached.refused),
        restored: copy(&reached.restored),
    }
}

/// Of a part of the states it cannot be expected.
fn happened(count: &AtomicU64) -> bool {
    states() > 0 || count.load(Ordering::Relaxed) > 0
}

#[test]
fn three_clients_with_crashes_lose_nothing() {
    let reached = holds(Bounds { clients: 3, grants: 3, crashes: 1, ..PLAIN });
    assert!(happened(&reached.again), "the same content is uploaded after its deletion");
    assert!(happened(&reached.revived), "a condemned blob is named again");
    assert!(happened(&reached.orphaned), "an upload arrives that nobody waits for");
    assert!(happened(&reached.refused), "a commit has to upload again");
}

#[test]
fn readers_keep_what_they_read() {
    let reached = holds(Bounds { reads: 1, ..PLAIN });
    assert!(happened(&reached.again) && happened(&reached.revived));
}

#[test]
fn damaged_objects_are_replaced_and_nothing_else_is_lost() {
    let reached = holds(Bounds { damages: 1, reads: 1, ..PLAIN });
    assert!(happened(&reached.replaced), "a damaged object is replaced");
}

#[test]
fn a_restore_with_a_new_incarnation_finds_all_that_it_names() {
    let reached = holds(Bounds { backups: 1, ..PLAIN });
    assert!(happened(&reached.restored) && happened(&reached.again));
}

#[test]
fn every_mistake_is_caught() {
    let with_backup = Bounds { clients: 1, ticks: 2, backups: 1, ..PLAIN };
    for (mistake, bounds, property) in [
        (Mistake::KeyWithoutGeneration, PLAIN, LIVE),
        (Mistake::NoRecheckAtCommit, PLAIN, LIVE),
        (Mistake::CondemnWithoutLastRef, PLAIN, LIVE),
        (Mistake::UndeleteFromDeleting, PLAIN, LIVE),
        (Mistake::TrustTimedOutPut, PLAIN, LIVE),
        (Mistake::HaveWhileUploading, PLAIN, LIVE),
        (Mistake::DeleteBeforeCommitted, PLAIN, LIVE),
        (Mistake::NoGrace, Bounds { reads: 1, ..PLAIN }, READ),
        (Mistake::RepeatedGeneration, Bounds { grants: 3, backups: 1, ..PLAIN }, LIVE),
        (Mistake::DeleteInBackup, with_backup, LIVE),
        (Mistake::DeleteCondemnedInBackup, with_backup, LIVE),
    ] {
        let until = HasDiscoveries::AnyOf(BTreeSet::from([property]));
        let found = check(mistake, bounds, until, 0).discovery(property);
        let steps = found.map(|path| path.into_actions());
        println!("{mistake:?}: {steps:?}");
        assert!(steps.is_some(), "{mistake:?} is not caught");
    }
}
