//! The connection that carries a session: attach, frames in both directions, re-attach.
//! With [`crate::data`]'s transfers through the cell, the only user of tonic in this crate.

use super::route::Route;
use super::service::Watcher;
use super::session::{FRAMES_MAX, Session};
use sitefs_base::session::{Attach, Attached, Closing, PROTOCOL_MAX, PROTOCOL_MIN, ToCell, ToMount};
use sitefs_base::{Errno, Error, Identity, Kind, Moment, Random, Result, SessionId, VolumeName, limits};
use sitefs_proto::pb::session_client::SessionClient;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::{Instant, timeout},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::Streaming;

const PING_EVERY: Duration = Duration::from_secs(1);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// With the jitter one attempt each second, which is also how a mount without a lease asks for the cell.
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// The same where several nodes are asked, each of which says at once whether it leads.
const BACKOFF_MAX_OF_SEVERAL: Duration = Duration::from_millis(100);
/// A mount with which nothing happens pings at every second tick: the lease bears it.
const IDLE_TICKS: u32 = 2;
/// A stream that brings nothing for so long is taken for dead: pings are answered.
const SILENCE_MAX: Duration = limits::LEASE;
/// The same where another node may lead by now.
const SILENCE_MAX_OF_SEVERAL: Duration = Duration::from_millis(2500);
/// How long one of several nodes may take to let a mount in.
const ATTACH_DEADLINE_OF_SEVERAL: Duration = Duration::from_millis(1500);

/// What is attached and who asks.
#[derive(Clone, Debug)]
pub struct CellAddress {
    /// The volume to attach.
    pub volume: VolumeName,
    /// The moment of it to show; now if not set.
    pub moment: Option<Moment>,
    /// The identity to claim.
    pub identity: Identity,
}

/// An attached stream.
pub struct Stream {
    attached: Attached,
    pub(super) link: mpsc::Sender<ToCell>,
    frames: Streaming<sitefs_proto::pb::ServerFrame>,
}

impl Stream {
    /// What the cell said.
    pub fn attached(&self) -> &Attached {
        &self.attached
    }

    /// The next frame; the end of the stream is an error.
    pub(super) async fn next(&mut self) -> Result<ToMount> {
        next_frame(self.frames.next().await)
    }
}

fn next_frame(
    frame: Option<std::result::Result<sitefs_proto::pb::ServerFrame, tonic::Status>>,
) -> Result<ToMount> {
    match frame {
        Some(Ok(frame)) => ToMount::try_from(frame),
        Some(Err(status)) => Err(sitefs_proto::error_from_status(&status)),
        None => Err(Error::unavailable("the cell closed the session")),
    }
}

/// The cell says when to come again.
#[derive(Debug)]
struct Busy(Duration);

impl std::fmt::Display for Busy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "come again in {} ms", self.0.as_millis())
    }
}

impl std::error::Error for Busy {}

/// How long to stay away because the cell said so.
fn told_to_wait(error: &Error) -> Duration {
    let busy = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Busy>());
    busy.map_or(Duration::ZERO, |busy| busy.0)
}

fn closing_error(closing: Closing) -> Error {
    match closing {
        Closing::NotHere { leader } => Error::unavailable(format!(
            "this node does not lead; ask {}",
            leader.as_deref().unwrap_or("another node")
        )),
        Closing::SessionGone => Error::conflict("the cell has forgotten this session"),
        Closing::Refused { kind, reason } => Error::new(kind, reason),
        Closing::Unavailable { reason } => Error::unavailable(reason),
        Closing::Busy { retry_after } => {
            Error::unavailable("the cell lets in other mounts first").because(Busy(retry_after))
        }
    }
}

/// Opens a stream to the node that leads, and attaches `session` to it. Where several nodes were given
/// it goes on for as long as a new leader may take.
pub async fn attach(route: &Route, cell: &CellAddress, session: &Session) -> Result<Stream> {
    let began = Instant::now();
    loop {
        match attach_now(route, cell, session).await {
            Err(error)
                if error.kind() == Kind::Unavailable
                    && route.is_of_several()
                    && began.elapsed() < limits::METADATA_DEADLINE =>
            {
                tokio::time::sleep(BACKOFF_MAX_OF_SEVERAL).await;
            }
            attached => return attached,
        }
    }
}

/// The same, asking each node once.
async fn attach_now(route: &Route, cell: &CellAddress, session: &Session) -> Result<Stream> {
    attach_anywhere(route, || hello(cell, session)).await
}

fn hello(cell: &CellAddress, session: &Session) -> Attach {
    let known = session.attached();
    Attach {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        volume: cell.volume.clone(),
        session: session.id(),
        incarnation: known.as_ref().map(|known| known.incarnation),
        since: known.is_some().then(|| session.applied()),
        claimed_identity: cell.identity.to_string(),
        moment: cell.moment.clone(),
        in_use: session.credits().counted_on(),
        hears_credit: true,
    }
}

