//! Deciding commands.

use super::{
    Applied, Command, CommandBody, MergeStep, Read, Reply, View, append, attrs, blobs, cell, commit, horizon,
    merge,
    mutation::{Done, Finished, Mutation},
    namespace, ranges, rates, reads, reap, rename, restore,
    rows::{ReceiptRow, SessionRow, VolumeRow},
    scope::Scope,
    session::{self, Admission},
    settings, shorten, snapshots,
    stop::{Step, Stop, refuse},
    version::{self, Versions},
    volume, xattr,
};
use sitefs_base::{
    Attr, Errno, InodeId, Moment, Result, SessionId, VolumeId,
    op::{Credit, Event, Op, OpEnvelope, Outcome},
};

/// Executes one command. An error means that the storage failed or that a row is damaged; then no
/// row was changed. A refusal changes no row either, but a refused operation is remembered for its
/// session.
pub fn apply(view: &mut dyn View, command: &Command) -> Result<Applied> {
    let mut scope = Scope::begin(&*view, command.at)?;
    let applied = match decide(&mut scope, &command.body) {
        Ok(applied) => applied,
        Err(Stop::Refused(errno)) => return Ok(refusal(errno)),
        Err(Stop::Failed(error)) => return Err(error),
    };
    scope.finish()?;
    for (family, rows) in scope.rows.into_writes() {
        for (key, value) in rows {
            match value {
                Some(value) => view.put(family, &key, value),
                None => view.delete(family, &key),
            }
        }
    }
    Ok(applied)
}

fn refusal(errno: Errno) -> Applied {
    Applied { reply: Err(errno), event: None, crowded: None, grown: Credit::NONE }
}

fn reply(reply: Reply) -> Step<Applied> {
    with_event_of(reply, None)
}

fn with_event(volume: VolumeId, reply: Reply, event: Option<Event>) -> Step<Applied> {
    with_event_of(reply, event.map(|event| (volume, event)))
}

fn with_event_of(reply: Reply, event: Option<(VolumeId, Event)>) -> Step<Applied> {
    Ok(Applied { reply: Ok(reply), event, crowded: None, grown: Credit::NONE })
}

fn decide(scope: &mut Scope, body: &CommandBody) -> Step<Applied> {
    match body {
        CommandBody::Noop => {}
        CommandBody::Init { cell, group, incarnation } => volume::init(scope, cell, *group, *incarnation)?,
        CommandBody::CreateVolume { name, limits, uid, gid, mode } => {
            let root = volume::Root { uid: *uid, gid: *gid, mode: *mode };
            return reply(Reply::Volume(volume::create(scope, name, *limits, &root)?));
        }
        CommandBody::OpenSession { volume, session, at } => {
            return open_session(scope, *volume, *session, at.as_ref());
        }
        CommandBody::ResumeSession { volume, session } => return resume_session(scope, *volume, *session),
        CommandBody::CloseSession { volume, session } => session::close(scope, *volume, *session)?,
        CommandBody::ExpireSessions { before } => session::expire(scope, *before)?,
        CommandBody::Op { volume, envelope, credit } => {
            return operate(scope, *volume, envelope, *credit);
        }
        CommandBody::Drained { site, digest, generation } => {
            blobs::drained(scope, *site, digest, *generation)?
        }
        CommandBody::Verified { site, digest, generation } => {
            blobs::verified(scope, *site, digest, *generation)?;
        }
        CommandBody::Damaged { site, digest, generation } => {
            blobs::damaged(scope, *site, digest, *generation)?;
        }
        CommandBody::Shorten { volume, ino, size } => {
            let (cver, event) = shorten::shorten(scope, *volume, *ino, *size)?;
            return with_event(*volume, Reply::Shortened(cver), event);
        }
        CommandBody::Merged { volume, step: MergeStep::Upload { blob } } => {
            return reply(Reply::Upload(merge::upload(scope, *volume, blob)?));
        }
        CommandBody::Merged { volume, step: MergeStep::Replace { ino, old, new } } => {
            merge::replace(scope, *volume, *ino, old, new)?;
        }
        CommandBody::SetCell { change } => cell::set(scope, change)?,
        CommandBody::Upgrade { version } => version::raise(scope, *version, Versions::THIS)?,
        CommandBody::SetRates { volume, rates } => rates::set(scope, *volume, rates)?,
        CommandBody::BackupsKept { kept } => cell::note_backups(scope, kept)?,
        CommandBody::SetVolume { volume, change } => settings::set(scope, *volume, change)?,
        CommandBody::DeleteVolume { volume } => settings::delete(scope, *volume)?,
        CommandBody::Reap { volume } => {
            let reap::Slice { more, event } = reap::slice(scope, *volume)?;
            return with_event(*volume, Reply::Reaped { more }, event);
        }
        CommandBody::StartRestore { volume, restore } => {
            let answer = restore::start(scope, *volume, restore)?;
            return restored(*volume, answer);
        }
        CommandBody::StepRestore { volume, job } => {
            let answer = restore::step(scope, *volume, *job)?;
            return restored(*volume, answer);
        }
        CommandBody::EndRestore { volume, job, end } => {
            let answer = restore::end(scope, *volume, *job, *end)?;
            return restored(*volume, answer);
        }
        CommandBody::CreateSnapshot { volume, name, at } => {
            return reply(Reply::Snapshot(snapshots::create(scope, *volume, name, *at)?));
        }
        CommandBody::DeleteSnapshot { volume, name } => snapshots::delete(scope, *volume, name)?,
        CommandBody::MoveHorizon { volume, before } => {
            let (horizon, more) = horizon::advance(scope, *volume, *before)?;
            return reply(Reply::Horizon { horizon, more });
        }
    }
    reply(Reply::Done)
}

