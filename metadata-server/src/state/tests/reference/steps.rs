//! The steps of random histories. They name things by small numbers, so that a history that fails can
//! be made shorter and still means something.

use super::acl::{self, List};
use crate::state::tests::slices::WHOLE;
use bytes::Bytes;
use proptest::prelude::*;
use sitefs_base::{
    FileKind, HistoryLimit, ServeStale, Time, VolumeAccess, VolumeChange,
    op::{Create, RenameMode, SetAttr, SetTime, XattrMode},
};

/// A directory and a name, by number.
#[derive(Clone, Copy, Debug)]
pub struct At(pub u8, pub u8);

#[derive(Clone, Debug)]
pub enum Step {
    /// Session, operation, and what the leader has promised for it.
    Do(u8, Doing, Promised),
    /// A session of the past tries to change something: volume and session.
    ChangeThePast(u8, u8),
    /// A session sends an earlier operation again.
    Retry(u8, u8),
    /// A session has seen every reply.
    Acknowledge(u8),
    /// The leader's clock moves.
    Clock(Clock),
    /// A session ends and begins again.
    Reopen(u8),
    /// A session is opened again while it goes on: its mount has looked whether the cell knows it.
    FindAgain(u8),
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
    /// Sessions that were silent for so many seconds are forgotten.
    Expire(u8),
    /// The leader joins some extents that lie side by side.
    Merge(Merging),
    /// The leader removes a slice of what awaits that.
    Reap(u8),
    Restore(u8, Restoring),
    /// Volume and restore.
    CopyMore(u8, u8),
    EndRestore(u8, u8, bool),
    SetVolume(u8, VolumeChange),
    /// The volume with less to do is deleted, or made anew.
    DeleteOrMake,
    Collect(Collecting),
}

/// What the collector does.
#[derive(Clone, Copy, Debug)]
pub struct Collecting {
    /// It acts on what it read when it last came to this.
    pub is_late: bool,
    pub deletes: bool,
    pub forgets: bool,
    pub expires: bool,
}

/// Growth that the leader has promised.
#[derive(Clone, Copy, Debug)]
pub enum Promised {
    Nothing,
    Some(u16, u8),
    Enough,
}

#[derive(Clone, Debug)]
pub struct Merging {
    pub volume: u8,
    /// Which neighbours, and how many of them.
    pub pick: u8,
    pub first: u8,
    pub count: u8,
    pub blob: JoinedBlob,
    /// The leader has read the extents, and joins them only when it comes to merging again.
    pub is_slow: bool,
}

#[derive(Clone, Copy, Debug)]
pub enum JoinedBlob {
    Hot,
    /// In the object store: whether the leader has drawn a generation, and verified the object.
    Object(bool, bool),
    /// Not what the extents are.
    Wrong(u8),
}

#[derive(Clone, Debug)]
pub struct Restoring {
    /// So many seconds back, or a snapshot.
    pub moment: Result<u8, u8>,
    pub source: u8,
    /// Where to; where it was at that moment if not set.
    pub to: Option<At>,
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
    /// So many of so many bytes, when by the client's clock, and whether privileges go.
    Append(u8, u8, u16, Option<Time>, bool),
    Punch(u8, u64, u64),
    Clone {
        from: u8,
        from_offset: u64,
        to: u8,
        to_offset: u64,
        len: u64,
        expect: Expect,
    },
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
    /// Many extents side by side in one chunk.
    Many(u8, u8),
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
        1 => (0..3u8, prop_oneof![6 => 5..40u8, 1 => 120..130u8]).prop_map(|(chunk, count)| Writing::Many(chunk, count)),
    ]
}

