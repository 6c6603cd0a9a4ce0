//! The replies that the kernel may keep. Each is given by the flight of its request, which knows what
//! crossed it, and which lands when the reply is written.

use super::backing;
use super::convert::{GENERATION, attr, entry_attr, errno, no_entry, open_flags, ttl};
use crate::fs::{Flight, Lifetime, Opened, View};
use fuser::{FileHandle, FopenFlags, ReplyAttr, ReplyCreate, ReplyEmpty, ReplyEntry};
use sitefs_base::Errno;
use sitefs_base::op::{Place, RenameMode};

/// Answers a lookup: with an inode, or that there is none.
pub(super) fn found(
    mut flight: Flight,
    place: Place,
) -> impl FnOnce(ReplyEntry, Result<(Option<View>, Lifetime), Errno>) + Send + 'static {
    move |reply, result| {
        match result {
            Ok((Some(view), entry)) => {
                let lasting = flight.entry(&place, &view, entry);
                reply.entry_with_ttls(
                    &ttl(lasting.attr),
                    &ttl(lasting.entry),
                    &entry_attr(&view),
                    GENERATION,
                );
            }
            Ok((None, lifetime)) => {
                reply.entry(&ttl(flight.absent(&place, lifetime)), &no_entry(), GENERATION);
            }
            Err(error) => reply.error(errno(error)),
        }
        drop(flight);
    }
}

/// Answers what made a name.
pub(super) fn made(
    flight: Flight,
    place: Place,
) -> impl FnOnce(ReplyEntry, Result<View, Errno>) + Send + 'static {
    let found = found(flight, place);
    |reply, result| found(reply, result.map(|view| (Some(view), Lifetime::UntilChanged)))
}

/// Answers what made a name and opened it, or opened what had the name already.
pub(super) fn created(
    mut flight: Flight,
    place: Place,
) -> impl FnOnce(ReplyCreate, Result<(View, Opened), Errno>) + Send + 'static {
    move |reply, result| {
        match result {
            Ok((view, opened)) => {
                // This reply has only one time for both.
                let lifetime = flight.entry(&place, &view, Lifetime::UntilChanged).both();
                let flags = open_flags(&opened) - FopenFlags::FOPEN_KEEP_CACHE;
                let (fh, ttl, attr) = (FileHandle(opened.fh), ttl(lifetime), entry_attr(&view));
                match &opened.loan {
                    Some(loan) => backing::created(reply, (ttl, attr), fh, loan),
                    None => reply.created(&ttl, &attr, GENERATION, fh, flags),
                }
            }
            Err(error) => reply.error(errno(error)),
        }
        drop(flight);
    }
}

/// Answers with attributes.
pub(super) fn attributes(mut flight: Flight) -> impl FnOnce(ReplyAttr, Result<View, Errno>) + Send + 'static {
    move |reply, result| {
        match result {
            Ok(view) => reply.attr(&ttl(flight.attr(&view)), &attr(&view.attr, view.attr.ino)),
            Err(error) => reply.error(errno(error)),
        }
        drop(flight);
    }
}

/// Answers what removed a name.
pub(super) fn removed(
    mut flight: Flight,
    place: Place,
) -> impl FnOnce(ReplyEmpty, Result<(), Errno>) + Send + 'static {
    move |reply, result| {
        match result {
            Ok(()) => {
                flight.removed(&place);
                reply.ok();
            }
            Err(error) => reply.error(errno(error)),
        }
        drop(flight);
    }
}

/// Answers what moved a name.
pub(super) fn renamed(
    mut flight: Flight,
    from: Place,
    to: Place,
    mode: RenameMode,
) -> impl FnOnce(ReplyEmpty, Result<(), Errno>) + Send + 'static {
    move |reply, result| {
        match result {
            Ok(()) => {
                flight.renamed(&from, &to, mode);
                reply.ok();
            }
            Err(error) => reply.error(errno(error)),
        }
        drop(flight);
    }
}
