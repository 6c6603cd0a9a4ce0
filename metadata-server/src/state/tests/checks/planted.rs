//! A volume with some of everything, and what can be damaged in it.

use super::super::{
    super::{
        check::FindingKind as Found,
        rows::{self, *},
        *,
    },
    harness::*,
};
use serde::{Serialize, de::DeserializeOwned};
use sitefs_base::{
    Content, FileKind, InodeId, OpId, Seq, SessionId, SiteId, VolumeId, limits::CHUNK_SIZE, op::*,
};

/// A volume with some of everything.
pub(super) struct Story {
    pub cell: Cell,
    pub dir: InodeId,
    pub sub: InodeId,
    pub inline: InodeId,
    pub hot: InodeId,
    pub linked: InodeId,
    pub chunked: InodeId,
    pub object: InodeId,
    pub uploaded: Uploaded,
    pub replaced: InodeId,
}

impl Story {
    pub fn new() -> Self {
        let mut cell = Cell::new();
        let dir = cell.mkdir(root("d"));
        let sub = cell.mkdir(place(dir, "sub"));
        let inline = cell.write(place(dir, "inline"), super::super::harness::inline("some text"));
        let hot = cell.write(place(dir, "hot"), super::super::harness::hot(1, 600));
        let linked = cell.write(place(sub, "one"), super::super::harness::inline("twice"));
        cell.op(Op::Link { ino: linked, at: place(sub, "two") }).unwrap();
        let chunked = cell.file(place(dir, "large"));
        let layouts: Vec<_> = (0..6).map(|chunk| cell.chunk(chunk, 9)).collect();
        let (changed, uploaded) = layouts.into_iter().unzip();
        let size = 6 * CHUNK_SIZE;
        let mut commit = content(chunked, NewContent::Chunks { size, changed });
        commit.uploaded = uploaded;
        cell.op(Op::Commit(commit)).unwrap();
        let object = cell.file(place(dir, "object"));
        let upload = cell.upload(2, 1000);
        let changed = vec![ChunkLayout { chunk: 0, extents: vec![extent(0, 1000, 2)] }];
        let mut commit = content(object, NewContent::Chunks { size: 1000, changed });
        commit.uploaded = vec![upload.clone()];
        cell.op(Op::Commit(commit)).unwrap();
        cell.upload(3, 700);
        let name = bytes::Bytes::from_static(b"user.a");
        cell.op(Op::SetXattr { ino: inline, name, value: "v".into(), mode: XattrMode::Any }).unwrap();
        let create = by(0o777);
        cell.op(Op::Symlink { at: root("link"), target: "d/hot".into(), create }).unwrap();
        let replaced = cell.write(root("old"), super::super::harness::hot(4, 800));
        cell.wait_a_second();
        cell.wait_a_second();
        let snapshot = "kept".parse().unwrap();
        cell.command(CommandBody::CreateSnapshot { volume: cell.volume, name: snapshot, at: None }).unwrap();
        cell.wait_a_second();
        cell.op(Op::Commit(content(replaced, super::super::harness::inline("new")))).unwrap();
        cell.wait_a_second();
        cell.op(Op::Commit(content(replaced, super::super::harness::inline("newer")))).unwrap();
        Self { cell, dir, sub, inline, hot, linked, chunked, object, uploaded: upload, replaced }
    }

    pub fn volume(&self) -> VolumeId {
        self.cell.volume
    }

    pub fn edit<T: Serialize + DeserializeOwned>(
        &mut self,
        family: Family,
        key: &[u8],
        edit: impl FnOnce(&mut T),
    ) {
        let value = self.cell.view.get(family, key).unwrap().expect("the row is there");
        let mut row: T = rows::decode(family, key, &value).unwrap();
        edit(&mut row);
        self.cell.view.put(family, key, rows::encode(&row).unwrap());
    }

    pub fn put<T: Serialize>(&mut self, family: Family, key: &[u8], row: &T) {
        self.cell.view.put(family, key, rows::encode(row).unwrap());
    }

    pub fn inode(&mut self, ino: InodeId, edit: impl FnOnce(&mut InodeRow)) {
        let key = keys::inode(self.volume(), ino);
        self.edit(Family::Inode, &key, edit);
    }

