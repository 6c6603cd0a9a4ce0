//! Copies of the blobs, for a cell that has them in its data directory: a backup of its rows alone would
//! be worth nothing once that is lost.

use super::{
    PAGE,
    names::{Names, all},
    send::{checked, put_verified},
};
use bytes::Bytes;
use sitefs_base::{Digest, Error, Kind, Result};
use sitefs_blobstore::{Backend, Listed, ObjectKey, Vault};
use std::collections::HashSet;

/// Copies what the vault does not have; the keys of all blobs, one a line, and how many bytes were copied.
/// They are listed after the rows were copied, so every blob that those name is among them.
pub(super) async fn copy(backend: &dyn Backend, vault: &dyn Vault, names: &Names) -> Result<(Bytes, u64)> {
    let listed = all(vault, &names.objects()).await?;
    let there: HashSet<(&str, u64)> = listed.iter().map(|file| (file.key.as_str(), file.len)).collect();
    let (mut keys, mut copied, mut after) = (String::new(), 0, None);
    loop {
        let page = backend.list("b/", after.as_deref(), PAGE).await?;
        let Some(last) = page.last() else { return Ok((keys.into(), copied)) };
        after = Some(last.key.clone());
        for Listed { key, len, .. } in &page {
            // Anything else is not ours.
            let Ok(key) = key.parse::<ObjectKey>() else { continue };
            let name = names.object(&key);
            if !there.contains(&(name.as_str(), *len)) {
                let Some(bytes) = sound(backend, &key).await? else { continue };
                copied += bytes.len() as u64;
                put_verified(vault, &name, &key.digest, bytes).await?;
            }
            keys.push_str(&format!("{key}\n"));
        }
    }
}

/// The bytes of a blob. One that is damaged, or was deleted meanwhile, does not keep the others from being
/// copied: the restored cell finds it missing, as this one does.
async fn sound(backend: &dyn Backend, key: &ObjectKey) -> Result<Option<Bytes>> {
    let bytes = match backend.get(key).await {
        Err(error) if error.kind() == Kind::NotFound => return Ok(None),
        other => other?,
    };
    match checked(key.digest, bytes).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) => {
            tracing::error!(%key, error = error.chain(), "a damaged blob is left out of the backup");
            Ok(None)
        }
    }
}

/// Puts the blobs of a backup into a backend; those that are there already are left alone. Without a backend
/// they are only read and hashed.
pub(super) async fn bring_back(
    backend: Option<&dyn Backend>,
    vault: &dyn Vault,
    names: &Names,
    keys: &[ObjectKey],
) -> Result<()> {
    for key in keys {
        if let Some(backend) = backend
            && backend.head(key).await?.is_some()
        {
            continue;
        }
        let name = names.object(key);
        let bytes = fetched(vault, &name, key.digest).await?;
        if let Some(backend) = backend {
            backend.put(key, bytes).await?;
        }
    }
    Ok(())
}

/// The bytes of a file of the vault, which must have this digest.
pub(super) async fn fetched(vault: &dyn Vault, name: &str, digest: Digest) -> Result<Bytes> {
    let read = async { checked(digest, vault.get(name).await?).await };
    read.await.map_err(|error| unusable(name, error))
}

fn unusable(name: &str, error: Error) -> Error {
    match error.kind() {
        Kind::NotFound | Kind::Corrupt => Error::corrupt(format!(
            "{name} of the backup is missing or damaged: choose another backup, or put the file back"
        ))
        .because(error),
        _ => error.while_doing(format!("reading {name}")),
    }
}
