//! Room in a volume for what no session writes: it is set aside as credit is, so that a restore takes
//! nothing that mounts were promised (DESIGN D17).

use super::{
    Cell,
    credit::{Debit, Holder},
};
use crate::state;
use sitefs_base::{
    Errno, Error, OpId, Result, SessionId, VolumeId,
    op::{Credit, Usage},
};
use std::{sync::atomic::Ordering, time::Duration};
use tokio::time::timeout;

/// How long is waited for credit that mounts hold and do not use.
const WAIT: Duration = Duration::from_secs(1);
/// How soon that is asked for again.
const RETRY: Duration = Duration::from_millis(100);
/// A holder sets aside one thing only.
const ALL: OpId = OpId::new(1);

/// What is set aside; given back when it is dropped.
pub(super) struct Room<'a> {
    cell: &'a Cell,
    holder: Holder,
    left: Credit,
}

impl<'a> Room<'a> {
    /// Sets `wanted` of a volume aside; `EDQUOT` if it has not as much that mounts do not use.
    pub async fn find(cell: &'a Cell, volume: VolumeId, wanted: Credit) -> Result<Self> {
        // In the place of a session's id: those of mounts are random.
        let number = cell.rooms.fetch_add(1, Ordering::Relaxed);
        let holder =
            Holder { volume, session: SessionId::new(u128::MAX - u128::from(number)), stream: number };
        cell.credits.ledger().enter(holder, &usage(cell, volume)?);
        let room = Self { cell, holder, left: wanted };
        let until = cell.clock.boottime() + WAIT;
        loop {
            let (now, freed) = (cell.clock.boottime(), cell.credits.freed());
            match room.debit(now)? {
                Debit::SetAside(_) => return Ok(room),
                Debit::Awaited(ask) if now < until => {
                    cell.sessions.tell_credit(&ask);
                    // Over in time or told: either way it is looked again.
                    drop(timeout(RETRY.min(until - now), freed).await);
                }
                Debit::Awaited(_) | Debit::Refused => {
                    return Err(Error::refused(Errno::EDQUOT, "setting room in the volume aside"));
                }
            }
        }
    }

    fn debit(&self, now: Duration) -> Result<Debit> {
        let mut ledger = self.cell.credits.ledger();
        let usage = usage(self.cell, self.holder.volume)?;
        Ok(ledger.debit(self.holder, ALL, self.left, &usage, now))
    }

    /// The volume.
    pub fn volume(&self) -> VolumeId {
        self.holder.volume
    }

    /// Of the room so much is content of the volume now.
    pub fn used(&mut self, grown: Credit) -> Result<()> {
        self.cell.credits.settle(self.holder, ALL, grown);
        self.left = self.left.less(grown);
        // It holds what is left: that is set aside again.
        self.debit(self.cell.clock.boottime()).map(drop)
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.cell.credits.ended(self.holder.volume, self.holder.session);
    }
}

fn usage(cell: &Cell, volume: VolumeId) -> Result<Usage> {
    let info = state::volume_info(&cell.group.reader(), volume)?;
    Ok(info.ok_or_else(|| Error::not_found("the volume is gone"))?.usage)
}
