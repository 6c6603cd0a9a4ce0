use super::{super::*, harness::*};
use bytes::Bytes;
use sitefs_base::{
    Errno, FileKind, HistoryLimit, READ_ONLY_REASON_MAX, Seq, ServeStale, SessionId, Time, VolumeAccess,
    VolumeChange, VolumeId, op::*,
};

fn set(cell: &mut Cell, change: VolumeChange) -> Result<Reply, Errno> {
    cell.command(CommandBody::SetVolume { volume: cell.volume, change })
}

fn info(cell: &Cell) -> VolumeInfo {
    volume_info(&cell.view, cell.volume).unwrap().unwrap()
}

fn read_only(cell: &mut Cell, reason: &str) -> Result<Reply, Errno> {
    let access = Some(VolumeAccess::ReadOnly(reason.to_owned()));
    set(cell, VolumeChange { access, ..VolumeChange::default() })
}

#[test]
fn what_is_not_given_stays() {
    let mut cell = Cell::new();
    let before = info(&cell);
    set(&mut cell, VolumeChange::default()).unwrap();
    assert_eq!(info(&cell), before);
    let change = VolumeChange {
        bytes_limit: Some(7),
        history_limit: Some(HistoryLimit::Bytes(9)),
        serve_stale: Some(ServeStale::Off),
        ..VolumeChange::default()
    };
    set(&mut cell, change).unwrap();
    let after = info(&cell);
    assert_eq!((after.limits.bytes, after.limits.inodes), (7, before.limits.inodes));
    assert_eq!((after.history_limit, after.settings.serve_stale), (Some(9), ServeStale::Off));
    let history_limit = Some(HistoryLimit::Default);
    set(&mut cell, VolumeChange { history_limit, ..VolumeChange::default() }).unwrap();
    assert_eq!(info(&cell).history_limit, None);
    assert_eq!(info(&cell).seq, before.seq, "no mutation of the tree");
}

#[test]
fn limits_hold_for_what_comes_and_not_for_what_is_there() {
    let mut cell = Cell::new();
    let file = cell.write(root("f"), inline("content"));
    set(&mut cell, VolumeChange { bytes_limit: Some(0), ..VolumeChange::default() }).unwrap();
    let commit = content(file, inline("more content"));
    assert_eq!(cell.refused(Op::Commit(commit)), Errno::EDQUOT);
    cell.op(Op::Commit(content(file, inline("less")))).unwrap();
    cell.file(root("empty"));
    set(&mut cell, VolumeChange { inodes_limit: Some(1), ..VolumeChange::default() }).unwrap();
    let mkdir = Op::Mkdir { at: root("d"), create: by(0o755) };
    assert_eq!(cell.refused(mkdir), Errno::EDQUOT);
    cell.done(Op::Unlink { at: root("empty") });
}

#[test]
fn settings_that_no_volume_could_have_are_refused() {
    let mut cell = Cell::new();
    let inodes_limit = Some(0);
    let refused = set(&mut cell, VolumeChange { inodes_limit, ..VolumeChange::default() });
    assert_eq!(refused, Err(Errno::EINVAL));
    for reason in ["", "two\nlines", &"r".repeat(READ_ONLY_REASON_MAX + 1)] {
        assert_eq!(read_only(&mut cell, reason), Err(Errno::EINVAL), "{reason:?}");
    }
    let volume = VolumeId::new(9);
    let change = VolumeChange::default();
    assert_eq!(cell.command(CommandBody::SetVolume { volume, change }), Err(Errno::ENOENT));
}

