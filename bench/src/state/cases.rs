//! The cases, in an order in which each finds the files that it needs.

use super::{
    Measured, cell,
    cell::{Cell, FILE_LEN, made, unexpected},
    cpu, mark, micros, note,
};
use crate::say;
use bytes::Bytes;
use rustix::time::ClockId::{ProcessCPUTime, ThreadCPUTime};
use sitefs_base::{
    Content, Digest, Error, Extent, InodeId, Name, Result, SnapshotName,
    limits::{CHUNK_SIZE, COMMIT_CHUNKS_MAX},
    op::*,
};
use sitefs_metadata::state::{self, CommandBody};
use std::{fs, path::Path, time::Duration};

/// Files per directory, but for the large one.
const PER_DIRECTORY: u64 = 1_000;
/// A blob that fills a chunk.
const CHUNK: u32 = CHUNK_SIZE as u32;
/// Listings of which the median is taken.
const LISTINGS: usize = 101;
/// Blobs that one grant asks for.
const GRANTED: u64 = 1_000;

/// The tree so far, and chance from a fixed seed.
struct Tree {
    cell: Cell,
    directories: Vec<InodeId>,
    files: u64,
    random: u64,
}

pub(super) fn run(dir: &Path, million: u64) -> Result<Vec<Measured>> {
    let mut found = Vec::new();
    let mut tree = Tree { cell: Cell::new(dir)?, directories: Vec::new(), files: 0, random: 1 };
    say(&format!("making {million} files"));
    tree.grow(million * 3 / 10)?;
    disk(&mut found, &tree, dir)?;
    tree.grow(million * 6 / 10)?;
    creates(&mut found, &mut tree, million / 10)?;
    disk(&mut found, &tree, dir)?;
    overwrites(&mut found, &mut tree, million / 10)?;
    lookups(&mut found, &mut tree, million / 10)?;
    // Some names more than a round number: so many that nothing was flushed since they were deleted.
    churn(&mut found, &mut tree, million / 5 + 400)?;
    snapshots(&mut found, &mut tree, million)?;
    super::check::checked(&mut found, &tree.cell)?;
    appends(&mut found, &mut tree)?;
    large_directory(&mut found, &mut tree, million)?;
    let history =
        format!("with the history of {} overwritten and {} removed ones", million / 10, million / 5);
    note(&mut found, disk_of(&tree, &history), "bytes", per_file(&tree, dir)?, None);
    mark::measure(&mut found, &tree.cell)?;
    tree.cell.forget_history()?;
    disk(&mut found, &tree, dir)?;
    // Its history is no part of what files take.
    large_file(&mut found, &mut tree, million)?;
    Ok(found)
}

impl Tree {
    fn random(&mut self, below: u64) -> u64 {
        // Knuth's MMIX generator; its high bits are good enough to pick files.
        self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.random >> 33) % below
    }

    fn digest(&mut self) -> Digest {
        let mut raw = [0; 64];
        for part in raw.chunks_exact_mut(4) {
            let bits = self.random(1 << 31) as u32 ^ (self.random as u32 >> 5);
            part.copy_from_slice(&bits.to_be_bytes());
        }
        Digest::new(raw)
    }

    /// Grants for new blobs.
    fn uploads(&mut self, count: u64) -> Result<Vec<Uploaded>> {
        let mut uploads = Vec::new();
        while (uploads.len() as u64) < count {
            let missing = GRANTED.min(count - uploads.len() as u64);
            let digests: Vec<Digest> = (0..missing).map(|_| self.digest()).collect();
            uploads.extend(self.cell.upload(&digests)?);
        }
        Ok(uploads)
    }

    /// Makes files until there are `more`, with everything that belongs to one.
    fn grow(&mut self, more: u64) -> Result<()> {
        let mut left = more;
        while left > 0 {
            let uploads = self.uploads(GRANTED.min(left))?;
            for upload in &uploads {
                self.create(upload)?;
                self.cell.verified(upload)?;
            }
            left -= uploads.len() as u64;
        }
        self.cell.rest()
    }

    fn create(&mut self, upload: &Uploaded) -> Result<()> {
        if self.files.is_multiple_of(PER_DIRECTORY) {
            let name = format!("directory-{:06}", self.directories.len());
            self.directories.push(self.cell.mkdir(place(InodeId::ROOT, &name)?)?);
        }
        let at = self.place(self.files)?;
        self.files += 1;
        self.publish(at, upload)
    }

    fn publish(&mut self, at: Place, upload: &Uploaded) -> Result<()> {
        let ino = self.cell.number()?;
        let link = Some(Publish { at, exclusive: false });
        self.commit(Commit { link, create: Some(cell::owner()), ..blob(ino, upload) })
    }

    fn commit(&mut self, commit: Commit) -> Result<()> {
        made(self.cell.op(Op::Commit(commit))?).map(drop)
    }

    fn place(&self, file: u64) -> Result<Place> {
        let directory = self.directories.get((file / PER_DIRECTORY) as usize);
        place(*directory.ok_or_else(|| unexpected("a directory"))?, &format!("a-file-{file:010}.php"))
    }
}