fn committing() -> impl Strategy<Value = Committing> {
    let target = prop_oneof![
        4 => any::<u8>().prop_map(Target::Inode),
        4 => (any::<u8>(), at(), any::<bool>()).prop_map(|(number, at, exclusive)| Target::New(number, at, exclusive)),
        1 => (any::<u8>(), prop::option::of(at())).prop_map(|(number, at)| Target::Odd(number, at)),
    ];
    let upload = prop_oneof![
        1 => Just(Upload::Nothing),
        3 => Just(Upload::Granted),
        2 => Just(Upload::Verified),
        1 => Just(Upload::Foreign),
    ];
    let set = prop_oneof![2 => Just(SetAttr::default()).boxed(), 1 => set_attr(Just(None)).boxed()];
    (target, writing(), expect(), set, maybe(time()), upload).prop_map(
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

/// Near the ends of what is written, of chunks and of what there can be.
fn offset() -> impl Strategy<Value = u64> {
    let near = (0..4u64, 0..700u64).prop_map(|(chunk, more)| (chunk << 22) + more);
    let before = (1..4u64, 1..60u64).prop_map(|(chunk, less)| (chunk << 22) - less);
    let end = (0..6u64).prop_map(|less| (16 << 40) + 2 - less);
    prop_oneof![9 => 0..700u64, 9 => near, 3 => before, 1 => end, 1 => Just(u64::MAX - 9)]
}

fn range() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0..400u64,
        3 => (0..3u64, 0..400u64).prop_map(|(chunk, more)| (chunk << 22) + more),
        1 => Just(1 << 33),
        1 => Just(u64::MAX - 300),
    ]
}

fn expect() -> impl Strategy<Value = Expect> {
    prop_oneof![3 => Just(Expect::Any), 1 => Just(Expect::Right), 1 => Just(Expect::Stale)]
}

/// Nearly always a file.
fn file() -> impl Strategy<Value = u8> {
    prop_oneof![12 => 0..170u8, 1 => any::<u8>()]
}

fn in_ranges() -> impl Strategy<Value = Doing> {
    let len = prop_oneof![12 => 0..300u16, 3 => 300..900u16, 1 => Just(u16::MAX)];
    prop_oneof![
        3 => (file(), 1..7u8, len, maybe(time()), any::<bool>())
            .prop_map(|(ino, count, len, changed, kill)| Doing::Append(ino, count, len, changed, kill)),
        3 => (file(), offset(), range()).prop_map(|(ino, offset, len)| Doing::Punch(ino, offset, len)),
        3 => (file(), offset(), file(), offset(), range(), expect()).prop_map(
            |(from, from_offset, to, to_offset, len, expect)| Doing::Clone {
                from, from_offset, to, to_offset, len, expect
            }
        ),
    ]
}

fn merging() -> impl Strategy<Value = Merging> {
    let blob = prop_oneof![
        6 => Just(JoinedBlob::Hot),
        3 => (any::<bool>(), any::<bool>()).prop_map(|(drawn, verified)| JoinedBlob::Object(drawn, verified)),
        1 => any::<u8>().prop_map(JoinedBlob::Wrong),
    ];
    let is_slow = prop::bool::weighted(0.2);
    (any::<u8>(), any::<u8>(), 0..40u8, 2..40u8, blob, is_slow).prop_map(
        |(volume, pick, first, count, blob, is_slow)| Merging { volume, pick, first, count, blob, is_slow },
    )
}

fn restoring() -> impl Strategy<Value = Restoring> {
    let moment = prop_oneof![1 => (0..3u8).prop_map(Err), 3 => (0..9u8).prop_map(Ok)];
    (moment, any::<u8>(), prop::option::weighted(0.4, at())).prop_map(|(moment, source, to)| Restoring {
        moment,
        source,
        to,
    })
}

fn change() -> impl Strategy<Value = VolumeChange> {
    let bytes = prop_oneof![1 => Just(0u64), 1 => Just(1500), 4 => Just(1 << 50)];
    let inodes = prop_oneof![1 => Just(0u64), 1 => Just(1), 1 => Just(7), 4 => Just(1 << 20)];
    let history = prop_oneof![
        2 => Just(HistoryLimit::Default),
        1 => prop_oneof![Just(0u64), Just(2000), Just(1 << 50)].prop_map(HistoryLimit::Bytes),
    ];
    let stale = prop_oneof![Just(ServeStale::Off), Just(ServeStale::Reads)];
    let access = prop_oneof![
        2 => Just(VolumeAccess::ReadWrite),
        2 => Just(VolumeAccess::ReadOnly("it moves".into())),
        1 => Just(VolumeAccess::ReadOnly(" ".into())),
    ];
    (maybe(bytes), maybe(inodes), maybe(history), maybe(stale), maybe(access)).prop_map(
        |(bytes_limit, inodes_limit, history_limit, serve_stale, access)| VolumeChange {
            bytes_limit,
            inodes_limit,
            history_limit,
            serve_stale,
            access,
        },
    )
}

