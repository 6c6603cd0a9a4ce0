//! The frames of a session stream.

use super::{
    TEXT_MAX, errno, group, locks, nanos, need, outcome::ResultMessage, session, session_bytes, text,
};
use crate::pb;
use sitefs_base::{
    Error, Incarnation, InodeId, Kind, Moment, OpId, READ_ONLY_REASON_MAX, Result, Seq, ServeStale, SiteId,
    VolumeId, VolumeSettings,
    op::Credit,
    session::{Attach, Attached, Closing, CreditUse, ToCell, ToMount},
};
use std::time::Duration;

impl From<ToCell> for pb::ClientFrame {
    fn from(frame: ToCell) -> Self {
        use pb::client_frame::Frame;
        Self {
            frame: Some(match frame {
                ToCell::Attach(attach) => Frame::Attach(attach.into()),
                ToCell::Op(envelope) => Frame::Op(envelope.into()),
                ToCell::Query { tag, query } => Frame::Query(pb::AskQuery { tag, query: Some(query.into()) }),
                ToCell::Ping { client_time, acked, credit } => Frame::Ping(pb::Ping {
                    client_time_ns: nanos(client_time),
                    acked: acked.get(),
                    in_use: Some(credit.in_use.into()),
                    credit_frames: credit.frames,
                    wanted: Some(credit.wanted.into()),
                }),
                ToCell::Ack { seq } => Frame::Ack(pb::Ack { seq: seq.get() }),
                ToCell::Detach => Frame::Detach(pb::Empty {}),
                ToCell::Lock(request) => Frame::Lock(request.into()),
                ToCell::CancelLock { tag } => Frame::CancelLock(pb::CancelLock { tag }),
                ToCell::ReclaimLocks { tag, locks } => {
                    Frame::ReclaimLocks(pb::ReclaimLocks { tag, locks: locks::messages(locks) })
                }
            }),
        }
    }
}

impl TryFrom<pb::ClientFrame> for ToCell {
    type Error = Error;
    fn try_from(frame: pb::ClientFrame) -> Result<Self> {
        use pb::client_frame::Frame;
        Ok(match need(frame.frame, "frame")? {
            Frame::Attach(attach) => Self::Attach(attach.try_into()?),
            Frame::Op(envelope) => Self::Op(envelope.try_into()?),
            Frame::Query(ask) => {
                Self::Query { tag: ask.tag, query: need(ask.query, "question")?.try_into()? }
            }
            Frame::Ping(ping) => Self::Ping {
                client_time: Duration::from_nanos(ping.client_time_ns),
                acked: Seq::new(ping.acked),
                credit: CreditUse {
                    in_use: need(ping.in_use, "credit in use")?.into(),
                    wanted: ping.wanted.map_or(Credit::NONE, Credit::from),
                    frames: ping.credit_frames,
                },
            },
            Frame::Ack(ack) => Self::Ack { seq: Seq::new(ack.seq) },
            Frame::Detach(pb::Empty {}) => Self::Detach,
            Frame::Lock(request) => Self::Lock(request.try_into()?),
            Frame::CancelLock(pb::CancelLock { tag }) => Self::CancelLock { tag },
            Frame::ReclaimLocks(pb::ReclaimLocks { tag, locks }) => {
                Self::ReclaimLocks { tag, locks: locks::held(locks)? }
            }
        })
    }
}

impl From<ToMount> for pb::ServerFrame {
    fn from(frame: ToMount) -> Self {
        use pb::server_frame::Frame;
        Self {
            frame: Some(match frame {
                ToMount::Attached(attached) => Frame::Attached(attached.into()),
                ToMount::OpReply { op, result, credit } => Frame::OpReply(pb::OpReply {
                    op: op.get(),
                    result: Some(ResultMessage::from(result).0),
                    credit: Some(credit.into()),
                }),
                ToMount::Answer { tag, result } => Frame::Answer(pb::QueryReply {
                    tag,
                    result: Some(match result {
                        Ok(answer) => pb::query_reply::Result::Answer(answer.into()),
                        Err(errno) => pb::query_reply::Result::Errno(errno.get()),
                    }),
                }),
                ToMount::Event(event) => Frame::Event(event.into()),
                ToMount::Renew { client_time, quorum_age, watermark, usage, settings, credit } => {
                    Frame::Renew(pb::Renew {
                        client_time_ns: nanos(client_time),
                        quorum_age_ns: nanos(quorum_age),
                        watermark: watermark.get(),
                        usage: Some(usage.into()),
                        settings: Some(settings.into()),
                        credit: Some(credit.into()),
                    })
                }
                ToMount::Credit { credit, usage, answer } => Frame::CreditNews(pb::CreditNews {
                    credit: Some(credit.into()),
                    usage: Some(usage.into()),
                    answer,
                }),
                ToMount::Resync { floor } => Frame::Resync(pb::Resync { floor: floor.get() }),
                ToMount::Closing(closing) => Frame::Closing(closing.into()),
                ToMount::LockReply { tag, result } => Frame::LockReply(locks::reply(tag, result)),
            }),
        }
    }
}

