//! Answering questions from the rows as they are.

use super::{
    Family, Read, asof, keys, layout,
    reads::{self, Node},
    rows::{self, ChunkRow, DentryRow, FeedRow, ReceiptRow, SessionRow, VolumeRow},
    stop::{Step, Stop, refuse, require},
    xattr,
};
use sitefs_base::{
    Content, Errno, Inode, InodeId, Name, OpId, Result, Seq, SessionId, Time, VolumeId,
    limits::{COMMIT_CHUNKS_MAX, LISTING_PAGE},
    op::{Answer, AnswerBody, ChunkLayout, Entry, Event, Query},
};

/// Bytes of entries after which a listing stops, so that it fits into one message.
const LISTING_BYTES: usize = 1 << 20;
/// What an entry costs beside its name and content: attributes, roughly.
const ENTRY_BYTES: usize = 128;

/// Answers a question about a volume. `Resolve` and `Reserve` need more than rows: `EINVAL` here.
pub fn query(read: &dyn Read, volume: VolumeId, query: &Query) -> Result<Result<Answer, Errno>> {
    match answer(read, volume, query) {
        Ok(answer) => Ok(Ok(answer)),
        Err(Stop::Refused(errno)) => Ok(Err(errno)),
        Err(Stop::Failed(error)) => Err(error),
    }
}

fn answer(read: &dyn Read, id: VolumeId, query: &Query) -> Step<Answer> {
    let volume = reads::live(read, id)?.ok_or(Errno::ESTALE)?;
    let body = match query {
        Query::Lookup { at } => lookup(read, id, at.parent, &at.name)?,
        Query::Inode { ino } => AnswerBody::Inode(reads::node(read, id, *ino)?.map(Node::into_inode)),
        Query::Inodes { inos } => AnswerBody::Inodes(inodes(read, id, inos)?),
        Query::ReadDir { dir, after, limit } => list(read, id, *dir, after.as_ref(), *limit)?,
        Query::Chunks { ino, cver, first, count } => {
            let wanted = (*first, *count);
            AnswerBody::Chunks(match (reads::node(read, id, *ino)?, cver) {
                (Some(node), _) => chunks(read, id, &node, wanted)?,
                (None, Some(cver)) => past_chunks(read, id, &volume, (*ino, *cver), wanted)?,
                (None, None) => return refuse(Errno::ESTALE),
            })
        }
        Query::Xattrs { ino } => {
            require(reads::node(read, id, *ino)?.is_some(), Errno::ESTALE)?;
            AnswerBody::Xattrs(xattr::list(read, id, *ino)?)
        }
        Query::Usage => AnswerBody::Usage(volume.usage()),
        Query::Resolve { .. } | Query::Reserve { .. } => return refuse(Errno::EINVAL),
    };
    Ok(Answer { seq: volume.seq, body })
}

fn directory(read: &dyn Read, id: VolumeId, ino: InodeId) -> Step<Node> {
    let node = reads::node(read, id, ino)?.ok_or(Errno::ENOENT)?;
    require(node.is_dir(), Errno::ENOTDIR)?;
    Ok(node)
}

fn lookup(read: &dyn Read, id: VolumeId, parent: InodeId, name: &Name) -> Step<AnswerBody> {
    let Some(entry) = reads::dentry(read, id, parent, name)? else {
        if !reads::is_dir(read, id, parent)? {
            let there = reads::node(read, id, parent)?.is_some();
            return refuse(if there { Errno::ENOTDIR } else { Errno::ENOENT });
        }
        return Ok(AnswerBody::Inode(None));
    };
    Ok(AnswerBody::Inode(Some(reads::named(read, id, entry.ino)?.into_inode())))
}

fn inodes(read: &dyn Read, id: VolumeId, inos: &[InodeId]) -> Step<Vec<Inode>> {
    require(inos.len() <= LISTING_PAGE as usize, Errno::EINVAL)?;
    let mut found = Vec::with_capacity(inos.len());
    for ino in inos {
        found.extend(reads::node(read, id, *ino)?.map(Node::into_inode));
    }
    Ok(found)
}

fn list(read: &dyn Read, id: VolumeId, dir: InodeId, after: Option<&Name>, limit: u32) -> Step<AnswerBody> {
    let node = directory(read, id, dir)?;
    let parent = node.row.parent.unwrap_or(InodeId::ROOT);
    let limit = limit.clamp(1, LISTING_PAGE) as usize;
    let prefix = keys::dentries(id, dir);
    let from = after.map_or_else(|| prefix.clone(), |name| reads::after(&keys::dentry(id, dir, name)));
    let mut names: Vec<Result<(Name, InodeId)>> = Vec::new();
    read.visit(Family::Dentry, &prefix, &from, limit + 1, &mut |key, value| {
        names.push(named(&prefix, key, value));
    })?;
    let found = names.len();
    names.truncate(limit);
    let mut entries = Vec::with_capacity(names.len());
    let mut bytes = 0;
    for entry in resolved(read, id, names)? {
        if bytes >= LISTING_BYTES {
            break;
        }
        bytes += ENTRY_BYTES + entry.name.as_bytes().len() + content_bytes(&entry.inode);
        entries.push(entry);
    }
    let complete = entries.len() == found;
    Ok(AnswerBody::Entries { dir: node.attr(), parent, entries, complete })
}

/// What a dentry row says.
fn named(prefix: &[u8], key: &[u8], value: &[u8]) -> Result<(Name, InodeId)> {
    let row: DentryRow = rows::decode(Family::Dentry, key, value)?;
    let name = Name::new(&key[prefix.len()..])
        .map_err(|error| rows::damaged(Family::Dentry, key, "has no valid name").because(error))?;
    Ok((name, row.ino))
}