fn place(parent: InodeId, name: &str) -> Result<Place> {
    Ok(Place { parent, name: Name::new(name.as_bytes())? })
}

/// The commit of a file that is one blob.
fn blob(ino: InodeId, upload: &Uploaded) -> Commit {
    let extent = Extent { offset: 0, len: FILE_LEN, digest: upload.digest, blob_offset: 0 };
    let changed = vec![ChunkLayout { chunk: 0, extents: vec![extent] }];
    Commit {
        ino,
        expect_cver: None,
        content: Some(NewContent::Chunks { size: u64::from(FILE_LEN), changed }),
        set: SetAttr::default(),
        changed: None,
        create: None,
        link: None,
        uploaded: vec![upload.clone()],
    }
}

fn small(ino: InodeId, at: Place) -> Commit {
    Commit {
        ino,
        expect_cver: None,
        content: Some(NewContent::Inline(vec![b'x'; 100].into())),
        set: SetAttr::default(),
        changed: None,
        create: Some(cell::owner()),
        link: Some(Publish { at, exclusive: false }),
        uploaded: Vec::new(),
    }
}

fn disk(found: &mut Vec<Measured>, tree: &Tree, dir: &Path) -> Result<()> {
    note(found, disk_of(tree, "without history"), "bytes", per_file(tree, dir)?, 200.0);
    Ok(())
}

fn disk_of(tree: &Tree, what: &str) -> String {
    format!("bytes on disk per file, {} files {what}", tree.files)
}

/// Bytes of all files of the database, once everything is compacted.
fn per_file(tree: &Tree, dir: &Path) -> Result<f64> {
    tree.cell.store.flush()?;
    tree.cell.store.compact_all()?;
    tree.cell.rest()?;
    let sizes = fs::read_dir(dir).and_then(|names| {
        names.map(|name| name.and_then(|name| name.metadata())).try_fold(0, |sum, meta| Ok(sum + meta?.len()))
    });
    let bytes = sizes.map_err(|error| Error::io("reading the size of the database", error))?;
    Ok(bytes as f64 / tree.files as f64)
}

fn creates(found: &mut Vec<Measured>, tree: &mut Tree, count: u64) -> Result<()> {
    let uploads = tree.uploads(count)?;
    tree.cell.rest()?;
    let ((), time) = cpu(ProcessCPUTime, || {
        uploads.iter().try_for_each(|upload| tree.create(upload))?;
        tree.cell.rest()
    })?;
    note(found, "create a file of one blob, flushed and compacted", "us", micros(time, count), 45.0);
    uploads.iter().try_for_each(|upload| tree.cell.verified(upload))
}

