use super::{
    super::*,
    harness::*,
    invariants,
    reap::{large_file, reap},
};
use bytes::Bytes;
use sitefs_base::{Content, Errno, FileKind, InodeId, Seq, Time, VolumeId, limits::CHUNK_SIZE, op::*};
use std::collections::BTreeMap;

fn command(cell: &mut Cell, body: CommandBody) -> Result<RestoreState, Errno> {
    let reply = cell.command(body)?;
    invariants::check(&cell.view, cell.volume);
    match reply {
        Reply::Restore(state) => Ok(state),
        other => panic!("{other:?}"),
    }
}

fn start(cell: &mut Cell, seq: Seq, source: InodeId, to: Place) -> Result<RestoreState, Errno> {
    let restore = Restore { seq, source, to };
    command(cell, CommandBody::StartRestore { volume: cell.volume, restore })
}

fn end(cell: &mut Cell, job: InodeId, end: RestoreEnd) -> Result<RestoreState, Errno> {
    command(cell, CommandBody::EndRestore { volume: cell.volume, job, end })
}

/// Copies everything; gives how many steps it took.
fn copy(cell: &mut Cell, job: InodeId) -> Result<usize, Errno> {
    for steps in 1..1_000 {
        if !command(cell, CommandBody::StepRestore { volume: cell.volume, job })?.more {
            return Ok(steps);
        }
    }
    panic!("it never ends");
}

/// The whole of a restore; gives the inode under the name.
fn restore(cell: &mut Cell, seq: Seq, source: InodeId, to: Place) -> Result<InodeId, Errno> {
    if let Some(job) = start(cell, seq, source, to.clone())?.job {
        copy(cell, job)?;
        end(cell, job, RestoreEnd::Publish)?;
    }
    Ok(cell.lookup(to).unwrap())
}

/// What a program can see of a tree, but for inode numbers and the times that a restore moves on.
#[derive(PartialEq, Eq, Debug)]
struct Seen {
    kind: FileKind,
    mode: u16,
    owner: (u32, u32),
    nlink: u32,
    size: u64,
    allocated: u64,
    rdev: u32,
    mtime: Time,
    content: Content,
    chunks: Vec<ChunkLayout>,
    xattrs: Vec<(Bytes, Bytes)>,
    /// The first path under which a file of several names was seen.
    same_as: String,
}

fn tree(read: &dyn Read, volume: VolumeId, top: InodeId) -> BTreeMap<String, Seen> {
    let ask = |question: Query| query(read, volume, &question).unwrap().unwrap().body;
    let (mut seen, mut first) = (BTreeMap::new(), BTreeMap::new());
    let AnswerBody::Inode(Some(inode)) = ask(Query::Inode { ino: top }) else { panic!("no {top}") };
    let mut waiting = vec![(String::new(), inode)];
    while let Some((path, inode)) = waiting.pop() {
        let ino = inode.attr.ino;
        if inode.attr.kind == FileKind::Directory {
            let AnswerBody::Entries { entries, complete: true, .. } =
                ask(Query::ReadDir { dir: ino, after: None, limit: 1_000 })
            else {
                panic!("too many entries")
            };
            let path_of =
                |entry: &Entry| format!("{path}/{}", String::from_utf8_lossy(entry.name.as_bytes()));
            let mut entries: Vec<_> =
                entries.into_iter().map(|entry| (path_of(&entry), entry.inode)).collect();
            entries.reverse();
            waiting.extend(entries);
        }
        let AnswerBody::Xattrs(xattrs) = ask(Query::Xattrs { ino }) else { panic!("no attributes") };
        let AnswerBody::Chunks(chunks) = ask(Query::Chunks { ino, cver: None, first: 0, count: 1_024 }) else {
            panic!("no chunks")
        };
        let same_as = first.entry(ino).or_insert_with(|| path.clone()).clone();
        let attr = inode.attr;
        let row = Seen {
            kind: attr.kind,
            mode: attr.mode,
            owner: (attr.uid, attr.gid),
            nlink: attr.nlink,
            size: attr.size,
            allocated: attr.allocated,
            rdev: attr.rdev,
            mtime: attr.mtime,
            content: inode.content,
            chunks,
            xattrs,
            same_as,
        };
        seen.insert(path, row);
    }
    seen
}

