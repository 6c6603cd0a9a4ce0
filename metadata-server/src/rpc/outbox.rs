//! What one stream sends, in order: events up to a reply's seq come before the reply (DESIGN D19).
//!
//! The broadcast wakes the outbox quickly; the feed rows of the state are the truth. Whatever the
//! broadcast has not brought when a reply needs it, or has dropped, is read from the rows.

use super::{Cell, credit::Holder, locks::LockReply, query::ask, sessions::Member};
use crate::state::{self, VolumeInfo};
use sitefs_base::{
    Errno, Error, OpId, Result, Seq,
    lock::LockAnswer,
    op::{Answer, AnswerBody, Credit, Event, OpResult, Query},
    session::{Closing, ToMount},
};
use sitefs_proto::pb;
use std::{sync::Arc, time::Duration};
use tokio::sync::{Notify, broadcast, mpsc};
use tonic::Status;

/// Replies that wait to be sent on one stream.
pub(super) const INBOX: usize = 256;
/// Events read from the rows at once; a mount that is further behind starts afresh.
const CATCH_UP_MAX: usize = 4096;
/// A mount that reads nothing for so long is gone.
const STALLED: Duration = Duration::from_secs(30);

/// Frames to the connection.
pub(super) type Wire = mpsc::Sender<std::result::Result<pb::ServerFrame, Status>>;

/// What the other tasks of a stream want to be sent.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// The answer to a mutation.
    Reply { op: OpId, result: OpResult },
    /// The answer to a question.
    Answer { tag: u64, result: std::result::Result<Answer, Errno> },
    /// The answer to a ping.
    Renew { client_time: Duration },
    /// The last frame.
    Close(Closing),
}

/// The sender of one stream.
pub(super) struct Outbox {
    pub cell: Arc<Cell>,
    pub member: Member,
    pub holder: Holder,
    pub events: broadcast::Receiver<Arc<(sitefs_base::VolumeId, Event)>>,
    pub inbox: mpsc::Receiver<Outgoing>,
    pub locks: mpsc::Receiver<LockReply>,
    pub wire: Wire,
    /// Notified when the mount should hear of its credit; not set if it would not understand that.
    pub hears_credit: Option<Arc<Notify>>,
    /// Every event up to here has been sent, or need not be.
    pub seen: Seq,
}

impl Outbox {
    /// Sends until the stream ends.
    pub async fn run(mut self) {
        if let Err(error) = self.send_all().await {
            tracing::debug!(session = %self.member.session, error = error.chain(), "stream ended");
            let reason = error.chain();
            // Not waited for: that the mount does not read may be the reason.
            let _ = self.wire.try_send(Ok(ToMount::Closing(Closing::Unavailable { reason }).into()));
        }
    }

    async fn send_all(&mut self) -> Result<()> {
        // Events between the mount's `since` and now, when it resumes.
        self.catch_up().await?;
        loop {
            tokio::select! {
                biased;
                () = notified(self.hears_credit.as_deref()) => {
                    if let Some(news) = self.credit_news(true)? {
                        send(&self.wire, news).await?;
                    }
                }
                outgoing = self.inbox.recv() => match outgoing {
                    None => return Ok(()),
                    Some(Outgoing::Close(closing)) => return send(&self.wire, ToMount::Closing(closing)).await,
                    Some(outgoing) => self.deliver(outgoing).await?,
                },
                Some((tag, result)) = self.locks.recv() => self.tell_lock(tag, result).await?,
                event = self.events.recv() => self.heard(event).await?,
            }
        }
    }

    async fn deliver(&mut self, outgoing: Outgoing) -> Result<()> {
        self.drain().await?;
        let frame = match outgoing {
            Outgoing::Reply { op, result } => {
                let (_, credit) = self.standing_and_credit()?;
                ToMount::OpReply { op, result, credit }
            }
            Outgoing::Answer { tag, result } => ToMount::Answer { tag, result },
            Outgoing::Renew { client_time } => match self.renewal(client_time).await? {
                Some(renewal) => renewal,
                None => return Ok(()),
            },
            Outgoing::Close(closing) => ToMount::Closing(closing),
        };
        if holds_at(&frame).is_some_and(|seq| seq > self.seen) {
            self.catch_up().await?;
        }
        send(&self.wire, frame).await
    }

    /// Who gets a lock sees what those who had it before did.
    async fn tell_lock(&mut self, tag: u64, result: Result<LockAnswer, Errno>) -> Result<()> {
        self.drain().await?;
        self.catch_up().await?;
        send(&self.wire, ToMount::LockReply { tag, result }).await
    }

    /// Takes what the broadcast has brought so far.
    async fn drain(&mut self) -> Result<()> {
        loop {
            let event = match self.events.try_recv() {
                Ok(event) => Ok(event),
                Err(broadcast::error::TryRecvError::Empty) => return Ok(()),
                Err(broadcast::error::TryRecvError::Lagged(n)) => Err(broadcast::error::RecvError::Lagged(n)),
                Err(broadcast::error::TryRecvError::Closed) => Err(broadcast::error::RecvError::Closed),
            };
            self.heard(event).await?;
        }
    }

