//! One mutation: it is checked and proposed, and things follow from its reply.

use super::{
    Cell,
    attach::refused,
    check::Checked,
    credit::Debit,
    outbox::{Outgoing, standing},
    query::off_thread,
    session::Stream,
};
use crate::state::{self, Applied, CommandBody, Reply};
use sitefs_base::{
    Digest, Errno, Error, Generation, Kind, OpId, Result,
    op::{BlobWanted, Commit, Credit, Extra, Grant, NewContent, Op, OpEnvelope, Outcome, Place, Uploaded},
    session::Closing,
};
use sitefs_blobstore::ObjectKey;
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long an operation waits for credit that others hold and do not use.
const CREDIT_WAIT: Duration = Duration::from_secs(1);
/// How soon it asks for that again.
const CREDIT_RETRY: Duration = Duration::from_millis(100);

/// What is needed of an operation after it was proposed.
struct Rest {
    op: OpId,
    published: Option<Place>,
    uploaded: Vec<Uploaded>,
    wanted: Vec<BlobWanted>,
}

/// Executes one operation and sends its reply.
pub(super) async fn run(stream: Arc<Stream>, envelope: OpEnvelope) {
    let op = envelope.op;
    let reply = stream.execute(envelope).await;
    stream.send(reply.unwrap_or_else(|errno| Outgoing::Reply { op, result: Err(errno) })).await;
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
    async fn execute(&self, mut envelope: OpEnvelope) -> Result<Outgoing, Errno> {
        let mut rest = Rest::of(&envelope);
        if self.check(&envelope).await? == Checked::Answered {
            rest.uploaded.clear();
        }
        self.keep_pace(&envelope.body).await?;
        if let Err(error) = self.shorten(&mut envelope).await {
            return Ok(failed(rest.op, error));
        }
        let credit = self.debit(&envelope).await?;
        let body = CommandBody::Op { volume: self.member.volume, envelope, credit };
        let applied = self.cell.group.propose(body).await;
        Ok(self.finish(rest, applied).await)
    }

    /// Waits while the volume is being changed faster than it may be (DESIGN D37).
    async fn keep_pace(&self, op: &Op) -> Result<(), Errno> {
        let _turn = self.turn.lock().await;
        let (volume, now) = (self.member.volume, self.cell.clock.boottime());
        let rates = || state::rates(&self.cell.group.reader(), volume);
        let wait = self.cell.paces.take(volume, content_of(op), now, rates).map_err(|error| error.errno())?;
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    /// Makes a file shorter in steps before an operation that would cut off more than one command may.
    /// If it is not finished the file has a length in between, and the operation can be repeated.
    async fn shorten(&self, envelope: &mut OpEnvelope) -> Result<()> {
        let volume = self.member.volume;
        if !state::must_be_cut(&self.cell.group.reader(), volume, &envelope.body)? {
            return Ok(());
        }
        let (group, op) = (self.cell.group.clone(), envelope.body.clone());
        let cuts = off_thread(move || state::cuts(&group.reader(), volume, &op)).await?;
        let Some(cuts) = cuts else { return Ok(()) };
        let answered =
            state::is_answered(&self.cell.group.reader(), volume, self.member.session, envelope.op);
        if answered? {
            return Ok(());
        }
        let mut made = None;
        for size in cuts.sizes {
            let step = CommandBody::Shorten { volume, ino: cuts.ino, size };
            match self.cell.group.propose(step).await?.reply {
                Ok(Reply::Shortened(cver)) => made = cver.or(made),
                Ok(_) => return Err(Error::internal("making a file shorter gave another reply")),
                Err(errno) => return Err(Error::refused(errno, "making a file shorter")),
            }
        }
        // The version that the operation is for is the one that is left of it.
        if let (Op::Commit(Commit { expect_cver: Some(expected), .. }), Some(made)) =
            (&mut envelope.body, made)
        {
            *expected = made;
        }
        Ok(())
    }

    /// Sets credit aside for what an operation may add to the volume (DESIGN D17), waiting for what
    /// others hold and do not use. One that was executed before adds nothing.
    async fn debit(&self, envelope: &OpEnvelope) -> Result<Credit, Errno> {
        let (volume, errno) = (self.member.volume, |error: Error| error.errno());
        let Cell { credits, clock, sessions, .. } = &*self.cell;
        let until = clock.boottime() + CREDIT_WAIT;
        loop {
            let (now, freed) = (clock.boottime(), credits.freed());
            // What others did while this one waited may make it grow more.
            let bound = state::growth_bound(&self.cell.group.reader(), volume, &envelope.body);
            let bound = bound.map_err(errno)?;
            if bound == Credit::NONE {
                credits.give_up(self.holder, envelope.op);
                return Ok(bound);
            }
            let debit = {
                let mut ledger = credits.ledger();
                let usage = standing(&self.cell, &self.member).map_err(errno)?.usage;
                ledger.debit(self.holder, envelope.op, bound, &usage, now)
            };
            match debit {
                Debit::SetAside(credit) => return Ok(credit),
                Debit::Awaited(_) | Debit::Refused if self.is_answered(envelope)? => {
                    credits.give_up(self.holder, envelope.op);
                    return Ok(Credit::NONE);
                }
                Debit::Awaited(ask) if now < until => {
                    sessions.tell_credit(&ask);
                    // What is removed meanwhile makes room too, without a notice.
                    let _ = timeout(CREDIT_RETRY.min(until - now), freed).await;
                }
                Debit::Awaited(_) | Debit::Refused => {
                    credits.give_up(self.holder, envelope.op);
                    return Err(Errno::EDQUOT);
                }
            }
        }
    }

    async fn finish(&self, rest: Rest, applied: Result<Applied>) -> Outgoing {
        let Applied { reply, event, crowded, grown } = match applied {
            Ok(applied) => applied,
            Err(error) => return failed(rest.op, error),
        };
        self.cell.credits.settle(self.holder, rest.op, grown);
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
        if let Some(chunk) = crowded {
            self.cell.blobs.crowded(chunk);
        }
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

    pub(super) fn key(&self, digest: Digest, generation: Generation) -> ObjectKey {
        ObjectKey { site: self.member.site, digest, generation }
    }
}

/// About how much memory an operation takes while it is under way, in bytes.
pub(super) fn weight(op: &Op) -> usize {
    let content = match op {
        Op::Commit(Commit { content: Some(NewContent::Chunks { changed, .. }), .. }) => {
            changed.iter().map(|chunk| size_of_val(chunk) + size_of_val(&*chunk.extents)).sum()
        }
        Op::Grant { blobs } => size_of_val(&**blobs),
        op => content_of(op),
    };
    content + size_of::<OpEnvelope>()
}

/// Bytes that come with an operation.
fn content_of(op: &Op) -> usize {
    match op {
        Op::Commit(Commit { content: Some(NewContent::Inline(bytes)), .. }) => bytes.len(),
        Op::Commit(Commit { content: Some(NewContent::Hot { bytes, .. }), .. }) => bytes.len(),
        Op::SetXattr { value, .. } => value.len(),
        Op::Append { bytes, .. } => bytes.len(),
        _ => 0,
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
