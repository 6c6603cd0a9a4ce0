//! What `--metrics` shows is what `docs/METRICS.md` explains, and it is fed.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use sitefs_tests::{Cell, Demo, SOON, can_mount, content, wait_for};
use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
};

fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

fn page(address: &str) -> String {
    let reply = ask(address, "GET /metrics");
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("version=0.0.4"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    body.to_owned()
}

/// Kinds by name.
fn shown(page: &str) -> BTreeMap<String, String> {
    let kinds = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    kinds.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

/// The rows of the tables of the page for people: `| name | type | unit | … |`.
fn documented() -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/METRICS.md");
    let text = fs::read_to_string(path).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    // What to alert on are expressions.
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let named = rows.filter(|(name, _)| is_name(name));
    named.map(|(name, rest)| (name.to_owned(), rest.split(' ').next().unwrap().to_owned())).collect()
}

/// The value of a row, with its labels if it has some.
fn value(page: &str, row: &str) -> f64 {
    let found = page.lines().find_map(|line| line.strip_prefix(row)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {row} in\n{page}")).parse().unwrap()
}

#[test]
fn every_metric_is_documented_and_every_documented_metric_is_there() {
    if !can_mount() {
        return;
    }
    let demo = Demo::with(&["--metrics", "127.0.0.1:0"], &[]);
    let page = page(&demo.process().said("metrics"));
    assert_eq!(shown(&page), documented());
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (row, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap_or_else(|error| panic!("{line}: {error}"));
        let name = row.split('{').next().unwrap();
        let part_of = |end: &str| name.strip_suffix(end).is_some_and(|of| shown(&page).contains_key(of));
        assert!(shown(&page).contains_key(name) || ["_bucket", "_sum", "_count"].into_iter().any(part_of));
    }
}

#[test]
fn the_metrics_of_mount_and_server_are_fed() {
    if !can_mount() {
        return;
    }
    let cell = Cell::with(&["--metrics", "127.0.0.1:0"], &[]);
    let mount = cell.mount_with("acme/live", &["--metrics", "127.0.0.1:0"]);
    let bytes = content(1, 5 << 20);
    fs::write(mount.path("file"), &bytes).unwrap();
    assert!(fs::read(mount.path("file")).unwrap() == bytes);
    fs::metadata(mount.path("missing")).unwrap_err();
    fs::create_dir(mount.path("file")).unwrap_err();

    let address = mount.process().said("metrics");
    let told = || page(&address);
    let at_mount = told();
    assert_eq!(value(&at_mount, "sitefs_mount_info{cell=\"main\",volume=\"acme/live\"}"), 1.0);
    for op in ["lookup", "getattr", "create", "write", "flush"] {
        let row = format!("sitefs_mount_request_seconds_count{{op=\"{op}\"}}");
        assert!(value(&at_mount, &row) >= 1.0, "{row}");
    }
    assert!(value(&at_mount, "sitefs_mount_request_seconds_count{op=\"write\"}") >= 5.0);
    assert!(value(&at_mount, "sitefs_mount_cell_requests_total{kind=\"operation\"}") >= 2.0);
    assert_eq!(value(&at_mount, "sitefs_mount_trouble_total{errno=\"EIO\"}"), 0.0);
    assert_eq!(value(&at_mount, "sitefs_mount_uploaded_bytes_total"), bytes.len() as f64);
    assert_eq!(value(&at_mount, "sitefs_mount_connected"), 1.0);
    wait_for("a lease", SOON, || value(&told(), "sitefs_mount_lease_seconds") > 0.0);
    assert!(value(&at_mount, "process_resident_memory_bytes") > 1e6);

    let server = cell.process().said("metrics");
    let at_server = page(&server);
    assert_eq!(value(&at_server, "sitefs_cell_info{cell=\"main\"}"), 1.0);
    assert_eq!(value(&at_server, "sitefs_cell_sessions"), 1.0);
    assert_eq!(value(&at_server, "sitefs_cell_watchers"), 1.0);
    assert!(value(&at_server, "sitefs_cell_apply_seconds_count") >= 3.0);
    assert!(value(&at_server, "sitefs_cell_log_sync_seconds_count") >= 3.0);
    assert!(value(&at_server, "sitefs_cell_entry_commands_sum") >= 3.0);
    assert!(value(&at_server, "sitefs_cell_applied_index") >= 3.0);
    assert!(value(&at_server, "sitefs_cell_disk_free_bytes") > 0.0);
    assert!(ask(&server, "GET /").starts_with("HTTP/1.1 404 "));
    assert!(ask(&server, "POST /metrics").starts_with("HTTP/1.1 405 "));
}

#[test]
fn changes_that_are_not_committed_are_counted() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let mount = cell.mount_with("acme/live", &["--metrics", "127.0.0.1:0"]);
    let address = mount.process().said("metrics");
    let mut file = fs::File::create(mount.path("file")).unwrap();
    file.write_all(&content(2, 100_000)).unwrap();
    let dirty = page(&address);
    assert_eq!(value(&dirty, "sitefs_mount_dirty_files"), 1.0);
    assert_eq!(value(&dirty, "sitefs_mount_dirty_bytes"), 100_000.0);
    assert_eq!(value(&dirty, "sitefs_mount_open_files"), 1.0);
    drop(file);
    let clean = || value(&page(&address), "sitefs_mount_dirty_files") == 0.0;
    wait_for("the commit", SOON, clean);
}
