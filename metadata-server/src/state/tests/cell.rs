use super::{super::*, harness::*};
use sitefs_base::{BackupTo, CellChange, Errno, Time, VolumeAccess, op::*};
use std::time::Duration;

fn set(cell: &mut Cell, change: CellChange) -> Result<Reply, Errno> {
    cell.command(CommandBody::SetCell { change })
}

#[test]
fn a_read_only_cell_refuses_what_mounts_change_and_nothing_else() {
    let mut cell = Cell::new();
    let access = Some(VolumeAccess::ReadOnly("moving".to_owned()));
    set(&mut cell, CellChange { access, ..CellChange::default() }).unwrap();
    assert_eq!(cell_read_only(&cell.view).unwrap().as_deref(), Some("moving"));
    let mkdir = Op::Mkdir { at: root("a"), create: by(0o755) };
    assert_eq!(cell.refused(mkdir.clone()), Errno::EROFS);
    cell.number();
    let volume = cell.volume;
    cell.command(CommandBody::DeleteSnapshot { volume, name: "x".parse().unwrap() }).unwrap_err();
    let access = Some(VolumeAccess::ReadWrite);
    set(&mut cell, CellChange { access, ..CellChange::default() }).unwrap();
    cell.op(mkdir).unwrap();
    let bad = Some(VolumeAccess::ReadOnly(String::new()));
    assert_eq!(set(&mut cell, CellChange { access: bad, ..CellChange::default() }), Err(Errno::EINVAL));
}

#[test]
fn what_is_not_set_stays() {
    let mut cell = Cell::new();
    let to = Some(BackupTo::Directory("/b".to_owned()));
    set(&mut cell, CellChange { backup_to: to.clone(), ..CellChange::default() }).unwrap();
    set(&mut cell, CellChange { backup_every_secs: Some(600), ..CellChange::default() }).unwrap();
    let plan = backup_plan(&cell.view).unwrap();
    assert_eq!((Some(plan.to), plan.every_secs, plan.keep_secs), (to, 600, 7 * 24 * 3600));
}

#[test]
fn the_oldest_backup_of_every_place_that_is_in_use_counts() {
    let mut cell = Cell::new();
    set(&mut cell, CellChange { backup_to: Some(BackupTo::Nowhere), ..CellChange::default() }).unwrap();
    let at = |secs: i64| Time::new(secs, 0);
    assert_eq!(oldest_backup(&cell.view, at(1)).unwrap(), None);
    for (place, oldest, newest) in [("a", 100, 200), ("b", 50, 150), ("a", 120, 300)] {
        let kept = KeptBackups { place: place.to_owned(), oldest: at(oldest), newest: at(newest) };
        cell.command(CommandBody::BackupsKept { kept }).unwrap();
    }
    assert_eq!(backups(&cell.view).unwrap()[0].place, "a");
    assert_eq!(oldest_backup(&cell.view, at(400)).unwrap(), Some(at(50)));
    let week = i64::try_from(Duration::from_secs(7 * 24 * 3600).as_secs()).unwrap();
    assert_eq!(
        oldest_backup(&cell.view, at(week + 200)).unwrap(),
        Some(at(120)),
        "nobody backs up to b any more"
    );
    assert_eq!(oldest_backup(&cell.view, at(week + 301)).unwrap(), None);
    for place in 0..20 {
        let kept = KeptBackups { place: place.to_string(), oldest: at(400 + place), newest: at(400 + place) };
        cell.command(CommandBody::BackupsKept { kept }).unwrap();
    }
    assert_eq!(backups(&cell.view).unwrap().len(), 16);
    let kept = KeptBackups { place: "x".to_owned(), oldest: at(2), newest: at(1) };
    assert_eq!(cell.command(CommandBody::BackupsKept { kept }), Err(Errno::EINVAL));
}

#[test]
fn the_place_of_planned_backups_counts_however_long_none_could_be_made() {
    let mut cell = Cell::new();
    let at = |secs: i64| Time::new(secs, 0);
    let keep = |cell: &mut Cell, place: &str, secs: i64| {
        let kept = KeptBackups { place: place.to_owned(), oldest: at(secs), newest: at(secs) };
        cell.command(CommandBody::BackupsKept { kept }).unwrap();
    };
    for (place, secs) in [("bucket b at aws", 100), ("/b", 200), ("/c", 300)] {
        keep(&mut cell, place, secs);
    }
    for number in 0..20 {
        keep(&mut cell, &format!("/other-{number}"), 400 + number);
    }
    let far = at(1_000_000_000);
    assert_eq!(backups(&cell.view).unwrap().len(), 16);
    assert_eq!(oldest_backup(&cell.view, far).unwrap(), Some(at(100)), "a bucket is the plan at first");
    keep(&mut cell, "/b", 500);
    let dir = BackupTo::Directory("/b".to_owned());
    for (to, oldest) in [(dir.clone(), Some(at(500))), (BackupTo::Nowhere, None), (dir, Some(at(500)))] {
        set(&mut cell, CellChange { backup_to: Some(to), ..CellChange::default() }).unwrap();
        assert_eq!(oldest_backup(&cell.view, far).unwrap(), oldest);
    }
    begin_life(&mut cell.view, sitefs_base::Incarnation::new(2)).unwrap();
    assert_eq!(oldest_backup(&cell.view, far).unwrap(), Some(at(500)), "also while it is held");
}
