//! Requests and replies about one volume in domain types: settings, deletion, restore.

use crate::{
    admin::VolumeInfo,
    convert::{TEXT_MAX, need, text},
    pb,
};
use sitefs_base::{
    Error, HistoryLimit, Moment, READ_ONLY_REASON_MAX, Rates, Result, Seq, ServeStale, Time, VolumeAccess,
    VolumeChange, VolumeId, VolumeName, VolumeSettings,
};

/// The longest path of a restore, in bytes.
const PATH_MAX: usize = 64 * 1024;

/// Changes settings and limits of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetVolume {
    /// The volume.
    pub name: VolumeName,
    /// What changes.
    pub change: VolumeChange,
    /// Counts only where the server runs in insecure mode.
    pub claimed_identity: String,
}

impl From<SetVolume> for pb::SetVolumeRequest {
    fn from(set: SetVolume) -> Self {
        use pb::set_volume_request::{Access, History};
        let VolumeChange { bytes_limit, inodes_limit, history_limit, serve_stale, access } = set.change;
        Self {
            name: set.name.to_string(),
            bytes_limit,
            inodes_limit,
            history: history_limit.map(|limit| match limit {
                HistoryLimit::Default => History::DefaultHistory(pb::Empty {}),
                HistoryLimit::Bytes(bytes) => History::HistoryLimit(bytes),
            }),
            serve_stale: serve_stale.map(|choice| choice.to_string()),
            access: access.map(|access| match access {
                VolumeAccess::ReadWrite => Access::ReadWrite(pb::Empty {}),
                VolumeAccess::ReadOnly(reason) => Access::ReadOnly(reason),
            }),
            claimed_identity: set.claimed_identity,
        }
    }
}

impl TryFrom<pb::SetVolumeRequest> for SetVolume {
    type Error = Error;
    fn try_from(request: pb::SetVolumeRequest) -> Result<Self> {
        use pb::set_volume_request::{Access, History};
        let history_limit = request.history.map(|limit| match limit {
            History::DefaultHistory(pb::Empty {}) => HistoryLimit::Default,
            History::HistoryLimit(bytes) => HistoryLimit::Bytes(bytes),
        });
        let access = match request.access {
            None => None,
            Some(Access::ReadWrite(pb::Empty {})) => Some(VolumeAccess::ReadWrite),
            Some(Access::ReadOnly(reason)) => {
                Some(VolumeAccess::ReadOnly(text(reason, READ_ONLY_REASON_MAX, "a reason")?))
            }
        };
        let serve_stale = request.serve_stale.as_deref().map(str::parse).transpose()?;
        let (bytes_limit, inodes_limit) = (request.bytes_limit, request.inodes_limit);
        Ok(Self {
            name: volume(request.name)?,
            change: VolumeChange { bytes_limit, inodes_limit, history_limit, serve_stale, access },
            claimed_identity: identity(request.claimed_identity)?,
        })
    }
}

/// Everything about a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeDetails {
    /// What listings show too.
    pub volume: VolumeInfo,
    /// When it was made.
    pub created_at: Time,
    /// Bytes that its history takes beside the volume itself.
    pub history_bytes: u64,
    /// How many it may take beside pins; as many as the volume itself if not set.
    pub history_limit: Option<u64>,
    /// The oldest seq with full history.
    pub horizon: Seq,
    /// The second in which the volume had it.
    pub horizon_at: Time,
    /// Older seqs that are kept alive.
    pub pins: Vec<Seq>,
    /// How many snapshots it has.
    pub snapshots: u64,
    /// What operators chose.
    pub settings: VolumeSettings,
    /// How fast its mounts may change it.
    pub rates: Rates,
}

impl From<VolumeDetails> for pb::VolumeDetails {
    fn from(details: VolumeDetails) -> Self {
        Self {
            volume: Some(details.volume.into()),
            created_at: Some(details.created_at.into()),
            history_bytes: details.history_bytes,
            history_limit: details.history_limit,
            horizon: details.horizon.get(),
            horizon_at: Some(details.horizon_at.into()),
            pins: details.pins.into_iter().map(Seq::get).collect(),
            snapshots: details.snapshots,
            serve_stale: details.settings.serve_stale.to_string(),
            read_only: details.settings.read_only,
            ops_per_second: details.rates.ops_per_second,
            bytes_per_second: details.rates.bytes_per_second,
        }
    }
}

impl TryFrom<pb::VolumeDetails> for VolumeDetails {
    type Error = Error;
    fn try_from(details: pb::VolumeDetails) -> Result<Self> {
        let serve_stale: ServeStale = details.serve_stale.parse()?;
        Ok(Self {
            volume: need(details.volume, "volume")?.try_into()?,
            created_at: need(details.created_at, "time")?.try_into()?,
            history_bytes: details.history_bytes,
            history_limit: details.history_limit,
            horizon: Seq::new(details.horizon),
            horizon_at: need(details.horizon_at, "time")?.try_into()?,
            pins: details.pins.into_iter().map(Seq::new).collect(),
            snapshots: details.snapshots,
            settings: VolumeSettings { serve_stale, read_only: details.read_only },
            rates: Rates {
                ops_per_second: details.ops_per_second,
                bytes_per_second: details.bytes_per_second,
            },
        })
    }
}

