use super::{super::*, harness::*};
use proptest::prelude::*;
use sitefs_base::{
    Content, Errno, Extent, InodeId, Seq,
    limits::{CHUNK_EXTENTS_MAX, CHUNK_SIZE, FILE_MAX, HOT_MAX, INLINE_MAX},
    op::*,
};

fn clone(from: InodeId, from_offset: u64, to: InodeId, to_offset: u64, len: u64) -> Op {
    Op::CloneRange { from, from_offset, to, to_offset, len, expect_from_cver: None }
}

fn copied(result: OpResult) -> u64 {
    match result.unwrap().extra {
        Extra::Cloned { len } => len,
        other => panic!("{other:?}"),
    }
}

fn append(ino: InodeId, bytes: Vec<u8>) -> Op {
    Op::Append { ino, bytes: bytes.into(), changed: None, kill_setid: false }
}

fn blobs(cell: &Cell) -> usize {
    cell.view.rows(Family::Blob).len()
}

/// A file of chunks of different bytes.
fn large(cell: &mut Cell, name: &str, chunks: u32) -> InodeId {
    let ino = cell.file(root(name));
    let size = u64::from(chunks) * CHUNK_SIZE;
    let (changed, uploaded) = (0..chunks).map(|chunk| cell.chunk(chunk, chunk as u8 + 1)).unzip();
    let new = NewContent::Chunks { size, changed };
    cell.op(Op::Commit(Commit { uploaded, ..content(ino, new) })).unwrap();
    ino
}

#[test]
fn a_hole_splits_extents_and_moves_no_data() {
    let mut cell = Cell::new();
    let file = large(&mut cell, "f", 3);
    let (before, count) = (cell.content(file), blobs(&cell));
    let (offset, len) = (CHUNK_SIZE - 100, CHUNK_SIZE + 200);
    cell.op(Op::Punch { ino: file, offset, len }).unwrap();
    let mut expected = before;
    expected[offset as usize..(offset + len) as usize].fill(0);
    assert!(cell.content(file) == expected);
    let attr = cell.attr(file);
    assert_eq!((attr.size, attr.allocated), (3 * CHUNK_SIZE, 2 * CHUNK_SIZE - 200));
    assert_eq!((blobs(&cell), attr.cver), (count, cell.seq()));
    cell.op(Op::Punch { ino: file, offset: 0, len: 1 << 33 }).unwrap();
    assert_eq!((cell.attr(file).size, cell.attr(file).allocated), (3 * CHUNK_SIZE, 0));
    cell.set(file, SetAttr { size: Some(1 << 40), ..SetAttr::default() }).unwrap();
    let too_long = Op::Punch { ino: file, offset: 1, len: 1 << 32 };
    assert_eq!(cell.refused(too_long), Errno::EINVAL, "more chunks than one operation may change");
    cell.op(Op::Punch { ino: file, offset: 0, len: 1 << 32 }).unwrap();
}

#[test]
fn a_hole_in_inline_content_is_zeros_and_one_behind_the_end_nothing() {
    let mut cell = Cell::new();
    let (file, dir) = (cell.write(root("f"), inline("abcdef")), cell.mkdir(root("d")));
    cell.op(Op::Punch { ino: file, offset: 2, len: 2 }).unwrap();
    assert_eq!(cell.content(file), b"ab\0\0ef");
    cell.op(Op::Punch { ino: file, offset: 4, len: u64::MAX - 4 }).unwrap();
    assert_eq!(cell.content(file), b"ab\0\0\0\0");
    let seq = cell.seq();
    cell.op(Op::Punch { ino: file, offset: 6, len: 10 }).unwrap();
    assert_eq!(cell.seq(), seq);
    assert_eq!(cell.refused(Op::Punch { ino: file, offset: 0, len: 0 }), Errno::EINVAL);
    assert_eq!(cell.refused(Op::Punch { ino: file, offset: 9, len: u64::MAX }), Errno::EFBIG);
    assert_eq!(cell.refused(Op::Punch { ino: dir, offset: 0, len: 1 }), Errno::EISDIR);
}

