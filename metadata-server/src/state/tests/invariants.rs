//! What must hold of the rows after every command.

use super::super::{
    Family, MemoryView, Read, Row, acl, history, keys, layout, reads,
    rows::{
        BlobRow, BlobState, ChunkRow, DentryRow, DirRow, InodeRow, Loc, RestoreRow, SessionRow, SnapshotRow,
        VolumeRow, XattrRow, decode, fetch,
    },
};
use sitefs_base::{Content, Extent, FileKind, InodeId, Seq, SiteId, VolumeId, limits::INODE_EXTENTS_MAX};
use std::collections::{BTreeMap, BTreeSet};

fn ino_at(key: &[u8], offset: usize) -> InodeId {
    InodeId::from_key(keys::part(key, offset).unwrap())
}

/// The rows of one volume.
fn rows_of(view: &MemoryView, family: Family, id: VolumeId) -> Vec<Row> {
    view.rows(family).into_iter().filter(|(key, _)| key.starts_with(&id.to_key())).collect()
}

pub fn check(view: &MemoryView, id: VolumeId) {
    super::checks::find_nothing(view, false);
    let volume: VolumeRow = reads::volume(view, id).unwrap().unwrap();
    check_lives(view, id, &volume);
    let mut inodes = BTreeMap::new();
    for (key, value) in rows_of(view, Family::Inode, id) {
        inodes.insert(ino_at(&key, 8), decode::<InodeRow>(Family::Inode, &key, &value).unwrap());
    }
    assert_eq!(volume.inodes_used, inodes.len() as u64, "inodes are counted");
    assert_eq!(volume.bytes_used, inodes.values().map(|row| row.allocated).sum::<u64>(), "bytes are counted");
    check_names(view, id, &inodes);
    check_hot(view, volume.site);
    check_small_rows(view, id, &inodes);
    let reachable = reachable(view, id);
    for (ino, row) in &inodes {
        assert!(*ino < volume.next_ino && row.born <= volume.seq);
        // A restore that was given up may have copied some chunks of a file: nobody ever sees it.
        if reachable.contains(ino) || row.content != Content::Chunked {
            check_content(view, id, &volume, *ino, row);
        }
    }
    check_pins(view, id, &volume);
    for (key, _) in rows_of(view, Family::Chunk, id) {
        let ino = ino_at(&key, 8);
        match inodes.get(&ino) {
            Some(row) => assert_eq!(row.content, Content::Chunked, "chunk rows belong to chunked files"),
            None => assert!(is_orphan(view, id, ino), "chunk rows without inode await removal"),
        }
    }
    check_work(view, id);
}

/// Working rows are those of a restore under way, or are about to go.
fn check_work(view: &MemoryView, id: VolumeId) {
    let all = keys::all_work(id);
    let is_awake = view.get(Family::Meta, &keys::reap(id)).unwrap().is_some();
    for (key, _) in view.scan(Family::Meta, &all, &all, 10_000).unwrap() {
        assert!(is_awake || is_copy(view, id, ino_at(&key, all.len())), "working rows stay behind");
    }
}

/// Inodes to which a way leads from the root.
fn reachable(view: &MemoryView, id: VolumeId) -> BTreeSet<InodeId> {
    let mut below = BTreeMap::<InodeId, Vec<InodeId>>::new();
    for (key, value) in rows_of(view, Family::Dentry, id) {
        let entry: DentryRow = decode(Family::Dentry, &key, &value).unwrap();
        below.entry(ino_at(&key, 8)).or_default().push(entry.ino);
    }
    let (mut found, mut next) = (BTreeSet::new(), vec![InodeId::ROOT]);
    while let Some(ino) = next.pop() {
        if found.insert(ino) {
            next.extend(below.get(&ino).into_iter().flatten());
        }
    }
    found
}

fn is_orphan(view: &MemoryView, id: VolumeId, ino: InodeId) -> bool {
    view.get(Family::Small, &keys::orphan(id, ino)).unwrap().is_some()
}

/// Whether an inode is the root of a copy that a restore makes.
fn is_copy(view: &MemoryView, id: VolumeId, ino: InodeId) -> bool {
    view.get(Family::Meta, &keys::restore(id, ino)).unwrap().is_some()
}