impl TryFrom<pb::ServerFrame> for ToMount {
    type Error = Error;
    fn try_from(frame: pb::ServerFrame) -> Result<Self> {
        use pb::server_frame::Frame;
        Ok(match need(frame.frame, "frame")? {
            Frame::Attached(attached) => Self::Attached(attached.try_into()?),
            Frame::OpReply(reply) => Self::OpReply {
                op: OpId::new(reply.op),
                result: ResultMessage(need(reply.result, "result")?).try_into()?,
                credit: need(reply.credit, "credit")?.into(),
            },
            Frame::Answer(reply) => Self::Answer {
                tag: reply.tag,
                result: match need(reply.result, "result")? {
                    pb::query_reply::Result::Answer(answer) => Ok(answer.try_into()?),
                    pb::query_reply::Result::Errno(raw) => Err(errno(raw)?),
                },
            },
            Frame::Event(event) => Self::Event(event.try_into()?),
            Frame::Renew(renew) => Self::Renew {
                client_time: Duration::from_nanos(renew.client_time_ns),
                quorum_age: Duration::from_nanos(renew.quorum_age_ns),
                watermark: Seq::new(renew.watermark),
                usage: need(renew.usage, "usage")?.into(),
                settings: need(renew.settings, "settings")?.try_into()?,
                credit: need(renew.credit, "credit")?.into(),
            },
            Frame::CreditNews(news) => Self::Credit {
                credit: need(news.credit, "credit")?.into(),
                usage: need(news.usage, "usage")?.into(),
                answer: news.answer,
            },
            Frame::Resync(resync) => Self::Resync { floor: Seq::new(resync.floor) },
            Frame::Closing(closing) => Self::Closing(closing.try_into()?),
            Frame::LockReply(pb::LockReply { tag, result }) => {
                Self::LockReply { tag, result: locks::result(need(result, "result")?)? }
            }
        })
    }
}

impl From<Attach> for pb::Attach {
    fn from(attach: Attach) -> Self {
        Self {
            protocol_min: attach.protocol_min,
            protocol_max: attach.protocol_max,
            volume: attach.volume.to_string(),
            session: session_bytes(attach.session),
            incarnation: attach.incarnation.map(Incarnation::get),
            since: attach.since.map(Seq::get),
            claimed_identity: attach.claimed_identity,
            moment: attach.moment.map(|moment| moment.to_string()),
            in_use: Some(attach.in_use.into()),
            hears_credit: attach.hears_credit,
        }
    }
}

impl TryFrom<pb::Attach> for Attach {
    type Error = Error;
    fn try_from(attach: pb::Attach) -> Result<Self> {
        if attach.protocol_min > attach.protocol_max {
            return Err(Error::invalid("the lowest protocol version is above the highest"));
        }
        Ok(Self {
            protocol_min: attach.protocol_min,
            protocol_max: attach.protocol_max,
            volume: text(attach.volume, TEXT_MAX, "a volume name")?.parse()?,
            session: session(&attach.session)?,
            incarnation: attach.incarnation.map(Incarnation::new),
            since: attach.since.map(Seq::new),
            claimed_identity: text(attach.claimed_identity, TEXT_MAX, "an identity")?,
            moment: attach
                .moment
                .map(|moment| text(moment, TEXT_MAX, "a moment")?.parse::<Moment>())
                .transpose()?,
            in_use: need(attach.in_use, "credit in use")?.into(),
            hears_credit: attach.hears_credit,
        })
    }
}

impl From<Attached> for pb::Attached {
    fn from(attached: Attached) -> Self {
        Self {
            protocol: attached.protocol,
            cell: attached.cell,
            group: attached.group.get(),
            incarnation: attached.incarnation.get(),
            site: attached.site.get(),
            volume: attached.volume.get(),
            root: attached.root.get(),
            seq: attached.seq.get(),
            resumed: attached.resumed,
            op_high_water: attached.op_high_water.get(),
            read_only: attached.read_only,
            hot_max: attached.hot_max,
            usage: Some(attached.usage.into()),
            at: attached.at.map(Seq::get),
            settings: Some(attached.settings.into()),
            credit: Some(attached.credit.into()),
        }
    }
}

impl TryFrom<pb::Attached> for Attached {
    type Error = Error;
    fn try_from(attached: pb::Attached) -> Result<Self> {
        Ok(Self {
            protocol: attached.protocol,
            cell: text(attached.cell, TEXT_MAX, "a cell name")?,
            group: group(attached.group)?,
            incarnation: Incarnation::new(attached.incarnation),
            site: SiteId::new(attached.site),
            volume: VolumeId::new(attached.volume),
            root: InodeId::new(attached.root),
            seq: Seq::new(attached.seq),
            resumed: attached.resumed,
            op_high_water: OpId::new(attached.op_high_water),
            read_only: attached.read_only,
            hot_max: attached.hot_max,
            usage: need(attached.usage, "usage")?.into(),
            at: attached.at.map(Seq::new),
            settings: need(attached.settings, "settings")?.try_into()?,
            credit: need(attached.credit, "credit")?.into(),
        })
    }
}

