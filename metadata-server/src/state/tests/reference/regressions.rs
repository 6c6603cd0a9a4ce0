//! What random histories and damaged rows once showed, as short as it could be made.

use crate::state::{
    Command, CommandBody, Family, Read, View, apply, as_of, keys, query,
    rows::{self, CountersRow},
    tests::harness::{Cell, ROOT, root},
};
use sitefs_base::{Kind, Name, Time, op::*};

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
