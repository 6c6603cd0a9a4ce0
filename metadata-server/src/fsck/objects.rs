//! Blobs against the objects of the store, both in the order of their keys.

use super::{
    Subject,
    pace::Pace,
    rows::Rows,
    tell::{self, Teller},
};
use crate::state::{
    self, Read, Repair,
    check::{Finding, FindingKind as Found, Place, StoredBlob, User},
};
use sitefs_base::{
    Digest, Error, Result, SiteId, SystemClock, check::CheckSummary, limits::METADATA_DEADLINE,
};
use sitefs_blobstore::{Listed, ObjectKey};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};
use tokio::time::timeout;

/// Rows and objects that are read at a time.
const SLICE: usize = 1_000;
/// Wrong objects whose users are looked up; more are told without.
const WRONG_MAX: usize = 10_000;

/// An object that is not as its blob's row says.
pub(super) struct Wrong {
    pub blob: StoredBlob,
    pub kind: Found,
    pub what: String,
}

/// The objects of one site, in order.
struct Objects<'a> {
    subject: &'a Subject,
    prefix: String,
    page: VecDeque<Listed>,
    after: Option<String>,
    ended: bool,
}

impl Objects<'_> {
    async fn next(&mut self) -> Result<Option<&Listed>> {
        if self.page.is_empty() && !self.ended {
            let listed = self.subject.backend()?.list(&self.prefix, self.after.as_deref(), SLICE).await?;
            self.ended = listed.len() < SLICE;
            self.after = listed.last().map(|last| last.key.clone()).or(self.after.take());
            self.page = listed.into();
        }
        Ok(self.page.front())
    }
}

