//! What holds for the whole cell: its settings, and which backups are kept.

use super::{
    Family, Read, View, keys,
    rows::{self, BackupsRow, CellRow},
    scope::Scope,
    stop::{Step, require},
};
use sitefs_base::{BackupPlan, BackupTo, CellChange, Errno, Result, Time, VolumeAccess};

/// Places whose backups are remembered.
const PLACES_MAX: usize = 16;

/// Changes settings.
pub(super) fn set(scope: &mut Scope, change: &CellChange) -> Step<()> {
    scope.require_group()?;
    require(change.check().is_ok(), Errno::EINVAL)?;
    let mut row = settings_row(&scope.rows)?;
    let CellChange { access, backup_to, backup_every_secs, backup_keep_secs } = change.clone();
    match access {
        None => {}
        Some(VolumeAccess::ReadWrite) => row.read_only = None,
        Some(VolumeAccess::ReadOnly(reason)) => row.read_only = Some(reason),
    }
    row.backup.to = backup_to.unwrap_or(row.backup.to);
    row.backup.every_secs = backup_every_secs.unwrap_or(row.backup.every_secs);
    row.backup.keep_secs = backup_keep_secs.unwrap_or(row.backup.keep_secs);
    Ok(scope.put(Family::Meta, keys::CELL, &row)?)
}

fn settings_row(read: &dyn Read) -> Result<CellRow> {
    Ok(rows::fetch(read, Family::Meta, keys::CELL)?.unwrap_or_default())
}

/// Why no mount may write, if so.
pub fn cell_read_only(read: &dyn Read) -> Result<Option<String>> {
    Ok(settings_row(read)?.read_only)
}

/// When backups are made, and how long they are kept.
pub fn backup_plan(read: &dyn Read) -> Result<BackupPlan> {
    Ok(settings_row(read)?.backup)
}

/// No backups are made by themselves until an operator names a place again: the life before may go on, and
/// make its own there.
pub(super) fn hold_backups(view: &mut dyn View) -> Result<()> {
    let CellRow { read_only, backup } = settings_row(&*view)?;
    let row = CellRow { read_only, backup: BackupPlan { to: backup.to.held(), ..backup } };
    view.put(Family::Meta, keys::CELL, rows::encode(&row)?);
    Ok(())
}

/// Whether backups are made there by themselves, or will be when they are not held any more. Only the place of
/// a bucket is no path.
fn is_planned(to: &BackupTo, place: &str) -> bool {
    match to {
        BackupTo::Nowhere => false,
        BackupTo::Bucket | BackupTo::HeldBucket => !place.starts_with('/'),
        BackupTo::Directory(path) | BackupTo::HeldDirectory(path) => path == place,
    }
}

/// The backups that are kept at one place.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct KeptBackups {
    /// The place.
    pub place: String,
    /// When the oldest of them was begun.
    pub oldest: Time,
    /// When the newest of them was begun.
    pub newest: Time,
}

/// Notes which backups a place keeps now. Of more than 16 places the one with the oldest newest backup
/// is forgotten, but never the planned one.
pub(super) fn note_backups(scope: &mut Scope, kept: &KeptBackups) -> Step<()> {
    scope.require_group()?;
    require(kept.oldest <= kept.newest, Errno::EINVAL)?;
    let mut places = backups(&scope.rows)?;
    places.retain(|other| other.place != kept.place);
    places.push(kept.clone());
    places.sort_by_key(|place| std::cmp::Reverse(place.newest));
    if places.len() > PLACES_MAX {
        let plan = backup_plan(&scope.rows)?;
        let other = places.iter().rposition(|kept| !is_planned(&plan.to, &kept.place));
        places.remove(other.unwrap_or(PLACES_MAX));
    }
    Ok(scope.put(Family::Meta, keys::BACKUPS, &BackupsRow { places })?)
}

/// Which backups are kept where; the place with the newest one first.
pub fn backups(read: &dyn Read) -> Result<Vec<KeptBackups>> {
    let row: Option<BackupsRow> = rows::fetch(read, Family::Meta, keys::BACKUPS)?;
    Ok(row.map(|row| row.places).unwrap_or_default())
}

/// When the oldest backup was begun that is kept, by the clock that stamps commands. **An object may be deleted
/// only if nothing has named it since before that moment**: a cell that is restored from that
/// backup names it again (DESIGN D32). The place of planned backups always counts, however long none could be made
/// there: the newest is never removed. Another one counts as long as its newest backup is no older than backups
/// are kept.
pub fn oldest_backup(read: &dyn Read, now: Time) -> Result<Option<Time>> {
    let plan = backup_plan(read)?;
    let keep = i64::from(plan.keep_secs);
    let is_recent = |kept: &KeptBackups| kept.newest.secs().saturating_add(keep) >= now.secs();
    let counts = |kept: &KeptBackups| is_planned(&plan.to, &kept.place) || is_recent(kept);
    Ok(backups(read)?.into_iter().filter(counts).map(|kept| kept.oldest).min())
}