fn restored(volume: VolumeId, (state, event, grown): restore::Answer) -> Step<Applied> {
    Ok(Applied { grown, ..with_event(volume, Reply::Restore(state), event)? })
}

fn open_session(
    scope: &mut Scope,
    volume: VolumeId,
    session: SessionId,
    at: Option<&Moment>,
) -> Step<Applied> {
    let row = reads::live(&scope.rows, volume)?.ok_or(Errno::ENOENT)?;
    let (site, seq) = (row.site, row.seq);
    let SessionRow { op_high_water, at, .. } = session::open(scope, volume, row, session, at)?;
    reply(Reply::Session { site, seq, op_high_water, at })
}

fn resume_session(scope: &mut Scope, volume: VolumeId, session: SessionId) -> Step<Applied> {
    let VolumeRow { site, seq, .. } = reads::live(&scope.rows, volume)?.ok_or(Errno::ENOENT)?;
    let SessionRow { op_high_water, at, .. } = session::resume(scope, volume, session)?;
    reply(Reply::Session { site, seq, op_high_water, at })
}

/// Executes an operation, or answers it again.
fn operate(scope: &mut Scope, id: VolumeId, envelope: &OpEnvelope, credit: Credit) -> Step<Applied> {
    let OpEnvelope { session, op, ack_below, .. } = *envelope;
    let volume = reads::live(&scope.rows, id)?.ok_or(Errno::ESTALE)?;
    let row = match session::admit(&scope.rows, id, session, op, ack_below)? {
        Admission::Execute(row) => row,
        Admission::Answer(receipt) => return Ok(repeated(scope, id, &receipt)?),
    };
    let executed = match is_read_only(&scope.rows, &volume)? {
        true if changes_the_volume(&envelope.body) => refuse(Errno::EROFS),
        _ => execute(scope, id, volume, (envelope, credit)),
    };
    let (applied, receipt) = match executed {
        Ok(executed) => executed,
        Err(Stop::Refused(errno)) => {
            scope.discard();
            (refusal(errno), Some(ReceiptRow::Refused(errno)))
        }
        Err(failed) => return Err(failed),
    };
    session::record(scope, id, session, row, (op, ack_below), receipt.as_ref())?;
    Ok(applied)
}

