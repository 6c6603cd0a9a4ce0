//! Sessions: exactly-once execution and inode numbers (DESIGN D12 and D14).

use super::{
    Family, Read, keys, moments,
    mutation::{Done, Mutation},
    pins::{self, Holder},
    reads,
    rows::{self, RangeRow, ReceiptExtra, ReceiptRow, SessionRow, VolumeRow},
    scope::Scope,
    stop::{Step, require},
};
use sitefs_base::{
    Errno, InodeId, Moment, OpId, Result, Seq, SessionId, Time, VolumeId,
    limits::{INODE_RANGE, REPLY_WINDOW},
    op::Extra,
};

/// Sessions that one command may forget.
const EXPIRE_MAX: usize = 1000;

/// Begins a session, or finds it again; either way it has been used now. One of a moment of the past
/// pins that, and goes on to see it when it is found again; a session of now never becomes one.
pub(super) fn open(
    scope: &mut Scope,
    id: VolumeId,
    mut volume: VolumeRow,
    session: SessionId,
    at: Option<&Moment>,
) -> Step<SessionRow> {
    let key = keys::session(id, session);
    let now = scope.at;
    let row = match rows::fetch::<SessionRow>(&scope.rows, Family::Meta, &key)? {
        Some(row) => {
            require(at.is_none() || row.at.is_some(), Errno::EINVAL)?;
            SessionRow { last_used: now, ..row }
        }
        None => {
            let at = at.map(|at| pin(scope, id, &mut volume, session, at)).transpose()?;
            let none = OpId::new(0);
            SessionRow { opened_at: now, last_used: now, op_high_water: none, ack_below: none, at }
        }
    };
    scope.put(Family::Meta, &key, &row)?;
    Ok(row)
}

/// Finds a session again; it has been used now. One that is forgotten is not begun anew: its operations
/// could run twice (DESIGN D12).
pub(super) fn resume(scope: &mut Scope, id: VolumeId, session: SessionId) -> Step<SessionRow> {
    let key = keys::session(id, session);
    let row: SessionRow = rows::fetch(&scope.rows, Family::Meta, &key)?.ok_or(Errno::ESTALE)?;
    let row = SessionRow { last_used: scope.at, ..row };
    scope.put(Family::Meta, &key, &row)?;
    Ok(row)
}

fn pin(
    scope: &mut Scope,
    id: VolumeId,
    volume: &mut VolumeRow,
    session: SessionId,
    at: &Moment,
) -> Step<Seq> {
    let point = moments::point_at(&scope.rows, id, volume, at, scope.at)?;
    pins::hold(scope, id, volume, point, Holder::Session(session))?;
    scope.put(Family::Meta, &keys::volume(id), volume)?;
    Ok(point.seq)
}

/// Forgets a session with its receipts, ranges and pin.
pub(super) fn close(scope: &mut Scope, volume: VolumeId, session: SessionId) -> Result<()> {
    let row: Option<SessionRow> = rows::fetch(&scope.rows, Family::Meta, &keys::session(volume, session))?;
    let Some(row) = row else { return Ok(()) };
    unpin(scope, volume, &row, session)?;
    scope.rows.delete(Family::Meta, &keys::session(volume, session));
    // Not from the beginning: there may be a million deleted receipts below the mark.
    let receipts = keys::receipt(volume, session, row.ack_below);
    for (prefix, from) in [
        (keys::receipts(volume, session), receipts),
        (keys::ranges(volume, session), keys::ranges(volume, session)),
    ] {
        for (key, _) in reads::all_from(&scope.rows, Family::Meta, &prefix, &from)? {
            scope.rows.delete(Family::Meta, &key);
        }
    }
    Ok(())
}

fn unpin(scope: &mut Scope, id: VolumeId, row: &SessionRow, session: SessionId) -> Result<()> {
    let Some(pin) = row.at else { return Ok(()) };
    let Some(mut volume) = reads::volume(&scope.rows, id)? else { return Ok(()) };
    pins::release(scope, id, &mut volume, pin, Holder::Session(session))?;
    scope.put(Family::Meta, &keys::volume(id), &volume)
}

/// Forgets sessions that were last used before `before`.
pub(super) fn expire(scope: &mut Scope, before: Time) -> Result<()> {
    let mut expired = Vec::new();
    reads::walk(&scope.rows, Family::Meta, keys::SESSIONS, keys::SESSIONS, |key, value| {
        let row: SessionRow = rows::decode(Family::Meta, key, value)?;
        if row.last_used < before {
            let ids = keys::part(key, 1).zip(keys::part(key, 9));
            let (volume, session) =
                ids.ok_or_else(|| rows::damaged(Family::Meta, key, "is no key of a session"))?;
            expired.push((VolumeId::from_key(volume), SessionId::from_key(session)));
        }
        Ok(expired.len() < EXPIRE_MAX)
    })?;
    for (volume, session) in expired {
        close(scope, volume, session)?;
    }
    Ok(())
}

/// Whether an operation is to be executed, or what it gave when it was.
pub(super) enum Admission {
    Execute(SessionRow),
    Answer(ReceiptRow),
}

