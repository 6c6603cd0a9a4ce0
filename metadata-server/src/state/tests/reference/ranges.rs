//! What appends, holes and copies by reference make of a file.

use super::{
    blobs::Wait,
    rules::{Act, Effect, Gives, Verdict, refuse_if, update},
    tree::{Body, Node, by_chunk},
};
use bytes::Bytes;
use sitefs_base::{
    Errno, Extent, FileKind, InodeId, Seq, Time,
    limits::{
        CHUNK_EXTENTS_BEHIND, CHUNK_EXTENTS_MAX, CHUNK_SIZE, COMMIT_CHUNKS_MAX, FILE_MAX, HOT_MAX,
        INLINE_MAX, MERGE_ABOVE,
    },
    op::{SetAttr, SetTime},
};
use std::collections::BTreeSet;

fn require_file(node: &Node) -> Verdict<()> {
    refuse_if(node.is_dir(), Errno::EISDIR)?;
    refuse_if(node.kind != FileKind::File, Errno::EINVAL)
}

/// The part of an extent in `from..to`.
fn part(extent: &Extent, from: u64, to: u64) -> Option<Extent> {
    let (start, end) = (extent.offset.max(from), extent.end().min(to));
    (start < end).then(|| Extent {
        offset: start,
        len: (end - start) as u32,
        blob_offset: extent.blob_offset + (start - extent.offset) as u32,
        ..*extent
    })
}

/// Extents of one chunk, where those that go on in the same blob are one.
fn joined(extents: Vec<Extent>) -> Vec<Extent> {
    let mut joined: Vec<Extent> = Vec::new();
    for extent in extents {
        let goes_on = |last: &&mut Extent| {
            let behind = (last.end(), last.digest, last.blob_offset + last.len);
            behind == (extent.offset, extent.digest, extent.blob_offset)
        };
        match joined.last_mut().filter(goes_on) {
            Some(last) => last.len += extent.len,
            None => joined.push(extent),
        }
    }
    joined
}

/// The first byte behind the chunks that one operation may change.
fn end_of_op(offset: u64) -> u64 {
    (offset / CHUNK_SIZE + COMMIT_CHUNKS_MAX as u64).saturating_mul(CHUNK_SIZE)
}

fn known_bytes(node: &Node) -> Option<Bytes> {
    match &node.body {
        Body::Bytes(bytes) => Some(bytes.clone()),
        _ => None,
    }
}

