//! What became of operations that a mount sent before it died (DESIGN D12 and D16).

use super::remote::{Channel, Stream, attach_as};
use super::{CellAddress, session::never_executed};
use sitefs_base::limits::METADATA_DEADLINE;
use sitefs_base::op::{Credit, OpEnvelope, OpResult, Outcome};
use sitefs_base::session::{Attach, Closing, PROTOCOL_MAX, PROTOCOL_MIN, ToCell, ToMount};
use sitefs_base::{Errno, Error, Incarnation, Kind, OpId, Result, SessionId};
use std::collections::BTreeMap;
use tokio::{runtime::Handle, time::timeout};

/// What became of an operation of a mount that died.
#[derive(Clone, PartialEq, Debug)]
pub enum Fate {
    /// It was executed.
    Executed(Outcome),
    /// It was not, and never will be.
    NotExecuted,
    /// The cell has forgotten the session, or this operation of it.
    Unknown,
}

impl Fate {
    /// What the answer to [`never_executed`] says. The last two errnos are no answers of the operation:
    /// the receipt is gone, or out of the window.
    fn of(result: OpResult) -> Self {
        match result {
            Ok(outcome) => Self::Executed(outcome),
            Err(Errno::EINVAL | Errno::EBUSY) => Self::Unknown,
            Err(_) => Self::NotExecuted,
        }
    }
}

/// The way to sessions of mounts that died.
pub struct OldSessions {
    channel: Channel,
    cell: CellAddress,
    handle: Handle,
}

impl OldSessions {
    /// Sessions at `cell`; waiting happens on `handle`'s runtime.
    pub fn new(channel: Channel, cell: CellAddress, handle: Handle) -> Self {
        Self { channel, cell, handle }
    }

    /// What became of these operations of a session. After that the session is over: nothing of it
    /// that is still on its way is executed, and the cell forgets what it said, but not before `note` has
    /// returned. An error says that the cell did not answer, or comes from `note`.
    pub fn fates(
        &self,
        session: SessionId,
        incarnation: Incarnation,
        ops: &[OpId],
        note: impl FnOnce(&BTreeMap<OpId, Fate>) -> Result<()>,
    ) -> Result<BTreeMap<OpId, Fate>> {
        self.handle.block_on(async {
            let hello = Attach {
                protocol_min: PROTOCOL_MIN,
                protocol_max: PROTOCOL_MAX,
                volume: self.cell.volume.clone(),
                session,
                incarnation: Some(incarnation),
                since: None,
                claimed_identity: self.cell.identity.to_string(),
                moment: None,
                in_use: Credit::NONE,
                hears_credit: false,
            };
            match attach_as(&self.channel, &self.cell, hello).await {
                Ok(stream) => ask(stream, session, ops, note).await,
                Err(error) if error.kind() == Kind::Conflict => {
                    Ok(ops.iter().map(|op| (*op, Fate::Unknown)).collect())
                }
                Err(error) => Err(error),
            }
        })
    }
}

async fn ask(
    mut stream: Stream,
    session: SessionId,
    ops: &[OpId],
    note: impl FnOnce(&BTreeMap<OpId, Fate>) -> Result<()>,
) -> Result<BTreeMap<OpId, Fate>> {
    let closed = |_| Error::unavailable("the stream of an old session is closed");
    let late = |_| Error::unavailable("the cell did not say in time what became of operations");
    let mut fates = BTreeMap::new();
    let ack_below = ops.iter().min().copied().unwrap_or(OpId::new(0));
    for op in ops {
        let ask = OpEnvelope { session, op: *op, ack_below, body: never_executed() };
        stream.link.send(ToCell::Op(ask)).await.map_err(closed)?;
        while !fates.contains_key(op) {
            match timeout(METADATA_DEADLINE, stream.next()).await.map_err(late)?? {
                ToMount::OpReply { op, result, .. } => {
                    fates.insert(op, Fate::of(result));
                }
                ToMount::Closing(Closing::SessionGone) => {
                    fates.insert(*op, Fate::Unknown);
                    break;
                }
                ToMount::Closing(_) => return Err(Error::unavailable("the stream of an old session ended")),
                _ => {}
            }
        }
    }
    note(&fates)?;
    // Who listens no more is told so; if this is lost, the session expires.
    if stream.link.send(ToCell::Detach).await.is_ok() {
        let _ = timeout(METADATA_DEADLINE, stream.link.closed()).await;
    }
    Ok(fates)
}