#[test]
fn nothing_changes_a_read_only_volume_until_it_may_be_written_again() {
    let mut cell = Cell::new();
    let file = cell.write(root("f"), inline("one"));
    let seq = cell.seq();
    read_only(&mut cell, "moving to another cell").unwrap();
    assert_eq!(info(&cell).settings.read_only.as_deref(), Some("moving to another cell"));
    let name = Bytes::from_static(b"user.a");
    for op in [
        Op::Commit(content(file, inline("two"))),
        Op::SetAttr { ino: file, set: SetAttr { mode: Some(0o600), ..SetAttr::default() } },
        Op::Mkdir { at: root("d"), create: by(0o755) },
        Op::Symlink { at: root("s"), target: "f".into(), create: by(0o777) },
        Op::Mknod { at: root("p"), kind: FileKind::Fifo, rdev: 0, create: by(0o644) },
        Op::Link { ino: file, at: root("l") },
        Op::Unlink { at: root("f") },
        Op::Rmdir { at: root("f") },
        Op::Rename { from: root("f"), to: root("g"), mode: RenameMode::Replace },
        Op::SetXattr { ino: file, name: name.clone(), value: name.clone(), mode: XattrMode::Any },
        Op::RemoveXattr { ino: file, name },
        Op::Grant { blobs: vec![BlobWanted { digest: digest(1), len: 70_000 }] },
    ] {
        assert_eq!(cell.refused(op.clone()), Errno::EROFS, "{op:?}");
    }
    cell.number();
    cell.open(SessionId::new(8));
    assert_eq!(cell.seq(), seq);
    set(&mut cell, VolumeChange { access: Some(VolumeAccess::ReadWrite), ..VolumeChange::default() })
        .unwrap();
    cell.op(Op::Commit(content(file, inline("two")))).unwrap();
}

#[test]
fn an_answer_given_before_a_volume_became_read_only_is_given_again() {
    let mut cell = Cell::new();
    let envelope = cell.envelope(Op::Mkdir { at: root("d"), create: by(0o755) });
    let done = cell.send(envelope.clone()).unwrap();
    read_only(&mut cell, "why").unwrap();
    assert_eq!(cell.send(envelope), Ok(done));
}

#[test]
fn a_deleted_volume_is_gone_at_once_and_its_name_is_free() {
    let mut cell = Cell::new();
    cell.write(root("f"), inline("one"));
    let old = cell.volume;
    cell.command(CommandBody::DeleteVolume { volume: old }).unwrap();
    assert_eq!(volumes(&cell.view).unwrap(), []);
    assert_eq!(volume_info(&cell.view, old).unwrap(), None);
    assert_eq!(cell.query(Query::Usage), Err(Errno::ESTALE));
    let envelope = cell.envelope(Op::Unlink { at: root("f") });
    assert_eq!(cell.send(envelope), Err(Errno::ESTALE));
    let open = CommandBody::OpenSession { volume: old, session: SESSION, at: None };
    assert_eq!(cell.command(open), Err(Errno::ENOENT));
    for again in [
        CommandBody::DeleteVolume { volume: old },
        CommandBody::SetVolume { volume: old, change: VolumeChange::default() },
    ] {
        assert_eq!(cell.command(again), Err(Errno::ENOENT));
    }
    let limits = VolumeLimits { bytes: 10, inodes: 10 };
    let name = "acme/live".parse().unwrap();
    let made = cell.command(CommandBody::CreateVolume { name, limits, uid: 1, gid: 2, mode: 0o755 });
    assert_eq!(made, Ok(Reply::Volume(VolumeId::new(2))));
    cell.volume = VolumeId::new(2);
    assert_eq!(cell.lookup(root("f")), None);
}

#[test]
fn a_seq_has_the_second_in_which_it_was_made() {
    let mut cell = Cell::new();
    let created = info(&cell).created_at;
    cell.file(root("a"));
    cell.wait_a_second();
    cell.wait_a_second();
    cell.file(root("b"));
    cell.file(root("c"));
    cell.wait_a_second();
    cell.file(root("d"));
    let at = |seq| time_of(&cell.view, cell.volume, Seq::new(seq)).unwrap();
    assert_eq!(at(0), Some(created));
    let seconds: Vec<_> = (1..=4).map(at).collect();
    assert_eq!(seconds, [1_000, 1_002, 1_002, 1_003].map(|secs| Some(Time::new(secs, 0))));
    assert_eq!(at(5), None);
    assert_eq!(time_of(&cell.view, VolumeId::new(9), Seq::ZERO).unwrap(), None);
}
