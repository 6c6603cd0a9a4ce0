//! The cell on a real object store; `eval "$(scripts/minio start)"` gives one.

use super::{
    blobs::{LEN, content},
    harness::{Mount, TestCell, commit, config},
    start,
};
use crate::server::BackendConfig;
use bytes::Bytes;
use sitefs_base::{
    Kind,
    op::{AnswerBody, Grant, Location, NewContent, Query, Uploaded},
};
use sitefs_blobstore::hash;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The store that the environment names. Without one the test says that it did nothing.
fn backend() -> Option<BackendConfig> {
    let set = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    let found = set("SITEFS_TEST_S3_ENDPOINT").zip(set("SITEFS_TEST_S3_BUCKET"));
    if found.is_none() {
        eprintln!("SKIPPED: no S3 store; run eval \"$(scripts/minio start)\" first");
    }
    found.map(|(endpoint, bucket)| BackendConfig::S3 { endpoint: Some(endpoint), bucket, region: None })
}

/// Executes a presigned request as any HTTP client would; the status line and the body.
async fn execute(method: &str, location: &Location, body: &[u8]) -> (String, Vec<u8>) {
    let Location::Url { url, headers, .. } = location else { panic!("not signed: {location:?}") };
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let mut request = format!("{method} /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    for (name, value) in headers.iter().filter(|(name, _)| name != "host") {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if method == "PUT" && !headers.iter().any(|(name, _)| name == "content-length") {
        request.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    let mut stream = TcpStream::connect(host).await.unwrap();
    stream.write_all(&[request.as_bytes(), b"\r\n", body].concat()).await.unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.unwrap();
    let end = reply.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let status = String::from_utf8_lossy(&reply[..end]).lines().next().unwrap().to_owned();
    (status, reply[end + 4..].to_vec())
}

async fn resolve(mount: &mut Mount, ino: sitefs_base::InodeId, digest: sitefs_base::Digest) -> Location {
    let answer = mount.ask(Query::Resolve { ino, digests: vec![digest] }).await.unwrap();
    let AnswerBody::Locations(mut places) = answer.body else { panic!("locations") };
    places.pop().flatten().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_to_the_store_and_come_back_by_presigned_requests() {
    let Some(backend) = backend() else { return };
    let cell = TestCell::start_with(backend).await;
    let mut mount = cell.mount(1).await;
    // The store outlives the cell, so the content is new in every run.
    let (digest, bytes) = content(u8::try_from(std::process::id() % 251).unwrap());
    let Grant::Upload { generation, target } = mount.grant(digest).await else { panic!("an upload") };
    let (status, _) = execute("PUT", &target, &bytes).await;
    assert!(status.contains("200"), "{status}");
    let made = mount.publish(b"a", digest, vec![Uploaded { digest, generation }]).await.unwrap();
    let place = resolve(&mut mount, made.ino.unwrap(), digest).await;
    let (status, body) = execute("GET", &place, b"").await;
    assert!(status.contains("200") && body.len() == LEN && body == bytes, "{status}, {} bytes", body.len());
    assert_eq!(mount.fetch(made.ino.unwrap(), digest).await.unwrap(), bytes, "through the cell too");

    let ino = mount.new_inode().await;
    let bytes = Bytes::from(vec![9; 10_000]);
    let digest = hash(&bytes);
    mount.op(commit(ino, b"hot", NewContent::Hot { digest, bytes: bytes.clone() })).await.unwrap();
    let mut place = resolve(&mut mount, ino, digest).await;
    for _ in 0..500 {
        if place != Location::Cell {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        place = resolve(&mut mount, ino, digest).await;
    }
    assert_eq!(execute("GET", &place, b"").await.1, bytes, "drained");
    cell.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_missing_is_named() {
    let Some(BackendConfig::S3 { endpoint, region, .. }) = backend() else { return };
    let dir = tempfile::tempdir().unwrap();
    let backend = BackendConfig::S3 { endpoint, bucket: "no-such-bucket".to_owned(), region };
    let error = start(super::ServerConfig { backend, ..config(dir.path()) }).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.doing().contains("no-such-bucket"), "{error}");
}
