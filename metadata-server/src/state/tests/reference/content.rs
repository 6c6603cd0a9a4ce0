//! What commits and truncation make of a file.

use super::{
    blobs::Wait,
    rules::{Act, Effect, Verdict, refuse_if, update},
    tree::{Body, Node},
};
use sitefs_base::{
    Digest, Errno, Extent, FileKind, InodeId, Seq,
    limits::{CHUNK_EXTENTS_MAX, CHUNK_SIZE, COMMIT_CHUNKS_MAX, FILE_MAX, HOT_MAX, INLINE_MAX},
    op::{ChunkLayout, Commit, Create, NewContent, Publish, SetTime},
};
use std::collections::BTreeMap;

fn check(content: &NewContent) -> Verdict<()> {
    let NewContent::Chunks { size, changed } = content else {
        let fits = match content {
            NewContent::Inline(bytes) => bytes.len() <= INLINE_MAX,
            NewContent::Hot { bytes, .. } => !bytes.is_empty() && bytes.len() <= HOT_MAX,
            NewContent::Chunks { .. } => true,
        };
        return refuse_if(!fits, Errno::EINVAL);
    };
    refuse_if(*size > FILE_MAX, Errno::EFBIG)?;
    let numbers: Vec<u32> = changed.iter().map(|layout| layout.chunk).collect();
    let ascending = numbers.windows(2).all(|pair| pair[0] < pair[1]);
    let good = ascending && numbers.len() <= COMMIT_CHUNKS_MAX;
    refuse_if(!good || !changed.iter().all(|layout| fits(layout, *size)), Errno::EINVAL)
}

fn fits(layout: &ChunkLayout, size: u64) -> bool {
    let start = u128::from(layout.chunk) * u128::from(CHUNK_SIZE);
    let end = |extent: &Extent| u128::from(extent.offset) + u128::from(extent.len);
    let inside = |extent: &Extent| {
        u128::from(extent.offset) >= start
            && end(extent) <= start + u128::from(CHUNK_SIZE)
            && end(extent) <= u128::from(size)
            && u64::from(extent.blob_offset) + u64::from(extent.len) <= CHUNK_SIZE
            && extent.len > 0
    };
    layout.extents.len() <= CHUNK_EXTENTS_MAX
        && layout.extents.iter().all(inside)
        && layout.extents.windows(2).all(|pair| end(&pair[0]) <= u128::from(pair[1].offset))
}

/// The extents of a file that becomes `size` bytes long.
fn cut(extents: &[Extent], size: u64) -> Vec<Extent> {
    let left = |extent: &Extent| {
        let len = size.saturating_sub(extent.offset).min(u64::from(extent.len)) as u32;
        (len > 0).then(|| Extent { len, ..extent.clone() })
    };
    extents.iter().filter_map(left).collect()
}

pub fn truncate(node: &mut Node, size: u64, seq: Seq) -> Verdict<()> {
    refuse_if(node.is_dir(), Errno::EISDIR)?;
    refuse_if(node.kind != FileKind::File, Errno::EINVAL)?;
    refuse_if(size > FILE_MAX, Errno::EFBIG)?;
    if size == node.size() {
        return Ok(());
    }
    match &node.body {
        Body::Bytes(bytes) if !bytes.is_empty() => {
            refuse_if(size > INLINE_MAX as u64, Errno::EINVAL)?;
            let bytes = bytes.iter().copied().chain(std::iter::repeat(0)).take(size as usize);
            node.body = Body::Bytes(bytes.collect());
        }
        _ => {
            let extents = cut(node.extents(), size);
            node.lay(size, extents, &[], seq);
        }
    }
    node.cver = seq;
    Ok(())
}

