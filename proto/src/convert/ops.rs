//! Mutations.

use super::{digest, digest_bytes, list, mode, need, place, session, session_bytes, short, time};
use crate::pb::{self, op_envelope::Body};
use sitefs_base::{
    Error, InodeId, OpId, Result, Seq, limits,
    op::{
        BlobWanted, ChunkLayout, Commit, Create, NewContent, Op, OpEnvelope, Publish, RenameMode, SetAttr,
        SetTime, Uploaded, XattrMode,
    },
};

/// The cell may be configured to take twice the default hot (DESIGN D31).
const HOT_WIRE_MAX: usize = 2 * limits::HOT_MAX;

impl From<OpEnvelope> for pb::OpEnvelope {
    fn from(envelope: OpEnvelope) -> Self {
        Self {
            session: session_bytes(envelope.session),
            op: envelope.op.get(),
            ack_below: envelope.ack_below.get(),
            body: Some(envelope.body.into()),
        }
    }
}

impl TryFrom<pb::OpEnvelope> for OpEnvelope {
    type Error = Error;
    fn try_from(envelope: pb::OpEnvelope) -> Result<Self> {
        Ok(Self {
            session: session(&envelope.session)?,
            op: OpId::new(envelope.op),
            ack_below: OpId::new(envelope.ack_below),
            body: need(envelope.body, "operation")?.try_into()?,
        })
    }
}

impl From<Op> for Body {
    fn from(op: Op) -> Self {
        match op {
            Op::Commit(commit) => Self::Commit(commit.into()),
            Op::SetAttr { ino, set } => {
                Self::SetAttr(pb::SetAttrOp { ino: ino.get(), set: Some(set.into()) })
            }
            Op::Mkdir { at, create } => {
                Self::Mkdir(pb::Mkdir { at: Some(at.into()), create: Some(create.into()) })
            }
            Op::Symlink { at, target, create } => {
                Self::Symlink(pb::Symlink { at: Some(at.into()), target, create: Some(create.into()) })
            }
            Op::Mknod { at, kind, rdev, create } => Self::Mknod(pb::Mknod {
                at: Some(at.into()),
                kind: pb::FileKind::from(kind).into(),
                rdev,
                create: Some(create.into()),
            }),
            Op::Link { ino, at } => Self::Link(pb::Link { ino: ino.get(), at: Some(at.into()) }),
            Op::Unlink { at } => Self::Unlink(at.into()),
            Op::Rmdir { at } => Self::Rmdir(at.into()),
            Op::Rename { from, to, mode } => Self::Rename(pb::Rename {
                from: Some(from.into()),
                to: Some(to.into()),
                mode: pb::RenameMode::from(mode).into(),
            }),
            Op::SetXattr { ino, name, value, mode } => Self::SetXattr(pb::SetXattr {
                ino: ino.get(),
                name,
                value,
                mode: pb::XattrMode::from(mode).into(),
            }),
            Op::RemoveXattr { ino, name } => Self::RemoveXattr(pb::RemoveXattr { ino: ino.get(), name }),
            Op::AllocInodes { count } => Self::AllocInodes(pb::AllocInodes { count }),
            Op::Grant { blobs } => {
                Self::Grant(pb::GrantRequest { blobs: blobs.into_iter().map(Into::into).collect() })
            }
            Op::Append { ino, bytes, changed, kill_setid } => Self::Append(pb::Append {
                ino: ino.get(),
                data: bytes,
                changed: changed.map(Into::into),
                kill_setid,
            }),
            Op::Punch { ino, offset, len } => Self::Punch(pb::Punch { ino: ino.get(), offset, len }),
            Op::CloneRange { from, from_offset, to, to_offset, len, expect_from_cver } => {
                Self::CloneRange(pb::CloneRange {
                    from: from.get(),
                    from_offset,
                    to: to.get(),
                    to_offset,
                    len,
                    expect_from_cver: expect_from_cver.map(Seq::get),
                })
            }
        }
    }
}

