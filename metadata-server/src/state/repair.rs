//! Puts right what a check found, where that is provably safe. Each repair looks again: if what it was for
//! has changed since, it does nothing.

use super::{
    Family, Read, blobs, check,
    gc::{self, GcBlob},
    keys,
    mutation::Mutation,
    reads::{self, Node},
    reap::{self, NO_SESSION},
    rows::{
        self, BlobRow, BlobState, DrainRow, HotRow, Loc, Mark, NameRow, SessionRow, UnverifiedRow, VolumeRow,
    },
    scope::Scope,
    stop::{Step, require},
};
use serde::{Deserialize, Serialize};
use sitefs_base::{
    Digest, Errno, Generation, InodeId, Result, Seq, SessionId, SiteId, VolumeId,
    limits::{LINKS_MAX, REPLY_WINDOW},
    op::{Change, Credit, Event},
};

/// What is to be put right.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Repair {
    /// What a volume uses; only while it is at the seq at which that was counted.
    Usage {
        /// The volume.
        volume: VolumeId,
        /// Its seq.
        seq: Seq,
        /// The bytes that its inodes take.
        bytes: u64,
        /// How many they are.
        inodes: u64,
    },
    /// The link count of a file; only if its row, which every change of a link touches, is still the same.
    Links {
        /// The volume.
        volume: VolumeId,
        /// The file.
        ino: InodeId,
        /// Since when its row holds.
        born: Seq,
        /// How many names it has.
        links: u32,
    },
    /// The same for the subdirectories of a directory.
    Subdirectories {
        /// The volume.
        volume: VolumeId,
        /// The directory.
        ino: InodeId,
        /// Since when the row of its times holds.
        born: Seq,
        /// How many it has.
        subdirs: u32,
    },
    /// The pins of a volume become those that somebody holds.
    Pins {
        /// The volume.
        volume: VolumeId,
    },
    /// Puts a volume on the list of those with rows that await removal.
    Wake {
        /// The volume.
        volume: VolumeId,
    },
    /// Removes a name that leads to no volume.
    Name {
        /// The name.
        name: String,
    },
    /// Gives a volume its name back, if nobody else has it.
    VolumeName {
        /// The volume.
        volume: VolumeId,
    },
    /// Removes up to 1,024 receipts and ranges of a session that is not there.
    Session {
        /// The volume.
        volume: VolumeId,
        /// The session.
        session: SessionId,
    },
    /// Removes bytes that no blob needs.
    HotBytes {
        /// The site.
        site: SiteId,
        /// Their generation.
        generation: Generation,
    },
    /// Puts a blob on the list of those that wait as it does.
    List {
        /// The site.
        site: SiteId,
        /// The blob.
        digest: Digest,
        /// Its generation.
        generation: Generation,
    },
    /// Takes a blob off a list that it does not belong on.
    Unlist {
        /// The key of the entry.
        key: Vec<u8>,
        /// The site.
        site: SiteId,
        /// The blob.
        digest: Digest,
        /// Its generation.
        generation: Generation,
    },
    /// Notes that a blob's bytes are wrong or not there, so that whoever has them stores them again.
    Damaged {
        /// The site.
        site: SiteId,
        /// The blob.
        digest: Digest,
        /// Its generation.
        generation: Generation,
    },
    /// Forgets a blob without an object that nothing names; only if nothing has named it since that was
    /// found.
    Blob {
        /// The site.
        site: SiteId,
        /// The blob.
        digest: Digest,
        /// Its generation.
        generation: Generation,
        /// How many commands had been executed then.
        commands: u64,
    },
}

