use super::harness::*;
use RenameMode::{Exchange, NoReplace, Replace};
use sitefs_base::{
    Errno, FileKind, InodeId, Time,
    limits::LINKS_MAX,
    op::{AnswerBody, Change, Op, Query, RenameMode},
};

#[test]
fn a_new_directory_has_two_links_and_adds_one_to_its_parent() {
    let mut cell = Cell::new();
    let before = cell.attr(ROOT);
    let outcome = cell.op(Op::Mkdir { at: root("d"), create: by(0o777) }).unwrap();
    let attr = cell.attr(outcome.ino.unwrap());
    assert_eq!((attr.nlink, attr.mode, attr.uid, attr.gid), (2, 0o755, 10, 20));
    let parent = cell.attr(ROOT);
    assert_eq!(parent.nlink, before.nlink + 1);
    assert!(parent.mtime > before.mtime && parent.mtime == parent.ctime && parent.mtime == cell.now);
    assert_eq!(outcome.attrs, [attr, parent]);
    let changes = &cell.event.as_ref().unwrap().changes;
    assert!(changes.contains(&Change::Name(root("d"))), "{changes:?}");
}

#[test]
fn existing_names_and_missing_directories_are_refused() {
    let mut cell = Cell::new();
    let file = cell.file(root("f"));
    let create = by(0o644);
    let fifo = |at| Op::Mknod { at, kind: FileKind::Fifo, rdev: 0, create: by(0o644) };
    assert_eq!(cell.refused(Op::Mkdir { at: root("f"), create: create.clone() }), Errno::EEXIST);
    assert_eq!(cell.refused(fifo(root("f"))), Errno::EEXIST);
    assert_eq!(cell.refused(fifo(place(file, "x"))), Errno::ENOTDIR);
    assert_eq!(cell.refused(fifo(place(InodeId::new(99), "x"))), Errno::ENOENT);
    assert_eq!(cell.refused(Op::Link { ino: file, at: root("f") }), Errno::EEXIST);
    let directory = Op::Mknod { at: root("n"), kind: FileKind::Directory, rdev: 0, create };
    assert_eq!(cell.refused(directory), Errno::EINVAL);
}

#[test]
fn symlinks_and_devices_keep_what_they_are_made_of() {
    let mut cell = Cell::new();
    let target = bytes::Bytes::from_static(b"../x");
    let link = cell.done(Op::Symlink { at: root("l"), target: target.clone(), create: by(0o600) });
    let inode = cell.inode(link).unwrap();
    assert_eq!((inode.attr.size, inode.attr.mode), (4, 0o777));
    assert_eq!(inode.content, sitefs_base::Content::Target(target));
    let device = Op::Mknod { at: root("c"), kind: FileKind::CharDevice, rdev: 259, create: by(0o600) };
    let device = cell.done(device);
    assert_eq!(cell.attr(device).rdev, 259);
    let empty = Op::Symlink { at: root("e"), target: bytes::Bytes::new(), create: by(0o600) };
    assert_eq!(cell.refused(empty), Errno::ENOENT);
}

#[test]
fn set_group_id_of_a_directory_is_handed_down() {
    let mut cell = Cell::new();
    let dir = cell.done(Op::Mkdir { at: root("d"), create: by(0o755) });
    let set = sitefs_base::op::SetAttr { mode: Some(0o2775), gid: Some(50), ..Default::default() };
    cell.set(dir, set).unwrap();
    let sub = cell.mkdir(place(dir, "sub"));
    let file = cell.file(place(dir, "file"));
    let written = cell.write(place(dir, "written"), inline("x"));
    assert_eq!((cell.attr(sub).gid, cell.attr(sub).mode), (50, 0o2755));
    assert_eq!((cell.attr(file).gid, cell.attr(file).mode), (50, 0o644));
    assert_eq!(cell.attr(written).gid, 50);
}

#[test]
fn links_count_up_and_down_and_the_last_name_takes_the_inode() {
    let mut cell = Cell::new();
    let file = cell.write(root("a"), inline("text"));
    let before = cell.attr(file);
    let dir = cell.mkdir(root("d"));
    cell.done(Op::Link { ino: file, at: place(dir, "b") });
    assert_eq!(cell.attr(file).nlink, 2);
    assert!(cell.attr(file).ctime > before.ctime && cell.attr(file).mtime == before.mtime);
    assert_eq!(cell.refused(Op::Link { ino: dir, at: root("no") }), Errno::EPERM);
    let linked = cell.attr(file);
    let outcome = cell.op(Op::Unlink { at: root("a") }).unwrap();
    assert!(outcome.attrs.contains(&cell.attr(file)) && cell.attr(file).ctime > linked.ctime);
    assert_eq!((cell.attr(file).nlink, cell.usage().bytes_used), (1, 4));
    let outcome = cell.op(Op::Unlink { at: place(dir, "b") }).unwrap();
    assert_eq!((outcome.attrs, outcome.ino), (vec![cell.attr(dir)], Some(file)));
    assert_eq!((cell.inode(file), cell.usage().bytes_used), (None, 0));
    assert_eq!(cell.refused(Op::Link { ino: file, at: root("c") }), Errno::ESTALE);
}

