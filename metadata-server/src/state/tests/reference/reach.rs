//! Whether random histories reach what they are to prove: a model that is never asked agrees always.

use crate::state::{CommandBody, GcStep, MergeStep, Reply, RestoreEnd};
use sitefs_base::{
    Errno,
    op::{Extra, Op},
};
use std::collections::BTreeMap;

pub type Seen = (&'static str, &'static str);

/// The kind of a command and of its reply.
pub fn seen(body: &CommandBody, reply: &Result<Reply, Errno>) -> Seen {
    (command(body), told(reply))
}

fn command(body: &CommandBody) -> &'static str {
    match body {
        CommandBody::Op { envelope, .. } => operation(&envelope.body),
        CommandBody::OpenSession { at: None, .. } => "open",
        CommandBody::OpenSession { .. } => "look back",
        CommandBody::ExpireSessions { .. } => "expire",
        CommandBody::Merged { step: MergeStep::Upload { .. }, .. } => "draw",
        CommandBody::Merged { .. } => "join",
        CommandBody::SetVolume { .. } => "set volume",
        CommandBody::CreateVolume { .. } => "make volume",
        CommandBody::DeleteVolume { .. } => "delete volume",
        CommandBody::Reap { .. } => "reap",
        CommandBody::StartRestore { .. } => "start restore",
        CommandBody::StepRestore { .. } => "step restore",
        CommandBody::EndRestore { end: RestoreEnd::Publish, .. } => "publish",
        CommandBody::EndRestore { .. } => "abandon",
        CommandBody::MoveHorizon { .. } => "horizon",
        CommandBody::Gc(GcStep::Condemn { .. }) => "condemn",
        CommandBody::Gc(GcStep::BeginDelete { .. }) => "begin to delete",
        CommandBody::Gc(GcStep::Deleted { .. }) => "deleted",
        CommandBody::Gc(GcStep::ExpireUploads { .. }) => "expire uploads",
        _ => "other",
    }
}

fn operation(op: &Op) -> &'static str {
    match op {
        Op::Commit(_) => "commit",
        Op::SetAttr { .. } => "setattr",
        Op::Append { .. } => "append",
        Op::Punch { .. } => "punch",
        Op::CloneRange { .. } => "clone",
        Op::Mkdir { .. } => "mkdir",
        Op::AllocInodes { .. } => "alloc",
        _ => "other operation",
    }
}

fn told(reply: &Result<Reply, Errno>) -> &'static str {
    match reply {
        Err(errno) => named(*errno),
        Ok(Reply::Reaped { more: true }) => "more",
        Ok(Reply::Restore(state)) if state.job.is_none() => "done",
        Ok(Reply::Restore(state)) if state.more => "more",
        Ok(Reply::Upload(Some(_))) => "drawn",
        Ok(Reply::Gc(done)) if done.blobs == 0 => "nothing",
        Ok(Reply::Op(outcome)) => match outcome.extra {
            Extra::Dropped => "dropped",
            Extra::Cloned { len: 0 } => "nothing",
            _ => "ok",
        },
        Ok(_) => "ok",
    }
}

fn named(errno: Errno) -> &'static str {
    match errno {
        Errno::EAGAIN => "EAGAIN",
        Errno::EBUSY => "EBUSY",
        Errno::EDQUOT => "EDQUOT",
        Errno::EEXIST => "EEXIST",
        Errno::EFBIG => "EFBIG",
        Errno::EINVAL => "EINVAL",
        Errno::EISDIR => "EISDIR",
        Errno::ENOENT => "ENOENT",
        Errno::ENOTDIR => "ENOTDIR",
        Errno::EOPNOTSUPP => "EOPNOTSUPP",
        Errno::EROFS => "EROFS",
        Errno::ESTALE => "ESTALE",
        _ => "another errno",
    }
}

/// What must come about in a thousand histories; far more often than once, so that chance is no matter.
const MUST: &[Seen] = &[
    ("append", "ok"),
    ("append", "dropped"),
    ("append", "EDQUOT"),
    ("append", "EISDIR"),
    ("append", "EROFS"),
    ("append", "ESTALE"),
    ("punch", "ok"),
    ("punch", "EFBIG"),
    ("punch", "EISDIR"),
    ("clone", "ok"),
    ("clone", "nothing"),
    ("clone", "EFBIG"),
    ("clone", "EINVAL"),
    ("clone", "ESTALE"),
    ("credit", "used"),
    ("merge", "asked for"),
    ("draw", "drawn"),
    ("join", "ok"),
    ("join", "replaced"),
    ("join", "replaced in the past"),
    ("join", "EAGAIN"),
    ("join", "EINVAL"),
    ("reap", "ok"),
    ("reap", "more"),
    ("start restore", "done"),
    ("start restore", "more"),
    ("start restore", "EDQUOT"),
    ("start restore", "ESTALE"),
    ("step restore", "ok"),
    ("step restore", "more"),
    ("step restore", "EDQUOT"),
    ("step restore", "ENOENT"),
    ("publish", "done"),
    ("publish", "EBUSY"),
    ("abandon", "done"),
    ("set volume", "ok"),
    ("set volume", "EINVAL"),
    ("delete volume", "ok"),
    ("expire", "ok"),
    ("condemn", "ok"),
    ("begin to delete", "ok"),
    ("deleted", "ok"),
    ("expire uploads", "ok"),
];

/// Adds what a history saw to what those before it saw.
pub fn add(all: &mut BTreeMap<Seen, u64>, more: &BTreeMap<Seen, u64>) {
    for (seen, count) in more {
        *all.entry(*seen).or_default() += count;
    }
}

/// Random histories reached what they are to prove.
pub fn check(all: &BTreeMap<Seen, u64>) {
    let missed: Vec<_> = MUST.iter().filter(|seen| !all.contains_key(*seen)).collect();
    assert!(missed.is_empty(), "no history came to {missed:?}: {all:?}");
}
