//! Restores: the path is looked up in the past, then the copy is made step by step (`state::restore`).

use super::{AdminService, Cell, query::off_thread, room::Room};
use crate::{
    raft::Group,
    state::{self, CommandBody, Reply, RestoreEnd, RestoreState, seq_at},
};
use sitefs_base::{
    Errno, Error, FileKind, Inode, InodeId, Moment, Name, Result, Seq, Time, VolumeId,
    limits::LISTING_PAGE,
    op::{AnswerBody, Credit, Place, Query},
};
use sitefs_proto::{manage::Restore, pb, status_from_error};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// How often the caller hears how far it has come.
const TELL_EVERY: Duration = Duration::from_millis(200);

type Progress = mpsc::Sender<Result<pb::RestoreProgress, Status>>;

/// What is brought back, and where to.
struct Found {
    seq: Seq,
    source: InodeId,
    to: Place,
}

impl AdminService {
    /// Begins in a task of its own and tells how it goes on.
    pub(super) fn start_restore(
        &self,
        request: pb::RestoreRequest,
    ) -> Result<ReceiverStream<Result<pb::RestoreProgress, Status>>> {
        let restore: Restore = request.try_into()?;
        let volume = self.managed(&restore.claimed_identity, &restore.name)?.id;
        let (progress, told) = mpsc::channel(4);
        let cell = self.0.clone();
        self.0.tasks.spawn(self.0.serving.track_future(async move {
            let last = match run(&cell, volume, restore, &progress).await {
                Ok(state) => Ok(pb::RestoreProgress { done: true, ..as_progress(state) }),
                Err(error) => Err(status_from_error(&error)),
            };
            // Nobody is left to tell when the caller is gone.
            let _ = progress.send(last).await;
        }));
        Ok(ReceiverStream::new(told))
    }
}

fn as_progress(state: RestoreState) -> pb::RestoreProgress {
    pb::RestoreProgress { entries: state.entries, bytes: state.bytes, done: false }
}

async fn run(
    cell: &Arc<Cell>,
    volume: VolumeId,
    restore: Restore,
    progress: &Progress,
) -> Result<RestoreState> {
    let Restore { path, at, dry_run, .. } = restore;
    let names = names(&path)?;
    let (group, now) = (cell.group.clone(), cell.clock.now());
    let tell = progress.clone();
    let found = off_thread(move || {
        let found = find(&group, volume, &names, &at, now)?;
        let measured = measure(&group, volume, &found, dry_run.then_some(&tell))?;
        let in_place = in_place(&group, volume, &found, &measured)?;
        Ok((found, measured, in_place))
    });
    match found.await? {
        (_, measured, _) if dry_run => Ok(measured),
        (found, measured, in_place) => {
            let whole = Credit { bytes: measured.bytes, inodes: measured.entries };
            bring_back(cell, volume, found, (in_place, whole), progress).await
        }
    }
}

/// The names of a path from the root of a volume.
fn names(path: &[u8]) -> Result<Vec<Name>> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let names: Vec<Name> = parts.map(Name::new).collect::<Result<_>>()?;
    if names.iter().any(|name| name.as_bytes() == b"..") {
        return Err(Error::invalid("a path of a restore begins at the root of the volume and has no .."));
    }
    match names.is_empty() {
        true => Err(Error::invalid(
            "the root of a volume stays: restore what is in it, or mount the moment and copy",
        )),
        false => Ok(names),
    }
}

fn shown(names: &[Name]) -> String {
    names.iter().map(|name| format!("/{}", String::from_utf8_lossy(name.as_bytes()))).collect()
}

fn find(group: &Group, volume: VolumeId, names: &[Name], at: &Moment, now: Time) -> Result<Found> {
    let reader = group.reader();
    let seq = seq_at(&reader, volume, at, now)?.map_err(|errno| no_moment(errno, at))?;
    let past = state::as_of(&reader, volume, seq)?.map_err(|errno| no_moment(errno, at))?;
    let source = walk(&past, volume, names)?
        .ok_or_else(|| Error::not_found(format!("{} was not there at {at}", shown(names))))?;
    let (last, above) = names.split_last().ok_or_else(|| Error::internal("a path without names"))?;
    let parent = walk(&reader, volume, above)?.filter(|inode| inode.attr.kind == FileKind::Directory);
    let parent = parent.ok_or_else(|| {
        let above = shown(above);
        Error::not_found(format!(
            "the directory {above} is not there now: restore it, or make it, and try again"
        ))
    })?;
    let to = Place { parent: parent.attr.ino, name: last.clone() };
    Ok(Found { seq, source: source.attr.ino, to })
}

