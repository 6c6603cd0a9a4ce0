//! Extended attributes, ACLs among them.

use super::node::{Node, NodeState};
use super::{Cx, Fs, Op};
use crate::meta::Xattrs;
use bytes::Bytes;
use sitefs_base::limits::{METADATA_DEADLINE, XATTR_NAME_MAX, XATTRS_MAX};
use sitefs_base::op::{self, SetAttr, XattrMode};
use sitefs_base::{Errno, InodeId};
use std::sync::Arc;

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

    fn all_xattrs(&self, cx: Cx, ino: InodeId) -> Op<Xattrs> {
        if let Some(node) = self.known_node(ino) {
            let state = node.state();
            if state.gone {
                return Ok(state.xattrs.clone().unwrap_or_default());
            }
        }
        let view = self.getattr(cx, ino)?;
        if !view.attr.flags.has_xattrs || view.attr.nlink == 0 {
            return Ok(Xattrs::default());
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
        if let Some(node) = self.node_without_name(ino) {
            return change_kept(&mut node.state(), &name, Some(value), mode);
        }
        self.change_xattr(ino, |ino| op::Op::SetXattr { ino, name, value, mode })
    }

    /// Removes an attribute.
    pub fn removexattr(&self, ino: InodeId, name: &[u8]) -> Op<()> {
        let name = Bytes::copy_from_slice(name);
        if let Some(node) = self.node_without_name(ino) {
            return change_kept(&mut node.state(), &name, None, XattrMode::Replace);
        }
        self.change_xattr(ino, |ino| op::Op::RemoveXattr { ino, name })
    }

    /// The node of an open file that the cell does not know any more.
    fn node_without_name(&self, ino: InodeId) -> Option<Arc<Node>> {
        self.known_node(ino).filter(|node| node.state().gone)
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

/// Sets or removes an attribute of a file without a name. The list is short, and only its handles see it.
fn change_kept(state: &mut NodeState, name: &Bytes, value: Option<Bytes>, mode: XattrMode) -> Op<()> {
    let mut all = state.xattrs.as_deref().cloned().unwrap_or_default();
    let found = all.iter().position(|(known, _)| known == name);
    match (found, mode) {
        (Some(_), XattrMode::Create) => return Err(Errno::EEXIST.into()),
        (None, XattrMode::Replace) => return Err(Errno::ENODATA.into()),
        (Some(at), _) => drop(all.remove(at)),
        (None, _) => {}
    }
    all.extend(value.map(|value| (name.clone(), value)));
    if all.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > XATTRS_MAX {
        return Err(Errno::ENOSPC.into());
    }
    state.xattrs = Some(Arc::new(all));
    Ok(())
}
