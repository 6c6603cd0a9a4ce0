//! The steps of random histories. They name things by small numbers, so that a history that fails can
//! be made shorter and still means something.

use super::acl::{self, List};
use bytes::Bytes;
use proptest::prelude::*;
use sitefs_base::{
    FileKind, Time,
    op::{Create, RenameMode, SetAttr, SetTime, XattrMode},
};

/// A directory and a name, by number.
#[derive(Clone, Copy, Debug)]
pub struct At(pub u8, pub u8);

#[derive(Clone, Debug)]
pub enum Step {
    /// Session and operation.
    Do(u8, Doing),
    /// A session sends an earlier operation again.
    Retry(u8, u8),
    /// A session has seen every reply.
    Acknowledge(u8),
    /// The leader's clock moves.
    Clock(Clock),
    /// A session ends and begins again.
    Reopen(u8),
    /// A session ends.
    Close(u8),
    /// The cell has read an uploaded object.
    Verified(u8),
    /// A hot blob is in the object store.
    Drained(u8),
    /// A snapshot of a volume: name, and how many seconds back if not now.
    Snapshot(u8, u8, Option<u8>),
    DeleteSnapshot(u8, u8),
    /// A session opens a snapshot, or a moment so many seconds back.
    LookBack(u8, u8, Result<u8, u8>),
    LookAway(u8, u8),
    /// The horizon of a volume moves to so many seconds back.
    MoveHorizon(u8, u8),
    /// What nobody needs is dropped.
    Compact,
}

#[derive(Clone, Copy, Debug)]
pub enum Clock {
    NextSecond,
    Seconds(u8),
    Nanoseconds(u16),
    Back(u8),
}

#[derive(Clone, Debug)]
pub enum Doing {
    Mkdir(At, Create),
    Mknod(At, FileKind, Create),
    Symlink(At, u16),
    Link(u8, At),
    Unlink(At),
    Rmdir(At),
    Rename(At, At, RenameMode),
    SetXattr(u8, u8, Bytes, XattrMode),
    RemoveXattr(u8, u8),
    SetAttr(u8, SetAttr),
    Commit(Committing),
    Alloc(u32),
    Grant(Vec<u8>),
}

#[derive(Clone, Debug)]
pub struct Committing {
    pub target: Target,
    pub writing: Writing,
    pub expect: Expect,
    pub set: SetAttr,
    pub changed: Option<Time>,
    pub upload: Upload,
}

#[derive(Clone, Debug)]
pub enum Target {
    /// An inode, as an open handle names it.
    Inode(u8),
    /// A new file: number of the session's range, place, exclusive.
    New(u8, At, bool),
    /// A number without `create`, or with a place of a file that was published before.
    Odd(u8, Option<At>),
}

#[derive(Clone, Debug)]
pub enum Writing {
    Nothing,
    Inline(u16),
    Hot(u8),
    /// How the size is related to the content, and chunk, extents, blob.
    Chunks(u8, Vec<(u8, u8, u8)>),
}

#[derive(Clone, Copy, Debug)]
pub enum Expect {
    Any,
    Right,
    Stale,
}

/// What the session does about blobs before it commits them.
#[derive(Clone, Copy, Debug)]
pub enum Upload {
    Nothing,
    Granted,
    Verified,
    Foreign,
}

fn at() -> impl Strategy<Value = At> {
    (any::<u8>(), prop_oneof![9 => 0..4u8, 1 => 4..7u8]).prop_map(|(dir, name)| At(dir, name))
}

fn mode() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0o644), Just(0o755), Just(0o4755), Just(0o2775), Just(0o2640), Just(0o1777), Just(0o600)]
}

fn create() -> impl Strategy<Value = Create> {
    let umask = prop_oneof![Just(0o022u16), Just(0o077), Just(0)];
    (mode(), umask, 0..3u32).prop_map(|(mode, umask, id)| Create { mode, umask, uid: id, gid: id + 10 })
}

fn time() -> impl Strategy<Value = Time> {
    prop_oneof![
        6 => (990..1040i64, 0..3u32).prop_map(|(secs, nanos)| Time::new(secs, nanos)),
        1 => Just(Time::new(-86_400, 5)),
        1 => Just(Time::new(1 << 33, 0)),
    ]
}

