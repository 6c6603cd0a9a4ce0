//! One question, answered from applied state.

use super::{
    auth::Access,
    outbox::{Outgoing, standing},
    session::Stream,
    sessions::Member,
};
use crate::{
    raft::Group,
    state::{self, BlobPlace, Read},
};
use sitefs_base::{
    Digest, Errno, Error, Result,
    limits::COMMIT_CHUNKS_MAX,
    op::{Answer, AnswerBody, Location, Place, Query},
};
use sitefs_blobstore::ObjectKey;
use std::{sync::Arc, time::Duration};

/// A leader that has not heard from its quorum for so long renews no lease.
const QUORUM_AGE_MAX: Duration = Duration::from_secs(1);

type Answered = std::result::Result<Answer, Errno>;

/// Answers one question and sends the answer.
pub(super) async fn run(stream: Arc<Stream>, tag: u64, query: Query) {
    let result = stream.answer(query).await.unwrap_or_else(|error| {
        tracing::warn!(volume = %stream.member.volume, error = error.chain(), "question not answered");
        Err(error.errno())
    });
    stream.send(Outgoing::Answer { tag, result }).await;
}

impl Stream {
    async fn answer(&self, query: Query) -> Result<Answered> {
        match query {
            Query::Resolve { digests, .. } => self.resolve(digests).await,
            Query::Reserve { at } => self.reserve(at),
            // A few rows: quicker than a change of threads.
            Query::Lookup { .. } | Query::Inode { .. } | Query::Xattrs { .. } | Query::Usage => {
                ask(&self.cell.group.reader(), &self.member, &query)
            }
            Query::ReadDir { .. } | Query::Inodes { .. } | Query::Chunks { .. } => {
                let (reader, member) = (self.cell.group.reader(), self.member);
                off_thread(move || ask(&reader, &member, &query)).await
            }
        }
    }

    async fn resolve(&self, digests: Vec<Digest>) -> Result<Answered> {
        if digests.len() > COMMIT_CHUNKS_MAX {
            return Ok(Err(Errno::EINVAL));
        }
        // Read before the places: what they say holds at this seq or a later one.
        let seq = standing(&self.cell, &self.member)?.seq;
        let (reader, volume) = (self.cell.group.reader(), self.member.volume);
        let (digests, places) = off_thread(move || {
            let places = state::locate(&reader, volume, &digests)?;
            Ok((digests, places))
        })
        .await?;
        let mut locations = Vec::with_capacity(places.len());
        for (digest, place) in digests.into_iter().zip(places) {
            locations.push(match place {
                Some(place) => Some(self.source(digest, &place).await?),
                None => None,
            });
        }
        Ok(Ok(Answer { seq, body: AnswerBody::Locations(locations) }))
    }

    async fn source(&self, digest: Digest, place: &BlobPlace) -> Result<Location> {
        let key = ObjectKey { site: place.site, digest, generation: place.generation };
        self.cell.blobs.source(place, &key).await
    }

    /// The reservation is taken before the tree is looked at: a name that appears in between is
    /// seen by one of the two.
    fn reserve(&self, at: Place) -> Result<Answered> {
        let (volume, session) = (self.member.volume, self.member.session);
        if self.member.access == Access::Read {
            return Ok(Err(Errno::EROFS));
        }
        if let Err(errno) = self.cell.reserved.reserve(volume, &at, session, self.cell.clock.boottime()) {
            return Ok(Err(errno));
        }
        let found = state::query(&self.cell.group.reader(), volume, &Query::Lookup { at: at.clone() });
        let answered = match found {
            Ok(Ok(Answer { seq, body: AnswerBody::Inode(None) })) => {
                return Ok(Ok(Answer { seq, body: AnswerBody::Reserved }));
            }
            Ok(Ok(_)) => Ok(Err(Errno::EEXIST)),
            Ok(Err(errno)) => Ok(Err(errno)),
            Err(error) => Err(error),
        };
        self.cell.reserved.release(volume, &at, session);
        answered
    }
}

/// Answers from the rows of now, or of the seq that the member sees.
pub(super) fn ask(read: &dyn Read, member: &Member, query: &Query) -> Result<Answered> {
    let Some(seq) = member.at else {
        return state::query(read, member.volume, query);
    };
    match state::as_of(read, member.volume, seq)? {
        Ok(past) => state::query(&past, member.volume, query),
        Err(errno) => Ok(Err(errno)),
    }
}

pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|join| Error::internal("reading rows").because(join))?
}

/// How old the contact with the quorum is; `None` when this node may not renew leases (DESIGN D20).
pub(super) fn quorum_age(group: &Group) -> Option<Duration> {
    group.quorum_age().filter(|age| *age < QUORUM_AGE_MAX)
}
