//! Sessions, their receipts and the inode numbers that are reserved for them.

use super::{
    super::{
        Family, Read, Repair, keys,
        rows::{RangeRow, ReceiptRow, SessionRow, VolumeRow},
    },
    Check, Finding, FindingKind as Found,
    cursor::{Cursor, decoded},
};
use sitefs_base::{InodeId, OpId, Result, SessionId, VolumeId, limits::REPLY_WINDOW};

/// Ranges of one volume that are compared with each other, 16 bytes each: those of a million mounts.
const RANGES_MAX: usize = 1 << 20;
/// Where the session stands in the keys of its rows, and what follows.
const SESSION_AT: usize = 9;
const BEHIND: usize = 25;

fn session_in(key: &[u8]) -> Option<SessionId> {
    keys::part(key, SESSION_AT).map(SessionId::from_key)
}

pub(super) fn check(read: &dyn Read, check: &mut Check, id: VolumeId, volume: &VolumeRow) -> Result<()> {
    let mut sessions = Sessions {
        id,
        volume,
        sessions: Cursor::new(read, Family::Meta, keys::sessions(id)),
        receipts: Cursor::new(read, Family::Meta, keys::all_receipts(id)),
        ranges: Cursor::new(read, Family::Meta, keys::all_ranges(id)),
        numbers: Vec::new(),
    };
    while let Some(session) = sessions.next_id(check)? {
        sessions.one(read, check, session)?;
    }
    sessions.overlaps(check);
    Ok(())
}

struct Sessions<'a> {
    id: VolumeId,
    volume: &'a VolumeRow,
    sessions: Cursor<'a>,
    receipts: Cursor<'a>,
    ranges: Cursor<'a>,
    numbers: Vec<(InodeId, InodeId)>,
}

/// The next row of a session.
fn next_of(cursor: &mut Cursor, check: &mut Check, session: SessionId) -> Result<Option<super::super::Row>> {
    match cursor.peek(check)? {
        Some((key, _)) if session_in(key).is_none_or(|of| of == session) => cursor.next(check),
        _ => Ok(None),
    }
}

impl Sessions<'_> {
    fn next_id(&mut self, check: &mut Check) -> Result<Option<SessionId>> {
        let mut next: Option<SessionId> = None;
        for cursor in [&mut self.sessions, &mut self.receipts, &mut self.ranges] {
            if let Some((key, _)) = cursor.peek(check)? {
                // A key that is too short belongs to whoever is next.
                let id = session_in(key).unwrap_or(SessionId::new(0));
                next = Some(next.map_or(id, |next| next.min(id)));
            }
        }
        Ok(next)
    }

    fn finding(&self, kind: Found, what: String) -> Finding {
        Finding::new(kind, what).of(self.id)
    }

    fn one(&mut self, read: &dyn Read, check: &mut Check, id: SessionId) -> Result<()> {
        let stored = next_of(&mut self.sessions, check, id)?;
        let row = match &stored {
            Some(stored) => decoded::<SessionRow>(check, Some(self.id), Family::Meta, stored)?,
            None => None,
        };
        if let Some(pin) = row.as_ref().and_then(|row| row.at) {
            super::past::unpinned(read, check, self.id, (pin, b'S', &id.to_key()), "session")?;
        }
        let receipts = self.receipts_of(check, id, row.as_ref())?;
        let ranges = self.ranges_of(check, id)?;
        if stored.is_none() {
            let repair = Repair::Session { volume: self.id, session: id };
            if receipts > 0 {
                let what = format!("{receipts} receipts are of {id}, which is not there");
                check.found(self.finding(Found::ReceiptStray, what).repair(repair.clone()));
            }
            if ranges > 0 {
                let what = format!("{ranges} ranges of numbers are of {id}, which is not there");
                check.found(self.finding(Found::RangeStray, what).repair(repair));
            }
        }
        Ok(())
    }

    fn receipts_of(&mut self, check: &mut Check, id: SessionId, row: Option<&SessionRow>) -> Result<u64> {
        let (mut count, mut wrong) = (0, None);
        while let Some(stored) = next_of(&mut self.receipts, check, id)? {
            decoded::<ReceiptRow>(check, Some(self.id), Family::Meta, &stored)?;
            count += 1;
            let op = keys::part(&stored.0, BEHIND).map(OpId::from_key);
            if let (Some(op), Some(row)) = (op, row)
                && (op < row.ack_below || op > row.op_high_water)
            {
                let SessionRow { ack_below, op_high_water, .. } = row;
                wrong.get_or_insert(format!(
                    "{id} needs replies from {ack_below} to {op_high_water}, not {op}"
                ));
            }
        }
        if count > REPLY_WINDOW as u64 {
            wrong.get_or_insert(format!("{id} has {count} receipts"));
        }
        if let Some(what) = wrong {
            check.found(self.finding(Found::ReceiptBeyond, what));
        }
        Ok(count)
    }

    fn ranges_of(&mut self, check: &mut Check, id: SessionId) -> Result<u64> {
        let mut count = 0;
        while let Some(stored) = next_of(&mut self.ranges, check, id)? {
            count += 1;
            let Some(RangeRow { first }) = decoded(check, Some(self.id), Family::Meta, &stored)? else {
                continue;
            };
            let Some(last) = keys::part(&stored.0, BEHIND).map(InodeId::from_key) else { continue };
            if first > last || first <= InodeId::ROOT || last >= self.volume.next_ino {
                let what =
                    format!("{first} to {last} are reserved for {id}; next is {}", self.volume.next_ino);
                check.found(self.finding(Found::RangeWrong, what));
            } else if self.numbers.len() < RANGES_MAX {
                self.numbers.push((first, last));
            }
        }
        Ok(count)
    }

    fn overlaps(&mut self, check: &mut Check) {
        self.numbers.sort_unstable();
        for pair in self.numbers.windows(2) {
            if pair[0].1 >= pair[1].0 {
                let what = format!("numbers from {} on are reserved twice", pair[1].0);
                check.found(self.finding(Found::RangeWrong, what));
            }
        }
    }
}