fn tree_at(cell: &Cell, seq: Seq, top: InodeId) -> BTreeMap<String, Seen> {
    let past = as_of(&cell.view, cell.volume, seq).unwrap().unwrap();
    tree(&past, cell.volume, top)
}

fn set_xattr(cell: &mut Cell, ino: InodeId, name: &'static str, value: &'static [u8]) {
    let (name, value) = (Bytes::from_static(name.as_bytes()), Bytes::from_static(value));
    cell.op(Op::SetXattr { ino, name, value, mode: XattrMode::Any }).unwrap();
}

/// A directory with one of everything.
fn site(cell: &mut Cell) -> InodeId {
    let dir = cell.mkdir(root("site"));
    let sub = cell.mkdir(place(dir, "sub"));
    let deep = cell.mkdir(place(sub, "deep"));
    cell.mkdir(place(dir, "empty"));
    let linked = cell.write(place(dir, "linked"), inline("small"));
    for at in [place(sub, "other name"), place(deep, "third name")] {
        cell.done(Op::Link { ino: linked, at });
    }
    cell.write(place(sub, "hot"), hot(3, 4_000));
    cell.done(Op::Symlink { at: place(dir, "symlink"), target: "sub/hot".into(), create: by(0o777) });
    let kinds = [(FileKind::Fifo, 0), (FileKind::Socket, 0), (FileKind::CharDevice, 0x0103)];
    for (kind, rdev) in kinds {
        cell.done(Op::Mknod { at: place(deep, &format!("{kind:?}")), kind, rdev, create: by(0o644) });
    }
    set_xattr(cell, linked, "user.colour", b"green");
    set_xattr(cell, deep, "user.note", b"a directory has them too");
    let owner = SetAttr { uid: Some(77), gid: Some(88), mode: Some(0o640), ..SetAttr::default() };
    cell.set(linked, owner).unwrap();
    let old = SetAttr { mtime: Some(SetTime::At(Time::new(5, 5))), ..SetAttr::default() };
    cell.set(sub, old.clone()).unwrap();
    cell.set(linked, old).unwrap();
    dir
}

fn remove_all(cell: &mut Cell, dir: InodeId, at: Place) {
    for name in cell.names(dir) {
        let child = place(dir, &name);
        let ino = cell.lookup(child.clone()).unwrap();
        match cell.attr(ino).kind {
            FileKind::Directory => remove_all(cell, ino, child),
            _ => drop(cell.done(Op::Unlink { at: child })),
        }
    }
    cell.done(Op::Rmdir { at });
}

#[test]
fn a_removed_directory_comes_back_with_everything() {
    let mut cell = Cell::new();
    let dir = site(&mut cell);
    cell.wait_a_second();
    let (seq, usage) = (cell.seq(), cell.usage());
    let before = tree_at(&cell, seq, dir);
    remove_all(&mut cell, dir, root("site"));
    cell.wait_a_second();
    let back = restore(&mut cell, seq, dir, root("site")).unwrap();
    assert_ne!(back, dir);
    assert_eq!(tree(&cell.view, cell.volume, back), before);
    assert_eq!(cell.usage(), usage);
    assert_eq!(volume_info(&cell.view, cell.volume).unwrap().unwrap().pins, [], "the pin is released");
    reap(&mut cell);
    assert!(cell.view.rows(Family::Meta).iter().all(|(key, _)| !b"JKPZ".contains(&key[0])), "no row is left");
}

#[test]
fn what_is_there_now_is_replaced_and_goes() {
    let mut cell = Cell::new();
    let dir = site(&mut cell);
    cell.wait_a_second();
    let (seq, usage) = (cell.seq(), cell.usage());
    let before = tree_at(&cell, seq, dir);
    cell.file(place(dir, "new since"));
    cell.done(Op::Unlink { at: place(dir, "symlink") });
    let back = restore(&mut cell, seq, dir, root("site")).unwrap();
    assert_eq!(tree(&cell.view, cell.volume, back), before);
    reap(&mut cell);
    assert_eq!((cell.usage(), cell.inode(dir)), (usage, None));
}

