//! Garbage collection against everything that happens at the same time, on real mounts.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use serde_json::Value;
use sitefs_base::{Random, SeededRandom};
use sitefs_tests::{Cell, Mounted, SOON, can_mount, content, next_second, run, skipped, wait_for};
use std::{
    collections::BTreeMap,
    env, fs,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

const VOLUME: &str = "acme/live";
const QUICK: [&str; 4] = ["--gc-grace", "3s", "--gc-uploads", "20s"];
/// Contents that all writers share, so that one names again what another has just removed.
const SIZES: [usize; 8] = [300, 700, 5_000, 60_000, 80_000, 300_000, 700_000, (4 << 20) + 9];

/// How much longer it lasts until something was deleted.
const LATE: Duration = Duration::from_secs(60);

/// How long the race lasts.
fn seconds() -> u64 {
    env::var("SITEFS_SOAK_SECONDS")
        .ok()
        .map_or(20, |text| text.parse().expect("SITEFS_SOAK_SECONDS is a number"))
}

fn json(cell: &Cell, arguments: &[&str]) -> Value {
    cell.admin(&[&["--json"], arguments].concat()).ok().json()
}

fn objects(dir: &Path) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let entries = entries.flatten().map(|entry| entry.path());
    entries.map(|path| if path.is_dir() { objects(&path) } else { 1 }).sum()
}

fn pause(time: Duration) {
    let until = Instant::now() + time;
    wait_for("a moment", time + SOON, || Instant::now() >= until);
}

/// What a writer has in its directory: by name the content's number.
type Files = BTreeMap<String, usize>;

fn bytes_of(number: usize) -> Vec<u8> {
    content(number as u64, SIZES[number % SIZES.len()])
}

/// Writes, renames and removes files, and reads them through the other mount.
fn writer(number: usize, mounts: &[Mounted; 2], ends: &AtomicBool) -> Files {
    let random = SeededRandom::new(number as u64);
    let below = |limit: usize| usize::try_from(random.next_u64() % limit as u64).unwrap();
    let (dir, mut files) = (format!("w{number}"), Files::new());
    fs::create_dir(mounts[0].path(&dir)).unwrap();
    while !ends.load(Ordering::Relaxed) {
        let name = format!("{dir}/f{}", below(12));
        let (here, there) = (&mounts[below(2)], &mounts[below(2)]);
        match below(10) {
            0..=4 => {
                let which = below(12);
                fs::write(here.path(&name), bytes_of(which)).unwrap();
                files.insert(name, which);
            }
            5..=6 => {
                let removed = files.remove(&name).is_some();
                // The other mount may not have heard of it yet.
                wait_for("the file to remove", SOON, || {
                    !removed || fs::remove_file(here.path(&name)).is_ok()
                });
            }
            7 => {
                let to = format!("{dir}/f{}", below(12));
                if let Some(which) = files.remove(&name) {
                    wait_for("the file to rename", SOON, || {
                        fs::rename(here.path(&name), here.path(&to)).is_ok()
                    });
                    files.insert(to, which);
                }
            }
            _ => {
                if let Some(which) = files.get(&name) {
                    let wanted = bytes_of(*which);
                    let what = format!("{name} to be content {which}");
                    wait_for(&what, SOON, || fs::read(there.path(&name)).is_ok_and(|found| found == wanted));
                }
            }
        }
    }
    files
}

/// Removes a directory and brings it back from a snapshot, again and again.
fn restorer(cell: &Cell, mount: &Mounted, ends: &AtomicBool) {
    let dir = mount.path("fixed");
    let files: Vec<(String, Vec<u8>)> =
        (0..20).map(|n| (format!("f{n}"), content(1000 + n, 900 * (n as usize + 1)))).collect();
    let write = || {
        fs::create_dir(&dir).unwrap();
        files.iter().for_each(|(name, bytes)| fs::write(dir.join(name), bytes).unwrap());
    };
    write();
    let mut round = 0;
    while !ends.load(Ordering::Relaxed) {
        let name = format!("s{round}");
        json(cell, &["volume", "snapshot", "create", VOLUME, &name]);
        fs::remove_dir_all(&dir).unwrap();
        // Longer than the grace: only the snapshot keeps the content.
        pause(Duration::from_millis(4500));
        json(cell, &["volume", "restore", VOLUME, "--path", "/fixed", "--at", &name]);
        json(cell, &["volume", "snapshot", "delete", VOLUME, &name]);
        for (file, bytes) in &files {
            let path = dir.join(file);
            wait_for("a restored file", SOON, || fs::read(&path).is_ok_and(|found| found == *bytes));
        }
        round += 1;
    }
}

/// Collects without a rest, and counts the objects that were deleted.
fn collector(cell: &Cell, ends: &AtomicBool, deleted: &AtomicU64) {
    while !ends.load(Ordering::Relaxed) {
        let ran = cell.admin(&["--json", "gc", "run"]);
        // The cell may run by itself at that moment.
        if ran.code == 75 {
            continue;
        }
        let report = ran.ok().json();
        assert_eq!(report["wrong"], 0, "{report:#}");
        deleted.fetch_add(report["deleted"].as_u64().unwrap(), Ordering::Relaxed);
    }
}

