//! The pure state machine: [`apply`] decides mutations, [`query`] answers questions.
//!
//! Nothing here sees a clock, randomness, I/O or async code. The leader stamps the time into the
//! command; rows are read and written through [`View`]. `docs/FORMATS.md` gives the rows.

mod acl;
mod append;
mod apply;
mod asof;
mod attrs;
mod blobs;
mod bounds;
mod cell;
mod checksum;
mod command;
mod commit;
mod content;
mod growth;
mod history;
mod horizon;
mod keys;
mod layout;
mod life;
mod memory;
mod merge;
mod moments;
mod mutation;
mod namespace;
mod overlay;
mod pins;
mod places;
mod query;
mod ranges;
mod rates;
mod reads;
mod reap;
mod rename;
mod restore;
mod retention;
mod rows;
mod scope;
mod session;
mod settings;
mod shorten;
mod snapshots;
mod stop;
mod stored;
#[cfg(test)]
pub(crate) mod tests;
mod version;
mod view;
mod volume;
mod xattr;

pub use apply::apply;
pub use asof::{AsOf, as_of};
pub use cell::{KeptBackups, backup_plan, backups, cell_read_only, oldest_backup};
pub use checksum::checksum;
pub use command::{
    Applied, Command, CommandBody, CrowdedChunk, Joined, MergeStep, Reply, Restore, RestoreEnd, RestoreState,
    VolumeLimits,
};
pub use growth::growth_bound;
pub use history::{Life, keep, life_of};
pub use horizon::horizon_is_due;
pub(crate) use life::{LifeStep, begin_life, life_step};
pub use memory::MemoryView;
pub use merge::chunk_layout;
pub use moments::seq_at;
pub use places::{
    BlobPlace, HotBlob, UnverifiedBlob, UploadSlot, hot_blobs, hot_bytes, locate, tails, unverified,
    upload_slot,
};
pub use query::{SessionInfo, events_since, is_answered, query, session_info, sessions};
pub use rates::rates;
pub use reap::volumes_to_reap;
pub use restore::{RestoreJob, restores};
pub use retention::{Retention, retention};
pub use settings::{history_bytes, time_of};
pub use shorten::{Cuts, cuts, must_be_cut};
pub use snapshots::{SnapshotInfo, snapshots};
pub use version::{Versions, cluster_version};
pub use view::{Family, Read, Row, View};
pub use volume::{
    GroupInfo, VolumeInfo, group_info, last_at, volume_by_name, volume_info, volumes, volumes_after,
};
