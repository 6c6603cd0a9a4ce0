//! The cell's own rows, and the names of sites and volumes.

use super::{
    super::{
        Family, Read, Repair, keys, reads,
        rows::{self, BlobRow, CountersRow, GroupRow, Mark, NameRow, VersionRow, VolumeRow},
    },
    Check, Finding, FindingKind as Found,
    cursor::{Cursor, decoded},
};
use sitefs_base::{Generation, Incarnation, Result, VolumeId};

/// What the cell has counted.
pub(super) struct Group {
    pub counters: CountersRow,
    incarnation: Incarnation,
}

pub(super) fn check(read: &dyn Read, check: &mut Check) -> Result<Group> {
    let counters = one::<CountersRow>(read, check, keys::COUNTERS)?;
    let group = one::<GroupRow>(read, check, keys::GROUP)?;
    one::<VersionRow>(read, check, keys::VERSION)?;
    let is_new = counters.is_none() && group.is_none() && read.scan(Family::Meta, &[], &[], 1)?.is_empty();
    if group.is_none() && !is_new {
        check.found(Finding::new(Found::GroupMissing, "there is no row of the cell"));
    }
    let known = counters.is_some();
    // Without the row nothing is known to be beyond it; that it is missing is one finding.
    let most = u64::MAX;
    let counters = counters.unwrap_or(CountersRow {
        last_at: sitefs_base::Time::EPOCH,
        commands: most,
        generations: most,
        sites: most,
        volumes: most,
    });
    if !known && !is_new {
        check.found(Finding::new(Found::CounterBehind, "there is no row of the cell's counters"));
    }
    check.commands = counters.commands;
    names(read, check)?;
    let incarnation = group.map_or(Incarnation::new(u32::MAX), |group| group.incarnation);
    Ok(Group { counters, incarnation })
}

fn one<T: serde::de::DeserializeOwned>(read: &dyn Read, check: &mut Check, key: &[u8]) -> Result<Option<T>> {
    match read.get(Family::Meta, key)? {
        Some(value) => decoded(check, None, Family::Meta, &(key.to_vec(), value)),
        None => Ok(None),
    }
}

/// Every name of a volume leads to one that has it.
fn names(read: &dyn Read, check: &mut Check) -> Result<()> {
    let mut rows = Cursor::new(read, Family::Meta, b"N".to_vec());
    while let Some(row) = rows.next(check)? {
        let Some(NameRow::Volume(id)) = decoded(check, None, Family::Meta, &row)? else { continue };
        let name = String::from_utf8_lossy(&row.0[1..]).into_owned();
        // A row that cannot be read is told with the volumes.
        let Ok(volume) = reads::volume(read, id) else { continue };
        let leads_there =
            volume.is_some_and(|volume| volume.deleted.is_none() && volume.name.to_string() == name);
        if !leads_there {
            let what = format!("{name} leads to {id}, which is not there under this name");
            check.found(Finding::new(Found::NameOfNoVolume, what).repair(Repair::Name { name }));
        }
    }
    Ok(())
}

impl Group {
    /// A volume's row against the names and counters of the cell.
    pub fn volume(&self, read: &dyn Read, check: &mut Check, id: VolumeId, row: &VolumeRow) -> Result<()> {
        if id.get() > self.counters.volumes || row.site.get() > self.counters.sites {
            let CountersRow { volumes, sites, .. } = self.counters;
            let what = format!("{id} of {}: the cell has counted {volumes} volumes, {sites} sites", row.site);
            check.found(Finding::new(Found::CounterBehind, what).of(id));
        }
        if row.deleted.is_some() {
            if read.get(Family::Meta, &keys::reap(id))?.is_none() {
                let what = "the volume is deleted and not on the list of those to be removed";
                check.found(Finding::new(Found::ReapAsleep, what).of(id).repair(Repair::Wake { volume: id }));
            }
            return Ok(());
        }
        let by_name = |name: String| -> Result<Option<NameRow>> {
            Ok(rows::fetch(read, Family::Meta, &keys::name(&name)).unwrap_or_default())
        };
        let is_found = by_name(row.name.to_string())? == Some(NameRow::Volume(id))
            && by_name(row.name.site().as_str().to_owned())? == Some(NameRow::Site(row.site));
        if !is_found {
            let what = format!("{} does not lead to {id} of {}", row.name, row.site);
            check.found(
                Finding::new(Found::VolumeNameWrong, what).of(id).repair(Repair::VolumeName { volume: id }),
            );
        }
        Ok(())
    }

    /// Whether a generation was drawn.
    pub fn was_drawn(&self, generation: Generation) -> bool {
        let Generation { incarnation, counter } = generation;
        incarnation < self.incarnation
            || (incarnation == self.incarnation && counter <= self.counters.generations)
    }

    /// Whether a blob's row can have come about.
    pub fn fits(&self, row: &BlobRow) -> bool {
        let Mark { incarnation, command } = row.last_ref;
        let is_past = incarnation < self.incarnation
            || (incarnation == self.incarnation && command <= self.counters.commands);
        let vols = row.vols.is_sorted_by(|a, b| a < b)
            && row.vols.iter().all(|id| id.get() <= self.counters.volumes);
        self.was_drawn(row.generation) && is_past && vols && !row.vols.is_empty()
    }
}
