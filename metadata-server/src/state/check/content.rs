//! The layout of one file.

use super::{
    super::{
        layout,
        rows::{ChunkRow, InodeRow},
    },
    Check, Finding, FindingKind as Found,
};
use sitefs_base::{
    Content, Extent, InodeId, Seq, VolumeId,
    limits::{CHUNK_EXTENTS_BEHIND, CHUNK_SIZE, INLINE_MAX, INODE_EXTENTS_MAX, SYMLINK_MAX},
};

/// What the chunk rows of a file have shown so far.
pub(super) struct Layout {
    volume: VolumeId,
    ino: InodeId,
    bytes: u64,
    end: u64,
    /// A row could not be read: sums mean nothing.
    uncertain: bool,
}

impl Layout {
    pub fn new(volume: VolumeId, ino: InodeId) -> Self {
        Self { volume, ino, bytes: 0, end: 0, uncertain: false }
    }

    pub fn unreadable(&mut self) {
        self.uncertain = true;
    }

    fn tell(&self, check: &mut Check, kind: Found, what: &str) {
        let what = format!("{}: {what}", self.ino);
        check.found(Finding::new(kind, what).of(self.volume).ino(self.ino));
    }

    /// One chunk row.
    pub fn chunk(&mut self, check: &mut Check, key: &[u8], row: &ChunkRow, now: Seq) {
        self.bytes = self.bytes.saturating_add(layout::bytes_of(&row.extents));
        self.end = self.end.max(row.extents.last().map_or(0, Extent::end));
        let Ok(chunk) = layout::chunk_in(key)
            .map_err(drop)
            .and_then(|chunk| if key.len() == 20 { Ok(chunk) } else { Err(()) })
        else {
            return self.tell(check, Found::RowDamaged, "a chunk row has a key of another kind");
        };
        if row.extents.is_empty() || row.extents.len() > CHUNK_EXTENTS_BEHIND {
            let what = format!("chunk {chunk} has {} extents", row.extents.len());
            self.tell(check, Found::LayoutWrong, &what);
        }
        if let Some(wrong) = row.extents.iter().find(|extent| layout::chunk_of(extent.offset) != chunk) {
            let what = format!("chunk {chunk} has an extent at {}", wrong.offset);
            self.tell(check, Found::LayoutWrong, &what);
        }
        if row.born > now {
            let what = format!("chunk {chunk} was born at {}, its volume is at {now}", row.born);
            self.tell(check, Found::RowFromFuture, &what);
        }
        self.extents(check, &row.extents);
    }

    fn extents(&self, check: &mut Check, extents: &[Extent]) {
        let is_wrong = |extent: &&Extent| {
            let blob_end = u64::from(extent.blob_offset) + u64::from(extent.len);
            let last = extent.end().saturating_sub(1);
            extent.len == 0
                || blob_end > CHUNK_SIZE
                || layout::chunk_of(extent.offset) != layout::chunk_of(last)
        };
        if let Some(Extent { offset, len, blob_offset, .. }) = extents.iter().find(is_wrong) {
            let what = format!("an extent of {len} bytes at {offset} shows its blob from {blob_offset} on");
            self.tell(check, Found::LayoutWrong, &what);
        }
        if !extents.is_sorted_by(|a, b| a.end() <= b.offset) {
            self.tell(check, Found::LayoutWrong, "extents overlap");
        }
    }

    /// The inode's row against its `rows` chunk rows.
    pub fn whole(&self, check: &mut Check, row: &InodeRow, rows: u64) {
        let (bytes, end) = match &row.content {
            Content::Empty => (0, None),
            Content::Target(target) => {
                let len = target.len();
                self.fits(check, row, (1..=SYMLINK_MAX).contains(&len) && row.size == len as u64);
                (0, None)
            }
            Content::Inline(bytes) => {
                self.fits(
                    check,
                    row,
                    (1..=INLINE_MAX).contains(&bytes.len()) && row.size == bytes.len() as u64,
                );
                (row.size, None)
            }
            Content::Extents(extents) => {
                self.extents(check, extents);
                self.fits(check, row, row.size > 0);
                if extents.len() > INODE_EXTENTS_MAX {
                    let what = format!("its inode row has {} extents", extents.len());
                    self.tell(check, Found::LayoutWrong, &what);
                }
                (layout::bytes_of(extents), extents.last().map(Extent::end))
            }
            Content::Chunked if self.uncertain => return,
            Content::Chunked => {
                self.sums(check, row, self.bytes, Some(self.end), true);
                if rows == 0 {
                    let what =
                        format!("{}: its layout should be in chunk rows, and there are none", self.ino);
                    check.found(self.finding(Found::LayoutWrong, what).if_reachable());
                }
                return;
            }
        };
        self.fits(check, row, row.content != Content::Empty || row.size == 0);
        self.sums(check, row, bytes, end, false);
    }

    fn finding(&self, kind: Found, what: String) -> Finding {
        Finding::new(kind, what).of(self.volume).ino(self.ino)
    }

    fn fits(&self, check: &mut Check, row: &InodeRow, fits: bool) {
        if !fits {
            self.tell(check, Found::SizeWrong, &format!("its content has not {} bytes", row.size));
        }
    }

    /// A restore that was given up leaves files with some of their chunks, to which no path leads.
    fn sums(&self, check: &mut Check, row: &InodeRow, bytes: u64, end: Option<u64>, may_be_partial: bool) {
        let mut tell = |kind, what: String| {
            let finding = self.finding(kind, what);
            check.found(if may_be_partial { finding.if_reachable() } else { finding });
        };
        if row.allocated != bytes {
            let what = format!(
                "{}: its row says that it takes {} bytes, its layout {bytes}",
                self.ino, row.allocated
            );
            tell(Found::SizeWrong, what);
        }
        if let Some(end) = end.filter(|end| *end > row.size) {
            tell(
                Found::LayoutWrong,
                format!("{}: its layout ends at {end}, the file at {}", self.ino, row.size),
            );
        }
    }
}
