use super::*;
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::{Duration, UNIX_EPOCH},
};

const ROOMY: CacheOptions = CacheOptions { max_bytes: 1 << 30, min_free: 0 };
const BLOCK: u64 = 4096;

fn blob(fill: u8) -> VerifiedBytes {
    VerifiedBytes::of(vec![fill; 4096].into())
}

fn path_of(cache: &DiskCache, blob: &VerifiedBytes) -> PathBuf {
    let name = blob.digest().to_string();
    cache.dir().join("blobs").join(&name[..2]).join(name)
}

fn has(cache: &DiskCache, blob: &VerifiedBytes) -> bool {
    cache.open_blob(&blob.digest()).unwrap().is_some()
}

fn blocks(count: u64) -> CacheOptions {
    CacheOptions { max_bytes: count * BLOCK, min_free: 0 }
}

fn writable(path: &Path) -> File {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    OpenOptions::new().write(true).open(path).unwrap()
}

#[test]
fn what_was_inserted_is_read_whole_and_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(dir.path(), ROOMY).unwrap();
    let bytes: Vec<u8> = (0..10_000_u32).map(|i| i.to_le_bytes()[0]).collect();
    let blob = VerifiedBytes::of(bytes.clone().into());
    assert!(!has(&cache, &blob));
    cache.insert(&blob).unwrap();
    cache.insert(&blob).unwrap();
    let open = cache.open_blob(&blob.digest()).unwrap().unwrap();
    assert_eq!(open.len, 10_000);
    assert_eq!(cache.read_all(&open).unwrap(), bytes);
    assert_eq!(cache.read_at(&open, 100, 5).unwrap(), bytes[100..105]);
    assert_eq!(cache.read_at(&open, 9_990, 100).unwrap(), bytes[9_990..]);
    assert!(cache.read_at(&open, 20_000, 5).unwrap().is_empty());
    let stats = cache.stats();
    assert_eq!((stats.blobs, stats.bytes, stats.hits, stats.misses), (1, 3 * BLOCK, 1, 1));
}

#[test]
fn the_empty_blob_can_be_kept() {
    let dir = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(dir.path(), ROOMY).unwrap();
    let empty = VerifiedBytes::of(Bytes::new());
    cache.insert(&empty).unwrap();
    let open = cache.open_blob(&empty.digest()).unwrap().unwrap();
    assert!(cache.read_all(&open).unwrap().is_empty());
}

#[test]
fn the_longest_unused_blob_leaves_first() {
    let dir = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(dir.path(), blocks(3)).unwrap();
    let all = [blob(1), blob(2), blob(3), blob(4)];
    all[..3].iter().for_each(|blob| cache.insert(blob).unwrap());
    assert!(has(&cache, &all[0]));
    cache.insert(&all[3]).unwrap();
    assert_eq!(all.each_ref().map(|blob| has(&cache, blob)), [true, false, true, true]);
    assert!(!path_of(&cache, &all[1]).exists());
    assert_eq!(cache.stats().evictions, 1);
    assert_eq!(cache.stats().bytes, 3 * BLOCK);
}

#[test]
fn a_blob_larger_than_the_cache_is_refused_and_evicts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(dir.path(), blocks(2)).unwrap();
    cache.insert(&blob(1)).unwrap();
    let large = VerifiedBytes::of(vec![7; 3 * 4096].into());
    assert_eq!(cache.insert(&large).unwrap_err().kind(), Kind::Limit);
    assert!(has(&cache, &blob(1)));
}

#[test]
fn open_blobs_are_not_evicted_and_when_they_fill_the_cache_inserts_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(dir.path(), blocks(2)).unwrap();
    cache.insert(&blob(1)).unwrap();
    let first = cache.open_blob(&blob(1).digest()).unwrap().unwrap();
    cache.insert(&blob(2)).unwrap();
    cache.insert(&blob(3)).unwrap();
    assert!(has(&cache, &blob(1)) && !has(&cache, &blob(2)));
    let third = cache.open_blob(&blob(3).digest()).unwrap().unwrap();
    assert_eq!(cache.insert(&blob(4)).unwrap_err().kind(), Kind::Limit);
    assert_eq!(cache.read_all(&first).unwrap(), *blob(1));
    drop((first, third));
    cache.insert(&blob(4)).unwrap();
    assert!(has(&cache, &blob(4)));
    assert!(fs::read_dir(dir.path().join("blobs")).unwrap().all(|e| e.unwrap().file_name().len() == 2));
}

