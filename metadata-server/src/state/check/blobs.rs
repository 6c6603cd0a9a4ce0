//! The blobs of all sites, what was granted for them, and what is to be deleted.

use super::{
    super::{
        Family, Read, Repair, keys,
        rows::{BlobRow, BlobState, DoomedRow, Loc, UploadRow},
        view::Row,
    },
    Check, Finding, FindingKind as Found,
    cursor::{Cursor, decoded},
    group::Group,
};
use sitefs_base::{Digest, Generation, Result, SiteId, limits::CHUNK_SIZE};

/// Length of the key of a blob's row.
const BLOB_KEY: usize = 8 + 1 + 32;

pub(super) fn check(read: &dyn Read, check: &mut Check, group: &Group) -> Result<()> {
    let mut rows = Cursor::new(read, Family::Blob, Vec::new());
    while let Some(row) = rows.next(check)? {
        let site = keys::part(&row.0, 0).map_or(SiteId::new(0), SiteId::from_key);
        match row.0.get(8) {
            Some(b'B') => blob(read, check, group, site, &row)?,
            Some(b'U') => upload(read, check, group, site, &row)?,
            Some(b'D') => doomed(read, check, group, site, &row)?,
            // Told with the strays.
            _ => {}
        }
    }
    Ok(())
}

/// The digest of a blob, from its key and row.
pub(super) fn digest_of(key: &[u8], row: &BlobRow) -> Option<Digest> {
    let half = key.get(9..BLOB_KEY).filter(|_| key.len() == BLOB_KEY)?;
    Digest::from_slice(&[half, &row.rest].concat()).ok()
}

fn blob(read: &dyn Read, check: &mut Check, group: &Group, site: SiteId, stored: &Row) -> Result<()> {
    check.tally.blobs += 1;
    let Some(row) = decoded::<BlobRow>(check, None, Family::Blob, stored)? else { return Ok(()) };
    let Some(digest) = digest_of(&stored.0, &row) else {
        let what = "a blob has a key of another kind".to_owned();
        check.found(Finding::new(Found::RowDamaged, what));
        return Ok(());
    };
    let generation = row.generation;
    let finding = |kind, what: String| Finding::new(kind, what).blob(site, digest, generation);
    let short = digest.short();
    if !group.fits(&row) || !(1..=CHUNK_SIZE).contains(&u64::from(row.len)) {
        let BlobRow { len, last_ref, vols, .. } = &row;
        let what = format!(
            "blob {short} of {site}: {len} bytes, {generation:?}, named last by command {} of {}, volumes {vols:?}",
            last_ref.command, last_ref.incarnation
        );
        check.found(finding(Found::BlobRowWrong, what));
    }
    check.hot += u64::from(super::lists::is_held(&row));
    if row.state != BlobState::Present {
        return Ok(());
    }
    let has = |key: Vec<u8>| read.get(Family::Meta, &key).map(|found| found.is_some());
    let waits_unlisted = match row.loc {
        Loc::Hot if row.tail => false,
        Loc::Hot => !has(keys::drain(site, generation))?,
        Loc::Object => !row.verified && !has(keys::unverified(site, generation))?,
    };
    if waits_unlisted {
        let what = format!(
            "blob {short} of {site} waits to be {}",
            match row.loc {
                Loc::Hot => "drained",
                Loc::Object => "verified",
            }
        );
        check.found(finding(Found::ListMissing, what).repair(Repair::List { site, digest, generation }));
    }
    Ok(())
}

/// The generation in the key of an upload or a doomed object, if it was drawn.
fn generation(check: &mut Check, group: &Group, key: &[u8]) -> Option<Generation> {
    let generation = keys::part(key, 9).map(Generation::from_key);
    match generation {
        Some(generation) if group.was_drawn(generation) => return Some(generation),
        Some(generation) => {
            let what = format!("{generation:?} is in use and was not drawn yet");
            check.found(Finding::new(Found::CounterBehind, what));
        }
        None => check.found(Finding::new(Found::RowDamaged, "an upload has a key of another kind")),
    }
    None
}

/// Whether the blob of this digest lies under this generation.
fn is_in_use(read: &dyn Read, site: SiteId, digest: &Digest, generation: Generation) -> Result<bool> {
    let row = super::lists::blob_row(read, site, digest)?;
    Ok(row.is_some_and(|row| row.generation == generation && row.state != BlobState::Deleting))
}

fn upload(read: &dyn Read, check: &mut Check, group: &Group, site: SiteId, stored: &Row) -> Result<()> {
    let Some(UploadRow { digest, .. }) = decoded(check, None, Family::Blob, stored)? else { return Ok(()) };
    let Some(generation) = generation(check, group, &stored.0) else { return Ok(()) };
    if is_in_use(read, site, &digest, generation)? {
        let what = format!(
            "blob {} of {site} is in use as {generation:?}, which counts as not uploaded",
            digest.short()
        );
        check.found(Finding::new(Found::UploadInUse, what).blob(site, digest, generation));
    }
    Ok(())
}

fn doomed(read: &dyn Read, check: &mut Check, group: &Group, site: SiteId, stored: &Row) -> Result<()> {
    let Some(DoomedRow { digest, .. }) = decoded(check, None, Family::Blob, stored)? else { return Ok(()) };
    let Some(generation) = generation(check, group, &stored.0) else { return Ok(()) };
    if is_in_use(read, site, &digest, generation)? {
        let what =
            format!("blob {} of {site} is in use as {generation:?}, which is to be deleted", digest.short());
        check.found(Finding::new(Found::DoomedInUse, what).blob(site, digest, generation));
    }
    Ok(())
}
