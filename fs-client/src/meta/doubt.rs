//! Operations whose deadline passed without a reply (DESIGN D27). They stay in the session and are sent
//! again; until the reply comes nobody knows whether what they touch is as it was.

use sitefs_base::op::{Change, Op};

/// What an operation may change. A mount hears nothing of its own operations by the feed.
pub(super) fn touched(op: &Op) -> Vec<Change> {
    match op {
        Op::Commit(commit) => {
            let name = commit.link.iter().map(|link| Change::Name(link.at.clone()));
            name.chain([Change::Content(commit.ino)]).collect()
        }
        Op::SetAttr { ino, .. }
        | Op::Append { ino, .. }
        | Op::Punch { ino, .. }
        | Op::CloneRange { to: ino, .. } => {
            vec![Change::Content(*ino)]
        }
        Op::Mkdir { at, .. }
        | Op::Symlink { at, .. }
        | Op::Mknod { at, .. }
        | Op::Unlink { at }
        | Op::Rmdir { at } => {
            vec![Change::Name(at.clone())]
        }
        Op::Link { ino, at } => vec![Change::Name(at.clone()), Change::Attr(*ino)],
        Op::Rename { from, to, .. } => vec![Change::Name(from.clone()), Change::Name(to.clone())],
        Op::SetXattr { ino, .. } | Op::RemoveXattr { ino, .. } => vec![Change::Xattr(*ino)],
        Op::AllocInodes { .. } | Op::Grant { .. } => Vec::new(),
    }
}
