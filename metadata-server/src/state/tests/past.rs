//! Reading the past: what [`as_of`] gives, and which moments lead where.

use super::{
    super::*,
    harness::*,
    history::{KINDS, Tree, has_history, tree_now},
};
use bytes::Bytes;
use sitefs_base::{Errno, InodeId, Moment, Name, Seq, Time, VolumeId, op::*};

impl Cell {
    /// The volume at a seq.
    pub fn past(&self, seq: Seq) -> Result<AsOf<'_>, Errno> {
        as_of(&self.view, self.volume, seq).unwrap()
    }

    pub fn refused_past(&self, seq: Seq) -> Errno {
        self.past(seq).map(|past| past.seq()).unwrap_err()
    }

    pub fn seq_of(&self, moment: &str) -> Result<Seq, Errno> {
        seq_at(&self.view, self.volume, &moment.parse().unwrap(), self.now).unwrap()
    }

    /// The seq when the second `secs` began.
    pub fn seq_when(&self, secs: i64) -> Result<Seq, Errno> {
        seq_at(&self.view, self.volume, &Moment::Time(Time::new(secs, 0)), self.now).unwrap()
    }
}

/// Every row with history that `read` shows of the volume, read in pages of `limit`.
fn tree_of(read: &dyn Read, volume: VolumeId, limit: usize) -> Tree {
    let mut tree = Tree::new();
    for (family, _) in KINDS {
        let mut from = volume.to_key().to_vec();
        loop {
            let page = read.scan(family, &volume.to_key(), &from, limit).unwrap();
            let full = page.len() == limit;
            assert!(page.len() <= limit && page.is_sorted());
            let Some((last, _)) = page.last().cloned() else { break };
            from = reads::after(&last);
            tree.extend(page.into_iter().map(|(key, value)| ((family, key), value)));
            if !full {
                break;
            }
        }
    }
    tree.retain(|(family, key), _| has_history(*family, key));
    tree
}

/// The past at `seq` is `tree`, whether it is scanned or asked for row by row.
pub fn expect_past(cell: &Cell, seq: Seq, tree: &Tree) {
    let past = cell.past(seq).unwrap();
    for limit in [1, 3, 1000] {
        assert_eq!(&tree_of(&past, cell.volume, limit), tree, "in pages of {limit}");
    }
    for (family, key) in tree_now(&cell.view).keys().chain(tree.keys()) {
        assert_eq!(past.get(*family, key).unwrap().as_ref(), tree.get(&(*family, key.clone())));
    }
}

fn ask(read: &dyn Read, volume: VolumeId, question: Query) -> Answer {
    query(read, volume, &question).unwrap().unwrap()
}

fn names(read: &dyn Read, volume: VolumeId, dir: InodeId, limit: u32) -> Vec<String> {
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let question = Query::ReadDir { dir, after: after.take(), limit };
        let AnswerBody::Entries { entries, complete, .. } = ask(read, volume, question).body else {
            panic!()
        };
        after = entries.last().map(|entry: &Entry| entry.name.clone());
        let text = |name: &Name| String::from_utf8(name.as_bytes().to_vec()).unwrap();
        names.extend(entries.iter().map(|entry| text(&entry.name)));
        if complete {
            return names;
        }
    }
}

fn xattr(ino: InodeId, name: &'static str, value: &'static str) -> Op {
    Op::SetXattr { ino, name: Bytes::from(name), value: Bytes::from(value), mode: XattrMode::Any }
}

#[test]
fn the_tree_at_the_end_of_every_second_is_there_in_full() {
    let mut cell = Cell::new();
    let dir = cell.mkdir(root("d"));
    let file = cell.write(place(dir, "f"), inline("one"));
    let mut seen = vec![(cell.seq(), tree_now(&cell.view))];
    let changes: [&dyn Fn(&mut Cell); 8] = [
        &|cell| {
            cell.op(Op::Commit(content(file, inline("two")))).unwrap();
        },
        &|cell| {
            cell.op(xattr(file, "user.a", "1")).unwrap();
        },
        &|cell| {
            cell.op(xattr(file, "user.a.b", "2")).unwrap();
        },
        &|cell| {
            cell.rename(place(dir, "f"), place(dir, "f\x01"), RenameMode::Replace).unwrap();
        },
        &|cell| {
            cell.write(place(dir, "f"), hot(7, 3000));
        },
        &|cell| {
            cell.done(Op::Unlink { at: place(dir, "f\x01") });
        },
        &|cell| {
            cell.rename(root("d"), root("e"), RenameMode::Replace).unwrap();
        },
        &|cell| {
            cell.done(Op::Unlink { at: place(dir, "f") });
        },
    ];
    for change in changes {
        cell.wait_a_second();
        change(&mut cell);
        seen.push((cell.seq(), tree_now(&cell.view)));
    }
    for (seq, tree) in &seen {
        expect_past(&cell, *seq, tree);
    }
}

