//! One mutation: what is checked before it is proposed, and what follows from its reply.

use super::{attach::refused, auth::Access, outbox::Outgoing, session::Stream};
use crate::state::{self, Applied, CommandBody, Reply};
use sitefs_base::{
    Digest, Errno, Error, Generation, Kind, OpId, Result,
    op::{BlobWanted, Commit, Extra, Grant, NewContent, Op, OpEnvelope, Outcome, Place, Uploaded},
    session::Closing,
};
use sitefs_blobstore::{ObjectKey, VerifiedBytes};
use std::sync::Arc;
use tokio::task::{JoinError, JoinSet};

/// Uploads looked for at a time: a commit may name a thousand.
const LOOKS_MAX: usize = 32;

/// What is needed of an operation after it was proposed.
struct Rest {
    op: OpId,
    published: Option<Place>,
    uploaded: Vec<Uploaded>,
    wanted: Vec<BlobWanted>,
}

/// Executes one operation and sends its reply.
pub(super) async fn run(stream: Arc<Stream>, envelope: OpEnvelope) {
    let rest = Rest::of(&envelope);
    let reply = match stream.check(&envelope.body).await {
        Err(errno) => Outgoing::Reply { op: rest.op, result: Err(errno) },
        Ok(()) => {
            let body = CommandBody::Op { volume: stream.member.volume, envelope };
            let applied = stream.cell.group.propose(body).await;
            stream.finish(rest, applied).await
        }
    };
    stream.send(reply).await;
}

impl Rest {
    fn of(envelope: &OpEnvelope) -> Self {
        let (mut published, mut uploaded, mut wanted) = (None, Vec::new(), Vec::new());
        match &envelope.body {
            Op::Commit(commit) => {
                published = commit.link.as_ref().map(|link| link.at.clone());
                uploaded.clone_from(&commit.uploaded);
            }
            Op::Grant { blobs } => wanted.clone_from(blobs),
            _ => {}
        }
        Self { op: envelope.op, published, uploaded, wanted }
    }
}

impl Stream {
    /// Refuses what the state machine cannot see to be wrong.
    async fn check(&self, op: &Op) -> Result<(), Errno> {
        if self.member.access == Access::Read {
            return Err(Errno::EROFS);
        }
        let Op::Commit(commit) = op else { return Ok(()) };
        check_hot(commit)?;
        self.check_uploads(&commit.uploaded).await
    }

    /// A client's word is not an upload (DESIGN D32): the objects must be there.
    async fn check_uploads(&self, uploads: &[Uploaded]) -> Result<(), Errno> {
        let mut looking = JoinSet::new();
        for (key, len) in self.slots(uploads).map_err(|error| error.errno())? {
            if looking.len() >= LOOKS_MAX {
                arrived(looking.join_next().await)?;
            }
            let blobs = self.cell.blobs.clone();
            looking.spawn(async move { blobs.has_arrived(&key, len).await });
        }
        while !looking.is_empty() {
            arrived(looking.join_next().await)?;
        }
        Ok(())
    }

    /// What was granted for the uploads. Where nothing was there is nothing to look for: the commit
    /// is a retry, or is refused in apply.
    fn slots(&self, uploads: &[Uploaded]) -> Result<Vec<(ObjectKey, u32)>> {
        let mut slots = Vec::with_capacity(uploads.len());
        if uploads.is_empty() {
            return Ok(slots);
        }
        let reader = self.cell.group.reader();
        for Uploaded { digest, generation } in uploads {
            if let Some(len) = state::upload_slot(&reader, self.member.site, digest, *generation)? {
                slots.push((self.key(*digest, *generation), len));
            }
        }
        Ok(slots)
    }

    async fn finish(&self, rest: Rest, applied: Result<Applied>) -> Outgoing {
        let Applied { reply, event } = match applied {
            Ok(applied) => applied,
            Err(error) => return failed(rest.op, error),
        };
        let (volume, session) = (self.member.volume, self.member.session);
        if let Some(place) = &rest.published {
            self.cell.reserved.release(volume, place, session);
        }
        let result = match reply {
            Ok(Reply::Op(outcome)) => Ok(self.complete(*outcome, &rest).await),
            Ok(_) => Err(Errno::EIO),
            Err(Errno::ESTALE) if self.is_forgotten() => return Outgoing::Close(Closing::SessionGone),
            Err(errno) => Err(errno),
        };
        if let Some((volume, event)) = event {
            self.cell.watchers.wait(volume, session, event.seq).await;
        }
        Outgoing::Reply { op: rest.op, result }
    }

