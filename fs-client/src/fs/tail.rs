//! What append handles wrote and the cell does not have yet, in the pieces in which it is sent.
//!
//! A piece stays until the answer of its operation is known, so that nothing which write() accepted is
//! forgotten, and is sent again only if it is known that it was not executed.

use crate::meta::OpKey;
use bytes::Bytes;
use sitefs_base::limits::HOT_MAX;
use sitefs_base::{InodeId, Time, op};
use std::{collections::VecDeque, time::Duration};

/// Bytes for the end of a file, wherever that is by the time that they reach the cell. Never empty.
#[derive(Debug)]
pub struct Tail {
    pieces: VecDeque<Piece>,
    /// The file has at least so many bytes when they are there.
    pub promised: u64,
    /// CLOCK_BOOTTIME of the oldest.
    pub since: Duration,
}

/// What one operation carries: whole writes, but for those that are larger than an operation.
#[derive(Debug)]
struct Piece {
    append: Appended,
    stage: Stage,
}

/// Bytes that are appended together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Appended {
    pub bytes: Vec<u8>,
    /// When the last of them were written.
    pub written: Time,
    /// Whether a writer may not keep set-id bits.
    pub kill_setid: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// More may be added.
    Open,
    /// An operation with these bytes is or was on its way.
    Sealed,
    /// Its outcome is not known.
    Unsure(OpKey),
}

/// What has to be done next.
#[derive(Debug)]
pub(super) enum Next {
    /// Send the oldest piece.
    Send(Box<op::Op>),
    /// Find out what became of it.
    Ask(OpKey),
}

impl Tail {
    /// The first bytes, which end at `promised`.
    pub fn begin(promised: u64, since: Duration, bytes: &[u8], now: Time, kill_setid: bool) -> Self {
        let mut tail = Self { pieces: VecDeque::new(), promised, since };
        tail.push(promised, bytes, now, kill_setid);
        tail
    }

    /// Adds what one write brought. What fits into an operation is never divided.
    pub fn push(&mut self, promised: u64, bytes: &[u8], now: Time, kill_setid: bool) {
        self.promised = promised;
        for part in bytes.chunks(HOT_MAX) {
            let has_room = |piece: &&mut Piece| {
                piece.stage == Stage::Open && piece.append.bytes.len() + part.len() <= HOT_MAX
            };
            if let Some(piece) = self.pieces.back_mut().filter(has_room) {
                piece.append.bytes.extend_from_slice(part);
                piece.append.written = now;
                piece.append.kill_setid |= kill_setid;
            } else {
                let append = Appended { bytes: part.to_vec(), written: now, kill_setid };
                self.pieces.push_back(Piece { append, stage: Stage::Open });
            }
        }
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.append.bytes.len()).sum()
    }

    /// When the last of them were written.
    pub fn written(&self) -> Option<Time> {
        self.pieces.back().map(|piece| piece.append.written)
    }

    /// Whether a writer may not keep set-id bits.
    pub fn kills_setid(&self) -> bool {
        self.pieces.iter().any(|piece| piece.append.kill_setid)
    }

    /// All bytes, in order.
    pub fn bytes(&self) -> Vec<u8> {
        self.pieces.iter().flat_map(|piece| &piece.append.bytes).copied().collect()
    }

    /// What a mount that died left in its journal.
    pub(super) fn restored(size: u64, since: Duration, appends: Vec<Appended>) -> Option<Self> {
        let len: usize = appends.iter().map(|append| append.bytes.len()).sum();
        let piece = |append| Piece { append, stage: Stage::Sealed };
        let pieces: VecDeque<_> = appends.into_iter().map(piece).collect();
        if pieces.is_empty() { None } else { Some(Self { pieces, promised: size + len as u64, since }) }
    }

    /// What waits, for the journal: from now on none of it takes more bytes. With the operation of the
    /// first whose outcome is not known.
    pub(super) fn seal(&mut self) -> (Vec<Appended>, Option<OpKey>) {
        for piece in self.pieces.iter_mut().filter(|piece| piece.stage == Stage::Open) {
            piece.stage = Stage::Sealed;
        }
        let unsure = match self.pieces.front().map(|piece| piece.stage) {
            Some(Stage::Unsure(key)) => Some(key),
            _ => None,
        };
        (self.pieces.iter().map(|piece| piece.append.clone()).collect(), unsure)
    }

    /// What to do about the oldest piece, which takes no more bytes from now on.
    pub(super) fn next(&mut self, ino: InodeId) -> Option<Next> {
        let piece = self.pieces.front_mut()?;
        if let Stage::Unsure(key) = piece.stage {
            return Some(Next::Ask(key));
        }
        piece.stage = Stage::Sealed;
        let (changed, kill_setid) = (Some(piece.append.written), piece.append.kill_setid);
        let bytes = Bytes::copy_from_slice(&piece.append.bytes);
        Some(Next::Send(Box::new(op::Op::Append { ino, bytes, changed, kill_setid })))
    }

    /// The oldest piece was sent as this operation, which was not answered.
    pub(super) fn is_unsure(&mut self, key: OpKey) {
        if let Some(piece) = self.pieces.front_mut() {
            piece.stage = Stage::Unsure(key);
        }
    }

    /// The operation of the oldest piece whose answer was waited for, if there is one: nobody waits for
    /// it any more.
    pub(super) fn give_up(&mut self) -> Option<OpKey> {
        let piece = self.pieces.front_mut()?;
        let Stage::Unsure(key) = piece.stage else { return None };
        piece.stage = Stage::Sealed;
        Some(key)
    }
}

