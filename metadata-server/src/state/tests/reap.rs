use super::{super::*, harness::*, history::tree_now, invariants};
use bytes::Bytes;
use sitefs_base::{
    Errno, InodeId, VolumeId,
    limits::{CHUNK_SIZE, COMMIT_CHUNKS_MAX},
    op::*,
};

/// Removes everything that awaits removal; gives how many slices it took.
pub fn reap(cell: &mut Cell) -> usize {
    for slices in 1.. {
        assert!(slices < 1_000, "it never ends");
        let volume = cell.volume;
        match cell.command(CommandBody::Reap { volume }).unwrap() {
            Reply::Reaped { more } => {
                if volume_info(&cell.view, volume).unwrap().is_some() {
                    invariants::check(&cell.view, volume);
                }
                if !more {
                    return slices;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    unreachable!()
}

/// Detaches a directory as a restore does that replaces it: by a copy of the empty directory `empty`.
pub fn detach(cell: &mut Cell, name: &str) {
    let source = cell.mkdir(root(&format!("{name}.empty")));
    let restore = Restore { seq: cell.seq(), source, to: root(name) };
    let volume = cell.volume;
    let Ok(Reply::Restore(RestoreState { job: Some(job), .. })) =
        cell.command(CommandBody::StartRestore { volume, restore })
    else {
        panic!("no restore")
    };
    cell.command(CommandBody::StepRestore { volume, job }).unwrap();
    cell.command(CommandBody::EndRestore { volume, job, end: RestoreEnd::Publish }).unwrap();
    invariants::check(&cell.view, volume);
}

/// A file of `chunks` chunks with a blob each.
pub fn large_file(cell: &mut Cell, name: &str, chunks: u32) -> InodeId {
    let upload = cell.upload(7, CHUNK_SIZE as u32);
    let layout = |chunk: u32| ChunkLayout {
        chunk,
        extents: vec![extent(u64::from(chunk) * CHUNK_SIZE, CHUNK_SIZE as u32, 7)],
    };
    let file = cell.file(root(name));
    let step = COMMIT_CHUNKS_MAX as u32;
    for first in (0..chunks).step_by(COMMIT_CHUNKS_MAX) {
        let end = chunks.min(first + step);
        let size = u64::from(end) * CHUNK_SIZE;
        let changed = (first..end).map(layout).collect();
        let mut commit = content(file, NewContent::Chunks { size, changed });
        commit.uploaded = vec![upload.clone()];
        let envelope = cell.envelope(Op::Commit(commit));
        cell.send(envelope).unwrap();
    }
    file
}

fn rows_of(cell: &Cell, family: Family) -> usize {
    cell.view.rows(family).len()
}

#[test]
fn a_large_file_frees_its_bytes_at_once_and_its_rows_in_slices() {
    let mut cell = Cell::new();
    let empty = cell.usage();
    large_file(&mut cell, "large", 2_500);
    assert_eq!(cell.usage().bytes_used, 2_500 * CHUNK_SIZE);
    let envelope = cell.envelope(Op::Unlink { at: root("large") });
    cell.send(envelope).unwrap();
    assert_eq!(cell.usage(), empty);
    assert_eq!(rows_of(&cell, Family::Chunk), 2_500);
    assert_eq!(volumes_to_reap(&cell.view, None, 10).unwrap(), [cell.volume]);
    assert_eq!(reap(&mut cell), 3);
    assert_eq!(rows_of(&cell, Family::Chunk), 0);
    assert_eq!(cell.usage(), empty);
    assert_eq!(volumes_to_reap(&cell.view, None, 10).unwrap(), []);
}

#[test]
fn a_file_of_a_thousand_chunks_goes_at_once() {
    let mut cell = Cell::new();
    large_file(&mut cell, "large", 1_000);
    let target = cell.file(root("small"));
    let envelope =
        cell.envelope(Op::Rename { from: root("small"), to: root("large"), mode: RenameMode::Replace });
    cell.send(envelope).unwrap();
    assert_eq!((cell.lookup(root("large")), rows_of(&cell, Family::Chunk)), (Some(target), 0));
    assert_eq!(volumes_to_reap(&cell.view, None, 10).unwrap(), []);
}

#[test]
fn a_large_file_stays_in_the_past() {
    let mut cell = Cell::new();
    let file = large_file(&mut cell, "large", 1_500);
    cell.wait_a_second();
    let seq = cell.seq();
    let envelope = cell.envelope(Op::Unlink { at: root("large") });
    cell.send(envelope).unwrap();
    reap(&mut cell);
    let past = as_of(&cell.view, cell.volume, seq).unwrap().unwrap();
    let question = Query::Chunks { ino: file, cver: None, first: 1_490, count: 1_000 };
    match query(&past, cell.volume, &question).unwrap().unwrap().body {
        AnswerBody::Chunks(chunks) => assert_eq!(chunks.len(), 10),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_number_whose_rows_await_removal_is_not_used_again() {
    let mut cell = Cell::new();
    let mut again = cell.new_file(root("large"), None, false);
    cell.done(Op::Commit(again.clone()));
    let ino = again.ino;
    let upload = cell.upload(7, CHUNK_SIZE as u32);
    let layout = |chunk: u32| ChunkLayout {
        chunk,
        extents: vec![extent(u64::from(chunk) * CHUNK_SIZE, CHUNK_SIZE as u32, 7)],
    };
    for range in [0..1_000, 1_000..1_001_u32] {
        let size = u64::from(range.end) * CHUNK_SIZE;
        let mut commit = content(ino, NewContent::Chunks { size, changed: range.map(layout).collect() });
        commit.uploaded = vec![upload.clone()];
        let envelope = cell.envelope(Op::Commit(commit));
        cell.send(envelope).unwrap();
    }
    let envelope = cell.envelope(Op::Unlink { at: root("large") });
    cell.send(envelope).unwrap();
    again.content = Some(inline("new"));
    let envelope = cell.envelope(Op::Commit(again));
    let outcome = cell.send(envelope).unwrap();
    assert_eq!(outcome.extra, Extra::Dropped);
    assert_eq!(cell.lookup(root("large")), None);
    reap(&mut cell);
}

#[test]
fn a_detached_tree_goes_in_slices_and_counts_are_right_after_each() {
    let mut cell = Cell::new();
    let dir = cell.mkdir(root("d"));
    for sub in 0..5 {
        let sub = cell.mkdir(place(dir, &format!("sub{sub}")));
        for file in 0..150 {
            let envelope = cell.envelope(Op::Mknod {
                at: place(sub, &format!("file{file}")),
                kind: sitefs_base::FileKind::File,
                rdev: 0,
                create: by(0o644),
            });
            cell.send(envelope).unwrap();
        }
    }
    let deep = cell.lookup(place(dir, "sub3")).unwrap();
    let name = Bytes::from_static(b"user.a");
    let set = Op::SetXattr { ino: deep, name: name.clone(), value: name, mode: XattrMode::Any };
    cell.op(set).unwrap();
    detach(&mut cell, "d");
    let slices = reap(&mut cell);
    assert!((3..10).contains(&slices), "{slices}");
    assert_eq!(cell.usage().inodes_used, 3, "the root and the two empty directories");
    assert_eq!(rows_of(&cell, Family::Dentry), 2);
    let left = tree_now(&cell.view);
    assert!(left.keys().all(|(_, key)| !key.ends_with(&deep.to_key())), "no row of a directory is left");
}

#[test]
fn a_file_with_a_name_outside_a_detached_tree_stays_and_loses_only_names() {
    let mut cell = Cell::new();
    let dir = cell.mkdir(root("d"));
    let file = cell.write(root("outside"), inline("kept"));
    for name in ["one", "two"] {
        cell.done(Op::Link { ino: file, at: place(dir, name) });
    }
    detach(&mut cell, "d");
    assert_eq!(cell.attr(file).nlink, 3);
    reap(&mut cell);
    assert_eq!(cell.attr(file).nlink, 1);
    assert_eq!(cell.lookup(root("outside")), Some(file));
}

#[test]
fn every_slice_that_changes_something_moves_the_seq_and_the_past_stays() {
    let mut cell = Cell::new();
    let dir = cell.mkdir(root("d"));
    for file in 0..400 {
        cell.file(place(dir, &format!("f{file}")));
    }
    cell.wait_a_second();
    let (seq, names) = (cell.seq(), cell.names(dir));
    detach(&mut cell, "d");
    let before = cell.seq();
    cell.command(CommandBody::Reap { volume: cell.volume }).unwrap();
    let event = cell.event.clone().unwrap();
    assert_eq!((event.seq, cell.seq()), (before.next(), before.next()));
    assert!(!event.changes.is_empty() && event.changes.len() <= 1_024);
    reap(&mut cell);
    let past = as_of(&cell.view, cell.volume, seq).unwrap().unwrap();
    let question = Query::ReadDir { dir, after: None, limit: 1_000 };
    match query(&past, cell.volume, &question).unwrap().unwrap().body {
        AnswerBody::Entries { entries, .. } => assert_eq!(entries.len(), names.len()),
        other => panic!("{other:?}"),
    }
    let seq = cell.seq();
    cell.command(CommandBody::Reap { volume: cell.volume }).unwrap();
    assert_eq!((cell.event.clone(), cell.seq()), (None, seq), "nothing to do is no mutation");
}

#[test]
fn nothing_new_comes_into_a_directory_without_a_name() {
    let mut cell = Cell::new();
    let dir = cell.mkdir(root("d"));
    let sub = cell.mkdir(place(dir, "sub"));
    let other = cell.mkdir(root("other"));
    let file = cell.file(root("f"));
    detach(&mut cell, "d");
    for op in [
        Op::Mkdir { at: place(dir, "new"), create: by(0o755) },
        Op::Link { ino: file, at: place(dir, "link") },
        Op::Rename { from: root("other"), to: place(sub, "other"), mode: RenameMode::Replace },
    ] {
        assert_eq!(cell.refused(op), Errno::ENOENT);
    }
    assert!(cell.inode(other).is_some());
    reap(&mut cell);
    assert_eq!((cell.inode(dir), cell.inode(sub)), (None, None));
}

#[test]
fn a_deleted_volume_leaves_nothing_but_history() {
    let mut cell = Cell::new();
    let others: Vec<usize> = Family::ALL.iter().map(|family| rows_of(&cell, *family)).collect();
    let limits = VolumeLimits { bytes: 1 << 40, inodes: 1 << 20 };
    let name = "acme/old".parse().unwrap();
    let made = cell.command(CommandBody::CreateVolume { name, limits, uid: 1, gid: 2, mode: 0o755 });
    assert_eq!(made, Ok(Reply::Volume(VolumeId::new(2))));
    let kept = cell.volume;
    cell.volume = VolumeId::new(2);
    cell.open(sitefs_base::SessionId::new(8));
    large_file(&mut cell, "large", 1_200);
    let dir = cell.mkdir(root("d"));
    for file in 0..300 {
        cell.file(place(dir, &format!("f{file}")));
    }
    cell.number();
    let (volume, name) = (cell.volume, "snap".parse().unwrap());
    cell.command(CommandBody::CreateSnapshot { volume, name, at: None }).unwrap();
    cell.command(CommandBody::DeleteVolume { volume }).unwrap();
    assert!(reap(&mut cell) > 2);
    assert_eq!(reap(&mut cell), 1, "there is nothing left to do");
    for (family, before) in Family::ALL.into_iter().zip(others) {
        let own = |row: &&Row| row.0.starts_with(&volume.to_key());
        let mut rows = cell.view.rows(family);
        // The site's, like the rows of its blobs.
        rows.retain(|(key, _)| family != Family::Meta || !key.starts_with(keys::UNVERIFIED));
        match family {
            Family::Blob | Family::Hot => {}
            Family::DentryHistory | Family::InodeHistory | Family::ChunkHistory | Family::SmallHistory => {
                assert_eq!(
                    checksum(&cell.view, family).unwrap(),
                    checksum(&MemoryView::new(), family).unwrap()
                );
            }
            _ => assert_eq!((rows.len(), rows.iter().filter(own).count()), (before, 0), "{}", family.name()),
        }
    }
    cell.volume = kept;
    cell.open(SESSION);
    cell.file(root("still here"));
}

#[test]
fn volumes_are_reaped_in_turns() {
    let mut cell = Cell::new();
    let limits = VolumeLimits { bytes: 10, inodes: 10 };
    for name in ["acme/a", "acme/b", "acme/c"] {
        let name = name.parse().unwrap();
        cell.command(CommandBody::CreateVolume { name, limits, uid: 1, gid: 2, mode: 0o755 }).unwrap();
    }
    let ids = [2, 3, 4].map(VolumeId::new);
    for volume in ids {
        cell.command(CommandBody::DeleteVolume { volume }).unwrap();
    }
    let next = |after, limit| volumes_to_reap(&cell.view, after, limit).unwrap();
    assert_eq!(next(None, 2), ids[..2]);
    assert_eq!(next(Some(ids[1]), 2), ids[2..]);
    assert_eq!(next(Some(ids[2]), 2), []);
}
