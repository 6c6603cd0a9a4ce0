//! The inodes of a volume with everything that has their numbers: attributes, layout, entries.

use super::{
    super::{
        Family, Read, Repair, acl, keys,
        rows::{ChunkRow, DentryRow, DirRow, InodeRow, OrphanRow, VolumeRow, XattrRow},
    },
    Check, Finding, FindingKind as Found, Place,
    content::Layout,
    cursor::{Cursor, decoded},
    dirs::Dirs,
    names::Names,
    references::References,
};
use sitefs_base::{
    Content, FileKind, InodeId, Name, Result, Seq, VolumeId,
    limits::{LINKS_MAX, XATTRS_MAX},
};
use std::collections::BTreeSet;

/// Bits that a mode may have.
const MODE_BITS: u16 = 0o7777;

/// Where the number of an inode stands in keys, of small rows behind a tag.
const AT: usize = 8;
const AT_SMALL: usize = 9;

/// A volume now, or at a seq of its past.
pub(super) struct Tree<'a> {
    pub read: &'a dyn Read,
    pub id: VolumeId,
    pub volume: &'a VolumeRow,
    pub past: Option<Seq>,
    /// Inodes without a name that await removal.
    orphans: Cursor<'a>,
    inodes: Cursor<'a>,
    dirs: Cursor<'a>,
    xattrs: Cursor<'a>,
    chunks: Cursor<'a>,
    entries: Cursor<'a>,
    /// Copies that restores make: roots, which have no name yet.
    copies: BTreeSet<InodeId>,
    /// A file whose chunk rows are being copied.
    unfinished: BTreeSet<InodeId>,
    bytes: u64,
    count: u64,
}

/// What is known of an inode when its rows have been read.
struct Seen {
    ino: InodeId,
    row: Option<InodeRow>,
    /// The row is there and cannot be read: nothing that follows from it is told.
    damaged: bool,
    orphan: bool,
}

impl<'a> Tree<'a> {
    pub fn new(read: &'a dyn Read, id: VolumeId, volume: &'a VolumeRow, past: Option<Seq>) -> Self {
        let own = id.to_key().to_vec();
        let rows = |family, prefix: Vec<u8>| Cursor::new(read, family, prefix);
        Self {
            read,
            id,
            volume,
            past,
            orphans: rows(Family::Small, keys::orphans(id)),
            inodes: rows(Family::Inode, own.clone()),
            dirs: rows(Family::Small, [&own[..], b"A"].concat()),
            xattrs: rows(Family::Small, [&own[..], b"X"].concat()),
            chunks: rows(Family::Chunk, own.clone()),
            entries: rows(Family::Dentry, own),
            copies: BTreeSet::new(),
            unfinished: BTreeSet::new(),
            bytes: 0,
            count: 0,
        }
    }

    pub fn check(mut self, check: &mut Check) -> Result<()> {
        (self.copies, self.unfinished) = super::past::copies(self.read, check, self.id)?;
        let mut names = Names::new(check.options.seed, self.volume.inodes_used);
        let (mut dirs, mut references) = (Dirs::default(), References::new(self.id, self.volume.site));
        let mut damaged = BTreeSet::new();
        while let Some(ino) = self.next_ino(check)? {
            let seen = self.inode(check, ino)?;
            if seen.damaged {
                damaged.insert(ino);
            }
            self.directory(check, &seen, &mut names)?;
            self.attributes(check, &seen)?;
            self.layout(check, &seen, &mut references)?;
            if let Some(row) = &seen.row {
                let expected = self.expected_names(&seen, row);
                names.inode(ino, row, expected);
                if row.kind == FileKind::Directory {
                    dirs.add(ino, row.parent);
                }
            }
        }
        references.flush(self.read, check)?;
        names.compare(&self, check, &damaged)?;
        dirs.check(&self, check)?;
        self.usage(check, !damaged.is_empty());
        Ok(())
    }

