use super::{super::*, harness::*};
use sitefs_base::{Errno, Seq, op::*};
use std::collections::BTreeMap;

pub const KINDS: [(Family, Family); 4] = [
    (Family::Dentry, Family::DentryHistory),
    (Family::Inode, Family::InodeHistory),
    (Family::Chunk, Family::ChunkHistory),
    (Family::Small, Family::SmallHistory),
];

/// Every row that has history, by family and key.
pub type Tree = BTreeMap<(Family, Vec<u8>), Vec<u8>>;

pub fn has_history(family: Family, key: &[u8]) -> bool {
    family != Family::Small || key[8] != b'T'
}

/// The tree as it is.
pub fn tree_now(view: &MemoryView) -> Tree {
    let of = |family| view.rows(family).into_iter().map(move |(key, value)| ((family, key), value));
    let rows = KINDS.into_iter().flat_map(|(current, _)| of(current));
    rows.filter(|((family, key), _)| has_history(*family, key)).collect()
}

/// The tree as it was at `seq`: rows that held then, current or superseded.
pub fn tree_at(view: &MemoryView, seq: Seq) -> Tree {
    let mut tree = tree_now(view);
    tree.retain(|(family, key), value| rows::born(*family, key, value).unwrap() <= seq);
    for (current, superseded) in KINDS {
        for (key, value) in view.rows(superseded) {
            if life_of(superseded, &key, &value).unwrap().holds(seq) {
                let mut plain = key[..key.len() - 8].to_vec();
                if current == Family::Dentry || (current == Family::Small && key[8] == b'X') {
                    assert_eq!(plain.pop(), Some(0));
                }
                let clash = tree.insert((current, plain), value);
                assert_eq!(clash, None, "only one row holds at a time");
            }
        }
    }
    tree
}

fn history_rows(cell: &Cell) -> usize {
    KINDS.iter().map(|(_, superseded)| cell.view.rows(*superseded).len()).sum()
}

#[test]
fn rows_that_lived_within_one_second_leave_no_history() {
    let mut cell = Cell::new();
    cell.file(root("first"));
    cell.wait_a_second();
    cell.file(root("second"));
    let kept = history_rows(&cell);
    cell.write(root("temp"), inline("x"));
    cell.rename(root("temp"), root("final"), RenameMode::Replace).unwrap();
    cell.done(Op::Unlink { at: root("final") });
    assert_eq!(history_rows(&cell), kept);
}

#[test]
fn every_second_can_be_seen_again() {
    let mut cell = Cell::new();
    let file = cell.write(root("f"), inline("one"));
    let name = bytes::Bytes::from_static(b"user.a");
    let set = |value: &'static str| {
        let value = value.into();
        Op::SetXattr { ino: file, name: name.clone(), value, mode: XattrMode::Any }
    };
    cell.op(set("1")).unwrap();
    let first = (cell.seq(), tree_now(&cell.view));
    cell.wait_a_second();
    cell.op(Op::Commit(content(file, inline("two")))).unwrap();
    cell.op(set("2")).unwrap();
    let second = (cell.seq(), tree_now(&cell.view));
    cell.wait_a_second();
    cell.rename(root("f"), root("g"), RenameMode::Replace).unwrap();
    cell.op(Op::RemoveXattr { ino: file, name }).unwrap();
    cell.done(Op::Unlink { at: root("g") });
    for (seq, tree) in [first, second] {
        assert_eq!(tree_at(&cell.view, seq), tree);
    }
}

#[test]
fn seconds_in_which_something_happened_are_listed() {
    let mut cell = Cell::new();
    cell.file(root("a"));
    cell.file(root("b"));
    cell.wait_a_second();
    cell.wait_a_second();
    assert_eq!(cell.refused(Op::Rmdir { at: root("a") }), Errno::ENOTDIR);
    cell.file(root("c"));
    let second = |secs| {
        let row = rows::fetch(&cell.view, Family::Small, &keys::second(cell.volume, secs)).unwrap();
        row.map(|row: rows::SecondRow| row.seq)
    };
    assert_eq!((second(1_000), second(1_001), second(1_002)), (Some(Seq::new(2)), None, None));
}

#[test]
fn a_pin_keeps_what_a_second_would_not() {
    let mut cell = Cell::new();
    cell.file(root("first"));
    cell.wait_a_second();
    let file = cell.write(root("f"), inline("pinned"));
    let name = "pin".parse().unwrap();
    cell.command(CommandBody::CreateSnapshot { volume: cell.volume, name, at: None }).unwrap();
    let pinned = (cell.seq(), tree_now(&cell.view));
    cell.op(Op::Commit(content(file, inline("after")))).unwrap();
    cell.done(Op::Unlink { at: root("f") });
    assert_eq!(tree_at(&cell.view, pinned.0), pinned.1);
}

#[test]
fn keep_means_after_the_horizon_or_pinned() {
    let life = |born, died| Life { born: Seq::new(born), died: Seq::new(died) };
    let pins = [Seq::new(3)];
    assert!(keep(life(5, 11), Seq::new(10), &[]) && !keep(life(5, 10), Seq::new(10), &[]));
    assert!(keep(life(3, 4), Seq::new(10), &pins) && keep(life(1, 9), Seq::new(10), &pins));
    assert!(!keep(life(1, 3), Seq::new(10), &pins) && !keep(life(4, 9), Seq::new(10), &pins));
}

#[test]
fn checksums_differ_with_rows_but_not_with_what_compaction_may_drop() {
    let mut cell = Cell::new();
    let file = cell.write(root("f"), inline("one"));
    cell.wait_a_second();
    cell.op(Op::Commit(content(file, inline("two")))).unwrap();
    let of = |view: &MemoryView| checksum(view, Family::InodeHistory).unwrap();
    let mut compacted = cell.view.clone();
    let (key, _) = compacted.rows(Family::InodeHistory)[0].clone();
    compacted.delete(Family::InodeHistory, &key);
    assert_ne!(of(&compacted), of(&cell.view));
    let volume_key = keys::volume(cell.volume);
    let row: rows::VolumeRow = rows::fetch(&cell.view, Family::Meta, &volume_key).unwrap().unwrap();
    let row = rows::encode(&rows::VolumeRow { horizon: row.seq, ..row }).unwrap();
    for view in [&mut compacted, &mut cell.view] {
        view.put(Family::Meta, &volume_key, row.clone());
    }
    assert_eq!(of(&compacted), of(&cell.view));
}