#[test]
fn questions_about_the_past_are_answered_from_the_past() {
    let mut cell = Cell::new();
    let dir = cell.mkdir(root("d"));
    for name in ["a", "b", "c", "d"] {
        cell.write(place(dir, name), inline(name));
    }
    let file = cell.write(place(dir, "f"), inline("then"));
    cell.op(xattr(file, "user.a", "then")).unwrap();
    let (then, usage, attr) = (cell.seq(), cell.usage(), cell.attr(dir));
    cell.wait_a_second();
    cell.op(Op::Commit(content(file, hot(1, 1000)))).unwrap();
    cell.op(xattr(file, "user.a", "now")).unwrap();
    cell.done(Op::Unlink { at: place(dir, "b") });
    cell.write(place(dir, "bb"), inline("new"));
    cell.rename(root("d"), root("moved"), RenameMode::Replace).unwrap();

    let past = cell.past(then).unwrap();
    for limit in 1..7 {
        assert_eq!(names(&past, cell.volume, dir, limit), ["a", "b", "c", "d", "f"]);
    }
    let answer = ask(&past, cell.volume, Query::Lookup { at: root("d") });
    assert_eq!(answer.seq, then);
    let AnswerBody::Inode(Some(inode)) = answer.body else { panic!("{answer:?}") };
    assert_eq!(inode.attr, attr, "with the directory's times of then");
    let body = ask(&past, cell.volume, Query::Lookup { at: root("moved") }).body;
    assert_eq!(body, AnswerBody::Inode(None));
    let AnswerBody::Inode(Some(inode)) = ask(&past, cell.volume, Query::Inode { ino: file }).body else {
        panic!()
    };
    assert_eq!(inode.content, sitefs_base::Content::Inline("then".into()));
    let attributes = AnswerBody::Xattrs(vec![("user.a".into(), "then".into())]);
    assert_eq!(ask(&past, cell.volume, Query::Xattrs { ino: file }).body, attributes);
    assert_eq!(ask(&past, cell.volume, Query::Usage).body, AnswerBody::Usage(usage));
    assert_ne!(cell.usage(), usage);
}

#[test]
fn large_files_have_the_chunks_of_then() {
    let mut cell = Cell::new();
    let file = cell.file(root("f"));
    let uploads: Vec<_> = (1..=2).map(|of| cell.upload(of, 4 << 20)).collect();
    let layout = |chunk: u32, of| {
        let offset = u64::from(chunk) * (4 << 20);
        ChunkLayout { chunk, extents: vec![extent(offset, 4 << 20, of)] }
    };
    let write = |cell: &mut Cell, changed: Vec<ChunkLayout>, uploaded: &[Uploaded]| {
        let content = NewContent::Chunks { size: 6 * (4 << 20), changed };
        let commit = Commit { uploaded: uploaded.to_vec(), ..super::harness::content(file, content) };
        cell.op(Op::Commit(commit)).unwrap();
    };
    write(&mut cell, (0..6).map(|chunk| layout(chunk, 1)).collect(), &uploads[..1]);
    let then = cell.seq();
    cell.wait_a_second();
    write(&mut cell, vec![layout(2, 2)], &uploads[1..]);
    cell.set(file, SetAttr { size: Some(3 * (4 << 20)), ..SetAttr::default() }).unwrap();
    let past = cell.past(then).unwrap();
    let question = Query::Chunks { ino: file, cver: None, first: 1, count: 4 };
    let expected = AnswerBody::Chunks((1..5).map(|chunk| layout(chunk, 1)).collect());
    assert_eq!(ask(&past, cell.volume, question).body, expected);
}

#[test]
fn the_layout_of_a_file_that_is_gone_is_told_to_those_who_have_it_open() {
    let mut cell = Cell::new();
    let upload = cell.upload(1, 4 << 20);
    let of = |chunk: u32, of| {
        let offset = u64::from(chunk) * (4 << 20);
        ChunkLayout { chunk, extents: vec![extent(offset, 4 << 20, of)] }
    };
    let layout: Vec<ChunkLayout> = (0..6).map(|chunk| of(chunk, 1)).collect();
    // Changed in the second of its removal, or before.
    for is_old in [true, false] {
        let file = cell.file(root("f"));
        let content = NewContent::Chunks { size: 6 * (4 << 20), changed: layout.clone() };
        let uploaded = vec![upload.clone()];
        cell.op(Op::Commit(Commit { uploaded, ..super::harness::content(file, content) })).unwrap();
        let cver = cell.attr(file).cver;
        if is_old {
            cell.wait_a_second();
            cell.set(file, SetAttr { mode: Some(0o600), ..SetAttr::default() }).unwrap();
        }
        cell.op(Op::Unlink { at: root("f") }).unwrap();
        let ask = |cver| {
            let body = cell.query(Query::Chunks { ino: file, cver, first: 1, count: 4 })?.body;
            let AnswerBody::Chunks(chunks) = body else { panic!("{body:?}") };
            Ok(chunks)
        };
        assert_eq!(ask(None), Err(Errno::ESTALE));
        assert_eq!(ask(Some(cver.next())), Err(Errno::ESTALE));
        let expected = if is_old { Ok(layout[1..5].to_vec()) } else { Err(Errno::ESTALE) };
        assert_eq!(ask(Some(cver)), expected);
    }
}