    /// The lowest number that any row has.
    fn next_ino(&mut self, check: &mut Check) -> Result<Option<InodeId>> {
        let next = [
            self.inodes.ino(check, AT)?,
            self.dirs.ino(check, AT_SMALL)?,
            self.xattrs.ino(check, AT_SMALL)?,
            self.chunks.ino(check, AT)?,
            self.entries.ino(check, AT)?,
            self.orphans.ino(check, AT_SMALL)?,
        ];
        Ok(next.into_iter().flatten().min())
    }

    fn expected_names(&self, seen: &Seen, row: &InodeRow) -> u32 {
        let is_detached = seen.orphan || self.copies.contains(&seen.ino) || self.is_loose(row);
        match row.kind {
            _ if is_detached => 0,
            FileKind::Directory => u32::from(seen.ino != InodeId::ROOT),
            _ => row.nlink,
        }
    }

    /// The same for a row that is read again.
    pub fn expected_names_of(&self, ino: InodeId, row: &InodeRow) -> Result<u32> {
        let listed = self.read.get(Family::Small, &keys::orphan(self.id, ino))?.is_some();
        let orphan = listed && self.past.is_none();
        Ok(self.expected_names(&Seen { ino, row: None, damaged: false, orphan }, row))
    }

    /// Of the past nobody knows which nameless directory was an orphan and which a copy.
    fn is_loose(&self, row: &InodeRow) -> bool {
        self.past.is_some() && row.kind == FileKind::Directory && row.parent.is_none()
    }

    fn inode(&mut self, check: &mut Check, ino: InodeId) -> Result<Seen> {
        let mut orphan = false;
        while let Some(row) = self.orphans.next_of(check, AT_SMALL, ino)? {
            decoded::<OrphanRow>(check, Some(self.id), Family::Small, &row)?;
            // Of the past the list says nothing.
            orphan = self.past.is_none();
        }
        let Some(stored) = self.inodes.next_of(check, AT, ino)? else {
            return Ok(Seen { ino, row: None, damaged: false, orphan });
        };
        self.count += 1;
        check.tally.inodes += 1;
        let row: Option<InodeRow> = decoded(check, Some(self.id), Family::Inode, &stored)?;
        let damaged = row.is_none();
        if let Some(row) = &row {
            self.bytes = self.bytes.saturating_add(row.allocated);
            self.numbers(check, ino, row);
            self.kind(check, ino, row, orphan);
        }
        Ok(Seen { ino, row, damaged, orphan })
    }

    pub fn finding(&self, kind: Found, what: impl Into<String>) -> Finding {
        Finding::new(kind, what).of(self.id)
    }

    fn numbers(&self, check: &mut Check, ino: InodeId, row: &InodeRow) {
        let next = self.volume.next_ino;
        if ino.get() == 0 || ino >= next {
            let what = format!("{ino} has a row, and the next number is {next}");
            check.found(self.finding(Found::NumberBeyond, what).ino(ino));
        }
        if row.born > self.volume.seq || row.cver > row.born {
            let seq = self.volume.seq;
            let what = format!(
                "{ino} was born at {} with content of {}, its volume is at {seq}",
                row.born, row.cver
            );
            check.found(self.finding(Found::RowFromFuture, what).ino(ino));
        }
    }

