//! The beginning of a stream: who is it, what may it do, where does its feed go on.

use super::{
    Cell,
    auth::{Access, Auth},
    credit::Holder,
    locks::{self, LockReply},
    outbox::{Outbox, Outgoing, Wire, send, standing},
    sessions::{Member, Ticket},
    snapshots::no_such_moment,
};
use crate::state::{self, CommandBody, Reply, VolumeInfo};
use sitefs_base::{
    Errno, Error, InodeId, Kind, OpId, Result, Seq, SiteId, VolumeId,
    limits::HOT_MAX,
    op::Credit,
    session::{Attach, Attached, Closing, PROTOCOL_MAX, PROTOCOL_MIN, ToMount},
};
use std::sync::Arc;
use tokio::sync::mpsc;

/// A stream after a good attach.
pub(super) struct Joined {
    pub member: Member,
    pub holder: Holder,
    pub ticket: Ticket,
    pub outbox: Outbox,
    pub outgoing: mpsc::Sender<Outgoing>,
    pub lock_replies: mpsc::Sender<LockReply>,
}

/// Answers an attach. The error says how the stream ends.
pub(super) async fn attach(cell: &Arc<Cell>, attach: Attach, wire: &Wire) -> Result<Joined, Closing> {
    let protocol = common_protocol(&attach).map_err(refused)?;
    let place = cell.admission.enter(cell.clock.boottime()).await;
    let _place = place.map_err(|retry_after| Closing::Busy { retry_after })?;
    let caller = cell.auth.caller(&attach.claimed_identity).map_err(refused)?;
    let access = Auth::access(&caller, &attach.volume).map_err(refused)?;
    let volume = find_volume(cell, &attach).map_err(refused)?;
    same_incarnation(cell, &attach)?;

    // Subscribed before the seq is read: nothing can fall between.
    let events = cell.group.events();
    let Opened { site, op_high_water, at } = open(cell, volume, &attach).await?;
    // The past cannot be changed.
    let access = if at.is_some() { Access::Read } else { access };
    let member = Member { session: attach.session, volume, site, access, at };
    let VolumeInfo { seq, usage, settings, .. } = standing(cell, &member).map_err(refused)?;
    let resumed = resume_from(cell, &member, attach.since, seq).map_err(refused)?;

    let ticket = cell.sessions.enter(member).ok_or_else(|| Closing::Unavailable {
        reason: "this node serves as many mounts as it can".to_owned(),
    })?;
    if at.is_none() {
        cell.watchers.join(volume, attach.session, resumed.unwrap_or(seq));
    }
    let now = cell.clock.boottime();
    cell.reserved.returned(attach.session, now);
    let holder = Holder { volume, session: attach.session, stream: ticket.number };
    let credit = match access {
        Access::Read => Credit::NONE,
        Access::Write => {
            let told = {
                let mut ledger = cell.credits.ledger();
                let usage = standing(cell, &member).map_or(usage, |standing| standing.usage);
                ledger.attach(holder, attach.in_use, &usage, now)
            };
            cell.sessions.tell_credit(&told.ask);
            told.credit
        }
    };
    let info = cell.group.info();
    let attached = Attached {
        protocol,
        cell: info.cell,
        group: info.group,
        incarnation: info.incarnation,
        site,
        volume,
        root: InodeId::ROOT,
        seq,
        resumed: resumed.is_some(),
        op_high_water,
        read_only: access == Access::Read,
        hot_max: HOT_MAX as u32,
        usage,
        at,
        settings,
        credit,
    };
    // A failed send shows at the next one; what was entered above is taken back there.
    let _ = send(wire, ToMount::Attached(attached)).await;
    let (outgoing, inbox) = mpsc::channel(super::outbox::INBOX);
    let (lock_replies, locks) = mpsc::channel(locks::REPLIES);
    let seen = resumed.unwrap_or(seq);
    let hears_credit = attach.hears_credit.then(|| ticket.credit_news.clone());
    let wire = wire.clone();
    let outbox =
        Outbox { cell: cell.clone(), member, holder, events, inbox, locks, wire, hears_credit, seen };
    Ok(Joined { member, holder, ticket, outbox, outgoing, lock_replies })
}

