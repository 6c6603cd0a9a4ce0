//! Events.

use super::{list, need, session, session_bytes};
use crate::pb;
use sitefs_base::{
    Error, InodeId, Result, Seq,
    op::{Change, Event},
};

/// One mutation changes few things; staged commits of large files change one inode.
const CHANGES_MAX: usize = 1024;

impl From<Event> for pb::Event {
    fn from(event: Event) -> Self {
        Self {
            seq: event.seq.get(),
            origin: session_bytes(event.origin),
            changes: event.changes.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::Event> for Event {
    type Error = Error;
    fn try_from(event: pb::Event) -> Result<Self> {
        Ok(Self {
            seq: Seq::new(event.seq),
            origin: session(&event.origin)?,
            changes: list(event.changes, CHANGES_MAX, "changes", Change::try_from)?,
        })
    }
}

impl From<Change> for pb::Change {
    fn from(change: Change) -> Self {
        use pb::change::Change as Wire;
        Self {
            change: Some(match change {
                Change::Name(place) => Wire::Name(place.into()),
                Change::Attr(ino) => Wire::Attr(ino.get()),
                Change::Content(ino) => Wire::Content(ino.get()),
                Change::Xattr(ino) => Wire::Xattr(ino.get()),
            }),
        }
    }
}

impl TryFrom<pb::Change> for Change {
    type Error = Error;
    fn try_from(change: pb::Change) -> Result<Self> {
        use pb::change::Change as Wire;
        Ok(match need(change.change, "change")? {
            Wire::Name(place) => Self::Name(place.try_into()?),
            Wire::Attr(ino) => Self::Attr(InodeId::new(ino)),
            Wire::Content(ino) => Self::Content(InodeId::new(ino)),
            Wire::Xattr(ino) => Self::Xattr(InodeId::new(ino)),
        })
    }
}