/// Decides on an operation; sessions of the past execute none. Receipts of the whole window are kept, so one without a receipt was
/// never executed, or executed without need for a receipt. Above the high water there is none.
pub(super) fn admit(
    read: &dyn Read,
    volume: VolumeId,
    session: SessionId,
    op: OpId,
    ack_below: OpId,
) -> Step<Admission> {
    let row: SessionRow =
        rows::fetch(read, Family::Meta, &keys::session(volume, session))?.ok_or(Errno::ESTALE)?;
    if op <= row.op_high_water
        && let Some(receipt) = rows::fetch(read, Family::Meta, &keys::receipt(volume, session, op))?
    {
        return Ok(Admission::Answer(receipt));
    }
    require(row.at.is_none(), Errno::EROFS)?;
    require(op >= row.ack_below && op >= ack_below, Errno::EINVAL)?;
    let window = op.get() - ack_below.max(row.ack_below).get();
    require(window < REPLY_WINDOW as u64, Errno::EBUSY)?;
    Ok(Admission::Execute(row))
}

/// Notes that an operation was executed: its receipt stays until the client needs it no more.
pub(super) fn record(
    scope: &mut Scope,
    volume: VolumeId,
    session: SessionId,
    row: SessionRow,
    (op, ack_below): (OpId, OpId),
    receipt: Option<&ReceiptRow>,
) -> Result<()> {
    // No receipt stands more than a window above the old mark.
    let end = ack_below.get().min(row.ack_below.get().saturating_add(REPLY_WINDOW as u64));
    for old in row.ack_below.get()..end {
        scope.rows.delete(Family::Meta, &keys::receipt(volume, session, OpId::new(old)));
    }
    if let Some(receipt) = receipt {
        scope.put(Family::Meta, &keys::receipt(volume, session, op), receipt)?;
    }
    let row = SessionRow {
        last_used: scope.at,
        op_high_water: row.op_high_water.max(op),
        ack_below: row.ack_below.max(ack_below),
        ..row
    };
    scope.put(Family::Meta, &keys::session(volume, session), &row)
}

/// What a receipt keeps of `extra`; grants are given anew instead.
pub(super) fn keepable(extra: &Extra) -> Option<ReceiptExtra> {
    match extra {
        Extra::None => Some(ReceiptExtra::None),
        Extra::Inodes { first, count } => Some(ReceiptExtra::Inodes { first: *first, count: *count }),
        Extra::Dropped => Some(ReceiptExtra::Dropped),
        Extra::Appended { offset } => Some(ReceiptExtra::Appended { offset: *offset }),
        Extra::Cloned { len } => Some(ReceiptExtra::Cloned { len: *len }),
        Extra::Grants(_) => None,
    }
}

/// The inverse of [`keepable`].
pub(super) fn restored(extra: &ReceiptExtra) -> Extra {
    match extra {
        ReceiptExtra::None => Extra::None,
        ReceiptExtra::Inodes { first, count } => Extra::Inodes { first: *first, count: *count },
        ReceiptExtra::Dropped => Extra::Dropped,
        ReceiptExtra::Appended { offset } => Extra::Appended { offset: *offset },
        ReceiptExtra::Cloned { len } => Extra::Cloned { len: *len },
    }
}

/// Reserves inode numbers for the session; a range that continues its last one is merged with it.
pub(super) fn alloc_inodes(m: &mut Mutation, count: u32) -> Step<Done> {
    require((1..=INODE_RANGE).contains(&count), Errno::EINVAL)?;
    let first = m.volume.next_ino;
    let behind = InodeId::new(first.get() + u64::from(count));
    m.volume.next_ino = behind;
    let last_key = |behind: InodeId| keys::range(m.id, m.session, InodeId::new(behind.get() - 1));
    let neighbour: Option<RangeRow> = rows::fetch(&m.scope.rows, Family::Meta, &last_key(first))?;
    let (old, new) = (last_key(first), last_key(behind));
    if neighbour.is_some() {
        m.scope.rows.delete(Family::Meta, &old);
    }
    let row = neighbour.unwrap_or(RangeRow { first });
    m.scope.put(Family::Meta, &new, &row)?;
    Ok(Done { ino: None, extra: Extra::Inodes { first, count } })
}

/// Whether a number is one of those reserved for the session of this mutation.
pub(super) fn owns_number(m: &Mutation, ino: InodeId) -> Result<bool> {
    // Nearly always it is one of the range given last, with which those before it were merged.
    let last = InodeId::new(m.volume.next_ino.get() - 1);
    let range: Option<RangeRow> =
        rows::fetch(&m.scope.rows, Family::Meta, &keys::range(m.id, m.session, last))?;
    if range.is_some_and(|range| range.first <= ino && ino <= last) {
        return Ok(true);
    }
    let prefix = keys::ranges(m.id, m.session);
    let from = keys::range(m.id, m.session, ino);
    match m.scope.rows.scan(Family::Meta, &prefix, &from, 1)?.first() {
        Some((key, value)) => Ok(rows::decode::<RangeRow>(Family::Meta, key, value)?.first <= ino),
        None => Ok(false),
    }
}