pub(super) async fn check(subject: &Subject, teller: &mut Teller, summary: &mut CheckSummary) -> Result<()> {
    let mut wrong = Vec::new();
    let mut after = None;
    let mut site: Option<(SiteId, Objects<'_>)> = None;
    loop {
        let blobs = page(subject, after).await?;
        let Some(last) = blobs.last() else { break };
        after = Some(last.place());
        for blob in blobs {
            if site.as_ref().is_none_or(|(of, _)| *of != blob.key.site) {
                if let Some((_, mut objects)) = site.take() {
                    rest(&mut objects, summary).await?;
                }
                let prefix = ObjectKey::site_prefix(blob.key.site);
                let objects = Objects { subject, prefix, page: VecDeque::new(), after: None, ended: false };
                site = Some((blob.key.site, objects));
            }
            let Some((_, objects)) = &mut site else { continue };
            summary.objects += 1;
            teller.progress("objects", summary.objects, summary.blobs, None)?;
            let len = listed(objects, &blob.key, summary).await?;
            if len != Some(u64::from(blob.len)) && !blob.is_damaged {
                wrong.extend(confirmed(subject, blob).await?);
            }
        }
    }
    if let Some((_, mut objects)) = site {
        rest(&mut objects, summary).await?;
    }
    tell_wrong(subject, wrong, teller).await
}

/// The next blobs that should have objects.
pub(super) async fn page(subject: &Subject, after: Option<(SiteId, [u8; 32])>) -> Result<Vec<StoredBlob>> {
    let rows = subject.rows.clone();
    let read = tokio::task::spawn_blocking(move || state::check::stored_blobs(&rows, after, SLICE)).await;
    read.map_err(|join| Error::internal("reading blobs").because(join))?
}

/// What the store lists for a key: its length. Objects before it belong to no blob.
async fn listed(
    objects: &mut Objects<'_>,
    key: &ObjectKey,
    summary: &mut CheckSummary,
) -> Result<Option<u64>> {
    let key = key.to_string();
    while let Some(next) = objects.next().await? {
        match next.key.cmp(&key) {
            std::cmp::Ordering::Less => summary.unused_objects += 1,
            std::cmp::Ordering::Equal => return Ok(objects.page.pop_front().map(|object| object.len)),
            std::cmp::Ordering::Greater => return Ok(None),
        }
        objects.page.pop_front();
    }
    Ok(None)
}

async fn rest(objects: &mut Objects<'_>, summary: &mut CheckSummary) -> Result<()> {
    while objects.next().await?.is_some() {
        objects.page.pop_front();
        summary.unused_objects += 1;
    }
    Ok(())
}

/// A listing may be stale, and rows move on: asks for the object itself, and whether the blob is still there.
async fn confirmed(subject: &Subject, blob: StoredBlob) -> Result<Option<Wrong>> {
    let found = timeout(METADATA_DEADLINE, subject.backend()?.head(&blob.key)).await;
    let found = found.unwrap_or_else(|_| Err(Error::unavailable("looking for an object took too long")))?;
    let (key, len) = (blob.key, u64::from(blob.len));
    if found == Some(len) || !is_still_there(subject, &blob).await? {
        return Ok(None);
    }
    let wrong = match found {
        None => Wrong { what: format!("the store has no object {key}"), kind: Found::ObjectMissing, blob },
        Some(other) => {
            Wrong { what: format!("{key} has {other} bytes, not {len}"), kind: Found::ObjectSize, blob }
        }
    };
    Ok(Some(wrong))
}

/// Whether the blob still is where it was when the check began.
pub(super) async fn is_still_there(subject: &Subject, blob: &StoredBlob) -> Result<bool> {
    let (now, key) = (subject.now.clone(), blob.key);
    let read =
        tokio::task::spawn_blocking(move || state::check::stored_blob(&now(), key.site, &key.digest)).await;
    let now = read.map_err(|join| Error::internal("reading a blob").because(join))??;
    Ok(now.is_some_and(|now| now.key.generation == key.generation))
}

/// Tells wrong objects with the paths that use them. One that nothing names is no damage.
pub(super) async fn tell_wrong(subject: &Subject, wrong: Vec<Wrong>, teller: &mut Teller) -> Result<()> {
    if wrong.is_empty() {
        return Ok(());
    }
    let blobs: BTreeSet<_> =
        wrong.iter().take(WRONG_MAX).map(|wrong| (wrong.blob.key.site, wrong.blob.key.digest)).collect();
    let users = users(&subject.rows, blobs, teller.clone(), subject.estimate).await?;
    let commands = state::check::commands(&subject.rows)?;
    for (number, wrong) in wrong.into_iter().enumerate() {
        let StoredBlob { key: ObjectKey { site, digest, generation }, .. } = wrong.blob;
        let users = users.get(&(site, digest));
        let is_unused = users.is_none() && number < WRONG_MAX && wrong.kind == Found::ObjectMissing;
        let (kind, repair) = if is_unused {
            (Found::ObjectUnused, Repair::Blob { site, digest, generation, commands })
        } else {
            (wrong.kind, Repair::Damaged { site, digest, generation })
        };
        let finding = Finding::new(kind, wrong.what).blob(site, digest, generation).repair(repair);
        for finding in with_users(&finding, users) {
            let volume = tell::volume_name(&subject.rows, &finding);
            teller.found(tell::finding(&finding, volume)).await?;
        }
    }
    Ok(())
}

/// One finding per file that shows the blob.
fn with_users(finding: &Finding, users: Option<&Vec<User>>) -> Vec<Finding> {
    let Some(users) = users else { return vec![finding.clone()] };
    let of = |user: &User| {
        let mut finding = finding.clone().of(user.volume).at(Place::Inode(user.ino));
        if user.past {
            finding.what.push_str("; history names it");
        }
        finding.path.clone_from(&user.path);
        finding
    };
    users.iter().map(of).collect()
}

pub(super) type Users = BTreeMap<(SiteId, Digest), Vec<User>>;

/// Who uses some blobs, with paths: reads the rows of their sites.
pub(super) async fn users(
    rows: &Arc<dyn Read + Send + Sync>,
    blobs: BTreeSet<(SiteId, Digest)>,
    teller: Teller,
    estimate: u64,
) -> Result<Users> {
    let rows = rows.clone();
    let pace = Pace::new(Arc::new(SystemClock), None, teller.stop());
    let mut watch = Rows { rows: rows.clone(), teller, pace, stage: "users", done: 0, total: estimate };
    let read = move || {
        let mut found = state::check::users(&rows, &blobs, &mut watch)?;
        for users in found.values_mut() {
            state::check::paths_of(&rows, users, &mut watch)?;
        }
        Ok(found)
    };
    let found = tokio::task::spawn_blocking(read).await;
    found.map_err(|join| Error::internal("looking for the users of blobs").because(join))?
}
