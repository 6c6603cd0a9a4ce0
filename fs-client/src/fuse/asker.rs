//! What the kernel would say of a program that asks, where the protocol, as fuser speaks it, does not.

use fuser::Request;
use std::path::PathBuf;

/// The extended attribute of access lists.
pub(super) const ACCESS_LIST: &[u8] = b"system.posix_acl_access";
/// CAP_FSETID: set-id bits stay.
const CAP_FSETID: u32 = 4;

/// The program behind a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    uid: u32,
    gid: u32,
    pid: u32,
}

impl Asker {
    /// Who asks.
    pub fn of(req: &Request) -> Self {
        Self { uid: req.uid(), gid: req.gid(), pid: req.pid() }
    }

    /// Whether it may leave set-group-id on a file of `group`: it is in the group, or privileged. What
    /// cannot be found out, because it is gone or in another name space, counts as no.
    pub fn may_keep_set_group_id(self, group: u32) -> bool {
        if self.uid == 0 || self.gid == group {
            return true;
        }
        let path = PathBuf::from(format!("/proc/{}/status", self.pid));
        std::fs::read_to_string(path).is_ok_and(|status| says_may_keep(&status, group))
    }
}

fn says_may_keep(status: &str, group: u32) -> bool {
    let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let groups = value("Groups:").unwrap_or_default();
    let capable = value("CapEff:").and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    capable.is_some_and(|set| set & (1 << CAP_FSETID) != 0)
        || groups.split_whitespace().any(|id| id.parse() == Ok(group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_capabilities_are_read_from_what_the_kernel_says() {
        let status = "Name:\tx\nGroups:\t7 33 1000 \nCapEff:\t0000000000000000\n";
        assert!(says_may_keep(status, 33) && !says_may_keep(status, 3) && !says_may_keep("", 3));
        assert!(says_may_keep("Groups:\t\nCapEff:\t0000000000000010\n", 3));
    }
}