#[test]
fn files_and_others_come_back_under_names_that_lead_elsewhere_now() {
    let mut cell = Cell::new();
    let file = cell.write(root("file"), hot(4, 2_000));
    let link = cell.done(Op::Symlink { at: root("link"), target: "file".into(), create: by(0o777) });
    let dir = cell.mkdir(root("dir"));
    let fifo = cell.done(Op::Mknod { at: root("fifo"), kind: FileKind::Fifo, rdev: 0, create: by(0o600) });
    cell.wait_a_second();
    let seq = cell.seq();
    let all = [("file", file), ("link", link), ("dir", dir), ("fifo", fifo)];
    let before: Vec<_> = all.iter().map(|(_, ino)| tree_at(&cell, seq, *ino)).collect();
    cell.done(Op::Unlink { at: root("file") });
    cell.mkdir(root("file"));
    cell.done(Op::Unlink { at: root("link") });
    cell.done(Op::Rmdir { at: root("dir") });
    cell.write(root("dir"), inline("a file now"));
    for ((name, source), before) in all.into_iter().zip(before) {
        let back = restore(&mut cell, seq, source, root(name)).unwrap();
        assert_eq!(tree(&cell.view, cell.volume, back), before, "{name}");
        assert_eq!(cell.attr(ROOT).nlink, 2 + subdirs(&cell), "{name}");
    }
    reap(&mut cell);
}

fn subdirs(cell: &Cell) -> u32 {
    let is_dir = |name: &String| {
        let ino = cell.lookup(root(name)).unwrap();
        cell.attr(ino).kind == FileKind::Directory
    };
    cell.names(ROOT).iter().filter(|name| is_dir(name)).count() as u32
}

#[test]
fn a_file_in_its_place_gets_content_attributes_and_xattrs_back_as_a_new_version() {
    let mut cell = Cell::new();
    let file = cell.write(root("f"), hot(3, 2_000));
    cell.done(Op::Link { ino: file, at: root("second name") });
    set_xattr(&mut cell, file, "user.a", b"old");
    set_xattr(&mut cell, file, "user.b", b"kept");
    cell.wait_a_second();
    let seq = cell.seq();
    let before = tree_at(&cell, seq, file);
    cell.op(Op::Commit(content(file, inline("overwritten")))).unwrap();
    set_xattr(&mut cell, file, "user.a", b"new");
    set_xattr(&mut cell, file, "user.c", b"added");
    cell.op(Op::RemoveXattr { ino: file, name: "user.b".into() }).unwrap();
    cell.set(file, SetAttr { mode: Some(0o600), uid: Some(9), ..SetAttr::default() }).unwrap();
    let cver = cell.attr(file).cver;
    let done = start(&mut cell, seq, file, root("f")).unwrap();
    assert_eq!((done.job, done.entries, done.bytes), (None, 1, 2_000));
    let event = cell.event.clone().unwrap();
    assert!(event.changes.contains(&Change::Content(file)) && event.changes.contains(&Change::Xattr(file)));
    assert_eq!(tree(&cell.view, cell.volume, file), before);
    assert!(cell.attr(file).cver > cver);
    let stale = Commit { expect_cver: Some(cver), ..content(file, inline("late")) };
    assert_eq!(cell.refused(Op::Commit(stale)), Errno::ESTALE);
}

#[test]
fn a_chunked_file_comes_back_in_place_and_as_a_new_one() {
    let mut cell = Cell::new();
    let file = large_file(&mut cell, "large", 900);
    cell.wait_a_second();
    let seq = cell.seq();
    let before = tree_at(&cell, seq, file);
    let truncate = SetAttr { size: Some(CHUNK_SIZE + 5), ..SetAttr::default() };
    let envelope = cell.envelope(Op::SetAttr { ino: file, set: truncate });
    cell.send(envelope).unwrap();
    assert_eq!(restore(&mut cell, seq, file, root("large")), Ok(file));
    assert_eq!(tree(&cell.view, cell.volume, file), before);
    cell.done(Op::Unlink { at: root("large") });
    let back = restore(&mut cell, seq, file, root("large")).unwrap();
    assert_eq!(tree(&cell.view, cell.volume, back), before);
    assert_eq!(cell.usage().bytes_used, 900 * CHUNK_SIZE);
}

