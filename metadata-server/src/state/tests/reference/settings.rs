//! What operators decide about a volume: settings, its end, another one of its name.

use super::{
    model::{Model, Volume},
    rules::{Verdict, refuse_if},
};
use crate::state::{CommandBody, Family, Read, Reply, VolumeLimits, keys};
use sitefs_base::{Errno, HistoryLimit, VolumeAccess, VolumeChange, VolumeId, VolumeName};

impl Model {
    /// Makes a volume, unless there is one of this name.
    pub fn create_volume(&mut self, name: &VolumeName, limits: VolumeLimits) -> Option<VolumeId> {
        let is_taken = self.volumes.values().any(|volume| !volume.deleted && volume.name == *name);
        let create = CommandBody::CreateVolume { name: name.clone(), limits, uid: 1, gid: 2, mode: 0o755 };
        let reply = self.plain(create);
        if is_taken {
            assert_eq!(reply, Err(Errno::EEXIST));
            return None;
        }
        let id = VolumeId::new(self.volumes.len() as u64 + 1);
        assert_eq!(reply, Ok(Reply::Volume(id)));
        self.volumes.insert(id, Volume::new(name.clone(), self.last_at, limits));
        self.check(id);
        Some(id)
    }

    pub fn set_volume(&mut self, id: VolumeId, change: &VolumeChange) {
        let reply = self.plain(CommandBody::SetVolume { volume: id, change: change.clone() });
        let volume = self.volumes.get_mut(&id).unwrap();
        assert_eq!(reply, expect(volume, change).map(|()| Reply::Done), "{change:?}");
        self.check(id);
    }

    pub fn delete_volume(&mut self, id: VolumeId) {
        let reply = self.plain(CommandBody::DeleteVolume { volume: id });
        let volume = self.volumes.get_mut(&id).unwrap();
        assert_eq!(reply, if volume.deleted { Err(Errno::ENOENT) } else { Ok(Reply::Done) });
        if reply.is_ok() {
            volume.deleted = true;
            volume.now.awake = true;
        }
        self.check(id);
    }

    /// Nothing of a volume is left but history, which nobody reads and compactions drop.
    pub fn check_removed(&self, id: VolumeId) {
        for family in [Family::Dentry, Family::Inode, Family::Chunk, Family::Small, Family::Feed] {
            let left = self.view.scan(family, &id.to_key(), &id.to_key(), 1).unwrap();
            assert!(left.is_empty(), "{left:?} in {}", family.name());
        }
        let kinds = [
            keys::sessions(id),
            keys::all_receipts(id),
            keys::all_ranges(id),
            keys::snapshots(id),
            keys::all_holders(id),
            keys::restores(id),
            keys::all_work(id),
            keys::volume(id),
            keys::reap(id),
        ];
        for prefix in kinds {
            let left = self.view.scan(Family::Meta, &prefix, &prefix, 1).unwrap();
            assert!(left.is_empty(), "{left:?} in m");
        }
    }
}

fn expect(volume: &mut Volume, change: &VolumeChange) -> Verdict<()> {
    refuse_if(volume.deleted, Errno::ENOENT)?;
    refuse_if(change.inodes_limit == Some(0), Errno::EINVAL)?;
    if let Some(VolumeAccess::ReadOnly(reason)) = &change.access {
        let fits = (1..=200).contains(&reason.trim().len()) && !reason.contains('\n');
        refuse_if(!fits, Errno::EINVAL)?;
        volume.settings.read_only = Some(reason.clone());
    } else if change.access.is_some() {
        volume.settings.read_only = None;
    }
    volume.limits.bytes = change.bytes_limit.unwrap_or(volume.limits.bytes);
    volume.limits.inodes = change.inodes_limit.unwrap_or(volume.limits.inodes);
    volume.settings.serve_stale = change.serve_stale.unwrap_or(volume.settings.serve_stale);
    volume.history_limit = match change.history_limit {
        None => volume.history_limit,
        Some(HistoryLimit::Default) => None,
        Some(HistoryLimit::Bytes(bytes)) => Some(bytes),
    };
    Ok(())
}