#[test]
fn too_many_links_are_refused() {
    let mut cell = Cell::new();
    let file = cell.file(root("f"));
    let mut node = crate::state::reads::node(&cell.view, cell.volume, file).unwrap().unwrap();
    node.row.nlink = LINKS_MAX;
    let key = crate::state::keys::inode(cell.volume, file);
    let value = crate::state::rows::encode(&node.row).unwrap();
    crate::state::View::put(&mut cell.view, crate::state::Family::Inode, &key, value);
    let envelope = cell.envelope(Op::Link { ino: file, at: root("g") });
    assert_eq!(cell.send(envelope).unwrap_err(), Errno::EMLINK);
}

#[test]
fn unlink_is_for_files_and_rmdir_for_empty_directories() {
    let mut cell = Cell::new();
    let dir = cell.mkdir(root("d"));
    cell.file(place(dir, "f"));
    assert_eq!(cell.refused(Op::Unlink { at: root("d") }), Errno::EISDIR);
    assert_eq!(cell.refused(Op::Unlink { at: root("none") }), Errno::ENOENT);
    assert_eq!(cell.refused(Op::Rmdir { at: root("none") }), Errno::ENOENT);
    assert_eq!(cell.refused(Op::Rmdir { at: root("d") }), Errno::ENOTEMPTY);
    assert_eq!(cell.refused(Op::Rmdir { at: place(dir, "f") }), Errno::ENOTDIR);
    cell.done(Op::Unlink { at: place(dir, "f") });
    cell.done(Op::Rmdir { at: root("d") });
    assert_eq!((cell.attr(ROOT).nlink, cell.inode(dir)), (2, None));
    assert_eq!(cell.refused(Op::Mkdir { at: place(dir, "x"), create: by(0o755) }), Errno::ENOENT);
}

#[test]
fn renaming_a_file_moves_its_ctime_and_both_directories() {
    let mut cell = Cell::new();
    let (from, to) = (cell.mkdir(root("from")), cell.mkdir(root("to")));
    let file = cell.write(place(from, "f"), inline("x"));
    let before = cell.attr(file);
    cell.wait_a_second();
    cell.rename(place(from, "f"), place(to, "g"), Replace).unwrap();
    assert_eq!((cell.lookup(place(from, "f")), cell.lookup(place(to, "g"))), (None, Some(file)));
    let after = cell.attr(file);
    assert_eq!((after.ctime, after.mtime, after.cver), (cell.now, before.mtime, before.cver));
    assert_eq!((cell.attr(from).mtime, cell.attr(to).ctime), (cell.now, cell.now));
}

#[test]
fn renaming_over_a_file_drops_one_of_its_names() {
    let mut cell = Cell::new();
    let (a, b) = (cell.file(root("a")), cell.file(root("b")));
    cell.done(Op::Link { ino: b, at: root("c") });
    assert_eq!(cell.rename(root("a"), root("b"), NoReplace), Err(Errno::EEXIST));
    let outcome = cell.rename(root("a"), root("b"), Replace).unwrap();
    assert!(outcome.attrs.contains(&cell.attr(b)), "the replaced target has another name");
    assert_eq!((cell.lookup(root("b")), cell.attr(b).nlink), (Some(a), 1));
    cell.rename(root("b"), root("c"), Replace).unwrap();
    assert_eq!((cell.inode(b), cell.names(ROOT)), (None, vec!["c".to_owned()]));
}

#[test]
fn renaming_to_another_name_of_the_same_inode_changes_nothing() {
    let mut cell = Cell::new();
    let file = cell.file(root("a"));
    cell.done(Op::Link { ino: file, at: root("b") });
    let (seq, attr) = (cell.seq(), cell.attr(file));
    assert_eq!(cell.rename(root("a"), root("b"), Replace).unwrap().seq, seq);
    assert_eq!(cell.rename(root("a"), root("a"), Replace).unwrap().ino, Some(file));
    assert_eq!((cell.seq(), cell.attr(file), cell.names(ROOT).len()), (seq, attr, 2));
}

#[test]
fn renaming_directories_obeys_kinds_and_emptiness() {
    let mut cell = Cell::new();
    let (a, b) = (cell.mkdir(root("a")), cell.mkdir(root("b")));
    cell.file(root("f"));
    cell.file(place(b, "x"));
    assert_eq!(cell.rename(root("a"), root("f"), Replace), Err(Errno::ENOTDIR));
    assert_eq!(cell.rename(root("f"), root("a"), Replace), Err(Errno::EISDIR));
    assert_eq!(cell.rename(root("a"), root("b"), Replace), Err(Errno::ENOTEMPTY));
    assert_eq!(cell.rename(root("none"), root("b"), Replace), Err(Errno::ENOENT));
    cell.rename(root("b"), root("a"), Replace).unwrap();
    assert_eq!((cell.lookup(root("a")), cell.inode(a), cell.attr(ROOT).nlink), (Some(b), None, 3));
}

