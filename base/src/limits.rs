//! The limits of the design, in one place, with their units.

use std::time::Duration;

/// Content up to this many bytes stands in the inode row (DESIGN D31).
pub const INLINE_MAX: usize = 512;
/// Content up to this many bytes travels in the commit itself (DESIGN D31).
pub const HOT_MAX: usize = 64 * 1024;
/// The size of a chunk of a file, and the largest blob, in bytes.
pub const CHUNK_SIZE: u64 = 4 * 1024 * 1024;
/// The largest file, in bytes (DESIGN D6).
pub const FILE_MAX: u64 = 16 << 40;
/// Extents that an inode row may hold; more go to chunk rows (DESIGN D1).
pub const INODE_EXTENTS_MAX: usize = 4;
/// Extents in one chunk row (DESIGN D5).
pub const CHUNK_EXTENTS_MAX: usize = 128;
/// Extents of a chunk above which the leader merges them (DESIGN D5).
pub const MERGE_ABOVE: usize = 32;
/// Extents that appends and holes may bring a chunk to while merging is behind (DESIGN D5).
pub const CHUNK_EXTENTS_BEHIND: usize = 1024;
/// Changed chunks in one log entry (DESIGN D6).
pub const COMMIT_CHUNKS_MAX: usize = 1024;
/// Names of one inode (DESIGN D6).
pub const LINKS_MAX: u32 = 65_000;
/// The longest target of a symbolic link, in bytes (PATH_MAX less its NUL).
pub const SYMLINK_MAX: usize = 4095;
/// The longest name of an extended attribute, in bytes.
pub const XATTR_NAME_MAX: usize = 255;
/// Names and values of all extended attributes of one inode, in bytes (DESIGN D6).
pub const XATTRS_MAX: usize = 64 * 1024;
/// Inode numbers that a session receives at a time.
pub const INODE_RANGE: u32 = 1024;
/// Replies that the state keeps for one session (DESIGN D12).
pub const REPLY_WINDOW: usize = 1024;
/// Operations of one session that may be unanswered (DESIGN D37).
pub const SESSION_OPS_MAX: usize = 64;
/// Payload of one log entry, in bytes (DESIGN D10).
pub const ENTRY_PAYLOAD_MAX: usize = 256 * 1024;
/// Entries of a directory in one answer.
pub const LISTING_PAGE: u32 = 1000;
/// How long a mount may answer from its caches without hearing from the cell (DESIGN D20).
pub const LEASE: Duration = Duration::from_secs(5);
/// How long a metadata operation may take (DESIGN D27).
pub const METADATA_DEADLINE: Duration = Duration::from_secs(5);
/// How long a close may wait for the cell (DESIGN D15).
pub const CLOSE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a transfer of content may take (DESIGN D27).
pub const CONTENT_DEADLINE: Duration = Duration::from_secs(30);
/// A session that was silent for so long is forgotten (DESIGN D12).
pub const SESSION_EXPIRY: Duration = Duration::from_secs(24 * 3600);
/// How long every second of the past stays readable (DESIGN D6).
pub const HISTORY_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Seqs of one volume that may be pinned, and snapshots that it may have.
pub const PINS_MAX: usize = 512;
/// Ranges that one session may have locked.
pub const LOCKS_MAX: usize = 8192;
/// Ranges that all sessions of a volume may have locked.
pub const VOLUME_LOCKS_MAX: usize = 65_536;
/// Locks that one session may wait for.
pub const LOCK_WAITERS_MAX: usize = 1024;
/// A session without a stream for so long loses its locks; a cell that starts waits so long for sessions
/// from before to say what they have locked (DESIGN D29).
pub const LOCK_ABSENCE: Duration = Duration::from_secs(10);
