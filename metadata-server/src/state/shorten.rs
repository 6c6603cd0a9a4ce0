//! Making large files shorter in steps: one command that removed a million chunk rows would stop the
//! cell for everybody. The leader shortens such a file by [`shorten`] before it proposes what asked for
//! it; each step is a mutation of its own and leaves a whole, shorter file.

use super::{
    Family, Read, attrs, content, keys, layout,
    mutation::{Finished, Mutation},
    reads::{self, Node},
    reap::NO_SESSION,
    scope::Scope,
    stop::{Step, require},
};
use sitefs_base::{
    Content, Errno, InodeId, Result, Seq, VolumeId,
    limits::CHUNK_SIZE,
    op::{Change, Commit, Credit, Event, NewContent, Op, SetAttr},
};

/// Chunk rows that one step cuts off.
const SLICE_ROWS: usize = 1_000;
/// Chunk rows that one operation may cut off a file: what others wrote since the leader looked is less.
const CUT_ROWS_MAX: usize = 4 * SLICE_ROWS;

/// How a file is made shorter before an operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cuts {
    /// The file.
    pub ino: InodeId,
    /// The lengths that it gets one after the other, down to that of the operation.
    pub sizes: Vec<u64>,
}

/// Whether an operation would cut off more rows than one command should: for nearly none.
pub fn must_be_cut(read: &dyn Read, volume: VolumeId, op: &Op) -> Result<bool> {
    let Some((prefix, from, ..)) = range(read, volume, op)? else { return Ok(false) };
    Ok(read.scan(Family::Chunk, &prefix, &from, SLICE_ROWS + 1)?.len() > SLICE_ROWS)
}

/// The chunk rows of a file behind its new end: their prefix, where they begin, the file and its length.
type Range = (Vec<u8>, Vec<u8>, InodeId, u64);

fn range(read: &dyn Read, volume: VolumeId, op: &Op) -> Result<Option<Range>> {
    let Some((node, size)) = shortened(read, volume, op)? else { return Ok(None) };
    if node.row.content != Content::Chunked || size >= node.row.size {
        return Ok(None);
    }
    // The chunk of the new end keeps its row.
    let first = layout::chunk_of(size.next_multiple_of(CHUNK_SIZE));
    let (prefix, from) = (keys::chunks(volume, node.ino), keys::chunk(volume, node.ino, first));
    Ok(Some((prefix, from, node.ino, size)))
}

/// What has to be cut off in steps before `op` is proposed. Reads all rows that go.
pub fn cuts(read: &dyn Read, volume: VolumeId, op: &Op) -> Result<Option<Cuts>> {
    let Some((prefix, from, ino, size)) = range(read, volume, op)? else { return Ok(None) };
    let mut found = Vec::new();
    reads::walk(read, Family::Chunk, &prefix, &from, |key, _| {
        found.push(layout::chunk_in(key)?);
        Ok(true)
    })?;
    if found.len() <= SLICE_ROWS {
        return Ok(None);
    }
    let starts = found.chunks(SLICE_ROWS).rev().filter_map(<[u32]>::first);
    let sizes = starts.map(|chunk| (u64::from(*chunk) * CHUNK_SIZE).max(size)).collect();
    Ok(Some(Cuts { ino, sizes }))
}

/// The file that an operation makes shorter, and to what; no more than a guess: apply decides.
fn shortened(read: &dyn Read, volume: VolumeId, op: &Op) -> Result<Option<(Node, u64)>> {
    let (found, size) = match op {
        Op::SetAttr { ino, set } => match set.size {
            Some(size) => (reads::node(read, volume, *ino)?, size),
            None => return Ok(None),
        },
        Op::Commit(commit) => match &commit.content {
            Some(NewContent::Chunks { size, .. }) => (target(read, volume, commit)?, *size),
            // Nothing of the old layout stays.
            Some(NewContent::Inline(_) | NewContent::Hot { .. }) => (target(read, volume, commit)?, 0),
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    Ok(found.map(|node| (node, size)))
}

fn target(read: &dyn Read, volume: VolumeId, commit: &Commit) -> Result<Option<Node>> {
    let found = match (reads::node(read, volume, commit.ino)?, &commit.link) {
        (Some(node), _) => Some(node),
        (None, Some(link)) if !link.exclusive => {
            match reads::dentry(read, volume, link.at.parent, &link.at.name)? {
                Some(entry) => reads::node(read, volume, entry.ino)?,
                None => None,
            }
        }
        (None, _) => None,
    };
    // One that is for another version will be refused.
    Ok(found.filter(|node| commit.expect_cver.is_none_or(|cver| cver == node.row.cver)))
}

/// One step: the file has `size` bytes from now on, if it had more.
pub(super) fn shorten(
    scope: &mut Scope,
    id: VolumeId,
    ino: InodeId,
    size: u64,
) -> Step<(Option<Seq>, Option<Event>)> {
    let row = reads::live(&scope.rows, id)?.ok_or(Errno::ESTALE)?;
    require(row.settings.read_only.is_none(), Errno::EROFS)?;
    let mut m = Mutation::begin(scope, id, row, NO_SESSION);
    let Some(mut node) = m.find(ino)?.filter(|node| size < node.row.size) else { return Ok((None, None)) };
    content::truncate(&mut m, &mut node, size)?;
    attrs::update(&mut m, &mut node, &SetAttr::default(), true)?;
    m.changed(Change::Content(ino));
    m.save(&node)?;
    let Finished { seq, event, .. } = m.finish(Credit::NONE)?;
    Ok((Some(seq), event))
}

/// Refuses to cut more rows off a file than one command may.
pub(super) fn require_few_rows(m: &Mutation, node: &Node, size: u64) -> Step<()> {
    if node.row.content != Content::Chunked || size >= node.row.size {
        return Ok(());
    }
    let (prefix, from) = (keys::chunks(m.id, node.ino), keys::chunk(m.id, node.ino, layout::chunk_of(size)));
    let rows = m.scope.rows.scan(Family::Chunk, &prefix, &from, CUT_ROWS_MAX + 1)?;
    require(rows.len() <= CUT_ROWS_MAX, Errno::EBUSY)
}
