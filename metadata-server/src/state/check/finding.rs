//! What a check can find.

use super::super::Repair;
use sitefs_base::{Digest, Generation, InodeId, Name, SiteId, VolumeId};

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Nobody reads anything wrong: a counter, or a row that is of no use any more.
    Untidy,
    /// Names, attributes, content or the past are not what they were, or soon will not be.
    Damage,
}

macro_rules! kinds {
    ($($kind:ident $name:literal $severity:ident $means:literal $advice:expr;)*) => {
        /// The kinds of findings.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum FindingKind {
            $(#[doc = $means] $kind,)*
        }

        impl FindingKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// Its name, which never changes.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// How bad it is.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$kind => Severity::$severity,)* }
            }

            /// What it means.
            pub const fn means(self) -> &'static str {
                match self { $(Self::$kind => $means,)* }
            }

            /// What to do about it.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$kind => $advice,)* }
            }
        }
    };
}

const RESTORE: &str = "restore it from a snapshot (`sitefs volume restore`), or the node from a copy";
const NODE: &str = "rows were changed outside the log: restore the data directory from a copy, and report a bug if \
                    the disk is sound";
const REPAIR: &str = "`sitefs fsck --repair` puts it right";
const HARMLESS: &str = "nothing is lost; report a bug";
const UPLOAD: &str =
    "write the file again, from a backup or a cache that has it: its next commit stores the content anew";

kinds! {
    RowDamaged "row-damaged" Damage "A row cannot be read: its bytes are no row of its kind." NODE;
    RowUnknown "row-unknown" Untidy "A row of a kind that this version does not know." "use the version of sitefs that wrote it";
    RowOfNoVolume "row-of-no-volume" Untidy "Rows of a volume that is not there." HARMLESS;
    GroupMissing "group-missing" Damage "The rows do not say which cell they belong to." NODE;
    CounterBehind "counter-behind" Damage "A counter of the cell is behind what was counted: numbers would be given twice." NODE;
    VolumeNameWrong "volume-name-wrong" Damage "A volume cannot be found under its name." REPAIR;
    NameOfNoVolume "name-of-no-volume" Untidy "A name leads to a volume that is not there." REPAIR;
    UsageWrong "usage-wrong" Untidy "What a volume uses is not what its inodes take." REPAIR;
    NumberBeyond "number-beyond" Damage "An inode has a number that was not given yet: another file would get it too." NODE;
    RowFromFuture "row-from-future" Damage "A row was born, or died, at a seq that its volume has not reached." NODE;
    NameDangling "name-dangling" Damage "A name leads to an inode that is not there." RESTORE;
    NameWrongKind "name-wrong-kind" Damage "A name and its inode are of different kinds." RESTORE;
    NameInvalid "name-invalid" Damage "An entry of a directory has a name that no file can have." NODE;
    EntriesStray "entries-stray" Damage "There are entries of a directory that is not there." RESTORE;
    ParentWrong "parent-wrong" Damage "A directory names another parent than the directory that holds it." RESTORE;
    LinkCount "link-count" Damage "The link count of a file is not the number of its names." REPAIR;
    InodeNameless "inode-nameless" Damage "An inode has no name and does not await removal." RESTORE;
    DirectoryTwice "directory-twice" Damage "A directory has several names." RESTORE;
    DirectoryLoop "directory-loop" Damage "Directories contain each other: no path leads to them." RESTORE;
    DirectoryRow "directory-row" Damage "A directory lacks the row of its times and link count, or a row of that kind belongs to no directory." NODE;
    Subdirectories "subdirectories" Damage "The link count of a directory is not 2 plus its subdirectories." REPAIR;
    AttributesWrong "attributes-wrong" Damage "The attributes of an inode contradict each other." NODE;
    XattrStray "xattr-stray" Untidy "Extended attributes of an inode that is not there." HARMLESS;
    XattrFlags "xattr-flags" Damage "An inode does not know of its extended attributes, or of its access lists." NODE;
    SizeWrong "size-wrong" Damage "The size of a file, or the bytes that it takes, do not fit its layout." RESTORE;
    LayoutWrong "layout-wrong" Damage "Extents overlap, lie behind the end of the file, or outside their chunk or blob." RESTORE;
    ChunkStray "chunk-stray" Damage "Chunk rows of a file that has none, or that is not there." NODE;
    LivesOverlap "lives-overlap" Damage "Two rows of one key held at the same time: the past is not certain." NODE;
    LifeWrong "life-wrong" Damage "A superseded row died before it was born." NODE;
    FeedGap "feed-gap" Damage "Events are missing from a volume's feed: mounts that come back would miss changes." NODE;
    SecondsWrong "seconds-wrong" Damage "The table of seconds is not in order: times of the past lead to wrong states." NODE;
    HorizonBeyond "horizon-beyond" Damage "A volume's horizon lies in its future." NODE;
    PinsWrong "pins-wrong" Damage "The pins of a volume are not those that snapshots, sessions and restores hold." REPAIR;
    SnapshotUnpinned "snapshot-unpinned" Damage "A snapshot, session or restore holds no pin: history may drop what it shows." NODE;
    HolderStray "holder-stray" Untidy "A pin is held by a snapshot, session or restore that is not there." HARMLESS;
    ReceiptStray "receipt-stray" Untidy "Receipts of a session that is not there." REPAIR;
    ReceiptBeyond "receipt-beyond" Damage "A receipt of an operation that its session has not sent, or needs no more." NODE;
    RangeStray "range-stray" Untidy "Inode numbers are reserved for a session that is not there." REPAIR;
    RangeWrong "range-wrong" Damage "Inode numbers are reserved twice, or were not given yet." NODE;
    ReapAsleep "reap-asleep" Untidy "Rows await removal and nobody removes them." REPAIR;
    RestoreWrong "restore-wrong" Damage "A restore under way has lost its copy." "end it: restart the cell, which gives it up, and restore again";
    BlobRowMissing "blob-row-missing" Damage "Content is named that the site does not have." UPLOAD;
    BlobForeign "blob-foreign" Damage "Content is named by a volume that may not read it." UPLOAD;
    BlobShort "blob-short" Damage "A file shows more of a blob than there is." UPLOAD;
    BlobDigest "blob-digest" Damage "A blob's row is that of another digest." UPLOAD;
    BlobCondemned "blob-condemned" Damage "Content that is named is about to be deleted." "pause garbage collection (`sitefs gc pause`), and report a bug";
    BlobDamaged "blob-damaged" Damage "Content is known to be damaged or missing." UPLOAD;
    BlobRowWrong "blob-row-wrong" Damage "A blob's row contradicts itself or the counters." NODE;
    HotMissing "hot-missing" Damage "The cell should hold the bytes of a blob and does not." UPLOAD;
    HotWrong "hot-wrong" Damage "The bytes of a blob that the cell holds are not those of its digest." UPLOAD;
    HotStray "hot-stray" Untidy "The cell holds bytes that no blob needs." REPAIR;
    ListMissing "list-missing" Damage "A blob waits to be drained or verified and is not on the list." REPAIR;
    ListStray "list-stray" Untidy "A list names a blob that does not wait." REPAIR;
    UploadInUse "upload-in-use" Damage "An upload counts as unfinished though its content is in use: it could be deleted." "pause garbage collection (`sitefs gc pause`), and report a bug";
    DoomedInUse "doomed-in-use" Damage "An object is to be deleted though its content is in use." "pause garbage collection (`sitefs gc pause`), and report a bug";
    ObjectMissing "object-missing" Damage "The object store does not have the content of files." UPLOAD;
    ObjectUnused "object-unused" Untidy "A blob that nothing names has no object." REPAIR;
    ObjectSize "object-size" Damage "An object has another length than its blob." UPLOAD;
    ObjectWrong "object-wrong" Damage "The bytes of an object are not those of its digest." UPLOAD;
    LogDamaged "log-damaged" Damage "The log cannot be read to its end." NODE;
}

