//! Operations whose reply did not come in time: their outcome is learned later, exactly once.
//!
//! Nobody waits for such an operation any more, and what it carried may be sent again by another one.
//! So from then on the session repeats it with a body that is always refused: if it was executed the
//! cell answers with its receipt, and if not it never will be (DESIGN D12).

use super::*;
use sitefs_base::{InodeId, limits::REPLY_WINDOW, op::Commit};

/// How far the newest operation may be from the oldest without a reply. Those that hold a place may
/// begin all at once.
const WINDOW: u64 = (REPLY_WINDOW - SESSION_OPS_MAX) as u64;

/// An operation, also when its session is over.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OpKey {
    /// The session.
    pub session: SessionId,
    /// Its operation.
    pub op: OpId,
}

/// What became of an operation within its deadline.
#[derive(Clone, PartialEq, Debug)]
pub enum Sent {
    /// The reply.
    Answered(OpResult),
    /// It was sent, and there is no reply yet: [`Session::late`] will have it. It must be released.
    Late(OpKey),
    /// It was not sent, or the cell has forgotten the session: it will never be known.
    Unknown,
}

/// What is known of a late operation.
#[derive(Clone, PartialEq, Debug)]
pub enum Late {
    /// The reply. A refusal says that it was not executed and will not be.
    Answered(OpResult),
    /// There is no reply yet.
    Waiting,
    /// The cell has forgotten the session.
    Lost,
}

/// An operation that is refused in every state of every volume: the root is never of that version.
pub fn never_executed() -> op::Op {
    op::Op::Commit(Commit {
        ino: InodeId::ROOT,
        expect_cver: Some(Seq::new(u64::MAX)),
        content: None,
        set: op::SetAttr::default(),
        changed: None,
        create: None,
        link: None,
        uploaded: Vec::new(),
    })
}

impl State {
    /// No reply below this operation is needed any more.
    pub(super) fn ack_below(&self, otherwise: OpId) -> OpId {
        let first = OpKey { session: self.id, op: OpId::new(0) };
        let late = self.late.range(first..).next().map(|(key, _)| key).filter(|key| key.session == self.id);
        let oldest = self.ops.keys().next().copied().into_iter().chain(late.map(|key| key.op)).min();
        oldest.unwrap_or(otherwise)
    }

    pub(super) fn has_window(&self) -> bool {
        self.next_op.get() - self.ack_below(self.next_op).get() < WINDOW
    }

    fn is_unanswered(&self, key: OpKey) -> bool {
        key.session == self.id && self.ops.contains_key(&key.op)
    }

    fn late(&self, key: OpKey) -> Late {
        match self.late.get(&key) {
            Some(Some(result)) => Late::Answered(result.clone()),
            None if self.is_unanswered(key) => Late::Waiting,
            Some(None) | None => Late::Lost,
        }
    }
}

impl Session {
    /// Executes a mutation like [`Self::mutate`], and tells a reply from the lack of one.
    pub fn send(&self, body: op::Op, deadline: Duration) -> Sent {
        self.send_as(None, body, deadline)
    }

    /// A number for an operation that is sent later: whoever writes it down first can ask what became of
    /// the operation after a crash. It must be released.
    pub fn reserve(&self) -> OpKey {
        let mut state = self.state();
        let key = OpKey { session: state.id, op: state.next_op };
        state.next_op = key.op.next();
        state.late.insert(key, None);
        key
    }

    /// [`Self::send`] under a reserved number; the cell keeps the receipt until it is released.
    pub fn send_reserved(&self, key: OpKey, body: op::Op, deadline: Duration) -> Sent {
        self.send_as(Some(key), body, deadline)
    }

    fn send_as(&self, reserved: Option<OpKey>, body: op::Op, deadline: Duration) -> Sent {
        self.counters.operations.inc();
        let sent = self.send_and_wait(reserved, body, deadline);
        if !matches!(sent, Sent::Answered(_)) {
            self.counters.unanswered.inc();
        }
        sent
    }

