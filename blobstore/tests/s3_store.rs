//! The S3 backend against a real store: `eval "$(scripts/minio start)"` first, or `scripts/versitygw`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![cfg(all(feature = "s3", feature = "transfer"))]

use bytes::Bytes;
use sitefs_base::{Clock, Generation, Incarnation, Kind, OsRandom, Random, SiteId, SystemClock};
use sitefs_blobstore::{
    Backend, Credentials, ObjectKey, PutOutcome, S3Backend, S3Config, SignedRequest, Transfer, VerifiedBytes,
    hash,
};
use std::{sync::Arc, time::Duration};

const LONG: Duration = Duration::from_secs(20);
const VALID: Duration = Duration::from_secs(300);

/// The store that the environment names. Without one the test says loudly that it did nothing.
fn config(test: &str) -> Option<S3Config> {
    let set = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    let Some(endpoint) = set("SITEFS_TEST_S3_ENDPOINT") else {
        eprintln!("SKIPPED: {test}: SITEFS_TEST_S3_ENDPOINT is not set; run eval \"$(scripts/minio start)\"");
        return None;
    };
    let bucket = set("SITEFS_TEST_S3_BUCKET").expect("SITEFS_TEST_S3_BUCKET names the bucket");
    Some(S3Config { endpoint: Some(endpoint), bucket, ..S3Config::default() })
}

fn connect(config: S3Config) -> S3Backend {
    S3Backend::connect(config, Arc::new(SystemClock)).unwrap()
}

/// A key of a site that no other run of the tests uses.
fn key(content: &[u8]) -> ObjectKey {
    let generation = Generation { incarnation: Incarnation::new(1), counter: 1 };
    ObjectKey { site: SiteId::new(OsRandom.next_u64()), digest: hash(content), generation }
}

async fn put_by(request: &SignedRequest, body: &'static [u8]) -> sitefs_base::Result<PutOutcome> {
    Transfer::new().put(&request.url, &request.headers, Bytes::from_static(body), LONG).await
}

#[tokio::test]
async fn objects_are_put_read_listed_and_deleted() {
    let Some(config) = config("objects_are_put_read_listed_and_deleted") else { return };
    let store = connect(config);
    let key = key(b"hello");
    assert_eq!(store.head(&key).await.unwrap(), None);
    assert_eq!(store.get(&key).await.unwrap_err().kind(), Kind::NotFound);
    store.put(&key, Bytes::from_static(b"hello")).await.unwrap();
    store.put(&key, Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!(store.head(&key).await.unwrap(), Some(5));
    let bytes = store.get(&key).await.unwrap();
    assert_eq!(**VerifiedBytes::check(key.digest, bytes).unwrap(), *b"hello");
    let prefix = ObjectKey::site_prefix(key.site);
    let listed = store.list(&prefix, None, 10).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].key.parse::<ObjectKey>().unwrap(), listed[0].len), (key, 5));
    assert!(SystemClock.now().since(listed[0].modified) < Duration::from_secs(600));
    assert!(store.list(&prefix, Some(&listed[0].key), 10).await.unwrap().is_empty());
    store.delete(&key).await.unwrap();
    store.delete(&key).await.unwrap();
    assert_eq!(store.head(&key).await.unwrap(), None);
}

