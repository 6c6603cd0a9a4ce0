//! An object store that fails in every way there is: small files go on, large ones wait in the journal, cached
//! reads go on, other reads say EIO, and afterwards everything is in the store and right.
//!
//! The store is one in memory; where `SITEFS_TEST_S3_ENDPOINT` names a real one, that one too behind the same
//! faults. `SITEFS_OUTAGE_SECONDS` makes the outages longer (`scripts/soak`).

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use rustix::fs::{Advice, fadvise};
use sitefs_base::Errno;
use sitefs_tests::{
    Cell, Fault, FaultyStore, Mounted, SOON, can_mount, close, content, run, sitefs, skipped, wait_for,
};
use std::{
    env,
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// Closes of these tests wait two seconds for the store.
const FAST: &[&str] = &["--close-deadline", "2"];
const LARGE: usize = 3 << 20;
const SMALL: usize = 20_000;
const SMALL_FILES: u64 = 20;
/// What the cell and two mounts may ask a store that is down, per second and at first.
const PER_SECOND: u64 = 12;
const AT_FIRST: u64 = 120;

/// A cell on a store that can be broken.
struct World {
    store: FaultyStore,
    cell: Cell,
}

impl World {
    fn new() -> Self {
        Self::with(&[])
    }

    /// The same with more arguments for the server.
    fn with(extra: &[&str]) -> Self {
        let keys = [("AWS_ACCESS_KEY_ID", "somebody"), ("AWS_SECRET_ACCESS_KEY", "secret")];
        Self::on(FaultyStore::in_memory(), "sites", &keys, extra)
    }

    /// The same before a real store, if there is one.
    fn before_a_real_store() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let Ok(endpoint) = env::var("SITEFS_TEST_S3_ENDPOINT") else {
            skipped("SITEFS_TEST_S3_ENDPOINT is not set: no S3 service to test with");
            return None;
        };
        let bucket = format!("faults-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let key = |name| env::var(name).expect("the keys are set with the endpoint");
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail", "-X", "PUT", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user"])
            .arg(format!("{}:{}", key("AWS_ACCESS_KEY_ID"), key("AWS_SECRET_ACCESS_KEY")))
            .arg(format!("{endpoint}/{bucket}"));
        run(curl, SOON).ok();
        let store = FaultyStore::before(endpoint.trim_start_matches("http://"));
        Some(Self::on(store, &bucket, &[], &[]))
    }

    fn on(store: FaultyStore, bucket: &str, env: &[(&str, &str)], extra: &[&str]) -> Self {
        let endpoint = store.endpoint();
        let arguments = ["--s3-endpoint", &endpoint, "--bucket", bucket, "--metrics", "127.0.0.1:0"];
        Self { cell: Cell::with(&[&arguments, extra].concat(), env), store }
    }

    /// Small blobs that are not in the store yet.
    fn hot_blobs(&self) -> u64 {
        let page = page(&self.cell.process().said("metrics"));
        let row = page.lines().find_map(|line| line.strip_prefix("sitefs_cell_hot_blobs "));
        row.unwrap_or_else(|| panic!("no such row in {page}")).parse().unwrap()
    }

    fn wait_until_drained(&self) {
        wait_for("hot blobs in the store", SOON, || self.hot_blobs() == 0);
    }
}

