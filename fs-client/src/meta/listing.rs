//! Directory listings with cookies that survive changes (DESIGN D7).

use siphasher::sip::SipHasher13;
use sitefs_base::{FileKind, InodeId, Name};
use std::hash::Hasher;

/// An entry of a listing.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Where a listing goes on behind this entry.
    pub cookie: u64,
    /// The name.
    pub name: Name,
    /// The inode.
    pub ino: InodeId,
    /// Its kind.
    pub kind: FileKind,
}

/// A whole listing, in the order of its cookies.
#[derive(Debug)]
pub struct Listing {
    /// The parent of the directory.
    pub parent: InodeId,
    entries: Vec<Listed>,
}

/// Cookies have bit 62 set, so that they never meet those of `.` (1) and `..` (2).
const COOKIE_BIT: u64 = 1 << 62;
/// The lowest bits of a cookie tell names of one hash apart.
const ORDINALS: u64 = 0xf;

fn cookie(name: &Name) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0x7369_7465_6673_0001, 0x6c69_7374_696e_6700);
    hasher.write(name.as_bytes());
    // Leave the lowest bits to collision ordinals.
    (hasher.finish() & (COOKIE_BIT - 1) & !ORDINALS) | COOKIE_BIT
}

impl Listing {
    /// Sorts `names` by cookie; names of one hash get consecutive ordinals in byte order.
    pub fn new(parent: InodeId, names: impl IntoIterator<Item = (Name, InodeId, FileKind)>) -> Self {
        let mut entries: Vec<Listed> = names
            .into_iter()
            .map(|(name, ino, kind)| Listed { cookie: cookie(&name), name, ino, kind })
            .collect();
        entries.sort_by(|a, b| (a.cookie, &a.name).cmp(&(b.cookie, &b.name)));
        entries.dedup_by(|b, a| a.name == b.name);
        for at in 1..entries.len() {
            if entries[at].cookie <= entries[at - 1].cookie {
                entries[at].cookie = entries[at - 1].cookie + 1;
            }
        }
        Self { parent, entries }
    }

    /// The entries behind `cookie`; from the beginning for cookies below all entries.
    pub fn after(&self, cookie: u64) -> &[Listed] {
        &self.entries[self.entries.partition_point(|entry| entry.cookie <= cookie)..]
    }

    /// The inode under a name.
    pub fn find(&self, name: &Name) -> Option<InodeId> {
        let first = cookie(name);
        let from = self.entries.partition_point(|entry| entry.cookie < first);
        let mut same_hash = self.entries[from..].iter().take_while(|entry| entry.cookie - first <= ORDINALS);
        same_hash.find(|entry| entry.name == *name).map(|entry| entry.ino)
    }

    /// All entries.
    pub fn entries(&self) -> &[Listed] {
        &self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_leads_to_the_same_place_after_deletes() {
        let name = |i: u32| Name::new(format!("file-{i}").into_bytes()).unwrap();
        let all = (0..1000).map(|i| (name(i), InodeId::new(u64::from(i) + 2), FileKind::File));
        let before = Listing::new(InodeId::ROOT, all);
        let cookie = before.entries()[499].cookie;
        let rest: Vec<_> = before.after(cookie).iter().map(|entry| entry.name.clone()).collect();
        let fewer = before.entries()[400..].iter().map(|entry| (entry.name.clone(), entry.ino, entry.kind));
        let after = Listing::new(InodeId::ROOT, fewer);
        assert_eq!(after.after(cookie).iter().map(|entry| entry.name.clone()).collect::<Vec<_>>(), rest);
        assert_eq!(before.after(2).len(), 1000);
    }

    #[test]
    fn names_are_found_in_a_listing() {
        let name = |i: u32| Name::new(format!("file-{i}").into_bytes()).unwrap();
        let all = (0..1000).map(|i| (name(i), InodeId::new(u64::from(i) + 2), FileKind::File));
        let listing = Listing::new(InodeId::ROOT, all);
        assert!((0..1000).all(|i| listing.find(&name(i)) == Some(InodeId::new(u64::from(i) + 2))));
        assert_eq!(listing.find(&name(1000)), None);
    }
}