    async fn complete(&self, outcome: Outcome, rest: &Rest) -> Outcome {
        let key = |upload: &Uploaded| self.key(upload.digest, upload.generation);
        self.cell.blobs.committed(rest.uploaded.iter().map(key));
        let extra = match outcome.extra {
            Extra::Grants(grants) => Extra::Grants(self.sign(grants, &rest.wanted).await),
            other => other,
        };
        Outcome { extra, ..outcome }
    }

    /// Uploads go directly to the store where it takes them.
    async fn sign(&self, mut grants: Vec<Grant>, wanted: &[BlobWanted]) -> Vec<Grant> {
        for (grant, blob) in grants.iter_mut().zip(wanted) {
            let Grant::Upload { generation, target } = grant else { continue };
            match self.cell.blobs.upload_target(&self.key(blob.digest, *generation), blob.len).await {
                Ok(signed) => *target = signed,
                // The way through the cell stays open.
                Err(error) => tracing::debug!(error = error.chain(), "upload not signed"),
            }
        }
        grants
    }

    fn is_forgotten(&self) -> bool {
        let reader = self.cell.group.reader();
        matches!(state::session_info(&reader, self.member.volume, self.member.session), Ok(None))
    }

    fn key(&self, digest: Digest, generation: Generation) -> ObjectKey {
        ObjectKey { site: self.member.site, digest, generation }
    }
}

fn arrived(looked: Option<Result<Result<bool>, JoinError>>) -> Result<(), Errno> {
    match looked {
        None | Some(Ok(Ok(true))) => Ok(()),
        Some(Ok(Ok(false))) => Err(Errno::EAGAIN),
        Some(Ok(Err(error))) => {
            tracing::debug!(error = error.chain(), "upload not confirmed");
            Err(Errno::EAGAIN)
        }
        Some(Err(_)) => Err(Errno::EIO),
    }
}

/// About how much memory an operation takes while it is under way, in bytes.
pub(super) fn weight(op: &Op) -> usize {
    let content = match op {
        Op::Commit(Commit { content: Some(NewContent::Inline(bytes)), .. }) => bytes.len(),
        Op::Commit(Commit { content: Some(NewContent::Hot { bytes, .. }), .. }) => bytes.len(),
        Op::Commit(Commit { content: Some(NewContent::Chunks { changed, .. }), .. }) => {
            changed.iter().map(|chunk| size_of_val(chunk) + size_of_val(&*chunk.extents)).sum()
        }
        Op::SetXattr { value, .. } => value.len(),
        Op::Grant { blobs } => size_of_val(&**blobs),
        _ => 0,
    };
    content + size_of::<OpEnvelope>()
}

/// The leader vouches for the digest of hot bytes; at most 64 KiB, so hashed in place.
fn check_hot(commit: &Commit) -> Result<(), Errno> {
    match &commit.content {
        Some(NewContent::Hot { digest, bytes }) => {
            VerifiedBytes::check(*digest, bytes.clone()).map(|_| ()).map_err(|_| Errno::EINVAL)
        }
        _ => Ok(()),
    }
}

/// A refusal is a reply. Where the outcome is unknown the stream ends, and the mount repeats the
/// operation on the next one.
fn failed(op: OpId, error: Error) -> Outgoing {
    match error.kind() {
        Kind::Unavailable | Kind::Fenced | Kind::Conflict | Kind::Internal | Kind::Corrupt => {
            Outgoing::Close(match refused(error) {
                Closing::Refused { reason, .. } => Closing::Unavailable { reason },
                closing => closing,
            })
        }
        Kind::NotFound | Kind::AlreadyExists | Kind::Invalid | Kind::Denied | Kind::Limit => {
            Outgoing::Reply { op, result: Err(error.errno()) }
        }
    }
}
