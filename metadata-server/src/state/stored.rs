//! The stored form of an inode row: what equals something else, as it nearly always does in a file that
//! was written once, takes a bit instead of its bytes.

use super::{bounds, rows::InodeRow};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, SeqAccess, Visitor},
    ser::SerializeTuple,
};
use sitefs_base::{AttrFlags, Content, FileKind, InodeId, Seq, Time};
use std::fmt;

/// More elements than a row has: the format does not store how many there are.
const ELEMENTS: usize = 17;

/// The bits of the byte behind `born`.
mod bit {
    /// `cver` is `born`.
    pub const CVER: u8 = 1;
    /// `allocated` is `size`.
    pub const ALLOCATED: u8 = 2;
    /// `mtime` is `ctime`.
    pub const MTIME: u8 = 4;
    /// `atime` is `mtime`.
    pub const ATIME: u8 = 8;
    pub const XATTRS: u8 = 16;
    pub const ACCESS_ACL: u8 = 32;
    pub const DEFAULT_ACL: u8 = 64;
    /// A `parent` follows.
    pub const PARENT: u8 = 128;
}

/// Sizes within bounds.
#[derive(Deserialize)]
struct Size(#[serde(deserialize_with = "bounds::count")] u64);

/// Content within bounds.
#[derive(Deserialize)]
struct Bounded(#[serde(deserialize_with = "bounds::content")] Content);

impl InodeRow {
    fn bits(&self) -> u8 {
        let AttrFlags { has_xattrs, has_access_acl, has_default_acl } = self.flags;
        [
            (bit::CVER, self.cver == self.born),
            (bit::ALLOCATED, self.allocated == self.size),
            (bit::MTIME, self.mtime == self.ctime),
            (bit::ATIME, self.atime == self.mtime),
            (bit::XATTRS, has_xattrs),
            (bit::ACCESS_ACL, has_access_acl),
            (bit::DEFAULT_ACL, has_default_acl),
            (bit::PARENT, self.parent.is_some()),
        ]
        .into_iter()
        .fold(0, |bits, (bit, is_set)| if is_set { bits | bit } else { bits })
    }
}

impl Serialize for InodeRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bits = self.bits();
        let mut row = serializer.serialize_tuple(ELEMENTS)?;
        row.serialize_element(&self.born)?;
        row.serialize_element(&bits)?;
        row.serialize_element(&(self.kind, self.mode, self.uid, self.gid, self.nlink, self.rdev))?;
        row.serialize_element(&self.size)?;
        row.serialize_element(&self.ctime)?;
        if bits & bit::CVER == 0 {
            row.serialize_element(&self.cver)?;
        }
        if bits & bit::ALLOCATED == 0 {
            row.serialize_element(&self.allocated)?;
        }
        if bits & bit::MTIME == 0 {
            row.serialize_element(&self.mtime)?;
        }
        if bits & bit::ATIME == 0 {
            row.serialize_element(&self.atime)?;
        }
        if let Some(parent) = &self.parent {
            row.serialize_element(parent)?;
        }
        row.serialize_element(&self.content)?;
        row.end()
    }
}

impl<'de> Deserialize<'de> for InodeRow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_tuple(ELEMENTS, Stored)
    }
}

struct Stored;

fn next<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(row: &mut A) -> Result<T, A::Error> {
    row.next_element()?.ok_or_else(|| A::Error::custom("an inode row ends early"))
}

/// The next element, or `same` where `bit` says that it is left out.
fn next_unless<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(
    row: &mut A,
    is_same: bool,
    same: T,
) -> Result<T, A::Error> {
    if is_same { Ok(same) } else { next(row) }
}