impl Act<'_> {
    pub fn commit(&mut self, commit: &Commit) -> Verdict<Effect> {
        refuse_if(commit.set.size.is_some(), Errno::EINVAL)?;
        commit.content.as_ref().map_or(Ok(()), check)?;
        if self.now.tree.get(commit.ino).is_some() {
            if let Some(link) = &commit.link {
                let named = self.now.tree.find(&link.at) == Some(commit.ino);
                refuse_if(!named && !self.owns(commit.ino), Errno::EINVAL)?;
            }
            return self.overwrite(commit.ino, commit);
        }
        let Some(create) = &commit.create else {
            let known = commit.ino >= InodeId::ROOT && commit.ino.get() < self.now.next_ino;
            refuse_if(!known, Errno::ESTALE)?;
            return Ok(Effect::dropped(commit.ino));
        };
        let link = commit.link.as_ref().ok_or(Errno::EINVAL)?;
        refuse_if(!self.owns(commit.ino), Errno::EINVAL)?;
        if self.now.leftovers.contains(&commit.ino) {
            return Ok(Effect::dropped(commit.ino));
        }
        self.parent(&link.at)?;
        let Some(found) = self.now.tree.find(&link.at) else {
            return self.publish(commit, create, link);
        };
        refuse_if(link.exclusive, Errno::EEXIST)?;
        match self.now.tree.get(found).unwrap().kind {
            FileKind::File => self.overwrite(found, commit),
            FileKind::Directory => Err(Errno::EISDIR),
            _ => Err(Errno::EEXIST),
        }
    }

    fn overwrite(&mut self, ino: InodeId, commit: &Commit) -> Verdict<Effect> {
        let mut node = self.now.tree.get(ino).unwrap().clone();
        if commit.content.is_some() {
            refuse_if(node.is_dir(), Errno::EISDIR)?;
            refuse_if(node.kind != FileKind::File, Errno::EINVAL)?;
        }
        refuse_if(commit.expect_cver.is_some_and(|cver| cver != node.cver), Errno::ESTALE)?;
        if commit.content.is_none() && commit.set.is_empty() {
            return Ok(Effect::nothing(ino, &[]));
        }
        self.write(ino, &mut node, commit)?;
        update(&mut node, &commit.set, (commit.content.is_some(), commit.changed), self.at);
        *self.now.tree.edit(ino) = node;
        Ok(Effect::on(ino, &[]))
    }

    fn publish(&mut self, commit: &Commit, create: &Create, link: &Publish) -> Verdict<Effect> {
        refuse_if(commit.expect_cver.is_some(), Errno::ESTALE)?;
        let mut node = self.new_node(link.at.parent, FileKind::File, create);
        self.write(commit.ino, &mut node, commit)?;
        update(&mut node, &commit.set, (true, None), self.at);
        node.ctime = commit.changed.map_or(self.at, |changed| changed.min(self.at));
        let made = match commit.set.atime {
            Some(SetTime::Written(made)) => Some(made),
            _ => None,
        };
        self.add(&link.at, commit.ino, node, made)
    }

    fn write(&mut self, ino: InodeId, node: &mut Node, commit: &Commit) -> Verdict<()> {
        let Some(content) = &commit.content else {
            return Ok(());
        };
        node.cver = self.seq;
        match content {
            NewContent::Inline(bytes) => node.body = Body::Bytes(bytes.clone()),
            NewContent::Hot { digest, bytes } => {
                let len = bytes.len() as u32;
                self.blobs.hand_in(self.volume, (*digest, len), Wait::Drain)?;
                let extents = vec![Extent { offset: 0, len, digest: *digest, blob_offset: 0 }];
                node.body = Body::Blobs { size: u64::from(len), extents, rows: None };
            }
            NewContent::Chunks { size, changed } => {
                self.name_all(node, changed, commit)?;
                let changed_chunk = |extent: &Extent| {
                    changed.iter().any(|layout| u64::from(layout.chunk) == extent.offset / CHUNK_SIZE)
                };
                let mut extents = cut(node.extents(), *size);
                extents.retain(|extent| !changed_chunk(extent));
                extents.extend(changed.iter().flat_map(|layout| layout.extents.clone()));
                extents.sort_by_key(|extent| extent.offset);
                let named: Vec<u32> = changed.iter().map(|layout| layout.chunk).collect();
                self.lay((ino, node), *size, extents, &named);
            }
        }
        Ok(())
    }

    fn name_all(&mut self, node: &Node, changed: &[ChunkLayout], commit: &Commit) -> Verdict<()> {
        let mut needed = BTreeMap::<Digest, u64>::new();
        for extent in changed.iter().flat_map(|layout| &layout.extents) {
            let end = u64::from(extent.blob_offset) + u64::from(extent.len);
            let len = needed.entry(extent.digest).or_default();
            *len = end.max(*len);
        }
        for (digest, len) in needed {
            let held = node.extents().iter().any(|extent| extent.digest == digest);
            self.blobs.name(self.volume, (digest, len), &commit.uploaded, held)?;
        }
        Ok(())
    }
}
