//! How each family is stored: RocksDB options by what its keys and values are like.

use super::{history::Needed, rocks};
use crate::state::Family;
use rocksdb::{
    BlockBasedOptions, BlockBasedTablePinningTier, Cache, ColumnFamilyDescriptor, DBCompactionStyle,
    DBCompressionType, LogLevel, Options, SliceTransform,
};
use std::time::Duration;

const MIB: usize = 1 << 20;
/// Uncompressed bytes of a block: more than the default, for fewer index entries and better compression.
const BLOCK_BYTES: usize = 16 << 10;
/// Bloom filters of 10 bits per key let one absent key in a hundred through.
const BLOOM_BITS: f64 = 10.0;
/// Hot bytes above this stand in blob files, so that compaction does not copy them.
const BLOB_MIN: u64 = 512;
/// A file with so many deletions among so many rows, or with this share of them, is compacted soon.
const DELETIONS: usize = 512;
const DELETIONS_AMONG: usize = 2048;
const DELETIONS_SHARE: f64 = 0.5;
/// History that no write touches is looked through so often, and what nobody needs is dropped.
const HISTORY_REVIEW: Duration = Duration::from_secs(24 * 3600);

/// The leading bytes by which the scans of a family are bounded, if they are.
pub(super) const fn prefix_len(family: Family) -> Option<usize> {
    match family {
        // [vol 8][parent 8][name]; [vol 8][ino 8][died or chunk]
        Family::Dentry
        | Family::DentryHistory
        | Family::InodeHistory
        | Family::Chunk
        | Family::ChunkHistory => Some(16),
        // [vol 8][tag][ino 8]..
        Family::Small | Family::SmallHistory => Some(17),
        // [vol 8][seq 8]
        Family::Feed => Some(8),
        // Read by whole key, or scanned widely.
        Family::Inode | Family::Blob | Family::Hot | Family::Meta => None,
    }
}

/// How often the row of a key is written before it is deleted, which says how it may be deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Life {
    /// Any number of times.
    Overwritten,
    /// Once, as long as it exists.
    WrittenOnce,
    /// Seldom more than once. It is deleted before it is written again, so that RocksDB sees one
    /// write per deletion; a deletion is left out where nothing is stored.
    Watched,
}

/// The same for all time: RocksDB must never see both kinds of deletion for one key.
pub(super) fn life_of(family: Family, key: &[u8]) -> Life {
    match family {
        // Temporary files: a name comes, and goes again soon. Hot bytes go when they are drained.
        Family::Dentry | Family::Hot => Life::Watched,
        // Receipts: an operation that has one is not executed again.
        Family::Meta if key.first() == Some(&b'O') => Life::WrittenOnce,
        _ => Life::Overwritten,
    }
}

/// Options of the database as a whole.
pub(super) fn db_options(write_buffer_bytes: usize) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_atomic_flush(true);
    // One thread writes: without the atomics of several, inserting costs less.
    options.set_allow_concurrent_memtable_write(false);
    options.set_db_write_buffer_size(write_buffer_bytes);
    options.set_max_background_jobs(2);
    options.set_max_open_files(rocks::open_files_max());
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 * MIB);
    options.set_log_level(LogLevel::Warn);
    options.set_bytes_per_sync(MIB as u64);
    options
}

/// The column families: one per [`Family`], and the default one for the store's own rows.
pub(super) fn families(
    cache: &Cache,
    write_buffer_bytes: usize,
    needed: &Needed,
) -> Vec<ColumnFamilyDescriptor> {
    let mut all = vec![ColumnFamilyDescriptor::new("default", base_options(cache, write_buffer_bytes))];
    for family in Family::ALL {
        all.push(ColumnFamilyDescriptor::new(
            family.name(),
            family_options(family, cache, write_buffer_bytes, needed),
        ));
    }
    all
}

fn base_options(cache: &Cache, write_buffer_bytes: usize) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(BLOCK_BYTES);
    table.set_bloom_filter(BLOOM_BITS, false);
    table.set_whole_key_filtering(true);
    table.set_cache_index_and_filter_blocks(true);
    // Every read asks filter and index of several files: not through the cache, though it counts them.
    table.set_unpartitioned_pinning_tier(BlockBasedTablePinningTier::All);
    table.set_format_version(6);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(write_buffer_bytes / 4);
    options.set_max_write_buffer_number(3);
    options.set_memtable_whole_key_filtering(true);
    // Allocated at once for every family, so it is kept small.
    options.set_memtable_prefix_bloom_ratio(0.02);
    options
}

fn family_options(family: Family, cache: &Cache, write_buffer_bytes: usize, needed: &Needed) -> Options {
    let mut options = base_options(cache, write_buffer_bytes);
    if let Some(len) = prefix_len(family) {
        options.set_prefix_extractor(SliceTransform::create_fixed_prefix(len));
    }
    if family == Family::Feed {
        // Events come at one end and go at the other, and nobody scans where they went: small files are merged
        // with each other, and the large one is not written again with each of them.
        options.set_compaction_style(DBCompactionStyle::Universal);
    }
    if let Family::Dentry | Family::Inode | Family::Small | Family::Meta = family {
        options.add_compact_on_deletion_collector_factory(DELETIONS_AMONG, DELETIONS, DELETIONS_SHARE);
    }
    if family == Family::Inode {
        // Whoever asks for a number has it from a name, or it is higher than all that are stored.
        options.set_optimize_filters_for_hits(true);
    }
    if family.is_history() {
        options.set_compaction_filter_factory(needed.filters(family));
        options.set_periodic_compaction_seconds(HISTORY_REVIEW.as_secs());
    }
    if family == Family::Hot {
        options.set_enable_blob_files(true);
        options.set_min_blob_size(BLOB_MIN);
        options.set_write_buffer_size(write_buffer_bytes / 2);
        options.set_blob_compression_type(DBCompressionType::Lz4);
        options.set_enable_blob_gc(true);
    }
    options
}
