use super::{super::*, harness::*, invariants};
use bytes::Bytes;
use sitefs_base::{
    Content, Errno, Extent, FileKind, InodeId, Seq, SessionId, Time,
    limits::{CHUNK_EXTENTS_BEHIND, CHUNK_SIZE, FILE_MAX, HOT_MAX, MERGE_ABOVE},
    op::*,
};
use std::collections::BTreeSet;

fn append(ino: InodeId, bytes: impl Into<Bytes>) -> Op {
    Op::Append { ino, bytes: bytes.into(), changed: None, kill_setid: false }
}

fn line(n: usize) -> Vec<u8> {
    format!("{n:>199}\n").into_bytes()
}

fn landed(outcome: &Outcome) -> u64 {
    match outcome.extra {
        Extra::Appended { offset } => offset,
        ref other => panic!("{other:?} says no place"),
    }
}

fn extents(cell: &Cell, ino: InodeId) -> Vec<Extent> {
    match cell.query(Query::Chunks { ino, cver: None, first: 0, count: 1024 }).unwrap().body {
        AnswerBody::Chunks(chunks) => chunks.into_iter().flat_map(|chunk| chunk.extents).collect(),
        other => panic!("{other:?}"),
    }
}

/// A file with lines in as many extents.
fn log_of(cell: &mut Cell, lines: usize) -> InodeId {
    let log = cell.file(root("log"));
    cell.op(append(log, vec![b'x'; 600])).unwrap();
    for n in 1..lines {
        cell.op(append(log, line(n))).unwrap();
    }
    assert_eq!(extents(cell, log).len(), lines);
    log
}

fn joined(cell: &Cell, run: &[Extent]) -> Joined {
    let bytes: Vec<u8> = run.iter().flat_map(|extent| cell.bytes_of(extent)).collect();
    Joined::Hot { digest: sitefs_blobstore::hash(&bytes), bytes: bytes.into() }
}

fn merge(cell: &mut Cell, ino: InodeId, old: &[Extent], new: Joined) -> Result<Reply, Errno> {
    let step = MergeStep::Replace { ino, old: old.to_vec(), new };
    let reply = cell.command(CommandBody::Merged { volume: cell.volume, step });
    invariants::check(&cell.view, cell.volume);
    reply
}

#[test]
fn what_is_appended_stays_inline_while_it_is_small_and_then_gets_blobs() {
    let mut cell = Cell::new();
    let log = cell.file(root("log"));
    assert_eq!(landed(&cell.op(append(log, "one\n")).unwrap()), 0);
    assert_eq!(landed(&cell.op(append(log, "two\n")).unwrap()), 4);
    assert_eq!(cell.inode(log).unwrap().content, Content::Inline(Bytes::from_static(b"one\ntwo\n")));
    assert_eq!(landed(&cell.op(append(log, vec![b'x'; 505])).unwrap()), 8);
    assert_eq!(extents(&cell, log).len(), 1, "what was inline is in the blob");
    assert_eq!(landed(&cell.op(append(log, line(3))).unwrap()), 513);
    assert_eq!(extents(&cell, log).len(), 2, "nothing is rewritten");
    let expected = [b"one\ntwo\n".as_slice(), &[b'x'; 505], &line(3)].concat();
    assert_eq!(cell.content(log), expected);
    let attr = cell.attr(log);
    assert_eq!((attr.size, attr.allocated, attr.cver), (713, 713, cell.seq()));
    assert_eq!(cell.event.as_ref().unwrap().changes, [Change::Content(log)]);
}

#[test]
fn appends_of_two_sessions_lose_nothing_and_are_executed_once() {
    let mut cell = Cell::new();
    let log = cell.file(root("log"));
    let mine = cell.envelope(append(log, line(1)));
    let first = cell.send(mine.clone()).unwrap();
    cell.open(SessionId::new(8));
    assert_eq!(landed(&cell.op(append(log, line(2))).unwrap()), 200);
    for _ in 0..3 {
        let again = cell.send(mine.clone()).unwrap();
        assert_eq!((landed(&again), again.seq), (0, first.seq), "the receipt says where it landed");
    }
    assert_eq!(cell.content(log), [line(1), line(2)].concat());
}

#[test]
fn times_and_set_id_bits_are_those_of_a_write() {
    let mut cell = Cell::new();
    let log = cell.file(root("log"));
    let set = SetAttr { mode: Some(0o6755), ..SetAttr::default() };
    cell.set(log, set).unwrap();
    cell.wait_a_second();
    let (written, bytes) = (cell.now, Bytes::from_static(b"x"));
    cell.wait_a_second();
    cell.op(Op::Append { ino: log, bytes: bytes.clone(), changed: Some(written), kill_setid: true }).unwrap();
    let attr = cell.attr(log);
    assert_eq!((attr.mtime, attr.ctime, attr.mode), (written, written, 0o755));
    let future = cell.now.plus(std::time::Duration::from_secs(1000));
    cell.op(Op::Append { ino: log, bytes, changed: Some(future), kill_setid: false }).unwrap();
    assert!(cell.attr(log).mtime < future && cell.attr(log).mtime > written);
}

