//! The horizon: the oldest seq that still has full history. It moves by age, and sooner where a
//! volume's history is larger than its budget.

use super::{
    Family, Read, keys,
    moments::{last_second, second_from},
    reads,
    rows::{self, SecondRow, VolumeRow},
    scope::Scope,
    stop::Step,
};
use sitefs_base::{Errno, Result, Seq, Time, VolumeId};

/// Seconds that one command may forget.
const SECONDS_MAX: usize = 1000;

/// Moves the horizon to the end of the last second before `before`, and further while history is over
/// its budget; never back, and never beyond the last second that is over. Returns the horizon, and
/// whether seconds below it are left for another command.
pub(super) fn advance(scope: &mut Scope, id: VolumeId, before: Time) -> Step<(Seq, bool)> {
    let mut row = reads::live(&scope.rows, id)?.ok_or(Errno::ENOENT)?;
    let horizon = target(&scope.rows, id, &row, before, scope.at)?;
    if horizon != row.horizon {
        row.horizon = horizon;
        scope.put(Family::Meta, &keys::volume(id), &row)?;
    }
    Ok((horizon, forget_seconds(scope, id, horizon)?))
}

/// Whether a volume's horizon would move, or left seconds below it: read before a command is spent on
/// it.
pub fn horizon_is_due(read: &dyn Read, volume: VolumeId, before: Time, now: Time) -> Result<bool> {
    let Some(row) = reads::live(read, volume)? else { return Ok(false) };
    let oldest = second_from(read, volume, row.created_at.secs())?;
    if oldest.is_some_and(|(_, second)| second.seq < row.horizon) {
        return Ok(true);
    }
    if row.horizon == row.seq {
        return Ok(false);
    }
    Ok(row.horizon < row.seq && target(read, volume, &row, before, now)? > row.horizon)
}

/// Where the horizon belongs.
fn target(read: &dyn Read, id: VolumeId, row: &VolumeRow, before: Time, now: Time) -> Result<Seq> {
    let aged = aged(read, id, row, before.min(now))?;
    Ok(row.horizon.max(aged).max(affordable(read, id, row, now)?))
}

/// The end of the last second before `before`.
fn aged(read: &dyn Read, id: VolumeId, row: &VolumeRow, before: Time) -> Result<Seq> {
    if row.second < before.secs() {
        return Ok(row.seq);
    }
    let last = last_second(read, id, row, |secs, _| secs < before.secs())?;
    Ok(last.map_or(row.horizon, |(_, second)| second.seq))
}

/// The oldest end of a second since which history is within its budget; the last one if there is none.
fn affordable(read: &dyn Read, id: VolumeId, row: &VolumeRow, now: Time) -> Result<Seq> {
    let limit = row.history_budget();
    if row.history_bytes <= limit {
        return Ok(row.horizon);
    }
    let over = |_, second: &SecondRow| row.history_bytes.saturating_sub(second.history_bytes) > limit;
    let last_over = last_second(read, id, row, over)?;
    let from = last_over.map_or(row.created_at.secs(), |(secs, _)| secs.saturating_add(1));
    Ok(match second_from(read, id, from)? {
        Some((_, second)) => second.seq,
        None if now.secs() > row.second => row.seq,
        None => row.second_floor,
    })
}

/// Drops the seconds below the horizon, some at a time; whether there are more.
fn forget_seconds(scope: &mut Scope, id: VolumeId, horizon: Seq) -> Result<bool> {
    let prefix = keys::seconds(id);
    let oldest = scope.rows.scan(Family::Small, &prefix, &prefix, SECONDS_MAX + 1)?;
    for (forgotten, (key, value)) in oldest.into_iter().enumerate() {
        if rows::decode::<SecondRow>(Family::Small, &key, &value)?.seq >= horizon {
            return Ok(false);
        }
        if forgotten == SECONDS_MAX {
            return Ok(true);
        }
        scope.rows.delete(Family::Small, &key);
    }
    Ok(false)
}