impl Act<'_> {
    /// A layout for a file; says if one of its chunks has too many extents now.
    pub fn lay(&mut self, (ino, node): (InodeId, &mut Node), size: u64, extents: Vec<Extent>, named: &[u32]) {
        let had_rows = node.rows().is_some();
        node.lay(size, extents, named, self.seq);
        let Some(rows) = node.rows() else { return };
        let mut stored = rows.keys().filter(|chunk| !had_rows || named.contains(chunk));
        let crowded = stored.rfind(|chunk| node.chunk(**chunk).len() > MERGE_ABOVE);
        self.crowded = crowded.map(|chunk| (ino, *chunk)).or(self.crowded);
    }

    /// Bytes become blobs, none of which crosses a chunk.
    fn store(&mut self, offset: u64, bytes: &[u8], wait: Wait) -> Verdict<Vec<Extent>> {
        let (mut extents, mut done) = (Vec::new(), 0);
        while done < bytes.len() {
            let at = offset + done as u64;
            let len = (bytes.len() - done).min((CHUNK_SIZE - at % CHUNK_SIZE) as usize).min(HOT_MAX);
            let digest = sitefs_blobstore::hash(&bytes[done..done + len]);
            self.blobs.hand_in(self.volume, (digest, len as u32), wait)?;
            extents.push(Extent { offset: at, len: len as u32, digest, blob_offset: 0 });
            done += len;
        }
        Ok(extents)
    }

    /// `new` takes the place of what lies in `from..to`.
    fn lay_over(
        &mut self,
        (ino, node): (InodeId, &mut Node),
        (from, to): (u64, u64),
        (new, size): (Vec<Extent>, u64),
        (most, full): (usize, Errno),
    ) -> Verdict<()> {
        let (first, last) = (from / CHUNK_SIZE, (to - 1) / CHUNK_SIZE);
        let mut chunks = by_chunk(node.extents());
        let mut named: BTreeSet<u32> = by_chunk(&new).into_keys().collect();
        named.extend(chunks.keys().filter(|chunk| (first..=last).contains(&u64::from(**chunk))));
        for chunk in &named {
            let old = chunks.remove(chunk).unwrap_or_default();
            let around = |extent: &Extent| [part(extent, 0, from), part(extent, to, u64::MAX)];
            let mut extents: Vec<Extent> = old.iter().flat_map(around).flatten().collect();
            extents.extend(by_chunk(&new).remove(chunk).unwrap_or_default());
            extents.sort_by_key(|extent| extent.offset);
            let extents = joined(extents);
            refuse_if(extents.len() > most.max(old.len()), full)?;
            chunks.insert(*chunk, extents);
        }
        let named: Vec<u32> = named.into_iter().collect();
        self.lay((ino, node), size, chunks.into_values().flatten().collect(), &named);
        Ok(())
    }

    fn written(&mut self, ino: InodeId, mut node: Node, set: &SetAttr, changed: Option<Time>) {
        node.cver = self.seq;
        update(&mut node, set, (true, changed), self.at);
        *self.now.tree.edit(ino) = node;
    }

    pub fn append(
        &mut self,
        ino: InodeId,
        bytes: &Bytes,
        (changed, kill_setid): (Option<Time>, bool),
    ) -> Verdict<Effect> {
        refuse_if(bytes.is_empty() || bytes.len() > HOT_MAX, Errno::EINVAL)?;
        let Some(mut node) = self.now.tree.get(ino).cloned() else {
            let known = ino >= InodeId::ROOT && ino.get() < self.now.next_ino;
            refuse_if(!known, Errno::ESTALE)?;
            return Ok(Effect::dropped(ino));
        };
        require_file(&node)?;
        let offset = node.size();
        refuse_if(offset + bytes.len() as u64 > FILE_MAX, Errno::EFBIG)?;
        let all = known_bytes(&node).map(|old| [&old[..], bytes].concat());
        match all {
            Some(all) if all.len() <= INLINE_MAX => node.body = Body::Bytes(all.into()),
            all => {
                let (from, bytes) = all.map_or((offset, bytes.clone()), |all| (0, all.into()));
                if from == 0 {
                    node.body = Body::Bytes(Bytes::new());
                }
                let (to, new) = (from + bytes.len() as u64, self.store(from, &bytes, Wait::Merge)?);
                self.lay_over(
                    (ino, &mut node),
                    (from, to),
                    (new, to),
                    (CHUNK_EXTENTS_BEHIND, Errno::ENOSPC),
                )?;
            }
        }
        let set = SetAttr { mtime: changed.map(SetTime::Written), kill_setid, ..SetAttr::default() };
        self.written(ino, node, &set, changed);
        Ok(Effect { extra: Gives::Appended(offset), ..Effect::on(ino, &[]) })
    }

    pub fn punch(&mut self, ino: InodeId, offset: u64, len: u64) -> Verdict<Effect> {
        let mut node = self.node(ino)?.clone();
        require_file(&node)?;
        refuse_if(len == 0, Errno::EINVAL)?;
        let end = offset.checked_add(len).ok_or(Errno::EFBIG)?.min(node.size());
        if offset >= end {
            return Ok(Effect::nothing(ino, &[]));
        }
        refuse_if(end > end_of_op(offset), Errno::EINVAL)?;
        if let Some(bytes) = known_bytes(&node) {
            let mut bytes = bytes.to_vec();
            bytes[offset as usize..end as usize].fill(0);
            node.body = Body::Bytes(bytes.into());
        } else {
            for extent in node.extents() {
                let left = part(extent, offset, end).map_or(0, |hole| extent.len - hole.len);
                if left > 0 && left < extent.len {
                    self.blobs.name_again(self.volume, &extent.digest);
                }
            }
            let most = (CHUNK_EXTENTS_BEHIND, Errno::ENOSPC);
            let size = node.size();
            self.lay_over((ino, &mut node), (offset, end), (Vec::new(), size), most)?;
        }
        self.written(ino, node, &SetAttr::default(), None);
        Ok(Effect::on(ino, &[]))
    }

    pub fn clone_range(
        &mut self,
        (source, from): (InodeId, u64),
        (target, to): (InodeId, u64),
        asked: u64,
        expect: Option<Seq>,
    ) -> Verdict<Effect> {
        let old = self.node(source)?.clone();
        let mut node = self.node(target)?.clone();
        require_file(&old)?;
        require_file(&node)?;
        refuse_if(expect.is_some_and(|cver| cver != old.cver), Errno::ESTALE)?;
        let end = to.checked_add(asked).ok_or(Errno::EFBIG)?.min(FILE_MAX).min(end_of_op(to));
        refuse_if(from.checked_add(asked).is_none(), Errno::EINVAL)?;
        refuse_if(asked > 0 && to >= FILE_MAX, Errno::EFBIG)?;
        let len = asked.min(old.size().saturating_sub(from)).min(end.saturating_sub(to));
        refuse_if(source == target && from < to + len && to < from + len, Errno::EINVAL)?;
        if len == 0 {
            return Ok(Effect { extra: Gives::Cloned(0), ..Effect::nothing(target, &[]) });
        }
        self.copy((&old, from), (target, &mut node, to), len)?;
        self.written(target, node, &SetAttr::default(), None);
        Ok(Effect { extra: Gives::Cloned(len), ..Effect::on(target, &[]) })
    }

    fn copy(
        &mut self,
        (old, from): (&Node, u64),
        (ino, node, to): (InodeId, &mut Node, u64),
        len: u64,
    ) -> Verdict<()> {
        let size = node.size().max(to + len);
        let bytes = known_bytes(old).map(|bytes| bytes.slice(from as usize..(from + len) as usize));
        let in_row = known_bytes(node).filter(|_| size <= INLINE_MAX as u64);
        if let (Some(bytes), Some(target)) = (&bytes, in_row) {
            let mut all = target.to_vec();
            all.resize(size as usize, 0);
            all[to as usize..(to + len) as usize].copy_from_slice(bytes);
            node.body = Body::Bytes(all.into());
            return Ok(());
        }
        let new = match bytes {
            Some(bytes) => self.store(to, &bytes, Wait::Drain)?,
            None => self.shared(old, (from, to), len),
        };
        let most = (CHUNK_EXTENTS_MAX, Errno::EOPNOTSUPP);
        if let Some(bytes) = known_bytes(node).filter(|bytes| !bytes.is_empty()) {
            let all_new = to == 0 && len >= bytes.len() as u64;
            let kept = if all_new { Vec::new() } else { self.store(0, &bytes, Wait::Drain)? };
            node.body = Body::Blobs { size: bytes.len() as u64, extents: kept, rows: None };
        }
        self.lay_over((ino, node), (to, to + len), (new, size), most)
    }

    /// A range of the source where it goes in the target, cut where chunks end.
    fn shared(&mut self, old: &Node, (from, to): (u64, u64), len: u64) -> Vec<Extent> {
        let mut new = Vec::new();
        for extent in old.extents().iter().filter_map(|extent| part(extent, from, from + len)) {
            let moved = Extent { offset: extent.offset - from + to, ..extent };
            self.blobs.name_again(self.volume, &moved.digest);
            let border = (moved.offset / CHUNK_SIZE + 1) * CHUNK_SIZE;
            new.extend([part(&moved, 0, border), part(&moved, border, u64::MAX)].into_iter().flatten());
        }
        new
    }
}