    /// What a row says of itself.
    fn kind(&self, check: &mut Check, ino: InodeId, row: &InodeRow, orphan: bool) {
        let is_dir = row.kind == FileKind::Directory;
        let detached = orphan || self.copies.contains(&ino) || self.is_loose(row);
        let content_fits = match &row.content {
            Content::Empty => row.kind != FileKind::Symlink,
            Content::Target(_) => row.kind == FileKind::Symlink,
            _ => row.kind == FileKind::File,
        };
        let wrong = match () {
            () if row.mode & !MODE_BITS != 0 => Some(format!("its mode is {:o}", row.mode)),
            () if is_dir && row.nlink != 0 => {
                Some("a directory has a link count in its inode row".to_owned())
            }
            () if is_dir && ino == InodeId::ROOT && row.parent != Some(ino) => {
                Some("the root is not its own parent".to_owned())
            }
            () if is_dir && detached && row.parent.is_some() => {
                Some("it awaits removal, and has a parent".to_owned())
            }
            () if is_dir && !detached && row.parent.is_none() => Some("a directory has no parent".to_owned()),
            () if !is_dir && row.parent.is_some() => Some("a file has a parent".to_owned()),
            () if !is_dir && (row.nlink == 0 || row.nlink > LINKS_MAX) => {
                Some(format!("its link count is {}", row.nlink))
            }
            () if !content_fits => Some(format!("a {:?} has content of another kind", row.kind)),
            () => None,
        };
        if let Some(wrong) = wrong {
            check.found(self.finding(Found::AttributesWrong, format!("{ino}: {wrong}")).ino(ino));
        }
    }

    /// The row of its times, and its entries.
    fn directory(&mut self, check: &mut Check, seen: &Seen, names: &mut Names) -> Result<()> {
        let ino = seen.ino;
        let stored = self.dirs.next_of(check, AT_SMALL, ino)?;
        let row: Option<DirRow> = match &stored {
            Some(stored) => decoded(check, Some(self.id), Family::Small, stored)?,
            None => None,
        };
        let is_dir = seen.row.as_ref().map(|row| row.kind == FileKind::Directory);
        if !seen.damaged && is_dir.unwrap_or(false) != stored.is_some() {
            let what = match is_dir {
                Some(true) => format!("{ino} is a directory without the row of its times"),
                _ => format!("{ino} has the row of a directory's times and is none"),
            };
            check.found(self.finding(Found::DirectoryRow, what).ino(ino));
        }
        let (entries, subdirs) = self.entries_of(check, ino, names)?;
        if entries > 0 && !seen.damaged && is_dir != Some(true) {
            let what = format!("{entries} entries are in {ino}, which is no directory");
            check.found(self.finding(Found::EntriesStray, what).ino(ino));
        }
        let is_loose = seen.row.as_ref().is_some_and(|row| self.is_loose(row));
        if let Some(row) = row.filter(|_| is_dir == Some(true) && !seen.orphan && !is_loose) {
            self.counted(check, ino, &row, subdirs);
        }
        Ok(())
    }

    fn counted(&self, check: &mut Check, ino: InodeId, row: &DirRow, subdirs: u32) {
        if row.nlink != subdirs.saturating_add(2) {
            let what = format!("{ino} has {subdirs} subdirectories and the link count {}", row.nlink);
            let repair = Repair::Subdirectories { volume: self.id, ino, born: row.born, subdirs };
            check.found(self.finding(Found::Subdirectories, what).ino(ino).repair(repair));
        }
        if row.born > self.volume.seq {
            let what =
                format!("the times of {ino} are of {}, its volume is at {}", row.born, self.volume.seq);
            check.found(self.finding(Found::RowFromFuture, what).ino(ino));
        }
    }

    fn entries_of(&mut self, check: &mut Check, dir: InodeId, names: &mut Names) -> Result<(u64, u32)> {
        let (mut entries, mut subdirs) = (0, 0);
        while let Some(stored) = self.entries.next_of(check, AT, dir)? {
            entries += 1;
            let Some(row) = decoded::<DentryRow>(check, Some(self.id), Family::Dentry, &stored)? else {
                continue;
            };
            let name = stored.0.get(16..).unwrap_or_default();
            let Ok(name) = Name::new(name) else {
                let what = format!("an entry of {dir} has the name {:?}", String::from_utf8_lossy(name));
                check.found(self.finding(Found::NameInvalid, what).ino(dir));
                continue;
            };
            if row.born > self.volume.seq {
                let what = format!("a name was made at {}, its volume is at {}", row.born, self.volume.seq);
                check.found(self.finding(Found::RowFromFuture, what).at(Place::Entry(dir, name)));
            }
            subdirs += u32::from(row.kind == FileKind::Directory);
            names.entry(dir, &row);
        }
        Ok((entries, subdirs))
    }