fn common_protocol(attach: &Attach) -> Result<u32> {
    let highest = attach.protocol_max.min(PROTOCOL_MAX);
    if highest < attach.protocol_min.max(PROTOCOL_MIN) {
        return Err(Error::invalid(format!(
            "the mount speaks protocol {} to {}, this cell {PROTOCOL_MIN} to {PROTOCOL_MAX}: upgrade the older one",
            attach.protocol_min, attach.protocol_max
        )));
    }
    Ok(highest)
}

fn find_volume(cell: &Cell, attach: &Attach) -> Result<VolumeId> {
    let found = state::volume_by_name(&cell.group.reader(), &attach.volume)?;
    found.map(|volume| volume.id).ok_or_else(|| {
        let name = &attach.volume;
        Error::not_found(format!("there is no volume {name}; make it with: sitefs volume create {name}"))
    })
}

/// What a session was told by a cell that was restored since is not true of this one.
fn same_incarnation(cell: &Cell, attach: &Attach) -> Result<(), Closing> {
    match attach.incarnation {
        Some(known) if known != cell.group.info().incarnation => Err(Closing::SessionGone),
        _ => Ok(()),
    }
}

/// A session that was begun or found.
struct Opened {
    site: SiteId,
    op_high_water: OpId,
    at: Option<Seq>,
}

async fn open(cell: &Cell, volume: VolumeId, attach: &Attach) -> Result<Opened, Closing> {
    // One that was attached before must still be there, or its operations could run twice (DESIGN D12):
    // apply decides that, for it may expire while this is on its way.
    let body = match attach.incarnation {
        Some(_) => CommandBody::ResumeSession { volume, session: attach.session },
        None => CommandBody::OpenSession { volume, session: attach.session, at: attach.moment.clone() },
    };
    match (cell.group.propose(body).await.map_err(refused)?.reply, &attach.moment) {
        (Ok(Reply::Session { site, op_high_water, at, .. }), moment) if at.is_some() == moment.is_some() => {
            Ok(Opened { site, op_high_water, at })
        }
        (Ok(Reply::Session { .. }), _) => {
            Err(refused(Error::invalid("this session shows the past, another one shows the volume as it is")))
        }
        (Ok(_), _) => Err(refused(Error::internal("opening a session gave another reply"))),
        (Err(Errno::ESTALE), _) if attach.incarnation.is_some() => Err(Closing::SessionGone),
        (Err(errno), Some(moment)) => Err(refused(no_such_moment(errno, &attach.volume, moment))),
        (Err(Errno::ESTALE), None) => Err(Closing::SessionGone),
        (Err(errno), None) => Err(refused(Error::refused(errno, format!("opening the session: {errno}")))),
    }
}

/// Where the feed goes on, if everything behind `since` is still there. A moment of the past has none.
fn resume_from(cell: &Cell, member: &Member, since: Option<Seq>, seq: Seq) -> Result<Option<Seq>> {
    if member.at.is_some() {
        return Ok(since.filter(|since| *since == seq));
    }
    let Some(since) = since.filter(|since| *since <= seq) else { return Ok(None) };
    Ok(state::events_since(&cell.group.reader(), member.volume, since, 1)?.map(|_| since))
}

/// How a stream ends after `error`.
pub(super) fn refused(error: Error) -> Closing {
    match error.kind() {
        Kind::Unavailable | Kind::Fenced | Kind::Conflict => Closing::Unavailable { reason: error.chain() },
        kind => {
            if matches!(kind, Kind::Internal | Kind::Corrupt) {
                tracing::error!(error = error.chain(), "stream ended by an error");
            }
            Closing::Refused { kind, reason: error.chain() }
        }
    }
}
