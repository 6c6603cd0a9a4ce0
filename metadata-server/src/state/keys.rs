//! The keys of rows: byte order is the order in which rows are read (`docs/FORMATS.md`).

use super::Family;
use sitefs_base::{Digest, Generation, InodeId, Name, OpId, Seq, SessionId, SiteId, SnapshotName, VolumeId};

/// The one row of `m` with the cell's name, group and incarnation.
pub(super) const GROUP: &[u8] = b"G";
/// The one row of `m` with the counters of the group.
pub(super) const COUNTERS: &[u8] = b"C";
/// The one row of `m` with what operators chose about the cell.
pub(super) const CELL: &[u8] = b"E";
/// The one row of `m` with the version that the cell was raised to.
pub(super) const VERSION: &[u8] = b"Y";
/// The one row of `m` that says which backups are kept.
pub(super) const BACKUPS: &[u8] = b"B";
/// The prefix of all volume rows.
pub(super) const VOLUMES: &[u8] = b"V";
/// The prefix of all session rows.
pub(super) const SESSIONS: &[u8] = b"S";
/// The prefix of the list of blobs that nobody has verified yet.
pub(super) const UNVERIFIED: &[u8] = b"Q";

/// The prefix of the list of volumes with rows that await removal.
pub(super) const REAPS: &[u8] = b"Z";
/// The prefix of all restores under way.
pub(super) const RESTORES: &[u8] = b"J";
/// The prefix of the list of hot blobs that wait to be drained.
pub(super) const DRAIN: &[u8] = b"H";
/// The prefix of the list of hot blobs that wait to be merged.
pub(super) const TAILS: &[u8] = b"L";

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

pub(super) fn dentries(volume: VolumeId, parent: InodeId) -> Vec<u8> {
    join(&[&volume.to_key(), &parent.to_key()])
}

pub(super) fn dentry(volume: VolumeId, parent: InodeId, name: &Name) -> Vec<u8> {
    join(&[&volume.to_key(), &parent.to_key(), name.as_bytes()])
}

pub(super) fn inode(volume: VolumeId, ino: InodeId) -> Vec<u8> {
    join(&[&volume.to_key(), &ino.to_key()])
}

pub(super) fn chunks(volume: VolumeId, ino: InodeId) -> Vec<u8> {
    inode(volume, ino)
}

pub(super) fn chunk(volume: VolumeId, ino: InodeId, chunk: u32) -> Vec<u8> {
    join(&[&volume.to_key(), &ino.to_key(), &chunk.to_be_bytes()])
}

pub(super) fn directory(volume: VolumeId, ino: InodeId) -> Vec<u8> {
    join(&[&volume.to_key(), b"A", &ino.to_key()])
}

pub(super) fn xattrs(volume: VolumeId, ino: InodeId) -> Vec<u8> {
    join(&[&volume.to_key(), b"X", &ino.to_key()])
}

pub(super) fn xattr(volume: VolumeId, ino: InodeId, name: &[u8]) -> Vec<u8> {
    join(&[&volume.to_key(), b"X", &ino.to_key(), name])
}

pub(super) fn seconds(volume: VolumeId) -> Vec<u8> {
    join(&[&volume.to_key(), b"T"])
}

/// The second of a key that [`second`] made.
pub(super) fn secs_of(key: &[u8]) -> Option<i64> {
    part(key, 9).map(|secs| (u64::from_be_bytes(secs) ^ (1 << 63)).cast_signed())
}

/// Seconds before 1970 sort below later ones: the sign bit is flipped.
pub(super) fn second(volume: VolumeId, secs: i64) -> Vec<u8> {
    let ordered = secs.cast_unsigned() ^ (1 << 63);
    join(&[&volume.to_key(), b"T", &ordered.to_be_bytes()])
}

pub(super) fn orphans(volume: VolumeId) -> Vec<u8> {
    join(&[&volume.to_key(), b"O"])
}

pub(super) fn orphan(volume: VolumeId, ino: InodeId) -> Vec<u8> {
    join(&[&volume.to_key(), b"O", &ino.to_key()])
}

pub(super) fn feeds(volume: VolumeId) -> Vec<u8> {
    volume.to_key().to_vec()
}

pub(super) fn feed(volume: VolumeId, seq: Seq) -> Vec<u8> {
    join(&[&volume.to_key(), &seq.to_key()])
}

pub(super) fn blob(site: SiteId, digest: &Digest) -> Vec<u8> {
    join(&[&site.to_key(), b"B", &digest.key_half()])
}

pub(super) fn upload(site: SiteId, generation: Generation) -> Vec<u8> {
    join(&[&site.to_key(), b"U", &generation.to_key()])
}

pub(super) fn doomed(site: SiteId, generation: Generation) -> Vec<u8> {
    join(&[&site.to_key(), b"D", &generation.to_key()])
}

pub(super) fn hot(site: SiteId, generation: Generation) -> Vec<u8> {
    join(&[&site.to_key(), &generation.to_key()])
}

pub(super) fn unverified(site: SiteId, generation: Generation) -> Vec<u8> {
    join(&[UNVERIFIED, &site.to_key(), &generation.to_key()])
}

pub(super) fn drain(site: SiteId, generation: Generation) -> Vec<u8> {
    join(&[DRAIN, &site.to_key(), &generation.to_key()])
}

/// Generations first: the oldest of all sites come first.
pub(super) fn tail(site: SiteId, generation: Generation) -> Vec<u8> {
    join(&[TAILS, &generation.to_key(), &site.to_key()])
}