impl Repair {
    /// What it does, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Usage { volume, bytes, inodes, .. } => {
                format!(
                    "count {bytes} bytes and {inodes} inodes for {volume}, if it has not changed meanwhile"
                )
            }
            Self::Links { ino, links, .. } => format!("give {ino} the link count {links}"),
            Self::Subdirectories { ino, subdirs, .. } => {
                format!("give {ino} the link count {}", subdirs.saturating_add(2))
            }
            Self::Pins { volume } => {
                format!("pin for {volume} what its snapshots, sessions and restores hold")
            }
            Self::Wake { volume } => format!("have the waiting rows of {volume} removed"),
            Self::Name { name } => format!("forget the name {name}"),
            Self::VolumeName { volume } => format!("give {volume} its name back, if nobody has it"),
            Self::Session { volume, session } => {
                format!("forget receipts and numbers of {session} in {volume}")
            }
            Self::HotBytes { site, generation } => {
                format!("forget the bytes held for {site} as {generation}, which no blob needs")
            }
            Self::List { digest, .. } => format!("put blob {} on its list", digest.short()),
            Self::Unlist { digest, .. } => format!("take blob {} off a list", digest.short()),
            Self::Damaged { digest, .. } => {
                format!(
                    "note that blob {} is damaged, so that the next who has it stores it again",
                    digest.short()
                )
            }
            Self::Blob { digest, .. } => {
                format!("forget blob {}, which nothing names and nobody has", digest.short())
            }
        }
    }
}

/// An event of a volume.
type Heard = Option<(VolumeId, Event)>;

pub(super) fn apply(scope: &mut Scope, repair: &Repair) -> Step<Heard> {
    match repair {
        Repair::Usage { volume, seq, bytes, inodes } => usage(scope, *volume, *seq, (*bytes, *inodes))?,
        Repair::Links { volume, ino, born, links } => {
            require((1..=LINKS_MAX).contains(links), Errno::EINVAL)?;
            return attributes(scope, *volume, *ino, |node| {
                let is_same = node.row.born == *born && !node.is_dir();
                node.row.nlink = *links;
                is_same
            });
        }
        Repair::Subdirectories { volume, ino, born, subdirs } => {
            return attributes(scope, *volume, *ino, |node| match &mut node.dir {
                Some(dir) if dir.born == *born => {
                    dir.nlink = subdirs.saturating_add(2);
                    true
                }
                _ => false,
            });
        }
        Repair::Pins { volume } => pins(scope, *volume)?,
        Repair::Wake { volume } => {
            if reads::volume(&scope.rows, *volume)?.is_some() {
                reap::wake(scope, *volume)?;
            }
        }
        Repair::Name { name } => forget_name(scope, name)?,
        Repair::VolumeName { volume } => name_volume(scope, *volume)?,
        Repair::Session { volume, session } => forget_session(scope, *volume, *session)?,
        Repair::HotBytes { site, generation } => forget_bytes(scope, *site, *generation)?,
        Repair::List { site, digest, generation } => list(scope, *site, digest, *generation)?,
        Repair::Unlist { key, site, digest, generation } => {
            let is_list = key.first().is_some_and(|tag| b"HLQ".contains(tag));
            if is_list && !check::waits(&scope.rows, key, (*site, *digest, *generation))? {
                scope.rows.delete(Family::Meta, key);
            }
        }
        Repair::Damaged { site, digest, generation } => {
            blobs::damaged(scope, *site, digest, *generation)?;
        }
        Repair::Blob { site, digest, generation, commands } => {
            forget_blob(scope, *site, digest, *generation, *commands)?;
        }
    }
    Ok(None)
}

fn usage(scope: &mut Scope, id: VolumeId, seq: Seq, (bytes, inodes): (u64, u64)) -> Result<()> {
    match reads::live(&scope.rows, id)?.filter(|row| row.seq == seq) {
        Some(row) => {
            let row = VolumeRow { bytes_used: bytes, inodes_used: inodes, ..row };
            scope.put(Family::Meta, &keys::volume(id), &row)
        }
        None => Ok(()),
    }
}

/// Changes an inode as a mutation that mounts hear of, if `change` says so.
fn attributes(
    scope: &mut Scope,
    id: VolumeId,
    ino: InodeId,
    change: impl FnOnce(&mut Node) -> bool,
) -> Step<Heard> {
    let Some(row) = reads::live(&scope.rows, id)? else { return Ok(None) };
    let mut m = Mutation::begin(scope, id, row, NO_SESSION);
    let Some(mut node) = m.find(ino)? else { return Ok(None) };
    if !change(&mut node) {
        return Ok(None);
    }
    m.save(&node)?;
    m.changed(Change::Attr(ino));
    Ok(m.finish(Credit::NONE)?.event.map(|event| (id, event)))
}