    fn send_and_wait(&self, reserved: Option<OpKey>, body: op::Op, deadline: Duration) -> Sent {
        self.handle.block_on(async {
            let until = Instant::now() + deadline;
            let Ok(Ok((key, mut answer))) = timeout_at(until, self.begin(reserved, body)).await else {
                return match self.state().ended {
                    Some(errno) => Sent::Answered(Err(errno)),
                    None => Sent::Unknown,
                };
            };
            match timeout_at(until, &mut answer).await {
                Ok(Ok(result)) => Sent::Answered(result),
                Ok(Err(_)) => Sent::Unknown,
                Err(_) => self.give_up_waiting(key, answer),
            }
        })
    }

    fn give_up_waiting(&self, key: OpKey, mut answer: oneshot::Receiver<OpResult>) -> Sent {
        let mut state = self.state();
        if state.is_unanswered(key)
            && let Some(pending) = state.ops.get_mut(&key.op)
        {
            let body = std::mem::replace(&mut pending.body, never_executed());
            pending.replaced = Some(touched(&body));
            pending.late = true;
            return Sent::Late(key);
        }
        // The reply came at the last moment.
        answer.try_recv().map_or(Sent::Unknown, Sent::Answered)
    }

    /// What became of a late operation; waits for its reply at most `wait`.
    pub fn late(&self, key: OpKey, wait: Duration) -> Late {
        let unanswered = |state: &mut State| state.is_unanswered(key);
        let waited = self.late_reply.wait_timeout_while(self.state(), wait, unanswered);
        waited.unwrap_or_else(PoisonError::into_inner).0.late(key)
    }

