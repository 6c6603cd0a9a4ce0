//! Bytes that the cell holds, and the lists of what waits.

use super::{
    super::{
        Family, Read, Repair, keys,
        rows::{self, BlobRow, BlobState, DrainRow, HotRow, Loc, TailRow, UnverifiedRow},
        view::Row,
    },
    Check, Finding, FindingKind as Found,
    blobs::digest_of,
    cursor::Cursor,
};
use sitefs_base::{Digest, Generation, Kind, Result, SiteId};

pub(super) fn check(read: &dyn Read, check: &mut Check) -> Result<()> {
    let held = hot(read, check)?;
    let mut listed = |prefix: &[u8], site_at: usize, generation_at: usize| -> Result<()> {
        let mut rows = Cursor::new(read, Family::Meta, prefix.to_vec());
        while let Some(row) = rows.next(check)? {
            entry(read, check, &row, (site_at, generation_at))?;
        }
        Ok(())
    };
    listed(keys::DRAIN, 1, 9)?;
    listed(keys::TAILS, 13, 1)?;
    listed(keys::UNVERIFIED, 1, 9)?;
    missing(read, check, held)
}

/// A blob's row; one that cannot be read is told elsewhere and counts as not there.
pub(in super::super) fn blob_row(read: &dyn Read, site: SiteId, digest: &Digest) -> Result<Option<BlobRow>> {
    match rows::fetch::<BlobRow>(read, Family::Blob, &keys::blob(site, digest)) {
        Ok(row) => Ok(row.filter(|row| row.rest == digest.rest())),
        Err(error) if error.kind() == Kind::Corrupt => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the cell should hold the bytes of a blob.
pub(super) fn is_held(row: &BlobRow) -> bool {
    row.loc == Loc::Hot && matches!(row.state, BlobState::Present | BlobState::Condemned)
}

/// Goes through all hot bytes; gives how many belong to sound blobs.
fn hot(read: &dyn Read, check: &mut Check) -> Result<u64> {
    let mut held = 0;
    let mut from = Vec::new();
    // Bytes are large: not a slice at a time.
    while let Some((key, value)) = read.scan(Family::Hot, &[], &from, 1)?.pop() {
        check.rows(1)?;
        from = super::super::reads::after(&key);
        let ids =
            keys::part(&key, 0).map(SiteId::from_key).zip(keys::part(&key, 8).map(Generation::from_key));
        let row = rows::decode::<HotRow>(Family::Hot, &key, &value);
        let (Some((site, generation)), Ok(HotRow { digest, bytes })) = (ids, row) else {
            let error = rows::damaged(Family::Hot, &key, "cannot be read");
            check.found(Finding::new(Found::RowDamaged, error.doing().to_owned()));
            continue;
        };
        let blob = blob_row(read, site, &digest)?;
        let blob = blob.filter(|row| row.loc == Loc::Hot && row.generation == generation);
        let finding = |kind, what: String| Finding::new(kind, what).blob(site, digest, generation);
        let Some(blob) = blob else {
            let what = format!("{} bytes of blob {} are held as {generation:?}", bytes.len(), digest.short());
            check.found(finding(Found::HotStray, what).repair(Repair::HotBytes { site, generation }));
            continue;
        };
        if !is_held(&blob) {
            continue;
        }
        held += 1;
        let is_right = || !check.options.hashes || super::super::blobs::digest_of(bytes) == digest;
        if bytes.len() != blob.len as usize || !is_right() {
            let what = format!("{} bytes held for blob {} have another digest", bytes.len(), digest.short());
            let repair = Repair::Damaged { site, digest, generation };
            check.found(finding(Found::HotWrong, what).repair(repair));
        }
    }
    Ok(held)
}

/// The digest that an entry of any list names: all begin alike.
fn named(key: &[u8], value: &[u8]) -> Result<Digest> {
    Ok(match key.first() {
        Some(b'H') => rows::decode::<DrainRow>(Family::Meta, key, value)?.digest,
        Some(b'L') => rows::decode::<TailRow>(Family::Meta, key, value)?.digest,
        _ => rows::decode::<UnverifiedRow>(Family::Meta, key, value)?.digest,
    })
}

fn entry(
    read: &dyn Read,
    check: &mut Check,
    row: &Row,
    (site_at, generation_at): (usize, usize),
) -> Result<()> {
    let (key, value) = row;
    let ids = keys::part(key, site_at).zip(keys::part(key, generation_at));
    let (Some((site, generation)), Ok(digest)) = (ids, named(key, value)) else {
        let error = rows::damaged(Family::Meta, key, "cannot be read");
        check.found(Finding::new(Found::RowDamaged, error.doing().to_owned()));
        return Ok(());
    };
    let (site, generation) = (SiteId::from_key(site), Generation::from_key(generation));
    if !waits(read, key, (site, digest, generation))? {
        let list = match key.first() {
            Some(b'H') => "drained",
            Some(b'L') => "merged",
            _ => "verified",
        };
        let what = format!("blob {} of {site} is on the list of those to be {list}", digest.short());
        let finding = Finding::new(Found::ListStray, what).blob(site, digest, generation);
        check.found(finding.repair(Repair::Unlist { key: key.clone(), site, digest, generation }));
    }
    Ok(())
}

/// Whether a blob belongs on the list of the entry `key`.
pub(in super::super) fn waits(
    read: &dyn Read,
    key: &[u8],
    (site, digest, generation): (SiteId, Digest, Generation),
) -> Result<bool> {
    let blob = blob_row(read, site, &digest)?.filter(|blob| blob.generation == generation);
    Ok(blob.is_some_and(|blob| {
        let is_sound = blob.state != BlobState::Damaged;
        match key.first() {
            Some(b'H') => is_sound && blob.loc == Loc::Hot && !blob.tail,
            Some(b'L') => is_sound && blob.loc == Loc::Hot && blob.tail,
            // A cell that was restored distrusts some that wait to be verified.
            _ => blob.loc == Loc::Object && !blob.verified,
        }
    }))
}

/// Which blobs have no bytes, if more should have than are `held`.
fn missing(read: &dyn Read, check: &mut Check, held: u64) -> Result<()> {
    if check.hot == held {
        return Ok(());
    }
    let mut found = Vec::new();
    hot_blobs(read, check, |site, blob| found.push((site, blob)))?;
    for (site, (digest, generation)) in found {
        if read.get(Family::Hot, &keys::hot(site, generation))?.is_none() {
            let what = format!("the cell does not hold blob {} of {site}", digest.short());
            let finding = Finding::new(Found::HotMissing, what).blob(site, digest, generation);
            check.found(finding.repair(Repair::Damaged { site, digest, generation }));
        }
    }
    Ok(())
}

/// The blobs whose bytes the cell should hold.
fn hot_blobs(
    read: &dyn Read,
    check: &mut Check,
    mut each: impl FnMut(SiteId, (Digest, Generation)),
) -> Result<()> {
    let mut rows = Cursor::new(read, Family::Blob, Vec::new());
    while let Some((key, value)) = rows.next(check)? {
        if key.get(8) != Some(&b'B') {
            continue;
        }
        let Ok(row) = rows::decode::<BlobRow>(Family::Blob, &key, &value) else { continue };
        let Some(site) = keys::part(&key, 0).map(SiteId::from_key) else { continue };
        if let Some(digest) = digest_of(&key, &row)
            && is_held(&row)
        {
            each(site, (digest, row.generation));
        }
    }
    Ok(())
}
