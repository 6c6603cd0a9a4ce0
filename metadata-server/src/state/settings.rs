//! What operators decide about a volume: its limits, who may write, and its end.

use super::{
    Family, Read, keys, reap, reads,
    rows::{self, SecondRow},
    scope::Scope,
    stop::{Step, require},
};
use sitefs_base::{
    Errno, HistoryLimit, Result, Seq, Time, VolumeAccess, VolumeChange, VolumeId, check_reason,
};

/// Changes settings and limits. Limits below what is used are legal: nothing more may be written then.
pub(super) fn set(scope: &mut Scope, id: VolumeId, change: &VolumeChange) -> Step<()> {
    let mut row = reads::live(&scope.rows, id)?.ok_or(Errno::ENOENT)?;
    row.limits.bytes = change.bytes_limit.unwrap_or(row.limits.bytes);
    row.limits.inodes = change.inodes_limit.unwrap_or(row.limits.inodes);
    require(row.limits.inodes >= 1, Errno::EINVAL)?;
    match change.history_limit {
        None => {}
        Some(HistoryLimit::Default) => row.history_limit = None,
        Some(HistoryLimit::Bytes(bytes)) => row.history_limit = Some(bytes),
    }
    row.settings.serve_stale = change.serve_stale.unwrap_or(row.settings.serve_stale);
    match &change.access {
        None => {}
        Some(VolumeAccess::ReadWrite) => row.settings.read_only = None,
        Some(VolumeAccess::ReadOnly(reason)) => {
            require(check_reason(reason).is_ok(), Errno::EINVAL)?;
            row.settings.read_only = Some(reason.clone());
        }
    }
    Ok(scope.put(Family::Meta, &keys::volume(id), &row)?)
}

/// Deletes a volume: its name is free at once and nobody can use it any more; its rows go in slices.
pub(super) fn delete(scope: &mut Scope, id: VolumeId) -> Step<()> {
    let mut row = reads::live(&scope.rows, id)?.ok_or(Errno::ENOENT)?;
    row.deleted = Some(scope.at);
    scope.rows.delete(Family::Meta, &keys::name(&row.name.to_string()));
    scope.put(Family::Meta, &keys::volume(id), &row)?;
    Ok(reap::wake(scope, id)?)
}

/// The second in which a volume reached `seq`: its beginning for the seq of a new volume. `None` if
/// there is no such volume or it has not come so far.
pub fn time_of(read: &dyn Read, volume: VolumeId, seq: Seq) -> Result<Option<Time>> {
    let Some(row) = reads::volume(read, volume)?.filter(|row| seq <= row.seq) else {
        return Ok(None);
    };
    if seq == Seq::ZERO {
        return Ok(Some(row.created_at));
    }
    // The seconds are searched by halves: each step reads one row.
    let (mut low, mut high) = (row.created_at.secs(), row.second);
    while low < high {
        let middle = low + (high - low) / 2;
        match second_from(read, volume, middle)? {
            Some((secs, reached)) if reached < seq => low = secs + 1,
            _ => high = middle,
        }
    }
    let secs = second_from(read, volume, low)?.map_or(row.second, |(secs, _)| secs);
    Ok(Some(Time::new(secs.min(row.second), 0)))
}

/// The first second from `secs` on that has a row, and the seq at its end.
fn second_from(read: &dyn Read, volume: VolumeId, secs: i64) -> Result<Option<(i64, Seq)>> {
    let prefix = keys::seconds(volume);
    let rows = read.scan(Family::Small, &prefix, &keys::second(volume, secs), 1)?;
    let Some((key, value)) = rows.first() else {
        return Ok(None);
    };
    let secs = keys::part(key, prefix.len())
        .ok_or_else(|| rows::damaged(Family::Small, key, "is no key of a second"))?;
    let secs = (u64::from_be_bytes(secs) ^ (1 << 63)).cast_signed();
    Ok(Some((secs, rows::decode::<SecondRow>(Family::Small, key, value)?.seq)))
}
