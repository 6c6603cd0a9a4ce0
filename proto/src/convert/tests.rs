//! Every frame survives the wire, and no bytes from the wire can do harm.

use super::*;
use proptest::{collection::vec, option, prelude::*};
use prost::Message;
use sitefs_base::{
    Attr, AttrFlags, Content, Extent, FileKind, Inode, Kind, Moment, OpId, Seq, ServeStale, SiteId, Time,
    VolumeId, VolumeSettings, limits,
    lock::{ByteRange, HeldLock, LockAnswer, LockAsk, LockKind, LockOwner, LockRequest},
    op::*,
    session::{Attach, Attached, Closing, CreditUse, FetchBlob, StoreBlob, ToCell, ToMount},
};

fn ino() -> BoxedStrategy<InodeId> {
    any::<u64>().prop_map(InodeId::new).boxed()
}
fn seq() -> BoxedStrategy<Seq> {
    any::<u64>().prop_map(Seq::new).boxed()
}
fn op_id() -> BoxedStrategy<OpId> {
    any::<u64>().prop_map(OpId::new).boxed()
}
fn a_session() -> BoxedStrategy<SessionId> {
    any::<u128>().prop_map(SessionId::new).boxed()
}
fn a_digest() -> BoxedStrategy<Digest> {
    any::<u8>().prop_map(|byte| Digest::new([byte; 64])).boxed()
}
fn an_errno() -> BoxedStrategy<Errno> {
    (1..=4095).prop_map(Errno::new).boxed()
}
fn some_bytes(min: usize, max: usize) -> BoxedStrategy<Bytes> {
    vec(1..=255u8, min..=max).prop_map(Bytes::from).boxed()
}
fn a_name() -> BoxedStrategy<Name> {
    let short =
        vec(any::<u8>(), 1..=20).prop_filter_map("'.', '/', NUL are no names", |raw| Name::new(raw).ok());
    prop_oneof![9 => short, 1 => Just(Name::new([0xff; 255]).unwrap())].boxed()
}
fn a_place() -> BoxedStrategy<Place> {
    (ino(), a_name()).prop_map(|(parent, name)| Place { parent, name }).boxed()
}
fn a_time() -> BoxedStrategy<Time> {
    (-(1i64 << 62)..1 << 62, 0..1_000_000_000u32).prop_map(|(secs, nanos)| Time::new(secs, nanos)).boxed()
}
fn a_set_time() -> BoxedStrategy<SetTime> {
    prop_oneof![Just(SetTime::Now), a_time().prop_map(SetTime::At), a_time().prop_map(SetTime::Written),]
        .boxed()
}
fn a_generation() -> BoxedStrategy<Generation> {
    (any::<u32>(), any::<u64>())
        .prop_map(|(incarnation, counter)| Generation { incarnation: Incarnation::new(incarnation), counter })
        .boxed()
}
fn a_credit() -> BoxedStrategy<Credit> {
    any::<[u64; 2]>().prop_map(|[bytes, inodes]| Credit { bytes, inodes }).boxed()
}
fn some_settings() -> BoxedStrategy<VolumeSettings> {
    (any::<bool>(), option::of(".{0,40}"))
        .prop_map(|(off, read_only)| VolumeSettings {
            serve_stale: if off { ServeStale::Off } else { ServeStale::Reads },
            read_only,
        })
        .boxed()
}
fn a_usage() -> BoxedStrategy<Usage> {
    any::<[u64; 4]>()
        .prop_map(|[bytes_used, bytes_limit, inodes_used, inodes_limit]| Usage {
            bytes_used,
            bytes_limit,
            inodes_used,
            inodes_limit,
        })
        .boxed()
}
fn a_create() -> BoxedStrategy<Create> {
    (0..=0o7777u16, 0..=0o777u16, any::<u32>(), any::<u32>())
        .prop_map(|(mode, umask, uid, gid)| Create { mode, umask, uid, gid })
        .boxed()
}
fn a_set_attr() -> BoxedStrategy<SetAttr> {
    let owners = (option::of(any::<u32>()), option::of(any::<u32>()));
    let times = (option::of(a_set_time()), option::of(a_set_time()));
    (option::of(0..=0o7777u16), owners, option::of(any::<u64>()), times, any::<bool>())
        .prop_map(|(mode, (uid, gid), size, (atime, mtime), kill_setid)| SetAttr {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
            kill_setid,
        })
        .boxed()
}
fn an_extent() -> BoxedStrategy<Extent> {
    (0..limits::FILE_MAX / 2, 1..1u32 << 21, a_digest(), 0..1u32 << 21)
        .prop_map(|(offset, len, digest, blob_offset)| Extent { offset, len, digest, blob_offset })
        .boxed()
}
fn a_chunk() -> BoxedStrategy<ChunkLayout> {
    (any::<u32>(), vec(an_extent(), 0..4)).prop_map(|(chunk, extents)| ChunkLayout { chunk, extents }).boxed()
}
fn a_file_kind() -> BoxedStrategy<FileKind> {
    use FileKind::*;
    prop::sample::select(vec![File, Directory, Symlink, Fifo, Socket, CharDevice, BlockDevice]).boxed()
}
fn new_content() -> BoxedStrategy<NewContent> {
    prop_oneof![
        some_bytes(0, limits::INLINE_MAX).prop_map(NewContent::Inline),
        (a_digest(), some_bytes(0, 600)).prop_map(|(digest, bytes)| NewContent::Hot { digest, bytes }),
        (0..=limits::FILE_MAX, vec(a_chunk(), 0..4))
            .prop_map(|(size, changed)| NewContent::Chunks { size, changed }),
    ]
    .boxed()
}
fn a_commit() -> BoxedStrategy<Commit> {
    let publish = (a_place(), any::<bool>()).prop_map(|(at, exclusive)| Publish { at, exclusive });
    let uploaded =
        (a_digest(), a_generation()).prop_map(|(digest, generation)| Uploaded { digest, generation });
    (
        ino(),
        option::of(seq()),
        option::of(new_content()),
        (a_set_attr(), option::of(a_time())),
        option::of(a_create()),
        option::of(publish),
        vec(uploaded, 0..4),
    )
        .prop_map(|(ino, expect_cver, content, (set, changed), create, link, uploaded)| Commit {
            ino,
            expect_cver,
            content,
            set,
            changed,
            create,
            link,
            uploaded,
        })
        .boxed()
}
fn an_op() -> BoxedStrategy<Op> {
    use prop::sample::select;
    let rename_modes = select(vec![RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange]);
    let xattr_modes = select(vec![XattrMode::Any, XattrMode::Create, XattrMode::Replace]);
    let wanted = (a_digest(), 1..=4u32 << 20).prop_map(|(digest, len)| BlobWanted { digest, len });
    prop_oneof![
        a_commit().prop_map(Op::Commit),
        (ino(), a_set_attr()).prop_map(|(ino, set)| Op::SetAttr { ino, set }),
        (a_place(), a_create()).prop_map(|(at, create)| Op::Mkdir { at, create }),
        (a_place(), some_bytes(0, 100), a_create()).prop_map(|(at, target, create)| Op::Symlink {
            at,
            target,
            create
        }),
        (a_place(), a_file_kind(), any::<u32>(), a_create()).prop_map(|(at, kind, rdev, create)| Op::Mknod {
            at,
            kind,
            rdev,
            create
        }),
        (ino(), a_place()).prop_map(|(ino, at)| Op::Link { ino, at }),
        a_place().prop_map(|at| Op::Unlink { at }),
        a_place().prop_map(|at| Op::Rmdir { at }),
        (a_place(), a_place(), rename_modes).prop_map(|(from, to, mode)| Op::Rename { from, to, mode }),
        (ino(), some_bytes(1, 255), some_bytes(0, 300), xattr_modes)
            .prop_map(|(ino, name, value, mode)| Op::SetXattr { ino, name, value, mode }),
        (ino(), some_bytes(1, 255)).prop_map(|(ino, name)| Op::RemoveXattr { ino, name }),
        (1..=limits::INODE_RANGE).prop_map(|count| Op::AllocInodes { count }),
        vec(wanted, 0..4).prop_map(|blobs| Op::Grant { blobs }),
        (ino(), some_bytes(0, 900), option::of(a_time()), any::<bool>())
            .prop_map(|(ino, bytes, changed, kill_setid)| Op::Append { ino, bytes, changed, kill_setid }),
        (ino(), any::<u64>(), any::<u64>()).prop_map(|(ino, offset, len)| Op::Punch { ino, offset, len }),
        (ino(), ino(), any::<[u64; 3]>(), option::of(seq())).prop_map(
            |(from, to, [from_offset, to_offset, len], expect_from_cver)| Op::CloneRange {
                from,
                from_offset,
                to,
                to_offset,
                len,
                expect_from_cver,
            }
        ),
    ]
    .boxed()
}
fn a_query() -> BoxedStrategy<Query> {
    prop_oneof![
        a_place().prop_map(|at| Query::Lookup { at }),
        ino().prop_map(|ino| Query::Inode { ino }),
        (ino(), option::of(a_name()), 1..=limits::LISTING_PAGE)
            .prop_map(|(dir, after, limit)| Query::ReadDir { dir, after, limit }),
        (ino(), any::<u32>(), 1..=1024u32).prop_map(|(ino, first, count)| Query::Chunks {
            ino,
            first,
            count
        }),
        ino().prop_map(|ino| Query::Xattrs { ino }),
        (ino(), vec(a_digest(), 0..4)).prop_map(|(ino, digests)| Query::Resolve { ino, digests }),
        Just(Query::Usage),
        a_place().prop_map(|at| Query::Reserve { at }),
    ]
    .boxed()
}
fn an_attach() -> BoxedStrategy<Attach> {
    let known = (option::of(any::<u32>()), option::of(seq()), a_credit(), any::<bool>());
    let moment = option::of(prop_oneof![
        "[a-z]{1,9}".prop_map(|name| name.parse().unwrap()),
        (-9_000_000_000..9_000_000_000_i64, 0..1_000_000_000_u32)
            .prop_map(|(secs, nanos)| Moment::Time(Time::new(secs, nanos))),
    ]);
    (0..5u32, 5..9u32, "[a-z]{1,9}/[a-z]{1,9}", a_session(), known, moment)
        .prop_map(|(protocol_min, protocol_max, volume, session, known, moment)| {
            let (incarnation, since, in_use, hears_credit) = known;
            Attach {
                protocol_min,
                protocol_max,
                volume: volume.parse().unwrap(),
                session,
                incarnation: incarnation.map(Incarnation::new),
                since,
                claimed_identity: "sitefs://main/acme/live?role=rw".to_owned(),
                moment,
                in_use,
                hears_credit,
            }
        })
        .boxed()
}
fn a_range() -> BoxedStrategy<ByteRange> {
    [0..=ByteRange::LAST, 0..=ByteRange::LAST]
        .prop_map(|[a, b]| ByteRange::new(a.min(b), a.max(b)).unwrap())
        .boxed()
}
fn a_lock_kind() -> BoxedStrategy<LockKind> {
    prop_oneof![Just(LockKind::Shared), Just(LockKind::Exclusive)].boxed()
}
fn a_lock_request() -> BoxedStrategy<LockRequest> {
    let ask = prop_oneof![
        a_lock_kind().prop_map(LockAsk::Test),
        a_lock_kind().prop_map(LockAsk::Try),
        a_lock_kind().prop_map(LockAsk::Wait),
        Just(LockAsk::Unlock),
    ];
    (any::<[u64; 2]>(), ino(), any::<u32>(), a_range(), ask)
        .prop_map(|([tag, owner], ino, pid, range, ask)| LockRequest {
            tag,
            ino,
            owner: LockOwner::new(owner),
            pid,
            range,
            ask,
        })
        .boxed()
}
fn a_held_lock() -> BoxedStrategy<HeldLock> {
    (ino(), any::<u64>(), any::<u32>(), a_range(), a_lock_kind())
        .prop_map(|(ino, owner, pid, range, kind)| HeldLock {
            ino,
            owner: LockOwner::new(owner),
            pid,
            range,
            kind,
        })
        .boxed()
}
fn to_cell() -> BoxedStrategy<ToCell> {
    prop_oneof![
        1 => an_attach().prop_map(ToCell::Attach),
        5 => (a_session(), op_id(), op_id(), an_op()).prop_map(|(session, op, ack_below, body)| {
            ToCell::Op(OpEnvelope { session, op, ack_below, body })
        }),
        3 => (any::<u64>(), a_query()).prop_map(|(tag, query)| ToCell::Query { tag, query }),
        1 => (any::<[u64; 2]>(), seq(), a_credit(), a_credit()).prop_map(
            |([ns, frames], acked, in_use, wanted)| ToCell::Ping {
                client_time: Duration::from_nanos(ns),
                acked,
                credit: CreditUse { in_use, wanted, frames },
            }
        ),
        1 => seq().prop_map(|seq| ToCell::Ack { seq }),
        1 => Just(ToCell::Detach),
        1 => a_lock_request().prop_map(ToCell::Lock),
        1 => any::<u64>().prop_map(|tag| ToCell::CancelLock { tag }),
        1 => (any::<u64>(), vec(a_held_lock(), 0..3))
            .prop_map(|(tag, locks)| ToCell::ReclaimLocks { tag, locks }),
    ]
    .boxed()
}

