//! The names of what a vault holds: `backup/CELL/GROUP/KIND/…`.

use super::PAGE;
use sitefs_base::{Digest, Error, GroupId, Incarnation, NodeId, Result, Time};
use sitefs_blobstore::{Listed, ObjectKey, VAULT_PREFIX, Vault};
use std::fmt::Write;

/// The names of one group's backups.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    pub(super) fn new(cell: &str, group: GroupId) -> Self {
        Self { prefix: format!("{VAULT_PREFIX}{}/{}/", escaped(cell), group.get()) }
    }

    pub(super) fn manifests(&self) -> String {
        format!("{}manifest/", self.prefix)
    }

    pub(super) fn manifest(&self, id: &str) -> String {
        format!("{}manifest/{id}", self.prefix)
    }

    pub(super) fn parts(&self) -> String {
        format!("{}part/", self.prefix)
    }

    /// A part that the backup `run` sent.
    pub(super) fn part(&self, digest: &Digest, run: &str) -> String {
        let first = digest.as_bytes()[0];
        format!("{}part/{first:02x}/{digest}.{run}", self.prefix)
    }

    /// Backups under way.
    pub(super) fn pendings(&self) -> String {
        format!("{}pending/", self.prefix)
    }

    pub(super) fn pending(&self, node: NodeId, id: &str) -> String {
        format!("{}pending/{}/{id}", self.prefix, node.get())
    }

    pub(super) fn pendings_of(&self, node: NodeId) -> String {
        format!("{}pending/{}/", self.prefix, node.get())
    }

    /// Copies of blobs, where the cell has them in its data directory.
    pub(super) fn objects(&self) -> String {
        format!("{}blob/", self.prefix)
    }

    pub(super) fn object(&self, key: &ObjectKey) -> String {
        format!("{}blob/{}", self.prefix, key.to_string().trim_start_matches("b/"))
    }

    pub(super) fn lives(&self) -> String {
        format!("{}life/", self.prefix)
    }

    pub(super) fn life(&self, incarnation: Incarnation) -> String {
        format!("{}life/{:010}", self.prefix, incarnation.get())
    }
}

/// The id of a backup: byte order is the order of time.
pub(super) fn id(at: Time, incarnation: Incarnation, index: u64, random: u32) -> String {
    let time = Time::new(at.secs(), 0).to_string().replace(['-', ':'], "");
    format!("{time}-{}-{index}-{random:08x}", incarnation.get())
}

/// When the backup of that id was begun.
pub(super) fn time_of(id: &str) -> Option<Time> {
    let (time, _) = id.split_once('-')?;
    let part = |from: usize, to: usize| time.get(from..to);
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let (hour, minute, second) = (part(9, 11)?, part(11, 13)?, part(13, 15)?);
    format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z").parse().ok()
}

/// In which life of the cell the backup of that id was begun.
pub(super) fn incarnation_of(id: &str) -> Option<Incarnation> {
    id.split('-').nth(1)?.parse().ok().map(Incarnation::new)
}

/// A name of a cell as one segment of a name.
fn escaped(cell: &str) -> String {
    let mut text = String::new();
    for (place, byte) in cell.bytes().enumerate() {
        if byte.is_ascii_alphanumeric() || b"-_".contains(&byte) || (byte == b'.' && place > 0) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

fn unescaped(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first == b'%' {
            let (hex, after) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

/// All files whose names begin with `prefix`.
pub(super) async fn all(vault: &dyn Vault, prefix: &str) -> Result<Vec<Listed>> {
    let mut found: Vec<Listed> = Vec::new();
    loop {
        let after = found.last().map(|last| last.key.clone());
        let page = vault.list(prefix, after.as_deref(), PAGE).await?;
        if page.is_empty() {
            return Ok(found);
        }
        found.extend(page);
    }
}

/// The cells and groups that have backups in a vault.
pub(super) async fn groups(vault: &dyn Vault) -> Result<Vec<(String, GroupId)>> {
    let mut found = Vec::new();
    let mut after: Option<String> = None;
    while let Some(next) = vault.list(VAULT_PREFIX, after.as_deref(), 1).await?.pop() {
        let mut segments = next.key[VAULT_PREFIX.len()..].splitn(3, '/');
        let (Some(cell), Some(group), Some(_)) = (segments.next(), segments.next(), segments.next()) else {
            return Err(Error::corrupt(format!("{} has an unknown file {}", vault.place(), next.key)));
        };
        if let (Some(cell), Ok(group)) = (unescaped(cell), group.parse()) {
            found.push((cell, GroupId::new(group)));
        }
        // No name of this group is greater: '0' comes after '/'.
        after = Some(format!("{VAULT_PREFIX}{cell}/{group}0"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_cells_are_one_segment_and_come_back() {
        for cell in ["main", "a/b", "..", ".x", "zürich-1", "%41"] {
            let text = escaped(cell);
            assert!(!text.contains('/') && !text.starts_with('.'), "{text}");
            assert_eq!(unescaped(&text).as_deref(), Some(cell));
        }
        assert_eq!(unescaped("%4"), None);
    }

    #[test]
    fn an_id_tells_its_time_and_its_life_and_sorts_by_its_time() {
        let make = |secs| id(Time::new(secs, 5), Incarnation::new(2), 77, 1);
        assert_eq!(time_of(&make(1_800_000_000)), Some(Time::new(1_800_000_000, 0)));
        assert!(make(1_799_999_999) < make(1_800_000_000));
        assert_eq!(time_of("yesterday-1"), None);
        assert_eq!(incarnation_of(&make(1_800_000_000)), Some(Incarnation::new(2)));
        assert_eq!(incarnation_of("yesterday"), None);
    }
}
