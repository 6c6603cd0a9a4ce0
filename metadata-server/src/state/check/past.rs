//! What a volume keeps of its past beside superseded rows: seconds, pins, snapshots, the feed; and the
//! restores that bring something back.

use super::{
    super::{
        Family, Read, Repair, keys, reads,
        rows::{FeedRow, PinRow, ReapRow, RestoreRow, SecondRow, SnapshotRow, VolumeRow},
    },
    Check, Finding, FindingKind as Found,
    cursor::{Cursor, decoded},
};
use sitefs_base::{InodeId, Result, Seq, VolumeId};
use std::collections::BTreeSet;

pub(super) fn check(read: &dyn Read, check: &mut Check, id: VolumeId, volume: &VolumeRow) -> Result<()> {
    if volume.horizon > volume.seq {
        let what = format!("the horizon is {}, the volume is at {}", volume.horizon, volume.seq);
        check.found(Finding::new(Found::HorizonBeyond, what).of(id));
    }
    seconds(read, check, id, volume)?;
    feed(read, check, id, volume)?;
    pins(read, check, id, volume)?;
    asleep(read, check, id)
}

/// Seconds and their seqs ascend, and the last one is the volume's.
fn seconds(read: &dyn Read, check: &mut Check, id: VolumeId, volume: &VolumeRow) -> Result<()> {
    let mut rows = Cursor::new(read, Family::Small, keys::seconds(id));
    let mut last: Option<SecondRow> = None;
    let mut wrong = None;
    while let Some(row) = rows.next(check)? {
        let Some(second) = decoded::<SecondRow>(check, Some(id), Family::Small, &row)? else { return Ok(()) };
        let Some(secs) = keys::secs_of(&row.0) else { continue };
        if last.as_ref().is_some_and(|last| last.seq >= second.seq) || secs >= volume.second {
            wrong.get_or_insert(format!("the second {secs} ended at {}", second.seq));
        }
        last = Some(second);
    }
    let floor = volume.second_floor;
    let fits = match &last {
        Some(last) => last.seq == floor,
        None => floor < volume.horizon || floor == Seq::ZERO,
    };
    if !fits || floor > volume.seq {
        let last = last.map_or("missing".to_owned(), |last| last.seq.to_string());
        wrong.get_or_insert(format!("the last second ended at {floor}, and its row is {last}"));
    }
    if let Some(what) = wrong {
        check.found(Finding::new(Found::SecondsWrong, what).of(id));
    }
    Ok(())
}

/// There is an event for every seq above the floor.
fn feed(read: &dyn Read, check: &mut Check, id: VolumeId, volume: &VolumeRow) -> Result<()> {
    let mut next = volume.feed_floor.next();
    let mut rows = Cursor::from(read, Family::Feed, keys::feeds(id), keys::feed(id, next));
    while let Some(row) = rows.next(check)? {
        decoded::<FeedRow>(check, Some(id), Family::Feed, &row)?;
        let Some(seq) = keys::part(&row.0, 8).map(Seq::from_key) else { continue };
        if seq != next || seq > volume.seq {
            let what = format!("the event of {next} is missing, the next one is of {seq}");
            check.found(Finding::new(Found::FeedGap, what).of(id));
        }
        next = seq.next();
    }
    if next <= volume.seq {
        let what = format!("the events end before {next}, the volume is at {}", volume.seq);
        check.found(Finding::new(Found::FeedGap, what).of(id));
    }
    Ok(())
}

/// The pins are the seqs that somebody holds, and what holds one is there.
fn pins(read: &dyn Read, check: &mut Check, id: VolumeId, volume: &VolumeRow) -> Result<()> {
    let mut held = BTreeSet::new();
    let mut holders = Cursor::new(read, Family::Meta, keys::all_holders(id));
    while let Some(row) = holders.next(check)? {
        decoded::<PinRow>(check, Some(id), Family::Meta, &row)?;
        let Some(pin) = keys::part(&row.0, 9).map(Seq::from_key) else { continue };
        // Pins are few, whatever holds them.
        held.insert(pin);
        if !is_there(read, id, row.0.get(17..).unwrap_or_default())? {
            let what = format!("{pin} is held by something that is not there");
            check.found(Finding::new(Found::HolderStray, what).of(id));
        }
    }
    let is_right = volume.pins.iter().eq(held.iter()) && volume.pins.iter().all(|pin| *pin <= volume.seq);
    if !is_right {
        let what = format!("the volume pins {:?}, {:?} are held", volume.pins, held);
        check.found(Finding::new(Found::PinsWrong, what).of(id).repair(Repair::Pins { volume: id }));
    }
    let mut snapshots = Cursor::new(read, Family::Meta, keys::snapshots(id));
    while let Some(row) = snapshots.next(check)? {
        let Some(snapshot) = decoded::<SnapshotRow>(check, Some(id), Family::Meta, &row)? else { continue };
        let name = row.0.get(9..).unwrap_or_default();
        unpinned(read, check, id, (snapshot.seq, b'W', name), "snapshot")?;
    }
    Ok(())
}

