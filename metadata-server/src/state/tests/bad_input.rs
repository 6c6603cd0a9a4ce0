//! What no program and no mount should send: each gets its errno and changes no row, which the
//! harness checks at every refusal.

use super::{super::*, harness::*};
use sitefs_base::{
    Errno, Extent, FileKind, InodeId, Kind, Name, Seq, SessionId, Time, VolumeId,
    limits::{CHUNK_SIZE, FILE_MAX},
    op::*,
};

#[test]
fn a_name_with_nul_or_slash_or_of_256_bytes_is_no_name_even_in_the_log() {
    for bad in [&b"a\0b"[..], b"a/b", b"", b".", b"..", &[b'x'; 256]] {
        assert_eq!(Name::new(bad).unwrap_err().kind(), Kind::Invalid);
    }
    let op = Op::Unlink { at: root("a?b") };
    let mut bytes = postcard::to_stdvec(&op).unwrap();
    assert_eq!(postcard::from_bytes::<Op>(&bytes).unwrap(), op);
    let at = bytes.iter().position(|byte| *byte == b'?').unwrap();
    for byte in [0, b'/'] {
        bytes[at] = byte;
        assert!(postcard::from_bytes::<Op>(&bytes).is_err());
    }
}

#[test]
fn names_that_are_not_utf8_and_of_255_bytes_are_names_like_others() {
    let mut cell = Cell::new();
    let names = [&b"\xff\xfe"[..], &[0x80; 255], b"\x01", b"..."];
    for name in names {
        let at = Place { parent: ROOT, name: Name::new(name).unwrap() };
        let dir = cell.mkdir(at.clone());
        assert_eq!(cell.lookup(at.clone()), Some(dir));
        cell.wait_a_second();
        cell.rename(at.clone(), root("moved"), RenameMode::Replace).unwrap();
        cell.rename(root("moved"), at.clone(), RenameMode::NoReplace).unwrap();
        assert_eq!(cell.op(Op::Rmdir { at }).unwrap().ino, Some(dir));
    }
}

/// One operation of each kind that names an inode or a directory by number.
fn operations_on(ino: InodeId) -> Vec<(Op, Errno)> {
    let at = || place(ino, "x");
    let name = || bytes::Bytes::from_static(b"user.a");
    let stale = [
        Op::SetAttr { ino, set: SetAttr { mode: Some(0o600), ..SetAttr::default() } },
        Op::SetAttr { ino, set: SetAttr { size: Some(1), ..SetAttr::default() } },
        Op::Link { ino, at: root("link") },
        Op::SetXattr { ino, name: name(), value: "v".into(), mode: XattrMode::Any },
        Op::RemoveXattr { ino, name: name() },
        Op::Commit(content(ino, inline("x"))),
    ];
    let absent = [
        Op::Mkdir { at: at(), create: by(0o755) },
        Op::Mknod { at: at(), kind: FileKind::File, rdev: 0, create: by(0o644) },
        Op::Symlink { at: at(), target: "t".into(), create: by(0o777) },
        Op::Unlink { at: at() },
        Op::Rmdir { at: at() },
        Op::Rename { from: at(), to: root("y"), mode: RenameMode::Replace },
        Op::Rename { from: root("d"), to: at(), mode: RenameMode::Exchange },
    ];
    let stale = stale.into_iter().map(|op| (op, Errno::ESTALE));
    stale.chain(absent.into_iter().map(|op| (op, Errno::ENOENT))).collect()
}

#[test]
fn an_inode_of_another_volume_is_not_there() {
    let mut cell = Cell::new();
    cell.mkdir(root("d"));
    let first = cell.volume;
    let limits = VolumeLimits { bytes: 1 << 30, inodes: 1 << 20 };
    let name = "acme/test".parse().unwrap();
    let create = CommandBody::CreateVolume { name, limits, uid: 0, gid: 0, mode: 0o755 };
    cell.command(create).unwrap();
    cell.volume = VolumeId::new(2);
    cell.open(SessionId::new(9));
    let foreign = (0..5).map(|i| cell.mkdir(root(&format!("d{i}")))).last().unwrap();
    cell.volume = first;
    cell.open(SESSION);
    for (op, errno) in operations_on(foreign) {
        assert_eq!(cell.refused(op.clone()), errno, "{op:?}");
    }
    // A session belongs to one volume.
    cell.session = SessionId::new(9);
    assert_eq!(cell.refused(Op::AllocInodes { count: 1 }), Errno::ESTALE);
    cell.volume = VolumeId::new(3);
    assert_eq!(cell.query(Query::Usage).unwrap_err(), Errno::ESTALE);
}

#[test]
fn numbers_that_no_inode_ever_had_are_refused() {
    let mut cell = Cell::new();
    cell.mkdir(root("d"));
    for ino in [0, 1_000, 1 << 63, u64::MAX] {
        for (op, errno) in operations_on(InodeId::new(ino)) {
            assert_eq!(cell.refused(op.clone()), errno, "{op:?}");
        }
    }
}