fn overwrites(found: &mut Vec<Measured>, tree: &mut Tree, count: u64) -> Result<()> {
    let uploads = tree.uploads(count)?;
    let reader = tree.cell.store.reader();
    let mut inodes = Vec::new();
    for _ in 0..count {
        let file = tree.random(tree.files);
        let AnswerBody::Inode(Some(inode)) =
            tree.cell.ask(&reader, &Query::Lookup { at: tree.place(file)? })?
        else {
            return Err(unexpected("a lookup"));
        };
        inodes.push(inode.attr.ino);
    }
    drop(reader);
    tree.cell.rest()?;
    let ((), time) = cpu(ProcessCPUTime, || {
        for (ino, upload) in inodes.iter().zip(&uploads) {
            tree.commit(blob(*ino, upload))?;
        }
        tree.cell.rest()
    })?;
    note(found, "overwrite a file, history kept, flushed and compacted", "us", micros(time, count), 45.0);
    uploads.iter().try_for_each(|upload| tree.cell.verified(upload))
}

fn lookups(found: &mut Vec<Measured>, tree: &mut Tree, count: u64) -> Result<()> {
    tree.cell.rest()?;
    let reader = tree.cell.store.reader();
    for (what, goal) in [("look up a name that exists", 12.0), ("look up a name that does not exist", 2.0)] {
        let exists = goal > 2.0;
        let mut places = Vec::new();
        for _ in 0..count {
            let file = tree.random(tree.files);
            let at = tree.place(file)?;
            places.push(if exists { at } else { place(at.parent, &format!("absent-{file:08}.php"))? });
        }
        // Once before, so that the caches hold what they can.
        for timed in [false, true] {
            let (hits, time) = cpu(ThreadCPUTime, || {
                let mut hits = 0;
                for at in &places {
                    let body = tree.cell.ask(&reader, &Query::Lookup { at: at.clone() })?;
                    hits += u64::from(matches!(body, AnswerBody::Inode(Some(_))));
                }
                Ok(hits)
            })?;
            if hits != if exists { count } else { 0 } {
                return Err(unexpected("a lookup"));
            }
            if timed {
                note(found, what, "us", micros(time, count), goal);
            }
        }
    }
    Ok(())
}

/// A directory that loses as many names as it gets, and keeps a thousand.
fn churn(found: &mut Vec<Measured>, tree: &mut Tree, count: u64) -> Result<()> {
    let kept = PER_DIRECTORY;
    let dir = tree.cell.mkdir(place(InodeId::ROOT, "churned")?)?;
    for file in 0..kept {
        let ino = tree.cell.number()?;
        tree.commit(small(ino, place(dir, &format!("kept-{file:06}"))?))?;
    }
    tree.cell.rest()?;
    list(tree, dir, kept)?;
    let quiet = list(tree, dir, kept)?.as_secs_f64() * 1e3;
    note(found, format!("list {kept} entries with their inodes, before any is removed"), "ms", quiet, 1.0);
    let mut worst = 0.0_f64;
    let (mut listing, mut listings) = (Duration::ZERO, 0_u32);
    let ((), time) = cpu(ProcessCPUTime, || {
        for round in 0..count {
            let at = place(dir, &format!("kept-{:06}-tmp-{round:08x}", tree.random(kept)))?;
            let ino = tree.cell.number()?;
            tree.commit(small(ino, at.clone()))?;
            tree.cell.op(Op::Unlink { at })?;
            if round % 97 == 96 || round + 1 == count {
                let took = list(tree, dir, kept)?;
                listing += took;
                listings += 1;
                worst = worst.max(took.as_secs_f64() * 1e3);
            }
        }
        Ok(())
    })?;
    note(
        found,
        "create and remove a small file (two mutations)",
        "us",
        micros(time.saturating_sub(listing), count),
        90.0,
    );
    let what = |which: &str| format!("list {kept} entries with their inodes, {which} {count} create+unlink");
    // As the churn left it: nothing is flushed in between.
    let mut after = (0..LISTINGS).map(|_| list(tree, dir, kept)).collect::<Result<Vec<_>>>()?;
    after.sort_unstable();
    let median = after.get(LISTINGS / 2).map_or(0.0, Duration::as_secs_f64) * 1e3;
    note(found, what("median after"), "ms", median, 1.0);
    // The processor's caches hold other things then, and flushes and compactions are under way.
    note(found, what("mean among"), "ms", listing.as_secs_f64() * 1e3 / f64::from(listings), None);
    note(found, what("worst among"), "ms", worst, None);
    tree.cell.rest()
}

