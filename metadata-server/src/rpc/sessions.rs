//! The sessions that have a stream at this node.

use super::auth::Access;
use sitefs_base::{Seq, SessionId, SiteId, VolumeId};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Streams that one node serves.
const STREAMS_MAX: usize = 20_000;

/// What an attached session is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Member {
    /// The session.
    pub session: SessionId,
    /// Its volume.
    pub volume: VolumeId,
    /// The site of the volume.
    pub site: SiteId,
    /// What it may do.
    pub access: Access,
    /// The seq of the past that it sees; the volume as it is if not set.
    pub at: Option<Seq>,
}

/// The attached sessions.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<Table>);

#[derive(Default)]
struct Table {
    next_stream: u64,
    members: HashMap<SessionId, (Member, Stream)>,
}

struct Stream {
    number: u64,
    replaced: CancellationToken,
    deleted: CancellationToken,
    credit_news: Arc<Notify>,
}

/// A stream's own entry.
pub(crate) struct Ticket {
    session: SessionId,
    /// Counts the streams of this node.
    pub number: u64,
    /// Cancelled when the session attached again on another stream.
    pub replaced: CancellationToken,
    /// Cancelled when the volume was deleted.
    pub deleted: CancellationToken,
    /// Notified when the session should hear of its credit.
    pub credit_news: Arc<Notify>,
}

impl Sessions {
    /// Enters a session; an earlier stream of it is told to end. `None`: this node is full.
    pub fn enter(&self, member: Member) -> Option<Ticket> {
        let mut table = self.lock();
        if table.members.len() >= STREAMS_MAX && !table.members.contains_key(&member.session) {
            return None;
        }
        table.next_stream += 1;
        let (number, replaced) = (table.next_stream, CancellationToken::new());
        let (deleted, credit_news) = (CancellationToken::new(), Arc::new(Notify::new()));
        let stream = Stream {
            number,
            replaced: replaced.clone(),
            deleted: deleted.clone(),
            credit_news: credit_news.clone(),
        };
        if let Some((_, old)) = table.members.insert(member.session, (member, stream)) {
            old.replaced.cancel();
        }
        Some(Ticket { session: member.session, number, replaced, deleted, credit_news })
    }

    /// Has sessions hear of their credit at once.
    pub fn tell_credit(&self, sessions: &[SessionId]) {
        if sessions.is_empty() {
            return;
        }
        let table = self.lock();
        for session in sessions {
            if let Some((_, stream)) = table.members.get(session) {
                stream.credit_news.notify_one();
            }
        }
    }

    /// Ends a stream. Whether it was still the session's own one.
    pub fn leave(&self, ticket: &Ticket) -> bool {
        let mut table = self.lock();
        let own =
            table.members.get(&ticket.session).is_some_and(|(_, stream)| stream.number == ticket.number);
        if own {
            table.members.remove(&ticket.session);
        }
        own
    }

    /// Tells the streams of a deleted volume to end.
    pub fn volume_deleted(&self, volume: VolumeId) {
        for (member, stream) in self.lock().members.values() {
            if member.volume == volume {
                stream.deleted.cancel();
            }
        }
    }

    /// An attached session.
    pub fn member(&self, session: SessionId) -> Option<Member> {
        self.lock().members.get(&session).map(|(member, _)| *member)
    }

    /// All that are attached.
    pub fn members(&self) -> Vec<Member> {
        self.lock().members.values().map(|(member, _)| *member).collect()
    }

    /// How many are attached.
    pub fn count(&self) -> usize {
        self.lock().members.len()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