impl From<VolumeSettings> for pb::VolumeSettings {
    fn from(settings: VolumeSettings) -> Self {
        let serve_stale = match settings.serve_stale {
            ServeStale::Off => pb::ServeStale::Off,
            ServeStale::Reads => pb::ServeStale::Reads,
        };
        Self { serve_stale: serve_stale.into(), read_only: settings.read_only }
    }
}

impl TryFrom<pb::VolumeSettings> for VolumeSettings {
    type Error = Error;
    fn try_from(settings: pb::VolumeSettings) -> Result<Self> {
        let reason = |reason| text(reason, READ_ONLY_REASON_MAX, "a reason");
        Ok(Self {
            serve_stale: match pb::ServeStale::try_from(settings.serve_stale) {
                Ok(pb::ServeStale::Off) => ServeStale::Off,
                Ok(pb::ServeStale::Reads) => ServeStale::Reads,
                Ok(pb::ServeStale::Unspecified) | Err(_) => {
                    return Err(Error::invalid(format!("{} is no way to serve stale", settings.serve_stale)));
                }
            },
            read_only: settings.read_only.map(reason).transpose()?,
        })
    }
}

impl From<Closing> for pb::Closing {
    fn from(closing: Closing) -> Self {
        use pb::closing::Reason;
        let retry_after_ms = match closing {
            Closing::Busy { retry_after } => Some(u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX)),
            _ => None,
        };
        Self {
            retry_after_ms,
            reason: Some(match closing {
                Closing::NotHere { leader } => Reason::NotHere(pb::NotHere { leader }),
                Closing::SessionGone => Reason::SessionGone(pb::Empty {}),
                Closing::Refused { kind, reason } => {
                    Reason::Refused(pb::Refused { kind: pb::Kind::from(kind).into(), reason })
                }
                Closing::Unavailable { reason } => Reason::Unavailable(reason),
                Closing::Busy { .. } => Reason::Unavailable("too many mounts attach at once".to_owned()),
            }),
        }
    }
}

impl TryFrom<pb::Closing> for Closing {
    type Error = Error;
    fn try_from(closing: pb::Closing) -> Result<Self> {
        use pb::closing::Reason;
        Ok(match need(closing.reason, "reason")? {
            Reason::NotHere(pb::NotHere { leader }) => Self::NotHere {
                leader: leader.map(|leader| text(leader, TEXT_MAX, "an address")).transpose()?,
            },
            Reason::SessionGone(pb::Empty {}) => Self::SessionGone,
            Reason::Refused(refused) => Self::Refused {
                kind: kind(refused.kind)?,
                reason: text(refused.reason, TEXT_MAX, "a reason")?,
            },
            Reason::Unavailable(_) if closing.retry_after_ms.is_some() => {
                Self::Busy { retry_after: Duration::from_millis(closing.retry_after_ms.unwrap_or(0).into()) }
            }
            Reason::Unavailable(reason) => Self::Unavailable { reason: text(reason, TEXT_MAX, "a reason")? },
        })
    }
}

impl From<Kind> for pb::Kind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::NotFound => Self::NotFound,
            Kind::AlreadyExists => Self::AlreadyExists,
            Kind::Conflict => Self::Conflict,
            Kind::Fenced => Self::Fenced,
            Kind::Unavailable => Self::Unavailable,
            Kind::Invalid => Self::Invalid,
            Kind::Denied => Self::Denied,
            Kind::Corrupt => Self::Corrupt,
            Kind::Limit => Self::Limit,
            Kind::Internal => Self::Internal,
        }
    }
}

fn kind(raw: i32) -> Result<Kind> {
    match pb::Kind::try_from(raw) {
        Ok(pb::Kind::NotFound) => Ok(Kind::NotFound),
        Ok(pb::Kind::AlreadyExists) => Ok(Kind::AlreadyExists),
        Ok(pb::Kind::Conflict) => Ok(Kind::Conflict),
        Ok(pb::Kind::Fenced) => Ok(Kind::Fenced),
        Ok(pb::Kind::Unavailable) => Ok(Kind::Unavailable),
        Ok(pb::Kind::Invalid) => Ok(Kind::Invalid),
        Ok(pb::Kind::Denied) => Ok(Kind::Denied),
        Ok(pb::Kind::Corrupt) => Ok(Kind::Corrupt),
        Ok(pb::Kind::Limit) => Ok(Kind::Limit),
        Ok(pb::Kind::Internal) => Ok(Kind::Internal),
        Ok(pb::Kind::Unspecified) | Err(_) => Err(Error::invalid(format!("{raw} is not a kind of error"))),
    }
}
