//! What operators decide about a volume: its limits, who may write, and its end.

use super::{
    Family, Read, keys, moments, reads, reap,
    scope::Scope,
    stop::{Step, require},
};
use sitefs_base::{
    Errno, HistoryLimit, Result, Seq, Time, VolumeAccess, VolumeChange, VolumeId, check_reason,
};

/// Changes settings and limits. Limits below what is used are legal: nothing more may be written then.
pub(super) fn set(scope: &mut Scope, id: VolumeId, change: &VolumeChange) -> Step<()> {
    let mut row = reads::live(&scope.rows, id)?.ok_or(Errno::ENOENT)?;
    let budget = row.history_budget();
    row.limits.bytes = change.bytes_limit.unwrap_or(row.limits.bytes);
    row.limits.inodes = change.inodes_limit.unwrap_or(row.limits.inodes);
    require(row.limits.inodes >= 1, Errno::EINVAL)?;
    match change.history_limit {
        None => {}
        Some(HistoryLimit::Default) => row.history_limit = None,
        Some(HistoryLimit::Bytes(bytes)) => row.history_limit = Some(bytes),
    }
    // A smaller volume refuses new bytes. It gives up no history that is there without being told to:
    // as little as 0 bytes is a way to stop writing.
    if change.history_limit.is_none() && row.history_budget() < history_bytes(&scope.rows, id)?.min(budget) {
        row.history_limit = Some(budget);
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
    scope.rows.delete(Family::Meta, &keys::rates(id));
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
    let last_below = moments::last_second(read, volume, &row, |_, second| second.seq < seq)?;
    let from = last_below.map_or(row.created_at.secs(), |(secs, _)| secs + 1);
    let secs = moments::second_from(read, volume, from)?.map_or(row.second, |(secs, _)| secs);
    Ok(Some(Time::new(secs, 0)))
}

/// Bytes of a volume's history since its horizon, with the content that only history names: what counts
/// against the limit.
pub fn history_bytes(read: &dyn Read, volume: VolumeId) -> Result<u64> {
    let Some(row) = reads::volume(read, volume)? else {
        return Ok(0);
    };
    let below = match moments::last_second(read, volume, &row, |_, second| second.seq <= row.horizon)? {
        _ if row.horizon == row.seq => row.history_bytes,
        Some((_, second)) => second.history_bytes,
        None => 0,
    };
    Ok(row.history_bytes.saturating_sub(below))
}
