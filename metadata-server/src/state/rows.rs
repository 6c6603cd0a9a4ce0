//! The values of rows: one version byte, then the postcard form of a struct of this file.
//!
//! A struct may only change together with [`VERSION`] and a decoder for the old form.

use super::{Family, KeptBackups, Read, VolumeLimits, bounds};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sitefs_base::{
    Attr, AttrFlags, BackupPlan, Content, Digest, Errno, Error, Extent, FileKind, Generation, GroupId,
    Incarnation, InodeId, Name, OpId, Result, Seq, SessionId, SiteId, Time, VolumeId, VolumeName,
    VolumeSettings,
    op::{Change, Place},
};

/// The version byte of every value.
pub(super) const VERSION: u8 = 3;

/// A row that has history: it knows since which seq it holds. `born` is its first field.
pub(super) trait Lived: Serialize + for<'de> Deserialize<'de> + PartialEq {
    fn born(&self) -> Seq;
    fn set_born(&mut self, born: Seq);
    /// The content outside this row that it names.
    fn named(&self) -> &[Extent] {
        &[]
    }
}

macro_rules! lived {
    ($($row:ident $(naming $named:expr)?,)*) => {$(
        impl Lived for $row {
            fn born(&self) -> Seq {
                self.born
            }
            fn set_born(&mut self, born: Seq) {
                self.born = born;
            }
            $(fn named(&self) -> &[Extent] {
                let named: fn(&Self) -> &[Extent] = $named;
                named(self)
            })?
        }
    )*};
}
lived! {
    DentryRow,
    InodeRow naming InodeRow::extents,
    ChunkRow naming |row| &row.extents,
    DirRow,
    XattrRow,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct DentryRow {
    pub born: Seq,
    pub kind: FileKind,
    pub ino: InodeId,
}

/// Of a directory, `nlink`, `mtime` and `ctime` stand in its [`DirRow`] and are zero here. The stored
/// form is in `stored.rs`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct InodeRow {
    pub born: Seq,
    pub kind: FileKind,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub size: u64,
    pub allocated: u64,
    pub rdev: u32,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    pub cver: Seq,
    pub flags: AttrFlags,
    /// The directory that holds this directory; of the root itself. Only of directories.
    pub parent: Option<InodeId>,
    pub content: Content,
}

impl InodeRow {
    pub(super) fn attr(&self, ino: InodeId, dir: Option<&DirRow>) -> Attr {
        let (nlink, mtime, ctime) = match dir {
            Some(dir) => (dir.nlink, dir.mtime, dir.ctime),
            None => (self.nlink, self.mtime, self.ctime),
        };
        Attr {
            ino,
            kind: self.kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            nlink,
            size: self.size,
            allocated: self.allocated,
            rdev: self.rdev,
            atime: self.atime,
            mtime,
            ctime,
            cver: self.cver,
            flags: self.flags,
        }
    }

