//! Blobs in a real S3 service: `scripts/minio start` gives the variables.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use sitefs_tests::{Cell, Demo, can_mount, content, run, skipped};
use std::{
    env, fs,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// The endpoint, with the keys in the environment.
fn endpoint() -> Option<String> {
    if !can_mount() {
        return None;
    }
    let endpoint = env::var("SITEFS_TEST_S3_ENDPOINT").ok();
    if endpoint.is_none() {
        skipped("SITEFS_TEST_S3_ENDPOINT is not set: no S3 service to test with");
    }
    endpoint
}

/// A request signed by curl.
fn request(method: &str, url: &str) -> String {
    let key = |name| env::var(name).expect("the keys are set with the endpoint");
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--fail", "-X", method, "--aws-sigv4", "aws:amz:us-east-1:s3", "--user"])
        .arg(format!("{}:{}", key("AWS_ACCESS_KEY_ID"), key("AWS_SECRET_ACCESS_KEY")))
        .arg(url);
    run(curl, Duration::from_secs(60)).ok().stdout
}

/// A new bucket: cells must not share one.
fn bucket(endpoint: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("sitefs-e2e-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    request("PUT", &format!("{endpoint}/{name}"));
    name
}

fn objects(endpoint: &str, bucket: &str) -> usize {
    request("GET", &format!("{endpoint}/{bucket}?list-type=2")).matches("<Key>").count()
}

#[test]
fn a_demo_on_s3_keeps_its_content_there() {
    let Some(endpoint) = endpoint() else { return };
    let bucket = bucket(&endpoint);
    let arguments = ["--s3-endpoint", &endpoint, "--bucket", &bucket, "--region", "us-east-1"];
    let mut demo = Demo::with(&arguments, &[]);
    let sizes = [100, 30_000, 700_000, (9 << 20) + 1];
    for size in sizes {
        fs::write(demo.path(&format!("f{size}")), content(size as u64, size)).unwrap();
    }
    // The two large files at once: 1 and 3 blobs. The hot one follows in its own time.
    assert!(objects(&endpoint, &bucket) >= 4);
    demo.kill9();
    fs::remove_dir_all(demo.data().join("cache")).unwrap();
    demo.start_again();
    for size in sizes {
        assert!(fs::read(demo.path(&format!("f{size}"))).unwrap() == content(size as u64, size), "{size}");
    }
}

#[test]
fn a_mount_reads_and_writes_s3_without_any_key() {
    let Some(endpoint) = endpoint() else { return };
    let bucket = bucket(&endpoint);
    let cell = Cell::with(&["--s3-endpoint", &endpoint, "--bucket", &bucket, "--region", "us-east-1"], &[]);
    let writer = cell.mount("acme/live");
    fs::write(writer.path("big"), content(4, 5 << 20)).unwrap();
    assert!(objects(&endpoint, &bucket) >= 2);
    let reader = cell.mount("acme/live");
    assert!(fs::read(reader.path("big")).unwrap() == content(4, 5 << 20));
}

#[test]
fn a_missing_bucket_and_wrong_keys_are_one_clear_line() {
    let Some(endpoint) = endpoint() else { return };
    let missing = Demo::try_with(&["--s3-endpoint", &endpoint, "--bucket", "sitefs-no-such-bucket"], &[]);
    missing.expect_err("a missing bucket was accepted").refused(65, "sitefs-no-such-bucket");
    let bucket = bucket(&endpoint);
    let arguments = ["--s3-endpoint", endpoint.as_str(), "--bucket", &bucket];
    let wrong = Demo::try_with(&arguments, &[("AWS_SECRET_ACCESS_KEY", "wrong-wrong-wrong")]);
    wrong.expect_err("wrong keys were accepted").refused(77, "AWS_SECRET_ACCESS_KEY");
}
