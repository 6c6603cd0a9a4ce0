//! Extended attributes, ACLs among them.

use super::{Cx, Fs, Op};
use bytes::Bytes;
use sitefs_base::limits::{METADATA_DEADLINE, XATTR_NAME_MAX, XATTRS_MAX};
use sitefs_base::op::{self, SetAttr, XattrMode};
use sitefs_base::{Errno, InodeId};

impl Fs {
    /// The value of an attribute.
    pub fn getxattr(&self, cx: Cx, ino: InodeId, name: &[u8]) -> Op<Bytes> {
        let all = self.all_xattrs(cx, ino)?;
        let found = all.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone()).ok_or_else(|| Errno::ENODATA.into())
    }

    /// The names of all attributes, each followed by NUL.
    pub fn listxattr(&self, cx: Cx, ino: InodeId) -> Op<Vec<u8>> {
        let mut names = Vec::new();
        for (name, _) in self.all_xattrs(cx, ino)?.iter() {
            names.extend_from_slice(name);
            names.push(0);
        }
        Ok(names)
    }

    fn all_xattrs(&self, cx: Cx, ino: InodeId) -> Op<std::sync::Arc<Vec<(Bytes, Bytes)>>> {
        let view = self.getattr(cx, ino)?;
        if !view.attr.flags.has_xattrs || view.attr.nlink == 0 {
            return Ok(std::sync::Arc::default());
        }
        self.meta.xattrs(cx, view.attr.ino)
    }

    /// Sets an attribute.
    pub fn setxattr(&self, ino: InodeId, name: &[u8], value: &[u8], mode: XattrMode) -> Op<()> {
        if name.len() > XATTR_NAME_MAX {
            return Err(Errno::ERANGE.into());
        }
        if value.len() > XATTRS_MAX {
            return Err(Errno::E2BIG.into());
        }
        let (name, value) = (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
        self.change_xattr(ino, |ino| op::Op::SetXattr { ino, name, value, mode })
    }

    /// Removes an attribute.
    pub fn removexattr(&self, ino: InodeId, name: &[u8]) -> Op<()> {
        let name = Bytes::copy_from_slice(name);
        self.change_xattr(ino, |ino| op::Op::RemoveXattr { ino, name })
    }

    fn change_xattr(&self, ino: InodeId, op: impl FnOnce(InodeId) -> op::Op) -> Op<()> {
        self.may_begin(Cx::Slow)?;
        let node = self.node(ino);
        self.publish(&node)?;
        // Changes of owner and mode that wait must not come after this one: an ACL changes the mode.
        let waiting = std::mem::take(&mut node.state().set);
        if waiting.mode.is_some() || waiting.uid.is_some() || waiting.gid.is_some() {
            let sent = SetAttr { atime: None, mtime: None, ..waiting.clone() };
            if let Err(stop) = self.set_at_cell(&node, &sent) {
                node.state().merge(&waiting);
                return Err(stop);
            }
            node.state().merge(&SetAttr { atime: waiting.atime, mtime: waiting.mtime, ..SetAttr::default() });
        } else {
            node.state().merge(&waiting);
        }
        let row = node.state().row;
        let outcome = self.meta.mutate(op(row), METADATA_DEADLINE)?;
        self.meta.forget_xattrs(row);
        if let Some(last) = &mut node.state().last
            && let Some(attr) = outcome.attrs.into_iter().find(|attr| attr.ino == row)
        {
            last.attr = attr;
        }
        Ok(())
    }
}
