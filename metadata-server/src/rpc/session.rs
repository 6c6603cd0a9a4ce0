//! One stream per mount: frames come in here, the outbox sends (DESIGN D19).

use super::{
    Cell,
    attach::{Joined, attach, refused},
    credit::Holder,
    locks::LockReply,
    ops,
    outbox::{Outgoing, Wire, send},
    query,
    sessions::Member,
};
use crate::state::CommandBody;
use sitefs_base::{
    Error, OpId, Result, Tasks,
    limits::{METADATA_DEADLINE, SESSION_OPS_MAX},
    session::{Attach, Closing, ToCell, ToMount},
};
use sitefs_proto::{
    error_from_status, pb,
    pb::{client_frame::Frame, session_server::Session},
};
use std::{
    future::{Future, poll_fn},
    sync::Arc,
    task::Poll,
    time::Duration,
};
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Frames between the outbox and the connection.
const WIRE: usize = 64;
/// Bytes of one session's unanswered operations; beyond it the stream is not read (DESIGN D37).
const OPS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Questions of one session that may be unanswered; beyond it the stream is not read.
const QUERIES_MAX: usize = 64;
/// How long the last frame of a stream may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// The service of that name.
pub(crate) struct SessionService(pub Arc<Cell>);

#[tonic::async_trait]
impl Session for SessionService {
    type OpenStream = ReceiverStream<Result<pb::ServerFrame, Status>>;

    async fn open(
        &self,
        request: Request<Streaming<pb::ClientFrame>>,
    ) -> Result<Response<Self::OpenStream>, Status> {
        let (wire, frames) = mpsc::channel(WIRE);
        let stream = serve(self.0.clone(), request.into_inner(), wire);
        self.0.tasks.spawn(self.0.serving.track_future(stream));
        Ok(Response::new(ReceiverStream::new(frames)))
    }
}

/// An attached stream, as its operations and questions see it.
pub(super) struct Stream {
    pub cell: Arc<Cell>,
    pub member: Member,
    pub holder: Holder,
    pub outgoing: mpsc::Sender<Outgoing>,
    lock_replies: mpsc::Sender<LockReply>,
    tasks: Tasks,
    ops: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    queries: Arc<Semaphore>,
    /// Held by the operation that waits for its volume's pace: those behind it wait for their turn.
    pub turn: Mutex<()>,
}

/// What a frame asks to be answered.
enum Asked {
    Op(OpId),
    Query(u64),
}

impl Asked {
    /// The answer where the frame is none that there can be.
    fn refused(self, error: &Error) -> Outgoing {
        tracing::debug!(error = error.chain(), "a frame is refused");
        match self {
            Self::Op(op) => Outgoing::Reply { op, result: Err(error.errno()) },
            Self::Query(tag) => Outgoing::Answer { tag, result: Err(error.errno()) },
        }
    }
}

/// How a stream ended.
enum End {
    /// The mount has said goodbye.
    Detached,
    /// The connection is gone; the session may come back.
    Lost,
    /// The cell ends it.
    Closed(Closing),
}

async fn serve(cell: Arc<Cell>, mut inbound: Streaming<pb::ClientFrame>, wire: Wire) {
    let joined = match first_frame(&mut inbound).await {
        Ok(request) => attach(&cell, request, &wire).await,
        Err(error) => Err(refused(error)),
    };
    let joined = match joined {
        Ok(joined) => joined,
        Err(closing) => {
            tracing::debug!(?closing, "attach refused");
            let _ = send(&wire, ToMount::Closing(closing)).await;
            return;
        }
    };
    tracing::debug!(session = %joined.member.session, volume = %joined.member.volume, "mount attached");
    run(cell, joined, inbound).await;
}

async fn first_frame(inbound: &mut Streaming<pb::ClientFrame>) -> Result<Attach> {
    let frame = timeout(METADATA_DEADLINE, inbound.message())
        .await
        .map_err(|_| Error::invalid("the stream began without an attach"))?
        .map_err(|status| error_from_status(&status))?
        .ok_or_else(|| Error::invalid("the stream ended before an attach"))?;
    match ToCell::try_from(frame)? {
        ToCell::Attach(attach) => Ok(attach),
        _ => Err(Error::invalid("the first frame of a stream is an attach")),
    }
}

async fn run(cell: Arc<Cell>, joined: Joined, inbound: Streaming<pb::ClientFrame>) {
    let Joined { member, holder, ticket, outbox, outgoing, lock_replies } = joined;
    let stream = Arc::new(Stream {
        cell: cell.clone(),
        member,
        holder,
        outgoing,
        lock_replies,
        tasks: Tasks::new(),
        ops: Arc::new(Semaphore::new(SESSION_OPS_MAX)),
        bytes: Arc::new(Semaphore::new(OPS_BYTES_MAX)),
        queries: Arc::new(Semaphore::new(QUERIES_MAX)),
        turn: Mutex::new(()),
    });
    let outbox = outbox.run();
    tokio::pin!(outbox);
    let end = tokio::select! {
        () = &mut outbox => End::Lost,
        () = ticket.replaced.cancelled() => {
            closed("the session has attached again on another stream")
        }
        () = ticket.deleted.cancelled() => End::Closed(refused(Error::not_found("the volume was deleted"))),
        end = stream.read(inbound) => end,
    };
    if let End::Closed(closing) = &end {
        let farewell = stream.outgoing.send(Outgoing::Close(closing.clone()));
        let _ = timeout(FAREWELL, async { tokio::join!(farewell, outbox) }).await;
    }
    stream.tasks.shutdown().await;
    if !cell.sessions.leave(&ticket) {
        return; // the session goes on, on another stream
    }
    cell.watchers.leave(member.volume, member.session);
    match end {
        End::Detached => forget(&cell, member).await,
        End::Lost | End::Closed(_) => {
            let now = cell.clock.boottime();
            cell.reserved.left(member.session, now);
            cell.credits.left(holder, now);
            stream.locks_left();
        }
    }
    tracing::debug!(session = %member.session, "mount gone");
}

