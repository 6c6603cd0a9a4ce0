//! The S3 backend on a store that fails as told.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![cfg(feature = "s3")]

use bytes::Bytes;
use sitefs_base::{Clock, Generation, Incarnation, Kind, SiteId, SystemClock};
use sitefs_blobstore::{Backend, Credentials, ObjectKey, S3Backend, S3Config, VerifiedBytes, hash};
use sitefs_tests::{Fault, FaultyStore};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const CONTENT: &[u8] = b"what is in the object";
const SLOW_DOWN: Fault = Fault::Refuses(503, "SlowDown");
const INNER: Fault = Fault::Refuses(500, "InternalError");

fn start() -> (FaultyStore, S3Backend) {
    let store = FaultyStore::in_memory();
    let credentials = Credentials {
        access_key_id: "somebody".into(),
        secret_access_key: "secret".into(),
        session_token: None,
    };
    let config = S3Config {
        endpoint: Some(store.endpoint()),
        bucket: "sites".into(),
        credentials: Some(credentials),
        ..S3Config::default()
    };
    let backend = S3Backend::connect(config, Arc::new(SystemClock)).unwrap();
    (store, backend)
}

fn key() -> ObjectKey {
    let generation = Generation { incarnation: Incarnation::new(1), counter: 1 };
    ObjectKey { site: SiteId::new(7), digest: hash(CONTENT), generation }
}

async fn put(backend: &S3Backend) -> sitefs_base::Result<()> {
    backend.put(&key(), Bytes::from_static(CONTENT)).await
}

#[tokio::test]
async fn refusals_that_pass_are_tried_again() {
    for fault in [SLOW_DOWN, INNER, Fault::Resets] {
        let (store, backend) = start();
        store.breaks(fault, None, Some(2));
        put(&backend).await.unwrap();
        store.breaks(fault, None, Some(2));
        assert_eq!(backend.get(&key()).await.unwrap(), CONTENT, "{fault:?}");
        store.breaks(fault, None, Some(2));
        assert_eq!(backend.head(&key()).await.unwrap(), Some(CONTENT.len() as u64));
        store.breaks(fault, None, Some(2));
        assert_eq!(backend.list("b/", None, 10).await.unwrap().len(), 1);
        assert_eq!(store.requests(None), 12);
    }
}

#[tokio::test]
async fn refusals_that_last_are_unavailable_after_three_attempts() {
    for fault in [SLOW_DOWN, INNER, Fault::Resets] {
        let (store, backend) = start();
        store.breaks(fault, None, None);
        assert_eq!(put(&backend).await.unwrap_err().kind(), Kind::Unavailable, "{fault:?}");
        assert_eq!(store.requests(None), 3);
        assert_eq!(backend.head(&key()).await.unwrap_err().kind(), Kind::Unavailable);
        store.mend();
        put(&backend).await.unwrap();
    }
}

#[tokio::test]
async fn an_object_whose_put_had_no_answer_is_there() {
    let (store, backend) = start();
    store.breaks(Fault::LosesReply, Some("PUT"), Some(1));
    put(&backend).await.unwrap();
    assert_eq!(store.objects().len(), 1);
    put(&backend).await.unwrap();
    assert_eq!(store.objects().into_values().collect::<Vec<_>>(), [CONTENT]);
}

#[tokio::test]
async fn a_conflict_of_two_writers_is_for_later() {
    let (store, backend) = start();
    store.breaks(Fault::Refuses(409, "ConditionalRequestConflict"), Some("PUT"), None);
    assert_eq!(put(&backend).await.unwrap_err().kind(), Kind::Unavailable);
    store.mend();
    put(&backend).await.unwrap();
}

#[tokio::test]
async fn bodies_that_are_cut_short_or_wrong_never_pass_for_the_object() {
    let (store, backend) = start();
    put(&backend).await.unwrap();
    store.breaks(Fault::CutsBody, Some("GET"), Some(1));
    assert_eq!(backend.get(&key()).await.unwrap_err().kind(), Kind::Unavailable);
    for fault in [Fault::Truncates, Fault::Corrupts] {
        store.breaks(fault, Some("GET"), Some(1));
        let bytes = backend.get(&key()).await.unwrap();
        assert_eq!(VerifiedBytes::check(key().digest, bytes).unwrap_err().kind(), Kind::Corrupt);
    }
    assert_eq!(backend.get(&key()).await.unwrap(), CONTENT);
}

#[tokio::test]
async fn what_a_store_lost_or_halved_shows_in_its_size() {
    let (store, backend) = start();
    store.breaks(Fault::LosesPut, Some("PUT"), Some(1));
    put(&backend).await.unwrap();
    assert_eq!(backend.head(&key()).await.unwrap(), None);
    store.breaks(Fault::HalvesPut, Some("PUT"), Some(1));
    put(&backend).await.unwrap();
    assert_eq!(backend.head(&key()).await.unwrap(), Some(CONTENT.len() as u64 / 2));
}

#[tokio::test]
async fn a_slow_store_is_waited_for_and_an_old_listing_is_no_error() {
    let (store, backend) = start();
    store.breaks(Fault::Late(Duration::from_secs(2)), None, Some(2));
    put(&backend).await.unwrap();
    assert_eq!(backend.get(&key()).await.unwrap(), CONTENT);
    store.breaks(Fault::ListsNothing, None, Some(1));
    assert!(backend.list("b/", None, 10).await.unwrap().is_empty());
    assert_eq!(backend.list("b/", None, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_store_that_never_answers_ends_by_the_deadline() {
    let (store, backend) = start();
    store.breaks(Fault::Silent, None, None);
    let began = Instant::now();
    assert_eq!(backend.head(&key()).await.unwrap_err().kind(), Kind::Unavailable);
    assert!(began.elapsed() < Duration::from_secs(35), "{:?}", began.elapsed());
}

#[tokio::test]
async fn clocks_that_differ_are_made_up_for() {
    let (store, backend) = start();
    for ahead in [3600, -3600] {
        store.set_clock_ahead(ahead);
        backend.head(&key()).await.unwrap();
        let grant = backend.presign_get(&key(), Duration::from_secs(300)).await.unwrap().unwrap();
        let difference = grant.expires.secs() - SystemClock.now().secs() - 300 - ahead;
        assert!(difference.abs() <= 5, "{difference} s");
    }
}
