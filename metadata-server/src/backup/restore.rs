//! A data directory from a backup, for the first node of a new life of the cell.

use super::{
    keep::{ids, info, keys_in},
    manifest::{Manifest, Stored},
    names::{Names, groups},
    objects::{bring_back, fetched},
    send::off_thread,
};
use crate::raft::{self, DataDir, NewLife, Unfinished, write_durably};
use bytes::{Bytes, BytesMut};
use sitefs_base::{BackupInfo, Error, GroupId, Incarnation, NodeId, OsRandom, Random, Result};
use sitefs_blobstore::{DirBackend, Hasher, Vault, hash};
use std::{
    fs::{self, File},
    io::{Read, Write},
    path::Path,
};

/// The first node of a restored cell.
const NODE: NodeId = NodeId::new(1);
/// Files that came so far; those that came whole are not fetched again.
const FETCHED: &str = "restoring.files";
/// What the file `backend` says of a cell that has its blobs in its data directory.
const DIRECTORY: &str = "directory\n";

/// What is restored.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RestoreFrom {
    /// The cell; needed if the place has backups of several.
    pub cell: Option<String>,
    /// The backup; the newest if not set.
    pub id: Option<String>,
}

/// What was restored, or would be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restored {
    /// The backup.
    pub backup: BackupInfo,
    /// The incarnation of the new life; none if nothing was made.
    pub incarnation: Option<u32>,
    /// Where the blobs are, as the server must be told.
    pub backend: String,
}

/// Makes `data` the data directory of a new life of a cell, with all that a backup in `vault` holds. Without
/// `data` everything is read and checked, and nothing is made.
pub async fn restore(vault: &dyn Vault, from: &RestoreFrom, data: Option<&Path>) -> Result<Restored> {
    let (names, manifest) = choose(vault, from).await?;
    let mut restored = Restored {
        backup: info(&manifest, vault),
        incarnation: None,
        backend: manifest.backend.trim_end().replace('\n', ", "),
    };
    match data {
        None => check_all(vault, &names, &manifest).await?,
        Some(data) => restored.incarnation = Some(make(vault, &names, &manifest, data).await?.get()),
    }
    Ok(restored)
}

async fn choose(vault: &dyn Vault, from: &RestoreFrom) -> Result<(Names, Manifest)> {
    let found = groups(vault).await?;
    let mut wanted = found.iter().filter(|(cell, _)| from.cell.as_ref().is_none_or(|name| name == cell));
    let (cell, group) = match (wanted.next(), wanted.next()) {
        (Some(only), None) => only,
        (None, _) => return Err(Error::not_found(format!("{} has no backup of that cell", vault.place()))),
        (Some(_), Some(_)) => {
            let cells: Vec<&str> = found.iter().map(|(cell, _)| cell.as_str()).collect();
            return Err(Error::invalid(format!(
                "{} has backups of several cells, name one with --cell: {}",
                vault.place(),
                cells.join(", ")
            )));
        }
    };
    let names = Names::new(cell, *group);
    let ids = ids(vault, &names).await?;
    let id = match &from.id {
        Some(id) => ids.iter().find(|there| *there == id),
        None => ids.last(),
    };
    let id = id.ok_or_else(|| Error::not_found(format!("{} has no such backup", vault.place())))?;
    let manifest = Manifest::read(vault, &names.manifest(id)).await?;
    for file in &manifest.files {
        check_name(&file.name)?;
    }
    Ok((names, manifest))
}

fn check_name(name: &str) -> Result<()> {
    let plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']);
    if plain { Ok(()) } else { Err(Error::corrupt(format!("a backup has a file of the name {name:?}"))) }
}

async fn check_all(vault: &dyn Vault, names: &Names, manifest: &Manifest) -> Result<()> {
    for file in &manifest.files {
        check(vault, names, file, |_| Ok(())).await?;
    }
    if let Some(objects) = &manifest.objects {
        let keys = keys_in(&fetch(vault, names, objects).await?)?;
        bring_back(None, vault, names, &keys).await?;
    }
    Ok(())
}

/// Reads a file part by part, and checks it.
async fn check(
    vault: &dyn Vault,
    names: &Names,
    file: &Stored,
    mut each: impl FnMut(Bytes) -> Result<()>,
) -> Result<()> {
    let mut whole = Hasher::new();
    for part in &file.parts {
        let bytes = fetched(vault, &names.part(&part.sha512, &part.from), part.sha512).await?;
        whole.update(&bytes);
        each(bytes)?;
    }
    if whole.finish() == file.sha512 {
        return Ok(());
    }
    Err(Error::corrupt(format!("the parts of {} are not the file that was backed up", file.name)))
}