    async fn heard(
        &mut self,
        event: std::result::Result<Arc<(sitefs_base::VolumeId, Event)>, broadcast::error::RecvError>,
    ) -> Result<()> {
        match event {
            Ok(event) if event.0 == self.member.volume && self.member.at.is_none() => {
                self.forward(&event.1).await
            }
            Ok(_) => Ok(()),
            Err(broadcast::error::RecvError::Lagged(_)) => self.catch_up().await,
            Err(broadcast::error::RecvError::Closed) => Err(Error::unavailable("the node is stopping")),
        }
    }

    /// Reads from the rows what was not sent yet.
    async fn catch_up(&mut self) -> Result<()> {
        let now = self.standing()?.seq;
        if now <= self.seen {
            return Ok(());
        }
        let missing =
            state::events_since(&self.cell.group.reader(), self.member.volume, self.seen, CATCH_UP_MAX)?;
        match missing {
            Some(events) if events.len() < CATCH_UP_MAX => {
                for event in events {
                    self.forward(&event).await?;
                }
                self.seen = self.seen.max(now);
                Ok(())
            }
            _ => {
                tracing::debug!(session = %self.member.session, "mount is too far behind, it starts afresh");
                self.seen = now;
                self.cell.watchers.sent(self.member.volume, self.member.session, now);
                send(&self.wire, ToMount::Resync { floor: now }).await
            }
        }
    }

    async fn forward(&mut self, event: &Event) -> Result<()> {
        if event.seq <= self.seen {
            return Ok(());
        }
        self.seen = event.seq;
        if event.origin == self.member.session {
            return Ok(());
        }
        self.cell.watchers.sent(self.member.volume, self.member.session, event.seq);
        send(&self.wire, ToMount::Event(event.clone())).await
    }

    /// The lease goes on, unless this mount or this node is behind (DESIGN D20).
    async fn renewal(&mut self, client_time: Duration) -> Result<Option<ToMount>> {
        let Some(quorum_age) = super::query::quorum_age(&self.cell.group) else { return Ok(None) };
        let Member { volume, session, at, .. } = self.member;
        if at.is_none() && !self.cell.watchers.may_renew(volume, session) {
            // Its credit goes on without the lease.
            return self.credit_news(false);
        }
        let (VolumeInfo { seq: watermark, usage, settings, .. }, credit) = self.standing_and_credit()?;
        Ok(Some(ToMount::Renew { client_time, quorum_age, watermark, usage, settings, credit }))
    }

    fn standing(&self) -> Result<VolumeInfo> {
        standing(&self.cell, &self.member)
    }

    /// How the volume stands, and the credit for a frame that is sent now. Others are asked for what is
    /// missing. Who reads the past has none.
    fn standing_and_credit(&self) -> Result<(VolumeInfo, Credit)> {
        if self.member.at.is_some() {
            return Ok((self.standing()?, Credit::NONE));
        }
        let (info, told) = {
            let mut ledger = self.cell.credits.ledger();
            let info = self.standing()?;
            let told = ledger.answer(self.holder, &info.usage, self.cell.clock.boottime());
            (info, told)
        };
        self.cell.sessions.tell_credit(&told.ask);
        Ok((info, told.credit))
    }

    /// The credit by itself; with `answer` the mount says at once what it needs of it. Nothing where
    /// another node may lead: that one gives credit.
    fn credit_news(&self, answer: bool) -> Result<Option<ToMount>> {
        if self.hears_credit.is_none() || super::query::quorum_age(&self.cell.group).is_none() {
            return Ok(None);
        }
        let (VolumeInfo { usage, .. }, credit) = self.standing_and_credit()?;
        Ok(Some(ToMount::Credit { credit, usage, answer }))
    }
}

async fn notified(news: Option<&Notify>) {
    match news {
        Some(news) => news.notified().await,
        None => std::future::pending().await,
    }
}

/// How a volume stands, as a member sees it.
pub(super) fn standing(cell: &Cell, member: &Member) -> Result<VolumeInfo> {
    let reader = cell.group.reader();
    let refused = |errno| Error::refused(errno, "reading how the volume stands");
    let mut info = state::volume_info(&reader, member.volume)?.ok_or_else(|| refused(Errno::ESTALE))?;
    // What holds for the cell holds for each volume.
    if let Some(reason) = state::cell_read_only(&reader)? {
        info.settings.read_only = Some(reason);
    }
    if member.at.is_none() {
        return Ok(info);
    }
    match ask(&reader, member, &Query::Usage)?.map_err(refused)? {
        Answer { seq, body: AnswerBody::Usage(usage) } => Ok(VolumeInfo { seq, usage, ..info }),
        _ => Err(Error::internal("the answer to another question")),
    }
}

/// The seq up to which events must have been sent before a frame.
fn holds_at(frame: &ToMount) -> Option<Seq> {
    match frame {
        ToMount::OpReply { result, .. } => result.as_ref().ok().map(|outcome| outcome.seq),
        ToMount::Answer { result, .. } => result.as_ref().ok().map(|answer| answer.seq),
        ToMount::Renew { watermark, .. } => Some(*watermark),
        ToMount::Attached(_)
        | ToMount::Event(_)
        | ToMount::Credit { .. }
        | ToMount::Resync { .. }
        | ToMount::Closing(_)
        | ToMount::LockReply { .. } => None,
    }
}

/// Sends a frame, unless the mount is gone.
pub(super) async fn send(wire: &Wire, frame: ToMount) -> Result<()> {
    wire.send_timeout(Ok(frame.into()), STALLED)
        .await
        .map_err(|_| Error::unavailable("the mount does not read its stream"))
}
