//! Whether random histories reach what they are to prove: a model that is never asked agrees always.

use super::histories::{Budget, seen_in};
use crate::state::{CommandBody, MergeStep, Reply, RestoreEnd};
use sitefs_base::{
    Errno,
    op::{Extra, Op},
};
use std::collections::BTreeMap;

type Seen = (&'static str, &'static str);

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

#[test]
fn random_histories_reach_what_they_are_to_prove() {
    let mut all = BTreeMap::<Seen, u64>::new();
    for seed in (Budget { histories: 1_000, steps: 60 }).seeds() {
        for (seen, count) in seen_in(seed, 60) {
            *all.entry(seen).or_default() += count;
        }
    }
    eprintln!("{all:#?}");
}
