use super::{super::*, harness::*};
use sitefs_base::{Kind, Time, op::*};

/// Runs whatever reads rows; every error must be "corrupt".
fn read_everything(view: &MemoryView, cell: &Cell, ino: sitefs_base::InodeId) -> usize {
    let questions = [
        Query::Lookup { at: root("f") },
        Query::Inode { ino },
        Query::ReadDir { dir: ROOT, after: None, limit: 10 },
        Query::Chunks { ino, cver: None, first: 0, count: 10 },
        Query::Xattrs { ino },
        Query::Usage,
    ];
    let mut errors = Vec::new();
    for question in questions {
        errors.extend(query(view, cell.volume, &question).err());
    }
    errors.extend(locate(view, cell.volume, &[digest(1), digest(2)]).err());
    errors.extend(hot_blobs(view, None, 10).err());
    errors.extend(unverified(view, 10).err());
    errors.extend(volumes(view).err());
    errors.extend(group_info(view).err());
    errors.extend(last_at(view).err());
    errors.extend(session_info(view, cell.volume, SESSION).err());
    errors.extend(events_since(view, cell.volume, sitefs_base::Seq::ZERO, 10).err());
    for error in &errors {
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.doing().starts_with("the row "), "{error}");
    }
    errors.len()
}

#[test]
fn a_damaged_row_is_named_and_changes_nothing() {
    let mut cell = Cell::new();
    let dir = cell.mkdir(root("d"));
    let file = cell.write(place(dir, "x"), hot(1, 600));
    let name = bytes::Bytes::from_static(b"user.a");
    cell.op(Op::SetXattr { ino: file, name, value: "v".into(), mode: XattrMode::Any }).unwrap();
    cell.wait_a_second();
    cell.rename(place(dir, "x"), root("f"), RenameMode::Replace).unwrap();
    for family in Family::ALL {
        for (key, value) in cell.view.rows(family) {
            for damage in [vec![], vec![9; 9], value[..value.len() - 1].to_vec(), [&value[..], &[0]].concat()]
            {
                let mut view = cell.view.clone();
                view.put(family, &key, damage);
                read_everything(&view, &cell, file);
                let before = view.clone();
                let envelope = cell.envelope(Op::Unlink { at: root("f") });
                let body = CommandBody::Op { volume: cell.volume, envelope, credit: Credit::NONE };
                if let Err(error) = apply(&mut view, &Command { at: Time::new(5_000, 0), body }) {
                    assert_eq!((error.kind(), &view), (Kind::Corrupt, &before));
                }
            }
        }
    }
    let mut view = cell.view.clone();
    view.put(Family::Inode, &keys::inode(cell.volume, file), vec![]);
    assert!(read_everything(&view, &cell, file) >= 4);
}

#[test]
fn a_missing_row_is_named() {
    let mut cell = Cell::new();
    let file = cell.file(root("f"));
    cell.view.delete(Family::Inode, &keys::inode(cell.volume, file));
    let error = query(&cell.view, cell.volume, &Query::Lookup { at: root("f") }).unwrap_err();
    let hex = "00000000000000010000000000000002";
    assert_eq!(error.doing(), format!("the row {hex} of family i is missing, though a name leads to it"));
}