#[test]
fn a_directory_cannot_move_below_itself() {
    let mut cell = Cell::new();
    let a = cell.mkdir(root("a"));
    let b = cell.mkdir(place(a, "b"));
    let c = cell.mkdir(place(b, "c"));
    for into in [a, b, c] {
        assert_eq!(cell.rename(root("a"), place(into, "x"), Replace), Err(Errno::EINVAL));
    }
    assert_eq!(cell.rename(root("a"), place(b, "c"), Exchange), Err(Errno::EINVAL));
    assert_eq!(cell.rename(place(b, "c"), root("a"), Exchange), Err(Errno::EINVAL));
    assert_eq!(cell.rename(place(b, "c"), root("a"), Replace), Err(Errno::ENOTEMPTY));
    cell.rename(place(b, "c"), root("c"), Replace).unwrap();
    assert_eq!((cell.attr(b).nlink, cell.attr(ROOT).nlink), (2, 4));
    cell.rename(root("a"), place(c, "a"), Replace).unwrap();
    match cell.query(Query::ReadDir { dir: a, after: None, limit: 9 }).unwrap().body {
        AnswerBody::Entries { parent, .. } => assert_eq!(parent, c),
        other => panic!("{other:?}"),
    }
}

#[test]
fn exchange_swaps_a_directory_and_a_file() {
    let mut cell = Cell::new();
    let (d, e) = (cell.mkdir(root("d")), cell.mkdir(root("e")));
    let file = cell.file(place(d, "f"));
    assert_eq!(cell.rename(root("e"), root("none"), Exchange), Err(Errno::ENOENT));
    cell.rename(root("e"), place(d, "f"), Exchange).unwrap();
    assert_eq!((cell.lookup(root("e")), cell.lookup(place(d, "f"))), (Some(file), Some(e)));
    assert_eq!((cell.attr(ROOT).nlink, cell.attr(d).nlink), (3, 3));
}

#[test]
fn a_listing_comes_in_pages_in_byte_order() {
    let mut cell = Cell::new();
    for name in ["b", "a", "c", "B"] {
        cell.file(root(name));
    }
    let list = |after: Option<&str>, limit| {
        let after = after.map(|name| root(name).name);
        match cell.query(Query::ReadDir { dir: ROOT, after, limit }).unwrap().body {
            AnswerBody::Entries { entries, complete, dir, parent } => {
                assert_eq!((dir.ino, parent), (ROOT, ROOT));
                let names: Vec<_> = entries.iter().map(|entry| format!("{:?}", entry.name)).collect();
                (names.join("").replace('"', ""), complete)
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(list(None, 2), ("Ba".into(), false));
    assert_eq!(list(Some("a"), 2), ("bc".into(), true));
    assert_eq!(list(Some("aa"), 9), ("bc".into(), true));
    assert_eq!(list(Some("c"), 9), ("".into(), true));
    let file = cell.lookup(root("a")).unwrap();
    assert_eq!(cell.query(Query::ReadDir { dir: file, after: None, limit: 1 }), Err(Errno::ENOTDIR));
    assert_eq!(cell.query(Query::Lookup { at: place(InodeId::new(99), "x") }), Err(Errno::ENOENT));
    assert_ne!(cell.attr(file).mtime, Time::EPOCH);
}

#[test]
fn the_inode_limit_refuses_new_inodes_but_not_removal() {
    let mut cell = Cell::with(crate::state::VolumeLimits { bytes: 1 << 30, inodes: 2 });
    cell.file(root("a"));
    let create = by(0o755);
    assert_eq!(cell.refused(Op::Mkdir { at: root("b"), create: create.clone() }), Errno::EDQUOT);
    cell.done(Op::Unlink { at: root("a") });
    cell.done(Op::Mkdir { at: root("b"), create });
    assert_eq!(cell.usage().inodes_used, 2);
}

#[test]
fn a_directory_is_not_moved_too_deep() {
    let mut cell = Cell::new();
    let mut deep = cell.mkdir(root("deep"));
    cell.mkdir(root("d"));
    for _ in 0..1 << 14 {
        let envelope = cell.envelope(Op::Mkdir { at: place(deep, "x"), create: by(0o755) });
        let body = crate::state::CommandBody::Op {
            volume: cell.volume,
            envelope,
            credit: sitefs_base::op::Credit::NONE,
        };
        let command = crate::state::Command { at: cell.now, body };
        let applied = crate::state::apply(&mut cell.view, &command).unwrap();
        match applied.reply.unwrap() {
            crate::state::Reply::Op(outcome) => deep = outcome.ino.unwrap(),
            other => panic!("{other:?}"),
        }
    }
    let (from, to, mode) = (root("d"), place(deep, "d"), Replace);
    let envelope = cell.envelope(Op::Rename { from, to, mode });
    assert_eq!(cell.send(envelope), Err(Errno::ELOOP));
}
