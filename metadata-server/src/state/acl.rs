//! POSIX access control lists, in the form in which the kernel passes them as xattrs.

use super::stop::{Step, require};
use bytes::Bytes;
use sitefs_base::Errno;

/// The name of the access list.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The name of the list that new entries of a directory inherit.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const FORMAT: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// A valid list: owner, named users, group, named groups, perhaps a mask, others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Acl(Vec<Entry>);

impl Acl {
    /// Parses and checks the kernel's form; `None` is the empty list, which means "no list".
    pub(super) fn parse(value: &[u8]) -> Step<Option<Self>> {
        let (header, body) = value.split_first_chunk::<4>().ok_or(Errno::EINVAL)?;
        require(u32::from_le_bytes(*header) == FORMAT, Errno::EOPNOTSUPP)?;
        require(body.len() % 8 == 0, Errno::EINVAL)?;
        let entries: Vec<Entry> = body
            .chunks_exact(8)
            .map(|raw| Entry {
                tag: u16::from_le_bytes([raw[0], raw[1]]),
                perm: u16::from_le_bytes([raw[2], raw[3]]),
                id: u32::from_le_bytes([raw[4], raw[5], raw[6], raw[7]]),
            })
            .collect();
        if entries.is_empty() {
            return Ok(None);
        }
        require(is_valid(&entries), Errno::EINVAL)?;
        Ok(Some(Self(entries)))
    }

    /// The form in which it is stored and handed out.
    pub(super) fn to_xattr(&self) -> Bytes {
        let mut value = FORMAT.to_le_bytes().to_vec();
        for entry in &self.0 {
            value.extend_from_slice(&entry.tag.to_le_bytes());
            value.extend_from_slice(&entry.perm.to_le_bytes());
            value.extend_from_slice(&entry.id.to_le_bytes());
        }
        value.into()
    }

    /// The nine permission bits that `stat` shows: the mask stands for the group.
    pub(super) fn mode_bits(&self) -> u16 {
        let group = self.perm(MASK).or_else(|| self.perm(GROUP_OBJ)).unwrap_or(0);
        (self.perm(USER_OBJ).unwrap_or(0) << 6) | (group << 3) | self.perm(OTHER).unwrap_or(0)
    }

    /// Whether it says no more than a mode does.
    pub(super) fn is_only_a_mode(&self) -> bool {
        self.0.iter().all(|entry| matches!(entry.tag, USER_OBJ | GROUP_OBJ | OTHER))
    }

    /// chmod(2): owner, others, and the mask (without one, the group) follow the mode.
    pub(super) fn set_mode(&mut self, mode: u16) {
        self.each(|_, bits| bits, mode);
    }

    /// The list of a new entry that was asked for with `mode`: what both allow.
    pub(super) fn limit_to_mode(&mut self, mode: u16) {
        self.each(|perm, bits| perm & bits, mode);
    }

    fn each(&mut self, combine: impl Fn(u16, u16) -> u16, mode: u16) {
        let group = if self.perm(MASK).is_some() { MASK } else { GROUP_OBJ };
        for entry in &mut self.0 {
            let bits = match entry.tag {
                USER_OBJ => mode >> 6,
                OTHER => mode,
                tag if tag == group => mode >> 3,
                _ => continue,
            };
            entry.perm = combine(entry.perm, bits & 7);
        }
    }

    fn perm(&self, tag: u16) -> Option<u16> {
        self.0.iter().find(|entry| entry.tag == tag).map(|entry| entry.perm)
    }
}

/// The kernel's rule (posix_acl_valid): this order, one of each unnamed entry, a mask if anyone is named.
fn is_valid(entries: &[Entry]) -> bool {
    let ordered = entries.is_sorted_by_key(|entry| entry.tag);
    let count = |tag| entries.iter().filter(|entry| entry.tag == tag).count();
    let known = entries
        .iter()
        .all(|e| matches!(e.tag, USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER) && e.perm <= 7);
    let named = count(USER) + count(GROUP) > 0;
    let masks = count(MASK);
    ordered
        && known
        && count(USER_OBJ) == 1
        && count(GROUP_OBJ) == 1
        && count(OTHER) == 1
        && masks <= 1
        && (masks == 1 || !named)
}
