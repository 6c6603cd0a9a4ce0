//! Blob states: granted, present, verified, drained (DESIGN D32 and D33).

use super::{
    Family, content,
    gc::{self, GcBlob},
    keys,
    mutation::{Done, Mutation},
    reads::Node,
    rows::{self, BlobRow, BlobState, DrainRow, HotRow, Loc, TailRow, UnverifiedRow, UploadRow},
    scope::Scope,
    stop::{Step, require},
};
use sitefs_base::{
    Digest, Errno, Generation, Result, SiteId, VolumeId,
    limits::{CHUNK_SIZE, COMMIT_CHUNKS_MAX},
    op::{BlobWanted, Extra, Grant, Location},
};

/// The digest of bytes that came without one: the one place of `state` that hashes.
pub(super) fn digest_of(bytes: &[u8]) -> Digest {
    sitefs_blobstore::hash(bytes)
}

fn fetch(scope: &Scope, site: SiteId, digest: &Digest) -> Step<Option<BlobRow>> {
    let row: Option<BlobRow> = rows::fetch(&scope.rows, Family::Blob, &keys::blob(site, digest))?;
    // Only a collision of the first 256 bits could bring this about.
    require(row.as_ref().is_none_or(|row| row.rest == digest.rest()), Errno::EIO)?;
    Ok(row)
}

impl BlobRow {
    /// Whether its bytes are where they should be, as far as the cell knows.
    fn is_sound(&self) -> bool {
        matches!(self.state, BlobState::Present | BlobState::Condemned)
    }

    /// Whether rows may name it and readers may try to read it.
    pub(super) fn is_readable(&self) -> bool {
        self.is_sound() || self.state == BlobState::Damaged
    }
}

/// With [`reference_again`] the only way to a digest in an inode or chunk row (DESIGN D6): checks that its object is there
/// and that this volume may name it, and notes the reference. `len` bytes of the blob are used;
/// `upload` is the generation under which this client uploaded it. Refuses with `EAGAIN` where the
/// client has to ask for a grant again.
pub(super) fn reference(
    m: &mut Mutation,
    node: &Node,
    digest: &Digest,
    len: u64,
    upload: Option<Generation>,
) -> Step<()> {
    let site = m.volume.site;
    let granted = match upload {
        Some(generation) => granted(m, site, digest, generation)?,
        None => None,
    };
    let verified = granted.as_ref().is_some_and(|(_, upload)| upload.verified);
    let row = match fetch(m.scope, site, digest)? {
        // Bytes that nobody has verified give way to verified ones, damaged ones to any that are proven
        // (see `UploadSlot::contested`).
        Some(row) if row.is_sound() && (row.verified || !verified) => {
            let own = row.vols.contains(&m.id) && (row.verified || upload == Some(row.generation));
            require(verified || own || content::names(m, node, digest)?, Errno::EAGAIN)?;
            row
        }
        other => accept(m, site, digest, other, granted)?,
    };
    require(len <= u64::from(row.len), Errno::EINVAL)?;
    note(m, site, digest, row)
}

/// References a blob that a row of this volume's past names: history keeps its bytes. Like
/// [`reference`], this is for rows that are written now (DESIGN D6); `EIO` if the blob is gone all the
/// same.
pub(super) fn reference_again(m: &mut Mutation, digest: &Digest, len: u64) -> Step<()> {
    let site = m.volume.site;
    let row = fetch(m.scope, site, digest)?.filter(|row| row.is_readable() && row.vols.contains(&m.id));
    let row = row.ok_or(Errno::EIO)?;
    require(len <= u64::from(row.len), Errno::EIO)?;
    note(m, site, digest, row)
}

/// [`reference`] for a blob that a row of this volume names now: it was checked then.
pub(super) fn name_again(m: &mut Mutation, digest: &Digest) -> Step<()> {
    let site = m.volume.site;
    let row = fetch(m.scope, site, digest)?.filter(BlobRow::is_readable).ok_or(Errno::EIO)?;
    note(m, site, digest, row)
}

/// The upload that was granted to this volume under `generation`, if it was for this blob.
fn granted(
    m: &Mutation,
    site: SiteId,
    digest: &Digest,
    generation: Generation,
) -> Step<Option<(Generation, UploadRow)>> {
    let row: Option<UploadRow> = rows::fetch(&m.scope.rows, Family::Blob, &keys::upload(site, generation))?;
    let own = row.filter(|row| row.digest == *digest && row.volume == m.id);
    // An upload from before a restore may have been given up after the backup: its deletion may come late.
    let current = m.scope.require_group()?.incarnation == generation.incarnation;
    Ok(own.filter(|_| current).map(|row| (generation, row)))
}