#[test]
fn all_openers_share_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(dir.path(), ROOMY).unwrap();
    cache.insert(&blob(1)).unwrap();
    let one = cache.open_blob(&blob(1).digest()).unwrap().unwrap();
    let two = cache.open_blob(&blob(1).digest()).unwrap().unwrap();
    assert!(Arc::ptr_eq(&one.file, &two.file));
}

#[test]
fn the_disk_keeps_its_free_space() {
    let dir = tempfile::tempdir().unwrap();
    let cache =
        DiskCache::open(dir.path(), CacheOptions { max_bytes: 1 << 30, min_free: u64::MAX / 2 }).unwrap();
    assert_eq!(cache.insert(&blob(1)).unwrap_err().kind(), Kind::Limit);
    assert_eq!(cache.stats().bytes, 0);
}

#[test]
fn a_restart_keeps_blobs_in_order_of_use() {
    let dir = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(dir.path(), ROOMY).unwrap();
    for (fill, second) in [(1, 300), (2, 100), (3, 200)] {
        cache.insert(&blob(fill)).unwrap();
        let time = UNIX_EPOCH + Duration::from_secs(1_000_000 + second);
        let times = fs::FileTimes::new().set_accessed(time).set_modified(time);
        writable(&path_of(&cache, &blob(fill))).set_times(times).unwrap();
    }
    drop(cache);
    let cache = DiskCache::open(dir.path(), blocks(2)).unwrap();
    assert_eq!(cache.digests(), [blob(1).digest(), blob(3).digest()]);
    assert!(has(&cache, &blob(1)) && has(&cache, &blob(3)));
}

#[test]
fn a_blob_damaged_while_the_cache_was_closed_is_dropped_and_can_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(dir.path(), ROOMY).unwrap();
    cache.insert(&blob(1)).unwrap();
    let path = path_of(&cache, &blob(1));
    drop(cache);
    writable(&path).write_all_at(b"X", 2000).unwrap();
    let cache = DiskCache::open(dir.path(), ROOMY).unwrap();
    assert!(!has(&cache, &blob(1)));
    assert!(!path.exists());
    let stats = cache.stats();
    assert_eq!((stats.damaged, stats.blobs, stats.bytes), (1, 0, 0));
    cache.insert(&blob(1)).unwrap();
    assert!(has(&cache, &blob(1)));
}

#[test]
fn a_truncated_blob_is_noticed_at_the_next_open_even_in_the_same_process() {
    let dir = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(dir.path(), ROOMY).unwrap();
    cache.insert(&blob(1)).unwrap();
    let held = cache.open_blob(&blob(1).digest()).unwrap().unwrap();
    writable(&path_of(&cache, &blob(1))).set_len(10).unwrap();
    assert_eq!(cache.read_all(&held).unwrap_err().kind(), Kind::Corrupt);
    assert!(!has(&cache, &blob(1)));
    assert_eq!(cache.stats().damaged, 1);
}

#[test]
fn a_file_deleted_by_somebody_is_a_miss() {
    let dir = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(dir.path(), ROOMY).unwrap();
    cache.insert(&blob(1)).unwrap();
    fs::remove_file(path_of(&cache, &blob(1))).unwrap();
    assert!(!has(&cache, &blob(1)));
    assert_eq!((cache.stats().blobs, cache.stats().bytes), (0, 0));
}

#[test]
fn a_recheck_finds_damage_that_the_identity_does_not_show() {
    let dir = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(dir.path(), ROOMY).unwrap();
    cache.insert(&blob(1)).unwrap();
    assert!(cache.recheck(&blob(1).digest()).unwrap());
    writable(&path_of(&cache, &blob(1))).write_all_at(b"X", 0).unwrap();
    assert!(!cache.recheck(&blob(1).digest()).unwrap());
    assert!(!cache.recheck(&blob(2).digest()).unwrap());
}