fn list(tree: &Tree, dir: InodeId, expected: u64) -> Result<Duration> {
    let reader = tree.cell.store.reader();
    let question = Query::ReadDir { dir, after: None, limit: sitefs_base::limits::LISTING_PAGE };
    let (body, time) = cpu(ThreadCPUTime, || tree.cell.ask(&reader, &question))?;
    let AnswerBody::Entries { entries, complete: true, .. } = body else {
        return Err(unexpected("a listing"));
    };
    let whole = entries.iter().all(|entry| matches!(entry.inode.content, Content::Inline(_)));
    if entries.len() as u64 != expected || !whole {
        return Err(unexpected("a listing"));
    }
    Ok(time)
}

/// Snapshots of the volume and of one with a thousand files, in turns.
fn snapshots(found: &mut Vec<Measured>, tree: &mut Tree, million: u64) -> Result<()> {
    let large = tree.cell.volume;
    let small_one = tree.cell.new_volume("bench/small".parse()?)?;
    for file in 0..PER_DIRECTORY {
        let ino = tree.cell.number()?;
        tree.commit(small(ino, place(InodeId::ROOT, &format!("file-{file:06}"))?))?;
    }
    tree.cell.rest()?;
    let rounds = 200;
    let mut times = [Duration::ZERO; 2];
    for round in 0..rounds {
        let name: SnapshotName = format!("snapshot-{round}").parse()?;
        for side in [round % 2, 1 - round % 2] {
            let volume = [small_one, large][side as usize];
            let create = CommandBody::CreateSnapshot { volume, name: name.clone(), at: None };
            let (_, took) = cpu(ThreadCPUTime, || tree.cell.command(create))?;
            times[side as usize] += took;
            tree.cell.command(CommandBody::DeleteSnapshot { volume, name: name.clone() })?;
        }
    }
    tree.cell.return_to(large);
    let [small, large] = times.map(|time| time.as_secs_f64() * 1e3 / rounds as f64);
    note(found, format!("snapshot of a volume of {PER_DIRECTORY} files"), "ms", small, 5.0);
    note(found, format!("snapshot of a volume of {million} files"), "ms", large, 5.0);
    note(found, "the same, times that of the small one", "x", large / small, 1.1);
    Ok(())
}

/// Appends of a line to a log of 100 MiB, whose last chunk gets as many extents as merging lets stand.
fn appends(found: &mut Vec<Measured>, tree: &mut Tree) -> Result<()> {
    let (chunks, lines) = (25_u32, 100);
    let digests: Vec<Digest> = (0..chunks).map(|_| tree.digest()).collect();
    let uploaded = tree.cell.upload_of(&digests, CHUNK)?;
    let layout = |(chunk, upload): (u32, &Uploaded)| {
        let offset = u64::from(chunk) * CHUNK_SIZE;
        let extent = Extent { offset, len: CHUNK, digest: upload.digest, blob_offset: 0 };
        ChunkLayout { chunk, extents: vec![extent] }
    };
    let changed = (0..).zip(&uploaded).map(layout).collect();
    let content = NewContent::Chunks { size: u64::from(chunks) * CHUNK_SIZE, changed };
    let ino = tree.cell.number()?;
    let log = Commit { content: Some(content), uploaded, ..small(ino, place(InodeId::ROOT, "log")?) };
    tree.commit(log)?;
    let line = Bytes::from_static(&[b'x'; 200]);
    let ((), time) = cpu(ThreadCPUTime, || {
        (0..lines).try_for_each(|_| {
            let append = Op::Append { ino, bytes: line.clone(), changed: None, kill_setid: false };
            tree.cell.op(append).map(drop)
        })
    })?;
    note(found, "append 200 bytes to a file of 100 MiB", "us", micros(time, lines), 250.0);
    Ok(())
}