fn closed(reason: &str) -> End {
    End::Closed(Closing::Unavailable { reason: reason.to_owned() })
}

/// The session ends in order: its row goes now instead of in 24 hours.
async fn forget(cell: &Cell, member: Member) {
    cell.reserved.ended(member.session);
    cell.credits.ended(member.volume, member.session);
    cell.locks_ended(member.volume, member.session);
    let body = CommandBody::CloseSession { volume: member.volume, session: member.session };
    if let Err(error) = cell.group.propose(body).await {
        tracing::debug!(session = %member.session, error = error.chain(), "session is left to expire");
    }
}

impl Stream {
    async fn read(self: &Arc<Self>, mut inbound: Streaming<pb::ClientFrame>) -> End {
        loop {
            let frame = tokio::select! {
                biased;
                () = self.cell.closing.cancelled() => {
                    self.finish_ops(FAREWELL).await;
                    return closed("the node is stopping");
                }
                frame = inbound.message() => frame,
            };
            let Ok(Some(frame)) = frame else { return End::Lost };
            let asked = self.asked(&frame);
            match ToCell::try_from(frame) {
                Ok(ToCell::Detach) => {
                    self.finish_ops(METADATA_DEADLINE).await;
                    return End::Detached;
                }
                Ok(frame) => {
                    if let Err(closing) = self.take(frame).await {
                        return End::Closed(closing);
                    }
                }
                // What can be answered ends nothing but itself: others of the session are under way.
                Err(error) => match asked {
                    Some(asked) => self.send(asked.refused(&error)).await,
                    None => return End::Closed(refused(error)),
                },
            }
        }
    }

    /// Who waits for an answer to a frame, as far as that can be seen before it is read in full.
    fn asked(&self, frame: &pb::ClientFrame) -> Option<Asked> {
        match frame.frame.as_ref()? {
            Frame::Op(envelope) if envelope.session[..] == self.member.session.to_key() => {
                Some(Asked::Op(OpId::new(envelope.op)))
            }
            Frame::Query(ask) => Some(Asked::Query(ask.tag)),
            _ => None,
        }
    }

    async fn take(self: &Arc<Self>, frame: ToCell) -> Result<(), Closing> {
        let (volume, session) = (self.member.volume, self.member.session);
        match frame {
            ToCell::Op(envelope) if envelope.session == session => {
                let bytes = ops::weight(&envelope.body).min(OPS_BYTES_MAX);
                let permits = (acquire(&self.ops, 1).await?, acquire(&self.bytes, bytes).await?);
                self.start(ops::run(self.clone(), envelope), permits).await;
            }
            ToCell::Op(_) => return Err(refused(Error::invalid("an operation of another session"))),
            ToCell::Query { tag, query } => {
                let permit = acquire(&self.queries, 1).await?;
                self.start(query::run(self.clone(), tag, query), permit).await;
            }
            ToCell::Ping { client_time, acked, credit } => {
                self.cell.watchers.acked(volume, session, acked);
                self.cell.credits.report(self.holder, credit, self.cell.clock.boottime());
                self.send(Outgoing::Renew { client_time }).await;
            }
            ToCell::Ack { seq } => self.cell.watchers.acked(volume, session, seq),
            ToCell::Lock(request) => self.lock(request, self.lock_permit().await?),
            ToCell::CancelLock { tag } => self.cancel_lock(tag),
            ToCell::ReclaimLocks { tag, locks } => {
                self.reclaim_locks(tag, locks, self.lock_permit().await?);
            }
            ToCell::Attach(_) => return Err(refused(Error::invalid("a second attach on one stream"))),
            ToCell::Detach => {}
        }
        Ok(())
    }

    /// Begins `work` here and goes on with it in a task. That its first step runs at once brings
    /// operations to the group in the order of their arrival.
    async fn start<P: Send + 'static>(&self, work: impl Future<Output = ()> + Send + 'static, permit: P) {
        let mut work = Box::pin(async move {
            work.await;
            drop(permit);
        });
        if poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await.is_pending() {
            self.tasks.spawn(work);
        }
    }

    /// A place for one answer about locks.
    async fn lock_permit(&self) -> Result<mpsc::OwnedPermit<LockReply>, Closing> {
        let permit = self.lock_replies.clone().reserve_owned().await;
        permit.map_err(|_| refused(Error::unavailable("the stream is ending")))
    }

    async fn finish_ops(&self, limit: Duration) {
        let all = self.ops.acquire_many(SESSION_OPS_MAX as u32);
        if timeout(limit, all).await.is_err() {
            tracing::debug!(session = %self.member.session, "stream ends with unfinished operations");
        }
    }

    /// Hands a frame to the outbox; if that has ended, so will this stream.
    pub async fn send(&self, outgoing: Outgoing) {
        let _ = self.outgoing.send(outgoing).await;
    }
}

async fn acquire(limit: &Arc<Semaphore>, permits: usize) -> Result<OwnedSemaphorePermit, Closing> {
    let permits = u32::try_from(permits).unwrap_or(u32::MAX);
    let acquired = limit.clone().acquire_many_owned(permits).await;
    acquired.map_err(|_| refused(Error::unavailable("the stream is ending")))
}
