//! Making backups: by themselves, and when somebody asks for one.

use super::{
    keep::{self, ids, list, prune},
    manifest::Manifest,
    names::{self, Names},
    objects,
    restore::is_directory,
    send::{Sender, check_parts, put_verified},
};
use crate::{
    raft::Group,
    state::{self, CommandBody, KeptBackups},
};
use bytes::Bytes;
use sitefs_base::{BackupInfo, BackupTo, Clock, Error, NodeId, OsRandom, Random, Result, Time};
use sitefs_blobstore::{Backend, DirBackend, Vault, hash};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::sync::Mutex;

/// How often it is looked whether a backup is due.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Makes the backups of a group.
pub(crate) struct Backups {
    group: Group,
    node: NodeId,
    clock: Arc<dyn Clock>,
    /// What the file `backend` of the data directory says.
    backend: String,
    /// Where the blobs are.
    blobs: Arc<dyn Backend>,
    /// The bucket that they are in, if so.
    bucket: Option<Arc<dyn Vault>>,
    /// Held by the one backup that is under way.
    one: Mutex<()>,
}

/// What a node has for backups.
pub(crate) struct Means {
    pub group: Group,
    pub node: NodeId,
    pub clock: Arc<dyn Clock>,
    pub backend: String,
    pub blobs: Arc<dyn Backend>,
    pub bucket: Option<Arc<dyn Vault>>,
}

impl Backups {
    pub(crate) fn new(means: Means) -> Self {
        let Means { group, node, clock, backend, blobs, bucket } = means;
        Self { group, node, clock, backend, blobs, bucket, one: Mutex::new(()) }
    }

    /// The vault in a directory, or in the bucket.
    fn vault(&self, dir: Option<&Path>) -> Result<Arc<dyn Vault>> {
        match (dir, &self.bucket) {
            (Some(dir), _) if !dir.is_absolute() => {
                Err(Error::invalid(format!("{} is not an absolute path", dir.display())))
            }
            (Some(dir), _) => Ok(Arc::new(DirBackend::open(dir)?)),
            (None, Some(bucket)) => Ok(bucket.clone()),
            (None, None) => Err(Error::invalid(
                "the blobs of this cell are in its data directory, and a backup there would be lost with it: \
                 give a directory on another disk with --to",
            )),
        }
    }

    /// The vault where backups are made by themselves, if they are, or would be if they were not held.
    fn planned(&self) -> Result<Option<Arc<dyn Vault>>> {
        match state::backup_plan(&self.group.reader())?.to {
            BackupTo::Nowhere => Ok(None),
            BackupTo::Bucket | BackupTo::HeldBucket => Ok(self.bucket.clone()),
            BackupTo::Directory(dir) | BackupTo::HeldDirectory(dir) => {
                self.vault(Some(Path::new(&dir))).map(Some)
            }
        }
    }

    /// Refuses if the cell before this one may still make its backups at the planned place.
    fn check_held(&self) -> Result<()> {
        let to = state::backup_plan(&self.group.reader())?.to;
        match to.why_held() {
            Some(why) if to != BackupTo::HeldBucket || self.bucket.is_some() => Err(Error::conflict(why)),
            _ => Ok(()),
        }
    }

    /// The backups in a directory, or where they are made by themselves.
    pub(crate) async fn list(&self, dir: Option<&Path>) -> Result<Vec<BackupInfo>> {
        let vault = match dir {
            Some(_) => self.vault(dir)?,
            None => match self.planned()? {
                Some(vault) => vault,
                None => return Ok(Vec::new()),
            },
        };
        let info = self.group.info();
        list(&*vault, &info.cell, info.group).await
    }

    /// Makes a backup in a directory, or in the bucket, and removes those that were kept long enough.
    pub(crate) async fn make(&self, dir: Option<&Path>) -> Result<BackupInfo> {
        if dir.is_none() {
            self.check_held()?;
        }
        self.make_in(&*self.vault(dir)?).await
    }

    async fn make_in(&self, vault: &dyn Vault) -> Result<BackupInfo> {
        let Ok(_one) = self.one.try_lock() else {
            return Err(Error::conflict("another backup is under way: wait for its end"));
        };
        let made = self.send(vault).await;
        let removed = self.group.remove_copy().await;
        let (made, names) = made?;
        removed?;
        let keep = state::backup_plan(&self.group.reader())?.keep_secs;
        let now = self.clock.now();
        let before = Time::new(now.secs().saturating_sub(i64::from(keep)), 0);
        let kept = prune(vault, &names, (before, now)).await?;
        self.note(vault.place(), &kept).await?;
        Ok(made)
    }

