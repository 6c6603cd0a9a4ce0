use super::{harness::*, invariants};
use crate::state::CommandBody;
use bytes::Bytes;
use sitefs_base::{
    Content, Errno, Extent, InodeId, Seq, Time,
    limits::{CHUNK_EXTENTS_MAX, CHUNK_SIZE, FILE_MAX, HOT_MAX},
    op::*,
};

fn layout(chunk: u32, extents: Vec<Extent>) -> ChunkLayout {
    ChunkLayout { chunk, extents }
}

/// A commit of whole-chunk layouts; every blob named is uploaded first.
fn commit_chunks(cell: &mut Cell, ino: InodeId, size: u64, changed: Vec<ChunkLayout>) -> OpResult {
    let mut blobs: Vec<u8> =
        changed.iter().flat_map(|c| &c.extents).map(|e| e.digest.as_bytes()[0]).collect();
    blobs.sort_unstable();
    blobs.dedup();
    let uploaded = blobs.into_iter().map(|of| cell.upload(of, CHUNK_SIZE as u32)).collect();
    cell.op(Op::Commit(Commit { uploaded, ..content(ino, NewContent::Chunks { size, changed }) }))
}

fn chunks(cell: &Cell, ino: InodeId, first: u32, count: u32) -> Vec<ChunkLayout> {
    match cell.query(Query::Chunks { ino, cver: None, first, count }).unwrap().body {
        AnswerBody::Chunks(chunks) => chunks,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_commit_publishes_a_new_file_with_content_and_times() {
    let mut cell = Cell::new();
    let written = Time::new(900, 0);
    let mut commit = cell.new_file(root("f"), Some(inline("text")), false);
    commit.set = SetAttr { mtime: Some(SetTime::Written(written)), mode: Some(0o600), ..Default::default() };
    let outcome = cell.op(Op::Commit(commit.clone())).unwrap();
    let inode = cell.inode(commit.ino).unwrap();
    assert_eq!((inode.attr.mtime, inode.attr.ctime, inode.attr.mode), (written, cell.now, 0o600));
    assert_eq!((inode.attr.size, inode.attr.nlink, inode.attr.cver), (4, 1, outcome.seq));
    assert_eq!(inode.content, Content::Inline("text".into()));
    assert_eq!(outcome.attrs, [inode.attr, cell.attr(ROOT)]);
}

#[test]
fn a_published_file_moves_its_directory_to_the_moment_at_which_it_was_made() {
    let mut cell = Cell::new();
    let publish = |cell: &mut Cell, name: &str, made: Time| {
        let mut commit = cell.new_file(root(name), Some(inline("text")), false);
        commit.set.atime = Some(SetTime::Written(made));
        cell.op(Op::Commit(commit)).unwrap();
        let dir = cell.attr(ROOT);
        assert_eq!(dir.mtime, dir.ctime);
        dir.mtime
    };
    let made = cell.now.next();
    cell.wait_a_second();
    assert_eq!(publish(&mut cell, "first", made), made);
    assert_eq!(publish(&mut cell, "earlier", Time::new(900, 0)), made.next(), "others see that it changed");
    let later = cell.now.plus(std::time::Duration::from_secs(5));
    assert_eq!(publish(&mut cell, "by a clock that is ahead", later), cell.now);
}

#[test]
fn a_commit_without_content_publishes_an_empty_file() {
    let mut cell = Cell::new();
    let commit = cell.new_file(root("f"), None, true);
    let ino = cell.done(Op::Commit(commit.clone()));
    assert_eq!((cell.attr(ino).size, cell.attr(ino).mode), (0, 0o644));
    let again = cell.new_file(root("f"), None, true);
    assert_eq!(cell.refused(Op::Commit(again)), Errno::EEXIST);
}

#[test]
fn the_second_publisher_of_a_name_writes_into_the_first_ones_inode() {
    let mut cell = Cell::new();
    let first = cell.write(root("f"), inline("one"));
    let second = cell.new_file(root("f"), Some(inline("second")), false);
    let outcome = cell.op(Op::Commit(second.clone())).unwrap();
    assert_eq!(outcome.ino, Some(first));
    assert_eq!((cell.attr(first).size, cell.inode(second.ino)), (6, None));
    cell.mkdir(root("d"));
    let over = cell.new_file(root("d"), Some(inline("x")), false);
    assert_eq!(cell.refused(Op::Commit(over)), Errno::EISDIR);
    cell.op(Op::Symlink { at: root("l"), target: "f".into(), create: by(0o777) }).unwrap();
    let over = cell.new_file(root("l"), Some(inline("x")), false);
    assert_eq!(cell.refused(Op::Commit(over)), Errno::EEXIST);
}

#[test]
fn a_commit_repeated_after_its_file_was_renamed_goes_to_the_file() {
    let mut cell = Cell::new();
    let commit = cell.new_file(root("tmp"), Some(inline("one")), true);
    cell.op(Op::Commit(commit.clone())).unwrap();
    cell.rename(root("tmp"), root("kept"), RenameMode::Replace).unwrap();
    cell.file(root("tmp"));
    let later = Commit { content: Some(inline("second")), ..commit };
    assert_eq!(cell.op(Op::Commit(later.clone())).unwrap().ino, Some(later.ino));
    assert_eq!((cell.lookup(root("kept")), cell.attr(later.ino).size), (Some(later.ino), 6));
    cell.open(sitefs_base::SessionId::new(8));
    assert_eq!(cell.refused(Op::Commit(later)), Errno::EINVAL, "the number of another session");
}

#[test]
fn numbers_outside_the_sessions_range_cannot_be_published() {
    let mut cell = Cell::new();
    let mut commit = cell.new_file(root("f"), None, false);
    commit.ino = InodeId::new(commit.ino.get() + 1);
    assert_eq!(cell.refused(Op::Commit(commit)), Errno::EINVAL);
    let theirs = cell.new_file(root("g"), None, false);
    cell.open(sitefs_base::SessionId::new(8));
    assert_eq!(cell.refused(Op::Commit(theirs)), Errno::EINVAL);
    let mut early = cell.new_file(root("h"), None, false);
    early.link = None;
    assert_eq!(cell.refused(Op::Commit(early)), Errno::EINVAL);
}

#[test]
fn a_commit_to_an_inode_without_names_is_dropped() {
    let mut cell = Cell::new();
    let file = cell.write(root("f"), inline("x"));
    cell.done(Op::Unlink { at: root("f") });
    let seq = cell.seq();
    let outcome = cell.op(Op::Commit(content(file, inline("y")))).unwrap();
    assert_eq!((outcome.extra, outcome.seq, cell.inode(file)), (Extra::Dropped, seq, None));
    assert_eq!(cell.refused(Op::Commit(content(InodeId::new(1 << 40), inline("y")))), Errno::ESTALE);
    assert_eq!(cell.set(file, SetAttr { uid: Some(1), ..Default::default() }), Err(Errno::ESTALE));
}

#[test]
fn an_unexpected_content_version_is_refused() {
    let mut cell = Cell::new();
    let file = cell.write(root("f"), inline("one"));
    let cver = cell.attr(file).cver;
    cell.set(file, SetAttr { mode: Some(0o600), ..Default::default() }).unwrap();
    let conditional = |expected: Seq| Commit { expect_cver: Some(expected), ..content(file, inline("two")) };
    cell.op(Op::Commit(conditional(cver))).unwrap();
    assert_eq!(cell.refused(Op::Commit(conditional(cver))), Errno::ESTALE);
}

#[test]
fn content_of_a_wrong_shape_is_refused() {
    let mut cell = Cell::new();
    let file = cell.file(root("f"));
    let dir = cell.mkdir(root("d"));
    assert_eq!(cell.refused(Op::Commit(content(dir, inline("x")))), Errno::EISDIR);
    let of = |size, chunk, extents| NewContent::Chunks { size, changed: vec![layout(chunk, extents)] };
    let many = (0..=CHUNK_EXTENTS_MAX as u64).map(|at| extent(at * 2, 1, 1)).collect();
    let bad = [
        NewContent::Inline(vec![0; 513].into()),
        hot(1, HOT_MAX + 1),
        hot(1, 0),
        of(10, 0, vec![extent(0, 11, 1)]),
        of(10, 0, vec![extent(0, 0, 1)]),
        of(10, 0, vec![extent(4, 4, 1), extent(0, 4, 1)]),
        of(10, 0, vec![extent(0, 5, 1), extent(4, 4, 1)]),
        of(u64::from(u32::MAX), 0, vec![extent(CHUNK_SIZE - 1, 2, 1)]),
        of(u64::from(u32::MAX), 1, vec![extent(CHUNK_SIZE - 1, 1, 1)]),
        of(10, 0, vec![extent(u64::MAX, 2, 1)]),
        of(FILE_MAX, u32::MAX, vec![extent(0, 1, 1)]),
        of(1000, 0, many),
        NewContent::Chunks { size: 9, changed: vec![layout(0, vec![]), layout(0, vec![])] },
    ];
    for bad in bad {
        assert_eq!(cell.refused(Op::Commit(content(file, bad.clone()))), Errno::EINVAL, "{bad:?}");
    }
    let big = NewContent::Chunks { size: FILE_MAX + 1, changed: vec![] };
    assert_eq!(cell.refused(Op::Commit(content(file, big))), Errno::EFBIG);
    let sized = Commit { set: SetAttr { size: Some(1), ..Default::default() }, ..content(file, inline("x")) };
    assert_eq!(cell.refused(Op::Commit(sized)), Errno::EINVAL);
}

#[test]
fn layouts_move_to_rows_and_back() {
    let mut cell = Cell::new();
    let file = cell.write(root("f"), inline("old"));
    let full = CHUNK_SIZE as u32;
    let whole = |chunk: u32, of| layout(chunk, vec![extent(u64::from(chunk) * CHUNK_SIZE, full, of)]);
    let six: Vec<_> = (0..6).map(|chunk| whole(chunk, chunk as u8 + 1)).collect();
    commit_chunks(&mut cell, file, 6 * CHUNK_SIZE, six.clone()).unwrap();
    assert_eq!(
        (cell.inode(file).unwrap().content, invariants::chunk_rows(&cell.view)),
        (Content::Chunked, 6)
    );
    assert_eq!(chunks(&cell, file, 0, 1024), six);
    assert_eq!(chunks(&cell, file, 2, 2), six[2..4]);
    assert_eq!(cell.usage().bytes_used, 6 * CHUNK_SIZE);
    commit_chunks(&mut cell, file, 6 * CHUNK_SIZE, vec![layout(1, vec![]), whole(4, 9)]).unwrap();
    assert_eq!((invariants::chunk_rows(&cell.view), cell.attr(file).allocated), (5, 5 * CHUNK_SIZE));
    let set = SetAttr { size: Some(3 * CHUNK_SIZE + 5), ..Default::default() };
    cell.set(file, set).unwrap();
    let Content::Extents(extents) = cell.inode(file).unwrap().content else { panic!("still in rows") };
    assert_eq!((extents.len(), extents[2].len, invariants::chunk_rows(&cell.view)), (3, 5, 0));
    assert_eq!(chunks(&cell, file, 3, 1), [layout(3, vec![extents[2].clone()])]);
    cell.set(file, SetAttr { size: Some(0), ..Default::default() }).unwrap();
    assert_eq!((cell.inode(file).unwrap().content, cell.usage().bytes_used), (Content::Empty, 0));
}

#[test]
fn a_shrinking_commit_cuts_unchanged_chunks_and_growth_leaves_holes() {
    let mut cell = Cell::new();
    let file = cell.file(root("f"));
    let both = vec![layout(0, vec![extent(0, 100, 1)]), layout(1, vec![extent(CHUNK_SIZE, 100, 2)])];
    commit_chunks(&mut cell, file, CHUNK_SIZE + 100, both).unwrap();
    commit_chunks(&mut cell, file, CHUNK_SIZE + 10, vec![layout(0, vec![])]).unwrap();
    let inode = cell.inode(file).unwrap();
    assert_eq!((inode.attr.size, inode.attr.allocated), (CHUNK_SIZE + 10, 10));
    let hole = NewContent::Chunks { size: 1 << 40, changed: vec![] };
    cell.op(Op::Commit(content(file, hole))).unwrap();
    assert_eq!((cell.attr(file).size, cell.attr(file).allocated), (1 << 40, 10));
}

#[test]
fn removing_a_large_file_removes_its_rows() {
    let mut cell = Cell::new();
    let file = cell.file(root("f"));
    let extents = (0..9).map(|at| extent(at * 10, 5, 1)).collect();
    commit_chunks(&mut cell, file, 100, vec![layout(0, extents)]).unwrap();
    assert_eq!(invariants::chunk_rows(&cell.view), 1);
    cell.wait_a_second();
    cell.done(Op::Unlink { at: root("f") });
    assert_eq!((invariants::chunk_rows(&cell.view), cell.usage().bytes_used), (0, 0));
    assert!(cell.place_of(1).is_some(), "history still names the blob");
}

#[test]
fn the_byte_limit_refuses_growth_but_not_shrinking() {
    let mut cell = Cell::with(crate::state::VolumeLimits { bytes: 10, inodes: 9 });
    let file = cell.write(root("f"), inline("12345678"));
    assert_eq!(cell.refused(Op::Commit(content(file, inline("12345678901")))), Errno::EDQUOT);
    cell.op(Op::Commit(content(file, inline("1234567890")))).unwrap();
    cell.op(Op::Commit(content(file, inline("1")))).unwrap();
    let other = cell.new_file(root("g"), Some(hot(1, 600)), false);
    assert_eq!(cell.refused(Op::Commit(other)), Errno::EDQUOT);
}

#[test]
fn growth_that_credit_covers_passes_a_limit() {
    let mut cell = Cell::with(crate::state::VolumeLimits { bytes: 10, inodes: 2 });
    let file = cell.write(root("f"), inline("12345678"));
    let longer = || Op::Commit(content(file, inline("123456789012")));
    let credit = |bytes, inodes| Credit { bytes, inodes };
    assert_eq!(cell.op_on_credit(longer(), credit(3, 9)), Err(Errno::EDQUOT), "one byte is not covered");
    cell.op_on_credit(longer(), credit(4, 0)).unwrap();
    assert_eq!(cell.usage().bytes_used, 12);
    let dir = || Op::Mkdir { at: root("d"), create: by(0o755) };
    assert_eq!(cell.op_on_credit(dir(), credit(9, 0)), Err(Errno::EDQUOT));
    cell.op_on_credit(dir(), credit(0, 1)).unwrap();
    // Beyond its limits the volume takes everything that makes it smaller, or leaves it as it is.
    cell.op(Op::Commit(content(file, inline("12345678901")))).unwrap();
    cell.op(Op::Commit(content(file, inline("abcdefghijk")))).unwrap();
    cell.done(Op::Unlink { at: root("f") });
    assert_eq!((cell.usage().bytes_used, cell.usage().inodes_used), (0, 2));
}

#[test]
fn a_volume_of_no_bytes_takes_none() {
    let mut cell = Cell::with(crate::state::VolumeLimits { bytes: 0, inodes: 9 });
    let file = cell.file(root("f"));
    assert_eq!(cell.refused(Op::Commit(content(file, inline("1")))), Errno::EDQUOT);
    cell.op(Op::Commit(content(file, inline("")))).unwrap();
    cell.done(Op::Symlink { at: root("l"), target: Bytes::from_static(b"to"), create: by(0o777) });
}

#[test]
fn the_bound_of_growth_is_never_below_the_growth() {
    use crate::state::{Command, apply, growth_bound};
    let mut cell = Cell::new();
    let file = cell.write(root("f"), inline("12345678"));
    let large = cell.file(root("large"));
    let upload = [1, 2].map(|of| cell.upload(of, CHUNK_SIZE as u32));
    let chunks = |size, changed| Commit {
        uploaded: upload.to_vec(),
        ..content(large, NewContent::Chunks { size, changed })
    };
    let whole =
        |chunk: u32, of| layout(chunk, vec![extent(u64::from(chunk) * CHUNK_SIZE, CHUNK_SIZE as u32, of)]);
    let resize = |ino, size| Op::SetAttr { ino, set: SetAttr { size: Some(size), ..SetAttr::default() } };
    let fresh = cell.new_file(root("new"), Some(hot(3, 900)), false);
    let steps = [
        (resize(file, 100), Credit { bytes: 92, inodes: 0 }),
        (resize(file, 5), Credit::NONE),
        (Op::Commit(content(file, hot(4, 700))), Credit { bytes: 695, inodes: 0 }),
        (Op::Commit(content(file, inline("x"))), Credit::NONE),
        (Op::Commit(fresh), Credit { bytes: 900, inodes: 1 }),
        (
            Op::Commit(chunks(2 * CHUNK_SIZE, vec![whole(0, 1), whole(1, 2)])),
            Credit { bytes: 2 * CHUNK_SIZE, inodes: 0 },
        ),
        (Op::Commit(chunks(2 * CHUNK_SIZE, vec![whole(1, 1)])), Credit::NONE),
        (resize(large, 1 << 40), Credit::NONE),
        (Op::Mkdir { at: root("d"), create: by(0o755) }, Credit { bytes: 0, inodes: 1 }),
        (Op::Unlink { at: root("f") }, Credit::NONE),
    ];
    for (op, expected) in steps {
        assert_eq!(growth_bound(&cell.view, cell.volume, &op).unwrap(), expected, "{op:?}");
        let envelope = cell.envelope(op.clone());
        let body = CommandBody::Op { volume: cell.volume, envelope, credit: Credit::NONE };
        let applied = apply(&mut cell.view, &Command { at: cell.now, body }).unwrap();
        assert!(applied.reply.is_ok() && applied.grown == expected, "{op:?}: {:?}", applied.grown);
    }
}