fn race(cell: &Cell, left: impl Fn() -> usize) {
    cell.volume(VOLUME);
    // Nothing but snapshots keeps the past.
    json(cell, &["volume", "set", VOLUME, "--history-limit", "0"]);
    let (mut mounts, ends) = ([cell.mount(VOLUME), cell.mount(VOLUME)], AtomicBool::new(false));
    let deleted = AtomicU64::new(0);
    let files = thread::scope(|threads| {
        let writers: Vec<_> = (0..3)
            .map(|n| {
                threads.spawn({
                    let (mounts, ends) = (&mounts, &ends);
                    move || writer(n, mounts, ends)
                })
            })
            .collect();
        let restores = threads.spawn(|| restorer(cell, &mounts[1], &ends));
        let collects = threads.spawn(|| collector(cell, &ends, &deleted));
        let until = Instant::now() + Duration::from_secs(seconds());
        // A slow machine may need longer to come to a deletion at all.
        let goes_on = || match Instant::now() {
            now if now < until => true,
            now => deleted.load(Ordering::Relaxed) == 0 && now < until + LATE,
        };
        while goes_on() && !writers.iter().any(|writer| writer.is_finished()) {
            thread::park_timeout(Duration::from_millis(100));
        }
        ends.store(true, Ordering::Relaxed);
        let files: Vec<Files> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        restores.join().unwrap();
        collects.join().unwrap();
        files
    });
    let deleted = deleted.into_inner();
    assert!(deleted > 0, "nothing was deleted meanwhile");
    // With an empty cache everything comes from the store.
    let mut fresh = cell.mount(VOLUME);
    for (name, which) in files.iter().flatten() {
        assert!(fs::read(fresh.path(name)).unwrap() == bytes_of(*which), "{name} is not content {which}");
    }
    println!(
        "{deleted} objects deleted during the race, {} files read back",
        files.iter().map(BTreeMap::len).sum::<usize>()
    );
    for entry in fs::read_dir(fresh.root()).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    fresh.umount();
    for mount in &mut mounts {
        mount.umount();
    }
    next_second();
    wait_for("an empty store", Duration::from_secs(90), || {
        cell.admin(&["gc", "run"]);
        left() == 0
    });
}

#[test]
fn writers_snapshots_restores_and_collections_race() {
    if !can_mount() {
        return;
    }
    let cell = Cell::with(&QUICK, &[]);
    race(&cell, || objects(&cell.data().join("blobs/b")));
}

#[test]
fn the_same_race_on_s3() {
    let Some(endpoint) = env::var("SITEFS_TEST_S3_ENDPOINT").ok().filter(|_| can_mount()) else {
        skipped("SITEFS_TEST_S3_ENDPOINT is not set: no S3 service to test with");
        return;
    };
    let bucket = format!("sitefs-gc-{}", std::process::id());
    request("PUT", &format!("{endpoint}/{bucket}"));
    let backend = ["--s3-endpoint", &endpoint, "--bucket", &bucket, "--region", "us-east-1"];
    let cell = Cell::with(&[&backend[..], &QUICK].concat(), &[]);
    let listing = format!("{endpoint}/{bucket}?list-type=2&prefix=b%2F");
    race(&cell, || request("GET", &listing).matches("<Key>").count());
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

#[test]
fn the_command_says_what_is_kept_and_why() {
    if !can_mount() {
        return;
    }
    let cell = Cell::with(&["--gc-grace", "1h"], &[]);
    let mount = cell.mount(VOLUME);
    fs::write(mount.path("kept"), content(1, 100_000)).unwrap();
    fs::write(mount.path("gone"), content(2, 200_000)).unwrap();
    next_second();
    next_second();
    fs::remove_file(mount.path("gone")).unwrap();
    let plan = json(&cell, &["gc", "run", "--dry-run"]);
    assert_eq!((&plan["live"]["blobs"], &plan["history"]["bytes"]), (&1.into(), &200_000.into()), "{plan:#}");
    json(&cell, &["volume", "set", VOLUME, "--history-limit", "0"]);
    next_second();
    let report = json(&cell, &["gc", "run"]);
    assert_eq!(
        (&report["condemned"]["bytes"], &report["dry_run"]),
        (&200_000.into(), &false.into()),
        "{report:#}"
    );
    let text = cell.admin(&["gc", "run"]).ok().stdout;
    assert!(text.contains("kept: its grace is not over"), "{text}");
    assert_eq!(json(&cell, &["gc", "pause"])["paused"], true);
    cell.admin(&["gc", "run"]).refused(75, "sitefs gc resume");
    let status = json(&cell, &["gc", "status"]);
    assert_eq!((&status["paused"], &status["grace_seconds"]), (&true.into(), &3600.into()), "{status:#}");
    assert!(cell.admin(&["gc", "status"]).ok().stdout.starts_with("paused"));
    assert_eq!(json(&cell, &["gc", "resume"])["paused"], false);
    assert_eq!(fs::read(mount.path("kept")).unwrap(), content(1, 100_000));
}
