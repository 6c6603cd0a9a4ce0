//! Which backups there are, and removing those that are kept long enough.

use super::{
    manifest::Manifest,
    names::{Names, all, time_of},
};
use sitefs_base::{BackupInfo, Error, GroupId, Incarnation, Result, Time};
use sitefs_blobstore::Vault;
use std::{collections::HashSet, time::Duration};

/// A backup that is under way for longer than this is not any more.
const PENDING_MAX: Duration = Duration::from_secs(24 * 3600);

/// What people see of a backup.
pub(super) fn info(manifest: &Manifest, vault: &dyn Vault) -> BackupInfo {
    BackupInfo {
        id: manifest.id.clone(),
        cell: manifest.cell.clone(),
        incarnation: Incarnation::new(manifest.incarnation),
        index: manifest.index,
        at: manifest.at,
        bytes: manifest.size(),
        place: vault.place(),
    }
}

/// The backups of a group in a vault, the oldest first.
pub async fn list(vault: &dyn Vault, cell: &str, group: GroupId) -> Result<Vec<BackupInfo>> {
    let mut found = Vec::new();
    for manifest in all(vault, &Names::new(cell, group).manifests()).await? {
        found.push(info(&Manifest::read(vault, &manifest.key).await?, vault));
    }
    Ok(found)
}

/// The ids of all backups, the oldest first.
pub(super) async fn ids(vault: &dyn Vault, names: &Names) -> Result<Vec<String>> {
    let prefix = names.manifests();
    let listed = all(vault, &prefix).await?;
    let mut ids: Vec<String> = listed.iter().map(|file| file.key[prefix.len()..].to_owned()).collect();
    ids.sort();
    Ok(ids)
}

/// Removes backups that were begun before `before`, but never the newest, and then everything that none
/// of the others names. Returns the ids of those that are left, the oldest first.
///
/// While another node makes a backup nothing but manifests is removed: it may have been told of a part by
/// one of them. If a manifest that stays cannot be read, nothing is removed.
///
/// A backup may also begin, or come whole, while this works. Each is marked before it sends anything, and the
/// mark stays until its manifest is there. So what goes is listed first, and then it is looked for both: what
/// one sends that begins later still is not in the list, and what it names is in the newest manifest.
pub(super) async fn prune(
    vault: &dyn Vault,
    names: &Names,
    (before, now): (Time, Time),
) -> Result<Vec<String>> {
    let there = ids(vault, names).await?;
    let newest = there.last().cloned();
    let is_old = |id: &String| Some(id) != newest.as_ref() && time_of(id).is_some_and(|at| at < before);
    let (old, kept): (Vec<_>, Vec<_>) = there.into_iter().partition(is_old);
    let mut needed = Needed::default();
    for id in &kept {
        let manifest = Manifest::read(vault, &names.manifest(id))
            .await
            .map_err(|error| error.while_doing(format!("nothing is removed from {}", vault.place())))?;
        needed.note(vault, names, &manifest).await?;
    }
    for id in &old {
        vault.remove(&names.manifest(id)).await?;
    }
    let rest = needed.rest(vault, names).await?;
    let is_busy = others_are_busy(vault, names, now).await?;
    let has_come = ids(vault, names).await?.iter().any(|id| !kept.contains(id));
    if !is_busy && !has_come {
        for key in &rest {
            vault.remove(key).await?;
        }
    }
    Ok(kept)
}

async fn others_are_busy(vault: &dyn Vault, names: &Names, now: Time) -> Result<bool> {
    let mut busy = false;
    for pending in all(vault, &names.pendings()).await? {
        let id = pending.key.rsplit('/').next().unwrap_or_default();
        match time_of(id) {
            Some(at) if now.since(at) < PENDING_MAX => busy = true,
            _ => vault.remove(&pending.key).await?,
        }
    }
    Ok(busy)
}

/// What the backups that stay name.
#[derive(Default)]
struct Needed {
    parts: HashSet<String>,
    objects: HashSet<String>,
}

impl Needed {
    async fn note(&mut self, vault: &dyn Vault, names: &Names, manifest: &Manifest) -> Result<()> {
        self.parts.extend(manifest.parts().map(|part| names.part(&part.sha512, &part.from)));
        if let Some(objects) = &manifest.objects {
            let keys = super::restore::fetch(vault, names, objects).await?;
            for key in keys_in(&keys)? {
                self.objects.insert(names.object(&key));
            }
        }
        Ok(())
    }

    /// What none of them names.
    async fn rest(&self, vault: &dyn Vault, names: &Names) -> Result<Vec<String>> {
        let mut rest = Vec::new();
        for (prefix, needed) in [(names.parts(), &self.parts), (names.objects(), &self.objects)] {
            let listed = all(vault, &prefix).await?.into_iter().map(|file| file.key);
            rest.extend(listed.filter(|key| !needed.contains(key)));
        }
        Ok(rest)
    }
}

/// The keys of blobs in a list of a backup.
pub(super) fn keys_in(list: &[u8]) -> Result<Vec<sitefs_blobstore::ObjectKey>> {
    let text = std::str::from_utf8(list).map_err(|_| Error::corrupt("a list of blobs is no text"))?;
    text.lines().map(str::parse).collect()
}
