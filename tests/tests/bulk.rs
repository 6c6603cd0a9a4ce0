//! What large directories, cold trees and large files cost in requests to the cell and blobs.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use sitefs_tests::{Cell, Mounted, SOON, can_mount, content, run};
use std::{
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::FileExt,
    process::Command,
};

/// A mount whose requests are counted.
struct Counted {
    mount: Mounted,
    address: String,
}

impl Counted {
    fn new(cell: &Cell) -> Self {
        let mount = cell.mount_with("acme/live", &["--metrics", "127.0.0.1:0"]);
        let address = mount.process().said("metrics");
        Self { mount, address }
    }

    fn value(&self, row: &str) -> u64 {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", self.address).unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        let found = page.lines().find_map(|line| line.strip_prefix(row)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no {row}")).parse().unwrap()
    }

    fn questions(&self) -> u64 {
        self.value("sitefs_mount_cell_requests_total{kind=\"question\"}")
    }

    /// Questions that `work` costs.
    fn asked(&self, work: impl FnOnce(&Mounted)) -> u64 {
        let before = self.questions();
        work(&self.mount);
        self.questions() - before
    }
}

fn lines_of(command: &mut Command) -> usize {
    let done = run(std::mem::replace(command, Command::new("true")), SOON).ok();
    done.stdout.lines().count()
}

fn find(mount: &Mounted) -> usize {
    lines_of(Command::new("find").arg(mount.root()).args(["-printf", "%s %t %p\n"]))
}

/// More entries than the mount remembers inodes.
const MANY: usize = 70_000;

#[test]
fn a_directory_of_more_entries_than_are_remembered_costs_bulk_requests() {
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let writer = cell.mount("acme/live");
    fs::create_dir(writer.path("dir")).unwrap();
    std::thread::scope(|scope| {
        for part in 0..16 {
            let dir = writer.path("dir");
            scope.spawn(move || {
                let mine = (0..MANY).filter(|number| number % 16 == part);
                // Links need no commit of content each.
                mine.for_each(|number| {
                    std::os::unix::fs::symlink("there", dir.join(format!("link-{number}"))).unwrap();
                });
            });
        }
    });
    let counted = Counted::new(&cell);
    let asked = counted.asked(|mount| assert_eq!(find(mount), MANY + 2));
    assert!(asked < 300, "{asked} questions, cold");
    let names = |mount: &Mounted| assert_eq!(fs::read_dir(mount.path("dir")).unwrap().count(), MANY);
    let asked = counted.asked(names);
    assert!(asked < 100, "{asked} questions for a listing that is known");
}

#[test]
fn a_cold_tree_costs_a_few_requests_for_each_directory() {
    const DIRS: usize = 30;
    const FILES: usize = 60;
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let writer = cell.mount("acme/live");
    for dir in 0..DIRS {
        let dir = writer.path(&format!("dir-{dir}"));
        fs::create_dir(&dir).unwrap();
        (0..FILES).for_each(|file| fs::write(dir.join(format!("file-{file}")), "text").unwrap());
    }
    let all = 1 + DIRS + DIRS * FILES;
    let du = |mount: &Mounted| lines_of(Command::new("du").arg("-a").arg(mount.root()));
    let ls = |mount: &Mounted| lines_of(Command::new("ls").arg("-lR").arg(mount.root()));
    let programs: [(&str, &dyn Fn(&Mounted) -> usize, usize); 3] =
        [("find", &find, all), ("du", &du, all), ("ls", &ls, all + 3 * DIRS + 1)];
    for (name, program, lines) in programs {
        let counted = Counted::new(&cell);
        let asked = counted.asked(|mount| assert_eq!(program(mount), lines, "{name}"));
        assert!(asked <= 2 * DIRS as u64 + 10, "{name}: {asked} questions");
        let again = counted.asked(|mount| assert_eq!(program(mount), lines, "{name}"));
        assert_eq!(again, 0, "{name}, when all is known");
    }
}

#[test]
fn a_range_of_a_large_file_fetches_its_chunk_and_no_others() {
    const CHUNK: u64 = 4 << 20;
    const SIZE: u64 = 5 << 30;
    if !can_mount() {
        return;
    }
    let cell = Cell::start();
    let writer = cell.mount("acme/live");
    let ranges = [0, 7 * CHUNK + 5, (1 << 32) - 100, SIZE - 70_000];
    let file = File::create(writer.path("large")).unwrap();
    for (number, at) in ranges.into_iter().enumerate() {
        file.write_all_at(&content(number as u64, 70_000), at).unwrap();
    }
    file.set_len(SIZE).unwrap();
    drop(file);
    let counted = Counted::new(&cell);
    let fetched = || counted.value("sitefs_mount_blobs_fetched_total");
    let file = File::open(counted.mount.path("large")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), SIZE);
    let mut found = vec![0; 70_000];
    for (number, at) in ranges.into_iter().enumerate() {
        let before = fetched();
        file.read_exact_at(&mut found, at).unwrap();
        assert!(found == content(number as u64, 70_000), "at {at}");
        assert!(fetched() - before <= 2, "at {at}: {} blobs", fetched() - before);
    }
    file.read_exact_at(&mut found, 2 << 30).unwrap();
    assert!(found.iter().all(|byte| *byte == 0));
    assert!(fetched() <= 5, "{} blobs", fetched());
    // A change of a byte sends its chunk, and what it needs of it.
    let change = fs::OpenOptions::new().write(true).open(counted.mount.path("large")).unwrap();
    change.write_all_at(b"changed", 3 << 30).unwrap();
    drop(change);
    assert_eq!(counted.value("sitefs_mount_uploaded_bytes_total"), CHUNK);
    assert!(fetched() <= 5, "{} blobs", fetched());
}