/// Deletes a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeleteVolume {
    /// The volume.
    pub name: VolumeName,
    /// Its id, so that no other volume of that name goes.
    pub id: VolumeId,
    /// Counts only where the server runs in insecure mode.
    pub claimed_identity: String,
}

impl From<DeleteVolume> for pb::DeleteVolumeRequest {
    fn from(delete: DeleteVolume) -> Self {
        let (name, id) = (delete.name.to_string(), delete.id.get());
        Self { name, id, claimed_identity: delete.claimed_identity }
    }
}

impl TryFrom<pb::DeleteVolumeRequest> for DeleteVolume {
    type Error = Error;
    fn try_from(request: pb::DeleteVolumeRequest) -> Result<Self> {
        Ok(Self {
            name: volume(request.name)?,
            id: VolumeId::new(request.id),
            claimed_identity: identity(request.claimed_identity)?,
        })
    }
}

/// Brings something of the past back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restore {
    /// The volume.
    pub name: VolumeName,
    /// The path of what is brought back, from the root of the volume.
    pub path: Vec<u8>,
    /// The moment.
    pub at: Moment,
    /// Only count.
    pub dry_run: bool,
    /// Counts only where the server runs in insecure mode.
    pub claimed_identity: String,
}

impl From<Restore> for pb::RestoreRequest {
    fn from(restore: Restore) -> Self {
        Self {
            name: restore.name.to_string(),
            path: restore.path.into(),
            at: restore.at.to_string(),
            dry_run: restore.dry_run,
            claimed_identity: restore.claimed_identity,
        }
    }
}

impl TryFrom<pb::RestoreRequest> for Restore {
    type Error = Error;
    fn try_from(request: pb::RestoreRequest) -> Result<Self> {
        if request.path.len() > PATH_MAX {
            return Err(Error::invalid(format!("a path of more than {PATH_MAX} bytes")));
        }
        Ok(Self {
            name: volume(request.name)?,
            path: request.path.into(),
            at: text(request.at, TEXT_MAX, "a moment")?.parse()?,
            dry_run: request.dry_run,
            claimed_identity: identity(request.claimed_identity)?,
        })
    }
}

fn volume(name: String) -> Result<VolumeName> {
    text(name, TEXT_MAX, "a volume name")?.parse()
}

fn identity(claim: String) -> Result<String> {
    text(claim, TEXT_MAX, "an identity")
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitefs_base::{SiteId, op::Usage};

    fn set(change: VolumeChange) -> SetVolume {
        let claimed_identity = "sitefs://main?role=operator".to_owned();
        SetVolume { name: "acme/live".parse().unwrap(), change, claimed_identity }
    }

    #[test]
    fn changes_survive_the_wire_and_what_is_not_set_stays_unset() {
        let some = VolumeChange {
            bytes_limit: Some(0),
            inodes_limit: Some(5),
            history_limit: Some(HistoryLimit::Bytes(7)),
            serve_stale: Some(ServeStale::Off),
            access: Some(VolumeAccess::ReadOnly("moving".to_owned())),
        };
        let other = VolumeChange {
            history_limit: Some(HistoryLimit::Default),
            access: Some(VolumeAccess::ReadWrite),
            ..VolumeChange::default()
        };
        for change in [some, other, VolumeChange::default()] {
            let set = set(change);
            assert_eq!(SetVolume::try_from(pb::SetVolumeRequest::from(set.clone())).unwrap(), set);
        }
        let wire = pb::SetVolumeRequest::from(set(VolumeChange::default()));
        let bad = pb::SetVolumeRequest { serve_stale: Some("maybe".to_owned()), ..wire };
        assert!(SetVolume::try_from(bad).is_err());
    }

    #[test]
    fn details_deletions_and_restores_survive_the_wire() {
        let usage = Usage { bytes_used: 1, bytes_limit: 2, inodes_used: 3, inodes_limit: 4 };
        let name: VolumeName = "acme/live".parse().unwrap();
        let (id, site, seq) = (VolumeId::new(2), SiteId::new(1), Seq::new(9));
        let details = VolumeDetails {
            volume: VolumeInfo { name: name.clone(), id, site, seq, usage },
            created_at: Time::new(5, 6),
            history_bytes: 7,
            history_limit: Some(8),
            horizon: Seq::new(3),
            horizon_at: Time::new(7, 0),
            pins: vec![Seq::new(1), Seq::new(2)],
            snapshots: 2,
            settings: VolumeSettings { serve_stale: ServeStale::Off, read_only: Some("why".to_owned()) },
            rates: Rates { ops_per_second: 9, bytes_per_second: 10 },
        };
        assert_eq!(VolumeDetails::try_from(pb::VolumeDetails::from(details.clone())).unwrap(), details);
        let claimed_identity = String::new();
        let delete = DeleteVolume { name: name.clone(), id, claimed_identity: claimed_identity.clone() };
        assert_eq!(DeleteVolume::try_from(pb::DeleteVolumeRequest::from(delete.clone())).unwrap(), delete);
        let at = "2026-11-20T12:00:00Z".parse().unwrap();
        let restore = Restore { name, path: vec![b'/', 0xff], at, dry_run: true, claimed_identity };
        let wire = pb::RestoreRequest::from(restore.clone());
        assert_eq!(Restore::try_from(wire.clone()).unwrap(), restore);
        assert!(Restore::try_from(pb::RestoreRequest { at: "12:00".to_owned(), ..wire }).is_err());
    }
}