fn page(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

fn journal_is_empty(mount: &Mounted) -> bool {
    let listed = sitefs(&["journal", "list", "--json", mount.cache().to_str().unwrap()]).ok().json();
    listed.as_array().unwrap().is_empty()
}

/// Reads a file through the daemon and not from the kernel's pages.
fn read_through(path: &Path) -> std::io::Result<Vec<u8>> {
    fadvise(File::open(path)?, 0, None, Advice::DontNeed)?;
    fs::read(path)
}

fn small_files(mount: &Mounted, from: u64) -> Duration {
    let began = Instant::now();
    for number in from..from + SMALL_FILES {
        fs::write(mount.path(&format!("small{number}")), content(number, SMALL)).unwrap();
    }
    began.elapsed() / u32::try_from(SMALL_FILES).unwrap()
}

fn outage_lasts() -> Duration {
    let set = env::var("SITEFS_OUTAGE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(set.unwrap_or(5))
}

/// Whether a read that needs the store is tried too: it takes its 30 s.
#[derive(Clone, Copy, PartialEq)]
enum FarRead {
    Tried,
    LeftOut,
}

/// An outage from its beginning to its end, whatever it looks like.
fn lives_through(world: &World, fault: Fault, far_read: FarRead) {
    let mount = world.cell.mount_with("acme/live", FAST);
    fs::write(mount.path("cached"), content(1, LARGE)).unwrap();
    let normal = small_files(&mount, 100);
    world.wait_until_drained();
    let far = world.cell.mount("acme/live");
    world.store.breaks(fault, None, None);
    let (requests, began) = (world.store.requests(None), Instant::now());

    let during = small_files(&mount, 200);
    // The goal is 1.2 times, on a machine that does nothing else.
    let limit = normal * 3 + Duration::from_millis(50);
    assert!(during < limit, "small files took {during:?}, and {normal:?} before");
    let mut large = File::create(mount.path("large")).unwrap();
    large.write_all(&content(7, LARGE)).unwrap();
    let start = Instant::now();
    close(large).unwrap();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(!journal_is_empty(&mount), "{fault:?}");
    for (name, number, size) in [("large", 7, LARGE), ("cached", 1, LARGE), ("small201", 201, SMALL)] {
        assert!(read_through(&mount.path(name)).unwrap() == content(number, size), "{fault:?}: {name}");
    }
    assert!(fs::read(far.path("small205")).unwrap() == content(205, SMALL), "the cell has it");
    if far_read == FarRead::Tried {
        let start = Instant::now();
        let error = fs::read(far.path("cached")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::EIO.get()));
        // With what the kernel asks a second time when reading ahead has failed.
        assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
        let log = far.process().log();
        assert!(log.contains("a blob cannot be fetched"), "{log}");
    }
    let rest = outage_lasts().saturating_sub(began.elapsed());
    std::thread::park_timeout(rest);
    let (spent, seconds) = (world.store.requests(None) - requests, began.elapsed().as_secs());
    assert!(spent < AT_FIRST + PER_SECOND * seconds, "{fault:?}: {spent} requests in {seconds} s");
    eprintln!("{fault:?}: {spent} requests in {seconds} s; small files {during:?}, before {normal:?}");

    world.store.mend();
    wait_for("an empty journal", SOON, || journal_is_empty(&mount));
    world.wait_until_drained();
    assert!(read_through(&far.path("cached")).unwrap() == content(1, LARGE), "reads go on");
    let fresh = world.cell.mount("acme/live");
    assert!(fs::read(fresh.path("large")).unwrap() == content(7, LARGE));
    for number in 200..200 + SMALL_FILES {
        assert!(fs::read(fresh.path(&format!("small{number}"))).unwrap() == content(number, SMALL));
    }
}

#[test]
fn a_store_that_says_to_slow_down_loses_nothing() {
    if can_mount() {
        lives_through(&World::new(), Fault::Refuses(503, "SlowDown"), FarRead::Tried);
    }
}

#[test]
fn a_store_that_never_answers_loses_nothing() {
    if can_mount() {
        lives_through(&World::new(), Fault::Silent, FarRead::Tried);
    }
}

#[test]
fn a_store_with_inner_errors_loses_nothing() {
    if can_mount() {
        lives_through(&World::new(), Fault::Refuses(500, "InternalError"), FarRead::LeftOut);
    }
}

#[test]
fn a_store_that_resets_connections_loses_nothing() {
    if can_mount() {
        lives_through(&World::new(), Fault::Resets, FarRead::LeftOut);
    }
}

#[test]
fn a_real_store_that_is_away_loses_nothing() {
    for fault in [Fault::Refuses(503, "SlowDown"), Fault::Resets] {
        if let (true, Some(world)) = (can_mount(), World::before_a_real_store()) {
            lives_through(&world, fault, FarRead::LeftOut);
        }
    }
}

/// What goes wrong a few times and is made good without anybody noticing.
const PASSING: &[(Fault, Option<&str>, u32)] = &[
    (Fault::Refuses(503, "SlowDown"), None, 3),
    (Fault::Refuses(500, "InternalError"), None, 3),
    (Fault::Refuses(409, "ConditionalRequestConflict"), Some("PUT"), 2),
    (Fault::Resets, None, 3),
    (Fault::LosesReply, Some("PUT"), 2),
    (Fault::LosesPut, Some("PUT"), 1),
    (Fault::HalvesPut, Some("PUT"), 1),
    (Fault::CutsBody, Some("GET"), 2),
    (Fault::Truncates, Some("GET"), 1),
    (Fault::Corrupts, Some("GET"), 1),
    (Fault::Late(Duration::from_secs(2)), None, 8),
    (Fault::ListsNothing, None, 8),
];

fn makes_good(world: &World) {
    // However slow the machine is, nothing shall end in the journal.
    let writer = world.cell.mount_with("acme/live", &["--close-deadline", "60"]);
    for (number, (fault, method, times)) in PASSING.iter().enumerate() {
        let (large, small) = (number as u64 * 2, number as u64 * 2 + 1);
        let before = world.store.faults();
        world.store.breaks(*fault, *method, Some(*times));
        fs::write(writer.path(&format!("large{number}")), content(large, LARGE)).unwrap();
        fs::write(writer.path(&format!("small{number}")), content(small, SMALL)).unwrap();
        let mut reader = world.cell.mount("acme/live");
        let read = |name: &str| fs::read(reader.path(name)).unwrap();
        assert!(read(&format!("large{number}")) == content(large, LARGE), "{fault:?}");
        assert!(read(&format!("small{number}")) == content(small, SMALL), "{fault:?}");
        let is_listing = *fault == Fault::ListsNothing;
        assert!(is_listing || world.store.faults() > before, "{fault:?} was not met");
        world.wait_until_drained();
        world.store.mend();
        assert_eq!(reader.stop(), 0);
    }
    let reader = world.cell.mount("acme/live");
    for number in 0..PASSING.len() {
        let (large, small) = (number as u64 * 2, number as u64 * 2 + 1);
        assert!(fs::read(reader.path(&format!("large{number}"))).unwrap() == content(large, LARGE));
        assert!(fs::read(reader.path(&format!("small{number}"))).unwrap() == content(small, SMALL));
    }
}

#[test]
fn faults_that_pass_are_made_good() {
    if can_mount() {
        makes_good(&World::new());
    }
}

#[test]
fn faults_that_pass_are_made_good_on_a_real_store() {
    if let (true, Some(world)) = (can_mount(), World::before_a_real_store()) {
        makes_good(&world);
    }
}

#[test]
fn wrong_bytes_are_never_read_however_long_the_store_gives_them() {
    if !can_mount() {
        return;
    }
    let mut world = World::new();
    // The cell may read the object too meanwhile, and note that it is damaged.
    world.cell.is_damaged_on_purpose();
    let writer = world.cell.mount("acme/live");
    fs::write(writer.path("file"), content(5, LARGE)).unwrap();
    for fault in [Fault::Corrupts, Fault::Truncates] {
        world.store.breaks(fault, Some("GET"), None);
        let reader = world.cell.mount("acme/live");
        let error = fs::read(reader.path("file")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::EIO.get()));
        let log = reader.process().log();
        assert!(log.contains("a blob arrived damaged"), "{log}");
        world.store.mend();
        assert!(fs::read(reader.path("file")).unwrap() == content(5, LARGE), "{fault:?}");
    }
}