#[test]
fn a_copy_shares_the_blobs() {
    let mut cell = Cell::new();
    let (from, to) = (large(&mut cell, "f", 3), cell.file(root("g")));
    let count = blobs(&cell);
    assert_eq!(copied(cell.op(clone(from, 0, to, 0, u64::MAX / 2))), 3 * CHUNK_SIZE);
    assert!(cell.content(to) == cell.content(from));
    assert_eq!(blobs(&cell), count);
    assert_eq!(cell.usage().bytes_used, 6 * CHUNK_SIZE, "a quota counts both");
    let found = cell.inode(to).unwrap().content;
    assert_eq!(found, cell.inode(from).unwrap().content);
    assert_eq!(cell.event.as_ref().unwrap().changes, [Change::Content(to)]);
}

#[test]
fn a_copy_in_pieces_has_the_extents_of_the_whole() {
    let mut cell = Cell::new();
    let (from, to) = (large(&mut cell, "f", 2), cell.file(root("g")));
    for at in (0..2 * CHUNK_SIZE).step_by(1 << 20) {
        assert_eq!(copied(cell.op(clone(from, at, to, at, 1 << 20))), 1 << 20);
    }
    assert_eq!(cell.inode(to).unwrap().content, cell.inode(from).unwrap().content);
}

#[test]
fn copies_within_a_file_may_not_overlap() {
    let mut cell = Cell::new();
    let file = cell.write(root("f"), inline("abcdef"));
    assert_eq!(cell.refused(clone(file, 0, file, 2, 3)), Errno::EINVAL);
    assert_eq!(copied(cell.op(clone(file, 0, file, 3, 3))), 3);
    assert_eq!(copied(cell.op(clone(file, 4, file, 0, 100))), 2, "the end of the source ends it");
    assert_eq!(cell.content(file), b"bccabc");
    assert_eq!(copied(cell.op(clone(file, 0, file, 600, 6))), 6);
    assert_eq!(cell.content(file).len(), 606);
    assert_eq!(cell.content(file)[600..], *b"bccabc");
}

#[test]
fn what_cannot_be_copied_is_refused() {
    let mut cell = Cell::new();
    let (file, dir) = (cell.write(root("f"), inline("abc")), cell.mkdir(root("d")));
    let other = cell.file(root("g"));
    assert_eq!(cell.refused(clone(dir, 0, other, 0, 1)), Errno::EISDIR);
    assert_eq!(cell.refused(clone(file, 0, dir, 0, 1)), Errno::EISDIR);
    assert_eq!(cell.refused(clone(InodeId::new(999), 0, other, 0, 1)), Errno::ESTALE);
    assert_eq!(cell.refused(clone(file, 0, other, FILE_MAX, 1)), Errno::EFBIG);
    assert_eq!(cell.refused(clone(file, u64::MAX, other, 0, 1)), Errno::EINVAL);
    assert_eq!(copied(cell.op(clone(file, 0, other, FILE_MAX - 2, 3))), 2);
    assert_eq!(copied(cell.op(clone(file, 3, other, 0, 1))), 0);
    let stale = Op::CloneRange {
        from: file,
        from_offset: 0,
        to: other,
        to_offset: 0,
        len: 1,
        expect_from_cver: Some(Seq::ZERO),
    };
    assert_eq!(cell.refused(stale), Errno::ESTALE);
}

#[test]
fn a_copy_that_would_crumble_a_chunk_is_left_to_the_caller() {
    let mut cell = Cell::new();
    let (log, to) = (cell.file(root("log")), cell.file(root("to")));
    for n in 0..=CHUNK_EXTENTS_MAX {
        cell.op(append(log, format!("{n:>600}").into_bytes())).unwrap();
    }
    assert_eq!(cell.refused(clone(log, 0, to, 0, 1 << 20)), Errno::EOPNOTSUPP);
    assert_eq!(copied(cell.op(clone(log, 0, to, 0, 600 * CHUNK_EXTENTS_MAX as u64))), 76_800);
}

#[test]
fn one_copy_changes_at_most_a_thousand_chunks() {
    let mut cell = Cell::new();
    let (from, to) = (cell.file(root("f")), cell.file(root("g")));
    cell.set(from, SetAttr { size: Some(1 << 40), ..SetAttr::default() }).unwrap();
    assert_eq!(copied(cell.op(clone(from, 0, to, 100, 1 << 40))), (1 << 32) - 100);
    assert_eq!(cell.attr(to).size, 1 << 32);
}