#[test]
fn a_volume_without_a_byte_of_quota_takes_names_but_no_content() {
    let mut cell = Cell::with(VolumeLimits { bytes: 0, inodes: 3 });
    let file = cell.file(root("f"));
    assert_eq!(cell.refused(Op::Commit(content(file, inline("x")))), NO_SPACE);
    assert_eq!(cell.refused(Op::Commit(content(file, hot(1, 600)))), NO_SPACE);
    cell.set(file, SetAttr { size: Some(1 << 30), ..SetAttr::default() }).unwrap();
    assert_eq!(cell.usage().bytes_used, 0, "a hole takes nothing");
    cell.mkdir(root("d"));
    assert_eq!(cell.refused(Op::Mkdir { at: root("e"), create: by(0o755) }), NO_SPACE);
    let name = "acme/none".parse().unwrap();
    let limits = VolumeLimits { bytes: 1, inodes: 0 };
    let create = CommandBody::CreateVolume { name, limits, uid: 0, gid: 0, mode: 0o755 };
    assert_eq!(cell.command(create), Err(Errno::EINVAL), "the root directory is an inode");
}

#[test]
fn sizes_and_offsets_past_the_largest_file_are_refused() {
    let mut cell = Cell::new();
    let file = cell.file(root("f"));
    let chunks = |size, chunk, extents| {
        Op::Commit(content(file, NewContent::Chunks { size, changed: vec![ChunkLayout { chunk, extents }] }))
    };
    for size in [FILE_MAX + 1, (1 << 63) - 1, 1 << 63, u64::MAX] {
        assert_eq!(cell.set(file, SetAttr { size: Some(size), ..SetAttr::default() }), Err(Errno::EFBIG));
        assert_eq!(cell.refused(chunks(size, 0, vec![])), Errno::EFBIG);
    }
    for offset in [FILE_MAX, 1 << 63, u64::MAX, u64::MAX - 10] {
        let at_end = (FILE_MAX / CHUNK_SIZE) as u32;
        for chunk in [0, at_end, u32::MAX] {
            assert_eq!(cell.refused(chunks(FILE_MAX, chunk, vec![extent(offset, 20, 1)])), Errno::EINVAL);
        }
    }
    let past_blob = Extent { blob_offset: u32::MAX, ..extent(0, u32::MAX, 1) };
    assert_eq!(cell.refused(chunks(FILE_MAX, 0, vec![past_blob])), Errno::EINVAL);
    cell.set(file, SetAttr { size: Some(FILE_MAX), ..SetAttr::default() }).unwrap();
    assert_eq!(cell.attr(file).size, FILE_MAX);
}

#[test]
fn times_before_1970_and_after_2106_come_back_as_they_were_set() {
    let mut cell = Cell::new();
    let file = cell.file(root("f"));
    for secs in [i64::MIN, -1, i64::from(i32::MIN) - 1, i64::from(u32::MAX) + 1, 1 << 40, i64::MAX] {
        let time = Time::new(secs, 999_999_999);
        let set =
            SetAttr { atime: Some(SetTime::At(time)), mtime: Some(SetTime::At(time)), ..SetAttr::default() };
        cell.set(file, set).unwrap();
        assert_eq!((cell.attr(file).atime, cell.attr(file).mtime), (time, time));
        assert_eq!(cell.attr(file).ctime, cell.now, "ctime is the time of execution");
        let written = SetAttr { mtime: Some(SetTime::Written(time)), ..SetAttr::default() };
        cell.set(file, written).unwrap();
        assert_eq!(cell.attr(file).mtime, time.min(cell.now), "a write was not in the future");
    }
}

#[test]
fn a_digest_that_nobody_uploaded_is_refused_until_it_is_granted() {
    let mut cell = Cell::new();
    let file = cell.file(root("f"));
    let upload = cell.upload(2, 100);
    let commit = |of, uploaded| {
        let changed = vec![ChunkLayout { chunk: 0, extents: vec![extent(0, 100, of)] }];
        Op::Commit(Commit { uploaded, ..content(file, NewContent::Chunks { size: 100, changed }) })
    };
    assert_eq!(cell.refused(commit(1, vec![])), Errno::EAGAIN, "never granted");
    assert_eq!(cell.refused(commit(2, vec![])), Errno::EAGAIN, "granted, but not named");
    let other = Uploaded { digest: digest(1), ..upload.clone() };
    assert_eq!(cell.refused(commit(1, vec![other])), Errno::EAGAIN, "granted for another blob");
    cell.op(commit(2, vec![upload])).unwrap();
}

#[test]
fn a_commit_with_a_stale_content_version_is_refused() {
    let mut cell = Cell::new();
    let file = cell.write(root("f"), inline("one"));
    let seen = cell.attr(file).cver;
    let base = |cver, text| Op::Commit(Commit { expect_cver: Some(cver), ..content(file, inline(text)) });
    cell.op(base(seen, "two")).unwrap();
    for stale in [seen, Seq::ZERO, Seq::new(u64::MAX)] {
        assert_eq!(cell.refused(base(stale, "three")), Errno::ESTALE);
    }
    cell.set(file, SetAttr { mode: Some(0o600), ..SetAttr::default() }).unwrap();
    cell.op(base(cell.attr(file).cver, "three")).unwrap();
}