fn promised() -> impl Strategy<Value = Promised> {
    prop_oneof![
        4 => Just(Promised::Nothing),
        1 => (0..700u16, 0..2u8).prop_map(|(bytes, inodes)| Promised::Some(bytes, inodes)),
        1 => Just(Promised::Enough),
    ]
}

/// What the leader and operators do.
fn leading() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => merging().prop_map(Step::Merge),
        4 => any::<u8>().prop_map(Step::Reap),
        8 => (any::<u8>(), restoring()).prop_map(|(volume, restoring)| Step::Restore(volume, restoring)),
        6 => (any::<u8>(), any::<u8>()).prop_map(|(volume, job)| Step::CopyMore(volume, job)),
        5 => (any::<u8>(), any::<u8>(), prop::bool::weighted(0.75))
            .prop_map(|(volume, job, publish)| Step::EndRestore(volume, job, publish)),
        2 => (any::<u8>(), change()).prop_map(|(volume, change)| Step::SetVolume(volume, change)),
        1 => Just(Step::DeleteOrMake),
        2 => prop_oneof![3 => 0..6u8, 1 => 6..40u8].prop_map(Step::Expire),
        1 => (any::<u8>(), 0..2u8).prop_map(|(volume, reader)| Step::ChangeThePast(volume, reader)),
    ]
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
        10 => in_ranges(),
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
        60 => (any::<u8>(), doing(), promised())
            .prop_map(|(who, doing, promised)| Step::Do(who, doing, promised)),
        20 => leading(),
        4 => (any::<u8>(), 0..4u8).prop_map(|(who, back)| Step::Retry(who, back)),
        2 => any::<u8>().prop_map(Step::Acknowledge),
        14 => clock.prop_map(Step::Clock),
        1 => any::<u8>().prop_map(Step::Reopen),
        1 => any::<u8>().prop_map(Step::FindAgain),
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
        3 => (any::<bool>(), any::<bool>(), any::<bool>(), prop::bool::weighted(0.2)).prop_map(
            |(is_late, deletes, forgets, expires)| {
                Step::Collect(Collecting { is_late, deletes, forgets, expires })
            }
        ),
    ]
}

/// What a volume may hold, and what happens.
#[derive(Clone, Debug)]
pub struct History {
    pub bytes: u64,
    pub inodes: u64,
    /// How many rows one command removes or copies.
    pub slice: usize,
    /// Whether there are some files at the beginning.
    pub furnished: bool,
    pub steps: Vec<Step>,
}

/// A directory with a small file, one in blobs, one in rows of chunks, and a log.
pub fn furniture() -> Vec<Doing> {
    let create = Create { mode: 0o2775, umask: 0, uid: 1, gid: 10 };
    let file = |dir: u8, name: u8, writing: Writing| {
        Doing::Commit(Committing {
            target: Target::New(255, At(dir, name), false),
            writing,
            expect: Expect::Any,
            set: SetAttr::default(),
            changed: None,
            upload: Upload::Verified,
        })
    };
    let chunks = vec![(0, 0, 2), (0, 1, 3), (1, 0, 2), (2, 5, 4)];
    vec![
        Doing::Alloc(6),
        Doing::Mkdir(At(0, 0), create.clone()),
        Doing::Mkdir(At(1, 0), create),
        file(1, 1, Writing::Inline(20)),
        file(1, 2, Writing::Chunks(1, chunks)),
        file(2, 1, Writing::Many(0, 9)),
        file(0, 1, Writing::Inline(400)),
        Doing::Link(3, At(2, 2)),
        // The last file of all is the log.
        Doing::Append(3, 6, 290, None, false),
    ]
}

pub fn history(longest: usize) -> impl Strategy<Value = History> {
    let bytes = prop_oneof![4 => Just(1 << 50), 1 => Just(1500u64)];
    let inodes = prop_oneof![4 => Just(1 << 20), 1 => Just(7u64)];
    let slice = prop_oneof![1 => Just(WHOLE), 2 => 1..12usize];
    let furnished = prop::bool::weighted(0.8);
    (bytes, inodes, slice, furnished, prop::collection::vec(step(), longest / 2..longest)).prop_map(
        |(bytes, inodes, slice, furnished, steps)| History { bytes, inodes, slice, furnished, steps },
    )
}
