//! What the leader's joining of extents makes of a file: readers of now and of the past see other
//! extents in the rows that hold since then, and nothing else.

use super::{
    model::{INCARNATION, Model, Volume},
    rules::{Verdict, refuse_if},
    tree::{Body, chunk_of},
};
use crate::state::{CommandBody, Joined, MergeStep, Reply};
use sitefs_base::{
    Digest, Errno, Extent, Generation, InodeId, Seq, VolumeId,
    limits::{CHUNK_SIZE, HOT_MAX},
    op::{BlobWanted, Uploaded},
};

/// A row of a chunk and what it holds.
struct Row {
    ino: InodeId,
    chunk: u32,
    since: Seq,
    extents: Vec<Extent>,
}

impl Model {
    /// Draws a generation for a joined blob.
    pub fn draw(&mut self, id: VolumeId, blob: BlobWanted) -> Option<Generation> {
        let step = MergeStep::Upload { blob: blob.clone() };
        let reply = self.plain(CommandBody::Merged { volume: id, step });
        if self.volumes[&id].deleted {
            assert_eq!(reply, Err(Errno::ESTALE));
            return None;
        }
        let counter = self.blobs.grant(id, &blob);
        let drawn = counter.map(|counter| Generation { incarnation: INCARNATION, counter });
        assert_eq!(reply, Ok(Reply::Upload(drawn)));
        drawn
    }

    pub fn join(&mut self, id: VolumeId, ino: InodeId, old: Vec<Extent>, new: Joined) {
        let verdict = self.expect_joined(id, ino, &old, &new);
        let step = MergeStep::Replace { ino, old, new };
        let reply = self.plain(CommandBody::Merged { volume: id, step });
        assert_eq!(reply, verdict.map(|()| Reply::Done));
        self.check(id);
    }

    fn expect_joined(&mut self, id: VolumeId, ino: InodeId, old: &[Extent], new: &Joined) -> Verdict<()> {
        let neighbours = old.windows(2).all(|pair| pair[0].end() == pair[1].offset);
        refuse_if(old.len() < 2 || !neighbours, Errno::EINVAL)?;
        let (offset, end) = (old[0].offset, old[old.len() - 1].end());
        let one_chunk = offset / CHUNK_SIZE == (end - 1) / CHUNK_SIZE;
        let (digest, fits) = match new {
            Joined::Hot { digest, bytes } => {
                (*digest, bytes.len() <= HOT_MAX && bytes.len() as u64 == end - offset)
            }
            Joined::Object { digest, .. } => (*digest, true),
        };
        refuse_if(!one_chunk || !fits, Errno::EINVAL)?;
        let whole = Extent { offset, len: (end - offset) as u32, digest, blob_offset: 0 };
        let volume = &self.volumes[&id];
        refuse_if(volume.deleted, Errno::ESTALE)?;
        let Some(row) = find(volume, ino, old) else { return Ok(()) };
        let mut blobs = self.blobs.clone();
        match new {
            Joined::Hot { .. } => blobs.hand_in(id, (digest, whole.len), super::blobs::Wait::Merge)?,
            Joined::Object { generation, .. } => {
                let held = volume.now.tree.get(ino).unwrap().extents().iter();
                let held = held.into_iter().any(|extent| extent.digest == digest);
                let uploaded = generation.map(|generation| Uploaded { digest, generation });
                let uploaded: Vec<_> = uploaded.into_iter().collect();
                blobs.name(id, (digest, u64::from(whole.len)), &uploaded, held)?;
            }
        }
        let at = row.extents.windows(old.len()).position(|some| some == old).unwrap();
        let mut extents = row.extents.clone();
        extents.splice(at..at + old.len(), [whole]);
        let lost = |extent: &&Extent| extents.iter().all(|kept| kept.digest != extent.digest);
        old.iter().filter(lost).for_each(|extent| blobs.superseded(&extent.digest));
        self.blobs = blobs;
        let volume = self.volumes.get_mut(&id).unwrap();
        let trees = reword(volume, &row, &extents);
        self.saw(("join", if trees > 2 { "replaced in the past" } else { "replaced" }));
        Ok(())
    }
}

/// The row that holds these extents side by side now.
fn find(volume: &Volume, ino: InodeId, old: &[Extent]) -> Option<Row> {
    let node = volume.now.tree.get(ino)?;
    let chunk = chunk_of(&old[0]);
    let since = *node.rows()?.get(&chunk)?;
    let extents = node.chunk(chunk);
    let found = extents.windows(old.len()).any(|some| some == old);
    found.then_some(Row { ino, chunk, since, extents })
}

/// Every tree in which the row holds has its new extents; gives how many those are.
fn reword(volume: &mut Volume, row: &Row, new: &[Extent]) -> usize {
    let mut trees = 0;
    let past = volume.past.values_mut().map(|(tree, _)| tree);
    for tree in past.chain([&mut volume.now.tree]) {
        let holds = |since: &Seq| *since == row.since;
        let node = tree.get(row.ino);
        if !node.and_then(|node| node.rows()?.get(&row.chunk)).is_some_and(holds) {
            continue;
        }
        if let Body::Blobs { extents, .. } = &mut tree.edit(row.ino).body {
            extents.retain(|extent| chunk_of(extent) != row.chunk);
            extents.extend_from_slice(new);
            extents.sort_by_key(|extent| extent.offset);
        }
        trees += 1;
    }
    trees
}

/// The bytes of a blob, as far as it matters: the same ones for the same digest.
pub fn bytes_of(extent: &Extent) -> Vec<u8> {
    let Extent { len, digest, blob_offset, .. } = extent;
    let byte = |at: u32| digest.as_bytes()[((blob_offset + at) % 64) as usize];
    (0..*len).map(byte).collect()
}

/// The digest of extents side by side.
pub fn joined(extents: &[Extent]) -> (Digest, Vec<u8>) {
    let bytes: Vec<u8> = extents.iter().flat_map(bytes_of).collect();
    (sitefs_blobstore::hash(&bytes), bytes)
}
