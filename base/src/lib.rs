//! What every sitefs crate shares: identifiers, names, digests, the domain types of the metadata
//! protocol, errors, and the seams through which time, randomness and tasks enter.
//!
//! Nothing here knows gRPC, RocksDB, S3 or FUSE.

mod cell_settings;
mod digest;
mod errno;
mod error;
mod id;
mod identity;
pub mod limits;
pub mod lock;
pub mod metrics;
mod moment;
mod name;
pub mod op;
mod private;
mod rates;
mod seams;
pub mod session;
mod settings;
mod time;
mod tree;
mod units;

pub use cell_settings::{
    BACKUP_EVERY_MIN, BACKUP_KEEP_MAX, BACKUP_PATH_MAX, BackupInfo, BackupPlan, BackupTo, CellChange,
};
pub use digest::Digest;
pub use errno::Errno;
pub use error::{Error, Kind, Result};
pub use id::{Generation, GroupId, Incarnation, InodeId, NodeId, OpId, Seq, SessionId, SiteId, VolumeId};
pub use identity::{Identity, Role};
pub use moment::{Moment, SnapshotName, VolumeView};
pub use name::{Name, SiteName, VolumeName};
pub use private::{make_private_dir, mode_for_others};
pub use rates::Rates;
pub use seams::{Clock, ManualClock, OsRandom, Random, SeededRandom, SystemClock, Tasks};
pub use settings::{
    HistoryLimit, READ_ONLY_REASON_MAX, ServeStale, VolumeAccess, VolumeChange, VolumeSettings, check_reason,
};
pub use time::Time;
pub use tree::{Attr, AttrFlags, Content, Extent, FileKind, Inode};
pub use units::{ByteSize, display_bytes};