/// UPLOADING becomes PRESENT; an older object has to be deleted, or goes on being deleted.
fn accept(
    m: &mut Mutation,
    site: SiteId,
    digest: &Digest,
    old: Option<BlobRow>,
    granted: Option<(Generation, UploadRow)>,
) -> Step<BlobRow> {
    let (generation, upload) = granted.ok_or(Errno::EAGAIN)?;
    let vols = replace(m.scope, site, digest, old)?;
    m.scope.rows.delete(Family::Blob, &keys::upload(site, generation));
    if !upload.verified {
        let unverified = UnverifiedRow { digest: *digest, len: upload.len };
        m.scope.put(Family::Meta, &keys::unverified(site, generation), &unverified)?;
    }
    let row = new_row(m.scope, digest, generation, (upload.len, Loc::Object), vols)?;
    Ok(BlobRow { verified: upload.verified, ..row })
}

fn new_row(
    scope: &Scope,
    digest: &Digest,
    generation: Generation,
    (len, loc): (u32, Loc),
    vols: Vec<VolumeId>,
) -> Step<BlobRow> {
    Ok(BlobRow {
        rest: digest.rest(),
        state: BlobState::Present,
        generation,
        len,
        loc,
        verified: loc == Loc::Hot,
        last_ref: scope.mark()?,
        vols,
        tail: false,
    })
}

/// Stores a row that this volume references from now on. A blob that waited to be merged has
/// another use now, and is drained.
fn note(m: &mut Mutation, site: SiteId, digest: &Digest, mut row: BlobRow) -> Step<()> {
    if std::mem::take(&mut row.tail) && row.loc == Loc::Hot {
        unlist(m.scope, site, row.generation);
        list(m.scope, site, digest, &row)?;
    }
    save(m, site, digest, row)
}

fn save(m: &mut Mutation, site: SiteId, digest: &Digest, mut row: BlobRow) -> Step<()> {
    if row.state != BlobState::Present {
        spare(m.scope, site, row.generation);
    }
    if row.state == BlobState::Condemned {
        row.state = BlobState::Present;
    }
    row.last_ref = m.scope.mark()?;
    if let Err(place) = row.vols.binary_search(&m.id) {
        row.vols.insert(place, m.id);
    }
    m.scope.put(Family::Blob, &keys::blob(site, digest), &row)?;
    Ok(())
}

/// It is not condemned any more.
fn spare(scope: &mut Scope, site: SiteId, generation: Generation) {
    scope.rows.delete(Family::Meta, &keys::condemned(site, generation));
}

/// It is given up: it waits for nothing any more.
pub(super) fn forget_lists(scope: &mut Scope, site: SiteId, generation: Generation) {
    unlist(scope, site, generation);
    spare(scope, site, generation);
    scope.rows.delete(Family::Meta, &keys::unverified(site, generation));
}

/// Puts a hot blob on the list that it belongs on.
fn list(scope: &mut Scope, site: SiteId, digest: &Digest, row: &BlobRow) -> Result<()> {
    let (digest, len, since) = (*digest, row.len, scope.at);
    if row.tail {
        scope.put(Family::Meta, &keys::tail(site, row.generation), &TailRow { digest, len, since })
    } else {
        scope.put(Family::Meta, &keys::drain(site, row.generation), &DrainRow { digest, len })
    }
}

fn unlist(scope: &mut Scope, site: SiteId, generation: Generation) {
    scope.rows.delete(Family::Meta, &keys::tail(site, generation));
    scope.rows.delete(Family::Meta, &keys::drain(site, generation));
}

/// A merge has put another blob in the place of this one. If it was there for that only, nobody
/// drains it; it stays readable for those who have the old layout.
pub(super) fn superseded(m: &mut Mutation, digest: &Digest) -> Step<()> {
    let site = m.volume.site;
    if let Some(row) = fetch(m.scope, site, digest)?.filter(|row| row.tail && row.loc == Loc::Hot) {
        unlist(m.scope, site, row.generation);
    }
    Ok(())
}

/// The object of a row that is replaced has to be deleted. Returns the volumes that committed it.
fn replace(scope: &mut Scope, site: SiteId, digest: &Digest, old: Option<BlobRow>) -> Result<Vec<VolumeId>> {
    let Some(old) = old else {
        return Ok(Vec::new());
    };
    forget_lists(scope, site, old.generation);
    match old.loc {
        Loc::Hot => scope.rows.delete(Family::Hot, &keys::hot(site, old.generation)),
        Loc::Object => gc::doom(scope, site, &GcBlob { digest: *digest, generation: old.generation })?,
    }
    Ok(old.vols)
}

/// What becomes of a hot blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// It becomes an object.
    Drained,
    /// It will be merged with its neighbours.
    Merged,
}

/// References a blob whose bytes came with the command. They are dropped if the site has the blob
/// already; otherwise the cell keeps them, in place of an object that is damaged or that nobody has verified.
pub(super) fn store_hot(m: &mut Mutation, digest: &Digest, bytes: &[u8], fate: Fate) -> Step<()> {
    let site = m.volume.site;
    match fetch(m.scope, site, digest)? {
        Some(row) if row.is_sound() && row.verified => {
            require(row.len as usize == bytes.len(), Errno::EINVAL)?;
            note(m, site, digest, row)
        }
        old => {
            let vols = replace(m.scope, site, digest, old)?;
            let generation = m.scope.draw_generation()?;
            m.scope.put(Family::Hot, &keys::hot(site, generation), &HotRow { digest: *digest, bytes })?;
            let len = u32::try_from(bytes.len()).map_err(|_| Errno::EINVAL)?;
            let row = new_row(m.scope, digest, generation, (len, Loc::Hot), vols)?;
            let row = BlobRow { tail: fate == Fate::Merged, ..row };
            list(m.scope, site, digest, &row)?;
            save(m, site, digest, row)
        }
    }
}

