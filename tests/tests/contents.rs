//! Content that changes under open descriptors: by another mount, and by copies of the descriptor.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use sitefs_tests::{Cell, Mounted, can_mount, wait_for};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

const SOON: Duration = Duration::from_secs(30);

/// Keeps a file open and mapped, and tells which version it sees: each byte of a version is the same.
const READER: &str = r#"
import mmap, os, sys
def seen(data): return "".join(sorted({chr(byte) for byte in data}))
held = os.open(sys.argv[1], os.O_RDONLY)
view = mmap.mmap(held, 0, mmap.MAP_SHARED, mmap.PROT_READ)
print("open", flush=True)
for line in sys.stdin:
    fresh = os.open(sys.argv[1], os.O_RDONLY)
    read = os.pread(fresh, 1 << 20, 0)
    new = mmap.mmap(fresh, len(read), mmap.MAP_SHARED, mmap.PROT_READ)
    print(seen(read), len(read), seen(new[:]), seen(os.pread(held, 1 << 20, 0)), seen(view[:]), flush=True)
    new.close()
    os.close(fresh)
"#;

/// Writes a file through copies of one descriptor, a step for each line that it is told.
const WRITER: &str = r#"
import mmap, os, sys
path, kind = sys.argv[1], sys.argv[2]
first = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
os.write(first, b"a" * 300000)
def wait(word):
    print(word, flush=True)
    sys.stdin.readline()
if kind == "dup":
    second = os.dup(first)
    os.close(first)
    wait("closed once")
    os.pwrite(second, b"b" * 150000, 0)
    os.close(second)
elif kind == "fork":
    hear, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(tell)
        os.read(hear, 1)
        os.pwrite(first, b"b" * 150000, 0)
        os._exit(0)
    os.close(first)
    wait("closed once")
    os.close(tell)
    os.waitpid(child, 0)
elif kind == "mapped":
    view = mmap.mmap(first, 300000, mmap.MAP_SHARED)
    os.close(first)
    wait("closed once")
    view[0:150000] = b"b" * 150000
    view.close()
wait("closed")
"#;

struct Program {
    child: Child,
    words: ChildStdin,
    said: Receiver<String>,
}

impl Program {
    fn start(text: &str, file: &Path, kind: &str) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", text]).arg(file).arg(kind).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (words, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (tell, said) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, words, said }
    }

    fn answer(&self) -> String {
        self.said.recv_timeout(SOON).expect("an answer of the program")
    }

    fn ask(&mut self) -> String {
        writeln!(self.words).unwrap();
        self.answer()
    }

    fn end(&mut self) {
        writeln!(self.words).unwrap();
        wait_for("the end of the program", SOON, || self.child.try_wait().unwrap().is_some());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Not waited for: if it cannot be killed, the test has failed already.
        let _ = self.child.kill();
        let _ = self.child.try_wait();
    }
}

fn two_mounts() -> Option<(Cell, Mounted, Mounted)> {
    if !can_mount() {
        return None;
    }
    let cell = Cell::start();
    let (one, two) = (cell.mount("acme/live"), cell.mount("acme/live"));
    Some((cell, one, two))
}

/// Writes version after version on one mount, each of one letter, under a reader of the other.
fn versions(file: &str, sizes: &[usize]) {
    let Some((_cell, one, two)) = two_mounts() else { return };
    let path = one.path(file);
    fs::write(&path, vec![b'A'; sizes[0]]).unwrap();
    wait_for("the file", SOON, || fs::read(two.path(file)).is_ok_and(|read| read.len() == sizes[0]));
    let mut reader = Program::start(READER, &two.path(file), "");
    assert_eq!(reader.answer(), "open");
    assert!(reader.ask().starts_with(&format!("A {} A ", sizes[0])));
    let letters: Vec<u8> = (b'B'..=b'Z').collect();
    for (letter, size) in letters.iter().zip(sizes.iter().cycle().skip(1)) {
        fs::write(&path, vec![*letter; *size]).unwrap();
        let (letter, seen) = (char::from(*letter), reader.ask());
        let words: Vec<&str> = seen.split(' ').collect();
        // What is opened now has all of the new content and nothing else, read or mapped.
        assert_eq!(words[..3], [letter.to_string(), size.to_string(), letter.to_string()], "{seen}");
        // What was open before has old or new bytes, and never others. A mapping behind the end has zeros.
        let known = |text: &str| text.chars().all(|seen| seen == '\0' || ('A'..=letter).contains(&seen));
        assert!(words[3..].iter().all(|text| known(text)), "{seen}");
    }
}

#[test]
fn who_opens_after_a_change_reads_and_maps_the_new_content_whatever_is_cached() {
    versions("same size", &[8192]);
    versions("same size, in blobs", &[300_000]);
}

#[test]
fn who_opens_after_a_change_of_size_reads_and_maps_the_new_content() {
    versions("sizes", &[300_000, 310_000, 400_000]);
}

/// `a` in the first version, then `b` in its first half.
fn is_second(read: &[u8]) -> bool {
    read.len() == 300_000
        && read[..150_000].iter().all(|byte| *byte == b'b')
        && read[150_000..].iter().all(|byte| *byte == b'a')
}

fn is_first(read: &[u8]) -> bool {
    read.len() == 300_000 && read.iter().all(|byte| *byte == b'a')
}

/// The first close commits and makes a blob, which a copy shares. Writes that come later through what is
/// left of the descriptor make another version and leave that blob alone.
fn written_after_the_first_close(kind: &str) {
    let Some((cell, one, two)) = two_mounts() else { return };
    let mut writer = Program::start(WRITER, &one.path("file"), kind);
    assert_eq!(writer.answer(), "closed once");
    assert!(is_first(&fs::read(two.path("file")).unwrap()), "the first close has committed");
    fs::copy(two.path("file"), two.path("copy")).unwrap();
    assert_eq!(writer.ask(), "closed");
    let both = [&one, &two];
    wait_for("the second version", SOON, || {
        both.iter().all(|mount| is_second(&fs::read(mount.path("file")).unwrap()))
    });
    for mount in both {
        assert!(is_first(&fs::read(mount.path("copy")).unwrap()), "the first version's blob was changed");
    }
    writer.end();
    let third = cell.mount("acme/live");
    assert!(is_second(&fs::read(third.path("file")).unwrap()));
    assert!(is_first(&fs::read(third.path("copy")).unwrap()));
}

#[test]
fn writes_through_a_copy_of_a_descriptor_after_the_first_close_are_kept() {
    written_after_the_first_close("dup");
}

#[test]
fn writes_of_a_forked_program_after_its_parent_closed_are_kept() {
    written_after_the_first_close("fork");
}

#[test]
fn writes_through_a_mapping_after_the_last_close_are_kept() {
    written_after_the_first_close("mapped");
}