/// The pins are exactly the seqs that somebody holds, and what holds one names it.
fn check_pins(view: &MemoryView, id: VolumeId, volume: &VolumeRow) {
    let of = |tag: &[u8]| {
        let prefix = [tag, &id.to_key()].concat();
        let rows = view.rows(Family::Meta).into_iter();
        rows.filter(move |(key, _)| key.starts_with(&prefix)).collect::<Vec<_>>()
    };
    let pin_of = |key: &[u8]| Seq::from_key(keys::part(key, 9).unwrap());
    let held: BTreeSet<Seq> = of(b"P").iter().map(|(key, _)| pin_of(key)).collect();
    assert_eq!(volume.pins, held.into_iter().collect::<Vec<_>>());
    let holds = |pin: Seq, kind: u8, who: &[u8]| {
        assert!(view.get(Family::Meta, &keys::holder(id, pin, kind, who)).unwrap().is_some());
        1
    };
    let mut holders = 0;
    for (key, value) in of(b"W") {
        let row: SnapshotRow = decode(Family::Meta, &key, &value).unwrap();
        holders += holds(row.seq, b'W', &key[9..]);
    }
    for (key, value) in of(b"S") {
        let row: SessionRow = decode(Family::Meta, &key, &value).unwrap();
        holders += row.at.map_or(0, |pin| holds(pin, b'S', &key[9..]));
    }
    for (key, value) in of(b"J") {
        let row: RestoreRow = decode(Family::Meta, &key, &value).unwrap();
        holders += holds(row.seq, b'R', &key[9..]);
    }
    assert_eq!(holders, of(b"P").len(), "nothing else holds a pin");
}

/// The rows of a key held one after the other, the last one until now, and none holds in the future.
fn check_lives(view: &MemoryView, id: VolumeId, volume: &VolumeRow) {
    for family in [Family::Dentry, Family::Inode, Family::Chunk, Family::Small] {
        let mut ends = BTreeMap::<Vec<u8>, Seq>::new();
        let superseded = history::family_under(family, &id.to_key()).unwrap();
        for (key, value) in rows_of(view, superseded, id) {
            let life = history::life_of(superseded, &key, &value).unwrap();
            assert!(life.born < life.died && life.died <= volume.seq, "{life:?} up to {}", volume.seq);
            let before = ends.insert(keys::before_death(family, &key).unwrap().to_vec(), life.died);
            assert!(before.is_none_or(|end| end <= life.born), "two rows of one key held at a time");
        }
        for (key, value) in rows_of(view, family, id) {
            if history::family_of(family, &key).is_some() {
                let born = super::super::rows::born(family, &key, &value).unwrap();
                assert!(born <= volume.seq && ends.get(&key).is_none_or(|end| *end <= born));
            }
        }
    }
}

fn check_names(view: &MemoryView, id: VolumeId, inodes: &BTreeMap<InodeId, InodeRow>) {
    let mut names = BTreeMap::from([(InodeId::ROOT, 1)]);
    let mut subdirs = BTreeMap::new();
    for (key, value) in rows_of(view, Family::Dentry, id) {
        let entry: DentryRow = decode(Family::Dentry, &key, &value).unwrap();
        let parent = ino_at(&key, 8);
        assert_eq!(inodes[&entry.ino].kind, entry.kind);
        assert_eq!(inodes[&parent].kind, FileKind::Directory);
        *names.entry(entry.ino).or_insert(0) += 1;
        if entry.kind == FileKind::Directory {
            *subdirs.entry(parent).or_insert(0) += 1;
            assert_eq!(inodes[&entry.ino].parent, Some(parent), "a directory knows its parent");
        }
    }
    for (ino, row) in inodes {
        let count = names.get(ino).copied().unwrap_or(0);
        if is_orphan(view, id, *ino) || is_copy(view, id, *ino) {
            assert_eq!(count, 0, "{ino} has lost its name or has none yet");
            assert_eq!(row.parent, None);
            continue;
        }
        let attr = reads::node(view, id, *ino).unwrap().unwrap().attr();
        if row.kind == FileKind::Directory {
            assert_eq!(count, 1, "{ino} has one name");
            assert_eq!(attr.nlink, 2 + subdirs.get(ino).copied().unwrap_or(0), "{ino} counts subdirectories");
        } else {
            assert_eq!(attr.nlink, count, "{ino} counts names");
        }
    }
}

