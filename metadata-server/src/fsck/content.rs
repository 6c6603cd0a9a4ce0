//! Reads objects and hashes them.

use super::{
    Subject,
    objects::{self, Wrong, is_still_there, page},
    pace::Pace,
    tell::Teller,
};
use crate::{
    grant::hashed,
    state::check::{FindingKind as Found, StoredBlob},
};
use sitefs_base::{Error, Kind, Result, SiteId, check::CheckSummary, limits::CONTENT_DEADLINE};
use sitefs_blobstore::Backend;
use std::fmt;
use tokio::{task::JoinSet, time::timeout};

/// Objects that are read at a time; each holds a blob in memory.
const CONCURRENT: usize = 4;
/// Wrong objects that are told together, because looking for their users reads all rows.
const TOGETHER: usize = 1_000;

/// The last blob that was read: a check can go on behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cursor(pub SiteId, pub [u8; 32]);

impl Cursor {
    pub fn parse(text: &str) -> Result<Self> {
        let bad =
            || Error::invalid(format!("{text:?} is no place to go on from: give what an earlier check said"));
        let (site, hash) = text.split_once('-').ok_or_else(bad)?;
        let mut bytes = [0; 32];
        if hash.len() != 64 || !hash.is_ascii() {
            return Err(bad());
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hash[2 * at..2 * at + 2], 16).map_err(|_| bad())?;
        }
        Ok(Self(SiteId::new(site.parse().map_err(|_| bad())?), bytes))
    }

    pub fn place(self) -> (SiteId, [u8; 32]) {
        (self.0, self.1)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-", self.0.get())?;
        self.1.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

pub(super) async fn check(
    subject: &Subject,
    from: Option<Cursor>,
    teller: &mut Teller,
    mut pace: Pace,
    summary: &mut CheckSummary,
) -> Result<()> {
    let (mut after, mut wrong, mut done) = (from.map(Cursor::place), Vec::new(), 0);
    loop {
        let blobs = page(subject, after).await?;
        if blobs.is_empty() {
            break;
        }
        for some in blobs.chunks(CONCURRENT) {
            let bytes: u64 = some.iter().map(|blob| u64::from(blob.len)).sum();
            wrong.extend(read(subject, some).await?);
            summary.bytes_read += bytes;
            done += some.len() as u64;
            after = some.last().map(StoredBlob::place).or(after);
            if wrong.len() >= TOGETHER {
                objects::tell_wrong(subject, std::mem::take(&mut wrong), teller).await?;
            }
            // What was found before the place to go on from has been told.
            let resume =
                after.filter(|_| wrong.is_empty()).map(|(site, hash)| Cursor(site, hash).to_string());
            teller.progress("content", done, summary.blobs, resume)?;
            pace.wait(bytes).await?;
        }
    }
    objects::tell_wrong(subject, wrong, teller).await
}

async fn read(subject: &Subject, blobs: &[StoredBlob]) -> Result<Vec<Wrong>> {
    let mut reads = JoinSet::new();
    for blob in blobs.iter().filter(|blob| !blob.is_damaged) {
        let (backend, blob) = (subject.backend()?.clone(), blob.clone());
        reads.spawn(async move { (proven(&*backend, &blob).await, blob) });
    }
    let mut wrong = Vec::new();
    while let Some(read) = reads.join_next().await {
        let (read, blob) = read.map_err(|join| Error::internal("reading an object").because(join))?;
        let Err(error) = read else { continue };
        let kind = match error.kind() {
            Kind::NotFound => Found::ObjectMissing,
            Kind::Corrupt => Found::ObjectWrong,
            _ => return Err(error),
        };
        if is_still_there(subject, &blob).await? {
            wrong.push(Wrong { what: format!("{}: {}", blob.key, error.chain()), kind, blob });
        }
    }
    Ok(wrong)
}

/// Reads one object and hashes it.
pub(super) async fn proven(backend: &dyn Backend, blob: &StoredBlob) -> Result<()> {
    match proven_once(backend, blob).await {
        // What was damaged on its way only is whole the second time.
        Err(error) if error.kind() == Kind::Corrupt => proven_once(backend, blob).await,
        proven => proven,
    }
}

async fn proven_once(backend: &dyn Backend, blob: &StoredBlob) -> Result<()> {
    let read = timeout(CONTENT_DEADLINE, backend.get(&blob.key)).await;
    let bytes = read.unwrap_or_else(|_| Err(Error::unavailable("reading an object took too long")))?;
    if bytes.len() as u64 != u64::from(blob.len) {
        return Err(Error::corrupt(format!("it has {} bytes, not {}", bytes.len(), blob.len)));
    }
    hashed(blob.key.digest, bytes).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_to_go_on_from_has_one_text_form() {
        let cursor = Cursor(SiteId::new(7), [0xab; 32]);
        assert_eq!(Cursor::parse(&cursor.to_string()).unwrap(), cursor);
        for bad in
            ["", "7", "7-ab", "x-00", &format!("7-{}", "zz".repeat(32)), &format!("7-{}", "é".repeat(32))]
        {
            assert!(Cursor::parse(bad).is_err(), "{bad}");
        }
    }
}