fn is_read_only(read: &dyn Read, volume: &VolumeRow) -> Result<bool> {
    Ok(volume.settings.read_only.is_some() || cell::cell_read_only(read)?.is_some())
}

/// Whether an operation is refused on a read-only volume. An upload would only be in vain.
fn changes_the_volume(op: &Op) -> bool {
    !matches!(op, Op::AllocInodes { .. })
}

fn execute(
    scope: &mut Scope,
    id: VolumeId,
    volume: VolumeRow,
    (envelope, credit): (&OpEnvelope, Credit),
) -> Step<(Applied, Option<ReceiptRow>)> {
    let mut mutation = Mutation::begin(scope, id, volume, envelope.session);
    let Done { ino, extra } = perform(&mut mutation, &envelope.body)?;
    let Finished { seq, touched, event, crowded, grown } = mutation.finish(credit)?;
    let attrs = current(&scope.rows, id, &touched)?;
    let receipt = session::keepable(&extra).map(|extra| ReceiptRow::Done { seq, ino, touched, extra });
    let outcome = Outcome { seq, ino, attrs, extra };
    let event = event.map(|event| (id, event));
    let applied = Applied { reply: Ok(Reply::Op(Box::new(outcome))), event, crowded, grown };
    Ok((applied, receipt))
}

fn perform(m: &mut Mutation, op: &Op) -> Step<Done> {
    match op {
        Op::Commit(commit) => commit::commit(m, commit),
        Op::SetAttr { ino, set } => attrs::set_attr(m, *ino, set),
        Op::Mkdir { at, create } => namespace::mkdir(m, at, create),
        Op::Symlink { at, target, create } => namespace::symlink(m, at, target, create),
        Op::Mknod { at, kind, rdev, create } => namespace::mknod(m, at, *kind, *rdev, create),
        Op::Link { ino, at } => namespace::link(m, *ino, at),
        Op::Unlink { at } => namespace::unlink(m, at),
        Op::Rmdir { at } => namespace::rmdir(m, at),
        Op::Rename { from, to, mode } => rename::rename(m, from, to, *mode),
        Op::SetXattr { ino, name, value, mode } => xattr::set(m, *ino, name, value, *mode),
        Op::RemoveXattr { ino, name } => xattr::remove(m, *ino, name),
        Op::AllocInodes { count } => session::alloc_inodes(m, *count),
        Op::Grant { blobs } => blobs::grant(m, blobs),
        Op::Append { ino, bytes, changed, kill_setid } => {
            append::append(m, *ino, bytes, *changed, *kill_setid)
        }
        Op::Punch { ino, offset, len } => ranges::punch(m, *ino, *offset, *len),
        Op::CloneRange { from, from_offset, to, to_offset, len, expect_from_cver } => {
            let range = ranges::Copied { from: *from_offset, to: *to_offset, len: *len };
            ranges::clone(m, *from, *to, range, *expect_from_cver)
        }
    }
}

/// The reply to an operation that was executed before.
fn repeated(scope: &Scope, id: VolumeId, receipt: &ReceiptRow) -> Result<Applied> {
    let reply = match receipt {
        ReceiptRow::Refused(errno) => Err(*errno),
        ReceiptRow::Done { seq, ino, touched, extra } => {
            let attrs = current(&scope.rows, id, touched)?;
            let outcome = Outcome { seq: *seq, ino: *ino, attrs, extra: session::restored(extra) };
            Ok(Reply::Op(Box::new(outcome)))
        }
    };
    Ok(Applied { reply, event: None, crowded: None, grown: Credit::NONE })
}

/// The attributes of those inodes that exist.
fn current(read: &dyn Read, id: VolumeId, inodes: &[InodeId]) -> Result<Vec<Attr>> {
    let mut attrs = Vec::with_capacity(inodes.len());
    for ino in inodes {
        attrs.extend(reads::node(read, id, *ino)?.map(|node| node.attr()));
    }
    Ok(attrs)
}
