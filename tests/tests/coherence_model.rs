//! A model of feed, lease, notices and failover: one name, one writer, one mount that reads it, and
//! every order in which messages, clocks and threads can move (DESIGN D20 to D24). Each mistake that somebody
//! could make in these places is made once and has to be caught.

use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::BTreeSet;

const WRITES: u8 = 2;
/// The lease, in ticks.
const LEASE: u8 = 2;
const END_OF_TIME: u8 = 4;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mistake {
    None,
    /// The lease counts from the arrival of the renewal.
    LeaseFromReceipt,
    /// An answer that events have overtaken is remembered.
    KeepLateAnswer,
    /// The cell hears that an event is in force before the kernel was told.
    AckOnDispatch,
    /// A mount that comes back does not hear what it missed.
    NoReplay,
    /// A new leader renews the lease of a mount that it sends no events.
    RenewUnknown,
    /// The lease of a mount that writers wait for is renewed although it acknowledges nothing.
    RenewUnacked,
    /// A reply that a change crossed is given a lifetime.
    KeepCrossedReply,
    /// What came between the decision and the kernel having the reply is not told again.
    NotAgain,
    /// A reply waits until the kernel was told of events, and that waits for the reply.
    ReplyWaitsForNotice,
    /// At the end of the lease the kernel keeps what it has.
    NoSweep,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Message {
    Event(u8),
    Answer(u8),
    Renew(u8),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Stage {
    /// The question is on its way to the cell.
    Asked,
    /// The cell has read this, and not sent it.
    Read(u8),
    /// The answer is on its way.
    Sent,
    /// The mount knows the answer.
    Known(u8),
    /// It is decided whether the kernel may keep it.
    Decided(u8, bool),
    /// The reply is written; the kernel takes it in now.
    Landed(u8, bool),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Lookup {
    stage: Stage,
    crossed: bool,
    crossed_late: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    now: u8,
    /// The last write; what the name holds at the cell.
    seq: u8,
    /// When each write returned, and whether the mount had acknowledged it.
    returned: Vec<(u8, bool)>,
    attached: bool,
    cuts: u8,
    /// Writers wait for the mount.
    in_set: bool,
    acked: u8,
    /// When the oldest event was sent that is not acknowledged.
    unacked: Option<u8>,
    ping: Option<u8>,
    pinged: bool,
    wire: Vec<Message>,
    watermark: u8,
    memory: Option<u8>,
    notices: Vec<u8>,
    again: bool,
    lookup: Option<Lookup>,
    kernel: Option<u8>,
    lease_end: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Write,
    Return,
    Deliver,
    Tell,
    Again,
    Ask,
    CellReads,
    CellSends,
    Decide,
    Land,
    TakeIn,
    Ping,
    Renew,
    Cut,
    Attach,
    Tick,
}

const STEPS: [Step; 16] = [
    Step::Write,
    Step::Return,
    Step::Deliver,
    Step::Tell,
    Step::Again,
    Step::Ask,
    Step::CellReads,
    Step::CellSends,
    Step::Decide,
    Step::Land,
    Step::TakeIn,
    Step::Ping,
    Step::Renew,
    Step::Cut,
    Step::Attach,
    Step::Tick,
];

impl World {
    fn new() -> Self {
        Self {
            now: 0,
            seq: 0,
            returned: Vec::new(),
            attached: true,
            cuts: 0,
            in_set: true,
            acked: 0,
            unacked: None,
            ping: None,
            pinged: false,
            wire: Vec::new(),
            watermark: 0,
            memory: None,
            notices: Vec::new(),
            again: false,
            lookup: None,
            kernel: None,
            lease_end: LEASE,
        }
    }

    fn has_lease(&self) -> bool {
        self.now < self.lease_end
    }

    /// What a program is told without the cell being asked.
    fn belief(&self) -> Option<u8> {
        self.kernel.or(self.memory.filter(|_| self.has_lease()))
    }

    /// The writes that a belief does not know of and that have returned.
    fn unseen(&self) -> impl Iterator<Item = &(u8, bool)> {
        let seen = self.belief().map_or(self.returned.len(), usize::from);
        self.returned.iter().skip(seen)
    }

    fn cross(&mut self) {
        if let Some(lookup) = &mut self.lookup {
            match lookup.stage {
                Stage::Decided(..) | Stage::Landed(..) => lookup.crossed_late = true,
                _ => lookup.crossed = true,
            }
        }
    }

    fn stage(&self) -> Option<&Stage> {
        self.lookup.as_ref().map(|lookup| &lookup.stage)
    }

    fn go(&mut self, stage: Stage) -> Option<()> {
        self.lookup.as_mut()?.stage = stage;
        Some(())
    }

    fn deliver(&mut self, mistake: Mistake) -> Option<()> {
        if self.wire.is_empty() {
            return None;
        }
        match self.wire.remove(0) {
            Message::Event(seq) => {
                self.watermark = seq;
                self.memory = None;
                self.cross();
                self.notices.push(seq);
                if mistake == Mistake::AckOnDispatch {
                    self.ack(seq);
                }
            }
            Message::Answer(value) => {
                if value >= self.watermark || mistake == Mistake::KeepLateAnswer {
                    self.memory = Some(value);
                }
                self.go(Stage::Known(value))?;
            }
            Message::Renew(asked) => {
                let from = if mistake == Mistake::LeaseFromReceipt { self.now } else { asked };
                self.lease_end = self.lease_end.max(from + LEASE);
            }
        }
        Some(())
    }

    fn tell(&mut self) -> Option<()> {
        // Held back until lookups that were there have been answered.
        if self.notices.is_empty() || !matches!(self.stage(), None | Some(Stage::Landed(..))) {
            return None;
        }
        self.kernel = None;
        let seq = self.notices.remove(0);
        self.ack(seq);
        Some(())
    }

    fn ack(&mut self, seq: u8) {
        // Without a connection nobody hears it; the next attach says it.
        self.acked = self.acked.max(seq);
        self.unacked = self.unacked.filter(|_| self.acked < self.seq);
    }

    fn send(&mut self, event: u8) {
        self.unacked.get_or_insert(self.now);
        self.wire.push(Message::Event(event));
    }

    fn ask(&mut self) -> Option<()> {
        if self.lookup.is_some() || self.kernel.is_some() {
            return None;
        }
        let stage = match self.memory.filter(|_| self.has_lease()) {
            Some(value) => Stage::Known(value),
            None => Stage::Asked,
        };
        self.lookup = Some(Lookup { stage, crossed: false, crossed_late: false });
        Some(())
    }

    fn decide(&mut self, mistake: Mistake) -> Option<()> {
        let Some(Stage::Known(value)) = self.stage().cloned() else { return None };
        if mistake == Mistake::ReplyWaitsForNotice && !self.notices.is_empty() {
            return None;
        }
        let crossed = self.lookup.as_ref().is_some_and(|lookup| lookup.crossed);
        let lasts = self.has_lease() && (!crossed || mistake == Mistake::KeepCrossedReply);
        self.go(Stage::Decided(value, lasts))
    }

    fn take_in(&mut self, mistake: Mistake) -> Option<()> {
        let Some(Stage::Landed(value, lasts)) = self.stage().cloned() else { return None };
        self.kernel = lasts.then_some(value);
        let late = self.lookup.as_ref().is_some_and(|lookup| lookup.crossed_late);
        self.again |= lasts && late && mistake != Mistake::NotAgain;
        self.lookup = None;
        Some(())
    }

    fn write(&mut self) -> Option<()> {
        if self.seq == WRITES || self.returned.len() < usize::from(self.seq) {
            return None;
        }
        self.seq += 1;
        if self.attached {
            self.send(self.seq);
        }
        Some(())
    }

    /// The writer does not wait for ever: then the mount leaves the set.
    fn returns(&mut self) -> Option<()> {
        if self.returned.len() == usize::from(self.seq) {
            return None;
        }
        let acked = self.acked >= self.seq;
        self.returned.push((self.now, acked));
        self.in_set &= acked;
        Some(())
    }

    fn renew(&mut self, mistake: Mistake) -> Option<()> {
        let asked = self.ping.take()?;
        let current = self.unacked.is_none_or(|since| since == self.now);
        let known = self.attached && (current || (self.in_set && mistake == Mistake::RenewUnacked));
        if known || (!self.attached && mistake == Mistake::RenewUnknown) {
            self.wire.push(Message::Renew(asked));
        }
        Some(())
    }

    /// The connection breaks, or another node leads from now on: the cell forgets the mount.
    fn cut(&mut self) -> Option<()> {
        if !self.attached || self.cuts == 1 {
            return None;
        }
        (self.attached, self.in_set, self.cuts) = (false, false, 1);
        self.wire.clear();
        if matches!(self.stage(), Some(Stage::Read(_) | Stage::Sent)) {
            self.go(Stage::Asked)?;
        }
        Some(())
    }

    fn attach(&mut self, mistake: Mistake) -> Option<()> {
        if self.attached {
            return None;
        }
        (self.attached, self.in_set) = (true, true);
        if mistake == Mistake::NoReplay {
            (self.acked, self.watermark, self.unacked) = (self.seq, self.seq, None);
        } else {
            // What memory has and the kernel was not told of is not acknowledged.
            self.unacked = (self.acked < self.watermark).then_some(self.now);
            (self.watermark + 1..=self.seq).for_each(|event| self.send(event));
        }
        Some(())
    }

    fn tick(&mut self, mistake: Mistake) -> Option<()> {
        // What is told again is told long before the next tick, and the kernel takes a reply in at once.
        if self.now == END_OF_TIME || self.again || matches!(self.stage(), Some(Stage::Landed(..))) {
            return None;
        }
        self.now += 1;
        self.pinged = false;
        if !self.has_lease() && mistake != Mistake::NoSweep {
            self.kernel = None;
            self.cross();
        }
        Some(())
    }

    fn ping(&mut self, mistake: Mistake) -> Option<()> {
        let connected = self.attached || mistake == Mistake::RenewUnknown;
        if self.pinged || self.ping.is_some() || !connected {
            return None;
        }
        (self.ping, self.pinged) = (Some(self.now), true);
        Some(())
    }

    fn step(&mut self, step: Step, mistake: Mistake) -> Option<()> {
        match (step, self.stage().cloned()) {
            (Step::Write, _) => self.write(),
            (Step::Return, _) => self.returns(),
            (Step::Deliver, _) => self.deliver(mistake),
            (Step::Tell, _) => self.tell(),
            (Step::Again, _) => self.again.then(|| (self.kernel, self.again) = (None, false)),
            (Step::Ask, _) => self.ask(),
            (Step::CellReads, Some(Stage::Asked)) if self.attached => self.go(Stage::Read(self.seq)),
            (Step::CellSends, Some(Stage::Read(value))) => {
                self.wire.push(Message::Answer(value));
                self.go(Stage::Sent)
            }
            (Step::Decide, _) => self.decide(mistake),
            (Step::Land, Some(Stage::Decided(value, lasts))) => self.go(Stage::Landed(value, lasts)),
            (Step::TakeIn, _) => self.take_in(mistake),
            (Step::Ping, _) => self.ping(mistake),
            (Step::Renew, _) => self.renew(mistake),
            (Step::Cut, _) => self.cut(),
            (Step::Attach, _) => self.attach(mistake),
            (Step::Tick, _) => self.tick(mistake),
            (Step::CellReads | Step::CellSends | Step::Land, _) => None,
        }
    }
}

struct Protocol(Mistake);

const BOUND: &str = "no answer is older than the lease";
const SEEN: &str = "what the mount has acknowledged is seen";
const MOVES: &str = "what waits can go on";

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::new()]
    }

    fn actions(&self, _world: &World, steps: &mut Vec<Step>) {
        steps.extend(STEPS);
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        next.step(step, self.0).map(|()| next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            // A reply that was stuck since its decision is taken back in a moment.
            Property::always(BOUND, |_, world: &World| {
                world.again || world.unseen().all(|(returned, _)| world.now <= returned + LEASE)
            }),
            Property::always(SEEN, |_, world: &World| world.again || world.unseen().all(|(_, acked)| !acked)),
            Property::always(MOVES, |model: &Self, world: &World| {
                let waits = matches!(world.stage(), Some(Stage::Known(_))) && !world.notices.is_empty();
                let can = |step| model.next_state(world, step).is_some();
                !waits || can(Step::Decide) || can(Step::Tell)
            }),
        ]
    }
}

