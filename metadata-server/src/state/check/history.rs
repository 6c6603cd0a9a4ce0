//! Superseded rows: when they held, and what they name.

use super::{
    super::{
        Family, Read,
        history::{self, Life},
        keys,
        rows::{self, ChunkRow, DentryRow, DirRow, InodeRow, VolumeRow, XattrRow},
        view::Row,
    },
    Check, Finding, FindingKind as Found,
    cursor::{Cursor, decoded},
    references::References,
};
use sitefs_base::{Extent, InodeId, Result, Seq, VolumeId};

const LIVED: [Family; 4] = [Family::Dentry, Family::Inode, Family::Chunk, Family::Small];

/// One family of a volume.
struct History<'a> {
    id: VolumeId,
    volume: &'a VolumeRow,
    family: Family,
    history: Family,
    current: Cursor<'a>,
    superseded: Cursor<'a>,
}

pub(super) fn check(read: &dyn Read, check: &mut Check, id: VolumeId, volume: &VolumeRow) -> Result<()> {
    let mut references = References::new(id, volume.site);
    for family in LIVED {
        let prefix = id.to_key().to_vec();
        let Some(history) = history::family_under(family, &prefix) else { continue };
        let rows = |family| Cursor::new(read, family, prefix.clone());
        let mut one =
            History { id, volume, family, history, current: rows(family), superseded: rows(history) };
        one.check(read, check, &mut references)?;
    }
    references.flush(read, check)
}

impl History<'_> {
    fn check(&mut self, read: &dyn Read, check: &mut Check, references: &mut References) -> Result<()> {
        let mut before: Option<(Vec<u8>, Seq)> = None;
        while let Some(row) = self.superseded.next(check)? {
            let Ok(life) = history::life_of(self.history, &row.0, &row.1) else {
                self.damaged(check, &row)?;
                continue;
            };
            let Some(key) = keys::before_death(self.family, &row.0).map(<[u8]>::to_vec) else {
                self.tell(
                    check,
                    Found::RowDamaged,
                    &row.0,
                    "its key is not that of a superseded row".to_owned(),
                );
                continue;
            };
            if before.as_ref().is_some_and(|(last, _)| *last != key) {
                self.end(check, before.take())?;
            }
            let Life { born, died } = life;
            if born >= died {
                self.tell(
                    check,
                    Found::LifeWrong,
                    &row.0,
                    format!("a row was born at {born} and died at {died}"),
                );
            }
            if died > self.volume.seq {
                let what = format!("a row died at {died}, its volume is at {}", self.volume.seq);
                self.tell(check, Found::RowFromFuture, &row.0, what);
            }
            if let Some((_, end)) = before.filter(|(_, end)| *end > born) {
                let what = format!("a row was born at {born}, the one before it held until {end}");
                self.tell(check, Found::LivesOverlap, &row.0, what);
            }
            before = Some((key, died));
            // What nobody may read any more may name what is gone.
            if history::keep(life, self.volume.horizon, &self.volume.pins) {
                self.content(read, check, &row, references)?;
            }
        }
        self.end(check, before)
    }

    /// The last superseded row of a key against the current one.
    fn end(&mut self, check: &mut Check, last: Option<(Vec<u8>, Seq)>) -> Result<()> {
        let Some((key, died)) = last else { return Ok(()) };
        while self.current.peek(check)?.is_some_and(|(now, _)| *now < key) {
            self.current.next(check)?;
        }
        let Some((now, value)) = self.current.peek(check)? else { return Ok(()) };
        if *now == key
            && let Ok(born) = rows::born(self.family, now, value)
            && died > born
        {
            let what = format!("the row of today was born at {born}, the one before it held until {died}");
            self.tell(check, Found::LivesOverlap, &key, what);
        }
        Ok(())
    }

    fn finding(&self, kind: Found, key: &[u8], what: String) -> Finding {
        let offset = if self.family == Family::Small { 9 } else { 8 };
        let finding = Finding::new(kind, format!("family {}: {what}", self.history.name())).of(self.id);
        match keys::part(key, offset) {
            Some(ino) => finding.ino(InodeId::from_key(ino)),
            None => finding,
        }
    }

    fn tell(&self, check: &mut Check, kind: Found, key: &[u8], what: String) {
        check.found(self.finding(kind, key, what));
    }

    fn damaged(&self, check: &mut Check, row: &Row) -> Result<()> {
        decoded::<DentryRow>(check, Some(self.id), self.history, row).map(drop)
    }

    fn content(
        &self,
        read: &dyn Read,
        check: &mut Check,
        row: &Row,
        references: &mut References,
    ) -> Result<()> {
        let id = Some(self.id);
        match self.family {
            Family::Dentry => {
                decoded::<DentryRow>(check, id, self.history, row)?;
            }
            Family::Inode => {
                if let Some(inode) = decoded::<InodeRow>(check, id, self.history, row)? {
                    self.named(read, check, &row.0, inode.extents(), references)?;
                }
            }
            Family::Chunk => {
                if let Some(chunk) = decoded::<ChunkRow>(check, id, self.history, row)? {
                    self.named(read, check, &row.0, &chunk.extents, references)?;
                }
            }
            _ if row.0.get(8) == Some(&b'A') => {
                decoded::<DirRow>(check, id, self.history, row)?;
            }
            _ => {
                decoded::<XattrRow>(check, id, self.history, row)?;
            }
        }
        Ok(())
    }

    fn named(
        &self,
        read: &dyn Read,
        check: &mut Check,
        key: &[u8],
        extents: &[Extent],
        references: &mut References,
    ) -> Result<()> {
        let Some(ino) = keys::part(key, 8).map(InodeId::from_key) else { return Ok(()) };
        references.add(read, check, ino, extents)
    }
}