#[test]
fn a_name_that_changed_hundreds_of_times_is_found_at_each() {
    let mut cell = Cell::new();
    cell.file(root("a"));
    cell.file(root("z"));
    let mut seen = Vec::new();
    for round in 0..300 {
        cell.wait_a_second();
        let file = cell.write(root("tmp"), inline("x"));
        cell.rename(root("tmp"), root("name"), RenameMode::Replace).unwrap();
        if round % 100 == 99 {
            seen.push((cell.seq(), file));
        }
    }
    for (seq, file) in seen {
        let past = cell.past(seq).unwrap();
        assert_eq!(names(&past, cell.volume, ROOT, 2), ["a", "name", "z"]);
        let body = ask(&past, cell.volume, Query::Lookup { at: root("name") }).body;
        let AnswerBody::Inode(Some(inode)) = body else { panic!("{body:?}") };
        assert_eq!(inode.attr.ino, file);
    }
}

#[test]
fn only_what_history_holds_exactly_can_be_read() {
    let mut cell = Cell::new();
    for name in ["a", "b", "c"] {
        cell.file(root(name));
        cell.file(root(&format!("{name}{name}")));
        cell.wait_a_second();
    }
    let exact: Vec<u64> = (0..=6).filter(|seq| cell.past(Seq::new(*seq)).is_ok()).collect();
    assert_eq!(exact, [2, 4, 6], "the ends of seconds, and now");
    assert_eq!(cell.refused_past(Seq::new(3)), Errno::ESTALE);
    assert_eq!(cell.refused_past(Seq::new(7)), Errno::EINVAL);
    let missing = as_of(&cell.view, VolumeId::new(9), Seq::ZERO).unwrap().map(|past| past.seq());
    assert_eq!(missing, Err(Errno::ESTALE));
}

#[test]
fn a_time_means_the_tree_when_that_second_began() {
    let mut cell = Cell::new(); // at 1000 s and some nanoseconds
    cell.file(root("a")); // seq 1 in second 1000
    cell.wait(std::time::Duration::from_secs(5));
    cell.file(root("b")); // seq 2 in second 1005
    cell.file(root("c"));
    assert_eq!(cell.seq_when(999), Err(Errno::ENOENT), "before the volume was made");
    assert_eq!(cell.seq_when(1000), Err(Errno::ENOENT), "it was made after that second began");
    for secs in 1001..=1005 {
        assert_eq!(cell.seq_when(secs), Ok(Seq::new(1)), "{secs}");
    }
    assert_eq!(cell.seq_when(1006), Err(Errno::EINVAL), "the future");
    cell.wait_a_second();
    assert_eq!(cell.seq_when(1006), Ok(Seq::new(3)));
    let nanos = |nanos| {
        let moment = Moment::Time(Time::new(1005, nanos));
        seq_at(&cell.view, cell.volume, &moment, cell.now).unwrap()
    };
    assert_eq!((nanos(1), nanos(999_999_999)), (Ok(Seq::new(1)), Ok(Seq::new(1))), "times are rounded down");
    cell.wait(std::time::Duration::from_secs(100_000));
    cell.file(root("d"));
    for (secs, seq) in [(1001, 1), (1005, 1), (1006, 3), (50_000, 3), (101_006, 3)] {
        assert_eq!(cell.seq_when(secs), Ok(Seq::new(seq)), "{secs}");
        cell.past(Seq::new(seq)).unwrap();
    }
}

#[test]
fn rows_without_history_are_those_of_now() {
    let mut cell = Cell::new();
    cell.file(root("a"));
    let then = cell.seq();
    cell.wait_a_second();
    cell.file(root("b"));
    let past = cell.past(then).unwrap();
    let seconds = keys::seconds(cell.volume);
    let read = |read: &dyn Read| read.scan(Family::Small, &seconds, &seconds, 10).unwrap();
    assert_eq!(read(&past), read(&cell.view));
    assert_eq!(read(&past).len(), 1);
    let name = keys::name("acme/live");
    assert_eq!(past.get(Family::Meta, &name).unwrap(), cell.view.get(Family::Meta, &name).unwrap());
    let all = |read: &dyn Read| read.scan(Family::Dentry, &[], &[], 10).unwrap();
    assert_eq!(all(&past), all(&cell.view), "a scan over all volumes has no seq");
}