#[test]
fn a_file_too_large_for_one_command_is_copied_in_slices_and_takes_the_name() {
    let mut cell = Cell::new();
    let file = large_file(&mut cell, "large", 2_500);
    cell.wait_a_second();
    let seq = cell.seq();
    cell.file(root("other"));
    let job = start(&mut cell, seq, file, root("large")).unwrap().job.unwrap();
    assert_eq!(end(&mut cell, job, RestoreEnd::Publish), Err(Errno::EBUSY), "it is not whole");
    assert_eq!(copy(&mut cell, job), Ok(3));
    end(&mut cell, job, RestoreEnd::Publish).unwrap();
    assert_eq!(cell.lookup(root("large")), Some(job));
    reap(&mut cell);
    assert_eq!(cell.view.rows(Family::Chunk).len(), 2_500);
    assert_eq!(cell.usage().bytes_used, 2_500 * CHUNK_SIZE);
}

#[test]
fn a_large_directory_is_copied_in_slices() {
    let mut cell = Cell::new();
    let dir = cell.mkdir(root("d"));
    for file in 0..900 {
        let at = place(dir, &format!("f{file:03}"));
        let create = by(0o644);
        let envelope = cell.envelope(Op::Mknod { at, kind: FileKind::File, rdev: 0, create });
        cell.send(envelope).unwrap();
    }
    cell.wait_a_second();
    let seq = cell.seq();
    let before = tree_at(&cell, seq, dir);
    cell.file(root("later"));
    let job = start(&mut cell, seq, dir, root("copy")).unwrap().job.unwrap();
    let steps = copy(&mut cell, job).unwrap();
    assert!((3..=4).contains(&steps), "{steps}");
    let done = end(&mut cell, job, RestoreEnd::Publish).unwrap();
    assert_eq!((done.entries, done.job), (901, None));
    assert_eq!(tree(&cell.view, cell.volume, job), before);
}

#[test]
fn the_moment_stays_readable_while_its_restore_is_under_way() {
    let mut cell = Cell::new();
    let dir = site(&mut cell);
    cell.wait_a_second();
    let seq = cell.seq();
    let before = tree_at(&cell, seq, dir);
    remove_all(&mut cell, dir, root("site"));
    let job = start(&mut cell, seq, dir, root("site")).unwrap().job.unwrap();
    cell.wait_a_second();
    cell.file(root("other"));
    cell.wait_a_second();
    let (volume, before_time) = (cell.volume, cell.now);
    cell.command(CommandBody::MoveHorizon { volume, before: before_time }).unwrap();
    assert!(volume_info(&cell.view, volume).unwrap().unwrap().horizon > seq);
    copy(&mut cell, job).unwrap();
    end(&mut cell, job, RestoreEnd::Publish).unwrap();
    assert_eq!(tree(&cell.view, volume, job), before);
    assert_eq!(start(&mut cell, seq, dir, root("site")), Err(Errno::ESTALE), "nobody pins it any more");
}

#[test]
fn an_abandoned_restore_leaves_nothing() {
    let mut cell = Cell::new();
    let dir = site(&mut cell);
    let file = cell.write(root("single"), hot(5, 3_000));
    cell.wait_a_second();
    let (seq, usage) = (cell.seq(), cell.usage());
    cell.file(root("x"));
    cell.done(Op::Unlink { at: root("x") });
    for (source, name) in [(dir, "copy"), (file, "copied")] {
        let job = start(&mut cell, seq, source, root(name)).unwrap().job.unwrap();
        let volume = cell.volume;
        command(&mut cell, CommandBody::StepRestore { volume, job }).unwrap();
        assert_eq!(restores(&cell.view, 10).unwrap().len(), 1);
        end(&mut cell, job, RestoreEnd::Abandon).unwrap();
        assert_eq!(restores(&cell.view, 10).unwrap(), []);
        assert_eq!(end(&mut cell, job, RestoreEnd::Publish), Err(Errno::ENOENT));
        reap(&mut cell);
        assert_eq!((cell.lookup(root(name)), cell.usage()), (None, usage));
    }
    assert_eq!(volume_info(&cell.view, cell.volume).unwrap().unwrap().pins, []);
}

#[test]
fn limits_hold_for_restores_and_the_copy_can_be_given_up() {
    let mut cell = Cell::new();
    let dir = cell.mkdir(root("d"));
    cell.write(place(dir, "f"), hot(3, 4_000));
    cell.wait_a_second();
    let seq = cell.seq();
    cell.done(Op::Unlink { at: place(dir, "f") });
    let bytes_limit = Some(3_999);
    let change = sitefs_base::VolumeChange { bytes_limit, ..Default::default() };
    cell.command(CommandBody::SetVolume { volume: cell.volume, change }).unwrap();
    let usage = cell.usage();
    let job = start(&mut cell, seq, dir, root("d")).unwrap().job.unwrap();
    assert!(matches!(copy(&mut cell, job), Err(Errno::EDQUOT)));
    end(&mut cell, job, RestoreEnd::Abandon).unwrap();
    reap(&mut cell);
    assert_eq!((cell.usage(), cell.lookup(root("d"))), (usage, Some(dir)));
}