impl TryFrom<Body> for Op {
    type Error = Error;
    fn try_from(body: Body) -> Result<Self> {
        Ok(match body {
            Body::Commit(commit) => Self::Commit(commit.try_into()?),
            Body::SetAttr(op) => Self::SetAttr { ino: InodeId::new(op.ino), set: set_attr(op.set)? },
            Body::Mkdir(op) => Self::Mkdir { at: place(op.at)?, create: create(op.create)? },
            Body::Symlink(op) => Self::Symlink {
                at: place(op.at)?,
                target: short(op.target, limits::SYMLINK_MAX, "a symlink target")?,
                create: create(op.create)?,
            },
            Body::Mknod(op) => Self::Mknod {
                at: place(op.at)?,
                kind: super::tree::file_kind(op.kind)?,
                rdev: op.rdev,
                create: create(op.create)?,
            },
            Body::Link(op) => Self::Link { ino: InodeId::new(op.ino), at: place(op.at)? },
            Body::Unlink(at) => Self::Unlink { at: at.try_into()? },
            Body::Rmdir(at) => Self::Rmdir { at: at.try_into()? },
            Body::Rename(op) => {
                Self::Rename { from: place(op.from)?, to: place(op.to)?, mode: rename_mode(op.mode)? }
            }
            Body::SetXattr(op) => Self::SetXattr {
                ino: InodeId::new(op.ino),
                name: xattr_name(op.name)?,
                value: short(op.value, limits::XATTRS_MAX, "an attribute value")?,
                mode: xattr_mode(op.mode)?,
            },
            Body::RemoveXattr(op) => {
                Self::RemoveXattr { ino: InodeId::new(op.ino), name: xattr_name(op.name)? }
            }
            Body::AllocInodes(op) if (1..=limits::INODE_RANGE).contains(&op.count) => {
                Self::AllocInodes { count: op.count }
            }
            Body::AllocInodes(op) => {
                return Err(Error::invalid(format!("a range of {} inode numbers", op.count)));
            }
            Body::Grant(op) => Self::Grant {
                blobs: list(op.blobs, limits::COMMIT_CHUNKS_MAX, "blobs", BlobWanted::try_from)?,
            },
            Body::Append(op) => Self::Append {
                ino: InodeId::new(op.ino),
                bytes: short(op.data, limits::HOT_MAX, "an append")?,
                changed: op.changed.map(sitefs_base::Time::try_from).transpose()?,
                kill_setid: op.kill_setid,
            },
            // Offsets beyond the largest file are a program's mistake that `state` answers.
            Body::Punch(op) => Self::Punch { ino: InodeId::new(op.ino), offset: op.offset, len: op.len },
            Body::CloneRange(op) => Self::CloneRange {
                from: InodeId::new(op.from),
                from_offset: op.from_offset,
                to: InodeId::new(op.to),
                to_offset: op.to_offset,
                len: op.len,
                expect_from_cver: op.expect_from_cver.map(Seq::new),
            },
        })
    }
}

pub(super) fn xattr_name(name: bytes::Bytes) -> Result<bytes::Bytes> {
    if name.is_empty() || name.contains(&0) {
        return Err(Error::invalid("an extended attribute's name is empty or has a NUL"));
    }
    short(name, limits::XATTR_NAME_MAX, "an attribute name")
}

impl From<BlobWanted> for pb::BlobWanted {
    fn from(wanted: BlobWanted) -> Self {
        Self { digest: digest_bytes(&wanted.digest), len: wanted.len }
    }
}

impl TryFrom<pb::BlobWanted> for BlobWanted {
    type Error = Error;
    fn try_from(wanted: pb::BlobWanted) -> Result<Self> {
        if wanted.len == 0 || u64::from(wanted.len) > limits::CHUNK_SIZE {
            return Err(Error::invalid(format!("a blob of {} bytes", wanted.len)));
        }
        Ok(Self { digest: digest(&wanted.digest)?, len: wanted.len })
    }
}