    /// Nobody needs the reply of a late operation any more: until now the cell keeps it, so that a mount
    /// that dies can ask again.
    pub fn release(&self, key: OpKey) {
        let mut state = self.state();
        state.late.remove(&key);
        if state.is_unanswered(key)
            && let Some(pending) = state.ops.get_mut(&key.op)
        {
            (pending.late, pending.held) = (false, false);
        }
        drop(state);
        self.window.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::attached;
    use super::*;
    use sitefs_base::SystemClock;
    use tokio::{runtime::Runtime, sync::mpsc::Receiver};

    const SOON: Duration = Duration::from_secs(20);

    /// Deadlines pass while nobody waits on the runtime, as in a mount.
    fn runtime() -> Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    fn session(runtime: &Runtime) -> (Session, Receiver<ToCell>) {
        let session = Session::new(SessionId::new(1), runtime.handle().clone(), Arc::new(SystemClock));
        let (link, sent) = mpsc::channel(FRAMES_MAX);
        session.link_up(attached(VolumeSettings::default(), Credit::NONE), link);
        (session, sent)
    }

    fn body() -> op::Op {
        op::Op::AllocInodes { count: 1 }
    }

    fn reply(op: OpId, result: OpResult) -> ToMount {
        ToMount::OpReply { op, result, credit: Credit::NONE }
    }

    fn done() -> Outcome {
        Outcome { seq: Seq::new(5), ino: None, attrs: Vec::new(), extra: op::Extra::None }
    }

    /// An operation that the cell did not answer in time.
    fn late(session: &Session) -> OpKey {
        match session.send(body(), Duration::ZERO) {
            Sent::Late(key) => key,
            other => panic!("{other:?}"),
        }
    }

    fn next_op(sent: &mut Receiver<ToCell>) -> OpEnvelope {
        loop {
            match sent.blocking_recv() {
                Some(ToCell::Op(envelope)) => return envelope,
                Some(_) => {}
                None => panic!("nothing more is sent"),
            }
        }
    }

    #[test]
    fn what_nobody_waits_for_is_sent_again_without_its_content_and_its_reply_is_kept() {
        let runtime = runtime();
        let (session, mut sent) = session(&runtime);
        let key = late(&session);
        assert_eq!(next_op(&mut sent).body, body());
        assert_eq!(session.late(key, Duration::ZERO), Late::Waiting);
        session.link_down();
        let (link, _again) = mpsc::channel(FRAMES_MAX);
        let frames = session.link_up(attached(VolumeSettings::default(), Credit::NONE), link);
        let [ToCell::Op(again)] = &frames[..] else { panic!("{frames:?}") };
        assert_eq!((again.op, &again.body), (key.op, &never_executed()));
        session.receive(reply(key.op, Ok(done())));
        assert_eq!(session.late(key, SOON), Late::Answered(Ok(done())));
        assert_eq!(session.late(key, SOON), Late::Answered(Ok(done())), "until it is released");
        session.release(key);
        assert_eq!(session.late(key, SOON), Late::Lost);
    }

    #[test]
    fn the_cell_keeps_the_receipt_until_it_is_released() {
        let runtime = runtime();
        let (session, mut sent) = session(&runtime);
        let key = late(&session);
        session.receive(reply(key.op, Err(Errno::ESTALE)));
        late(&session);
        next_op(&mut sent);
        assert_eq!(next_op(&mut sent).ack_below, key.op);
        session.release(key);
        let next = late(&session);
        assert_eq!(next_op(&mut sent).ack_below, OpId::new(next.op.get() - 1));
    }

    #[test]
    fn a_reserved_operation_is_known_before_it_is_sent_and_held_until_it_is_released() {
        let runtime = runtime();
        let (session, mut sent) = session(&runtime);
        let key = session.reserve();
        late(&session);
        assert_eq!(next_op(&mut sent).ack_below, key.op, "held before it is sent");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!(next_op(&mut sent).op, key.op);
                session.receive(reply(key.op, Ok(done())));
            });
            assert_eq!(session.send_reserved(key, body(), SOON), Sent::Answered(Ok(done())));
        });
        assert_eq!(session.late(key, SOON), Late::Answered(Ok(done())), "held after its reply");
        session.release(key);
        assert_eq!(session.late(key, SOON), Late::Lost);
        let old = session.reserve();
        session.begin_again(SessionId::new(2));
        assert_eq!(session.send_reserved(old, body(), SOON), Sent::Unknown, "it is of another session");
    }

    #[test]
    fn a_session_that_the_cell_forgot_leaves_the_outcome_unknown() {
        let runtime = runtime();
        let (session, _sent) = session(&runtime);
        let key = late(&session);
        session.begin_again(SessionId::new(2));
        assert_eq!(session.late(key, SOON), Late::Lost);
        let next = late(&session);
        assert_eq!(next.op, key.op, "another session counts anew");
        assert_eq!(
            (session.late(key, SOON), session.late(next, Duration::ZERO)),
            (Late::Lost, Late::Waiting)
        );
    }

    #[test]
    fn operations_wait_when_the_window_of_receipts_is_full() {
        let runtime = runtime();
        let (session, mut sent) = session(&runtime);
        let key = late(&session);
        session.receive(reply(key.op, Ok(done())));
        std::thread::scope(|scope| {
            let cell = scope.spawn(|| {
                // All but the first are answered, until no more come.
                let mut answered = 0;
                while answered < WINDOW - 1 {
                    let op = next_op(&mut sent).op;
                    if op != key.op {
                        session.receive(reply(op, Ok(done())));
                        answered += 1;
                    }
                }
                sent
            });
            (1..WINDOW).for_each(|_| assert!(matches!(session.send(body(), SOON), Sent::Answered(Ok(_)))));
            drop(cell.join());
        });
        assert_eq!(session.send(body(), Duration::from_millis(50)), Sent::Unknown, "it was not sent");
        session.release(key);
        assert!(matches!(session.send(body(), Duration::ZERO), Sent::Late(_)));
    }

    #[test]
    fn a_reply_that_nobody_needs_any_more_holds_nothing() {
        let runtime = runtime();
        let (session, mut sent) = session(&runtime);
        let key = late(&session);
        session.release(key);
        session.receive(reply(key.op, Ok(done())));
        let next = late(&session);
        next_op(&mut sent);
        assert_eq!(next_op(&mut sent).ack_below, next.op);
    }
}
