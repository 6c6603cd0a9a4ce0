use super::{super::*, harness::*, invariants};
use crate::state::{
    keys,
    rows::{self, BlobRow, BlobState},
};
use sitefs_base::{BackupTo, CellChange, Errno, Incarnation, Moment, OpId, Seq, SessionId, op::*};

/// Does what a restore does to the rows.
fn begin_anew(cell: &mut Cell, incarnation: u32) {
    begin_life(&mut cell.view, Incarnation::new(incarnation)).unwrap();
    let (mut step, mut steps) = (LifeStep::Sessions, 0);
    while step != LifeStep::Done {
        step = life_step(&mut cell.view, step).unwrap();
        steps += 1;
        assert!(steps < 1000, "it comes to an end");
    }
}

fn whole(of: u8, len: u32) -> NewContent {
    let changed = vec![ChunkLayout { chunk: 0, extents: vec![extent(0, len, of)] }];
    NewContent::Chunks { size: u64::from(len), changed }
}

fn with(ino: sitefs_base::InodeId, new: NewContent, uploaded: &Uploaded) -> Op {
    Op::Commit(Commit { uploaded: vec![uploaded.clone()], ..content(ino, new) })
}

/// The state that a garbage collector gives to what nothing names.
fn condemn(cell: &mut Cell, of: u8) {
    let key = keys::blob(SITE, &digest(of));
    let row: BlobRow = rows::fetch(&cell.view, Family::Blob, &key).unwrap().unwrap();
    let row = BlobRow { state: BlobState::Condemned, ..row };
    cell.view.put(Family::Blob, &key, rows::encode(&row).unwrap());
}

#[test]
fn no_generation_of_an_earlier_life_can_match() {
    let mut cell = Cell::new();
    let file = cell.file(root("a"));
    let committed = cell.upload(1, 70_000);
    cell.op(with(file, whole(1, 70_000), &committed)).unwrap();
    cell.verified(&committed);
    let open = cell.upload(2, 70_000);
    let before = cell.place_of(1);
    begin_anew(&mut cell, 2);
    cell.open(SessionId::new(8));
    assert_eq!(cell.place_of(1), before, "what rows name stays where it is");
    assert_eq!(cell.refused(with(file, whole(2, 70_000), &open)), Errno::EAGAIN);
    let anew = cell.upload(2, 70_000);
    assert!(anew.generation > open.generation && anew.generation.incarnation == Incarnation::new(2));
    cell.op(with(file, whole(2, 70_000), &anew)).unwrap();
    invariants::check(&cell.view, cell.volume);
}

#[test]
fn what_was_condemned_may_be_deleted_and_is_asked_for_again() {
    let mut cell = Cell::new();
    let file = cell.file(root("a"));
    let upload = cell.upload(1, 70_000);
    cell.op(with(file, whole(1, 70_000), &upload)).unwrap();
    cell.verified(&upload);
    cell.op(Op::Commit(content(file, inline("x")))).unwrap();
    condemn(&mut cell, 1);
    begin_anew(&mut cell, 2);
    cell.open(SessionId::new(8));
    assert_eq!(cell.refused(Op::Commit(content(file, whole(1, 70_000)))), Errno::EAGAIN);
    let anew = cell.upload(1, 70_000);
    cell.op(with(file, whole(1, 70_000), &anew)).unwrap();
    assert_eq!(cell.place_of(1).unwrap().generation, anew.generation);
}

#[test]
fn sessions_seqs_and_numbers_of_an_earlier_life_mean_nothing() {
    let mut cell = Cell::new();
    let file = cell.write(root("a"), inline("one"));
    let pinned = SessionId::new(99);
    cell.wait_a_second();
    cell.write(root("b"), inline("two"));
    let at = Some(Moment::Time(cell.now));
    cell.wait_a_second();
    cell.write(root("c"), inline("three"));
    let volume = cell.volume;
    cell.command(CommandBody::OpenSession { volume, session: pinned, at }).unwrap();
    let (seq, attr) = (cell.seq(), cell.attr(file));
    let number = cell.number();
    let envelope = cell.envelope(Op::Unlink { at: root("a") });
    begin_anew(&mut cell, 2);
    assert_eq!(cell.send(envelope).unwrap_err(), Errno::ESTALE, "an operation under way is not executed");
    for session in [cell.session, pinned] {
        let resumed = cell.command(CommandBody::ResumeSession { volume, session });
        assert_eq!(resumed, Err(Errno::ESTALE));
    }
    assert_eq!(volume_info(&cell.view, volume).unwrap().unwrap().pins, Vec::<Seq>::new());
    assert_eq!(cell.attr(file), attr, "what is there is as it was");
    assert!(events_since(&cell.view, volume, seq, 10).unwrap().is_none(), "a watcher resyncs");
    cell.open(SessionId::new(8));
    assert!(cell.number().get() > number.get() + (1 << 39));
    let written = cell.write(root("d"), inline("four"));
    assert!(cell.attr(written).cver.get() > seq.get() + (1 << 39));
    invariants::check(&cell.view, volume);
    let last = OpId::new(cell.envelope(Op::AllocInodes { count: 1 }).op.get() - 1);
    assert_eq!(session_info(&cell.view, volume, cell.session).unwrap().unwrap().ack_below, last);
}

#[test]
fn the_objects_stay_those_of_the_life_before_until_somebody_says_that_it_has_ended() {
    let mut cell = Cell::new();
    cell.command(CommandBody::Gc(GcStep::Own(5))).unwrap();
    assert_eq!(gc_info(&cell.view).unwrap().owner, Some(5));
    begin_anew(&mut cell, 2);
    assert_eq!(gc_info(&cell.view).unwrap().owner, None);
}

#[test]
fn planned_backups_are_held_until_somebody_names_a_place() {
    let mut cell = Cell::new();
    begin_anew(&mut cell, 2);
    assert_eq!(backup_plan(&cell.view).unwrap().to, BackupTo::HeldBucket, "there was no row");
    let change = |to: &BackupTo| CellChange { backup_to: Some(to.clone()), ..CellChange::default() };
    let to = BackupTo::Directory("/b".to_owned());
    cell.command(CommandBody::SetCell { change: change(&to) }).unwrap();
    let plan = backup_plan(&cell.view).unwrap();
    assert_eq!(plan.to, to);
    begin_anew(&mut cell, 3);
    let held = backup_plan(&cell.view).unwrap();
    assert_eq!(held.to, BackupTo::HeldDirectory("/b".to_owned()));
    let refused = cell.command(CommandBody::SetCell { change: change(&held.to) });
    assert_eq!(refused, Err(Errno::EINVAL));
    let every = CellChange { backup_every_secs: Some(600), ..CellChange::default() };
    cell.command(CommandBody::SetCell { change: every }).unwrap();
    assert_eq!(
        backup_plan(&cell.view).unwrap().to,
        held.to,
        "only a place says that the cell before is gone"
    );
    cell.command(CommandBody::SetCell { change: change(&to) }).unwrap();
    assert_eq!(backup_plan(&cell.view).unwrap().to, to);
}

#[test]
fn an_incarnation_only_grows() {
    let mut cell = Cell::new();
    assert!(begin_life(&mut cell.view, Incarnation::new(1)).is_err());
    begin_anew(&mut cell, 7);
    assert_eq!(group_info(&cell.view).unwrap().unwrap().incarnation, Incarnation::new(7));
}