#[test]
fn a_read_only_volume_can_be_restored() {
    let mut cell = Cell::new();
    let file = cell.write(root("f"), inline("old"));
    cell.wait_a_second();
    let seq = cell.seq();
    cell.op(Op::Commit(content(file, inline("new")))).unwrap();
    let access = Some(sitefs_base::VolumeAccess::ReadOnly("restoring".to_owned()));
    let change = sitefs_base::VolumeChange { access, ..Default::default() };
    cell.command(CommandBody::SetVolume { volume: cell.volume, change }).unwrap();
    restore(&mut cell, seq, file, root("f")).unwrap();
    assert_eq!(cell.inode(file).unwrap().content, Content::Inline("old".into()));
}

#[test]
fn restores_that_cannot_be_are_refused() {
    let mut cell = Cell::new();
    let dir = cell.mkdir(root("d"));
    let sub = cell.mkdir(place(dir, "sub"));
    cell.wait_a_second();
    let seq = cell.seq();
    let late = cell.file(root("late"));
    cell.file(root("later"));
    let cases = [
        (Seq::new(99), dir, root("d"), Errno::EINVAL),
        (Seq::new(1), dir, root("d"), Errno::ESTALE),
        (seq, late, root("late"), Errno::ENOENT),
        (seq, sub, place(InodeId::new(99), "sub"), Errno::ENOENT),
        (seq, sub, place(late, "sub"), Errno::ENOTDIR),
    ];
    for (seq, source, to, errno) in cases {
        assert_eq!(start(&mut cell, seq, source, to), Err(errno));
    }
    for body in [
        CommandBody::StepRestore { volume: cell.volume, job: dir },
        CommandBody::EndRestore { volume: cell.volume, job: dir, end: RestoreEnd::Publish },
    ] {
        assert_eq!(command(&mut cell, body), Err(Errno::ENOENT));
    }
    for n in 0..16 {
        start(&mut cell, seq, sub, root(&format!("copy{n}"))).unwrap();
    }
    assert_eq!(start(&mut cell, seq, sub, root("copy16")), Err(Errno::EBUSY));
}

#[test]
fn a_copy_is_not_put_where_nobody_would_find_it() {
    let mut cell = Cell::new();
    let dir = cell.mkdir(root("d"));
    let sub = cell.mkdir(place(dir, "sub"));
    let inner = cell.mkdir(place(sub, "inner"));
    cell.wait_a_second();
    let seq = cell.seq();
    cell.file(root("x"));
    let job = start(&mut cell, seq, inner, place(sub, "inner")).unwrap().job.unwrap();
    copy(&mut cell, job).unwrap();
    restore(&mut cell, seq, dir, root("d")).unwrap();
    assert_eq!(end(&mut cell, job, RestoreEnd::Publish), Err(Errno::ENOENT), "it would go with the old one");
    end(&mut cell, job, RestoreEnd::Abandon).unwrap();
    reap(&mut cell);
}

#[test]
fn blobs_that_come_back_are_referenced_again() {
    let mut cell = Cell::new();
    let file = cell.write(root("f"), hot(3, 4_000));
    cell.wait_a_second();
    let seq = cell.seq();
    cell.done(Op::Unlink { at: root("f") });
    let mark = |cell: &Cell| {
        let key = keys::blob(SITE, &digest(3));
        rows::fetch::<rows::BlobRow>(&cell.view, Family::Blob, &key).unwrap().unwrap().last_ref
    };
    let before = mark(&cell);
    restore(&mut cell, seq, file, root("f")).unwrap();
    assert!(mark(&cell).command > before.command);
    let key = keys::blob(SITE, &digest(3));
    cell.view.delete(Family::Blob, &key);
    let volume = cell.volume;
    let restore = Restore { seq, source: file, to: root("g") };
    assert_eq!(cell.command(CommandBody::StartRestore { volume, restore }), Err(Errno::EIO), "it is gone");
}
