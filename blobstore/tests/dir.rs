//! The directory backend, through the trait that everybody uses.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use bytes::Bytes;
use sitefs_base::{Generation, Incarnation, Kind, SiteId};
use sitefs_blobstore::{Backend, DirBackend, ObjectKey, hash};
use std::time::Duration;

fn key(site: u64, content: &[u8], counter: u64) -> ObjectKey {
    let generation = Generation { incarnation: Incarnation::new(1), counter };
    ObjectKey { site: SiteId::new(site), digest: hash(content), generation }
}

#[tokio::test]
async fn objects_are_put_read_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let store: Box<dyn Backend> = Box::new(DirBackend::open(dir.path().join("blobs")).unwrap());
    store.check().await.unwrap();
    let key = key(7, b"hello", 1);
    assert_eq!(store.head(&key).await.unwrap(), None);
    assert_eq!(store.get(&key).await.unwrap_err().kind(), Kind::NotFound);
    store.put(&key, Bytes::from_static(b"hello")).await.unwrap();
    store.put(&key, Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!(store.head(&key).await.unwrap(), Some(5));
    assert_eq!(store.get(&key).await.unwrap(), "hello");
    assert!(dir.path().join("blobs").join(key.to_string()).is_file());
    assert_eq!(store.presign_get(&key, Duration::from_secs(1)).await.unwrap(), None);
    store.delete(&key).await.unwrap();
    store.delete(&key).await.unwrap();
    assert_eq!(store.head(&key).await.unwrap(), None);
}

#[tokio::test]
async fn a_shared_directory_is_the_first_ones_that_claims_it() {
    let dir = tempfile::tempdir().unwrap();
    let open = || DirBackend::open_shared(dir.path()).unwrap();
    let key = key(7, b"hello", 1);
    open().put(&key, Bytes::from_static(b"hello")).await.unwrap();
    for owner in ["one", "two", "one"] {
        assert_eq!(open().claim(owner).await.unwrap(), "one", "asked by {owner}");
    }
    let listed = open().list("", None, 9).await.unwrap();
    assert_eq!(listed.len(), 1, "the file is no object: {listed:?}");
    std::fs::remove_file(dir.path().join("owner")).unwrap();
    assert_eq!(open().claim("two").await.unwrap(), "two");
    let inside = DirBackend::open(dir.path()).unwrap();
    assert_eq!(inside.claim("three").await.unwrap(), "three", "a data directory is nobody else's");
}

#[tokio::test]
async fn objects_outlive_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let key = key(7, b"hello", 1);
    DirBackend::open(dir.path()).unwrap().put(&key, Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!(DirBackend::open(dir.path()).unwrap().get(&key).await.unwrap(), "hello");
}

#[tokio::test]
async fn a_listing_pages_through_one_site_in_key_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = DirBackend::open(dir.path()).unwrap();
    let mut expected = Vec::new();
    for site in [1, 10, 2] {
        for content in 0..20_u8 {
            let key = key(site, &[content], u64::from(content) * 6);
            store.put(&key, Bytes::copy_from_slice(&[content])).await.unwrap();
            expected.push(key.to_string());
        }
    }
    expected.sort();
    let mut listed: Vec<String> = Vec::new();
    loop {
        let page = store.list("b/", listed.last().map(String::as_str), 7).await.unwrap();
        if page.is_empty() {
            break;
        }
        assert!(page.iter().all(|object| object.len == 1));
        listed.extend(page.into_iter().map(|object| object.key));
    }
    assert_eq!(listed, expected);
    let one = store.list(&ObjectKey::site_prefix(SiteId::new(1)), None, 1000).await.unwrap();
    assert_eq!(one.len(), 20);
    assert!(one.iter().all(|object| object.key.parse::<ObjectKey>().unwrap().site == SiteId::new(1)));
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = DirBackend::open(file.join("blobs")).unwrap_err();
    assert!(error.chain().contains("file/blobs"), "{}", error.chain());
}

#[tokio::test]
async fn an_object_that_is_there_is_believed_only_if_it_has_the_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let store = DirBackend::open(dir.path()).unwrap();
    let key = key(7, b"hello", 1);
    store.put(&key, Bytes::from_static(b"hello")).await.unwrap();
    // A power cut before the sync of the file can leave its length without its bytes.
    std::fs::write(dir.path().join(key.to_string()), [0; 5]).unwrap();
    store.put(&key, Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!(store.get(&key).await.unwrap(), "hello");
    assert!(store.uses_own_disk());
}