#[test]
fn an_append_to_what_is_no_file_or_too_much_is_refused() {
    let mut cell = Cell::new();
    let (dir, file) = (cell.mkdir(root("d")), cell.file(root("f")));
    let fifo = cell.done(Op::Mknod { at: root("p"), kind: FileKind::Fifo, rdev: 0, create: by(0o644) });
    assert_eq!(cell.refused(append(dir, "x")), Errno::EISDIR);
    assert_eq!(cell.refused(append(fifo, "x")), Errno::EINVAL);
    assert_eq!(cell.refused(append(file, "")), Errno::EINVAL);
    assert_eq!(cell.refused(append(file, vec![0; HOT_MAX + 1])), Errno::EINVAL);
    assert_eq!(cell.refused(append(InodeId::new(1 << 40), "x")), Errno::ESTALE);
    let huge = SetAttr { size: Some(FILE_MAX - 1), ..SetAttr::default() };
    cell.set(file, huge).unwrap();
    assert_eq!(cell.refused(append(file, "xy")), Errno::EFBIG);
    assert_eq!(landed(&cell.op(append(file, "x")).unwrap()), FILE_MAX - 1);
    cell.done(Op::Unlink { at: root("f") });
    assert_eq!(cell.op(append(file, "x")).unwrap().extra, Extra::Dropped);
}

#[test]
fn an_append_over_the_quota_is_refused() {
    let mut cell = Cell::with(VolumeLimits { bytes: 1000, inodes: 10 });
    let log = cell.file(root("log"));
    cell.op(append(log, vec![1; 999])).unwrap();
    assert_eq!(cell.refused(append(log, "xy")), Errno::EDQUOT);
    cell.op(append(log, "x")).unwrap();
}

#[test]
fn an_append_is_split_where_a_chunk_ends() {
    let mut cell = Cell::new();
    let log = cell.file(root("log"));
    cell.set(log, SetAttr { size: Some(CHUNK_SIZE - 10), ..SetAttr::default() }).unwrap();
    cell.op(append(log, vec![7; 30])).unwrap();
    let found = extents(&cell, log);
    let places: Vec<_> = found.iter().map(|extent| (extent.offset, extent.len)).collect();
    assert_eq!(places, [(CHUNK_SIZE - 10, 10), (CHUNK_SIZE, 20)]);
    let attr = cell.attr(log);
    assert_eq!((attr.size, attr.allocated), (CHUNK_SIZE + 20, 30));
}

#[test]
fn a_chunk_that_nobody_merges_takes_a_thousand_appends_and_then_no_more() {
    let mut cell = Cell::new();
    let log = cell.file(root("log"));
    cell.op(append(log, vec![b'x'; 600])).unwrap();
    for n in 1..CHUNK_EXTENTS_BEHIND {
        let envelope = cell.envelope(append(log, line(n)));
        let body = CommandBody::Op { volume: cell.volume, envelope, credit: Credit::NONE };
        cell.now = cell.now.next();
        let applied = apply(&mut cell.view, &Command { at: cell.now, body }).unwrap();
        let crowded = CrowdedChunk { volume: cell.volume, ino: log, chunk: 0 };
        assert_eq!(applied.crowded, (n >= MERGE_ABOVE).then_some(crowded), "{n}");
    }
    assert_eq!(cell.refused(append(log, line(0))), Errno::ENOSPC);
    let found = extents(&cell, log);
    let new = joined(&cell, &found[..300]);
    merge(&mut cell, log, &found[..300], new).unwrap();
    cell.op(append(log, line(0))).unwrap();
}

#[test]
fn a_merge_changes_neither_content_nor_version_nor_history() {
    let mut cell = Cell::new();
    let log = log_of(&mut cell, 40);
    cell.wait_a_second();
    cell.op(append(log, line(99))).unwrap();
    let (content, inode, seq) = (cell.content(log), cell.inode(log), cell.seq());
    let history = cell.view.rows(Family::ChunkHistory);
    let found = extents(&cell, log);
    let new = joined(&cell, &found[5..35]);
    merge(&mut cell, log, &found[5..35], new).unwrap();
    assert_eq!(extents(&cell, log).len(), 41 - 29);
    assert_eq!((cell.content(log), cell.inode(log), cell.seq()), (content, inode, seq));
    assert_eq!(cell.view.rows(Family::ChunkHistory), history);
    assert_eq!(cell.event, None);
    let rest = extents(&cell, log);
    let new = joined(&cell, &rest);
    merge(&mut cell, log, &rest, new).unwrap();
    assert_eq!(extents(&cell, log).len(), 1);
    cell.op(append(log, line(100))).unwrap();
    assert_eq!(cell.content(log)[8600..], line(100));
    assert!(matches!(cell.inode(log).unwrap().content, Content::Extents(_)), "it is small again");
}