fn an_attr() -> BoxedStrategy<Attr> {
    let numbers = (any::<[u32; 4]>(), any::<[u64; 2]>());
    (ino(), a_file_kind(), 0..=0o7777u16, numbers, [a_time(), a_time(), a_time()], seq(), any::<[bool; 3]>())
        .prop_map(|(ino, kind, mode, ([uid, gid, nlink, rdev], [size, allocated]), times, cver, flags)| {
            Attr {
                ino,
                kind,
                mode,
                uid,
                gid,
                nlink,
                size,
                allocated,
                rdev,
                atime: times[0],
                mtime: times[1],
                ctime: times[2],
                cver,
                flags: AttrFlags {
                    has_xattrs: flags[0],
                    has_access_acl: flags[1],
                    has_default_acl: flags[2],
                },
            }
        })
        .boxed()
}
fn an_inode() -> BoxedStrategy<Inode> {
    let content = prop_oneof![
        Just(Content::Empty),
        some_bytes(0, limits::INLINE_MAX).prop_map(Content::Inline),
        vec(an_extent(), 0..5).prop_map(Content::Extents),
        Just(Content::Chunked),
        some_bytes(0, 100).prop_map(Content::Target),
    ];
    (an_attr(), content).prop_map(|(attr, content)| Inode { attr, content }).boxed()
}
fn a_location() -> BoxedStrategy<Location> {
    let header = ("[a-z-]{1,9}", "[ -~]{0,20}");
    prop_oneof![
        Just(Location::Cell),
        ("https://[a-z]{1,9}/[a-z0-9]{0,90}", vec(header, 0..3), a_time())
            .prop_map(|(url, headers, expires)| Location::Url { url, headers, expires }),
    ]
    .boxed()
}
fn an_outcome() -> BoxedStrategy<Outcome> {
    let upload =
        (a_generation(), a_location()).prop_map(|(generation, target)| Grant::Upload { generation, target });
    let extra = prop_oneof![
        Just(Extra::None),
        (0..u64::MAX / 2, any::<u32>())
            .prop_map(|(first, count)| Extra::Inodes { first: InodeId::new(first), count }),
        vec(prop_oneof![Just(Grant::Have), upload], 0..4).prop_map(Extra::Grants),
        Just(Extra::Dropped),
        any::<u64>().prop_map(|offset| Extra::Appended { offset }),
        any::<u64>().prop_map(|len| Extra::Cloned { len }),
    ];
    (seq(), option::of(ino()), vec(an_attr(), 0..4), extra)
        .prop_map(|(seq, ino, attrs, extra)| Outcome { seq, ino, attrs, extra })
        .boxed()
}
fn an_answer() -> BoxedStrategy<Answer> {
    let entry = (a_name(), an_inode()).prop_map(|(name, inode)| Entry { name, inode });
    let body = prop_oneof![
        option::of(an_inode()).prop_map(AnswerBody::Inode),
        (an_attr(), ino(), vec(entry, 0..4), any::<bool>()).prop_map(|(dir, parent, entries, complete)| {
            AnswerBody::Entries { dir, parent, entries, complete }
        }),
        vec(a_chunk(), 0..4).prop_map(AnswerBody::Chunks),
        vec((some_bytes(1, 255), some_bytes(0, 99)), 0..4).prop_map(AnswerBody::Xattrs),
        vec(option::of(a_location()), 0..4).prop_map(AnswerBody::Locations),
        a_usage().prop_map(AnswerBody::Usage),
        Just(AnswerBody::Reserved),
    ];
    (seq(), body).prop_map(|(seq, body)| Answer { seq, body }).boxed()
}
fn an_event() -> BoxedStrategy<Event> {
    let change = prop_oneof![
        a_place().prop_map(Change::Name),
        ino().prop_map(Change::Attr),
        ino().prop_map(Change::Content),
        ino().prop_map(Change::Xattr),
    ];
    (seq(), a_session(), vec(change, 0..5))
        .prop_map(|(seq, origin, changes)| Event { seq, origin, changes })
        .boxed()
}
fn an_attached() -> BoxedStrategy<Attached> {
    let said = (a_usage(), option::of(seq()), some_settings(), a_credit());
    (any::<[u32; 3]>(), 1..9u32, any::<[u64; 4]>(), op_id(), any::<[bool; 2]>(), said)
        .prop_map(
            |(
                [protocol, incarnation, hot_max],
                group,
                ids,
                op_high_water,
                bits,
                (usage, at, settings, credit),
            )| {
                Attached {
                    protocol,
                    cell: "main".to_owned(),
                    group: GroupId::new(group),
                    incarnation: Incarnation::new(incarnation),
                    site: SiteId::new(ids[0]),
                    volume: VolumeId::new(ids[1]),
                    root: InodeId::new(ids[2]),
                    seq: Seq::new(ids[3]),
                    resumed: bits[0],
                    op_high_water,
                    read_only: bits[1],
                    hot_max,
                    usage,
                    at,
                    settings,
                    credit,
                }
            },
        )
        .boxed()
}
fn a_closing() -> BoxedStrategy<Closing> {
    prop_oneof![
        option::of("[a-z]{1,9}:[0-9]{1,4}").prop_map(|leader| Closing::NotHere { leader }),
        Just(Closing::SessionGone),
        (0u32..100_000)
            .prop_map(|ms| Closing::Busy { retry_after: std::time::Duration::from_millis(ms.into()) }),
        (prop::sample::select(Kind::ALL.to_vec()), ".{0,40}")
            .prop_map(|(kind, reason)| Closing::Refused { kind, reason }),
        ".{0,40}".prop_map(|reason| Closing::Unavailable { reason }),
    ]
    .boxed()
}
fn to_mount() -> BoxedStrategy<ToMount> {
    let op_result = prop_oneof![an_outcome().prop_map(Ok), an_errno().prop_map(Err)];
    let answer = prop_oneof![an_answer().prop_map(Ok), an_errno().prop_map(Err)];
    let lock_answer =
        prop_oneof![
            Just(Ok(LockAnswer::Done)),
            (a_range(), a_lock_kind(), any::<u32>())
                .prop_map(|(range, kind, pid)| Ok(LockAnswer::InTheWay { range, kind, pid })),
            vec(a_held_lock(), 0..3).prop_map(|locks| Ok(LockAnswer::Kept(locks))),
            an_errno().prop_map(Err),
        ];
    prop_oneof![
        an_attached().prop_map(ToMount::Attached),
        (op_id(), op_result, a_credit()).prop_map(|(op, result, credit)| ToMount::OpReply {
            op,
            result,
            credit
        }),
        (any::<u64>(), answer).prop_map(|(tag, result)| ToMount::Answer { tag, result }),
        an_event().prop_map(ToMount::Event),
        (any::<[u64; 2]>(), seq(), a_usage(), some_settings(), a_credit()).prop_map(
            |([client, age], watermark, usage, settings, credit)| ToMount::Renew {
                client_time: Duration::from_nanos(client),
                quorum_age: Duration::from_nanos(age),
                watermark,
                usage,
                settings,
                credit,
            }
        ),
        (a_credit(), a_usage(), any::<bool>()).prop_map(|(credit, usage, answer)| ToMount::Credit {
            credit,
            usage,
            answer
        }),
        seq().prop_map(|floor| ToMount::Resync { floor }),
        a_closing().prop_map(ToMount::Closing),
        (any::<u64>(), lock_answer).prop_map(|(tag, result)| ToMount::LockReply { tag, result }),
    ]
    .boxed()
}