/// Tells if a holder holds nothing.
pub(super) fn unpinned(
    read: &dyn Read,
    check: &mut Check,
    id: VolumeId,
    (pin, kind, name): (Seq, u8, &[u8]),
    who: &str,
) -> Result<()> {
    if read.get(Family::Meta, &keys::holder(id, pin, kind, name))?.is_none() {
        let what = format!("the {who} {:?} does not hold {pin}", String::from_utf8_lossy(name));
        check.found(Finding::new(Found::SnapshotUnpinned, what).of(id));
    }
    Ok(())
}

/// Whether the holder of a pin is there, from what its key says behind the pin.
fn is_there(read: &dyn Read, id: VolumeId, holder: &[u8]) -> Result<bool> {
    let tag: &[u8] = match holder.first() {
        Some(b'W') => b"W",
        Some(b'S') => b"S",
        Some(b'R') => b"J",
        _ => return Ok(false),
    };
    let key = [tag, &id.to_key(), &holder[1..]].concat();
    Ok(read.get(Family::Meta, &key)?.is_some())
}

/// The copies that restores are making: their roots, and the file whose chunks are being copied.
pub(super) fn copies(
    read: &dyn Read,
    check: &mut Check,
    id: VolumeId,
) -> Result<(BTreeSet<InodeId>, BTreeSet<InodeId>)> {
    let (mut roots, mut unfinished) = (BTreeSet::new(), BTreeSet::new());
    for row in reads::all(read, Family::Meta, &keys::restores(id))? {
        let Some(job) = keys::part(&row.0, 9).map(InodeId::from_key) else { continue };
        roots.insert(job);
        if let Some(restore) = decoded::<RestoreRow>(check, Some(id), Family::Meta, &row)? {
            unfinished.extend(restore.file.map(|file| file.copy));
        }
    }
    Ok((roots, unfinished))
}

/// Restores have their copies; and what awaits removal is on the list of those who remove.
fn asleep(read: &dyn Read, check: &mut Check, id: VolumeId) -> Result<()> {
    for row in reads::all(read, Family::Meta, &keys::restores(id))? {
        let Some(job) = keys::part(&row.0, 9).map(InodeId::from_key) else { continue };
        let Some(restore) = decoded::<RestoreRow>(check, Some(id), Family::Meta, &row)? else { continue };
        unpinned(read, check, id, (restore.seq, b'R', &job.to_key()), "restore")?;
        if read.get(Family::Inode, &keys::inode(id, job))?.is_none() {
            let what = format!("the restore {job} has lost its copy");
            check.found(Finding::new(Found::RestoreWrong, what).of(id).ino(job));
        }
    }
    if let Some(value) = read.get(Family::Meta, &keys::reap(id))? {
        let row = (keys::reap(id), value);
        return decoded::<ReapRow>(check, Some(id), Family::Meta, &row).map(drop);
    }
    let orphans = !read.scan(Family::Small, &keys::orphans(id), &keys::orphans(id), 1)?.is_empty();
    if orphans || has_stray_work(read, check, id)? {
        let what = "rows await removal, and the volume is not on the list".to_owned();
        check.found(Finding::new(Found::ReapAsleep, what).of(id).repair(Repair::Wake { volume: id }));
    }
    Ok(())
}

/// Working rows of a restore that is not there.
fn has_stray_work(read: &dyn Read, check: &mut Check, id: VolumeId) -> Result<bool> {
    let all = keys::all_work(id);
    let mut rows = Cursor::new(read, Family::Meta, all.clone());
    let mut known: Option<InodeId> = None;
    while let Some((key, _)) = rows.next(check)? {
        let Some(job) = keys::part(&key, all.len()).map(InodeId::from_key) else { return Ok(true) };
        if known != Some(job) && read.get(Family::Meta, &keys::restore(id, job))?.is_none() {
            return Ok(true);
        }
        known = Some(job);
    }
    Ok(false)
}
