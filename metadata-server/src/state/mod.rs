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
pub mod check;
mod checksum;
mod command;
mod commit;
mod content;
mod gc;
mod growth;
mod history;
mod horizon;
mod keys;
mod layout;
mod mark;
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
mod reads;
mod reap;
mod rename;
mod repair;
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
mod view;
mod volume;
mod xattr;

pub use apply::apply;
pub use asof::{AsOf, as_of};
pub use checksum::checksum;
pub use command::{
    Applied, Command, CommandBody, CrowdedChunk, Joined, MergeStep, Reply, Restore, RestoreEnd, RestoreState,
    VolumeLimits,
};
pub use gc::{GC_SLICE, GcBlob, GcDone, GcInfo, GcStep, gc_info};
pub use growth::growth_bound;
pub use history::{Life, keep, life_of};
pub use horizon::horizon_is_due;
pub use mark::{
    BlobInfo, Doomed, Kept, NAMING, Page, Standing, Why, blobs_from, doomed, drawn, is_named, mark_of, named,
    next_site, site_blobs, uploads_expire, volumes_by_site,
};
pub use memory::MemoryView;
pub use merge::chunk_layout;
pub use moments::seq_at;
pub use places::{
    BlobPlace, HotBlob, UnverifiedBlob, UploadSlot, hot_blobs, hot_bytes, locate, tails, unverified,
    upload_slot,
};
pub use query::{SessionInfo, events_since, is_answered, query, session_info, sessions};
pub use reap::volumes_to_reap;
pub use repair::Repair;
pub use restore::{RestoreJob, restores};
pub use retention::{Retention, retention};
pub use rows::Mark;
pub use settings::{history_bytes, time_of};
pub use shorten::{Cuts, cuts, must_be_cut};
pub use snapshots::{SnapshotInfo, snapshots};
pub use view::{Family, Read, Row, View};
pub use volume::{
    GroupInfo, VolumeInfo, group_info, last_at, volume_by_name, volume_info, volumes, volumes_after,
};
