//! The rows of a volume as they were at a seq of its past (DESIGN D2).
//!
//! History rows are keyed by when they died, so the row that held at a seq is the current one, or the
//! first superseded one that died later.

use super::{
    Family, Read,
    history::{self, Life},
    keys,
    moments::{self, Point},
    reads,
    rows::{self, ChunkRow, DentryRow, DirRow, InodeRow, VolumeRow, XattrRow},
    stop::{Step, Stop},
    view::Row,
};
use sitefs_base::{Errno, InodeId, Result, Seq, VolumeId};
use std::{cmp::Ordering, collections::VecDeque};

/// Rows that one step of a scan reads.
const PAGE: usize = 128;

/// Rows of one volume at one seq. Its dentries, inodes, chunks, directory attributes and extended
/// attributes are those of then, and its own row says the seq and the usage of then; all other rows
/// are the current ones.
pub struct AsOf<'a> {
    read: &'a dyn Read,
    volume: VolumeId,
    seq: Seq,
    row: Vec<u8>,
}

/// The volume at `seq`. Refused: `ESTALE` where history does not hold `seq` exactly (it is neither a
/// pin, nor the end of a second at or above the horizon, nor now) or the volume is gone, `EINVAL` above
/// the volume's seq.
pub fn as_of(read: &dyn Read, volume: VolumeId, seq: Seq) -> Result<Result<AsOf<'_>, Errno>> {
    match open(read, volume, seq) {
        Ok(past) => Ok(Ok(past)),
        Err(Stop::Refused(errno)) => Ok(Err(errno)),
        Err(Stop::Failed(error)) => Err(error),
    }
}

fn open(read: &dyn Read, volume: VolumeId, seq: Seq) -> Step<AsOf<'_>> {
    let mut row = reads::volume(read, volume)?.ok_or(Errno::ESTALE)?;
    let Point { seq, bytes_used, inodes_used } = moments::exactly(read, volume, &row, seq)?;
    row.seq = seq;
    row.bytes_used = bytes_used;
    row.inodes_used = inodes_used;
    Ok(AsOf { read, volume, seq, row: rows::encode(&row)? })
}

/// The volume as it was at the end of a content version of an inode that is gone, if history holds that.
/// All its rows of that version are there: they held for as long as the inode's row.
pub(super) fn version<'a>(
    read: &'a dyn Read,
    id: VolumeId,
    volume: &VolumeRow,
    ino: InodeId,
    cver: Seq,
) -> Result<Option<AsOf<'a>>> {
    let key = keys::inode(id, ino);
    let (prefix, from) =
        (keys::deaths(Family::Inode, &key), keys::died(Family::Inode, &key, cver.next()));
    let Some((key, value)) = read.scan(Family::InodeHistory, &prefix, &from, 1)?.pop() else {
        return Ok(None);
    };
    let row: InodeRow = rows::decode(Family::InodeHistory, &key, &value)?;
    let life = history::life_of(Family::InodeHistory, &key, &value)?;
    if row.cver != cver || !history::keep(life, volume.horizon, &volume.pins) {
        return Ok(None);
    }
    let seq = Seq::new(life.died.get().saturating_sub(1));
    let row = rows::encode(&VolumeRow { seq, ..volume.clone() })?;
    Ok(Some(AsOf { read, volume: id, seq, row }))
}

impl AsOf<'_> {
    /// The seq.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// The history of rows like this, if they have one.
    fn history(&self, family: Family, key: &[u8]) -> Option<Family> {
        let own = key.starts_with(&self.volume.to_key());
        history::family_of(family, key).filter(|_| own)
    }

    fn superseded(&self, history: Family, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let prefix = keys::deaths(family, key);
        let from = keys::died(family, key, self.seq.next());
        let Some((key, value)) = self.read.scan(history, &prefix, &from, 1)?.pop() else {
            return Ok(None);
        };
        if !history::life_of(history, &key, &value)?.holds(self.seq) {
            return Ok(None);
        }
        check(history, &key, &value)?;
        Ok(Some(value))
    }
}