fn check(mistake: Mistake, until: HasDiscoveries) -> impl Checker<Protocol> {
    Protocol(mistake).checker().finish_when(until).spawn_bfs().join()
}

#[test]
fn the_protocol_keeps_its_promises_in_every_order_of_events() {
    let checked = check(Mistake::None, HasDiscoveries::Any);
    println!("{} states", checked.unique_state_count());
    checked.assert_properties();
    assert!(checked.unique_state_count() > 10_000, "{}", checked.unique_state_count());
}

#[test]
fn every_mistake_is_caught() {
    for (mistake, property) in [
        (Mistake::LeaseFromReceipt, BOUND),
        (Mistake::KeepLateAnswer, SEEN),
        (Mistake::AckOnDispatch, SEEN),
        (Mistake::NoReplay, BOUND),
        (Mistake::RenewUnknown, BOUND),
        (Mistake::RenewUnacked, BOUND),
        (Mistake::KeepCrossedReply, SEEN),
        (Mistake::NotAgain, SEEN),
        (Mistake::ReplyWaitsForNotice, MOVES),
        (Mistake::NoSweep, BOUND),
    ] {
        let until = HasDiscoveries::AnyOf(BTreeSet::from([property]));
        let found = check(mistake, until).discovery(property);
        let steps = found.map(|path| path.into_actions());
        println!("{mistake:?}: {steps:?}");
        assert!(steps.is_some(), "{mistake:?} is not caught");
    }
}
