//! Warm reads on several file systems side by side: as programs read, in turns, with the same files on each.

mod bare;

pub(crate) use bare::serve;

use crate::{
    place::{failed, random_bytes},
    stats::median,
};
use serde::Serialize;
use sitefs_base::{Error, Result};
use std::{
    fs::{self, File},
    io::Read,
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Files of 8 KiB, and how often each is opened, read and closed in a repetition.
const SMALL: (usize, usize) = (64, 8 << 10);
const ROUNDS: usize = 50;
/// Files of one blob, the largest that there is.
const LARGE: (usize, usize) = (8, 4 << 20);
const BLOCK: usize = 128 << 10;
const PAGE: usize = 4096;
/// Random reads in each large file.
const RANDOM: usize = 4096;
/// What the rows are called.
const CASES: [&str; 4] =
    ["open, read 8 KiB, close", "sequential read", "random reads of 4 KiB", "mmap, touch pages"];

/// A directory that is measured.
pub(crate) struct Side {
    name: String,
    dir: PathBuf,
}

/// The times of one side, in microseconds for each operation, 4 KiB or MiB.
#[derive(Debug, Serialize)]
pub(crate) struct Reads {
    /// The side.
    name: String,
    /// The medians of its repetitions, in the order of the cases.
    micros: Vec<f64>,
    /// The first side's time divided by its own: 1 is as fast.
    ratio: Vec<f64>,
}

/// The bare file system, in a process of its own.
struct Bare(Child, PathBuf);

impl Drop for Bare {
    fn drop(&mut self) {
        // It ends when it is unmounted; what cannot be unmounted is left to the one who looks.
        let _ = rustix::mount::unmount(&self.1, rustix::mount::UnmountFlags::DETACH);
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = fs::remove_dir(&self.1);
    }
}

/// `NAME=DIR`, as given on the command line.
pub(crate) fn side(text: &str) -> std::result::Result<(String, PathBuf), String> {
    let (name, dir) = text.split_once('=').ok_or("give NAME=DIR")?;
    Ok((name.to_owned(), dir.into()))
}

/// Measures; the first side is what the others are compared with, and what a bare passthrough shows too.
pub(crate) fn measure(given: &[(String, PathBuf)], repetitions: usize) -> Result<Vec<Reads>> {
    let mut sides: Vec<Side> = Vec::new();
    for (name, dir) in given {
        fs::create_dir_all(dir).map_err(failed("making", dir))?;
        fill(dir)?;
        sides.push(Side { name: name.clone(), dir: dir.clone() });
    }
    let native = sides.first().ok_or_else(|| Error::invalid("there is nothing to measure"))?;
    let bare = mount_bare(&native.dir)?;
    sides.push(Side { name: "bare passthrough".to_owned(), dir: bare.1.clone() });
    let mut all: Vec<[Vec<f64>; CASES.len()]> = sides.iter().map(|_| Default::default()).collect();
    // Before what counts: what has to be cached is then.
    for _ in 0..3 {
        sides.iter().try_for_each(|side| once(&side.dir).map(drop))?;
        std::thread::sleep(Duration::from_millis(300));
    }
    for repetition in 0..repetitions {
        for turn in 0..sides.len() {
            let at = (turn + repetition) % sides.len();
            for (values, value) in all[at].iter_mut().zip(once(&sides[at].dir)?) {
                values.push(value);
            }
        }
    }
    let medians: Vec<Vec<f64>> =
        all.iter().map(|cases| cases.iter().filter_map(|values| median(values)).collect()).collect();
    let ratio = |micros: &[f64]| medians[0].iter().zip(micros).map(|(first, own)| first / own).collect();
    let reads = sides.iter().zip(&medians).map(|(side, micros)| Reads {
        name: side.name.clone(),
        ratio: ratio(micros),
        micros: micros.clone(),
    });
    Ok(reads.collect())
}

/// A table.
pub(crate) fn text(reads: &[Reads]) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    for (at, case) in CASES.iter().enumerate() {
        for side in reads {
            let (micros, ratio) = (side.micros.get(at).copied(), side.ratio.get(at).copied());
            // Writing to a string does not fail.
            let _ = writeln!(
                out,
                "{case:26} {:20} {:10.2} µs  {:5.2} of the first",
                side.name,
                micros.unwrap_or_default(),
                ratio.unwrap_or_default()
            );
        }
    }
    out
}