// ---- against a plain vector of bytes

const FILES: usize = 2;

#[derive(Clone, Debug)]
enum Step {
    Append { file: usize, len: usize },
    Truncate { file: usize, size: u64 },
    Punch { file: usize, offset: u64, len: u64 },
    Clone { from: usize, to: usize, from_offset: u64, to_offset: u64, len: u64 },
    Small { file: usize, len: usize },
    Chunk { file: usize, chunk: u32 },
    Merge { file: usize, chunk: u32 },
}

/// Offsets and lengths at which something may go wrong.
fn offset() -> BoxedStrategy<u64> {
    let near = |at: u64| (at.saturating_sub(300)..at + 300).boxed();
    prop_oneof![
        3 => near(0),
        2 => near(INLINE_MAX as u64),
        2 => 0..2 * HOT_MAX as u64,
        2 => near(CHUNK_SIZE),
        1 => near(2 * CHUNK_SIZE),
        1 => 0..2 * CHUNK_SIZE,
    ]
    .boxed()
}

fn step() -> BoxedStrategy<Step> {
    let file = || 0..FILES;
    prop_oneof![
        4 => (file(), 1..700usize).prop_map(|(file, len)| Step::Append { file, len }),
        1 => (file(), 1..=HOT_MAX).prop_map(|(file, len)| Step::Append { file, len }),
        2 => (file(), offset()).prop_map(|(file, size)| Step::Truncate { file, size }),
        2 => (file(), offset(), offset()).prop_map(|(file, offset, len)| Step::Punch { file, offset, len }),
        4 => (file(), file(), offset(), offset(), offset()).prop_map(
            |(from, to, from_offset, to_offset, len)| Step::Clone { from, to, from_offset, to_offset, len }
        ),
        1 => (file(), 0..2000usize).prop_map(|(file, len)| Step::Small { file, len }),
        1 => (file(), 0..2u32).prop_map(|(file, chunk)| Step::Chunk { file, chunk }),
        2 => (file(), 0..3u32).prop_map(|(file, chunk)| Step::Merge { file, chunk }),
    ]
    .boxed()
}

/// Bytes that say where they come from.
fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| ((seed * 31 + at * 7) % 251) as u8 + 1).collect()
}

struct Model {
    cell: Cell,
    files: Vec<(InodeId, Vec<u8>)>,
    steps: usize,
}

impl Model {
    fn new() -> Self {
        let mut cell = Cell::new();
        let files = (0..FILES).map(|n| (cell.file(root(&n.to_string())), Vec::new())).collect();
        Self { cell, files, steps: 0 }
    }

    fn run(&mut self, step: &Step) {
        self.steps += 1;
        match *step {
            Step::Append { file, len } => {
                let (ino, bytes) = &mut self.files[file];
                let new = pattern(self.steps, len);
                let outcome = self.cell.op(append(*ino, new.clone())).unwrap();
                assert_eq!(outcome.extra, Extra::Appended { offset: bytes.len() as u64 });
                bytes.extend(new);
            }
            Step::Truncate { file, size } => {
                let (ino, bytes) = &mut self.files[file];
                match self.cell.set(*ino, SetAttr { size: Some(size), ..SetAttr::default() }) {
                    Ok(_) => bytes.resize(size as usize, 0),
                    // Inline content that would outgrow its place is committed by the client.
                    Err(errno) => assert!(errno == Errno::EINVAL && size > INLINE_MAX as u64),
                }
            }
            Step::Punch { file, offset, len } => {
                let (ino, bytes) = &mut self.files[file];
                let punched = self.cell.op(Op::Punch { ino: *ino, offset, len });
                assert_eq!(punched.is_ok(), len > 0);
                let end = bytes.len().min((offset + len) as usize);
                bytes[(offset as usize).min(end)..end].fill(0);
            }
            Step::Clone { from, to, from_offset, to_offset, len } => {
                self.clone(from, to, from_offset, to_offset, len);
            }
            Step::Small { file, len } => {
                let new = pattern(self.steps, len);
                let (ino, bytes) = &mut self.files[file];
                self.cell.op(Op::Commit(content(*ino, whole(&new)))).unwrap();
                *bytes = new;
            }
            Step::Chunk { file, chunk } => self.write_chunk(file, chunk),
            Step::Merge { file, chunk } => self.merge(file, chunk),
        }
        for (ino, bytes) in &self.files {
            assert!(self.cell.content(*ino) == *bytes, "{ino} has other bytes after {step:?}");
        }
    }

