//! What holds for the whole cell: its settings, and which backups are kept.

use super::{
    Family, Read, keys,
    rows::{self, BackupsRow, CellRow},
    scope::Scope,
    stop::{Step, require},
};
use sitefs_base::{BackupPlan, CellChange, Errno, Result, Time, VolumeAccess};

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
/// is forgotten.
pub(super) fn note_backups(scope: &mut Scope, kept: &KeptBackups) -> Step<()> {
    scope.require_group()?;
    require(kept.oldest <= kept.newest, Errno::EINVAL)?;
    let mut places = backups(&scope.rows)?;
    places.retain(|other| other.place != kept.place);
    places.push(kept.clone());
    places.sort_by_key(|place| std::cmp::Reverse(place.newest));
    places.truncate(PLACES_MAX);
    Ok(scope.put(Family::Meta, keys::BACKUPS, &BackupsRow { places })?)
}

/// Which backups are kept where; the place with the newest one first.
pub fn backups(read: &dyn Read) -> Result<Vec<KeptBackups>> {
    let row: Option<BackupsRow> = rows::fetch(read, Family::Meta, keys::BACKUPS)?;
    Ok(row.map(|row| row.places).unwrap_or_default())
}

/// When the oldest backup was begun that is kept, by the clock that stamps commands. **An object may be deleted
/// only if nothing has named it since before that moment**: a cell that is restored from that
/// backup names it again (DESIGN D32). A place counts as long as its newest backup is no older than backups
/// are kept.
pub fn oldest_backup(read: &dyn Read, now: Time) -> Result<Option<Time>> {
    let keep = i64::from(backup_plan(read)?.keep_secs);
    let counts = |kept: &KeptBackups| kept.newest.secs().saturating_add(keep) >= now.secs();
    Ok(backups(read)?.into_iter().filter(counts).map(|kept| kept.oldest).min())
}
