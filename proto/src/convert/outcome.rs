//! Results of mutations: outcomes, grants, locations.

use super::{TEXT_MAX, errno, list, need, text, time};
use crate::pb;
use sitefs_base::{
    Attr, Error, InodeId, Result, Seq, limits,
    op::{Extra, Grant, Location, OpResult, Outcome},
};

/// An operation touches few inodes: two names, two directories, a replaced target.
const ATTRS_MAX: usize = 64;
const HEADERS_MAX: usize = 64;
const URL_MAX: usize = 16 * 1024;

impl From<OpResult> for ResultMessage {
    fn from(result: OpResult) -> Self {
        match result {
            Ok(outcome) => Self(pb::op_reply::Result::Outcome(outcome.into())),
            Err(errno) => Self(pb::op_reply::Result::Errno(errno.get())),
        }
    }
}

/// The result of a mutation as the frame carries it.
pub(super) struct ResultMessage(pub(super) pb::op_reply::Result);

impl TryFrom<ResultMessage> for OpResult {
    type Error = Error;
    fn try_from(result: ResultMessage) -> Result<Self> {
        Ok(match result.0 {
            pb::op_reply::Result::Outcome(outcome) => Ok(outcome.try_into()?),
            pb::op_reply::Result::Errno(raw) => Err(errno(raw)?),
        })
    }
}

impl From<Outcome> for pb::Outcome {
    fn from(outcome: Outcome) -> Self {
        use pb::outcome::Extra as Wire;
        Self {
            seq: outcome.seq.get(),
            ino: outcome.ino.map(InodeId::get),
            attrs: outcome.attrs.into_iter().map(Into::into).collect(),
            extra: match outcome.extra {
                Extra::None => None,
                Extra::Inodes { first, count } => {
                    Some(Wire::Inodes(pb::InodeRange { first: first.get(), count }))
                }
                Extra::Grants(grants) => {
                    Some(Wire::Grants(pb::Grants { grants: grants.into_iter().map(Into::into).collect() }))
                }
                Extra::Dropped => Some(Wire::Dropped(pb::Empty {})),
                Extra::Appended { offset } => Some(Wire::AppendedAt(offset)),
                Extra::Cloned { len } => Some(Wire::Cloned(len)),
            },
        }
    }
}

impl TryFrom<pb::Outcome> for Outcome {
    type Error = Error;
    fn try_from(outcome: pb::Outcome) -> Result<Self> {
        use pb::outcome::Extra as Wire;
        Ok(Self {
            seq: Seq::new(outcome.seq),
            ino: outcome.ino.map(InodeId::new),
            attrs: list(outcome.attrs, ATTRS_MAX, "attributes", Attr::try_from)?,
            extra: match outcome.extra {
                None => Extra::None,
                Some(Wire::Inodes(range)) if u64::from(range.count).checked_add(range.first).is_none() => {
                    return Err(Error::invalid("a range of inode numbers beyond the last one"));
                }
                Some(Wire::Inodes(range)) => {
                    Extra::Inodes { first: InodeId::new(range.first), count: range.count }
                }
                Some(Wire::Grants(pb::Grants { grants })) => {
                    Extra::Grants(list(grants, limits::COMMIT_CHUNKS_MAX, "grants", Grant::try_from)?)
                }
                Some(Wire::Dropped(pb::Empty {})) => Extra::Dropped,
                Some(Wire::AppendedAt(offset)) => Extra::Appended { offset },
                Some(Wire::Cloned(len)) => Extra::Cloned { len },
            },
        })
    }
}

impl From<Grant> for pb::Grant {
    fn from(grant: Grant) -> Self {
        use pb::grant::Grant as Wire;
        Self {
            grant: Some(match grant {
                Grant::Have => Wire::Have(pb::Empty {}),
                Grant::Upload { generation, target } => Wire::Upload(pb::Upload {
                    generation: Some(generation.into()),
                    target: Some(target.into()),
                }),
            }),
        }
    }
}

impl TryFrom<pb::Grant> for Grant {
    type Error = Error;
    fn try_from(grant: pb::Grant) -> Result<Self> {
        use pb::grant::Grant as Wire;
        Ok(match need(grant.grant, "grant")? {
            Wire::Have(pb::Empty {}) => Self::Have,
            Wire::Upload(upload) => Self::Upload {
                generation: need(upload.generation, "generation")?.into(),
                target: need(upload.target, "target")?.try_into()?,
            },
        })
    }
}

impl From<Location> for pb::Location {
    fn from(location: Location) -> Self {
        use pb::location::Location as Wire;
        Self {
            location: Some(match location {
                Location::Cell => Wire::Cell(pb::Empty {}),
                Location::Url { url, headers, expires } => Wire::Url(pb::Presigned {
                    url,
                    headers: headers.into_iter().map(|(name, value)| pb::Header { name, value }).collect(),
                    expires: Some(expires.into()),
                }),
            }),
        }
    }
}

impl TryFrom<pb::Location> for Location {
    type Error = Error;
    fn try_from(location: pb::Location) -> Result<Self> {
        use pb::location::Location as Wire;
        Ok(match need(location.location, "location")? {
            Wire::Cell(pb::Empty {}) => Self::Cell,
            Wire::Url(presigned) => Self::Url {
                url: text(presigned.url, URL_MAX, "a URL")?,
                headers: list(presigned.headers, HEADERS_MAX, "headers", |header| {
                    Ok((text(header.name, TEXT_MAX, "a header")?, text(header.value, TEXT_MAX, "a header")?))
                })?,
                expires: time(presigned.expires)?,
            },
        })
    }
}