fn set_time() -> impl Strategy<Value = Option<SetTime>> {
    prop_oneof![
        4 => Just(None),
        1 => Just(Some(SetTime::Now)),
        1 => time().prop_map(|time| Some(SetTime::At(time))),
        1 => time().prop_map(|time| Some(SetTime::Written(time))),
    ]
}

fn maybe<T: Clone + std::fmt::Debug>(of: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.3, of)
}

fn set_attr(size: impl Strategy<Value = Option<u64>>) -> impl Strategy<Value = SetAttr> {
    (maybe(mode()), maybe(0..3u32), maybe(10..13u32), size, set_time(), set_time(), any::<bool>()).prop_map(
        |(mode, uid, gid, size, atime, mtime, kill_setid)| SetAttr {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
            kill_setid,
        },
    )
}

fn size() -> impl Strategy<Value = Option<u64>> {
    let size = prop_oneof![
        2 => Just(0u64),
        6 => 0..700u64,
        1 => Just(4 << 20),
        4 => (0..3u64, 0..400u64).prop_map(|(chunk, more)| (chunk << 22) + more),
        1 => Just(16 << 40),
        1 => Just((16 << 40) + 1),
        1 => Just(1 << 63),
    ];
    prop::option::of(size)
}

fn list() -> impl Strategy<Value = Bytes> {
    let named = (0..8u16, 0..8u16, 0..8u16).prop_map(|(owner, group, other)| {
        let named = (acl::USER, group, 7);
        List(vec![
            (acl::OWNER, owner, 0),
            named,
            (acl::OWNING_GROUP, group, 0),
            (acl::MASK, other, 0),
            (acl::OTHER, other, 0),
        ])
    });
    let minimal = (0..8u16)
        .prop_map(|perm| List(vec![(acl::OWNER, 7, 0), (acl::OWNING_GROUP, perm, 0), (acl::OTHER, perm, 0)]));
    let bad = Just(List(vec![(acl::OWNER, 7, 0), (acl::OTHER, 9, 0)]));
    prop_oneof![5 => named.boxed(), 2 => minimal.boxed(), 1 => bad.boxed(), 1 => Just(List(vec![])).boxed()]
        .prop_map(|list| list.bytes())
}

fn xattr_name() -> impl Strategy<Value = u8> {
    prop_oneof![9 => 0..5u8, 1 => 5..7u8]
}

fn xattr() -> impl Strategy<Value = Doing> {
    let mode =
        prop_oneof![4 => Just(XattrMode::Any), 1 => Just(XattrMode::Create), 1 => Just(XattrMode::Replace)];
    let value = prop_oneof![
        4 => (0..3u8, 0..9usize).prop_map(|(byte, len)| Bytes::from(vec![byte; len])),
        4 => list(),
        1 => Just(Bytes::from(vec![1; 40_000])),
    ];
    prop_oneof![
        3 => (any::<u8>(), xattr_name(), value, mode).prop_map(|(ino, name, value, mode)| {
            Doing::SetXattr(ino, name, value, mode)
        }),
        2 => (any::<u8>(), xattr_name()).prop_map(|(ino, name)| Doing::RemoveXattr(ino, name)),
    ]
}

fn writing() -> impl Strategy<Value = Writing> {
    let chunks = prop::collection::vec((0..4u8, 0..7u8, 0..6u8), 0..4);
    prop_oneof![
        1 => Just(Writing::Nothing),
        2 => (0..520u16).prop_map(Writing::Inline),
        2 => (0..6u8).prop_map(Writing::Hot),
        5 => (0..9u8, chunks).prop_map(|(size, chunks)| Writing::Chunks(size, chunks)),
    ]
}

fn committing() -> impl Strategy<Value = Committing> {
    let target = prop_oneof![
        4 => any::<u8>().prop_map(Target::Inode),
        4 => (any::<u8>(), at(), any::<bool>()).prop_map(|(number, at, exclusive)| Target::New(number, at, exclusive)),
        1 => (any::<u8>(), prop::option::of(at())).prop_map(|(number, at)| Target::Odd(number, at)),
    ];
    let expect = prop_oneof![3 => Just(Expect::Any), 1 => Just(Expect::Right), 1 => Just(Expect::Stale)];
    let upload = prop_oneof![
        1 => Just(Upload::Nothing),
        3 => Just(Upload::Granted),
        2 => Just(Upload::Verified),
        1 => Just(Upload::Foreign),
    ];
    let set = prop_oneof![2 => Just(SetAttr::default()).boxed(), 1 => set_attr(Just(None)).boxed()];
    (target, writing(), expect, set, maybe(time()), upload).prop_map(
        |(target, writing, expect, set, changed, upload)| Committing {
            target,
            writing,
            expect,
            set,
            changed,
            upload,
        },
    )
}