#[tokio::test]
async fn the_probe_passes_and_leaves_nothing() {
    let Some(config) = config("the_probe_passes_and_leaves_nothing") else { return };
    let store = connect(config);
    store.check().await.unwrap();
    eprintln!("the store enforces SHA-512: {}", store.enforces_digest());
    assert!(store.list("probe/", None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_mount_puts_and_gets_by_grants() {
    let Some(config) = config("a_mount_puts_and_gets_by_grants") else { return };
    let store = connect(config);
    let key = key(b"by a grant");
    let put = store.presign_put(&key, 10, VALID).await.unwrap().unwrap();
    assert_eq!(put.method, "PUT");
    assert!(put.expires > SystemClock.now());
    assert_eq!(put_by(&put, b"by a grant").await.unwrap(), PutOutcome::Stored);
    assert_eq!(put_by(&put, b"by a grant").await.unwrap(), PutOutcome::Existed);
    let get = store.presign_get(&key, VALID).await.unwrap().unwrap();
    let transfer = Transfer::new();
    assert_eq!(transfer.get(&get.url, &get.headers, 10, LONG).await.unwrap(), "by a grant");
    assert_eq!(transfer.get(&get.url, &get.headers, 9, LONG).await.unwrap_err().kind(), Kind::Corrupt);
    store.delete(&key).await.unwrap();
    assert_eq!(transfer.get(&get.url, &get.headers, 10, LONG).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn a_grant_cannot_be_used_for_something_else() {
    let Some(config) = config("a_grant_cannot_be_used_for_something_else") else { return };
    let store = connect(config);
    let key = key(b"ten bytes.");
    let put = store.presign_put(&key, 10, VALID).await.unwrap().unwrap();
    for signed in ["if-none-match", "x-amz-checksum-sha512", "content-length"] {
        assert!(put.headers.iter().any(|(name, _)| name == signed), "{signed} is signed: {:?}", put.headers);
    }
    for dropped in ["if-none-match", "x-amz-checksum-sha512"] {
        let mut without = put.clone();
        without.headers.retain(|(name, _)| name != dropped);
        let error = put_by(&without, b"ten bytes.").await.unwrap_err();
        assert!(matches!(error.kind(), Kind::Denied | Kind::Invalid), "without {dropped}: {}", error.chain());
    }
    let mut longer = put.clone();
    longer
        .headers
        .iter_mut()
        .filter(|(name, _)| name == "content-length")
        .for_each(|(_, len)| *len = "11".into());
    assert_eq!(put_by(&longer, b"eleven byte").await.unwrap_err().kind(), Kind::Denied);
    let mut elsewhere = put.clone();
    elsewhere.url = put.url.replace(&key.digest.to_string(), &hash(b"x").to_string());
    assert_eq!(put_by(&elsewhere, b"ten bytes.").await.unwrap_err().kind(), Kind::Denied);
    assert_eq!(store.head(&key).await.unwrap(), None);
}

#[tokio::test]
async fn a_grant_ends() {
    let Some(config) = config("a_grant_ends") else { return };
    let past = sitefs_base::ManualClock::new(sitefs_base::Time::new(SystemClock.now().secs() - 600, 0));
    let store = S3Backend::connect(config, Arc::new(past)).unwrap();
    let put = store.presign_put(&key(b"late"), 4, VALID).await.unwrap().unwrap();
    assert_eq!(put_by(&put, b"late").await.unwrap_err().kind(), Kind::Denied);
}

#[tokio::test]
async fn a_wrong_bucket_is_named_with_what_to_do() {
    let Some(config) = config("a_wrong_bucket_is_named_with_what_to_do") else { return };
    let store = connect(S3Config { bucket: "sitefs-no-such-bucket".into(), ..config });
    let error = store.check().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.doing().starts_with("bucket sitefs-no-such-bucket does not exist"), "{}", error.chain());
    assert_eq!(store.get(&key(b"x")).await.unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test]
async fn wrong_keys_are_named_with_what_to_do() {
    let Some(config) = config("wrong_keys_are_named_with_what_to_do") else { return };
    let right = Credentials::from_env().unwrap();
    let table = [
        (Credentials { access_key_id: "nobody".into(), ..right.clone() }, "access key id is unknown"),
        (Credentials { secret_access_key: "guess".into(), ..right }, "secret key is wrong"),
    ];
    for (credentials, advice) in table {
        let store = connect(S3Config { credentials: Some(credentials), ..config.clone() });
        let error = store.check().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
        assert!(error.doing().contains(advice), "{}", error.chain());
        assert!(!error.chain().contains("guess"));
        assert_eq!(store.put(&key(b"x"), Bytes::from_static(b"x")).await.unwrap_err().kind(), Kind::Denied);
    }
}

#[tokio::test]
async fn a_store_that_is_not_there_is_said_to_be_unreachable() {
    let keys = Credentials { access_key_id: "a".into(), secret_access_key: "b".into(), session_token: None };
    let config = S3Config {
        endpoint: Some("http://127.0.0.1:9".into()),
        bucket: "b".into(),
        region: None,
        credentials: Some(keys),
    };
    let error = connect(config).check().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.doing().starts_with("http://127.0.0.1:9 cannot be reached"), "{}", error.chain());
    eprintln!("{}", error.chain());
}