#[test]
fn a_merge_of_what_has_changed_meanwhile_does_nothing() {
    let mut cell = Cell::new();
    let log = log_of(&mut cell, 40);
    let found = extents(&cell, log);
    let new = joined(&cell, &found);
    cell.op(Op::Punch { ino: log, offset: 700, len: 5 }).unwrap();
    let before = cell.content(log);
    merge(&mut cell, log, &found, new.clone()).unwrap();
    assert_eq!(cell.content(log), before);
    cell.done(Op::Unlink { at: root("log") });
    merge(&mut cell, log, &found, new.clone()).unwrap();
    for wrong in [&found[..1], &[], &[found[0].clone(), found[2].clone()][..]] {
        assert_eq!(merge(&mut cell, log, wrong, new.clone()), Err(Errno::EINVAL));
    }
}

#[test]
fn a_full_chunk_becomes_an_object_under_a_generation_of_its_own() {
    let mut cell = Cell::new();
    let log = cell.file(root("log"));
    for n in 0..40u8 {
        cell.op(append(log, vec![n; HOT_MAX])).unwrap();
    }
    let found = extents(&cell, log);
    let bytes = cell.content(log);
    let (digest, len) = (sitefs_blobstore::hash(&bytes), u32::try_from(bytes.len()).unwrap());
    let blob = BlobWanted { digest, len };
    let step = MergeStep::Upload { blob: blob.clone() };
    let reply = cell.command(CommandBody::Merged { volume: cell.volume, step }).unwrap();
    let Reply::Upload(Some(generation)) = reply else { panic!("{reply:?}") };
    let without = Joined::Object { digest, generation: None };
    assert_eq!(merge(&mut cell, log, &found, without), Err(Errno::EAGAIN), "a digest is no upload");
    cell.blobs.insert(digest, bytes.clone());
    merge(&mut cell, log, &found, Joined::Object { digest, generation: Some(generation) }).unwrap();
    assert_eq!((extents(&cell, log).len(), cell.content(log)), (1, bytes));
    cell.verified(&Uploaded { digest, generation });
    let step = MergeStep::Upload { blob };
    let reply = cell.command(CommandBody::Merged { volume: cell.volume, step }).unwrap();
    assert_eq!(reply, Reply::Upload(None), "the store has it");
}

/// The blobs that wait to be drained, and those that wait to be merged.
fn lists(cell: &Cell) -> (BTreeSet<Bytes>, BTreeSet<Bytes>) {
    let bytes = |blob: &HotBlob| hot_bytes(&cell.view, SITE, blob.generation).unwrap().unwrap().into();
    let far = Time::new(i64::MAX, 0);
    let drained = hot_blobs(&cell.view, None, 1000).unwrap();
    let tails = tails(&cell.view, far, 1000).unwrap();
    (drained.iter().map(bytes).collect(), tails.iter().map(bytes).collect())
}

#[test]
fn log_lines_do_not_become_objects_unless_something_else_names_them() {
    let mut cell = Cell::new();
    let log = log_of(&mut cell, 40);
    let (drained, waiting) = lists(&cell);
    assert_eq!((drained.len(), waiting.len()), (0, 40), "they wait to be merged");
    let found = extents(&cell, log);
    let new = joined(&cell, &found[1..]);
    merge(&mut cell, log, &found[1..], new).unwrap();
    let (drained, waiting) = lists(&cell);
    assert_eq!((drained.len(), waiting.len()), (0, 2), "merged ones are left alone");
    assert_eq!(cell.bytes_of(&found[7]), line(7), "they stay readable");
    cell.write(root("copy"), NewContent::Hot { digest: found[7].digest, bytes: line(7).into() });
    assert_eq!(lists(&cell).0, BTreeSet::from([line(7).into()]), "a file of this content needs it");
    let other = cell.file(root("other"));
    let part = Op::CloneRange {
        from: log,
        from_offset: 0,
        to: other,
        to_offset: 0,
        len: 600,
        expect_from_cver: Some(cell.attr(log).cver),
    };
    cell.op(part).unwrap();
    assert_eq!((lists(&cell).0.len(), lists(&cell).1.len()), (2, 1));
}

#[test]
fn blobs_of_appends_that_wait_too_long_can_be_listed_by_age() {
    let mut cell = Cell::new();
    let log = cell.file(root("log"));
    cell.op(append(log, vec![1; 600])).unwrap();
    cell.wait_a_second();
    let between = cell.now;
    cell.op(append(log, vec![2; 600])).unwrap();
    let late = tails(&cell.view, between, 10).unwrap();
    assert_eq!(late.len(), 1);
    assert_eq!(hot_bytes(&cell.view, SITE, late[0].generation).unwrap(), Some(vec![1; 600]));
    let HotBlob { site, digest, generation, .. } = late[0];
    cell.command(CommandBody::Drained { site, digest, generation }).unwrap();
    invariants::check(&cell.view, cell.volume);
    assert_eq!(tails(&cell.view, between, 10).unwrap(), []);
    assert_eq!(cell.seq(), Seq::new(3));
}