/// Draws a generation for each blob that this volume cannot name without an upload.
pub(super) fn grant(m: &mut Mutation, blobs: &[BlobWanted]) -> Step<Done> {
    require(blobs.len() <= COMMIT_CHUNKS_MAX, Errno::EINVAL)?;
    let sizes_fit = blobs.iter().all(|blob| (1..=CHUNK_SIZE).contains(&u64::from(blob.len)));
    require(sizes_fit, Errno::EINVAL)?;
    let (site, volume) = (m.volume.site, m.id);
    let mut grants = Vec::with_capacity(blobs.len());
    for wanted in blobs {
        grants.push(grant_one(m.scope, site, volume, wanted)?);
    }
    Ok(Done { ino: None, extra: Extra::Grants(grants) })
}

pub(super) fn grant_one(
    scope: &mut Scope,
    site: SiteId,
    volume: VolumeId,
    wanted: &BlobWanted,
) -> Step<Grant> {
    let has = fetch(scope, site, &wanted.digest)?.is_some_and(|row| {
        row.state == BlobState::Present && row.verified && row.len == wanted.len && row.vols.contains(&volume)
    });
    if has {
        return Ok(Grant::Have);
    }
    let generation = scope.draw_generation()?;
    let BlobWanted { digest, len } = *wanted;
    let row = UploadRow { digest, len, granted_at: scope.at, volume, verified: false };
    scope.put(Family::Blob, &keys::upload(site, generation), &row)?;
    Ok(Grant::Upload { generation, target: Location::Cell })
}

/// The row of a blob, if it still has this generation.
pub(super) fn of_generation(
    scope: &Scope,
    site: SiteId,
    digest: &Digest,
    generation: Generation,
) -> Step<Option<BlobRow>> {
    Ok(fetch(scope, site, digest)?.filter(|row| row.generation == generation))
}

/// The object store has the bytes of a hot blob now.
pub(super) fn drained(scope: &mut Scope, site: SiteId, digest: &Digest, generation: Generation) -> Step<()> {
    match of_generation(scope, site, digest, generation)? {
        Some(row) if row.loc == Loc::Hot && row.is_sound() => {
            let row = BlobRow { loc: Loc::Object, tail: false, ..row };
            scope.put(Family::Blob, &keys::blob(site, digest), &row)?;
            unlist(scope, site, generation);
            scope.rows.delete(Family::Hot, &keys::hot(site, generation));
        }
        Some(_) => {}
        // It was replaced or given up while it was written.
        None => gc::doom(scope, site, &GcBlob { digest: *digest, generation })?,
    }
    Ok(())
}

/// The cell has read an uploaded object and found the right bytes, before or after its commit.
pub(super) fn verified(scope: &mut Scope, site: SiteId, digest: &Digest, generation: Generation) -> Step<()> {
    let key = keys::upload(site, generation);
    let upload: Option<UploadRow> = rows::fetch(&scope.rows, Family::Blob, &key)?;
    if let Some(upload) = upload.filter(|upload| upload.digest == *digest) {
        scope.put(Family::Blob, &key, &UploadRow { verified: true, ..upload })?;
    }
    // What the cell holds itself does not come back.
    let is_news = |row: &BlobRow| !row.verified && row.loc == Loc::Object;
    if let Some(row) = of_generation(scope, site, digest, generation)?.filter(is_news) {
        let state = if row.state == BlobState::Damaged { BlobState::Present } else { row.state };
        let row = BlobRow { verified: true, state, ..row };
        scope.put(Family::Blob, &keys::blob(site, digest), &row)?;
        scope.rows.delete(Family::Meta, &keys::unverified(site, generation));
        if row.state == BlobState::Present {
            spare(scope, site, generation);
        }
    }
    Ok(())
}

/// The cell has read a blob, and its bytes were wrong or not there (DESIGN D33): from now on the site
/// does not have it, so that the next who writes this content is asked for the bytes.
pub(super) fn damaged(scope: &mut Scope, site: SiteId, digest: &Digest, generation: Generation) -> Step<()> {
    if let Some(row) = of_generation(scope, site, digest, generation)?.filter(BlobRow::is_sound) {
        unlist(scope, site, generation);
        scope.rows.delete(Family::Meta, &keys::unverified(site, generation));
        let row = BlobRow { state: BlobState::Damaged, verified: false, ..row };
        scope.put(Family::Blob, &keys::blob(site, digest), &row)?;
    }
    Ok(())
}
