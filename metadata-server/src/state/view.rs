//! How `state` reads and writes rows.

use sitefs_base::Result;

/// The families of rows (DESIGN D1); `docs/FORMATS.md` gives keys and values.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Family {
    /// Current dentries.
    Dentry,
    /// Superseded dentries.
    DentryHistory,
    /// Current inodes.
    Inode,
    /// Superseded inodes.
    InodeHistory,
    /// Current chunk layouts.
    Chunk,
    /// Superseded chunk layouts.
    ChunkHistory,
    /// Current small rows: directory attributes, extended attributes, seconds, orphans.
    Small,
    /// Superseded small rows.
    SmallHistory,
    /// The change feed.
    Feed,
    /// Blob states.
    Blob,
    /// Bytes of hot blobs.
    Hot,
    /// Volumes, sites, sessions, counters, the cell.
    Meta,
}

impl Family {
    /// Every family, in the order of their names.
    pub const ALL: [Self; 12] = [
        Self::Dentry,
        Self::DentryHistory,
        Self::Inode,
        Self::InodeHistory,
        Self::Chunk,
        Self::ChunkHistory,
        Self::Small,
        Self::SmallHistory,
        Self::Feed,
        Self::Blob,
        Self::Hot,
        Self::Meta,
    ];

    /// The name of the column family.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dentry => "d",
            Self::DentryHistory => "dh",
            Self::Inode => "i",
            Self::InodeHistory => "ih",
            Self::Chunk => "e",
            Self::ChunkHistory => "eh",
            Self::Small => "x",
            Self::SmallHistory => "xh",
            Self::Feed => "f",
            Self::Blob => "b",
            Self::Hot => "c",
            Self::Meta => "m",
        }
    }

    /// Whether it holds superseded rows, which are dropped once nobody needs them.
    pub const fn is_history(self) -> bool {
        matches!(self, Self::DentryHistory | Self::InodeHistory | Self::ChunkHistory | Self::SmallHistory)
    }
}

/// A row: key and value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Reads rows at one consistent point. An error means that the storage failed, never "absent".
pub trait Read {
    /// The value under `key`.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// The values under `keys`, in their order.
    fn get_many(&self, family: Family, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        keys.iter().map(|key| self.get(family, key)).collect()
    }

    /// Rows whose key starts with `prefix` and is not below `from`, ascending, at most `limit`.
    /// `from` must itself start with `prefix`, or equal it.
    fn scan(&self, family: Family, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Row>>;

    /// Shows the rows of [`Self::scan`] to `each` instead of giving them.
    fn visit(
        &self,
        family: Family,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<()> {
        self.scan(family, prefix, from, limit)?.iter().for_each(|(key, value)| each(key, value));
        Ok(())
    }
}

impl<T: Read + ?Sized> Read for std::sync::Arc<T> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>> {
        (**self).get(family, key)
    }

    fn get_many(&self, family: Family, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        (**self).get_many(family, keys)
    }

    fn scan(&self, family: Family, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Row>> {
        (**self).scan(family, prefix, from, limit)
    }
}

/// Reads and writes rows of one command; a read sees the command's own writes.
pub trait View: Read {
    /// Sets a row.
    fn put(&mut self, family: Family, key: &[u8], value: Vec<u8>);
    /// Removes a row.
    fn delete(&mut self, family: Family, key: &[u8]);
}