/// A hot blob waits to be drained, or to be merged, or was merged; a damaged one waits for nothing.
fn check_hot(view: &MemoryView, site: SiteId) {
    let mut lists = BTreeSet::new();
    for (key, value) in view.rows(Family::Blob).iter().filter(|(key, _)| key[8] == b'B') {
        let row: BlobRow = decode(Family::Blob, key, value).unwrap();
        if row.loc == Loc::Hot {
            assert!(view.get(Family::Hot, &keys::hot(site, row.generation)).unwrap().is_some());
            let drains = view.get(Family::Meta, &keys::drain(site, row.generation)).unwrap().is_some();
            if row.state == BlobState::Damaged {
                assert!(!drains, "what is damaged is not drained");
                continue;
            }
            lists.insert(if row.tail { keys::tail } else { keys::drain }(site, row.generation));
            assert_eq!(drains, !row.tail, "what is not a tail is drained");
        }
    }
    for (key, _) in view.rows(Family::Meta) {
        let is_listed = key.starts_with(keys::DRAIN) || key.starts_with(keys::TAILS);
        assert!(!is_listed || lists.contains(&key), "only hot blobs are listed");
    }
}

fn check_small_rows(view: &MemoryView, id: VolumeId, inodes: &BTreeMap<InodeId, InodeRow>) {
    let mut with_xattrs = BTreeMap::<InodeId, Vec<Vec<u8>>>::new();
    for (key, value) in rows_of(view, Family::Small, id) {
        match key[8] {
            b'A' => {
                decode::<DirRow>(Family::Small, &key, &value).unwrap();
                assert_eq!(inodes[&ino_at(&key, 9)].kind, FileKind::Directory);
            }
            b'X' => {
                decode::<XattrRow>(Family::Small, &key, &value).unwrap();
                with_xattrs.entry(ino_at(&key, 9)).or_default().push(key[17..].to_vec());
            }
            tag => assert!(b"TO".contains(&tag)),
        }
    }
    assert!(with_xattrs.keys().all(|ino| inodes.contains_key(ino)), "no attributes without inode");
    for (ino, row) in inodes {
        let names = with_xattrs.remove(ino).unwrap_or_default();
        assert_eq!(row.flags.has_xattrs, !names.is_empty());
        assert_eq!(row.flags.has_access_acl, names.iter().any(|name| name == acl::ACCESS));
        assert_eq!(row.flags.has_default_acl, names.iter().any(|name| name == acl::DEFAULT));
    }
}

fn check_content(view: &MemoryView, id: VolumeId, volume: &VolumeRow, ino: InodeId, row: &InodeRow) {
    let mut extents = row.extents().to_vec();
    layout::walk_rows(view, id, ino, |more| {
        extents.extend(more);
        true
    })
    .unwrap();
    match &row.content {
        Content::Empty => assert!(row.size == 0 && row.allocated == 0),
        Content::Inline(bytes) => assert!(row.size == bytes.len() as u64 && row.allocated == row.size),
        Content::Target(target) => assert!(row.size == target.len() as u64 && row.allocated == 0),
        Content::Extents(own) => {
            assert!(row.size > 0 && own.len() <= INODE_EXTENTS_MAX);
            assert_eq!(own, &extents, "no chunk rows beside");
        }
        // A merge may leave fewer than would fit into the inode row; the next change moves them.
        Content::Chunked => assert!(!extents.is_empty()),
    }
    if !extents.is_empty() {
        assert_eq!(row.allocated, layout::bytes_of(&extents));
        assert!(extents.is_sorted_by(|a, b| a.end() <= b.offset));
        assert!(extents.last().unwrap().end() <= row.size);
    }
    extents.iter().for_each(|extent| check_blob(view, id, volume, extent));
}

fn check_blob(view: &MemoryView, id: VolumeId, volume: &VolumeRow, extent: &Extent) {
    let row: Option<BlobRow> = fetch(view, Family::Blob, &keys::blob(volume.site, &extent.digest)).unwrap();
    let row = row.expect("every extent has its blob");
    assert!(matches!(row.state, BlobState::Present | BlobState::Damaged));
    assert!(row.rest == extent.digest.rest() && row.len >= extent.blob_offset + extent.len);
    assert!(row.vols.contains(&id));
}

/// Every chunk row decodes.
pub fn chunk_rows(view: &MemoryView) -> usize {
    let rows = view.rows(Family::Chunk);
    for (key, value) in &rows {
        decode::<ChunkRow>(Family::Chunk, key, value).unwrap();
    }
    rows.len()
}
