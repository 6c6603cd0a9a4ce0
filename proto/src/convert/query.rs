//! Questions and answers.

use super::{digest, digest_bytes, list, name, name_bytes, need, short};
use crate::pb;
use sitefs_base::{
    Error, Inode, InodeId, Result, Seq, limits,
    op::{Answer, AnswerBody, ChunkLayout, Entry, Location, Query},
};

/// Attributes of 3 bytes (`a.b`) could be so many in [`limits::XATTRS_MAX`].
const XATTR_COUNT_MAX: usize = limits::XATTRS_MAX / 3;

impl From<Query> for pb::Query {
    fn from(query: Query) -> Self {
        use pb::query::Query as Wire;
        Self {
            query: Some(match query {
                Query::Lookup { at } => Wire::Lookup(at.into()),
                Query::Inode { ino } => Wire::Inode(ino.get()),
                Query::Inodes { inos } => {
                    Wire::Inodes(pb::InodesQuery { inos: inos.into_iter().map(InodeId::get).collect() })
                }
                Query::ReadDir { dir, after, limit } => Wire::ReadDir(pb::ReadDir {
                    dir: dir.get(),
                    after: after.as_ref().map(name_bytes),
                    limit,
                }),
                Query::Chunks { ino, cver, first, count } => {
                    let cver = cver.map(Seq::get);
                    Wire::Chunks(pb::ChunksQuery { ino: ino.get(), first, count, cver })
                }
                Query::Xattrs { ino } => Wire::Xattrs(ino.get()),
                Query::Resolve { ino, digests } => Wire::Resolve(pb::Resolve {
                    ino: ino.get(),
                    digests: digests.iter().map(digest_bytes).collect(),
                }),
                Query::Usage => Wire::Usage(pb::Empty {}),
                Query::Reserve { at } => Wire::Reserve(at.into()),
            }),
        }
    }
}

impl TryFrom<pb::Query> for Query {
    type Error = Error;
    fn try_from(query: pb::Query) -> Result<Self> {
        use pb::query::Query as Wire;
        Ok(match need(query.query, "question")? {
            Wire::Lookup(at) => Self::Lookup { at: at.try_into()? },
            Wire::Inode(ino) => Self::Inode { ino: InodeId::new(ino) },
            Wire::Inodes(pb::InodesQuery { inos }) => Self::Inodes {
                inos: list(inos, limits::LISTING_PAGE as usize, "inodes", |ino| Ok(InodeId::new(ino)))?,
            },
            Wire::ReadDir(read) => Self::ReadDir {
                dir: InodeId::new(read.dir),
                after: read.after.as_ref().map(name).transpose()?,
                limit: up_to(read.limit, limits::LISTING_PAGE as usize, "entries")?,
            },
            Wire::Chunks(chunks) => Self::Chunks {
                ino: InodeId::new(chunks.ino),
                cver: chunks.cver.map(Seq::new),
                first: chunks.first,
                count: up_to(chunks.count, limits::COMMIT_CHUNKS_MAX, "chunks")?,
            },
            Wire::Xattrs(ino) => Self::Xattrs { ino: InodeId::new(ino) },
            Wire::Resolve(resolve) => Self::Resolve {
                ino: InodeId::new(resolve.ino),
                digests: list(resolve.digests, limits::COMMIT_CHUNKS_MAX, "digests", |raw| digest(&raw))?,
            },
            Wire::Usage(pb::Empty {}) => Self::Usage,
            Wire::Reserve(at) => Self::Reserve { at: at.try_into()? },
        })
    }
}

fn up_to(count: u32, max: usize, what: &'static str) -> Result<u32> {
    match usize::try_from(count) {
        Ok(n) if (1..=max).contains(&n) => Ok(count),
        _ => Err(Error::invalid(format!("asked for {count} {what}; 1 to {max} are possible"))),
    }
}

impl From<Answer> for pb::Answer {
    fn from(answer: Answer) -> Self {
        Self { seq: answer.seq.get(), body: Some(answer.body.into()) }
    }
}