/// Emptying a file of a million chunks, as the leader does it: in steps, of which none holds up the cell.
fn large_file(found: &mut Vec<Measured>, tree: &mut Tree, million: u64) -> Result<()> {
    let ino = tree.cell.number()?;
    tree.commit(small(ino, place(InodeId::ROOT, "large-file")?))?;
    let upload = tree.uploads(1)?.remove(0);
    let each = COMMIT_CHUNKS_MAX as u64;
    let commits = million.div_ceil(each);
    for part in 0..commits {
        let layout = |chunk: u64| {
            let offset = chunk * CHUNK_SIZE;
            let extent = Extent { offset, len: FILE_LEN, digest: upload.digest, blob_offset: 0 };
            ChunkLayout { chunk: chunk as u32, extents: vec![extent] }
        };
        let changed = (part * each..(part + 1) * each).map(layout).collect();
        let content = NewContent::Chunks { size: (part + 1) * each * CHUNK_SIZE, changed };
        tree.commit(Commit { content: Some(content), ..blob(ino, &upload) })?;
    }
    tree.cell.rest()?;
    let empty = Op::SetAttr { ino, set: SetAttr { size: Some(0), ..SetAttr::default() } };
    let volume = tree.cell.volume;
    let (cuts, looking) = cpu(ThreadCPUTime, || state::cuts(&tree.cell.store.reader(), volume, &empty))?;
    let (mut longest, mut all) = (Duration::ZERO, looking);
    for size in cuts.ok_or_else(|| unexpected("a look at a large file"))?.sizes {
        let step = CommandBody::Shorten { volume, ino, size };
        let (_, took) = cpu(ThreadCPUTime, || tree.cell.command(step))?;
        (longest, all) = (longest.max(took), all + took);
    }
    tree.cell.op(empty)?;
    let chunks = commits * each;
    note(found, "longest command of emptying a large file", "ms", longest.as_secs_f64() * 1e3, 50.0);
    note(found, format!("emptying a file of {chunks} chunks"), "us/chunk", micros(all, chunks), 20.0);
    Ok(())
}

/// Creates in a directory of a million entries and in a new one, in turns.
fn large_directory(found: &mut Vec<Measured>, tree: &mut Tree, million: u64) -> Result<()> {
    let large = tree.cell.mkdir(place(InodeId::ROOT, "large")?)?;
    let mut made = 0;
    while made < million {
        for upload in tree.uploads(GRANTED.min(million - made))? {
            tree.publish(place(large, &format!("a-file-{made:010}.jpg"))?, &upload)?;
            tree.cell.verified(&upload)?;
            made += 1;
        }
    }
    tree.files += made;
    tree.cell.rest()?;
    let empty = tree.cell.mkdir(place(InodeId::ROOT, "empty")?)?;
    let rounds = 20;
    let each = (million / 1_000).max(10);
    let mut times = [Duration::ZERO; 2];
    for round in 0..rounds {
        for (dir, time) in [large, empty].into_iter().zip(&mut times) {
            let uploads = tree.uploads(each)?;
            let ((), took) = cpu(ThreadCPUTime, || {
                for (number, upload) in uploads.iter().enumerate() {
                    let random = tree.random(1 << 31);
                    tree.publish(place(dir, &format!("b-file-{random:010}-{round}-{number}"))?, upload)?;
                }
                Ok(())
            })?;
            *time += took;
            uploads.iter().try_for_each(|upload| tree.cell.verified(upload))?;
        }
    }
    tree.files += 2 * rounds * each;
    let [large, empty] = times.map(|time| micros(time, rounds * each));
    note(found, "create in an empty directory, this thread alone", "us", empty, 45.0);
    note(found, format!("create in a directory of {million} entries, times that"), "x", large / empty, 1.2);
    Ok(())
}