    fn attributes(&mut self, check: &mut Check, seen: &Seen) -> Result<()> {
        let (mut count, mut bytes, mut access, mut default) = (0_u64, 0_usize, false, false);
        while let Some(stored) = self.xattrs.next_of(check, AT_SMALL, seen.ino)? {
            let name = stored.0.get(17..).unwrap_or_default();
            count += 1;
            access |= name == acl::ACCESS;
            default |= name == acl::DEFAULT;
            bytes += name.len();
            if let Some(row) = decoded::<XattrRow>(check, Some(self.id), Family::Small, &stored)? {
                bytes += row.value.len();
            }
        }
        let finding = match &seen.row {
            None if count > 0 && !seen.damaged => {
                let what = format!("{count} extended attributes are of {}, which is not there", seen.ino);
                self.finding(Found::XattrStray, what)
            }
            Some(row)
                if (row.flags.has_xattrs, row.flags.has_access_acl, row.flags.has_default_acl)
                    != (count > 0, access, default) =>
            {
                let what =
                    format!("{} has {count} extended attributes, and its row says otherwise", seen.ino);
                self.finding(Found::XattrFlags, what)
            }
            Some(_) if bytes > XATTRS_MAX => {
                let what = format!("the extended attributes of {} take {bytes} bytes", seen.ino);
                self.finding(Found::AttributesWrong, what)
            }
            _ => return Ok(()),
        };
        check.found(finding.ino(seen.ino));
        Ok(())
    }

    fn layout(&mut self, check: &mut Check, seen: &Seen, references: &mut References) -> Result<()> {
        let mut layout = Layout::new(self.id, seen.ino);
        let mut rows = 0;
        while let Some(stored) = self.chunks.next_of(check, AT, seen.ino)? {
            rows += 1;
            match decoded::<ChunkRow>(check, Some(self.id), Family::Chunk, &stored)? {
                Some(row) => {
                    layout.chunk(check, &stored.0, &row, self.volume.seq);
                    references.add(self.read, check, seen.ino, &row.extents)?;
                }
                None => layout.unreadable(),
            }
        }
        let is_chunked = seen.row.as_ref().map(|row| row.content == Content::Chunked);
        if rows > 0 && !seen.damaged && is_chunked != Some(true) && !self.awaits_removal(seen) {
            let what = format!("{rows} chunk rows are of {}, which has none", seen.ino);
            check.found(self.finding(Found::ChunkStray, what).ino(seen.ino));
        }
        if let Some(row) = &seen.row {
            references.add(self.read, check, seen.ino, row.extents())?;
            if !self.copies.contains(&seen.ino) && !self.unfinished.contains(&seen.ino) && !seen.orphan {
                layout.whole(check, row, rows);
            }
        }
        Ok(())
    }

    /// Chunk rows outlive their inode while they are removed in slices.
    fn awaits_removal(&self, seen: &Seen) -> bool {
        seen.row.is_none() && (seen.orphan || self.past.is_some())
    }

    fn usage(&self, check: &mut Check, is_uncertain: bool) {
        let (bytes, inodes) = (self.volume.bytes_used, self.volume.inodes_used);
        if (bytes, inodes) == (self.bytes, self.count) || is_uncertain {
            return;
        }
        let what = format!(
            "it says {bytes} bytes and {inodes} inodes; its inodes take {} bytes and are {}",
            self.bytes, self.count
        );
        let repair =
            Repair::Usage { volume: self.id, seq: self.volume.seq, bytes: self.bytes, inodes: self.count };
        check.found(self.finding(Found::UsageWrong, what).repair(repair));
    }
}
