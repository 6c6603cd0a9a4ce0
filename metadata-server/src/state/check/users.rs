//! Which files use a blob: found by reading all rows of the site's volumes once.

use super::{
    super::{
        Family, Read, history, keys, reads,
        rows::{self, ChunkRow, InodeRow, VolumeRow},
    },
    Check, Options, Tally, Watch,
    cursor::Cursor,
    paths,
};
use sitefs_base::{Digest, Extent, InodeId, Result, SiteId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

/// Users of one blob that are told.
const USERS_MAX: usize = 16;

/// A file that shows bytes of a blob, or showed them and may still be asked for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct User {
    /// The volume.
    pub volume: VolumeId,
    /// The file.
    pub ino: InodeId,
    /// Only its past does.
    pub past: bool,
    /// A path that leads there now.
    pub path: Option<String>,
}

/// The users of `blobs`, a few of each. Reads every row of the sites' volumes: for blobs that are wrong.
pub fn users(
    read: &dyn Read,
    blobs: &BTreeSet<(SiteId, Digest)>,
    watch: &mut dyn Watch,
) -> Result<BTreeMap<(SiteId, Digest), Vec<User>>> {
    let options = Options { seed: (0, 0), snapshots: false, hashes: false };
    let mut check =
        Check { watch, options, tally: Tally::default(), commands: 0, hot: 0, pending: Vec::new() };
    let sites: BTreeSet<SiteId> = blobs.iter().map(|(site, _)| *site).collect();
    let mut found = BTreeMap::<_, BTreeSet<User>>::new();
    let mut volumes = Cursor::new(read, Family::Meta, keys::VOLUMES.to_vec());
    while let Some((key, value)) = volumes.next(&mut check)? {
        let Some(id) = keys::part(&key, 1).map(VolumeId::from_key) else { continue };
        let Ok(volume) = rows::decode::<VolumeRow>(Family::Meta, &key, &value) else { continue };
        if sites.contains(&volume.site) && volume.deleted.is_none() {
            of_volume(read, &mut check, id, &volume, blobs, &mut found)?;
        }
    }
    let found = found.into_iter().map(|(blob, users)| (blob, users.into_iter().collect()));
    Ok(found.collect())
}

fn of_volume(
    read: &dyn Read,
    check: &mut Check,
    id: VolumeId,
    volume: &VolumeRow,
    blobs: &BTreeSet<(SiteId, Digest)>,
    found: &mut BTreeMap<(SiteId, Digest), BTreeSet<User>>,
) -> Result<()> {
    let families = [Family::Inode, Family::Chunk, Family::InodeHistory, Family::ChunkHistory];
    for family in families {
        let mut rows = Cursor::new(read, family, id.to_key().to_vec());
        while let Some((key, value)) = rows.next(check)? {
            let past = family.is_history();
            if past {
                let Ok(life) = history::life_of(family, &key, &value) else { continue };
                if !history::keep(life, volume.horizon, &volume.pins) {
                    continue;
                }
            }
            let Some(ino) = keys::part(&key, 8).map(InodeId::from_key) else { continue };
            for extent in extents(family, &key, &value) {
                let blob = (volume.site, extent.digest);
                if blobs.contains(&blob) {
                    let users = found.entry(blob).or_default();
                    let user = User { volume: id, ino, past, path: None };
                    let is_known = past && users.contains(&User { past: false, ..user.clone() });
                    if users.len() < USERS_MAX && !is_known {
                        users.insert(user);
                    }
                }
            }
        }
    }
    Ok(())
}

/// What a row names; nothing if it cannot be read.
fn extents(family: Family, key: &[u8], value: &[u8]) -> Vec<Extent> {
    match family {
        Family::Inode | Family::InodeHistory => {
            rows::decode::<InodeRow>(family, key, value).map(|row| row.extents().to_vec()).unwrap_or_default()
        }
        _ => rows::decode::<ChunkRow>(family, key, value).map(|row| row.extents).unwrap_or_default(),
    }
}

/// Adds paths to users, of those that have one.
pub fn paths_of(read: &dyn Read, users: &mut [User], watch: &mut dyn Watch) -> Result<()> {
    let options = Options { seed: (0, 0), snapshots: false, hashes: false };
    let mut check =
        Check { watch, options, tally: Tally::default(), commands: 0, hot: 0, pending: Vec::new() };
    let mut by_volume = BTreeMap::<VolumeId, BTreeSet<InodeId>>::new();
    for user in users.iter() {
        by_volume.entry(user.volume).or_default().insert(user.ino);
    }
    let mut known = BTreeMap::new();
    for (volume, inodes) in by_volume {
        if reads::volume(read, volume)?.is_none() {
            continue;
        }
        let spots = paths::first_names(read, &mut check, volume, &inodes)?;
        for user in users.iter_mut().filter(|user| user.volume == volume) {
            if let Some(spot) = spots.get(&user.ino) {
                user.path = paths::path(read, volume, spot, &mut known)?;
            }
        }
    }
    Ok(())
}
