//! What is checked before a mutation is proposed, because the state machine cannot see it.

use super::{auth::Access, session::Stream};
use crate::{
    grant::Blobs,
    state::{self, UploadSlot},
};
use sitefs_base::{
    Errno, Result,
    op::{Answer, AnswerBody, Commit, NewContent, Op, OpEnvelope, Place, Query, Uploaded},
};
use sitefs_blobstore::{ObjectKey, VerifiedBytes};
use std::sync::Arc;
use tokio::task::{JoinError, JoinSet};

/// Uploads looked for at a time: a commit may name a thousand.
const LOOKS_MAX: usize = 32;

/// What the checks found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Checked {
    /// Nothing is wrong with it.
    Good,
    /// It was executed before and only its answer is wanted (DESIGN D12): nothing of its body counts.
    Answered,
}

impl Stream {
    /// Refuses what the state machine cannot see to be wrong.
    pub(super) async fn check(&self, envelope: &OpEnvelope) -> Result<Checked, Errno> {
        if self.member.access == Access::Read {
            return Err(Errno::EROFS);
        }
        let mut hot = 0;
        let uploads: &[Uploaded] = match &envelope.body {
            Op::Commit(commit) => {
                check_hot(commit)?;
                hot = hot_len(commit);
                &commit.uploaded
            }
            _ => &[],
        };
        let held = self.publishes_what_another_holds(&envelope.body)?;
        // What was executed before is not counted, nor refused, a second time.
        let is_full = hot > 0 && !self.cell.blobs.hot.takes(self.member.site, hot);
        if (held || is_full || !uploads.is_empty()) && self.is_answered(envelope)? {
            return Ok(Checked::Answered);
        }
        if held {
            return Err(Errno::EEXIST);
        }
        if is_full {
            // The mount prepares it again, and uploads it.
            return Err(Errno::EAGAIN);
        }
        self.check_uploads(uploads).await?;
        Ok(Checked::Good)
    }

    /// A name that another session is about to create exclusively counts as taken (DESIGN D14). Where
    /// something has the name already nobody can create it, and apply decides.
    fn publishes_what_another_holds(&self, op: &Op) -> Result<bool, Errno> {
        let (volume, session) = (self.member.volume, self.member.session);
        let now = self.cell.clock.boottime();
        let Some(at) = published(op) else { return Ok(false) };
        if !self.cell.reserved.is_held_by_another(volume, at, session, now) {
            return Ok(false);
        }
        // A file that was published before is not published again.
        let file = match op {
            Op::Commit(commit) => self.is_there(Query::Inode { ino: commit.ino })?,
            _ => false,
        };
        Ok(!file && !self.is_there(Query::Lookup { at: at.clone() })?)
    }

    fn is_there(&self, query: Query) -> Result<bool, Errno> {
        let found = state::query(&self.cell.group.reader(), self.member.volume, &query);
        match found.map_err(|error| error.errno())? {
            Ok(Answer { body: AnswerBody::Inode(inode), .. }) => Ok(inode.is_some()),
            Ok(_) => Err(Errno::EIO),
            Err(errno) => Err(errno),
        }
    }

    pub(super) fn is_answered(&self, envelope: &OpEnvelope) -> Result<bool, Errno> {
        let (volume, session) = (self.member.volume, self.member.session);
        let answered = state::is_answered(&self.cell.group.reader(), volume, session, envelope.op);
        answered.map_err(|error| error.errno())
    }

    /// A client's word is not an upload (DESIGN D32): the objects must be there.
    async fn check_uploads(&self, uploads: &[Uploaded]) -> Result<(), Errno> {
        let mut looking = JoinSet::new();
        for (key, slot) in self.slots(uploads)? {
            if looking.len() >= LOOKS_MAX {
                arrived(looking.join_next().await)?;
            }
            looking.spawn(is_usable(self.cell.blobs.clone(), key, slot));
        }
        while !looking.is_empty() {
            arrived(looking.join_next().await)?;
        }
        Ok(())
    }

    /// What was granted for the uploads. What was not, cannot be looked for, and a grant that is
    /// still on its way must not make it good in apply.
    fn slots(&self, uploads: &[Uploaded]) -> Result<Vec<(ObjectKey, UploadSlot)>, Errno> {
        let mut slots = Vec::with_capacity(uploads.len());
        if uploads.is_empty() {
            return Ok(slots);
        }
        let reader = self.cell.group.reader();
        let owner = (self.member.site, self.member.volume);
        for Uploaded { digest, generation } in uploads {
            let slot = state::upload_slot(&reader, owner, digest, *generation);
            let slot = slot.map_err(|error| error.errno())?.ok_or(Errno::EAGAIN)?;
            slots.push((self.key(*digest, *generation), slot));
        }
        Ok(slots)
    }
}

/// The name under which an operation makes something appear.
fn published(op: &Op) -> Option<&Place> {
    match op {
        Op::Commit(commit) => commit.link.as_ref().map(|link| &link.at),
        Op::Mkdir { at, .. } | Op::Symlink { at, .. } | Op::Mknod { at, .. } | Op::Link { at, .. } => {
            Some(at)
        }
        Op::Rename { to, .. } => Some(to),
        Op::SetAttr { .. }
        | Op::Unlink { .. }
        | Op::Rmdir { .. }
        | Op::SetXattr { .. }
        | Op::RemoveXattr { .. }
        | Op::AllocInodes { .. }
        | Op::Grant { .. }
        | Op::Append { .. }
        | Op::Punch { .. }
        | Op::CloneRange { .. } => None,
    }
}

/// Whether an upload is there and, where its word is not enough, has the right bytes.
async fn is_usable(blobs: Arc<Blobs>, key: ObjectKey, slot: UploadSlot) -> Result<bool> {
    if !blobs.has_arrived(&key, slot.len).await? {
        return Ok(false);
    }
    if slot.contested { blobs.prove(&key).await } else { Ok(true) }
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

/// Bytes that a commit brings for the cell to hold.
fn hot_len(commit: &Commit) -> usize {
    match &commit.content {
        Some(NewContent::Hot { bytes, .. }) => bytes.len(),
        _ => 0,
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