fn doing() -> impl Strategy<Value = Doing> {
    let kind = prop_oneof![
        4 => Just(FileKind::File),
        1 => Just(FileKind::Fifo),
        1 => Just(FileKind::CharDevice),
        1 => Just(FileKind::Directory),
    ];
    let rename = prop_oneof![
        3 => Just(RenameMode::Replace),
        1 => Just(RenameMode::NoReplace),
        2 => Just(RenameMode::Exchange),
    ];
    prop_oneof![
        5 => (at(), create()).prop_map(|(at, create)| Doing::Mkdir(at, create)),
        3 => (at(), kind, create()).prop_map(|(at, kind, create)| Doing::Mknod(at, kind, create)),
        1 => (at(), 0..20u16).prop_map(|(at, target)| Doing::Symlink(at, target)),
        3 => (any::<u8>(), at()).prop_map(|(ino, at)| Doing::Link(ino, at)),
        4 => at().prop_map(Doing::Unlink),
        3 => at().prop_map(Doing::Rmdir),
        7 => (at(), at(), rename).prop_map(|(from, to, mode)| Doing::Rename(from, to, mode)),
        5 => xattr(),
        4 => (any::<u8>(), set_attr(size())).prop_map(|(ino, set)| Doing::SetAttr(ino, set)),
        9 => committing().prop_map(Doing::Commit),
        1 => (0..4u32).prop_map(Doing::Alloc),
        1 => prop::collection::vec(0..7u8, 0..3).prop_map(Doing::Grant),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let clock = prop_oneof![
        6 => Just(Clock::NextSecond),
        1 => (2..200u8).prop_map(Clock::Seconds),
        1 => any::<u16>().prop_map(Clock::Nanoseconds),
        1 => any::<u8>().prop_map(Clock::Back),
    ];
    prop_oneof![
        60 => (any::<u8>(), doing()).prop_map(|(who, doing)| Step::Do(who, doing)),
        4 => (any::<u8>(), 0..4u8).prop_map(|(who, back)| Step::Retry(who, back)),
        2 => any::<u8>().prop_map(Step::Acknowledge),
        14 => clock.prop_map(Step::Clock),
        1 => any::<u8>().prop_map(Step::Reopen),
        1 => any::<u8>().prop_map(Step::Close),
        2 => any::<u8>().prop_map(Step::Verified),
        2 => any::<u8>().prop_map(Step::Drained),
        3 => (any::<u8>(), 0..3u8, prop::option::weighted(0.3, 0..9u8))
            .prop_map(|(volume, name, back)| Step::Snapshot(volume, name, back)),
        2 => (any::<u8>(), 0..3u8).prop_map(|(volume, name)| Step::DeleteSnapshot(volume, name)),
        2 => (any::<u8>(), 0..2u8, prop_oneof![(0..3u8).prop_map(Ok), (0..9u8).prop_map(Err)])
            .prop_map(|(volume, reader, moment)| Step::LookBack(volume, reader, moment)),
        1 => (any::<u8>(), 0..2u8).prop_map(|(volume, reader)| Step::LookAway(volume, reader)),
        2 => (any::<u8>(), 0..5u8).prop_map(|(volume, back)| Step::MoveHorizon(volume, back)),
        2 => Just(Step::Compact),
    ]
}

/// What a volume may hold, and what happens.
#[derive(Clone, Debug)]
pub struct History {
    pub bytes: u64,
    pub inodes: u64,
    pub steps: Vec<Step>,
}

pub fn history(longest: usize) -> impl Strategy<Value = History> {
    let bytes = prop_oneof![4 => Just(1 << 50), 1 => Just(1500u64)];
    let inodes = prop_oneof![4 => Just(1 << 20), 1 => Just(7u64)];
    (bytes, inodes, prop::collection::vec(step(), longest / 2..longest))
        .prop_map(|(bytes, inodes, steps)| History { bytes, inodes, steps })
}