    pub fn own(&mut self, edit: impl FnOnce(&mut VolumeRow)) {
        let key = keys::volume(self.volume());
        self.edit(Family::Meta, &key, edit);
    }

    pub fn blob(&mut self, of: u8, edit: impl FnOnce(&mut BlobRow)) {
        self.edit(Family::Blob, &keys::blob(SITE, &digest(of)), edit);
    }

    pub fn delete(&mut self, family: Family, key: &[u8]) {
        assert!(self.cell.view.get(family, key).unwrap().is_some(), "there is something to delete");
        self.cell.view.delete(family, key);
    }

    pub fn damage(&mut self, family: Family, key: &[u8]) {
        self.cell.view.put(family, key, vec![9; 9]);
    }

    pub fn first_of(&self, family: Family, prefix: &[u8]) -> Vec<u8> {
        self.cell.view.scan(family, prefix, prefix, 1).unwrap().pop().expect("there is one").0
    }
}

pub(super) type Plant = fn(&mut Story);

/// What is damaged, and what is found then.
pub(super) const PLANTED: &[(&str, Plant, Found)] = &[
    ("an inode row", |s| s.damage(Family::Inode, &keys::inode(s.volume(), s.hot)), Found::RowDamaged),
    (
        "a dentry row",
        |s| s.damage(Family::Dentry, &keys::dentry(s.volume(), s.dir, &place(s.dir, "hot").name)),
        Found::RowDamaged,
    ),
    (
        "a row of a later format",
        |s| {
            let key = keys::directory(s.volume(), s.dir);
            let mut value = s.cell.view.get(Family::Small, &key).unwrap().unwrap();
            value[0] = 99;
            s.cell.view.put(Family::Small, &key, value);
        },
        Found::RowDamaged,
    ),
    (
        "a row of history",
        |s| {
            let key = s.first_of(Family::InodeHistory, &[]);
            s.damage(Family::InodeHistory, &key)
        },
        Found::RowDamaged,
    ),
    ("a kind of row", |s| s.put(Family::Meta, b"?what", &1_u8), Found::RowUnknown),
    (
        "rows of a volume",
        |s| s.put(Family::Inode, &keys::inode(VolumeId::new(77), s.hot), &1_u8),
        Found::RowOfNoVolume,
    ),
    ("the cell's row", |s| s.delete(Family::Meta, keys::GROUP), Found::GroupMissing),
    (
        "the counter of volumes",
        |s| s.edit::<CountersRow>(Family::Meta, keys::COUNTERS, |row| row.volumes = 0),
        Found::CounterBehind,
    ),
    (
        "the counter of generations",
        |s| s.edit::<CountersRow>(Family::Meta, keys::COUNTERS, |row| row.generations = 1),
        Found::CounterBehind,
    ),
    ("the name of a volume", |s| s.delete(Family::Meta, &keys::name("acme/live")), Found::VolumeNameWrong),
    ("the name of a site", |s| s.delete(Family::Meta, &keys::name("acme")), Found::VolumeNameWrong),
    (
        "a name of no volume",
        |s| s.put(Family::Meta, &keys::name("acme/gone"), &NameRow::Volume(VolumeId::new(9))),
        Found::NameOfNoVolume,
    ),
    ("the bytes used", |s| s.own(|row| row.bytes_used += 5), Found::UsageWrong),
    ("the inodes used", |s| s.own(|row| row.inodes_used += 1), Found::UsageWrong),
    ("the next number", |s| s.own(|row| row.next_ino = InodeId::new(4)), Found::NumberBeyond),
    ("when an inode was born", |s| s.inode(s.hot, |row| row.born = Seq::new(9_999)), Found::RowFromFuture),
    (
        "the inode of a name",
        |s| s.delete(Family::Inode, &keys::inode(s.volume(), s.hot)),
        Found::NameDangling,
    ),
    (
        "the kind of a name",
        |s| {
            let key = keys::dentry(s.volume(), s.dir, &place(s.dir, "hot").name);
            s.edit::<DentryRow>(Family::Dentry, &key, |row| row.kind = FileKind::Fifo);
        },
        Found::NameWrongKind,
    ),
    (
        "a name of a name",
        |s| {
            let key = [&keys::dentries(s.volume(), s.dir)[..], b"a/b"].concat();
            s.put(Family::Dentry, &key, &DentryRow { born: Seq::new(1), kind: FileKind::File, ino: s.hot });
        },
        Found::NameInvalid,
    ),
    (
        "the directory of entries",
        |s| {
            s.delete(Family::Inode, &keys::inode(s.volume(), s.sub));
            s.delete(Family::Small, &keys::directory(s.volume(), s.sub));
        },
        Found::EntriesStray,
    ),
    (
        "the parent of a directory",
        |s| s.inode(s.sub, |row| row.parent = Some(InodeId::ROOT)),
        Found::ParentWrong,
    ),
    ("a link count", |s| s.inode(s.linked, |row| row.nlink = 3), Found::LinkCount),
    (
        "a name of two",
        |s| s.delete(Family::Dentry, &keys::dentry(s.volume(), s.sub, &place(s.sub, "two").name)),
        Found::LinkCount,
    ),
    (
        "the only name",
        |s| s.delete(Family::Dentry, &keys::dentry(s.volume(), s.dir, &place(s.dir, "hot").name)),
        Found::InodeNameless,
    ),
    (
        "a second name of a directory",
        |s| {
            let key = keys::dentry(s.volume(), InodeId::ROOT, &root("again").name);
            s.put(
                Family::Dentry,
                &key,
                &DentryRow { born: Seq::new(1), kind: FileKind::Directory, ino: s.sub },
            );
        },
        Found::DirectoryTwice,
    ),
    (
        "directories in each other",
        |s| {
            let (dir, sub) = (s.dir, s.sub);
            s.delete(Family::Dentry, &keys::dentry(s.volume(), InodeId::ROOT, &root("d").name));
            s.inode(dir, |row| row.parent = Some(sub));
            let key = keys::dentry(s.volume(), sub, &root("d").name);
            s.put(
                Family::Dentry,
                &key,
                &DentryRow { born: Seq::new(1), kind: FileKind::Directory, ino: dir },
            );
        },
        Found::DirectoryLoop,
    ),
    (
        "the times of a directory",
        |s| s.delete(Family::Small, &keys::directory(s.volume(), s.sub)),
        Found::DirectoryRow,
    ),
    (
        "the times of a file",
        |s| {
            let row = DirRow { born: Seq::new(1), nlink: 2, mtime: s.cell.now, ctime: s.cell.now };
            s.put(Family::Small, &keys::directory(s.volume(), s.hot), &row);
        },
        Found::DirectoryRow,
    ),
    (
        "the subdirectories",
        |s| {
            let key = keys::directory(s.volume(), s.dir);
            s.edit::<DirRow>(Family::Small, &key, |row| row.nlink = 7)
        },
        Found::Subdirectories,
    ),
    ("a mode", |s| s.inode(s.hot, |row| row.mode = 0o70_644), Found::AttributesWrong),
    (
        "the parent of a file",
        |s| s.inode(s.hot, |row| row.parent = Some(InodeId::ROOT)),
        Found::AttributesWrong,
    ),
    (
        "attributes of nobody",
        |s| {
            let row = XattrRow { born: Seq::new(1), value: "v".into() };
            s.put(Family::Small, &keys::xattr(s.volume(), InodeId::new(999), b"user.x"), &row);
        },
        Found::XattrStray,
    ),
    ("the flag of attributes", |s| s.inode(s.inline, |row| row.flags.has_xattrs = false), Found::XattrFlags),
    ("the size of a file", |s| s.inode(s.inline, |row| row.size = 3), Found::SizeWrong),
    ("the bytes that a file takes", |s| s.inode(s.chunked, |row| row.allocated -= 1), Found::SizeWrong),
    ("the end of a file", |s| s.inode(s.chunked, |row| row.size = CHUNK_SIZE), Found::LayoutWrong),
    (
        "an extent of a file",
        |s| {
            s.inode(s.object, |row| {
                row.content = Content::Extents(vec![extent(0, 600, 2), extent(CHUNK_SIZE - 1, 400, 2)])
            })
        },
        Found::LayoutWrong,
    ),
    (
        "the chunk of extents",
        |s| {
            let (from, to) = (keys::chunk(s.volume(), s.chunked, 5), keys::chunk(s.volume(), s.chunked, 6));
            let value = s.cell.view.get(Family::Chunk, &from).unwrap().unwrap();
            s.delete(Family::Chunk, &from);
            s.cell.view.put(Family::Chunk, &to, value);
        },
        Found::LayoutWrong,
    ),
    ("a chunk row", |s| s.delete(Family::Chunk, &keys::chunk(s.volume(), s.chunked, 2)), Found::SizeWrong),
    (
        "chunk rows of a small file",
        |s| {
            let row = ChunkRow { born: Seq::new(1), extents: vec![extent(0, 10, 2)] };
            s.put(Family::Chunk, &keys::chunk(s.volume(), s.inline, 0), &row);
        },
        Found::ChunkStray,
    ),
    (
        "two lives at a time",
        |s| {
            let key = s.first_of(Family::InodeHistory, &keys::inode(s.volume(), s.replaced));
            let value = s.cell.view.get(Family::InodeHistory, &key).unwrap().unwrap();
            let died = keys::died(Family::Inode, &keys::inode(s.volume(), s.replaced), s.cell.seq());
            s.cell.view.put(Family::InodeHistory, &died, value);
        },
        Found::LivesOverlap,
    ),
    (
        "when a row died",
        |s| {
            let key = s.first_of(Family::InodeHistory, &keys::inode(s.volume(), s.replaced));
            s.edit::<InodeRow>(Family::InodeHistory, &key, |row| {
                row.born = Seq::new(500);
                row.cver = Seq::new(1)
            });
        },
        Found::LifeWrong,
    ),
    ("an event", |s| s.delete(Family::Feed, &keys::feed(s.volume(), Seq::new(3))), Found::FeedGap),
    (
        "a second",
        |s| {
            let key = s.first_of(Family::Small, &keys::seconds(s.volume()));
            s.edit::<SecondRow>(Family::Small, &key, |row| row.seq = Seq::new(888))
        },
        Found::SecondsWrong,
    ),
    ("the horizon", |s| s.own(|row| row.horizon = Seq::new(9_999)), Found::HorizonBeyond),
    ("the pins", |s| s.own(|row| row.pins.clear()), Found::PinsWrong),
    (
        "the pin of a snapshot",
        |s| {
            let key = s.first_of(Family::Meta, b"P");
            s.delete(Family::Meta, &key)
        },
        Found::SnapshotUnpinned,
    ),
    (
        "a snapshot",
        |s| {
            let key = s.first_of(Family::Meta, b"W");
            s.delete(Family::Meta, &key)
        },
        Found::HolderStray,
    ),
    ("a session", |s| s.delete(Family::Meta, &keys::session(s.volume(), SESSION)), Found::ReceiptStray),
    (
        "the numbers of a session",
        |s| s.delete(Family::Meta, &keys::session(s.volume(), SESSION)),
        Found::RangeStray,
    ),
    (
        "a receipt",
        |s| {
            s.put(
                Family::Meta,
                &keys::receipt(s.volume(), SESSION, OpId::new(9_999)),
                &ReceiptRow::Refused(sitefs_base::Errno::EIO),
            )
        },
        Found::ReceiptBeyond,
    ),
    (
        "a range of numbers",
        |s| {
            s.put(
                Family::Meta,
                &keys::range(s.volume(), SESSION, InodeId::new(9_999)),
                &RangeRow { first: InodeId::new(9_000) },
            )
        },
        Found::RangeWrong,
    ),
    (
        "numbers reserved twice",
        |s| {
            s.cell.open(SessionId::new(8));
            s.put(
                Family::Meta,
                &keys::range(s.volume(), SessionId::new(8), s.hot),
                &RangeRow { first: s.hot },
            );
        },
        Found::RangeWrong,
    ),
    (
        "an orphan that nobody removes",
        |s| s.put(Family::Small, &keys::orphan(s.volume(), InodeId::new(999)), &OrphanRow::default()),
        Found::ReapAsleep,
    ),
    (
        "a restore",
        |s| {
            let restore = Restore { seq: s.cell.seq(), source: s.dir, to: root("d") };
            let Ok(Reply::Restore(RestoreState { job: Some(job), .. })) =
                s.cell.command(CommandBody::StartRestore { volume: s.cell.volume, restore })
            else {
                panic!()
            };
            s.delete(Family::Inode, &keys::inode(s.cell.volume, job));
            s.delete(Family::Small, &keys::directory(s.cell.volume, job));
        },
        Found::RestoreWrong,
    ),
    ("the row of a blob", |s| s.delete(Family::Blob, &keys::blob(SITE, &digest(2))), Found::BlobRowMissing),
    (
        "the row of a blob of the past",
        |s| s.delete(Family::Blob, &keys::blob(SITE, &digest(4))),
        Found::BlobRowMissing,
    ),
    ("the volumes of a blob", |s| s.blob(2, |row| row.vols = vec![]), Found::BlobForeign),
    ("the length of a blob", |s| s.blob(2, |row| row.len = 10), Found::BlobShort),
    ("the digest of a blob", |s| s.blob(2, |row| row.rest = [7; 32]), Found::BlobDigest),
    (
        "a blob in use that is condemned",
        |s| s.blob(2, |row| row.state = BlobState::Condemned),
        Found::BlobCondemned,
    ),
    (
        "a blob of the past that is being deleted",
        |s| s.blob(4, |row| row.state = BlobState::Deleting),
        Found::BlobCondemned,
    ),
    ("a blob that is damaged", |s| s.blob(2, |row| row.state = BlobState::Damaged), Found::BlobDamaged),
    (
        "the last reference of a blob",
        |s| s.blob(2, |row| row.last_ref.command = 1 << 40),
        Found::BlobRowWrong,
    ),
    ("the generation of a blob", |s| s.blob(2, |row| row.generation.counter = 1 << 40), Found::BlobRowWrong),
    (
        "bytes that the cell holds",
        |s| {
            let key = s.first_of(Family::Hot, &[]);
            s.delete(Family::Hot, &key)
        },
        Found::HotMissing,
    ),
    (
        "bytes that nobody needs",
        |s| {
            let generation =
                sitefs_base::Generation { incarnation: sitefs_base::Incarnation::new(1), counter: 1 << 30 };
            s.put(Family::Hot, &keys::hot(SITE, generation), &HotRow { digest: digest(88), bytes: b"bytes" });
        },
        Found::HotStray,
    ),
    (
        "an entry of the list to drain",
        |s| {
            let key = s.first_of(Family::Meta, b"H");
            s.delete(Family::Meta, &key)
        },
        Found::ListMissing,
    ),
    (
        "an entry of the list to verify",
        |s| {
            let key = s.first_of(Family::Meta, b"Q");
            s.delete(Family::Meta, &key)
        },
        Found::ListMissing,
    ),
    (
        "a list",
        |s| {
            s.put(
                Family::Meta,
                &keys::drain(SITE, s.uploaded.generation),
                &DrainRow { digest: digest(2), len: 1000 },
            )
        },
        Found::ListStray,
    ),
    (
        "an upload that is finished",
        |s| {
            let row = UploadRow {
                digest: digest(2),
                len: 1000,
                granted_at: s.cell.now,
                volume: s.cell.volume,
                verified: false,
            };
            s.put(Family::Blob, &keys::upload(SITE, s.uploaded.generation), &row);
        },
        Found::UploadInUse,
    ),
    (
        "an object to be deleted",
        |s| {
            s.put(
                Family::Blob,
                &keys::doomed(SITE, s.uploaded.generation),
                &DoomedRow { digest: digest(2), since: s.cell.now },
            )
        },
        Found::DoomedInUse,
    ),
    (
        "an upload of the future",
        |s| {
            let generation = sitefs_base::Generation { counter: 1 << 40, ..s.uploaded.generation };
            s.put(
                Family::Blob,
                &keys::doomed(SITE, generation),
                &DoomedRow { digest: digest(5), since: s.cell.now },
            );
        },
        Found::CounterBehind,
    ),
    ("a site's number", |s| s.own(|row| row.site = SiteId::new(9)), Found::CounterBehind),
];