/// The entries with these names.
fn resolved(read: &dyn Read, id: VolumeId, names: Vec<Result<(Name, InodeId)>>) -> Result<Vec<Entry>> {
    let (names, inodes): (Vec<Name>, Vec<InodeId>) =
        names.into_iter().collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let nodes = reads::all_named(read, id, &inodes)?;
    Ok(names.into_iter().zip(nodes).map(|(name, node)| Entry { name, inode: node.into_inode() }).collect())
}

fn content_bytes(inode: &Inode) -> usize {
    match &inode.content {
        Content::Empty | Content::Chunked => 0,
        Content::Inline(bytes) | Content::Target(bytes) => bytes.len(),
        Content::Extents(extents) => extents.len() * ENTRY_BYTES,
    }
}

/// Chunks of a version of a file that is gone: who has it open reads on.
fn past_chunks(
    read: &dyn Read,
    id: VolumeId,
    volume: &VolumeRow,
    (ino, cver): (InodeId, Seq),
    wanted: (u32, u32),
) -> Step<Vec<ChunkLayout>> {
    let past = asof::version(read, id, volume, ino, cver)?.ok_or(Errno::ESTALE)?;
    let node = reads::node(&past, id, ino)?.ok_or(Errno::ESTALE)?;
    chunks(&past, id, &node, wanted)
}

fn chunks(
    read: &dyn Read,
    id: VolumeId,
    node: &Node,
    (first, count): (u32, u32),
) -> Step<Vec<ChunkLayout>> {
    require(count as usize <= COMMIT_CHUNKS_MAX, Errno::EINVAL)?;
    let wanted = |chunk: u32| chunk >= first && chunk - first < count;
    if node.row.content != Content::Chunked {
        let chunks = layout::by_chunk(node.row.extents()).into_iter();
        let wanted = chunks.filter(|(chunk, _)| wanted(*chunk));
        return Ok(wanted.map(|(chunk, extents)| ChunkLayout { chunk, extents }).collect());
    }
    let (prefix, from) = (keys::chunks(id, node.ino), keys::chunk(id, node.ino, first));
    let mut found = Vec::new();
    for (key, value) in read.scan(Family::Chunk, &prefix, &from, count as usize)? {
        let chunk = layout::chunk_in(&key)?;
        if wanted(chunk) {
            let row: ChunkRow = rows::decode(Family::Chunk, &key, &value)?;
            found.push(ChunkLayout { chunk, extents: row.extents });
        }
    }
    Ok(found)
}

/// Events behind `after`, oldest first; `None` if the feed does not reach back so far, or if
/// `after` was never reached.
pub fn events_since(
    read: &dyn Read,
    volume: VolumeId,
    after: Seq,
    limit: usize,
) -> Result<Option<Vec<Event>>> {
    let Some(row): Option<VolumeRow> = reads::live(read, volume)? else {
        return Ok(None);
    };
    if after < row.feed_floor || after > row.seq {
        return Ok(None);
    }
    let prefix = keys::feeds(volume);
    let mut events = Vec::new();
    for (key, value) in read.scan(Family::Feed, &prefix, &keys::feed(volume, after.next()), limit)? {
        let seq = keys::part(&key, prefix.len())
            .ok_or_else(|| rows::damaged(Family::Feed, &key, "is no key of an event"))?;
        let FeedRow { origin, changes } = rows::decode(Family::Feed, &key, &value)?;
        events.push(Event { seq: Seq::from_key(seq), origin, changes });
    }
    Ok(Some(events))
}

/// A session as the cell knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionInfo {
    /// When it began.
    pub opened_at: Time,
    /// When it last executed an operation or was opened.
    pub last_used: Time,
    /// The highest operation executed.
    pub op_high_water: OpId,
    /// Replies below this operation are forgotten.
    pub ack_below: OpId,
}

/// Whether an operation was executed or refused before and its answer is kept: a retry gets that
/// answer, whatever has become of the conditions for executing it.
pub fn is_answered(read: &dyn Read, volume: VolumeId, session: SessionId, op: OpId) -> Result<bool> {
    let row: Option<ReceiptRow> = rows::fetch(read, Family::Meta, &keys::receipt(volume, session, op))?;
    Ok(row.is_some())
}

/// Every session that the cell knows, with its volume.
pub fn sessions(read: &dyn Read) -> Result<Vec<(VolumeId, SessionId)>> {
    let mut found = Vec::new();
    reads::walk(read, Family::Meta, keys::SESSIONS, keys::SESSIONS, |key, _| {
        let ids = keys::part(key, 1).zip(keys::part(key, 9));
        let (volume, session) =
            ids.ok_or_else(|| rows::damaged(Family::Meta, key, "is no key of a session"))?;
        found.push((VolumeId::from_key(volume), SessionId::from_key(session)));
        Ok(true)
    })?;
    Ok(found)
}

/// A session of a volume, if the cell knows it.
pub fn session_info(read: &dyn Read, volume: VolumeId, session: SessionId) -> Result<Option<SessionInfo>> {
    let row: Option<SessionRow> = rows::fetch(read, Family::Meta, &keys::session(volume, session))?;
    Ok(row.map(|row| SessionInfo {
        opened_at: row.opened_at,
        last_used: row.last_used,
        op_high_water: row.op_high_water,
        ack_below: row.ack_below,
    }))
}
