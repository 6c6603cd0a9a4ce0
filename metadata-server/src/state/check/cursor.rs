//! Rows in order, a slice at a time.

use super::{
    super::{Family, Read, Row, keys, reads, rows},
    Check, Finding, FindingKind,
};
use serde::de::DeserializeOwned;
use sitefs_base::{InodeId, Kind, Result, VolumeId};
use std::collections::VecDeque;

/// Rows that are read at a time (DESIGN D37).
pub(super) const SLICE: usize = 1_000;

/// Goes through the rows of a family under a prefix. Memory: one slice.
pub(super) struct Cursor<'a> {
    read: &'a dyn Read,
    pub family: Family,
    prefix: Vec<u8>,
    page: VecDeque<Row>,
    /// Where the next slice begins; none behind the last one.
    from: Option<Vec<u8>>,
}

impl<'a> Cursor<'a> {
    pub fn new(read: &'a dyn Read, family: Family, prefix: Vec<u8>) -> Self {
        Self::from(read, family, prefix.clone(), prefix)
    }

    pub fn from(read: &'a dyn Read, family: Family, prefix: Vec<u8>, from: Vec<u8>) -> Self {
        Self { read, family, prefix, page: VecDeque::new(), from: Some(from) }
    }

    fn fill(&mut self, check: &mut Check) -> Result<()> {
        let Some(from) = self.from.take().filter(|_| self.page.is_empty()) else { return Ok(()) };
        let page = self.read.scan(self.family, &self.prefix, &from, SLICE)?;
        check.rows(page.len())?;
        if let Some((last, _)) = page.last().filter(|_| page.len() == SLICE) {
            self.from = Some(reads::after(last));
        }
        self.page = page.into();
        Ok(())
    }

    pub fn peek(&mut self, check: &mut Check) -> Result<Option<&Row>> {
        if self.page.is_empty() {
            self.fill(check)?;
        }
        Ok(self.page.front())
    }

    pub fn next(&mut self, check: &mut Check) -> Result<Option<Row>> {
        if self.page.is_empty() {
            self.fill(check)?;
        }
        Ok(self.page.pop_front())
    }

    /// The inode number at `offset` of the next key.
    pub fn ino(&mut self, check: &mut Check, offset: usize) -> Result<Option<InodeId>> {
        let row = self.peek(check)?;
        // A key that is too short sorts first, and is told when it is decoded.
        Ok(row.map(|(key, _)| keys::part(key, offset).map_or(InodeId::new(0), InodeId::from_key)))
    }

    /// The next row if its inode is `ino`.
    pub fn next_of(&mut self, check: &mut Check, offset: usize, ino: InodeId) -> Result<Option<Row>> {
        if self.ino(check, offset)? == Some(ino) { self.next(check) } else { Ok(None) }
    }
}

/// The row, or nothing and a finding if it is damaged.
pub(super) fn decoded<T: DeserializeOwned>(
    check: &mut Check,
    volume: Option<VolumeId>,
    family: Family,
    (key, value): &Row,
) -> Result<Option<T>> {
    match rows::decode(family, key, value) {
        Ok(row) => Ok(Some(row)),
        Err(error) if error.kind() == Kind::Corrupt => {
            let place = match family {
                Family::Dentry | Family::Inode | Family::Chunk => keys::part(key, 8),
                Family::Small => keys::part(key, 9),
                _ => None,
            };
            let finding = Finding { volume, ..Finding::new(FindingKind::RowDamaged, error.chain()) };
            check.found(match place {
                Some(ino) => finding.ino(InodeId::from_key(ino)),
                None => finding,
            });
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
