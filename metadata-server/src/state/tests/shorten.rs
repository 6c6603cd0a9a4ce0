use super::{super::*, harness::*};
use sitefs_base::{
    Errno, InodeId,
    limits::{CHUNK_SIZE, COMMIT_CHUNKS_MAX},
    op::*,
};

/// A file of so many full commits, all chunks of one blob.
fn large(cell: &mut Cell, commits: u32) -> InodeId {
    let file = cell.file(root("large"));
    let upload = cell.upload(1, 100);
    let each = COMMIT_CHUNKS_MAX as u32;
    for part in 0..commits {
        let layout =
            |chunk: u32| ChunkLayout { chunk, extents: vec![extent(u64::from(chunk) * CHUNK_SIZE, 100, 1)] };
        let changed: Vec<_> = (part * each..(part + 1) * each).map(layout).collect();
        let size = u64::from((part + 1) * each) * CHUNK_SIZE;
        let new = NewContent::Chunks { size, changed };
        let commit = Commit { uploaded: vec![upload.clone()], ..content(file, new) };
        cell.command_of(Op::Commit(commit)).unwrap();
    }
    file
}

fn resize(file: InodeId, size: u64) -> Op {
    Op::SetAttr { ino: file, set: SetAttr { size: Some(size), ..SetAttr::default() } }
}

fn cut(cell: &mut Cell, cuts: &Cuts) {
    for size in &cuts.sizes {
        let rows = cell.view.rows(Family::Chunk).len();
        let step = CommandBody::Shorten { volume: cell.volume, ino: cuts.ino, size: *size };
        assert!(matches!(cell.command(step), Ok(Reply::Shortened(Some(_)))));
        let attr = cell.attr(cuts.ino);
        assert_eq!(
            (attr.size, attr.allocated),
            (*size, attr.size.div_ceil(CHUNK_SIZE) * 100),
            "a whole file"
        );
        assert!(rows - cell.view.rows(Family::Chunk).len() <= 1000, "few rows in one command");
    }
}

#[test]
fn a_large_file_is_made_shorter_in_steps_of_few_rows() {
    let mut cell = Cell::new();
    let file = large(&mut cell, 6);
    assert_eq!(cell.command_of(resize(file, 0)), Err(Errno::EBUSY), "too much for one command");
    let op = resize(file, 5 * CHUNK_SIZE + 7);
    let cuts = cuts(&cell.view, cell.volume, &op).unwrap().unwrap();
    assert_eq!((cuts.ino, cuts.sizes.len(), cuts.sizes.last()), (file, 7, Some(&(6 * CHUNK_SIZE))));
    cut(&mut cell, &cuts);
    cell.op(op).unwrap();
    assert_eq!((cell.attr(file).size, cell.attr(file).allocated), (5 * CHUNK_SIZE + 7, 507));
    assert_eq!(cell.usage().bytes_used, 507);
}

#[test]
fn only_what_would_cut_many_rows_is_prepared() {
    let mut cell = Cell::new();
    let file = large(&mut cell, 2);
    let sizes =
        |cell: &Cell, op: &Op| cuts(&cell.view, cell.volume, op).unwrap().map(|cuts| cuts.sizes.len());
    let commit = |new| Op::Commit(content(file, new));
    assert_eq!(sizes(&cell, &resize(file, 0)), Some(3));
    assert_eq!(sizes(&cell, &commit(inline("new"))), Some(3));
    assert_eq!(sizes(&cell, &commit(hot(2, 600))), Some(3));
    assert_eq!(sizes(&cell, &commit(NewContent::Chunks { size: 7, changed: vec![] })), Some(3));
    let Op::Commit(other) = commit(inline("new")) else { panic!("a commit") };
    let other = Commit { expect_cver: Some(sitefs_base::Seq::new(1)), ..other };
    assert_eq!(sizes(&cell, &Op::Commit(other)), None, "it will be refused");
    assert_eq!(sizes(&cell, &resize(file, 1100 * CHUNK_SIZE)), None, "948 rows are few");
    assert_eq!(sizes(&cell, &resize(file, 1 << 43)), None, "it grows");
    assert_eq!(sizes(&cell, &Op::Unlink { at: root("large") }), None);
    let by_name = cell.new_file(root("large"), Some(inline("new")), false);
    assert_eq!(sizes(&cell, &Op::Commit(by_name)), Some(3), "the name leads to it");
}