#[test]
fn beyond_the_hot_limit_small_files_go_to_the_store_and_while_it_is_away_into_the_journal() {
    if !can_mount() {
        return;
    }
    let world = World::with(&["--hot-limit-site", "100KiB"]);
    let mount = world.cell.mount_with("acme/live", FAST);
    small_files(&mount, 0);
    assert!(journal_is_empty(&mount), "the store takes them");
    world.wait_until_drained();
    world.store.breaks(Fault::Refuses(503, "SlowDown"), None, None);
    // Five fit; the others wait two seconds each for the store.
    for number in 100..108 {
        fs::write(mount.path(&format!("small{number}")), content(number, SMALL)).unwrap();
    }
    assert!(!journal_is_empty(&mount));
    world.store.mend();
    wait_for("an empty journal", SOON, || journal_is_empty(&mount));
    world.wait_until_drained();
    let fresh = world.cell.mount("acme/live");
    for number in (0..SMALL_FILES).chain(100..108) {
        assert!(fs::read(fresh.path(&format!("small{number}"))).unwrap() == content(number, SMALL));
    }
}

#[test]
fn a_large_file_is_read_ahead_and_each_blob_fetched_once() {
    if !can_mount() {
        return;
    }
    const BLOBS: u64 = 12;
    let world = World::new();
    let bytes = content(3, usize::try_from(BLOBS * 4).unwrap() << 20);
    fs::write(world.cell.mount("acme/live").path("film"), &bytes).unwrap();
    let reader = world.cell.mount("acme/live");
    world.store.breaks(Fault::Late(Duration::from_millis(300)), Some("GET"), None);
    let (before, _) = (world.store.requests(Some("GET")), world.store.most_at_a_time());
    std::thread::scope(|scope| {
        let read = || assert!(fs::read(reader.path("film")).unwrap() == bytes);
        (0..3).for_each(|_| drop(scope.spawn(read)));
    });
    assert!(world.store.most_at_a_time() >= 3, "blobs come one after the other");
    let gets = world.store.requests(Some("GET")) - before;
    // Verifying what was uploaded reads each of them once more, and a busy machine asks again beside a few.
    assert!(gets <= 2 * BLOBS + 4, "{gets} requests for {BLOBS} blobs");
}
