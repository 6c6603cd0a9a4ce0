//! The session as operations see it: they put a request in and wait for its reply, whatever
//! happens to the connection meanwhile. [`super::remote`] carries the frames.

mod late;

pub use late::{Late, OpKey, Sent, never_executed};

use super::credit::Credits;
use super::doubt::touched;
use super::lease::Lease;
use super::locks::Locks;
use super::{Cx, Op, Stop};
use crate::metrics::SessionCounters;
use sitefs_base::limits::{METADATA_DEADLINE, SESSION_OPS_MAX};
use sitefs_base::op::{Answer, AnswerBody, Change, Credit, OpEnvelope, OpResult, Outcome, Query, Usage};
use sitefs_base::session::{Attached, ToCell, ToMount};
use sitefs_base::{Clock, Errno, OpId, Seq, ServeStale, SessionId, VolumeSettings, op};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, timeout_at},
};

/// Questions that may be unanswered at a time.
const QUERIES_MAX: usize = 256;
/// Frames waiting to be sent; more than all operations and questions together.
pub const FRAMES_MAX: usize = 2 * (SESSION_OPS_MAX + QUERIES_MAX);

/// How long a writer waits for credit beside a cell that answers.
const CREDIT_WAIT: Duration = Duration::from_secs(1);
/// How soon a writer asks again while there is no room for what it writes.
const CREDIT_RETRY: Duration = Duration::from_millis(100);
/// A cell that has not answered so many asks is taken for gone until it answers again.
const UNANSWERED_MAX: u32 = 3;
/// How long a question waits without a lease, where an old answer may be given instead (DESIGN D28).
const STALE_AFTER: Duration = Duration::from_millis(500);
/// How long old answers may be given after the end of the lease (DESIGN D28).
const STALE_MAX: Duration = Duration::from_secs(24 * 3600);

type QueryReply = oneshot::Sender<Result<Answer, Errno>>;

struct PendingOp {
    body: op::Op,
    /// What the body would have changed in whose place another one is sent now.
    replaced: Option<Vec<Change>>,
    reply: oneshot::Sender<OpResult>,
    /// Nobody waits for its reply now, and it is kept.
    late: bool,
    /// Its reply is kept although somebody waits for it.
    held: bool,
    /// The operation's place, held until its reply is there even if nobody waits for it any more.
    _slot: OwnedSemaphorePermit,
}

impl PendingOp {
    /// Nobody waits for the reply any more.
    fn is_in_doubt(&self) -> bool {
        self.reply.is_closed()
    }

    /// What it changes if it is executed.
    fn touched(&self) -> Vec<Change> {
        self.replaced.clone().unwrap_or_else(|| touched(&self.body))
    }
}

struct State {
    id: SessionId,
    next_op: OpId,
    next_tag: u64,
    ops: BTreeMap<OpId, PendingOp>,
    /// Replies that came too late and are still needed; `None` where none will ever come.
    late: BTreeMap<OpKey, Option<OpResult>>,
    queries: HashMap<u64, (Query, QueryReply)>,
    link: Option<mpsc::Sender<ToCell>>,
    attached: Option<Attached>,
    applied: Seq,
    /// Events up to here are in force at the kernel too.
    acked: Seq,
    /// The volume's position, as the cell last said.
    watermark: Seq,
    /// Events that came, and those that are in force at the kernel.
    events: (u64, u64),
    usage: Usage,
    settings: VolumeSettings,
    /// Why nothing is sent any more.
    ended: Option<Errno>,
    /// The mount has said, or is about to say, that it goes.
    leaving: bool,
}

/// What `sitefs status` may tell of a session.
#[derive(Clone, Debug)]
pub struct SessionStatus {
    /// The session.
    pub id: SessionId,
    /// Whether a stream is attached now.
    pub connected: bool,
    /// The volume's position, as the cell last said.
    pub seq: Seq,
    /// Events that came and are not in force at the kernel yet.
    pub behind: u64,
    /// Operations without a reply.
    pub unanswered: usize,
    /// How long the lease goes on; without one nothing remembered is believed.
    pub lease_left: Option<Duration>,
    /// What operators chose about the volume; nobody may write if that says why.
    pub settings: VolumeSettings,
}