fn no_moment(errno: Errno, at: &Moment) -> Error {
    let why = match (errno, at) {
        (Errno::ENOENT, Moment::Snapshot(name)) => format!("there is no snapshot {name}"),
        (Errno::ENOENT, Moment::Time(time)) => format!("the volume was not there yet at {time}"),
        (Errno::EINVAL, _) => format!("{at} is not in the past"),
        _ => format!("history does not reach back to {at}"),
    };
    Error::refused(errno, why)
}

/// The inode that a path leads to; symbolic links are not followed.
fn walk(read: &dyn state::Read, volume: VolumeId, names: &[Name]) -> Result<Option<Inode>> {
    let mut here = inode(state::query(read, volume, &Query::Inode { ino: InodeId::ROOT })?)?;
    for name in names {
        let Some(dir) = here.filter(|inode| inode.attr.kind == FileKind::Directory) else {
            return Ok(None);
        };
        let at = Place { parent: dir.attr.ino, name: name.clone() };
        here = inode(state::query(read, volume, &Query::Lookup { at })?)?;
    }
    Ok(here)
}

fn inode(answer: Result<sitefs_base::op::Answer, Errno>) -> Result<Option<Inode>> {
    match answer.map(|answer| answer.body) {
        Ok(AnswerBody::Inode(inode)) => Ok(inode),
        Ok(_) => Err(Error::internal("the answer to another question")),
        Err(errno) => Err(Error::refused(errno, "looking up the path")),
    }
}

/// By how much the volume grows if a file has its content back in its place, which is refused to what is
/// no file or is elsewhere now.
fn in_place(group: &Group, volume: VolumeId, found: &Found, past: &RestoreState) -> Result<Option<Credit>> {
    let lookup = Query::Lookup { at: found.to.clone() };
    let there = inode(state::query(&group.reader(), volume, &lookup)?)?;
    let same = there.filter(|there| there.attr.ino == found.source && there.attr.kind == FileKind::File);
    let grown = |there: Inode| Credit { bytes: past.bytes.saturating_sub(there.attr.allocated), inodes: 0 };
    Ok(same.map(grown))
}

/// Counts what a restore would bring back.
fn measure(group: &Group, volume: VolumeId, found: &Found, tell: Option<&Progress>) -> Result<RestoreState> {
    let reader = group.reader();
    let gone = |errno| Error::refused(errno, "counting what there was");
    let past = state::as_of(&reader, volume, found.seq)?.map_err(gone)?;
    let root = inode(state::query(&past, volume, &Query::Inode { ino: found.source })?)?;
    let mut total = RestoreState { job: None, entries: 0, bytes: 0, more: false };
    let (mut dirs, mut linked) = (Vec::new(), HashSet::new());
    let mut told = Instant::now();
    let mut count = |inode: &Inode, dirs: &mut Vec<InodeId>| {
        let attr = &inode.attr;
        if attr.kind == FileKind::Directory {
            dirs.push(attr.ino);
        } else if attr.nlink > 1 && !linked.insert(attr.ino) {
            return;
        }
        total.entries += 1;
        total.bytes += attr.allocated;
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            // Only talk: what does not fit is not needed.
            let _ = tell.map(|tell| tell.try_send(Ok(as_progress(total))));
        }
    };
    root.iter().for_each(|inode| count(inode, &mut dirs));
    while let Some(dir) = dirs.pop() {
        let mut after = None;
        loop {
            let query = Query::ReadDir { dir, after: after.take(), limit: LISTING_PAGE };
            let answer = state::query(&past, volume, &query)?.map_err(gone)?;
            let AnswerBody::Entries { entries, complete, .. } = answer.body else {
                return Err(Error::internal("the answer to another question"));
            };
            entries.iter().for_each(|entry| count(&entry.inode, &mut dirs));
            match entries.last() {
                Some(last) if !complete => after = Some(last.name.clone()),
                _ => break,
            }
        }
    }
    Ok(total)
}