/// A file as a whole, in memory.
pub(super) async fn fetch(vault: &dyn Vault, names: &Names, file: &Stored) -> Result<Bytes> {
    let mut whole = BytesMut::new();
    check(vault, names, file, |bytes| {
        whole.extend_from_slice(&bytes);
        Ok(())
    })
    .await?;
    Ok(whole.freeze())
}

/// The order is what makes an interruption harmless: the format file comes last.
async fn make(vault: &dyn Vault, names: &Names, manifest: &Manifest, data: &Path) -> Result<Incarnation> {
    let group = GroupId::new(manifest.group);
    let (path, cell) = (data.to_owned(), manifest.cell.clone());
    let unfinished = off_thread(move || Unfinished::begin(&path, &cell, group, NODE)).await??;
    let files = data.join(FETCHED);
    for file in &manifest.files {
        fetch_file(vault, names, file, &files).await?;
    }
    remove_others(&files, manifest)?;
    if let Some(objects) = &manifest.objects {
        let keys = keys_in(&fetch(vault, names, objects).await?)?;
        bring_back(Some(&DirBackend::open(data.join("blobs"))?), vault, names, &keys).await?;
    }
    let incarnation = claim(vault, names, Incarnation::new(manifest.incarnation)).await?;
    let (backend, life) = (manifest.backend.clone(), NewLife { group, node: NODE, incarnation });
    off_thread(move || {
        let data = unfinished.data();
        put_in_place(data, &files)?;
        raft::begin_life(data, life)?;
        write_durably(&data.path().join("backend"), backend.as_bytes())?;
        unfinished.finish()
    })
    .await??;
    Ok(incarnation)
}

async fn fetch_file(vault: &dyn Vault, names: &Names, file: &Stored, dir: &Path) -> Result<()> {
    let path = dir.join(&file.name);
    let (there, sha512, size) = (path.clone(), file.sha512, file.size);
    if off_thread(move || is_whole(&there, size, sha512)).await? {
        return Ok(());
    }
    let failed = |error| Error::io(format!("writing {}", path.display()), error);
    fs::create_dir_all(dir).map_err(failed)?;
    let mut out = File::create(&path).map_err(failed)?;
    check(vault, names, file, |bytes| out.write_all(&bytes).map_err(failed)).await?;
    off_thread(move || out.sync_all()).await?.map_err(failed)
}

fn is_whole(path: &Path, size: u64, sha512: sitefs_base::Digest) -> bool {
    let hashed = || -> std::io::Result<sitefs_base::Digest> {
        let mut file = File::open(path)?;
        if file.metadata()?.len() != size {
            return Ok(hash(&[]));
        }
        let (mut whole, mut piece) = (Hasher::new(), vec![0; super::PART_MAX]);
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(whole.finish()),
                read => whole.update(&piece[..read]),
            }
        }
    };
    size > 0 && hashed().is_ok_and(|digest| digest == sha512)
}

/// Files of another backup that an interrupted restore fetched.
fn remove_others(dir: &Path, manifest: &Manifest) -> Result<()> {
    let failed = |error| Error::io(format!("cleaning {}", dir.display()), error);
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if !manifest.files.iter().any(|file| name == file.name.as_str()) {
            fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

fn put_in_place(data: &DataDir, fetched: &Path) -> Result<()> {
    fs::rename(fetched, data.state())
        .map_err(|error| Error::io(format!("moving the files to {}", data.state().display()), error))?;
    raft::sync_dir(&data.state())?;
    raft::sync_dir(data.path())
}

/// An incarnation that no life of this cell ever had: the first free one above the backup's is taken, for
/// ever, so that two restores of one backup differ too.
async fn claim(vault: &dyn Vault, names: &Names, after: Incarnation) -> Result<Incarnation> {
    let taken = super::names::all(vault, &names.lives()).await?;
    let highest = taken.iter().filter_map(|life| life.key.rsplit('/').next()?.parse().ok()).max();
    let mut next = after.get().max(highest.unwrap_or(0));
    loop {
        next = next.checked_add(1).ok_or_else(|| Error::limit("there are no incarnations left"))?;
        let incarnation = Incarnation::new(next);
        let own = Bytes::from(format!("{:032x}\n", OsRandom.next_u128()));
        let name = names.life(incarnation);
        let claimed = vault.put(&name, &hash(&own), own.clone()).await;
        claimed.map_err(|error| {
            error.while_doing(format!(
                "noting incarnation {next} in {}, where it must be written down",
                vault.place()
            ))
        })?;
        if vault.get(&name).await? == own {
            return Ok(incarnation);
        }
    }
}

/// Whether a cell has its blobs in its data directory.
pub(super) fn is_directory(backend: &str) -> bool {
    backend == DIRECTORY
}