pub(super) fn name(text: &str) -> Vec<u8> {
    join(&[b"N", text.as_bytes()])
}

pub(super) fn volume(volume: VolumeId) -> Vec<u8> {
    join(&[VOLUMES, &volume.to_key()])
}

/// How fast a volume may be changed.
pub(super) fn rates(volume: VolumeId) -> Vec<u8> {
    join(&[b"I", &volume.to_key()])
}

pub(super) fn session(volume: VolumeId, session: SessionId) -> Vec<u8> {
    join(&[SESSIONS, &volume.to_key(), &session.to_key()])
}

pub(super) fn receipts(volume: VolumeId, session: SessionId) -> Vec<u8> {
    join(&[b"O", &volume.to_key(), &session.to_key()])
}

pub(super) fn receipt(volume: VolumeId, session: SessionId, op: OpId) -> Vec<u8> {
    join(&[b"O", &volume.to_key(), &session.to_key(), &op.to_key()])
}

pub(super) fn ranges(volume: VolumeId, session: SessionId) -> Vec<u8> {
    join(&[b"R", &volume.to_key(), &session.to_key()])
}

/// Keyed by the last number of the range, so that a seek for a number finds the range that may hold it.
pub(super) fn range(volume: VolumeId, session: SessionId, last: InodeId) -> Vec<u8> {
    join(&[b"R", &volume.to_key(), &session.to_key(), &last.to_key()])
}

pub(super) fn reap(volume: VolumeId) -> Vec<u8> {
    join(&[REAPS, &volume.to_key()])
}

pub(super) fn restores(volume: VolumeId) -> Vec<u8> {
    join(&[RESTORES, &volume.to_key()])
}

/// A restore has the number of the root of its copy.
pub(super) fn restore(volume: VolumeId, job: InodeId) -> Vec<u8> {
    join(&[RESTORES, &volume.to_key(), &job.to_key()])
}

/// All working rows of restores in a volume.
pub(super) fn all_work(volume: VolumeId) -> Vec<u8> {
    join(&[b"K", &volume.to_key()])
}

/// The working rows of a restore.
pub(super) fn work(volume: VolumeId, job: InodeId) -> Vec<u8> {
    join(&[b"K", &volume.to_key(), &job.to_key()])
}

/// Directories that a restore has made and not filled yet, by their number in the past.
pub(super) fn unfilled(volume: VolumeId, job: InodeId) -> Vec<u8> {
    join(&[b"K", &volume.to_key(), &job.to_key(), b"D"])
}

pub(super) fn unfilled_one(volume: VolumeId, job: InodeId, source: InodeId) -> Vec<u8> {
    join(&[b"K", &volume.to_key(), &job.to_key(), b"D", &source.to_key()])
}

/// The copy of a file with several names, by its number in the past.
pub(super) fn linked(volume: VolumeId, job: InodeId, source: InodeId) -> Vec<u8> {
    join(&[b"K", &volume.to_key(), &job.to_key(), b"L", &source.to_key()])
}

/// All sessions of a volume.
pub(super) fn sessions(volume: VolumeId) -> Vec<u8> {
    join(&[SESSIONS, &volume.to_key()])
}

/// The receipts of all sessions of a volume.
pub(super) fn all_receipts(volume: VolumeId) -> Vec<u8> {
    join(&[b"O", &volume.to_key()])
}

/// The ranges of all sessions of a volume.
pub(super) fn all_ranges(volume: VolumeId) -> Vec<u8> {
    join(&[b"R", &volume.to_key()])
}

pub(super) fn snapshots(volume: VolumeId) -> Vec<u8> {
    join(&[b"W", &volume.to_key()])
}

pub(super) fn snapshot(volume: VolumeId, name: &SnapshotName) -> Vec<u8> {
    join(&[b"W", &volume.to_key(), name.as_str().as_bytes()])
}

/// The holders of all pins of a volume.
pub(super) fn all_holders(volume: VolumeId) -> Vec<u8> {
    join(&[b"P", &volume.to_key()])
}

pub(super) fn holders(volume: VolumeId, pin: Seq) -> Vec<u8> {
    join(&[b"P", &volume.to_key(), &pin.to_key()])
}

pub(super) fn holder(volume: VolumeId, pin: Seq, kind: u8, id: &[u8]) -> Vec<u8> {
    join(&[b"P", &volume.to_key(), &pin.to_key(), &[kind], id])
}

/// The key under which a row that stood at `key` until `died` is kept. Names are of any length, so
/// a NUL, which no name contains, ends them.
pub(super) fn died(family: Family, key: &[u8], died: Seq) -> Vec<u8> {
    join(&[&deaths(family, key), &died.to_key()])
}

/// The prefix of all superseded rows that stood at `key`.
pub(super) fn deaths(family: Family, key: &[u8]) -> Vec<u8> {
    join(&[key, if is_named(family, key) { &[0] } else { &[] }])
}

/// The inverse of [`died`], without the seq.
pub(super) fn before_death(family: Family, died: &[u8]) -> Option<&[u8]> {
    let (key, _) = died.split_last_chunk::<8>()?;
    if is_named(family, key) { key.strip_suffix(&[0]) } else { Some(key) }
}

fn is_named(family: Family, key: &[u8]) -> bool {
    family == Family::Dentry || (family == Family::Small && key.get(8) == Some(&b'X'))
}

/// Takes `N` bytes from `key` at `offset`; `None` if it is shorter.
pub(super) fn part<const N: usize>(key: &[u8], offset: usize) -> Option<[u8; N]> {
    key.get(offset..offset + N)?.try_into().ok()
}