/// The oldest piece was executed: gives its bytes. The last one takes the tail with it.
pub(super) fn landed(tail: &mut Option<Tail>) -> Vec<u8> {
    let piece = tail.as_mut().and_then(|tail| tail.pieces.pop_front());
    if tail.as_ref().is_some_and(|tail| tail.pieces.is_empty()) {
        *tail = None;
    }
    piece.map(|piece| piece.append.bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitefs_base::{OpId, SessionId};

    const INO: InodeId = InodeId::new(5);

    fn tail(writes: &[usize]) -> Option<Tail> {
        let now = Time::new(1, 0);
        let mut tail: Option<Tail> = None;
        for (number, len) in writes.iter().enumerate() {
            let bytes = vec![u8::try_from(number).unwrap(); *len];
            match &mut tail {
                Some(tail) => tail.push(tail.promised + *len as u64, &bytes, now, false),
                None => tail = Some(Tail::begin(*len as u64, Duration::ZERO, &bytes, now, false)),
            }
        }
        tail
    }

    fn send(tail: &mut Option<Tail>) -> Option<Vec<u8>> {
        let Next::Send(sent) = tail.as_mut()?.next(INO)? else { panic!("it waits for an answer") };
        let op::Op::Append { bytes, .. } = *sent else { panic!("{sent:?}") };
        Some(bytes.to_vec())
    }

    #[test]
    fn a_write_that_fits_into_an_operation_is_never_divided() {
        let mut waiting = tail(&[HOT_MAX - 10, 20, HOT_MAX, 1, 5, HOT_MAX + 7]);
        let mut sizes = Vec::new();
        while let Some(bytes) = send(&mut waiting) {
            sizes.push(bytes.len());
            assert_eq!(landed(&mut waiting), bytes);
        }
        assert_eq!(sizes, [HOT_MAX - 10, 20, HOT_MAX, 6, HOT_MAX, 7]);
        assert!(waiting.is_none());
    }

    #[test]
    fn what_the_journal_has_takes_no_more_bytes() {
        let mut waiting = tail(&[10, 20]);
        let (kept, unsure) = waiting.as_mut().unwrap().seal();
        assert_eq!((kept.len(), kept[0].bytes.len(), unsure), (1, 30, None));
        waiting.as_mut().unwrap().push(35, &[9; 5], Time::new(2, 0), false);
        let mut restored = Tail::restored(7, Duration::ZERO, kept);
        assert_eq!(restored.as_ref().unwrap().promised, 37);
        assert_eq!(send(&mut restored), send(&mut waiting), "the next mount sends what this one does");
        waiting.as_mut().unwrap().is_unsure(OpKey { session: SessionId::new(1), op: OpId::new(7) });
        let (kept, unsure) = waiting.as_mut().unwrap().seal();
        assert_eq!((kept.len(), unsure.map(|key| key.op)), (2, Some(OpId::new(7))));
    }

    #[test]
    fn what_was_sent_stays_as_it_was_sent_until_it_is_answered() {
        let mut waiting = tail(&[10]);
        let sent = send(&mut waiting).unwrap();
        waiting.as_mut().unwrap().push(15, &[9; 5], Time::new(2, 0), true);
        assert_eq!(send(&mut waiting).unwrap(), sent, "refused, and tried again");
        let key = OpKey { session: SessionId::new(1), op: OpId::new(7) };
        waiting.as_mut().unwrap().is_unsure(key);
        assert!(matches!(waiting.as_mut().unwrap().next(INO), Some(Next::Ask(asked)) if asked == key));
        assert_eq!(waiting.as_mut().unwrap().give_up(), Some(key));
        assert_eq!(send(&mut waiting).unwrap(), sent, "known not to be executed");
        assert_eq!(landed(&mut waiting).len(), 10);
        assert_eq!(waiting.as_ref().unwrap().len(), 5);
        assert_eq!(send(&mut waiting).unwrap(), [9; 5]);
    }
}
