//! Whether rows say what the model says.

use super::{
    blobs::{Blobs, Wait},
    model::Volume,
    tree::{Node, Tree},
};
use crate::state::{
    HotBlob, MemoryView, Read, RestoreJob, as_of, hot_blobs, hot_bytes, locate, query, restores, tails,
    tests::harness::SITE, volume_info,
};
use sitefs_base::{
    Content, Errno, InodeId, Name, Seq, Time, VolumeId,
    op::{Answer, AnswerBody, Change, Place, Query},
};
use std::collections::BTreeMap;

/// How many names lead to each inode.
type Names = BTreeMap<InodeId, u32>;

/// The answer to a question at one point of a volume.
fn ask(read: &dyn Read, id: VolumeId, question: &Query) -> Result<Answer, Errno> {
    query(read, id, question).unwrap()
}

fn body(read: &dyn Read, id: VolumeId, question: Query) -> AnswerBody {
    ask(read, id, &question).unwrap_or_else(|errno| panic!("{question:?} is refused: {errno}")).body
}

/// The tree as readers see it.
pub fn tree(read: &dyn Read, id: VolumeId, tree: &Tree) {
    let names = tree.names();
    for (ino, node) in tree.nodes() {
        let inode = tree.inode(ino, &names);
        let is = AnswerBody::Inode(Some(inode.clone()));
        assert_eq!(body(read, id, Query::Inode { ino }), is, "{ino}");
        let listed = node.xattrs.iter().map(|(name, value)| (name.clone().into(), value.clone()));
        assert_eq!(body(read, id, Query::Xattrs { ino }), AnswerBody::Xattrs(listed.collect()), "{ino}");
        if inode.content == Content::Chunked || !node.extents().is_empty() {
            check_chunks(read, id, ino, node);
        }
        if node.is_dir() {
            check_dir(read, id, ino, (tree, &names));
        }
    }
}

fn check_chunks(read: &dyn Read, id: VolumeId, ino: InodeId, node: &Node) {
    let mut found = Vec::new();
    let mut first = 0;
    while let AnswerBody::Chunks(chunks) = body(read, id, Query::Chunks { ino, cver: None, first, count: 2 }) {
        // Chunks of a page may be holes: only the end of the file ends it.
        found.extend(chunks);
        first += 2;
        if u64::from(first) * sitefs_base::limits::CHUNK_SIZE >= node.size().min(1 << 26) {
            break;
        }
    }
    // A file may have a few chunks very far away.
    let last = found.last().map_or(0, |layout| layout.chunk);
    for far in
        node.chunks().iter().map(|layout| layout.chunk).filter(|chunk| *chunk > last && *chunk >= first)
    {
        let AnswerBody::Chunks(chunks) = body(read, id, Query::Chunks { ino, cver: None, first: far, count: 1 }) else {
            panic!("chunks were asked for");
        };
        found.extend(chunks);
    }
    assert_eq!(found, node.chunks(), "the layout of {ino}");
}

fn check_dir(read: &dyn Read, id: VolumeId, dir: InodeId, (tree, names): (&Tree, &Names)) {
    let node = tree.get(dir).unwrap();
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = body(read, id, Query::ReadDir { dir, after: after.clone(), limit: 2 });
        let AnswerBody::Entries { dir: attr, parent, entries, complete } = page else {
            panic!("{page:?}");
        };
        assert_eq!(attr, tree.attr(dir, names));
        assert!(
            matches!(&node.body, super::tree::Body::Dir { parent: up, .. } if up.unwrap_or(InodeId::ROOT) == parent)
        );
        after = entries.last().map(|entry| entry.name.clone());
        for entry in entries {
            assert_eq!(entry.inode, tree.inode(entry.inode.attr.ino, names));
            found.push((entry.name.as_bytes().to_vec(), entry.inode.attr.ino));
        }
        if complete {
            break;
        }
    }
    let entries = node.entries().unwrap();
    assert!(found.iter().map(|(name, ino)| (name, ino)).eq(entries), "the entries of {dir}: {found:?}");
    for name in entries.keys().map(Vec::as_slice).chain([&b"absent"[..]]) {
        let at = Place { parent: dir, name: Name::new(name).unwrap() };
        let inode = tree.find(&at).map(|ino| tree.inode(ino, names));
        assert_eq!(body(read, id, Query::Lookup { at }), AnswerBody::Inode(inode));
    }
}

pub fn now(view: &MemoryView, id: VolumeId, volume: &Volume) {
    tree(view, id, &volume.now.tree);
    check_usage(view, id, volume.seq, &volume.now.tree);
    check_info(view, id, volume);
}

/// What operators see of a volume.
fn check_info(view: &MemoryView, id: VolumeId, volume: &Volume) {
    let info = volume_info(view, id).unwrap().unwrap();
    assert_eq!((info.limits, info.history_limit), (volume.limits, volume.history_limit));
    assert_eq!((info.settings, info.seq), (volume.settings.clone(), volume.seq));
    assert_eq!((info.horizon, info.pins), (volume.horizon, volume.pins().into_iter().collect()));
    let jobs = volume.jobs.iter();
    let jobs = jobs.map(|(job, of)| RestoreJob { volume: id, job: *job, moved_at: of.moved_at });
    let told = restores(view, 100).unwrap().into_iter().filter(|job| job.volume == id);
    assert!(jobs.eq(told), "the restores under way");
}