proptest! {
    #[test]
    fn every_frame_to_the_cell_survives_the_wire(frame in to_cell()) {
        let wire = pb::ClientFrame::from(frame.clone()).encode_to_vec();
        prop_assert_eq!(ToCell::try_from(pb::ClientFrame::decode(&wire[..]).unwrap()).unwrap(), frame);
    }

    #[test]
    fn every_frame_to_the_mount_survives_the_wire(frame in to_mount()) {
        let wire = pb::ServerFrame::from(frame.clone()).encode_to_vec();
        prop_assert_eq!(ToMount::try_from(pb::ServerFrame::decode(&wire[..]).unwrap()).unwrap(), frame);
    }

    #[test]
    fn blob_requests_survive_the_wire(
        session in a_session(), ino in ino(), digest in a_digest(), generation in a_generation(),
        bytes in some_bytes(1, 300),
    ) {
        let fetch = (GroupId::new(1), FetchBlob { session, ino, digest });
        prop_assert_eq!(<(GroupId, FetchBlob)>::try_from(pb::FetchRequest::from(fetch.clone())).unwrap(), fetch);
        let store = (GroupId::new(2), StoreBlob { session, digest, generation, bytes });
        prop_assert_eq!(<(GroupId, StoreBlob)>::try_from(pb::StoreRequest::from(store.clone())).unwrap(), store);
    }

    #[test]
    fn damaged_frames_are_refused_or_harmless(
        frame in to_cell(), back in to_mount(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut wire = pb::ClientFrame::from(frame).encode_to_vec();
        if !wire.is_empty() {
            let at = at.index(wire.len());
            wire[at] = byte;
        }
        let _ = pb::ClientFrame::decode(&wire[..]).map(ToCell::try_from);
        let mut wire = pb::ServerFrame::from(back).encode_to_vec();
        wire.truncate(at.index(wire.len() + 1));
        let _ = pb::ServerFrame::decode(&wire[..]).map(ToMount::try_from);
    }

    #[test]
    fn noise_is_refused_or_harmless(noise in vec(any::<u8>(), 0..400)) {
        let _ = pb::ClientFrame::decode(&noise[..]).map(ToCell::try_from);
        let _ = pb::ServerFrame::decode(&noise[..]).map(ToMount::try_from);
        let _ = pb::StoreRequest::decode(&noise[..]).map(<(GroupId, StoreBlob)>::try_from);
    }
}

fn refused(body: pb::op_envelope::Body) -> bool {
    let envelope = pb::OpEnvelope { session: vec![0; 16].into(), op: 1, ack_below: 0, body: Some(body) };
    let frame = pb::ClientFrame { frame: Some(pb::client_frame::Frame::Op(envelope)) };
    ToCell::try_from(frame).is_err_and(|error| error.kind() == Kind::Invalid)
}

#[test]
fn what_is_out_of_bounds_is_refused() {
    use pb::op_envelope::Body;
    let place = |name: &[u8]| pb::Place { parent: 1, name: Bytes::copy_from_slice(name) };
    for bad in [&b""[..], b"..", b"a/b", b"nul\0", &[b'x'; 256]] {
        assert!(refused(Body::Unlink(place(bad))), "{bad:?}");
    }
    assert!(refused(Body::Rename(pb::Rename { from: Some(place(b"a")), to: Some(place(b"b")), mode: 9 })));
    assert!(refused(Body::AllocInodes(pb::AllocInodes { count: 0 })));
    assert!(refused(Body::AllocInodes(pb::AllocInodes { count: u32::MAX })));
    assert!(refused(Body::Mkdir(pb::Mkdir { at: Some(place(b"a")), create: None })));
    let extent = pb::Extent { offset: 0, len: 4 << 20, digest: vec![0; 64].into(), blob_offset: 1 };
    assert!(Extent::try_from(extent.clone()).is_err());
    assert!(Extent::try_from(pb::Extent { blob_offset: 0, ..extent.clone() }).is_ok());
    assert!(Extent::try_from(pb::Extent { offset: u64::MAX, blob_offset: 0, ..extent }).is_err());
    assert!(ToCell::try_from(pb::ClientFrame { frame: None }).is_err());
    let lock = pb::LockRequest { last: 1 << 63, action: pb::LockAction::Try.into(), ..Default::default() };
    assert!(LockRequest::try_from(lock).is_err());
    assert!(LockRequest::try_from(pb::LockRequest { last: 1, start: 2, ..lock }).is_err());
    assert!(LockRequest::try_from(pb::LockRequest { last: 1, action: 9, ..lock }).is_err());
}

#[test]
fn the_largest_answers_fit_into_a_message() {
    let extent = Extent { offset: 1 << 40, len: 1 << 15, digest: Digest::new([9; 64]), blob_offset: 1 << 21 };
    let chunk = ChunkLayout { chunk: 1 << 20, extents: vec![extent; limits::CHUNK_EXTENTS_MAX] };
    let body = AnswerBody::Chunks(vec![chunk; limits::COMMIT_CHUNKS_MAX]);
    let frame = ToMount::Answer { tag: u64::MAX, result: Ok(Answer { seq: Seq::new(u64::MAX), body }) };
    let len = pb::ServerFrame::from(frame).encoded_len();
    assert!(len < crate::MESSAGE_MAX, "{len}");
}
