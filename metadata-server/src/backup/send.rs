//! Sending files to a vault: in parts, and only those that the backup before did not send.

use super::{
    PART_MAX,
    manifest::{Manifest, Part, Stored},
    names::{Names, all},
};
use bytes::Bytes;
use sitefs_base::{Digest, Error, Result};
use sitefs_blobstore::{Hasher, Vault, VerifiedBytes, hash};
use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::Read,
    path::Path,
};

/// Sends the files of one backup.
pub(super) struct Sender<'a> {
    vault: &'a dyn Vault,
    names: &'a Names,
    id: &'a str,
    /// What the vault has for sure: the parts of the backup before, and those that this one sent.
    there: HashMap<(Digest, u64), String>,
    /// Bytes that were sent.
    pub(super) sent: u64,
}

impl<'a> Sender<'a> {
    /// `before` is a backup that is kept for as long as this one is under way.
    pub(super) async fn new(
        vault: &'a dyn Vault,
        names: &'a Names,
        id: &'a str,
        before: Option<&Manifest>,
    ) -> Result<Self> {
        let mut there = HashMap::new();
        if let Some(before) = before {
            let listed = all(vault, &names.parts()).await?;
            let sizes: HashMap<&str, u64> = listed.iter().map(|file| (file.key.as_str(), file.len)).collect();
            for part in before.parts() {
                // One that is damaged or gone is sent again under another name.
                if sizes.get(names.part(&part.sha512, &part.from).as_str()) == Some(&part.size) {
                    there.insert((part.sha512, part.size), part.from.clone());
                }
            }
        }
        Ok(Self { vault, names, id, there, sent: 0 })
    }

    /// Sends a file of the state.
    pub(super) async fn file(&mut self, path: &Path) -> Result<Stored> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let failed = |error| Error::io(format!("reading {}", path.display()), error);
        let file = File::open(path).map_err(failed)?;
        let mut stored = Stored { name, size: 0, sha512: hash(&[]), parts: Vec::new() };
        let mut reading = Reading { file, whole: Hasher::new() };
        loop {
            let (rest, piece) = off_thread(move || reading.next()).await?.map_err(failed)?;
            reading = rest;
            let Some((bytes, digest)) = piece else { break };
            stored.size += bytes.len() as u64;
            stored.parts.push(self.part(bytes, digest).await?);
        }
        stored.sha512 = reading.whole.finish();
        Ok(stored)
    }

    /// Sends a file that is made here.
    pub(super) async fn text(&mut self, name: &str, bytes: Bytes) -> Result<Stored> {
        let (size, sha512) = (bytes.len() as u64, hash(&bytes));
        let mut parts = Vec::new();
        for from in (0..bytes.len()).step_by(PART_MAX) {
            let piece = bytes.slice(from..bytes.len().min(from + PART_MAX));
            let digest = hash(&piece);
            parts.push(self.part(piece, digest).await?);
        }
        Ok(Stored { name: name.to_owned(), size, sha512, parts })
    }

    async fn part(&mut self, bytes: Bytes, sha512: Digest) -> Result<Part> {
        let size = bytes.len() as u64;
        if let Some(from) = self.there.get(&(sha512, size)) {
            return Ok(Part { size, sha512, from: from.clone() });
        }
        let name = self.names.part(&sha512, self.id);
        put_verified(self.vault, &name, &sha512, bytes).await?;
        self.sent += size;
        self.there.insert((sha512, size), self.id.to_owned());
        Ok(Part { size, sha512, from: self.id.to_owned() })
    }
}

/// Stores a file and reads it back.
pub(super) async fn put_verified(vault: &dyn Vault, name: &str, digest: &Digest, bytes: Bytes) -> Result<()> {
    vault.put(name, digest, bytes).await?;
    checked(*digest, vault.get(name).await?)
        .await
        .map(drop)
        .map_err(|error| error.while_doing(format!("{} did not keep {name} as it was sent", vault.place())))
}

/// Refuses a manifest if a part that it names is not there, or has another length.
pub(super) async fn check_parts(vault: &dyn Vault, names: &Names, manifest: &Manifest) -> Result<()> {
    let listed = all(vault, &names.parts()).await?;
    let there: HashSet<(&str, u64)> = listed.iter().map(|file| (file.key.as_str(), file.len)).collect();
    for file in manifest.files.iter().chain(&manifest.objects) {
        for part in &file.parts {
            let name = names.part(&part.sha512, &part.from);
            if !there.contains(&(name.as_str(), part.size)) {
                return Err(Error::corrupt(format!(
                    "backup {} cannot be used: {name} is missing or has another length; it is a part of the file {}",
                    manifest.id, file.name
                )));
            }
        }
    }
    Ok(())
}

/// A file that is being read, and hashed on the way.
struct Reading {
    file: File,
    whole: Hasher,
}

impl Reading {
    /// The next part and its digest; none at the end.
    fn next(mut self) -> std::io::Result<(Self, Option<(Bytes, Digest)>)> {
        let mut piece = Vec::new();
        (&mut self.file).take(PART_MAX as u64).read_to_end(&mut piece)?;
        if piece.is_empty() {
            return Ok((self, None));
        }
        self.whole.update(&piece);
        let digest = hash(&piece);
        Ok((self, Some((piece.into(), digest))))
    }
}

/// Bytes that have this digest. Hashing takes a while: not on an async thread.
pub(super) async fn checked(digest: Digest, bytes: Bytes) -> Result<Bytes> {
    off_thread(move || VerifiedBytes::check(digest, bytes)).await?.map(VerifiedBytes::into_bytes)
}

/// Files are read and written on threads that may wait.
pub(super) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::internal("working on the files of a backup").because(error))
}
