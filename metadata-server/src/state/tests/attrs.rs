use super::harness::*;
use sitefs_base::{
    Attr, Content, Errno, Time,
    limits::FILE_MAX,
    op::{Change, Op, SetAttr, SetTime},
};

fn chown() -> SetAttr {
    SetAttr { uid: Some(5), ..Default::default() }
}

fn chmod(mode: u16) -> SetAttr {
    SetAttr { mode: Some(mode), ..Default::default() }
}

fn size(size: u64) -> SetAttr {
    SetAttr { size: Some(size), ..Default::default() }
}

fn attr_after(cell: &mut Cell, set: &[SetAttr]) -> Attr {
    let file = cell.file(root("f"));
    for set in set {
        cell.set(file, set.clone()).unwrap();
    }
    let attr = cell.attr(file);
    cell.done(Op::Unlink { at: root("f") });
    attr
}

#[test]
fn chown_clears_set_id_bits_of_files_but_keeps_mandatory_locking() {
    let mut cell = Cell::new();
    for (before, after) in [(0o6775, 0o775), (0o6765, 0o2765), (0o2750, 0o750), (0o4644, 0o644)] {
        let got = attr_after(&mut cell, &[chmod(before), chown()]).mode;

        assert_eq!(got, after, "{before:o}");
    }
    let kill = SetAttr { kill_setid: true, ..Default::default() };
    assert_eq!(attr_after(&mut cell, &[chmod(0o6755), kill]).mode, 0o755);
    let explicit = SetAttr { mode: Some(0o4755), ..chown() };
    assert_eq!(attr_after(&mut cell, &[explicit]).mode, 0o4755);
    let dir = cell.mkdir(root("d"));
    cell.set(dir, chmod(0o7777)).unwrap();
    cell.set(dir, chown()).unwrap();
    assert_eq!(cell.attr(dir).mode, 0o7777);
}

#[test]
fn times_are_set_exactly_now_or_as_written() {
    let mut cell = Cell::new();
    let file = cell.file(root("f"));
    let (old, future) = (Time::new(-5, 9), Time::new(9_000_000, 0));
    let set =
        SetAttr { atime: Some(SetTime::At(old)), mtime: Some(SetTime::At(future)), ..Default::default() };
    cell.set(file, set).unwrap();
    let attr = cell.attr(file);
    assert_eq!((attr.atime, attr.mtime, attr.ctime), (old, future, cell.now));
    let set =
        SetAttr { atime: Some(SetTime::Now), mtime: Some(SetTime::Written(future)), ..Default::default() };
    cell.set(file, set).unwrap();
    let attr = cell.attr(file);
    assert_eq!((attr.atime, attr.mtime), (cell.now, cell.now));
    let set = SetAttr { mtime: Some(SetTime::Written(old)), ..Default::default() };
    cell.set(ROOT, set).unwrap();
    assert_eq!((cell.attr(ROOT).mtime, cell.attr(ROOT).ctime), (old, cell.now));
}

#[test]
fn setting_nothing_changes_nothing() {
    let mut cell = Cell::new();
    let file = cell.file(root("f"));
    let (seq, attr) = (cell.seq(), cell.attr(file));
    let outcome = cell.set(file, SetAttr::default()).unwrap();
    assert_eq!((outcome.seq, outcome.attrs, cell.event.is_none()), (seq, vec![attr], true));
    assert_eq!(cell.set(sitefs_base::InodeId::new(77), chown()), Err(Errno::ESTALE));
}

#[test]
fn truncation_of_inline_content_cuts_and_fills_with_zeros() {
    let mut cell = Cell::new();
    let file = cell.write(root("f"), inline("hello"));
    let before = cell.attr(file);
    cell.set(file, size(2)).unwrap();
    assert_eq!(cell.inode(file).unwrap().content, Content::Inline("he".into()));
    assert!(cell.attr(file).cver > before.cver && cell.attr(file).mtime > before.mtime);
    assert!(cell.event.as_ref().unwrap().changes.contains(&Change::Content(file)));
    cell.set(file, size(4)).unwrap();
    assert_eq!(cell.inode(file).unwrap().content, Content::Inline("he\0\0".into()));
    assert_eq!(cell.set(file, size(513)), Err(Errno::EINVAL));
    cell.set(file, size(0)).unwrap();
    assert_eq!((cell.inode(file).unwrap().content, cell.usage().bytes_used), (Content::Empty, 0));
}

#[test]
fn growth_is_a_hole_and_has_a_limit() {
    let mut cell = Cell::new();
    let file = cell.file(root("f"));
    cell.set(file, size(FILE_MAX)).unwrap();
    let inode = cell.inode(file).unwrap();
    assert_eq!((inode.attr.size, inode.attr.allocated), (FILE_MAX, 0));
    assert_eq!(inode.content, Content::Extents(vec![]));
    assert_eq!(cell.set(file, size(FILE_MAX + 1)), Err(Errno::EFBIG));
    assert_eq!(cell.set(ROOT, size(0)), Err(Errno::EISDIR));
}

#[test]
fn truncation_to_the_same_size_moves_the_times_only() {
    let mut cell = Cell::new();
    let file = cell.write(root("f"), inline("hello"));
    let before = cell.attr(file);
    cell.set(file, size(5)).unwrap();
    let after = cell.attr(file);
    assert_eq!((after.cver, after.mtime, after.ctime), (before.cver, cell.now, cell.now));
}