    /// The extents that stand in this row itself.
    pub(super) fn extents(&self) -> &[Extent] {
        match &self.content {
            Content::Extents(extents) => extents,
            Content::Empty | Content::Inline(_) | Content::Chunked | Content::Target(_) => &[],
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct ChunkRow {
    pub born: Seq,
    #[serde(deserialize_with = "bounds::extents")]
    pub extents: Vec<Extent>,
}

/// What every create in a directory changes, apart from its inode row.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct DirRow {
    pub born: Seq,
    pub nlink: u32,
    pub mtime: Time,
    pub ctime: Time,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct XattrRow {
    pub born: Seq,
    pub value: Bytes,
}

/// The volume's seq at the end of a second.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct SecondRow {
    #[serde(deserialize_with = "bounds::count")]
    pub seq: Seq,
    /// The volume's `history_bytes` at that moment.
    #[serde(deserialize_with = "bounds::count")]
    pub history_bytes: u64,
    /// The volume's `bytes_used` at that moment.
    #[serde(deserialize_with = "bounds::count")]
    pub bytes_used: u64,
    /// The volume's `inodes_used` at that moment.
    #[serde(deserialize_with = "bounds::count")]
    pub inodes_used: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct FeedRow {
    pub origin: SessionId,
    pub changes: Vec<Change>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum BlobState {
    Present,
    Condemned,
    Deleting,
    /// The cell has read the object and it was wrong or not there. Rows go on naming it and it may still
    /// be read, should it come back; whoever has the bytes puts them in its place.
    Damaged,
}

/// Where the bytes of a blob are. Packs come later, as a new last variant (DESIGN D35).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Loc {
    Hot,
    Object,
}

/// The moment of a reference, for comparison with marks of the same incarnation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Mark {
    pub incarnation: Incarnation,
    pub command: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct BlobRow {
    /// The part of the digest that is not in the key.
    pub rest: [u8; 32],
    pub state: BlobState,
    pub generation: Generation,
    pub len: u32,
    pub loc: Loc,
    pub verified: bool,
    pub last_ref: Mark,
    /// Volumes that ever committed it, ascending.
    pub vols: Vec<VolumeId>,
    /// An append or a merge stored it and nothing has named it since: it is about to be merged, so
    /// that it is not worth an object.
    pub tail: bool,
}

/// An upload that was granted to a volume and not yet committed: the state UPLOADING.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct UploadRow {
    pub digest: Digest,
    pub len: u32,
    pub granted_at: Time,
    pub volume: VolumeId,
    /// The cell has proven the digest of what was uploaded.
    pub verified: bool,
}

/// An object that no row names any more and that has to be deleted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct DoomedRow {
    pub digest: Digest,
    pub since: Time,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct UnverifiedRow {
    pub digest: Digest,
    pub len: u32,
}

/// A hot blob that waits to be drained.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct DrainRow {
    pub digest: Digest,
    pub len: u32,
}

/// A hot blob that waits to be merged; drained if that takes too long.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct TailRow {
    pub digest: Digest,
    pub len: u32,
    pub since: Time,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct HotRow<'a> {
    pub digest: Digest,
    #[serde(borrow)]
    pub bytes: &'a [u8],
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct GroupRow {
    pub cell: String,
    pub group: GroupId,
    pub incarnation: Incarnation,
}

/// What operators chose about the cell.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct CellRow {
    /// Why no mount may write, if so.
    pub read_only: Option<String>,
    pub backup: BackupPlan,
}

/// The version that the cell was raised to; 1 if there is no such row.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct VersionRow {
    pub version: u16,
}

/// Which backups are kept, by place.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct BackupsRow {
    pub places: Vec<KeptBackups>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct CountersRow {
    pub last_at: Time,
    #[serde(deserialize_with = "bounds::count")]
    pub commands: u64,
    #[serde(deserialize_with = "bounds::count")]
    pub generations: u64,
    #[serde(deserialize_with = "bounds::count")]
    pub sites: u64,
    #[serde(deserialize_with = "bounds::count")]
    pub volumes: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum NameRow {
    Site(SiteId),
    Volume(VolumeId),
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct VolumeRow {
    pub site: SiteId,
    pub name: VolumeName,
    pub limits: VolumeLimits,
    pub settings: VolumeSettings,
    pub created_at: Time,
    #[serde(deserialize_with = "bounds::count")]
    pub seq: Seq,
    #[serde(deserialize_with = "bounds::count")]
    pub next_ino: InodeId,
    #[serde(deserialize_with = "bounds::count")]
    pub bytes_used: u64,
    #[serde(deserialize_with = "bounds::count")]
    pub inodes_used: u64,
    /// The second of the last mutation.
    pub second: i64,
    /// The seq at the end of the second with activity before `second`.
    #[serde(deserialize_with = "bounds::count")]
    pub second_floor: Seq,
    /// Events up to this seq are no longer in the feed.
    #[serde(deserialize_with = "bounds::count")]
    pub feed_floor: Seq,
    /// The oldest seq that still has full history.
    #[serde(deserialize_with = "bounds::count")]
    pub horizon: Seq,
    /// Older seqs that are kept alive, ascending.
    pub pins: Vec<Seq>,
    /// Bytes of all rows that went to history so far, with the content that only they name.
    #[serde(deserialize_with = "bounds::count")]
    pub history_bytes: u64,
    /// How many of these bytes history may hold beside pins, if somebody has set that.
    pub history_limit: Option<u64>,
    /// Since when the volume is deleted; its rows are being removed.
    pub deleted: Option<Time>,
}

/// What history may take at least where nobody has set its limit: a volume that is small, or may hold
/// nothing more, has a past all the same.
const HISTORY_FLOOR: u64 = 16 << 20;

impl VolumeRow {
    /// How many bytes history may hold beside pins.
    pub(super) fn history_budget(&self) -> u64 {
        self.history_limit.unwrap_or(self.limits.bytes.max(self.bytes_used).max(HISTORY_FLOOR))
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct SessionRow {
    pub opened_at: Time,
    pub last_used: Time,
    pub op_high_water: OpId,
    pub ack_below: OpId,
    /// The seq that it reads and pins; sessions without see the volume as it is.
    pub at: Option<Seq>,
}

/// A snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct SnapshotRow {
    pub seq: Seq,
    /// The moment that it shows.
    pub at: Time,
    pub created_at: Time,
}

/// That somebody holds a pin, and the use of the volume at the pinned seq.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct PinRow {
    #[serde(deserialize_with = "bounds::count")]
    pub bytes_used: u64,
    #[serde(deserialize_with = "bounds::count")]
    pub inodes_used: u64,
}

/// Inode numbers `first` to the number in the key, reserved for a session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct RangeRow {
    pub first: InodeId,
}

/// What a retried operation is answered from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum ReceiptRow {
    Refused(Errno),
    Done { seq: Seq, ino: Option<InodeId>, touched: Vec<InodeId>, extra: ReceiptExtra },
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum ReceiptExtra {
    None,
    Inodes { first: InodeId, count: u32 },
    Dropped,
    Appended { offset: u64 },
    Cloned { len: u64 },
}

/// An inode without a name whose rows await removal.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct OrphanRow {
    /// Its dentries or chunk rows below this key are gone.
    pub from: Vec<u8>,
}