fn paths(dir: &Path, kind: &str, count: usize) -> Vec<PathBuf> {
    (0..count).map(|number| dir.join(format!("{kind}-{number}"))).collect()
}

fn fill(dir: &Path) -> Result<()> {
    for (kind, (count, size)) in [("small", SMALL), ("large", LARGE)] {
        for path in paths(dir, kind, count) {
            fs::write(&path, random_bytes(size)).map_err(failed("writing", &path))?;
        }
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "counts are small")]
fn per(took: Duration, count: usize) -> f64 {
    took.as_secs_f64() * 1e6 / count as f64
}

/// Everything once.
fn once(dir: &Path) -> Result<[f64; CASES.len()]> {
    let (small, large) = (paths(dir, "small", SMALL.0), paths(dir, "large", LARGE.0));
    let mut buffer = vec![0; SMALL.1];
    let begun = Instant::now();
    for path in std::iter::repeat_n(&small, ROUNDS).flatten() {
        let read = File::open(path).and_then(|mut file| file.read_exact(&mut buffer));
        read.map_err(failed("reading", path))?;
    }
    let opened = per(begun.elapsed(), SMALL.0 * ROUNDS);
    let (mut sequential, mut random, mut mapped) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut block = vec![0; BLOCK];
    for path in &large {
        let doing = |what| failed(what, path);
        let begun = Instant::now();
        let mut file = File::open(path).map_err(doing("opening"))?;
        while file.read(&mut block).map_err(doing("reading"))? > 0 {}
        sequential += begun.elapsed();
        let (begun, mut at) = (Instant::now(), 1);
        for _ in 0..RANDOM {
            // A full period over the pages.
            at = (at * 5 + 1) % (LARGE.1 / PAGE);
            file.read_exact_at(&mut block[..PAGE], (at * PAGE) as u64).map_err(doing("reading"))?;
        }
        random += begun.elapsed();
        mapped += touch(&file).map_err(doing("mapping"))?;
    }
    let mib = LARGE.0 * LARGE.1 / (1 << 20);
    Ok([opened, per(sequential, mib), per(random, LARGE.0 * RANDOM), per(mapped, mib)])
}

/// Maps a large file and reads a byte of each page.
#[allow(unsafe_code, reason = "mmap")]
fn touch(file: &File) -> std::io::Result<Duration> {
    let begun = Instant::now();
    // SAFETY: a new mapping of a file that nobody changes meanwhile; it is gone at the end, and the reads are in it.
    unsafe {
        let flags = (libc::PROT_READ, libc::MAP_SHARED);
        let at = libc::mmap(std::ptr::null_mut(), LARGE.1, flags.0, flags.1, file.as_raw_fd(), 0);
        if at == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let bytes = std::slice::from_raw_parts(at.cast::<u8>(), LARGE.1);
        std::hint::black_box(bytes.iter().step_by(PAGE).map(|byte| u64::from(*byte)).sum::<u64>());
        libc::munmap(at, LARGE.1);
    }
    Ok(begun.elapsed())
}

fn mount_bare(dir: &Path) -> Result<Bare> {
    let failed = |error| Error::io("starting the bare passthrough", error);
    let mount = dir.with_extension("bare");
    fs::create_dir_all(&mount).map_err(failed)?;
    let own = std::env::current_exe().map_err(failed)?;
    let child = Command::new(own)
        .arg("--serve-bare")
        .arg(format!("{}={}", dir.display(), mount.display()))
        .stdout(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let bare = Bare(child, mount);
    let begun = Instant::now();
    while !bare.1.join("small-0").exists() {
        if begun.elapsed() > Duration::from_secs(10) {
            return Err(Error::unavailable(
                "the bare passthrough does not mount: root, and kernel 6.9, are needed",
            ));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(bare)
}
