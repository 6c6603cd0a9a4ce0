//! Paths of what was found.

use super::{
    super::{
        Family, Read, keys, reads,
        rows::{self, DentryRow, InodeRow},
    },
    Check, Finding, Place,
    cursor::Cursor,
};
use sitefs_base::{InodeId, Name, Result, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

/// Longer paths are shown from their end.
const DEPTH_MAX: usize = 256;
/// Entries of one directory that are searched for the name of a directory in it.
const ENTRIES_MAX: u64 = 1 << 20;

/// Where an inode is: in which directory, under which name.
type Spot = (InodeId, Name);

/// Adds paths to findings of one volume or of none; drops those that only count on a path and have none.
pub(super) fn located(read: &dyn Read, check: &mut Check, found: Vec<Finding>) -> Result<Vec<Finding>> {
    let mut by_volume = BTreeMap::<VolumeId, BTreeSet<InodeId>>::new();
    for finding in &found {
        if let (Some(volume), Place::Inode(ino)) = (finding.volume, &finding.place) {
            by_volume.entry(volume).or_default().insert(*ino);
        }
    }
    let mut spots = BTreeMap::new();
    for (volume, inodes) in by_volume {
        for (ino, spot) in first_names(read, check, volume, &inodes)? {
            spots.insert((volume, ino), spot);
        }
    }
    let mut known = BTreeMap::new();
    let mut located = Vec::with_capacity(found.len());
    for mut finding in found {
        let Some(volume) = finding.volume else {
            located.push(finding);
            continue;
        };
        finding.path = match &finding.place {
            Place::Whole => None,
            Place::Inode(InodeId::ROOT) => Some("/".to_owned()),
            Place::Inode(ino) => match spots.get(&(volume, *ino)) {
                Some(spot) => path(read, volume, spot, &mut known)?,
                None => None,
            },
            Place::Entry(parent, name) => path(read, volume, &(*parent, name.clone()), &mut known)?,
        };
        if !finding.if_reachable || finding.path.is_some() {
            located.push(finding);
        }
    }
    Ok(located)
}

/// A name of each of the inodes that has one.
pub(super) fn first_names(
    read: &dyn Read,
    check: &mut Check,
    volume: VolumeId,
    inodes: &BTreeSet<InodeId>,
) -> Result<BTreeMap<InodeId, Spot>> {
    let mut found = BTreeMap::new();
    let mut entries = Cursor::new(read, Family::Dentry, volume.to_key().to_vec());
    while found.len() < inodes.len()
        && let Some((key, value)) = entries.next(check)?
    {
        let Ok(row) = rows::decode::<DentryRow>(Family::Dentry, &key, &value) else { continue };
        if inodes.contains(&row.ino)
            && let Some(parent) = keys::part(&key, 8).map(InodeId::from_key)
            && let Ok(name) = Name::new(key.get(16..).unwrap_or_default())
        {
            found.entry(row.ino).or_insert((parent, name));
        }
    }
    Ok(found)
}

/// The path of a spot, if its directories lead to the root.
pub(super) fn path(
    read: &dyn Read,
    volume: VolumeId,
    (parent, name): &Spot,
    known: &mut BTreeMap<(VolumeId, InodeId), Option<Spot>>,
) -> Result<Option<String>> {
    let mut parts = vec![String::from_utf8_lossy(name.as_bytes()).into_owned()];
    let mut at = *parent;
    while at != InodeId::ROOT {
        if parts.len() == DEPTH_MAX {
            return Ok(None);
        }
        let spot = match known.get(&(volume, at)) {
            Some(spot) => spot.clone(),
            None => {
                let spot = name_of_dir(read, volume, at)?;
                known.insert((volume, at), spot.clone());
                spot
            }
        };
        let Some((above, name)) = spot else { return Ok(None) };
        parts.push(String::from_utf8_lossy(name.as_bytes()).into_owned());
        at = above;
    }
    parts.push(String::new());
    parts.reverse();
    Ok(Some(parts.join("/")))
}

/// A directory knows its parent; there its name is searched.
fn name_of_dir(read: &dyn Read, volume: VolumeId, ino: InodeId) -> Result<Option<Spot>> {
    let Ok(Some(row)) = rows::fetch::<InodeRow>(read, Family::Inode, &keys::inode(volume, ino)) else {
        return Ok(None);
    };
    let Some(parent) = row.parent else { return Ok(None) };
    let prefix = keys::dentries(volume, parent);
    let (mut found, mut seen) = (None, 0);
    reads::walk(read, Family::Dentry, &prefix, &prefix, |key, value| {
        seen += 1;
        if rows::decode::<DentryRow>(Family::Dentry, key, value).is_ok_and(|row| row.ino == ino) {
            found = Name::new(&key[prefix.len()..]).ok().map(|name| (parent, name));
        }
        Ok(found.is_none() && seen < ENTRIES_MAX)
    })?;
    Ok(found)
}