impl From<Commit> for pb::Commit {
    fn from(commit: Commit) -> Self {
        Self {
            ino: commit.ino.get(),
            expect_cver: commit.expect_cver.map(Seq::get),
            content: commit.content.map(|content| pb::NewContent { content: Some(content.into()) }),
            set: Some(commit.set.into()),
            changed: commit.changed.map(Into::into),
            create: commit.create.map(Into::into),
            link: commit.link.map(Into::into),
            uploaded: commit.uploaded.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::Commit> for Commit {
    type Error = Error;
    fn try_from(commit: pb::Commit) -> Result<Self> {
        let content = match commit.content {
            None => None,
            Some(content) => Some(need(content.content, "content")?.try_into()?),
        };
        Ok(Self {
            ino: InodeId::new(commit.ino),
            expect_cver: commit.expect_cver.map(Seq::new),
            content,
            set: set_attr(commit.set)?,
            changed: commit.changed.map(sitefs_base::Time::try_from).transpose()?,
            create: commit.create.map(Create::try_from).transpose()?,
            link: commit.link.map(Publish::try_from).transpose()?,
            uploaded: list(commit.uploaded, limits::COMMIT_CHUNKS_MAX, "uploads", Uploaded::try_from)?,
        })
    }
}

impl From<NewContent> for pb::new_content::Content {
    fn from(content: NewContent) -> Self {
        match content {
            NewContent::Inline(bytes) => Self::Inline(bytes),
            NewContent::Hot { digest, bytes } => {
                Self::Hot(pb::HotContent { digest: digest_bytes(&digest), data: bytes })
            }
            NewContent::Chunks { size, changed } => Self::Chunks(pb::ChunksContent {
                size,
                changed: changed.into_iter().map(Into::into).collect(),
            }),
        }
    }
}

impl TryFrom<pb::new_content::Content> for NewContent {
    type Error = Error;
    fn try_from(content: pb::new_content::Content) -> Result<Self> {
        use pb::new_content::Content;
        Ok(match content {
            Content::Inline(bytes) => Self::Inline(short(bytes, limits::INLINE_MAX, "inline content")?),
            Content::Hot(hot) => Self::Hot {
                digest: digest(&hot.digest)?,
                bytes: short(hot.data, HOT_WIRE_MAX, "hot content")?,
            },
            Content::Chunks(chunks) if chunks.size > limits::FILE_MAX => {
                return Err(Error::invalid(format!("a file of {} bytes is too large", chunks.size)));
            }
            Content::Chunks(chunks) => Self::Chunks {
                size: chunks.size,
                changed: list(chunks.changed, limits::COMMIT_CHUNKS_MAX, "chunks", ChunkLayout::try_from)?,
            },
        })
    }
}

impl From<Uploaded> for pb::Uploaded {
    fn from(uploaded: Uploaded) -> Self {
        Self { digest: digest_bytes(&uploaded.digest), generation: Some(uploaded.generation.into()) }
    }
}

impl TryFrom<pb::Uploaded> for Uploaded {
    type Error = Error;
    fn try_from(uploaded: pb::Uploaded) -> Result<Self> {
        Ok(Self {
            digest: digest(&uploaded.digest)?,
            generation: need(uploaded.generation, "generation")?.into(),
        })
    }
}

impl From<Publish> for pb::Publish {
    fn from(publish: Publish) -> Self {
        Self { at: Some(publish.at.into()), exclusive: publish.exclusive }
    }
}

impl TryFrom<pb::Publish> for Publish {
    type Error = Error;
    fn try_from(publish: pb::Publish) -> Result<Self> {
        Ok(Self { at: place(publish.at)?, exclusive: publish.exclusive })
    }
}

impl From<Create> for pb::Create {
    fn from(create: Create) -> Self {
        Self { mode: create.mode.into(), umask: create.umask.into(), uid: create.uid, gid: create.gid }
    }
}

impl TryFrom<pb::Create> for Create {
    type Error = Error;
    fn try_from(create: pb::Create) -> Result<Self> {
        Ok(Self { mode: mode(create.mode)?, umask: mode(create.umask)?, uid: create.uid, gid: create.gid })
    }
}

fn create(create: Option<pb::Create>) -> Result<Create> {
    need(create, "owner and mode")?.try_into()
}

impl From<SetAttr> for pb::SetAttr {
    fn from(set: SetAttr) -> Self {
        Self {
            mode: set.mode.map(Into::into),
            uid: set.uid,
            gid: set.gid,
            size: set.size,
            atime: set.atime.map(Into::into),
            mtime: set.mtime.map(Into::into),
            kill_setid: set.kill_setid,
        }
    }
}

impl TryFrom<pb::SetAttr> for SetAttr {
    type Error = Error;
    fn try_from(set: pb::SetAttr) -> Result<Self> {
        // A size above the largest file is a program's mistake that `state` answers with EFBIG.
        Ok(Self {
            mode: set.mode.map(mode).transpose()?,
            uid: set.uid,
            gid: set.gid,
            size: set.size,
            atime: set.atime.map(SetTime::try_from).transpose()?,
            mtime: set.mtime.map(SetTime::try_from).transpose()?,
            kill_setid: set.kill_setid,
        })
    }
}

fn set_attr(set: Option<pb::SetAttr>) -> Result<SetAttr> {
    set.unwrap_or_default().try_into()
}

impl From<SetTime> for pb::SetTime {
    fn from(set: SetTime) -> Self {
        use pb::set_time::Time as Wire;
        Self {
            time: Some(match set {
                SetTime::Now => Wire::Now(pb::Empty {}),
                SetTime::At(time) => Wire::At(time.into()),
                SetTime::Written(time) => Wire::Written(time.into()),
            }),
        }
    }
}

impl TryFrom<pb::SetTime> for SetTime {
    type Error = Error;
    fn try_from(set: pb::SetTime) -> Result<Self> {
        use pb::set_time::Time as Wire;
        Ok(match need(set.time, "time to set")? {
            Wire::Now(pb::Empty {}) => Self::Now,
            Wire::At(at) => Self::At(time(Some(at))?),
            Wire::Written(at) => Self::Written(time(Some(at))?),
        })
    }
}

impl From<RenameMode> for pb::RenameMode {
    fn from(mode: RenameMode) -> Self {
        match mode {
            RenameMode::Replace => Self::Replace,
            RenameMode::NoReplace => Self::NoReplace,
            RenameMode::Exchange => Self::Exchange,
        }
    }
}

fn rename_mode(raw: i32) -> Result<RenameMode> {
    match pb::RenameMode::try_from(raw) {
        Ok(pb::RenameMode::Replace) => Ok(RenameMode::Replace),
        Ok(pb::RenameMode::NoReplace) => Ok(RenameMode::NoReplace),
        Ok(pb::RenameMode::Exchange) => Ok(RenameMode::Exchange),
        Ok(pb::RenameMode::Unspecified) | Err(_) => {
            Err(Error::invalid(format!("{raw} is not a rename mode")))
        }
    }
}

impl From<XattrMode> for pb::XattrMode {
    fn from(mode: XattrMode) -> Self {
        match mode {
            XattrMode::Any => Self::Any,
            XattrMode::Create => Self::Create,
            XattrMode::Replace => Self::Replace,
        }
    }
}

fn xattr_mode(raw: i32) -> Result<XattrMode> {
    match pb::XattrMode::try_from(raw) {
        Ok(pb::XattrMode::Any) => Ok(XattrMode::Any),
        Ok(pb::XattrMode::Create) => Ok(XattrMode::Create),
        Ok(pb::XattrMode::Replace) => Ok(XattrMode::Replace),
        Ok(pb::XattrMode::Unspecified) | Err(_) => Err(Error::invalid(format!("{raw} is not an xattr mode"))),
    }
}