impl<'de> Visitor<'de> for Stored {
    type Value = InodeRow;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an inode row")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut row: A) -> Result<InodeRow, A::Error> {
        let born: Seq = next(&mut row)?;
        let bits: u8 = next(&mut row)?;
        let is = |bit: u8| bits & bit != 0;
        type Small = (FileKind, u16, u32, u32, u32, u32);
        let (kind, mode, uid, gid, nlink, rdev): Small = next(&mut row)?;
        let Size(size) = next(&mut row)?;
        let ctime: Time = next(&mut row)?;
        let cver = next_unless(&mut row, is(bit::CVER), born)?;
        let Size(allocated) = next_unless(&mut row, is(bit::ALLOCATED), Size(size))?;
        let mtime = next_unless(&mut row, is(bit::MTIME), ctime)?;
        let atime = next_unless(&mut row, is(bit::ATIME), mtime)?;
        let parent: Option<InodeId> = if is(bit::PARENT) { Some(next(&mut row)?) } else { None };
        let Bounded(content) = next(&mut row)?;
        let flags = AttrFlags {
            has_xattrs: is(bit::XATTRS),
            has_access_acl: is(bit::ACCESS_ACL),
            has_default_acl: is(bit::DEFAULT_ACL),
        };
        Ok(InodeRow {
            born,
            kind,
            mode,
            uid,
            gid,
            nlink,
            size,
            allocated,
            rdev,
            atime,
            mtime,
            ctime,
            cver,
            flags,
            parent,
            content,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Family,
        rows::{decode, encode},
    };
    use super::*;
    use proptest::prelude::*;

    fn time() -> impl Strategy<Value = Time> {
        prop_oneof![
            Just(Time::new(0, 0)),
            (any::<i64>(), 0..1_000_000_000_u32).prop_map(|(s, n)| Time::new(s, n))
        ]
    }

    /// Values that are often equal, and extreme ones.
    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![Just(7_u64), 0..1_u64 << 60]
    }

    prop_compose! {
        fn row()(
            (born, cver, size, allocated) in (number(), number(), number(), number()),
            (atime, mtime, ctime) in (time(), time(), time()),
            (mode, uid, nlink, rdev) in any::<(u16, u32, u32, u32)>(),
            (has_xattrs, has_access_acl, has_default_acl) in any::<(bool, bool, bool)>(),
            parent in proptest::option::of(any::<u64>().prop_map(InodeId::new)),
            inline in proptest::option::of("[a-z]{0,9}"),
        ) -> InodeRow {
            InodeRow {
                born: Seq::new(born),
                kind: FileKind::File,
                mode, uid, gid: uid / 2, nlink, size, allocated, rdev, atime, mtime, ctime,
                cver: Seq::new(cver),
                flags: AttrFlags { has_xattrs, has_access_acl, has_default_acl },
                parent,
                content: inline.map_or(Content::Empty, |text| Content::Inline(text.into())),
            }
        }
    }

    proptest! {
        #[test]
        fn an_inode_row_comes_back_as_it_was(row in row()) {
            let bytes = encode(&row).unwrap();
            prop_assert_eq!(decode::<InodeRow>(Family::Inode, b"key", &bytes).unwrap(), row.clone());
            for cut in 0..bytes.len() {
                prop_assert!(decode::<InodeRow>(Family::Inode, b"key", &bytes[..cut]).is_err());
            }
        }
    }

    #[test]
    fn what_is_equal_takes_no_bytes() {
        let time = Time::new(1_800_000_000, 999_999_999);
        let row = |other: Time| InodeRow {
            born: Seq::new(1 << 20),
            kind: FileKind::File,
            mode: 0o644,
            uid: 33,
            gid: 33,
            nlink: 1,
            size: 100_000,
            allocated: 100_000,
            rdev: 0,
            atime: other,
            mtime: time,
            ctime: time,
            cver: Seq::new(1 << 20),
            flags: AttrFlags::default(),
            parent: None,
            content: Content::Empty,
        };
        let (same, other) = (encode(&row(time)).unwrap(), encode(&row(Time::new(1_800_000_001, 1))).unwrap());
        assert!(same.len() <= 30 && other.len() > same.len(), "{} {}", same.len(), other.len());
    }
}
