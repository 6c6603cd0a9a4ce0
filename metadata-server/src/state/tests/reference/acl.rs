//! Access control lists as acl(5) tells them, in the kernel's form.

use bytes::Bytes;
use sitefs_base::Errno;

pub const OWNER: u16 = 0x01;
pub const USER: u16 = 0x02;
pub const OWNING_GROUP: u16 = 0x04;
pub const GROUP: u16 = 0x08;
pub const MASK: u16 = 0x10;
pub const OTHER: u16 = 0x20;

/// Tag and permissions of the entries; the id of named ones.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List(pub Vec<(u16, u16, u32)>);

impl List {
    pub fn bytes(&self) -> Bytes {
        let mut bytes = vec![2, 0, 0, 0];
        for (tag, perm, id) in &self.0 {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(perm.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes.into()
    }

    /// The list in `bytes`; `None` is no list at all.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, Errno> {
        if bytes.len() < 4 {
            return Err(Errno::EINVAL);
        } else if bytes[..4] != [2, 0, 0, 0] {
            return Err(Errno::EOPNOTSUPP);
        } else if bytes.len() == 4 {
            return Ok(None);
        }
        let number = |raw: &[u8]| raw.iter().rev().fold(0u32, |sum, byte| (sum << 8) | u32::from(*byte));
        let entry = |raw: &[u8]| (number(&raw[..2]) as u16, number(&raw[2..4]) as u16, number(&raw[4..]));
        let whole = bytes[4..].chunks(8).all(|raw| raw.len() == 8);
        let list = whole.then(|| Self(bytes[4..].chunks(8).map(entry).collect()));
        list.filter(Self::is_valid).map(Some).ok_or(Errno::EINVAL)
    }

    fn is_valid(&self) -> bool {
        let order = [OWNER, USER, OWNING_GROUP, GROUP, MASK, OTHER];
        let ranks: Vec<_> = self.0.iter().map(|entry| order.iter().position(|tag| *tag == entry.0)).collect();
        let count = |tag| self.0.iter().filter(|entry| entry.0 == tag).count();
        let named = count(USER) + count(GROUP);
        ranks.is_sorted()
            && ranks.iter().all(Option::is_some)
            && self.0.iter().all(|entry| entry.1 <= 7)
            && [OWNER, OWNING_GROUP, OTHER].iter().all(|tag| count(*tag) == 1)
            && (count(MASK) == 1 || (count(MASK) == 0 && named == 0))
    }

    /// The entry that stands for the group bits of a mode.
    fn group_class(&self) -> u16 {
        if self.0.iter().any(|entry| entry.0 == MASK) { MASK } else { OWNING_GROUP }
    }

    pub fn mode(&self) -> u16 {
        let perm = |tag| self.0.iter().find(|entry| entry.0 == tag).unwrap().1;
        perm(OWNER) * 0o100 + perm(self.group_class()) * 0o10 + perm(OTHER)
    }

    /// Whether a mode says as much.
    pub fn is_minimal(&self) -> bool {
        self.0.len() == 3
    }

    pub fn chmod(&mut self, mode: u16) {
        let group = self.group_class();
        for (tag, perm, _) in &mut self.0 {
            if *tag == OWNER {
                *perm = mode / 0o100 % 8;
            } else if *tag == group {
                *perm = mode / 0o10 % 8;
            } else if *tag == OTHER {
                *perm = mode % 8;
            }
        }
    }

    /// The access list of a new entry that a program asks for with `mode`.
    pub fn inherited(&self, mode: u16) -> Self {
        let mut list = self.clone();
        list.chmod(self.mode() & mode);
        list
    }
}