impl TryFrom<pb::Answer> for Answer {
    type Error = Error;
    fn try_from(answer: pb::Answer) -> Result<Self> {
        Ok(Self { seq: Seq::new(answer.seq), body: need(answer.body, "answer")?.try_into()? })
    }
}

impl From<AnswerBody> for pb::answer::Body {
    fn from(body: AnswerBody) -> Self {
        match body {
            AnswerBody::Inode(inode) => Self::Inode(pb::MaybeInode { inode: inode.map(Into::into) }),
            AnswerBody::Inodes(inodes) => {
                Self::Inodes(pb::Inodes { inodes: inodes.into_iter().map(Into::into).collect() })
            }
            AnswerBody::Entries { dir, parent, entries, complete } => Self::Entries(pb::Entries {
                dir: Some(dir.into()),
                parent: parent.get(),
                entries: entries.into_iter().map(Into::into).collect(),
                complete,
            }),
            AnswerBody::Chunks(chunks) => {
                Self::Chunks(pb::Chunks { chunks: chunks.into_iter().map(Into::into).collect() })
            }
            AnswerBody::Xattrs(xattrs) => Self::Xattrs(pb::Xattrs {
                xattrs: xattrs.into_iter().map(|(name, value)| pb::Xattr { name, value }).collect(),
            }),
            AnswerBody::Locations(locations) => Self::Locations(pb::Locations {
                locations: locations
                    .into_iter()
                    .map(|location| pb::MaybeLocation { location: location.map(Into::into) })
                    .collect(),
            }),
            AnswerBody::Usage(usage) => Self::Usage(usage.into()),
            AnswerBody::Reserved => Self::Reserved(pb::Empty {}),
        }
    }
}

impl TryFrom<pb::answer::Body> for AnswerBody {
    type Error = Error;
    fn try_from(body: pb::answer::Body) -> Result<Self> {
        use pb::answer::Body;
        Ok(match body {
            Body::Inode(found) => Self::Inode(found.inode.map(TryInto::try_into).transpose()?),
            Body::Inodes(pb::Inodes { inodes }) => {
                Self::Inodes(list(inodes, limits::LISTING_PAGE as usize, "inodes", Inode::try_from)?)
            }
            Body::Entries(listing) => Self::Entries {
                dir: need(listing.dir, "attributes")?.try_into()?,
                parent: InodeId::new(listing.parent),
                entries: list(listing.entries, limits::LISTING_PAGE as usize, "entries", Entry::try_from)?,
                complete: listing.complete,
            },
            Body::Chunks(pb::Chunks { chunks }) => {
                Self::Chunks(list(chunks, limits::COMMIT_CHUNKS_MAX, "chunks", ChunkLayout::try_from)?)
            }
            Body::Xattrs(pb::Xattrs { xattrs }) => {
                Self::Xattrs(list(xattrs, XATTR_COUNT_MAX, "attributes", |xattr| {
                    let value = short(xattr.value, limits::XATTRS_MAX, "an attribute value")?;
                    Ok((super::ops::xattr_name(xattr.name)?, value))
                })?)
            }
            Body::Locations(pb::Locations { locations }) => {
                Self::Locations(list(locations, limits::COMMIT_CHUNKS_MAX, "locations", |maybe| {
                    maybe.location.map(Location::try_from).transpose()
                })?)
            }
            Body::Usage(usage) => Self::Usage(usage.into()),
            Body::Reserved(pb::Empty {}) => Self::Reserved,
        })
    }
}

impl From<Entry> for pb::Entry {
    fn from(entry: Entry) -> Self {
        Self { name: name_bytes(&entry.name), inode: Some(entry.inode.into()) }
    }
}

impl TryFrom<pb::Entry> for Entry {
    type Error = Error;
    fn try_from(entry: pb::Entry) -> Result<Self> {
        Ok(Self { name: name(&entry.name)?, inode: need(entry.inode, "inode")?.try_into()? })
    }
}
