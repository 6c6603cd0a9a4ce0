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
        for upload in &commit.uploaded {
            self.check_upload(upload).await?;
        }
        Ok(())
    }

    /// A client's word is not an upload (DESIGN D32): the object must be there.
    async fn check_upload(&self, upload: &Uploaded) -> Result<(), Errno> {
        let Uploaded { digest, generation } = *upload;
        let slot = state::upload_slot(&self.cell.group.reader(), self.member.site, &digest, generation);
        // Without a slot there is nothing to look for: the commit is a retry, or is refused in apply.
        let Some(len) = slot.map_err(|error| error.errno())? else { return Ok(()) };
        match self.cell.blobs.has_arrived(&self.key(digest, generation), len).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Errno::EAGAIN),
            Err(error) => {
                tracing::debug!(error = error.chain(), "upload not confirmed");
                Err(Errno::EAGAIN)
            }
        }
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