/// A volume with rows that await removal.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct ReapRow {
    /// Of a deleted volume: the place in the list of its ranges of rows that has been reached.
    pub range: u32,
    /// The rows of that range below this key are gone.
    pub from: Vec<u8>,
}

/// A restore under way: the copy grows under an inode that has no name yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct RestoreRow {
    /// The moment that is brought back; pinned meanwhile.
    pub seq: Seq,
    /// Where the copy goes in the end.
    pub to: Place,
    /// When the last step was made.
    pub moved_at: Time,
    #[serde(deserialize_with = "bounds::count")]
    pub entries: u64,
    #[serde(deserialize_with = "bounds::count")]
    pub bytes: u64,
    /// The directory that is being copied.
    pub dir: Option<DirCursor>,
    /// The file whose chunk rows are being copied.
    pub file: Option<FileCursor>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct DirCursor {
    pub source: InodeId,
    pub copy: InodeId,
    /// The last entry that was copied.
    pub after: Option<Name>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct FileCursor {
    pub source: InodeId,
    pub copy: InodeId,
    /// The first chunk that was not copied yet.
    pub chunk: u32,
}

/// The copy of an inode that a restore will need again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct CopyRow {
    pub copy: InodeId,
}

/// The stored form of a row.
pub(super) fn encode<T: Serialize>(row: &T) -> Result<Vec<u8>> {
    postcard::to_extend(row, vec![VERSION])
        .map_err(|error| Error::internal("encoding a row of the state").because(error))
}

/// The row in `value`. Damaged bytes give an error that names the row.
pub(super) fn decode<'a, T: Deserialize<'a>>(family: Family, key: &[u8], value: &'a [u8]) -> Result<T> {
    match decode_front(family, key, value)? {
        (row, []) => Ok(row),
        (_, rest) => Err(damaged(family, key, &format!("has {} bytes too many", rest.len()))),
    }
}

/// Since when a row with history holds: the first field of each such row.
pub(super) fn born(family: Family, key: &[u8], value: &[u8]) -> Result<Seq> {
    Ok(decode_front(family, key, value)?.0)
}

fn decode_front<'a, T: Deserialize<'a>>(
    family: Family,
    key: &[u8],
    value: &'a [u8],
) -> Result<(T, &'a [u8])> {
    let body = match value.split_first() {
        Some((&VERSION, body)) => body,
        Some((version, _)) => {
            return Err(damaged(family, key, &format!("has format {version}, not {VERSION}")));
        }
        None => return Err(damaged(family, key, "is empty")),
    };
    postcard::take_from_bytes(body).map_err(|error| damaged(family, key, "cannot be decoded").because(error))
}

/// Reads and decodes one row.
pub(super) fn fetch<T: for<'de> Deserialize<'de>>(
    read: &dyn Read,
    family: Family,
    key: &[u8],
) -> Result<Option<T>> {
    read.get(family, key)?.map(|value| decode(family, key, &value)).transpose()
}

/// The error for a row that is not what it must be.
pub(super) fn damaged(family: Family, key: &[u8], problem: &str) -> Error {
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    Error::corrupt(format!("the row {hex} of family {} {problem}", family.name()))
}