/// Where a finding is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    /// A volume, or the cell, as a whole.
    Whole,
    /// An inode.
    Inode(InodeId),
    /// A name in a directory.
    Entry(InodeId, Name),
}

/// One thing that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What kind of thing.
    pub kind: FindingKind,
    /// The volume, if it is of one.
    pub volume: Option<VolumeId>,
    /// Where in the volume.
    pub place: Place,
    /// The path, as far as one leads there.
    pub path: Option<String>,
    /// The facts.
    pub what: String,
    /// The blob, if it is about one.
    pub blob: Option<(SiteId, Digest, Generation)>,
    /// What would put it right, if that is safe.
    pub repair: Option<Repair>,
    /// Only counts if a path leads there: a restore in the making may leave such things.
    pub(super) if_reachable: bool,
}

impl Finding {
    /// A finding of the cell as a whole.
    pub fn new(kind: FindingKind, what: impl Into<String>) -> Self {
        Self {
            kind,
            volume: None,
            place: Place::Whole,
            path: None,
            what: what.into(),
            blob: None,
            repair: None,
            if_reachable: false,
        }
    }

    /// Says in which volume.
    #[must_use]
    pub fn of(self, volume: VolumeId) -> Self {
        Self { volume: Some(volume), ..self }
    }

    /// Says where in the volume.
    #[must_use]
    pub fn at(self, place: Place) -> Self {
        Self { place, ..self }
    }

    /// Says at which inode.
    #[must_use]
    pub fn ino(self, ino: InodeId) -> Self {
        self.at(Place::Inode(ino))
    }

    /// Says of which blob.
    #[must_use]
    pub fn blob(self, site: SiteId, digest: Digest, generation: Generation) -> Self {
        Self { blob: Some((site, digest, generation)), ..self }
    }

    /// Says what puts it right.
    #[must_use]
    pub fn repair(self, repair: Repair) -> Self {
        Self { repair: Some(repair), ..self }
    }

    pub(super) fn if_reachable(self) -> Self {
        Self { if_reachable: true, ..self }
    }
}