/// A volume that was deleted answers nothing.
pub fn gone(view: &MemoryView, id: VolumeId) {
    assert_eq!(volume_info(view, id).unwrap(), None);
    for question in [Query::Usage, Query::Inode { ino: InodeId::ROOT }] {
        assert_eq!(ask(view, id, &question), Err(Errno::ESTALE));
    }
}

/// Every seq is there as it was, or refused.
pub fn past(view: &MemoryView, id: VolumeId, volume: &Volume) {
    let kept = volume.kept();
    for (seq, (then, _)) in &volume.past {
        match as_of(view, id, *seq).unwrap() {
            Ok(past) => {
                assert!(kept.contains(seq), "{seq} is not kept whole, but not refused");
                tree(&past, id, then);
                check_usage(&past, id, *seq, then);
                check_absent(&past, id, then, volume);
            }
            Err(errno) => {
                assert!(!kept.contains(seq), "{seq} is kept, but refused with {errno}");
                assert_eq!(errno, Errno::ESTALE);
            }
        }
    }
    assert_eq!(as_of(view, id, volume.seq.next()).unwrap().err(), Some(Errno::EINVAL));
}

/// No inode is there that was made later or was gone.
fn check_absent(read: &dyn Read, id: VolumeId, then: &Tree, volume: &Volume) {
    for ino in (1..volume.now.next_ino).map(InodeId::new).filter(|ino| then.get(*ino).is_none()) {
        assert_eq!(body(read, id, Query::Inode { ino }), AnswerBody::Inode(None));
    }
}

fn check_usage(read: &dyn Read, id: VolumeId, seq: Seq, tree: &Tree) {
    let answer = ask(read, id, &Query::Usage).unwrap();
    assert_eq!(answer.seq, seq);
    let AnswerBody::Usage(usage) = answer.body else {
        panic!("{answer:?}");
    };
    assert_eq!((usage.bytes_used, usage.inodes_used), (tree.bytes(), tree.len() as u64));
}

/// What the volumes may read is there, and hot bytes are whole.
pub fn blobs(view: &MemoryView, volumes: &BTreeMap<VolumeId, Volume>, blobs: &Blobs) {
    for (digest, blob) in &blobs.present {
        for volume in volumes {
            let (volume, is_live) = (*volume.0, !volume.1.deleted);
            let place = locate(view, volume, &[*digest]).unwrap()[0];
            let told = place.map(|place| (place.generation.counter, place.len, place.hot, place.verified));
            let known = (blob.generation, blob.len, blob.hot, blob.verified);
            assert_eq!(
                told,
                (is_live && blob.volumes.contains(&volume)).then_some(known),
                "where {digest} is"
            );
            if let Some(place) = place.filter(|place| place.hot) {
                let bytes = hot_bytes(view, SITE, place.generation).unwrap().unwrap();
                assert_eq!(bytes.len(), blob.len as usize);
            }
        }
    }
}

/// What waits to be drained or merged, in the order of generations.
pub fn waiting(view: &MemoryView, blobs: &Blobs) {
    let listed = |wait: Wait| {
        let of_kind = blobs.present.iter().filter(move |(_, blob)| blob.hot && blob.wait == wait);
        let mut listed: Vec<_> = of_kind.map(|(digest, blob)| (blob.generation, *digest, blob.len)).collect();
        listed.sort_unstable();
        listed
    };
    let told = |found: Vec<HotBlob>| -> Vec<_> {
        found.into_iter().map(|hot| (hot.generation.counter, hot.digest, hot.len)).collect()
    };
    assert_eq!(told(hot_blobs(view, None, 10_000).unwrap()), listed(Wait::Drain), "what is to be drained");
    let tails = tails(view, Time::new(i64::MAX, 0), 10_000).unwrap();
    assert_eq!(told(tails), listed(Wait::Merge), "what is to be merged");
}

/// What is different between two trees, as watchers must hear of it.
pub fn changes(old: &Tree, new: &Tree) -> Vec<Change> {
    let mut changes = Vec::new();
    let (old_names, new_names) = (old.names(), new.names());
    for (ino, was) in old.nodes() {
        names(was, new.get(ino), ino, &mut changes);
        let Some(is) = new.get(ino) else {
            changes.push(Change::Attr(ino));
            continue;
        };
        if was.body != is.body && !was.is_dir() {
            changes.push(Change::Content(ino));
        }
        if was.xattrs != is.xattrs {
            changes.push(Change::Xattr(ino));
        }
        if old.attr(ino, &old_names) != new.attr(ino, &new_names) {
            changes.push(Change::Attr(ino));
        }
    }
    for (ino, is) in new.nodes().filter(|(ino, _)| old.get(*ino).is_none()) {
        names(is, None, ino, &mut changes);
        changes.push(Change::Attr(ino));
    }
    changes
}

fn names(one: &Node, other: Option<&Node>, dir: InodeId, changes: &mut Vec<Change>) {
    let Some(entries) = one.entries() else {
        return;
    };
    let empty = Default::default();
    let others = other.and_then(Node::entries).unwrap_or(&empty);
    for name in entries.keys().chain(others.keys()) {
        if entries.get(name) != others.get(name) {
            changes.push(Change::Name(Place { parent: dir, name: Name::new(&name[..]).unwrap() }));
        }
    }
}