/// A mount's session with its cell.
pub struct Session {
    state: Mutex<State>,
    /// Notified when the kernel was told of events.
    told: Condvar,
    lease: Lease,
    /// Whether reads may be answered from memory without a lease.
    stale_reads: AtomicBool,
    /// Whether a question without a lease waited in vain, and nothing has been heard since.
    silent: AtomicBool,
    /// Frames heard.
    heard: AtomicU64,
    credits: Arc<Credits>,
    locks: Locks,
    counters: SessionCounters,
    /// Whether the settings say that nobody may write.
    read_only: AtomicBool,
    op_slots: Arc<Semaphore>,
    query_slots: Semaphore,
    /// The window of operations has moved on.
    window: Notify,
    /// A reply came for somebody who does not wait in line.
    late_reply: Condvar,
    handle: Handle,
    clock: Arc<dyn Clock>,
}

impl Session {
    /// A session that is not attached yet; waiting happens on `handle`'s runtime.
    pub fn new(id: SessionId, handle: Handle, clock: Arc<dyn Clock>) -> Self {
        let state = State {
            id,
            next_op: OpId::new(1),
            next_tag: 1,
            ops: BTreeMap::new(),
            late: BTreeMap::new(),
            queries: HashMap::new(),
            link: None,
            attached: None,
            applied: Seq::ZERO,
            acked: Seq::ZERO,
            watermark: Seq::ZERO,
            events: (0, 0),
            usage: Usage::default(),
            settings: VolumeSettings::default(),
            ended: None,
            leaving: false,
        };
        Self {
            state: Mutex::new(state),
            told: Condvar::new(),
            lease: Lease::new(Arc::clone(&clock)),
            stale_reads: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            credits: Arc::default(),
            locks: Locks::new(Arc::clone(&clock)),
            counters: SessionCounters::default(),
            read_only: AtomicBool::new(false),
            op_slots: Arc::new(Semaphore::new(SESSION_OPS_MAX)),
            query_slots: Semaphore::new(QUERIES_MAX),
            window: Notify::new(),
            late_reply: Condvar::new(),
            handle,
            clock,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session's id.
    pub fn id(&self) -> SessionId {
        self.state().id
    }

    /// The runtime on which waiting happens.
    pub fn runtime(&self) -> &Handle {
        &self.handle
    }

    /// What the cell said at the last attach.
    pub fn attached(&self) -> Option<Attached> {
        self.state().attached.clone()
    }

    /// Space and inodes, as last heard, with what is written here and not committed.
    pub fn usage(&self) -> Usage {
        let (mut usage, here) = (self.state().usage, self.credits.in_use());
        usage.bytes_used = usage.bytes_used.saturating_add(here.bytes);
        usage.inodes_used = usage.inodes_used.saturating_add(here.inodes);
        usage
    }

    /// The lease.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Whether what is remembered may be believed now.
    pub fn has_lease(&self) -> bool {
        self.lease.is_live()
    }

    /// Whether old answers are better than none: there was a lease, it has not been over for too long,
    /// and operators want it so (DESIGN D28).
    pub fn may_serve_stale(&self) -> bool {
        self.stale_reads.load(Ordering::Acquire)
            && self.lease.over_for().is_some_and(|over| over <= STALE_MAX)
    }

    /// Waits a little for a lease if there is none; the error is for what must not begin without one.
    pub fn wait_for_lease(&self, limit: Duration) -> Result<(), Errno> {
        let ended = self.state().ended;
        match ended {
            Some(errno) => Err(errno),
            None if self.lease.wait(limit) => Ok(()),
            None => Err(Errno::EIO),
        }
    }

    /// The session's credit.
    pub fn credits(&self) -> &Arc<Credits> {
        &self.credits
    }

    /// The locks of this mount.
    pub fn locks(&self) -> &Locks {
        &self.locks
    }

    /// Waits until the kernel has been told of the events up to `seq`; whether it has within `limit`.
    pub fn wait_told(&self, seq: Seq, limit: Duration) -> bool {
        let behind = |state: &mut State| state.acked < seq && state.ended.is_none();
        let waited = self.told.wait_timeout_while(self.state(), limit, behind);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// What it has counted.
    pub fn counters(&self) -> &SessionCounters {
        &self.counters
    }

    /// Whether operators made the volume read-only.
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }

    /// Asks the cell for more credit, without waiting.
    pub fn ask_for_credit(&self) {
        let link = self.state().link.clone();
        if let Some(link) = link {
            // If there is no room, the next ping asks.
            let _ = link.try_send(self.ping());
        }
    }

    /// Waits until there is credit for `more`, at most a second beside a cell that answers: `EDQUOT` if
    /// the volume has no room for it, `EIO` if the cell does not come back to say.
    pub fn wait_for_credit(&self, more: Credit) -> Result<(), Errno> {
        let wanted = self.credits.want(more);
        let waited = self.wait_for_room(more);
        drop(wanted);
        if waited.is_err() {
            // Others need not wait until the next ping says that this is not wanted any more.
            self.ask_for_credit();
        }
        waited
    }

    fn wait_for_room(&self, more: Credit) -> Result<(), Errno> {
        let now = || self.clock.boottime();
        let (mut ask_at, give_up) = (now(), now() + METADATA_DEADLINE);
        let (mut asked, mut unanswered, mut answered_since, mut full) = (0, 0, None, false);
        loop {
            let seen = self.credits.answers();
            if self.credits.has_room(more) {
                return Ok(());
            }
            let until = answered_since.map_or(give_up, |since: Duration| give_up.min(since + CREDIT_WAIT));
            if full || now() >= until {
                return Err(if answered_since.is_some() { Errno::EDQUOT } else { Errno::EIO });
            }
            if let Some(errno) = self.state().ended {
                return Err(errno);
            }
            if now() >= ask_at {
                // A cell that restarts has to hear from the others again.
                answered_since = answered_since.filter(|_| unanswered < UNANSWERED_MAX);
                self.ask_for_credit();
                (asked, unanswered, ask_at) = (asked + 1, unanswered + 1, now() + CREDIT_RETRY);
            }
            // The cell tells of what others give back without being asked.
            let heard = self.credits.wait_behind(seen, until.min(ask_at).saturating_sub(now()));
            if heard {
                unanswered = 0;
                answered_since.get_or_insert_with(now);
            }
            let usage = self.usage();
            full = heard && asked > 1 && !usage.limit().covers(usage.used().plus(more));
        }
    }

    fn heard_settings(&self, state: &mut State, settings: VolumeSettings) {
        if state.settings.read_only != settings.read_only {
            match &settings.read_only {
                Some(reason) => tracing::warn!(reason, "the volume is read-only"),
                None => tracing::info!("the volume can be written again"),
            }
            self.read_only.store(settings.read_only.is_some(), Ordering::Release);
        }
        self.stale_reads.store(settings.serve_stale == ServeStale::Reads, Ordering::Release);
        state.settings = settings;
    }

    /// Whether there is a stream to the cell now.
    pub fn is_attached(&self) -> bool {
        self.state().link.is_some()
    }

    /// The position of the feed that has been applied.
    pub fn applied(&self) -> Seq {
        self.state().applied
    }

    /// How the session stands.
    pub fn status(&self) -> SessionStatus {
        let state = self.state();
        SessionStatus {
            id: state.id,
            behind: state.events.0.saturating_sub(state.events.1),
            connected: state.link.is_some(),
            settings: state.settings.clone(),
            seq: state.applied.max(state.watermark),
            unanswered: state.ops.len(),
            lease_left: self.lease.left(),
        }
    }

    /// Executes a mutation. Waits for a place, then at most `deadline` for the reply; after that
    /// the operation goes on in the background and its outcome is unknown (`EIO`).
    pub fn mutate(&self, body: op::Op, deadline: Duration) -> Result<Outcome, Errno> {
        self.counters.operations.inc();
        self.handle.block_on(async {
            let until = Instant::now() + deadline;
            let begun = timeout_at(until, self.begin(None, body)).await;
            let answered = match begun {
                Ok(begun) => {
                    let (_, mut answer) = begun?;
                    match timeout_at(until, &mut answer).await {
                        Ok(answered) => return answered.unwrap_or(Err(Errno::EIO)),
                        Err(_) => {
                            // From here on the outcome is in doubt, unless the reply came at the last moment.
                            answer.close();
                            answer.try_recv().ok()
                        }
                    }
                }
                Err(_) => None,
            };
            answered.unwrap_or_else(|| {
                self.counters.unanswered.inc();
                Err(Errno::EIO)
            })
        })
    }

    /// Whether an operation whose outcome nobody knows yet may change one of these.
    pub fn is_in_doubt(&self, touches: impl Fn(&Change) -> bool) -> bool {
        let state = self.state();
        state.ops.values().any(|op| op.is_in_doubt() && op.touched().iter().any(&touches))
    }

    /// Sends a mutation as soon as there is a place for it.
    async fn begin(
        &self,
        reserved: Option<OpKey>,
        body: op::Op,
    ) -> Result<(OpKey, oneshot::Receiver<OpResult>), Errno> {
        let slot = Arc::clone(&self.op_slots).acquire_owned().await.map_err(|_| Errno::EIO)?;
        loop {
            let mut moved = std::pin::pin!(self.window.notified());
            moved.as_mut().enable();
            if reserved.is_some() || self.state().has_window() {
                break;
            }
            moved.await;
        }
        let (reply, answer) = oneshot::channel();
        let (key, frame, link) = self.register_op(reserved, body, reply, slot)?;
        if let Some(link) = link {
            // A link that just broke is replaced, and the new one carries the frame.
            let _ = link.send(frame).await;
        }
        Ok((key, answer))
    }

    fn register_op(
        &self,
        reserved: Option<OpKey>,
        body: op::Op,
        reply: oneshot::Sender<OpResult>,
        slot: OwnedSemaphorePermit,
    ) -> Result<(OpKey, ToCell, Option<mpsc::Sender<ToCell>>), Errno> {
        let mut state = self.state();
        if let Some(errno) = state.ended {
            return Err(errno);
        }
        let session = state.id;
        let key = match reserved {
            Some(key) if key.session != session => return Err(Errno::EIO),
            Some(key) => key,
            None => OpKey { session, op: state.next_op },
        };
        let op = key.op;
        state.late.remove(&key);
        state.next_op = state.next_op.max(op.next());
        let held = reserved.is_some();
        state.ops.insert(
            op,
            PendingOp { body: body.clone(), replaced: None, reply, late: false, held, _slot: slot },
        );
        let (ack_below, link) = (state.ack_below(op), state.link.clone());
        Ok((key, ToCell::Op(OpEnvelope { session, op, ack_below, body }), link))
    }

    /// Asks the cell; with [`Cx::Fast`] it would have to wait, so it does not ask. Where an old answer
    /// may be given instead the wait is short, and there is none once the cell is known to be silent.
    pub fn ask(&self, cx: Cx, query: Query) -> Op<(Seq, AnswerBody)> {
        let hurry = !self.has_lease() && self.may_serve_stale();
        if hurry && self.silent.load(Ordering::Acquire) {
            return Err(self.state().ended.unwrap_or(Errno::EIO).into());
        }
        if cx == Cx::Fast {
            return Err(Stop::WouldBlock);
        }
        self.counters.questions.inc();
        let heard = self.heard.load(Ordering::Acquire);
        let patience = if hurry { STALE_AFTER } else { METADATA_DEADLINE };
        // Inside the runtime: a timeout cannot be made elsewhere.
        let waited = async { tokio::time::timeout(patience, self.answer_to(query)).await };
        let asked = self.handle.block_on(waited);
        let answer = asked.unwrap_or_else(|_| {
            self.counters.unanswered.inc();
            if hurry && self.heard.load(Ordering::Acquire) == heard {
                self.silent.store(true, Ordering::Release);
            }
            Err(Errno::EIO)
        })?;
        Ok((answer.seq, answer.body))
    }

    async fn answer_to(&self, query: Query) -> Result<Answer, Errno> {
        let _slot = self.query_slots.acquire().await.map_err(|_| Errno::EIO)?;
        let (reply, answer) = oneshot::channel();
        let (frame, link) = {
            let mut state = self.state();
            if let Some(errno) = state.ended {
                return Err(errno);
            }
            let tag = state.next_tag;
            state.next_tag += 1;
            state.queries.insert(tag, (query.clone(), reply));
            (ToCell::Query { tag, query }, state.link.clone())
        };
        if let Some(link) = link {
            let _ = link.send(frame).await;
        }
        answer.await.unwrap_or(Err(Errno::EIO))
    }

    /// A stream is attached: everything unanswered has to be sent again, in this order.
    pub fn link_up(&self, attached: Attached, link: mpsc::Sender<ToCell>) -> Vec<ToCell> {
        self.counters.attached.inc();
        let mut state = self.state();
        // The questions of callers that gave up need no answer.
        state.queries.retain(|_, (_, reply)| !reply.is_closed());
        state.next_op = state.next_op.max(attached.op_high_water.next());
        state.usage = attached.usage;
        self.heard_settings(&mut state, attached.settings.clone());
        self.credits.attached(attached.credit);
        if !attached.resumed {
            state.applied = attached.seq;
            state.acked = attached.seq;
            state.watermark = attached.seq;
        }
        if attached.at.is_some() {
            self.lease.renew_for_ever();
        }
        self.hears();
        state.attached = Some(attached);
        state.link = Some(link.clone());
        let ack_below = state.ack_below(state.next_op);
        let ops = state.ops.iter().map(|(op, pending)| {
            ToCell::Op(OpEnvelope { session: state.id, op: *op, ack_below, body: pending.body.clone() })
        });
        let queries =
            state.queries.iter().map(|(tag, (query, _))| ToCell::Query { tag: *tag, query: query.clone() });
        let frames = ops.chain(queries).collect();
        drop(state);
        self.locks.link_up(link);
        frames
    }

    /// The stream is gone.
    pub fn link_down(&self) {
        self.state().link = None;
        self.locks.link_down();
    }

    /// The cell has forgotten the session: what was unanswered has an unknown outcome, and the
    /// mount goes on as session `id`.
    pub fn begin_again(&self, id: SessionId) {
        let old = {
            let mut state = self.state();
            state.next_op = OpId::new(1);
            state.attached = None;
            std::mem::replace(&mut state.id, id)
        };
        self.fail_all_of(old, None);
    }

    /// Nothing will be answered any more: what is unanswered and all that comes fails with `errno`.
    pub fn end(&self, errno: Errno) {
        let id = {
            let mut state = self.state();
            state.ended = Some(errno);
            state.id
        };
        self.locks.end(errno);
        self.fail_all_of(id, Some(errno));
    }

    /// Gives up on everything that is unanswered: its outcome is unknown.
    pub fn fail_all(&self) {
        let id = self.state().id;
        self.fail_all_of(id, None);
    }

    /// Ends the waits of all who hear nothing more of session `id`.
    fn fail_all_of(&self, id: SessionId, errno: Option<Errno>) {
        let mut state = self.state();
        for (op, pending) in std::mem::take(&mut state.ops) {
            if pending.late {
                state.late.insert(OpKey { session: id, op }, None);
            } else if let Some(errno) = errno {
                let _ = pending.reply.send(Err(errno));
            }
        }
        for (_, (_, reply)) in std::mem::take(&mut state.queries) {
            let _ = reply.send(Err(errno.unwrap_or(Errno::EIO)));
        }
        drop(state);
        self.late_reply.notify_all();
        self.window.notify_waiters();
        self.locks.lost();
    }

    fn hears(&self) {
        self.heard.fetch_add(1, Ordering::AcqRel);
        self.silent.store(false, Ordering::Release);
    }

    /// Takes in a frame that answers something or moves the session on. Gives what an operation may have
    /// changed whose caller was told that its outcome is unknown.
    pub fn receive(&self, frame: ToMount) -> Option<Vec<Change>> {
        self.hears();
        let mut state = self.state();
        match frame {
            ToMount::OpReply { op, result, credit } => {
                self.credits.heard(credit);
                let pending = state.ops.remove(&op)?;
                if pending.late || pending.held {
                    let key = OpKey { session: state.id, op };
                    state.late.insert(key, Some(result.clone()));
                }
                let in_doubt = pending.is_in_doubt().then(|| pending.touched());
                let PendingOp { body, reply, .. } = pending;
                let unheard = reply.send(result).is_err();
                drop(state);
                self.late_reply.notify_all();
                self.window.notify_waiters();
                if unheard {
                    return in_doubt.or_else(|| Some(touched(&body)));
                }
            }
            ToMount::Answer { tag, result } => {
                let (_, reply) = state.queries.remove(&tag)?;
                drop(state);
                let _ = reply.send(result);
            }
            ToMount::Renew { client_time, quorum_age, watermark, usage, settings, credit } => {
                state.watermark = watermark;
                self.heard_settings(&mut state, settings);
                // Events up to the watermark came before: the feed is as far as the lease says.
                self.lease.renew(client_time, quorum_age);
                state.usage = usage;
                drop(state);
                // Behind the use: a writer that hears of its credit looks at both.
                self.credits.heard(credit);
            }
            ToMount::Credit { credit, usage, answer } => {
                state.usage = usage;
                drop(state);
                self.credits.heard(credit);
                if answer {
                    self.ask_for_credit();
                }
            }
            ToMount::Event(event) => {
                state.applied = state.applied.max(event.seq);
                state.events.0 += 1;
            }
            ToMount::Resync { floor } => {
                state.applied = floor;
                state.acked = floor;
                state.events.1 = state.events.0;
            }
            ToMount::LockReply { tag, result } => {
                drop(state);
                self.locks.receive(tag, result);
            }
            ToMount::Attached(_) | ToMount::Closing(_) => {}
        }
        None
    }

    /// Whether the mount is on its way out: a stream that ends then is no surprise.
    pub fn is_leaving(&self) -> bool {
        self.state().leaving
    }

    /// Tells the cell that the session ends, if there is a stream.
    pub async fn detach(&self) {
        let link = {
            let mut state = self.state();
            state.leaving = true;
            state.link.clone()
        };
        if let Some(link) = link
            && link.send(ToCell::Detach).await.is_ok()
        {
            // The cell closes the stream when it has taken this in.
            let _ = tokio::time::timeout(METADATA_DEADLINE, link.closed()).await;
        }
    }

    /// Tells the cell that `events` more of its events are in force here, the last of them at `seq`. Never
    /// waits: if there is no room, the next ping says it.
    pub fn acknowledge(&self, seq: Seq, events: u64) {
        let mut state = self.state();
        state.acked = state.acked.max(seq);
        self.told.notify_all();
        state.events.1 += events;
        if seq == state.applied {
            // Notices in between were lost to a full queue, which took back everything.
            state.events.1 = state.events.0;
        }
        if let Some(link) = &state.link {
            let _ = link.try_send(ToCell::Ack { seq });
        }
    }

    /// Changes whenever something happens between this mount and the cell, but for pings.
    pub fn activity(&self) -> (u64, u64, Seq) {
        (self.counters.operations.get(), self.counters.questions.get(), self.state().acked)
    }

    /// The next ping.
    pub fn ping(&self) -> ToCell {
        let acked = self.state().acked;
        ToCell::Ping { client_time: self.clock.boottime(), acked, credit: self.credits.said() }
    }
}

#[cfg(test)]
mod lease_tests;
#[cfg(test)]
mod tests;