    fn clone(&mut self, from: usize, to: usize, from_offset: u64, to_offset: u64, len: u64) {
        let source = self.files[from].1.clone();
        let start = source.len().min(from_offset as usize);
        let part = &source[start..source.len().min((from_offset + len) as usize)];
        let overlaps = from == to && from_offset.abs_diff(to_offset) < part.len() as u64;
        let (from, to_ino) = (self.files[from].0, self.files[to].0);
        match self.cell.op(clone(from, from_offset, to_ino, to_offset, len)) {
            Err(Errno::EINVAL) => assert!(overlaps),
            Err(errno) => assert_eq!(errno, Errno::EOPNOTSUPP),
            Ok(outcome) => {
                assert!(!overlaps && outcome.extra == Extra::Cloned { len: part.len() as u64 });
                if !part.is_empty() {
                    let (target, end) = (&mut self.files[to].1, to_offset as usize + part.len());
                    target.resize(target.len().max(end), 0);
                    target[to_offset as usize..end].copy_from_slice(part);
                }
            }
        }
    }

    /// A file that is inline counts as all chunks changed: such a commit would be another file.
    fn write_chunk(&mut self, file: usize, chunk: u32) {
        let (ino, bytes) = &mut self.files[file];
        if matches!(self.cell.inode(*ino).unwrap().content, Content::Inline(_)) {
            return;
        }
        let (layout, uploaded) = self.cell.chunk(chunk, self.steps as u8);
        let (start, end) = (chunk as usize * CHUNK_SIZE as usize, (chunk as usize + 1) * CHUNK_SIZE as usize);
        let size = bytes.len().max(end) as u64;
        let new = NewContent::Chunks { size, changed: vec![layout.clone()] };
        let commit = Commit { uploaded: vec![uploaded], ..content(*ino, new) };
        self.cell.op(Op::Commit(commit)).unwrap();
        bytes.resize(size as usize, 0);
        bytes[start..end].copy_from_slice(&self.cell.bytes_of(&layout.extents[0]));
    }

    /// Joins every run of a chunk that fits into a command.
    fn merge(&mut self, file: usize, chunk: u32) {
        let ino = self.files[file].0;
        let Some((extents, _)) = chunk_layout(&self.cell.view, self.cell.volume, ino, chunk).unwrap() else {
            return;
        };
        let (inode, seq) = (self.cell.inode(ino), self.cell.seq());
        for run in extents.chunk_by(|a, b| a.end() == b.offset) {
            let bytes: Vec<u8> = run.iter().flat_map(|extent| self.cell.bytes_of(extent)).collect();
            if run.len() < 2 || bytes.len() > HOT_MAX {
                continue;
            }
            let new = Joined::Hot { digest: sitefs_blobstore::hash(&bytes), bytes: bytes.into() };
            let step = MergeStep::Replace { ino, old: run.to_vec(), new };
            self.cell.command(CommandBody::Merged { volume: self.cell.volume, step }).unwrap();
        }
        assert_eq!((self.cell.inode(ino), self.cell.seq()), (inode, seq));
    }
}

fn whole(bytes: &[u8]) -> NewContent {
    let digest = sitefs_blobstore::hash(bytes);
    let bytes = bytes::Bytes::copy_from_slice(bytes);
    if bytes.len() <= INLINE_MAX { NewContent::Inline(bytes) } else { NewContent::Hot { digest, bytes } }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_file_has_the_bytes_that_were_put_into_it(steps in prop::collection::vec(step(), 1..25)) {
        let mut model = Model::new();
        for step in &steps {
            model.run(step);
        }
    }
}

#[test]
fn extents_resolve_to_their_bytes() {
    let mut cell = Cell::new();
    let log = cell.file(root("log"));
    cell.op(append(log, pattern(1, 600))).unwrap();
    let digest = sitefs_blobstore::hash(&pattern(1, 600));
    let extent = Extent { offset: 0, len: 5, digest, blob_offset: 3 };
    assert_eq!(cell.bytes_of(&extent), pattern(1, 600)[3..8]);
}
