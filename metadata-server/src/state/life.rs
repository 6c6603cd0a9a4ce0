//! Another life of a group: it goes on from a backup, or from one survivor, so that it lacks what was
//! acknowledged since. Nothing of the lives before may match anything of this one (DESIGN D38).
//!
//! These are no commands: they change rows before the first node of the new life starts.

use super::{
    Family, View, cell, keys, reads,
    rows::{self, BlobRow, BlobState, CountersRow, GcRow, GroupRow, Loc, VolumeRow},
    scope::Scope,
    session, volumes_after,
};
use sitefs_base::{Error, Incarnation, InodeId, Result, Seq, SessionId, SiteId, VolumeId};

/// Rows that one step changes at most.
pub(crate) const STEP_ROWS: usize = 1000;
/// By so much seqs and inode numbers jump: more than a cell gives out between a backup and its end.
/// So a content version or a number that a mount remembers means the same file for ever, or none.
const JUMP: u64 = 1 << 40;

/// Where the work goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum LifeStep {
    /// The sessions of the lives before.
    Sessions,
    /// Seqs and inode numbers of the volumes behind this one.
    Volumes(Option<VolumeId>),
    /// Uploads and blobs of a site, behind a key of the family of blobs.
    Blobs(SiteId, Vec<u8>),
    /// All is done.
    Done,
}

/// Raises the incarnation. The steps from [`LifeStep::Sessions`] on do the rest.
///
/// The life before may go on beside this one: in a drill, or on a node that somebody forgot. So the objects stay
/// its own, and nothing is deleted here and no backup made by itself until somebody says that it has ended.
pub(crate) fn begin_life(view: &mut dyn View, incarnation: Incarnation) -> Result<()> {
    let row: Option<GroupRow> = rows::fetch(&*view, Family::Meta, keys::GROUP)?;
    let row = row.ok_or_else(|| Error::corrupt("the state has no group"))?;
    if incarnation <= row.incarnation {
        let (new, old) = (incarnation.get(), row.incarnation.get());
        return Err(Error::invalid(format!("incarnation {new} does not come after {old}")));
    }
    view.put(Family::Meta, keys::GROUP, rows::encode(&GroupRow { incarnation, ..row })?);
    cell::hold_backups(view)?;
    if let Some(gc) = rows::fetch::<GcRow>(&*view, Family::Meta, keys::GC)? {
        view.put(Family::Meta, keys::GC, rows::encode(&GcRow { owner: None, ..gc })?);
    }
    Ok(())
}

/// Does one step; what comes next.
pub(crate) fn life_step(view: &mut dyn View, step: LifeStep) -> Result<LifeStep> {
    match step {
        LifeStep::Sessions => forget_sessions(view),
        LifeStep::Volumes(after) => move_volumes(view, after),
        LifeStep::Blobs(site, from) => forget_uploads(view, site, &from),
        LifeStep::Done => Ok(LifeStep::Done),
    }
}

/// Their operations are never executed again, and their moments of the past are not pinned any more.
fn forget_sessions(view: &mut dyn View) -> Result<LifeStep> {
    // Each has up to a thousand receipts.
    let Some((key, _)) = view.scan(Family::Meta, keys::SESSIONS, keys::SESSIONS, 1)?.pop() else {
        return Ok(LifeStep::Volumes(None));
    };
    let ids = keys::part(&key, 1).zip(keys::part(&key, 9));
    let (volume, session) = ids.ok_or_else(|| rows::damaged(Family::Meta, &key, "is no key of a session"))?;
    let at = super::last_at(&*view)?;
    let mut scope = Scope::begin(&*view, at)?;
    session::close(&mut scope, VolumeId::from_key(volume), SessionId::from_key(session))?;
    for (family, rows) in scope.rows.into_writes() {
        for (key, value) in rows {
            match value {
                Some(value) => view.put(family, &key, value),
                None => view.delete(family, &key),
            }
        }
    }
    Ok(LifeStep::Sessions)
}

/// The feed of the lives before does not reach to the new seqs: whoever asks for it resyncs.
fn move_volumes(view: &mut dyn View, after: Option<VolumeId>) -> Result<LifeStep> {
    let ids = volumes_after(&*view, after, STEP_ROWS)?;
    for id in &ids {
        let Some(row) = reads::volume(&*view, *id)? else { continue };
        let seq = Seq::new(row.seq.get() + JUMP);
        let next_ino = InodeId::new(row.next_ino.get() + JUMP);
        let row = VolumeRow { seq, next_ino, feed_floor: seq, ..row };
        view.put(Family::Meta, &keys::volume(*id), rows::encode(&row)?);
    }
    Ok(match ids.last() {
        Some(last) => LifeStep::Volumes(Some(*last)),
        None => blobs_of(&*view, SiteId::new(1))?,
    })
}

fn blobs_of(view: &dyn View, site: SiteId) -> Result<LifeStep> {
    let counters: CountersRow = rows::fetch(view, Family::Meta, keys::COUNTERS)?.unwrap_or_default();
    let more = site.get() <= counters.sites;
    Ok(if more { LifeStep::Blobs(site, site.to_key().to_vec()) } else { LifeStep::Done })
}

/// What was granted and not committed is granted anew: another life may delete those objects still. What
/// nothing named may be gone, so its bytes are asked for before something names it again.
fn forget_uploads(view: &mut dyn View, site: SiteId, from: &[u8]) -> Result<LifeStep> {
    let found = view.scan(Family::Blob, &site.to_key(), from, STEP_ROWS)?;
    for (key, value) in &found {
        match keys::part(key, site.to_key().len()) {
            Some([b'U']) => view.delete(Family::Blob, key),
            Some([b'B']) => distrust(view, key, value)?,
            _ => {}
        }
    }
    match found.last() {
        Some((last, _)) => Ok(LifeStep::Blobs(site, reads::after(last))),
        None => blobs_of(&*view, SiteId::new(site.get() + 1)),
    }
}

fn distrust(view: &mut dyn View, key: &[u8], value: &[u8]) -> Result<()> {
    let row: BlobRow = rows::decode(Family::Blob, key, value)?;
    if row.state == BlobState::Condemned && row.loc == Loc::Object {
        let row = BlobRow { state: BlobState::Damaged, verified: false, ..row };
        view.put(Family::Blob, key, rows::encode(&row)?);
    }
    Ok(())
}