fn pins(scope: &mut Scope, id: VolumeId) -> Result<()> {
    let Some(mut row) = reads::live(&scope.rows, id)? else { return Ok(()) };
    let mut held = Vec::new();
    for (key, _) in reads::all(&scope.rows, Family::Meta, &keys::all_holders(id))? {
        held.extend(keys::part(&key, 9).map(Seq::from_key));
    }
    held.dedup();
    row.pins = held;
    scope.put(Family::Meta, &keys::volume(id), &row)
}

fn forget_name(scope: &mut Scope, name: &str) -> Result<()> {
    let key = keys::name(name);
    if let Some(NameRow::Volume(id)) = rows::fetch(&scope.rows, Family::Meta, &key)? {
        let live = reads::live(&scope.rows, id)?;
        if live.is_none_or(|row| row.name.to_string() != name) {
            scope.rows.delete(Family::Meta, &key);
        }
    }
    Ok(())
}

fn name_volume(scope: &mut Scope, id: VolumeId) -> Result<()> {
    let Some(row) = reads::live(&scope.rows, id)? else { return Ok(()) };
    let names = [
        (keys::name(row.name.site().as_str()), NameRow::Site(row.site)),
        (keys::name(&row.name.to_string()), NameRow::Volume(id)),
    ];
    for (key, name) in names {
        if scope.rows.get(Family::Meta, &key)?.is_none() {
            scope.put(Family::Meta, &key, &name)?;
        }
    }
    Ok(())
}

fn forget_session(scope: &mut Scope, id: VolumeId, session: SessionId) -> Result<()> {
    let row: Option<SessionRow> = rows::fetch(&scope.rows, Family::Meta, &keys::session(id, session))?;
    if row.is_some() {
        return Ok(());
    }
    for prefix in [keys::receipts(id, session), keys::ranges(id, session)] {
        for (key, _) in scope.rows.scan(Family::Meta, &prefix, &prefix, REPLY_WINDOW)? {
            scope.rows.delete(Family::Meta, &key);
        }
    }
    Ok(())
}

fn forget_bytes(scope: &mut Scope, site: SiteId, generation: Generation) -> Result<()> {
    let key = keys::hot(site, generation);
    let Some(value) = scope.rows.get(Family::Hot, &key)? else { return Ok(()) };
    let digest = rows::decode::<HotRow>(Family::Hot, &key, &value)?.digest;
    let blob = check::blob_row(&scope.rows, site, &digest)?;
    if blob.is_none_or(|row| row.loc != Loc::Hot || row.generation != generation) {
        scope.rows.delete(Family::Hot, &key);
    }
    Ok(())
}

fn of_generation(
    scope: &Scope,
    site: SiteId,
    digest: &Digest,
    generation: Generation,
) -> Result<Option<BlobRow>> {
    Ok(check::blob_row(&scope.rows, site, digest)?.filter(|row| row.generation == generation))
}

fn list(scope: &mut Scope, site: SiteId, digest: &Digest, generation: Generation) -> Result<()> {
    let row = of_generation(scope, site, digest, generation)?;
    let Some(row) = row.filter(|row| row.state == BlobState::Present) else { return Ok(()) };
    let (digest, len) = (*digest, row.len);
    match row.loc {
        Loc::Hot if !row.tail => {
            scope.put(Family::Meta, &keys::drain(site, generation), &DrainRow { digest, len })
        }
        Loc::Object if !row.verified => {
            scope.put(Family::Meta, &keys::unverified(site, generation), &UnverifiedRow { digest, len })
        }
        Loc::Hot | Loc::Object => Ok(()),
    }
}

/// The object goes on the list of those to be deleted, should it turn up late.
fn forget_blob(
    scope: &mut Scope,
    site: SiteId,
    digest: &Digest,
    generation: Generation,
    commands: u64,
) -> Step<()> {
    let now = scope.mark()?;
    let is_unnamed_since = |row: &BlobRow| {
        let Mark { incarnation, command } = row.last_ref;
        row.loc == Loc::Object && incarnation == now.incarnation && command <= commands
    };
    if of_generation(scope, site, digest, generation)?.is_some_and(|row| is_unnamed_since(&row)) {
        scope.rows.delete(Family::Blob, &keys::blob(site, digest));
        blobs::forget_lists(scope, site, generation);
        gc::doom(scope, site, &GcBlob { digest: *digest, generation })?;
    }
    Ok(())
}
