//! All files of a mount shown as owned by one user or group (`uid=` and `gid=` of mount).

use sitefs_base::op::{Create, SetAttr};
use sitefs_base::{Attr, Errno};

/// Whom files belong to, where a mount says so for all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Owner {
    /// The user.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
}

impl Owner {
    /// Attributes as this mount shows them.
    pub(super) fn show(self, attr: &mut Attr) {
        attr.uid = self.uid.unwrap_or(attr.uid);
        attr.gid = self.gid.unwrap_or(attr.gid);
    }

    /// What is created here belongs to that owner elsewhere too.
    pub(super) fn of(self, create: Create) -> Create {
        Create { uid: self.uid.unwrap_or(create.uid), gid: self.gid.unwrap_or(create.gid), ..create }
    }

    /// To give a file away would have no effect that this mount could show.
    pub(super) fn may_set(self, set: &SetAttr) -> Result<(), Errno> {
        let away = |set: Option<u32>, fixed: Option<u32>| fixed.is_some() && set.is_some() && set != fixed;
        if away(set.uid, self.uid) || away(set.gid, self.gid) { Err(Errno::EPERM) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_fixed_is_changed_and_kept() {
        let owner = Owner { uid: Some(33), gid: None };
        let create = owner.of(Create { mode: 0o644, umask: 0, uid: 0, gid: 7 });
        assert_eq!((create.uid, create.gid), (33, 7));
        let set = |uid, gid| SetAttr { uid, gid, ..SetAttr::default() };
        assert_eq!(owner.may_set(&set(Some(33), Some(9))), Ok(()));
        assert_eq!(owner.may_set(&set(Some(34), None)), Err(Errno::EPERM));
        assert_eq!(Owner::default().may_set(&set(Some(34), Some(1))), Ok(()));
    }
}