/// Opens a stream that begins with `hello`: to the node that was the last to lead, then to those that
/// others name, then to all in turns.
pub(super) async fn attach_anywhere(route: &Route, hello: impl Fn() -> Attach) -> Result<Stream> {
    let mut hints = 0;
    let mut left = route.len();
    let mut before: Option<Error> = None;
    loop {
        let error = match attach_as(route, hello()).await? {
            Attempt::Attached(stream) => return Ok(*stream),
            // Each node names one, at most; two may name each other.
            Attempt::NotHere(Some(leader)) if hints < route.len() && leader != route.address() => {
                hints += 1;
                route.go_to(&leader);
                continue;
            }
            Attempt::NotHere(leader) => closing_error(Closing::NotHere { leader }),
            Attempt::Failed(error) => error,
        };
        // What is wrong with one node says more than that the others do not lead.
        let error = before.filter(|before| before.kind() != Kind::Unavailable).unwrap_or(error);
        left -= 1;
        route.go_on();
        if left == 0 {
            return Err(error);
        }
        before = Some(error);
    }
}

/// What became of one attempt to attach.
enum Attempt {
    Attached(Box<Stream>),
    /// Another node leads, or nobody.
    NotHere(Option<String>),
    /// Another node may do better.
    Failed(Error),
}

/// Asks the current node. An error says that all nodes would refuse.
async fn attach_as(route: &Route, hello: Attach) -> Result<Attempt> {
    let (link, outgoing) = mpsc::channel::<ToCell>(FRAMES_MAX);
    let gone = |_| Error::unavailable("the session's stream is closed");
    link.send(ToCell::Attach(hello)).await.map_err(gone)?;
    let outgoing = ReceiverStream::new(outgoing).map(sitefs_proto::pb::ClientFrame::from);
    let opened = async {
        let mut client = SessionClient::new(route.channel()?)
            .max_decoding_message_size(sitefs_proto::MESSAGE_MAX)
            .max_encoding_message_size(sitefs_proto::MESSAGE_MAX);
        let reply = client.open(outgoing).await.map_err(|status| sitefs_proto::error_from_status(&status))?;
        let mut frames = reply.into_inner();
        match next_frame(frames.next().await)? {
            ToMount::Attached(attached) => Ok(Attempt::Attached(Box::new(Stream { attached, link, frames }))),
            ToMount::Closing(Closing::NotHere { leader }) => Ok(Attempt::NotHere(leader)),
            ToMount::Closing(closing) => Err(closing_error(closing)),
            _ => Err(Error::invalid("the cell did not answer the attach first")),
        }
    };
    let limit = if route.is_of_several() { ATTACH_DEADLINE_OF_SEVERAL } else { limits::METADATA_DEADLINE };
    let late = |_| Error::unavailable(format!("the cell at {} did not answer in time", route.address()));
    match timeout(limit, opened).await.map_err(late).flatten() {
        Err(error) if is_of_one_node(error.kind()) => Ok(Attempt::Failed(error)),
        attempt => attempt,
    }
}

/// Whether an error is about the node that was asked, so that another one may let the mount in. All others are
/// the cell's last word.
const fn is_of_one_node(kind: Kind) -> bool {
    matches!(kind, Kind::Unavailable | Kind::Internal | Kind::Corrupt | Kind::Fenced)
}

/// Carries frames over `stream` until it breaks.
async fn carry(stream: Stream, route: &Route, session: &Session, watcher: &dyn Watcher) -> Error {
    let Stream { attached, link, mut frames } = stream;
    if !attached.resumed {
        watcher.resync();
    }
    // The channel has room for everything that can be unanswered.
    for frame in session.link_up(attached, link.clone()) {
        if link.send(frame).await.is_err() {
            return Error::unavailable("the session's stream is closed");
        }
    }
    let mut ticks = tokio::time::interval(PING_EVERY);
    let silence_max = if route.is_of_several() { SILENCE_MAX_OF_SEVERAL } else { SILENCE_MAX };
    let mut heard = Instant::now();
    let (mut quiet, mut before) = (IDLE_TICKS, session.activity());
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                if heard.elapsed() > silence_max {
                    // Perhaps it stands still, and would let another attach wait too.
                    route.go_on();
                    return Error::unavailable("the cell is silent");
                }
                let now = session.activity();
                quiet += 1;
                if std::mem::replace(&mut before, now) == now && quiet < IDLE_TICKS {
                    continue;
                }
                quiet = 0;
                // Never waits for room: while this task waits it takes in no replies.
                if let Err(TrySendError::Closed(_)) = link.try_send(session.ping()) {
                    return Error::unavailable("the session's stream is closed");
                }
            }
            frame = frames.next() => {
                heard = Instant::now();
                match next_frame(frame) {
                    Ok(ToMount::Closing(closing)) => {
                        if let Closing::NotHere { leader: Some(leader) } = &closing {
                            route.go_to(leader);
                        }
                        return closing_error(closing);
                    }
                    Ok(frame) => deliver(frame, session, watcher),
                    Err(error) => return error,
                }
            }
        }
    }
}

fn deliver(frame: ToMount, session: &Session, watcher: &dyn Watcher) {
    match &frame {
        ToMount::Event(event) => watcher.event(event),
        ToMount::Resync { .. } => watcher.resync(),
        _ => {}
    }
    if let Some(changes) = session.receive(frame) {
        watcher.resolved(&changes);
    }
}

