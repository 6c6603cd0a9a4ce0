//! Rows of volumes that are not there, and of kinds that nobody knows.

use super::{
    super::{Family, Read, keys, reads, rows},
    Check, Finding, FindingKind as Found,
};
use sitefs_base::{Result, VolumeId};

/// The first bytes of keys of family `m`, of rows that belong to a volume.
const OF_VOLUMES: &[u8] = b"IJKOPRSW";
/// All that family `m` may begin with.
const META: &[u8] = b"BCEGHIJKLMNOPQRSVWXYZ";
/// What follows the volume in family `x`, and the site in family `b`.
const SMALL: &[u8] = b"AOTX";
const BLOBS: &[u8] = b"BDU";

pub(super) fn check(read: &dyn Read, check: &mut Check) -> Result<()> {
    for family in [Family::Dentry, Family::Inode, Family::Chunk, Family::Small, Family::Feed] {
        volumes(read, check, family, &[])?;
    }
    for tag in OF_VOLUMES {
        volumes(read, check, Family::Meta, &[*tag])?;
    }
    tags(read, check, Family::Meta, 0, META)?;
    tags(read, check, Family::Small, 8, SMALL)?;
    tags(read, check, Family::Blob, 8, BLOBS)
}

/// Goes from volume to volume, without reading their rows.
fn volumes(read: &dyn Read, check: &mut Check, family: Family, prefix: &[u8]) -> Result<()> {
    let mut from = prefix.to_vec();
    while let Some((key, _)) = read.scan(family, prefix, &from, 1)?.pop() {
        check.rows(1)?;
        let Some(volume) = keys::part(&key, prefix.len()).map(VolumeId::from_key) else {
            check.found(rows_of_none(family, &key));
            from = reads::after(&key);
            continue;
        };
        // The row of a volume that cannot be read has been told.
        if let Ok(None) = reads::volume(read, volume) {
            check.found(rows_of_none(family, &key).of(volume));
        }
        let Some(next) = volume.get().checked_add(1) else { return Ok(()) };
        from = [prefix, &next.to_be_bytes()].concat();
    }
    Ok(())
}

fn rows_of_none(family: Family, key: &[u8]) -> Finding {
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let what = format!("family {} has rows of a volume that is not there, from {hex} on", family.name());
    Finding::new(Found::RowOfNoVolume, what)
}

/// Goes from tag to tag.
fn tags(read: &dyn Read, check: &mut Check, family: Family, offset: usize, known: &[u8]) -> Result<()> {
    let mut from = Vec::new();
    while let Some((key, _)) = read.scan(family, &[], &from, 1)?.pop() {
        check.rows(1)?;
        let Some((front, tag)) = key.get(..offset).zip(key.get(offset)) else {
            unknown(check, family, &key);
            from = reads::after(&key);
            continue;
        };
        if !known.contains(tag) {
            unknown(check, family, &key);
        }
        from = match tag.checked_add(1) {
            Some(next) => [front, &[next]].concat(),
            None => reads::after(&key),
        };
    }
    Ok(())
}

fn unknown(check: &mut Check, family: Family, key: &[u8]) {
    let error = rows::damaged(family, key, "is of a kind that this version does not know");
    check.found(Finding::new(Found::RowUnknown, error.doing().to_owned()));
}
