//! The connection that carries a session: attach, frames in both directions, re-attach.
//! With [`crate::data`]'s transfers through the cell, the only user of tonic in this crate.

use super::service::Watcher;
use super::session::{FRAMES_MAX, Session};
use sitefs_base::session::{Attach, Attached, Closing, PROTOCOL_MAX, PROTOCOL_MIN, ToCell, ToMount};
use sitefs_base::{Errno, Error, Identity, Kind, Moment, Random, Result, SessionId, VolumeName, limits};
use sitefs_proto::pb::session_client::SessionClient;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::timeout,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::Streaming;

/// A channel to the cell, shared by the session and the transfers of blobs.
pub type Channel = tonic::transport::Channel;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const PING_EVERY: Duration = Duration::from_secs(1);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// With the jitter one attempt each second, which is also how a mount without a lease asks for the cell.
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// A stream that brings nothing for so long is taken for dead: pings are answered each second.
const SILENCE_MAX: Duration = limits::LEASE;

/// Where the cell is and who asks.
#[derive(Clone, Debug)]
pub struct CellAddress {
    /// `HOST:PORT` of the session listener.
    pub address: String,
    /// The volume to attach.
    pub volume: VolumeName,
    /// The moment of it to show; now if not set.
    pub moment: Option<Moment>,
    /// The identity to claim.
    pub identity: Identity,
}

impl CellAddress {
    /// A channel that connects when it is first used, and again whenever it must.
    pub fn channel(&self) -> Result<Channel> {
        let uri = format!("http://{}", self.address);
        let endpoint = tonic::transport::Endpoint::from_shared(uri).map_err(|error| {
            Error::invalid(format!("{:?} is not a HOST:PORT", self.address)).because(error)
        })?;
        Ok(endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .connect_lazy())
    }
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

/// Opens a stream and attaches `session` to it.
pub async fn attach(channel: &Channel, cell: &CellAddress, session: &Session) -> Result<Stream> {
    let known = session.attached();
    let hello = Attach {
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
    };
    attach_as(channel, cell, hello).await
}

/// Opens a stream that begins with `hello`.
pub(super) async fn attach_as(channel: &Channel, cell: &CellAddress, hello: Attach) -> Result<Stream> {
    let (link, outgoing) = mpsc::channel::<ToCell>(FRAMES_MAX);
    let gone = |_| Error::unavailable("the session's stream is closed");
    link.send(ToCell::Attach(hello)).await.map_err(gone)?;
    let outgoing = ReceiverStream::new(outgoing).map(sitefs_proto::pb::ClientFrame::from);
    let opened = async {
        let mut client = SessionClient::new(channel.clone())
            .max_decoding_message_size(sitefs_proto::MESSAGE_MAX)
            .max_encoding_message_size(sitefs_proto::MESSAGE_MAX);
        let reply = client.open(outgoing).await.map_err(|status| sitefs_proto::error_from_status(&status))?;
        let mut frames = reply.into_inner();
        match next_frame(frames.next().await)? {
            ToMount::Attached(attached) => Ok(Stream { attached, link, frames }),
            ToMount::Closing(closing) => Err(closing_error(closing)),
            _ => Err(Error::invalid("the cell did not answer the attach first")),
        }
    };
    let late = |_| Error::unavailable(format!("the cell at {} did not answer in time", cell.address));
    timeout(limits::METADATA_DEADLINE, opened).await.map_err(late)?
}

/// Carries frames over `stream` until it breaks.
async fn carry(stream: Stream, session: &Session, watcher: &dyn Watcher) -> Error {
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
    let mut heard = tokio::time::Instant::now();
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                if heard.elapsed() > SILENCE_MAX {
                    return Error::unavailable("the cell is silent");
                }
                // Never waits for room: while this task waits it takes in no replies.
                if let Err(TrySendError::Closed(_)) = link.try_send(session.ping()) {
                    return Error::unavailable("the session's stream is closed");
                }
            }
            frame = frames.next() => {
                heard = tokio::time::Instant::now();
                match next_frame(frame) {
                    Ok(ToMount::Closing(closing)) => return closing_error(closing),
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
    channel: Channel,
    cell: CellAddress,
    session: Arc<Session>,
    watcher: Arc<dyn Watcher>,
    random: Arc<dyn Random>,
) {
    let volume = stream.attached.volume;
    let mut reason = carry(stream, &session, &*watcher).await;
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
            backoff = (backoff * 2).min(BACKOFF_MAX);
            match attach(&channel, &cell, &session).await {
                // Its inode numbers mean other files.
                Ok(stream) if stream.attached.volume != volume => {
                    reason = Error::not_found("the volume was deleted, and another one has its name");
                }
                Ok(stream) => {
                    tracing::info!("the session is attached again");
                    backoff = BACKOFF_MIN;
                    reason = carry(stream, &session, &*watcher).await;
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
