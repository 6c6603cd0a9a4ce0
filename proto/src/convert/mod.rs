//! Checked conversions between messages and domain types, one file per part of the protocol.

mod blobs;
mod feed;
mod frames;
mod locks;
mod ops;
mod outcome;
mod query;
mod tree;

use bytes::Bytes;
use sitefs_base::{
    Digest, Errno, Error, Generation, GroupId, Incarnation, InodeId, Name, Result, SessionId, Time, op,
};
use std::time::Duration;

use crate::pb;

/// The longest text that is no URL: names of cells and identities, reasons.
pub(crate) const TEXT_MAX: usize = 4096;

pub(crate) fn need<T>(field: Option<T>, what: &'static str) -> Result<T> {
    field.ok_or_else(|| Error::invalid(format!("the message has no {what}")))
}

/// Converts every element, after checking how many there are.
fn list<A, B>(from: Vec<A>, max: usize, what: &'static str, each: impl Fn(A) -> Result<B>) -> Result<Vec<B>> {
    if from.len() > max {
        return Err(Error::invalid(format!("{} {what} are more than {max}", from.len())));
    }
    from.into_iter().map(each).collect()
}

fn short(bytes: Bytes, max: usize, what: &'static str) -> Result<Bytes> {
    match bytes.len() {
        len if len <= max => Ok(bytes),
        len => Err(Error::invalid(format!("{what} of {len} bytes is longer than {max}"))),
    }
}

pub(crate) fn text(text: String, max: usize, what: &'static str) -> Result<String> {
    match text.len() {
        len if len <= max => Ok(text),
        len => Err(Error::invalid(format!("{what} of {len} bytes is longer than {max}"))),
    }
}

pub(crate) fn mode(mode: u32) -> Result<u16> {
    u16::try_from(mode)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| Error::invalid(format!("{mode:o} are not permission bits")))
}

fn errno(raw: i32) -> Result<Errno> {
    match raw {
        1..=4095 => Ok(Errno::new(raw)),
        _ => Err(Error::invalid(format!("{raw} is not an errno"))),
    }
}

fn digest(raw: &Bytes) -> Result<Digest> {
    Digest::from_slice(raw)
}

fn digest_bytes(digest: &Digest) -> Bytes {
    Bytes::copy_from_slice(digest.as_bytes())
}

fn session(raw: &Bytes) -> Result<SessionId> {
    let key = raw[..].try_into();
    key.map(SessionId::from_key)
        .map_err(|_| Error::invalid(format!("a session id has 16 bytes, not {}", raw.len())))
}

fn session_bytes(session: SessionId) -> Bytes {
    Bytes::copy_from_slice(&session.to_key())
}

fn name(raw: &Bytes) -> Result<Name> {
    Name::new(&raw[..])
}

fn name_bytes(name: &Name) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl From<op::Place> for pb::Place {
    fn from(place: op::Place) -> Self {
        Self { parent: place.parent.get(), name: name_bytes(&place.name) }
    }
}

impl TryFrom<pb::Place> for op::Place {
    type Error = Error;
    fn try_from(place: pb::Place) -> Result<Self> {
        Ok(Self { parent: InodeId::new(place.parent), name: name(&place.name)? })
    }
}

fn place(place: Option<pb::Place>) -> Result<op::Place> {
    need(place, "place")?.try_into()
}

impl From<Time> for pb::Time {
    fn from(time: Time) -> Self {
        Self { secs: time.secs(), nanos: time.nanos() }
    }
}

impl TryFrom<pb::Time> for Time {
    type Error = Error;
    fn try_from(time: pb::Time) -> Result<Self> {
        match time.nanos {
            0..1_000_000_000 => Ok(Self::new(time.secs, time.nanos)),
            nanos => Err(Error::invalid(format!("{nanos} nanoseconds are a second or more"))),
        }
    }
}

fn time(time: Option<pb::Time>) -> Result<Time> {
    need(time, "time")?.try_into()
}

impl From<Generation> for pb::Generation {
    fn from(generation: Generation) -> Self {
        Self { incarnation: generation.incarnation.get(), counter: generation.counter }
    }
}

impl From<pb::Generation> for Generation {
    fn from(generation: pb::Generation) -> Self {
        Self { incarnation: Incarnation::new(generation.incarnation), counter: generation.counter }
    }
}

impl From<op::Usage> for pb::Usage {
    fn from(usage: op::Usage) -> Self {
        let op::Usage { bytes_used, bytes_limit, inodes_used, inodes_limit } = usage;
        Self { bytes_used, bytes_limit, inodes_used, inodes_limit }
    }
}

impl From<pb::Usage> for op::Usage {
    fn from(usage: pb::Usage) -> Self {
        let pb::Usage { bytes_used, bytes_limit, inodes_used, inodes_limit } = usage;
        Self { bytes_used, bytes_limit, inodes_used, inodes_limit }
    }
}

impl From<op::Credit> for pb::Credit {
    fn from(credit: op::Credit) -> Self {
        Self { bytes: credit.bytes, inodes: credit.inodes }
    }
}

impl From<pb::Credit> for op::Credit {
    fn from(credit: pb::Credit) -> Self {
        Self { bytes: credit.bytes, inodes: credit.inodes }
    }
}

pub(crate) fn group(raw: u32) -> Result<GroupId> {
    match raw {
        0 => Err(Error::invalid("the message names no group")),
        raw => Ok(GroupId::new(raw)),
    }
}

#[cfg(test)]
mod tests;