/// Copies and gives the copy its name; a copy that cannot be finished is removed. There must be room for
/// all of it beside what mounts were promised: `in_place` if that is all it takes, else `whole`.
async fn bring_back(
    cell: &Cell,
    volume: VolumeId,
    found: Found,
    (in_place, whole): (Option<Credit>, Credit),
    progress: &Progress,
) -> Result<RestoreState> {
    let Found { seq, source, to } = found;
    let restore = state::Restore { seq, source, to };
    let mut room = room_for(cell, volume, in_place.unwrap_or(whole)).await?;
    let begun = command(cell, &mut room, CommandBody::StartRestore { volume, restore }).await?;
    let Some(job) = begun.job else { return Ok(begun) };
    let copied = async {
        if in_place.is_some() {
            // It was too large for that, or is not in its place any more.
            room = room_for(cell, volume, whole).await?;
        }
        copy(cell, &mut room, job, progress).await
    };
    let copied = copied.await;
    let end = async |end| command(cell, &mut room, CommandBody::EndRestore { volume, job, end }).await;
    let mut end = end;
    let ended = match copied {
        Ok(()) => end(RestoreEnd::Publish).await,
        Err(error) => Err(error),
    };
    if ended.is_err() {
        // A refusal says that it has ended; whatever else is left to the loop.
        if let Err(error) = end(RestoreEnd::Abandon).await {
            tracing::debug!(%job, error = error.chain(), "a restore is left to be abandoned");
        }
    }
    cell.orphaned.notify_one();
    ended
}

async fn room_for(cell: &Cell, volume: VolumeId, wanted: Credit) -> Result<Room<'_>> {
    let room = Room::find(cell, volume, wanted).await;
    room.map_err(|error| match error.named_errno() {
        Some(errno) => Error::refused(errno, why(errno)),
        None => error,
    })
}

async fn copy(cell: &Cell, room: &mut Room<'_>, job: InodeId, progress: &Progress) -> Result<()> {
    let volume = room.volume();
    let mut told = Instant::now();
    loop {
        let state = command(cell, room, CommandBody::StepRestore { volume, job }).await?;
        if progress.is_closed() {
            return Err(Error::unavailable("the caller has gone"));
        }
        if !state.more {
            return Ok(());
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            // Only talk: what does not fit is not needed.
            let _ = progress.try_send(Ok(as_progress(state)));
        }
    }
}

/// Executes a step; mounts know of it when this returns.
async fn command(cell: &Cell, room: &mut Room<'_>, body: CommandBody) -> Result<RestoreState> {
    let applied = cell.group.propose(body).await?;
    room.used(applied.grown)?;
    let volume = room.volume();
    if let Some((_, event)) = &applied.event
        && !event.changes.is_empty()
    {
        cell.watchers.wait(volume, event.origin, event.seq).await;
    }
    match applied.reply {
        Ok(Reply::Restore(state)) => Ok(state),
        Ok(_) => Err(Error::internal("a restore gave another reply")),
        Err(errno) => Err(Error::refused(errno, why(errno))),
    }
}

fn why(errno: Errno) -> String {
    match errno {
        Errno::EDQUOT => {
            "no room for the copy beside what is there now and what mounts were promised: raise the limits of \
             the volume (sitefs volume set --bytes-limit, --inodes-limit)"
                .to_owned()
        }
        Errno::ENOSPC => "the disk of the cell is nearly full: make room on it".to_owned(),
        Errno::ESTALE => "history no longer holds that moment".to_owned(),
        Errno::ENOENT => "the directory has gone meanwhile".to_owned(),
        Errno::EBUSY => "too many restores of this volume are under way: try again later".to_owned(),
        errno => format!("restoring: {errno}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_begin_at_the_root_of_the_volume() {
        let text = |path: &str| names(path.as_bytes()).map(|names| shown(&names));
        assert_eq!(text("/wp-content/uploads/").unwrap(), "/wp-content/uploads");
        assert_eq!(text("a//./b").unwrap(), "/a/b");
        for bad in ["", "/", "/a/../b", "/a\0"] {
            assert!(text(bad).is_err(), "{bad:?}");
        }
    }
}