    async fn send(&self, vault: &dyn Vault) -> Result<(BackupInfo, Names)> {
        let info = self.group.info();
        let names = Names::new(&info.cell, info.group);
        let at = self.clock.now();
        let random = u32::try_from(OsRandom.next_u64() >> 32).unwrap_or(0);
        let id = names::id(at, info.incarnation, self.group.status().applied, random);
        let pending = names.pending(self.node, &id);
        vault.put(&pending, &hash(&[]), Bytes::new()).await?;
        // What another process of this node left is not under way any more. Another life of the cell, which
        // may go on beside this one, has a node of the same number.
        for left in names::all(vault, &names.pendings_of(self.node)).await? {
            let of = left.key.rsplit('/').next().and_then(names::incarnation_of);
            if left.key != pending && of == Some(info.incarnation) {
                vault.remove(&left.key).await?;
            }
        }
        // Listed only now, see `prune`.
        let before = match ids(vault, &names).await?.last() {
            // One that is damaged is no reason not to make a good one.
            Some(last) => Manifest::read(vault, &names.manifest(last)).await.ok(),
            None => None,
        };
        let mut manifest = Manifest::new(id.clone(), info.cell, info.group);
        manifest.at = at;
        manifest.incarnation = info.incarnation.get();
        manifest.backend.clone_from(&self.backend);
        let sent = self.send_files(vault, &names, &mut manifest, before.as_ref()).await?;
        check_parts(vault, &names, &manifest).await?;
        let bytes = Bytes::from(manifest.encode()?);
        put_verified(vault, &names.manifest(&id), &hash(&bytes), bytes).await?;
        vault.remove(&pending).await?;
        let (bytes, place) = (manifest.size(), vault.place());
        tracing::info!(id, bytes, sent, place, "backup made");
        Ok((keep::info(&manifest, vault), names))
    }

    async fn send_files(
        &self,
        vault: &dyn Vault,
        names: &Names,
        manifest: &mut Manifest,
        before: Option<&Manifest>,
    ) -> Result<u64> {
        let copy = self.group.copy_state().await?;
        (manifest.index, manifest.term) = (copy.applied.index, copy.applied.term);
        let id = manifest.id.clone();
        let mut sender = Sender::new(vault, names, &id, before).await?;
        for path in files_of(&copy.dir)? {
            manifest.files.push(sender.file(&path).await?);
        }
        let mut copied = 0;
        if is_directory(&self.backend) {
            let (keys, bytes) = objects::copy(&*self.blobs, vault, names).await?;
            manifest.objects = Some(sender.text("blobs", keys).await?);
            copied = bytes;
        }
        Ok(sender.sent + copied)
    }

    /// Objects that a kept backup needs are not deleted (see [`state::oldest_backup`]).
    async fn note(&self, place: String, kept: &[String]) -> Result<()> {
        let time = |id: Option<&String>| id.and_then(|id| names::time_of(id));
        let (Some(oldest), Some(newest)) = (time(kept.first()), time(kept.last())) else { return Ok(()) };
        let kept = KeptBackups { place, oldest, newest };
        match self.group.propose(CommandBody::BackupsKept { kept }).await?.reply {
            Ok(_) => Ok(()),
            Err(errno) => Err(Error::refused(errno, "noting which backups are kept")),
        }
    }

    /// Makes a backup each time that one is due, while this node leads.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut told = false;
        if let Err(error) = self.group.remove_copy().await {
            tracing::warn!(error = error.chain(), "what an interrupted backup left stays");
        }
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match self.make_due().await {
                Ok(()) => told = false,
                Err(error) if !told => {
                    told = true;
                    tracing::warn!(error = error.chain(), "no backup is made, trying again each minute");
                }
                Err(_) => {}
            }
        }
    }

    pub(super) async fn make_due(&self) -> Result<()> {
        if !self.group.status().leads {
            return Ok(());
        }
        self.check_held()?;
        let Some(vault) = self.planned()? else { return Ok(()) };
        let every = i64::from(state::backup_plan(&self.group.reader())?.every_secs);
        let place = vault.place();
        let kept = state::backups(&self.group.reader())?;
        let newest = kept.iter().find(|kept| kept.place == place).map(|kept| kept.newest);
        let due = newest.is_none_or(|at| at.secs().saturating_add(every) <= self.clock.now().secs());
        if due { self.make_in(&*vault).await.map(drop) } else { Ok(()) }
    }
}

fn files_of(dir: &Path) -> Result<Vec<std::path::PathBuf>> {
    let read = || -> std::io::Result<Vec<_>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            // The lock and the log of messages are of the process that made them.
            if entry.file_type()?.is_file() && entry.file_name() != "LOCK" && entry.file_name() != "LOG" {
                files.push(entry.path());
            }
        }
        files.sort();
        Ok(files)
    };
    read().map_err(|error| Error::io(format!("reading {}", dir.display()), error))
}
