//! What random histories and damaged rows once showed, as short as it could be made.

use crate::state::{
    Command, CommandBody, Family, Joined, MergeStep, Read, Reply, Restore, View, apply, as_of, growth_bound,
    keys, query,
    rows::{self, CountersRow, RestoreRow},
    tests::{
        harness::{Cell, ROOT, extent, inline, place, root},
        reap::{detach, reap},
        slices::Slices,
    },
};
use sitefs_base::{Errno, Kind, Name, Time, op::*};

/// The names of the root directory, read one at a time.
fn listed(read: &dyn Read, cell: &Cell) -> Vec<Name> {
    let mut found: Vec<Name> = Vec::new();
    while found.len() < 10 {
        let question = Query::ReadDir { dir: ROOT, after: found.last().cloned(), limit: 1 };
        match query(read, cell.volume, &question).unwrap().unwrap().body {
            AnswerBody::Entries { entries, complete, .. } => {
                found.extend(entries.into_iter().map(|entry| entry.name));
                if complete {
                    break;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    found
}

#[test]
fn a_listing_of_the_past_goes_on_behind_the_name_where_it_stopped() {
    let mut cell = Cell::new();
    for name in ["a", "b", "c"] {
        cell.file(root(name));
    }
    let (seq, then) = (cell.seq(), listed(&cell.view, &cell));
    cell.wait_a_second();
    for name in ["a", "b", "c"] {
        cell.done(Op::Unlink { at: root(name) });
    }
    assert_eq!(then.len(), 3);
    assert_eq!(listed(&as_of(&cell.view, cell.volume, seq).unwrap().unwrap(), &cell), then);
}

#[test]
fn damage_of_the_past_is_told_with_the_key_under_which_it_stands() {
    let mut cell = Cell::new();
    let file = cell.file(root("f"));
    let seq = cell.seq();
    cell.wait_a_second();
    cell.set(file, SetAttr { mode: Some(0o600), ..SetAttr::default() }).unwrap();
    let (key, value) = cell.view.rows(Family::InodeHistory).pop().unwrap();
    cell.view.put(Family::InodeHistory, &key, value[..value.len() - 1].to_vec());
    let past = as_of(&cell.view, cell.volume, seq).unwrap().unwrap();
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    for question in [Query::Inode { ino: file }, Query::Lookup { at: root("f") }] {
        let error = query(&past, cell.volume, &question).unwrap_err();
        assert_eq!(error.doing(), format!("the row {hex} of family ih cannot be decoded"));
    }
}

#[test]
fn a_counter_that_was_damaged_into_the_impossible_is_refused() {
    let mut cell = Cell::new();
    let row: CountersRow = rows::fetch(&cell.view, Family::Meta, keys::COUNTERS).unwrap().unwrap();
    let row = CountersRow { commands: u64::MAX, ..row };
    cell.view.put(Family::Meta, keys::COUNTERS, rows::encode(&row).unwrap());
    let command = Command { at: Time::new(2_000, 0), body: CommandBody::Noop };
    let error = apply(&mut cell.view, &command).unwrap_err();
    assert_eq!((error.kind(), error.doing()), (Kind::Corrupt, "the row 43 of family m cannot be decoded"));
}

#[test]
fn a_copy_into_content_in_the_row_may_grow_by_the_gap_before_it() {
    let mut cell = Cell::new();
    let (from, to) = (cell.write(root("f"), inline("0123456789")), cell.write(root("g"), inline("abcde")));
    let empty = cell.file(root("empty"));
    for (to, old) in [(to, 5), (empty, 0)] {
        let (from_offset, to_offset, expect_from_cver) = (0, 400, None);
        let copy = Op::CloneRange { from, from_offset, to, to_offset, len: 10, expect_from_cver };
        let bound = growth_bound(&cell.view, cell.volume, &copy).unwrap();
        let before = cell.usage().bytes_used;
        cell.op(copy).unwrap();
        assert_eq!((bound.bytes, cell.usage().bytes_used - before), (410 - old, 410 - old));
    }
}

#[test]
fn watchers_hear_that_a_directory_loses_subdirectories_while_it_is_removed_in_slices() {
    let mut cell = Cell::new();
    let dir = cell.mkdir(root("d"));
    for name in ["a", "b", "c"] {
        cell.mkdir(place(dir, name));
    }
    detach(&mut cell, "d");
    let _slices = Slices::of(2);
    cell.command(CommandBody::Reap { volume: cell.volume }).unwrap();
    assert_eq!(cell.attr(dir).nlink, 4);
    assert!(cell.event.as_ref().unwrap().changes.contains(&Change::Attr(dir)));
    reap(&mut cell);
}

#[test]
fn nothing_is_joined_in_a_volume_that_is_deleted_and_no_extents_without_bytes() {
    let mut cell = Cell::new();
    let (file, volume) = (cell.file(root("f")), cell.volume);
    let merge = |cell: &mut Cell, old| {
        let new = Joined::Hot { digest: sitefs_blobstore::hash(b""), bytes: Default::default() };
        cell.command(CommandBody::Merged { volume, step: MergeStep::Replace { ino: file, old, new } })
    };
    assert_eq!(merge(&mut cell, vec![extent(0, 0, 1); 2]), Err(Errno::EINVAL));
    assert_eq!(merge(&mut cell, vec![extent(u64::MAX, 1, 1); 2]), Err(Errno::EINVAL));
    cell.command(CommandBody::DeleteVolume { volume }).unwrap();
    let blob = BlobWanted { digest: sitefs_blobstore::hash(b"a"), len: 1 };
    let draw = CommandBody::Merged { volume, step: MergeStep::Upload { blob } };
    assert_eq!(cell.command(draw), Err(Errno::ESTALE));
}

#[test]
fn what_a_restore_has_counted_is_refused_when_it_is_impossible() {
    let mut cell = Cell::new();
    let (source, volume) = (cell.mkdir(root("d")), cell.volume);
    cell.write(place(source, "f"), inline("content"));
    let restore = Restore { seq: cell.seq(), source, to: root("copy") };
    let Ok(Reply::Restore(state)) = cell.command(CommandBody::StartRestore { volume, restore }) else {
        panic!("no restore")
    };
    let job = state.job.unwrap();
    let key = keys::restore(volume, job);
    let row: RestoreRow = rows::fetch(&cell.view, Family::Meta, &key).unwrap().unwrap();
    let damaged =
        [RestoreRow { entries: u64::MAX, ..row.clone() }, RestoreRow { bytes: u64::MAX, ..row.clone() }];
    for row in damaged {
        cell.view.put(Family::Meta, &key, rows::encode(&row).unwrap());
        let command = Command { at: Time::new(2_000, 0), body: CommandBody::StepRestore { volume, job } };
        assert_eq!(apply(&mut cell.view, &command).unwrap_err().kind(), Kind::Corrupt);
    }
}
