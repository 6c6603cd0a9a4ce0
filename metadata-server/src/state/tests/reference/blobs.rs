//! The blobs of a site: what a volume may name, and what it has to upload first.

use sitefs_base::{
    Digest, Errno, VolumeId,
    op::{BlobWanted, Uploaded},
};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blob {
    pub generation: u64,
    pub len: u32,
    pub hot: bool,
    pub verified: bool,
    pub volumes: BTreeSet<VolumeId>,
    /// What it waits for while the cell holds it.
    pub wait: Wait,
    /// Nothing named it when garbage was collected, and nothing has since.
    pub condemned: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// To become an object; also of one that is.
    Drain,
    /// To be joined with its neighbours.
    Merge,
    /// It was joined, and nobody else has named it: for nothing.
    Nothing,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upload {
    pub digest: Digest,
    pub len: u32,
    pub volume: VolumeId,
    pub verified: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Blobs {
    pub present: BTreeMap<Digest, Blob>,
    pub uploads: BTreeMap<u64, Upload>,
    /// Those whose objects are being deleted, and which volumes had them.
    pub deleting: BTreeMap<Digest, BTreeSet<VolumeId>>,
    pub generations: u64,
}

impl Blobs {
    fn draw(&mut self) -> u64 {
        self.generations += 1;
        self.generations
    }

    /// The generation to upload under; `None` if the volume has the blob.
    pub fn grant(&mut self, volume: VolumeId, wanted: &BlobWanted) -> Option<u64> {
        let known = |blob: &Blob| {
            let has = blob.len == wanted.len && blob.volumes.contains(&volume);
            has && blob.verified && !blob.condemned
        };
        if self.present.get(&wanted.digest).is_some_and(known) {
            return None;
        }
        let generation = self.draw();
        let BlobWanted { digest, len } = *wanted;
        self.uploads.insert(generation, Upload { digest, len, volume, verified: false });
        Some(generation)
    }

    /// The volume names `len` bytes of a blob; `held`: the file that will name it did so before.
    pub fn name(
        &mut self,
        volume: VolumeId,
        (digest, len): (Digest, u64),
        uploaded: &[Uploaded],
        held: bool,
    ) -> Result<(), Errno> {
        let claimed = uploaded.iter().rev().find(|upload| upload.digest == digest);
        let claimed = claimed.map(|upload| upload.generation.counter);
        let upload = claimed.and_then(|generation| self.uploads.get(&generation));
        let upload = upload.filter(|upload| upload.digest == digest && upload.volume == volume).cloned();
        let proven = upload.as_ref().is_some_and(|upload| upload.verified);
        match self.present.get(&digest) {
            Some(blob) if blob.verified || !proven => {
                let own = blob.volumes.contains(&volume);
                let own = own && (blob.verified || claimed == Some(blob.generation));
                if !own && !held && !proven {
                    return Err(Errno::EAGAIN);
                }
            }
            _ => {
                let upload = upload.ok_or(Errno::EAGAIN)?;
                let generation = claimed.unwrap();
                self.uploads.remove(&generation);
                let (volumes, wait, condemned) = (self.volumes_of(&digest), Wait::Drain, false);
                let Upload { len, verified, .. } = upload;
                let blob = Blob { generation, len, hot: false, verified, volumes, wait, condemned };
                self.present.insert(digest, blob);
            }
        }
        let blob = self.present.get_mut(&digest).unwrap();
        blob.condemned = false;
        (blob.wait, _) = (Wait::Drain, blob.volumes.insert(volume));
        if len > u64::from(blob.len) { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// The volume hands in the bytes themselves.
    pub fn hand_in(
        &mut self,
        volume: VolumeId,
        (digest, len): (Digest, u32),
        wait: Wait,
    ) -> Result<(), Errno> {
        match self.present.get_mut(&digest) {
            Some(blob) if blob.verified && blob.len != len => return Err(Errno::EINVAL),
            Some(blob) if blob.verified => blob.wait = Wait::Drain,
            _ => {
                let generation = self.draw();
                let (volumes, condemned) = (self.volumes_of(&digest), false);
                let blob = Blob { generation, len, hot: true, verified: true, volumes, wait, condemned };
                self.present.insert(digest, blob);
            }
        }
        let blob = self.present.get_mut(&digest).unwrap();
        (blob.condemned, _) = (false, blob.volumes.insert(volume));
        Ok(())
    }

    /// The volume names again what it named before.
    pub fn name_again(&mut self, volume: VolumeId, digest: &Digest) {
        let blob = self.present.get_mut(digest).unwrap();
        assert!(blob.volumes.contains(&volume));
        (blob.wait, blob.condemned) = (Wait::Drain, false);
    }

    /// The volumes that had a blob which is replaced.
    fn volumes_of(&mut self, digest: &Digest) -> BTreeSet<VolumeId> {
        let old = self.present.remove(digest).map(|old| old.volumes);
        old.or_else(|| self.deleting.remove(digest)).unwrap_or_default()
    }

    /// Others hold what this one held.
    pub fn superseded(&mut self, digest: &Digest) {
        let blob = self.present.get_mut(digest).unwrap();
        if blob.wait == Wait::Merge {
            blob.wait = Wait::Nothing;
        }
    }

    /// The cell has read the object: its bytes are right.
    pub fn verified(&mut self, digest: Digest, generation: u64) {
        if let Some(upload) = self.uploads.get_mut(&generation).filter(|upload| upload.digest == digest) {
            upload.verified = true;
        }
        if let Some(blob) = self.present.get_mut(&digest).filter(|blob| blob.generation == generation) {
            blob.verified = true;
        }
    }

    /// The object store has the bytes that the cell held.
    pub fn drained(&mut self, digest: Digest, generation: u64) {
        if let Some(blob) = self.present.get_mut(&digest).filter(|blob| blob.generation == generation) {
            (blob.hot, blob.wait) = (false, Wait::Drain);
        }
    }
}
