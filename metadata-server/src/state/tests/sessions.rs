use super::{super::*, harness::*};
use sitefs_base::{Errno, InodeId, OpId, SessionId, VolumeId, limits::REPLY_WINDOW, op::*};

fn mkdir(name: &str) -> Op {
    Op::Mkdir { at: root(name), create: by(0o755) }
}

fn numbered(op: u64, ack_below: u64, body: Op) -> OpEnvelope {
    OpEnvelope { session: SESSION, op: OpId::new(op), ack_below: OpId::new(ack_below), body }
}

#[test]
fn a_retry_is_answered_and_not_executed() {
    let mut cell = Cell::new();
    let first = cell.send(numbered(1, 1, mkdir("d"))).unwrap();
    assert!(cell.event.is_some());
    let again = cell.send(numbered(1, 1, mkdir("d"))).unwrap();
    assert_eq!((again, cell.event.is_none()), (first, true));
    assert_eq!(cell.send(numbered(2, 1, mkdir("d"))), Err(Errno::EEXIST));
    cell.send(numbered(3, 1, Op::Rmdir { at: root("d") })).unwrap();
    assert_eq!(cell.send(numbered(2, 1, mkdir("d"))), Err(Errno::EEXIST), "a refusal is remembered");
}

#[test]
fn operations_may_overtake_each_other() {
    let mut cell = Cell::new();
    cell.send(numbered(5, 4, mkdir("five"))).unwrap();
    cell.send(numbered(4, 4, mkdir("four"))).unwrap();
    let info = session_info(&cell.view, cell.volume, SESSION).unwrap().unwrap();
    assert_eq!((info.op_high_water, info.ack_below), (OpId::new(5), OpId::new(4)));
    assert_eq!(info.last_used, cell.now);
}

#[test]
fn acknowledged_receipts_go_and_their_operations_are_refused() {
    let mut cell = Cell::new();
    for op in 1..=10 {
        cell.send(numbered(op, 1, mkdir(&format!("d{op}")))).unwrap();
    }
    cell.send(numbered(11, 9, mkdir("last"))).unwrap();
    let prefix = keys::receipts(cell.volume, SESSION);
    assert_eq!(cell.view.scan(Family::Meta, &prefix, &prefix, 100).unwrap().len(), 3);
    assert_eq!(cell.send(numbered(8, 1, mkdir("x"))), Err(Errno::EINVAL));
    assert!(cell.send(numbered(9, 1, mkdir("d9"))).is_ok());
    assert_eq!(cell.send(numbered(12, 13, mkdir("x"))), Err(Errno::EINVAL));
}

#[test]
fn the_reply_window_is_bounded() {
    let mut cell = Cell::new();
    let beyond = REPLY_WINDOW as u64 + 1;
    assert_eq!(cell.send(numbered(beyond, 1, mkdir("x"))), Err(Errno::EBUSY));
    cell.send(numbered(beyond, 2, mkdir("x"))).unwrap();
}

#[test]
fn an_unknown_session_and_an_unknown_volume_are_stale() {
    let mut cell = Cell::new();
    cell.command(CommandBody::CloseSession { volume: cell.volume, session: SESSION }).unwrap();
    assert_eq!(cell.send(numbered(1, 1, mkdir("d"))), Err(Errno::ESTALE));
    assert_eq!(session_info(&cell.view, cell.volume, SESSION).unwrap(), None);
    let volume = VolumeId::new(9);
    let envelope = numbered(1, 1, mkdir("d"));
    assert_eq!(cell.command(CommandBody::Op { volume, envelope, credit: Credit::NONE }), Err(Errno::ESTALE));
    let opened = cell.command(CommandBody::OpenSession { volume, session: SESSION, at: None });
    assert_eq!(opened, Err(Errno::ENOENT));
}