/// Keeps the session attached, beginning with `stream`, until the mount ends. A refusal is final:
/// operations then fail, and the reason is logged. Once the volume is deleted nothing is tried any more.
pub async fn keep_attached(
    stream: Stream,
    route: Arc<Route>,
    cell: CellAddress,
    session: Arc<Session>,
    watcher: Arc<dyn Watcher>,
    random: Arc<dyn Random>,
) {
    let volume = stream.attached.volume;
    let mut reason = carry(stream, &route, &session, &*watcher).await;
    let backoff_max = if route.is_of_several() { BACKOFF_MAX_OF_SEVERAL } else { BACKOFF_MAX };
    let mut backoff = BACKOFF_MIN;
    loop {
        session.link_down();
        if session.is_leaving() {
            return;
        }
        tracing::warn!(reason = reason.chain(), "the session is not attached");
        let mut refused = false;
        loop {
            match reason.kind() {
                Kind::Conflict => session.begin_again(SessionId::new(random.next_u128())),
                Kind::Unavailable => {}
                // A frame of ours was refused: sending it again would be refused again.
                Kind::Invalid => session.fail_all(),
                Kind::NotFound => return volume_gone(&reason, &session, &*watcher),
                _ if refused => {}
                _ => {
                    tracing::error!(reason = reason.chain(), "the cell refuses this mount");
                    refused = true;
                }
            }
            let jitter = random.next_u64() % 100;
            let away = backoff.max(told_to_wait(&reason));
            tokio::time::sleep(away + backoff * u32::try_from(jitter).unwrap_or(0) / 100).await;
            backoff = (backoff * 2).min(backoff_max);
            match attach_now(&route, &cell, &session).await {
                // Its inode numbers mean other files.
                Ok(stream) if stream.attached.volume != volume => {
                    reason = Error::not_found("the volume was deleted, and another one has its name");
                }
                Ok(stream) => {
                    tracing::info!("the session is attached again");
                    backoff = BACKOFF_MIN;
                    reason = carry(stream, &route, &session, &*watcher).await;
                    break;
                }
                Err(error) => {
                    tracing::debug!(reason = error.chain(), "attaching failed");
                    reason = error;
                }
            }
        }
    }
}

/// The volume is not there any more: programs get `ESTALE` for everything from now on.
fn volume_gone(reason: &Error, session: &Session, watcher: &dyn Watcher) {
    tracing::error!(reason = reason.chain(), "this mount has no volume any more: unmount it");
    session.end(Errno::ESTALE);
    watcher.resync();
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitefs_base::{Tasks, op::Credit};
    use sitefs_proto::pb::session_server::{Session as Service, SessionServer};
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::{Request, Response, Status, transport::Server};

    /// A node that says the same to everybody.
    struct Node(Closing);

    #[tonic::async_trait]
    impl Service for Node {
        type OpenStream = tokio_stream::Once<std::result::Result<sitefs_proto::pb::ServerFrame, Status>>;

        async fn open(
            &self,
            _: Request<Streaming<sitefs_proto::pb::ClientFrame>>,
        ) -> std::result::Result<Response<Self::OpenStream>, Status> {
            Ok(Response::new(tokio_stream::once(Ok(ToMount::Closing(self.0.clone()).into()))))
        }
    }

    /// What a mount hears that asks these nodes.
    async fn asked(nodes: &[Closing]) -> Kind {
        let (tasks, mut addresses) = (Tasks::new(), Vec::new());
        for says in nodes {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap().to_string());
            let node = Server::builder().add_service(SessionServer::new(Node(says.clone())));
            let serving = node.serve_with_incoming(TcpListenerStream::new(listener));
            tasks.spawn(async move { serving.await.unwrap() });
        }
        let hello = || Attach {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            volume: "acme/live".parse().unwrap(),
            session: SessionId::new(1),
            incarnation: None,
            since: None,
            claimed_identity: String::new(),
            moment: None,
            in_use: Credit::NONE,
            hears_credit: false,
        };
        let route = Route::new(&addresses.join(",")).unwrap();
        let refused = attach_anywhere(&route, hello).await.err().unwrap();
        tasks.shutdown().await;
        refused.kind()
    }

    #[tokio::test]
    async fn what_is_wrong_with_one_node_is_not_the_cells_last_word() {
        let refused = |kind| Closing::Refused { kind, reason: "a test".to_owned() };
        let not_here = || Closing::NotHere { leader: None };
        for wrong in [Kind::Internal, Kind::Corrupt] {
            assert_eq!(asked(&[refused(wrong), refused(Kind::NotFound)]).await, Kind::NotFound);
            assert_eq!(asked(&[not_here(), refused(wrong), not_here()]).await, wrong, "the others say less");
        }
        assert_eq!(asked(&[refused(Kind::NotFound), refused(Kind::Internal)]).await, Kind::NotFound);
        assert_eq!(asked(&[not_here(), not_here()]).await, Kind::Unavailable);
    }
}