impl Read for AsOf<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>> {
        if family == Family::Meta && key == keys::volume(self.volume) {
            return Ok(Some(self.row.clone()));
        }
        let current = self.read.get(family, key)?;
        let Some(history) = self.history(family, key) else {
            return Ok(current);
        };
        match current {
            Some(value) if rows::born(family, key, &value)? <= self.seq => Ok(Some(value)),
            _ => self.superseded(history, family, key),
        }
    }

    /// Scans that begin above one volume (a prefix shorter than its number) see current rows only.
    fn scan(&self, family: Family, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Row>> {
        let Some(history) = history::family_under(family, prefix) else {
            return self.read.scan(family, prefix, from, limit);
        };
        if !prefix.starts_with(&self.volume.to_key()) {
            return self.read.scan(family, prefix, from, limit);
        }
        let mut current = Pages::new(self.read, family, prefix, from, limit);
        let mut past = Pages::new(self.read, history, prefix, from, limit);
        let mut found = Vec::new();
        let mut next = (self.next_current(family, &mut current)?, self.next_past(family, from, &mut past)?);
        while found.len() < limit {
            let order = match &next {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(current), Some(past)) => current.0.cmp(&past.0),
            };
            // Never equal: only one row of a key holds at a time.
            if order == Ordering::Greater {
                found.extend(next.1.take());
                next.1 = self.next_past(family, from, &mut past)?;
            } else {
                found.extend(next.0.take());
                next.0 = self.next_current(family, &mut current)?;
            }
        }
        Ok(found)
    }
}

impl AsOf<'_> {
    /// The next current row that held then already, or has no history.
    fn next_current(&self, family: Family, pages: &mut Pages) -> Result<Option<Row>> {
        while let Some((key, value)) = pages.next()? {
            let lived = history::family_of(family, &key).is_some();
            if !lived || rows::born(family, &key, &value)? <= self.seq {
                return Ok(Some((key, value)));
            }
        }
        Ok(None)
    }

    /// The next superseded row that held then, under the key that it had: `from` or a later one.
    fn next_past(&self, family: Family, from: &[u8], pages: &mut Pages) -> Result<Option<Row>> {
        while let Some((key, value)) = pages.next()? {
            let Life { born, died } = history::life_of(pages.family, &key, &value)?;
            let plain = keys::before_death(family, &key)
                .ok_or_else(|| rows::damaged(pages.family, &key, "is no key of a superseded row"))?;
            if died <= self.seq && plain >= from {
                pages.skip_to(keys::died(family, plain, self.seq.next()));
                continue;
            }
            // All other rows of this key died later still, and so were born later. A key below `from`
            // comes because what follows it in its history keys counts as behind it.
            pages.skip_to(reads::after(&keys::died(family, plain, Seq::new(u64::MAX))));
            if born <= self.seq && plain >= from {
                check(pages.family, &key, &value)?;
                return Ok(Some((plain.to_vec(), value)));
            }
        }
        Ok(None)
    }
}

/// Decodes a superseded row before it is handed out under the key that it had: damage is told with the
/// key under which it stands.
fn check(history: Family, key: &[u8], value: &[u8]) -> Result<()> {
    match history {
        Family::DentryHistory => rows::decode::<DentryRow>(history, key, value).map(drop),
        Family::InodeHistory => rows::decode::<InodeRow>(history, key, value).map(drop),
        Family::ChunkHistory => rows::decode::<ChunkRow>(history, key, value).map(drop),
        _ if key.get(8) == Some(&b'A') => rows::decode::<DirRow>(history, key, value).map(drop),
        _ => rows::decode::<XattrRow>(history, key, value).map(drop),
    }
}

/// Rows in order, read page by page; what is skipped is not read beyond the page.
struct Pages<'a> {
    read: &'a dyn Read,
    family: Family,
    prefix: &'a [u8],
    /// Where the next page begins; `None` behind the last one.
    from: Option<Vec<u8>>,
    page: VecDeque<Row>,
    size: usize,
}

impl<'a> Pages<'a> {
    fn new(read: &'a dyn Read, family: Family, prefix: &'a [u8], from: &[u8], wanted: usize) -> Self {
        let size = wanted.clamp(1, PAGE);
        Self { read, family, prefix, from: Some(from.to_vec()), page: VecDeque::new(), size }
    }

    fn next(&mut self) -> Result<Option<Row>> {
        if self.page.is_empty() {
            let Some(from) = self.from.take() else { return Ok(None) };
            let page = self.read.scan(self.family, self.prefix, &from, self.size)?;
            if let Some((last, _)) = page.last().filter(|_| page.len() == self.size) {
                self.from = Some(reads::after(last));
            }
            self.page = page.into();
        }
        Ok(self.page.pop_front())
    }

    /// Goes on at `key`, which must not be below the last row.
    fn skip_to(&mut self, key: Vec<u8>) {
        while self.page.pop_front_if(|(next, _)| *next < key).is_some() {}
        if self.page.is_empty() {
            self.from = self.from.take().map(|from| from.max(key));
        }
    }
}