#[test]
fn a_closed_session_leaves_no_rows_and_a_reopened_one_keeps_its_mark() {
    let mut cell = Cell::new();
    cell.op(mkdir("d")).unwrap();
    cell.number();
    let reply = cell.command(CommandBody::OpenSession { volume: cell.volume, session: SESSION, at: None });
    let seq = cell.seq();
    assert_eq!(reply, Ok(Reply::Session { site: SITE, seq, op_high_water: OpId::new(2), at: None }));
    cell.command(CommandBody::CloseSession { volume: cell.volume, session: SESSION }).unwrap();
    let left = cell.view.rows(Family::Meta).into_iter().filter(|(key, _)| b"SOR".contains(&key[0]));
    assert_eq!(left.count(), 0);
}

#[test]
fn a_forgotten_session_is_not_begun_again_by_coming_back() {
    let mut cell = Cell::new();
    cell.op(mkdir("d")).unwrap();
    let volume = cell.volume;
    let resume = CommandBody::ResumeSession { volume, session: SESSION };
    let (seq, op_high_water) = (cell.seq(), OpId::new(1));
    assert_eq!(cell.command(resume.clone()), Ok(Reply::Session { site: SITE, seq, op_high_water, at: None }));
    cell.wait_a_second();
    let before = cell.now;
    cell.command(CommandBody::ExpireSessions { before }).unwrap();
    assert_eq!(cell.command(resume), Err(Errno::ESTALE));
    assert_eq!(session_info(&cell.view, volume, SESSION).unwrap(), None);
    assert_eq!(cell.send(numbered(1, 1, mkdir("d2"))), Err(Errno::ESTALE), "its operations are not executed");
}

#[test]
fn silent_sessions_expire() {
    let mut cell = Cell::new();
    cell.wait_a_second();
    let before = cell.now;
    cell.open(SessionId::new(8));
    cell.command(CommandBody::ExpireSessions { before }).unwrap();
    assert_eq!(session_info(&cell.view, cell.volume, SESSION).unwrap(), None);
    assert!(session_info(&cell.view, cell.volume, SessionId::new(8)).unwrap().is_some());
}

#[test]
fn inode_ranges_follow_each_other_and_are_merged_for_one_session() {
    let mut cell = Cell::new();
    let range = |cell: &mut Cell, count| match cell.op(Op::AllocInodes { count }).unwrap().extra {
        Extra::Inodes { first, count } => (first.get(), count),
        other => panic!("{other:?}"),
    };
    let seq = cell.seq();
    assert_eq!((range(&mut cell, 10), range(&mut cell, 5)), ((2, 10), (12, 5)));
    assert_eq!(cell.seq(), seq, "the tree has not changed");
    let prefix = keys::ranges(cell.volume, SESSION);
    assert_eq!(cell.view.scan(Family::Meta, &prefix, &prefix, 9).unwrap().len(), 1);
    assert_eq!(cell.refused(Op::AllocInodes { count: 0 }), Errno::EINVAL);
    assert_eq!(cell.refused(Op::AllocInodes { count: 1025 }), Errno::EINVAL);
    assert_eq!(cell.done(mkdir("d")), InodeId::new(17));
    let mut commit = cell.new_file(root("f"), None, false);
    commit.ino = InodeId::new(2);
    assert_eq!(cell.done(Op::Commit(commit)), InodeId::new(2));
}

#[test]
fn a_retried_grant_grants_again() {
    let mut cell = Cell::new();
    let grant = || Op::Grant { blobs: vec![BlobWanted { digest: digest(1), len: 9 }] };
    let first = cell.send(numbered(1, 1, grant())).unwrap();
    let second = cell.send(numbered(1, 1, grant())).unwrap();
    assert_ne!(first.extra, second.extra, "each has a generation of its own");
}

#[test]
fn extreme_numbers_of_operations_do_no_harm() {
    let mut cell = Cell::new();
    cell.send(numbered(u64::MAX, u64::MAX, mkdir("a"))).unwrap();
    assert!(cell.send(numbered(u64::MAX, u64::MAX, mkdir("a"))).is_ok());
    assert_eq!(cell.send(numbered(1, 1, mkdir("b"))), Err(Errno::EINVAL));
}