#[test]
fn removed_blobs_stay_readable_for_who_has_them_open() {
    let dir = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(dir.path(), ROOMY).unwrap();
    cache.insert(&blob(1)).unwrap();
    let held = cache.open_blob(&blob(1).digest()).unwrap().unwrap();
    cache.remove(&blob(1).digest()).unwrap();
    assert!(!has(&cache, &blob(1)));
    assert_eq!(cache.read_all(&held).unwrap(), *blob(1));
    assert_eq!(cache.stats().bytes, 0);
}

#[test]
fn a_second_mount_on_the_directory_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(dir.path(), ROOMY).unwrap();
    let error = DiskCache::open(dir.path(), ROOMY).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.doing().starts_with(&format!("another mount uses {}", dir.path().display())));
    drop(cache);
    DiskCache::open(dir.path(), ROOMY).unwrap();
}

#[test]
fn other_files_are_left_alone_and_half_written_ones_removed() {
    let dir = tempfile::tempdir().unwrap();
    drop(DiskCache::open(dir.path(), ROOMY).unwrap());
    let fan = dir.path().join("blobs/ab");
    fs::create_dir_all(&fan).unwrap();
    let strangers = [dir.path().join("blobs/README"), fan.join("notes"), dir.path().join("mine")];
    strangers.iter().for_each(|path| fs::write(path, "x").unwrap());
    let half = dir.path().join("blobs/tmp-7");
    fs::write(&half, "half").unwrap();
    let cache = DiskCache::open(dir.path(), ROOMY).unwrap();
    assert!(strangers.iter().all(|path| path.exists()));
    assert!(!half.exists());
    assert_eq!(cache.stats().blobs, 0);
}

#[test]
fn threads_that_insert_open_and_evict_see_only_right_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(dir.path(), blocks(5)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let cache = &cache;
            scope.spawn(move || {
                for round in 0..100_u8 {
                    let blob = blob(round.wrapping_mul(7).wrapping_add(thread) % 10);
                    match cache.open_blob(&blob.digest()).unwrap() {
                        Some(open) => assert_eq!(cache.read_all(&open).unwrap(), *blob),
                        None => match cache.insert(&blob) {
                            Err(error) if error.kind() != Kind::Limit => panic!("{}", error.chain()),
                            _ => {}
                        },
                    }
                }
            });
        }
    });
    let stats = cache.stats();
    assert_eq!(stats.damaged, 0);
    assert!(stats.bytes <= 5 * BLOCK);
    drop(cache);
    let cache = DiskCache::open(dir.path(), ROOMY).unwrap();
    assert!(cache.stats().blobs <= stats.blobs, "no file is left without an entry");
}

#[test]
fn what_somebody_put_into_the_cache_is_left_alone_and_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("blobs/tmp-0")).unwrap();
    let cache = DiskCache::open(dir.path(), ROOMY).unwrap();
    cache.insert(&blob(1)).unwrap();
    assert!(has(&cache, &blob(1)));
    assert!(dir.path().join("blobs/tmp-0").is_dir());
}

#[test]
fn a_file_that_was_taken_is_no_blob_any_more_and_its_readers_notice() {
    let dir = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(dir.path(), ROOMY).unwrap();
    let blob = blob(1);
    cache.insert(&blob).unwrap();
    let reader = cache.open_blob(&blob.digest()).unwrap().unwrap();
    let shared = cache.open_blob(&blob.digest()).unwrap().unwrap();
    let file = cache.take(&blob.digest(), &shared).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"other", 0).unwrap();
    assert!(!reader.read_exact_at(&mut [0; 5], 0).unwrap());
    assert!(cache.read_all(&reader).is_err());
    assert!(!has(&cache, &blob) && !path_of(&cache, &blob).exists());
    assert_eq!(cache.stats().bytes, 0);
    // What comes in again is another file, which stays when the first is taken once more.
    cache.insert(&blob).unwrap();
    cache.take(&blob.digest(), &shared).unwrap();
    let again = cache.open_blob(&blob.digest()).unwrap().unwrap();
    assert_eq!(cache.read_all(&again).unwrap(), vec![1; 4096]);
}
