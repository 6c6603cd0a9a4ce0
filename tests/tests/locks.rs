//! flock and fcntl locks between programs on two mounts of one volume.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use sitefs_tests::{Cell, Mounted, can_mount, wait_for};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

const SOON: Duration = Duration::from_secs(30);
/// Long enough for an answer that must not come.
const A_WHILE: Duration = Duration::from_millis(500);
const KINDS: [&str; 2] = ["flock", "lockf"];

/// Does what it is told, a word a line.
const PROGRAM: &str = r#"
import errno, fcntl, os, signal, sys
class Alarm(Exception): pass
def ring(*_): raise Alarm
signal.signal(signal.SIGALRM, ring)
f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o666)
call = getattr(fcntl, sys.argv[2])
ops = {"lock": fcntl.LOCK_EX, "share": fcntl.LOCK_SH, "unlock": fcntl.LOCK_UN,
       "try": fcntl.LOCK_EX | fcntl.LOCK_NB, "try share": fcntl.LOCK_SH | fcntl.LOCK_NB}
def add():
    os.pwrite(f, b"%08d" % (int(os.pread(f, 8, 0) or b"0") + 1), 0)
print("open", flush=True)
for line in sys.stdin:
    word = line.strip()
    try:
        if word == "close": os.close(f)
        elif word == "fork":
            pid = os.fork()
            if pid == 0: os.close(f); os._exit(0)
            os.waitpid(pid, 0)
        elif word == "lock for a second": signal.alarm(1); call(f, fcntl.LOCK_EX)
        elif word == "count":
            for _ in range(25): call(f, fcntl.LOCK_EX); add(); call(f, fcntl.LOCK_UN)
        elif word == "count by closing":
            for _ in range(10):
                f = os.open(sys.argv[1], os.O_RDWR); call(f, fcntl.LOCK_EX); add(); os.close(f)
        elif word.startswith("first "): fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, int(word[6:]))
        else: call(f, ops[word])
        print("ok", flush=True)
    except OSError as e: print(errno.errorcode[e.errno], flush=True)
    except Alarm: print("alarm", flush=True)
"#;

/// A program that has a file open. Killed when dropped.
struct Program {
    child: Child,
    words: ChildStdin,
    said: Receiver<String>,
}

impl Program {
    fn start(file: &Path, kind: &str) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", PROGRAM]).arg(file).arg(kind);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (words, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (tell, said) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let program = Self { child, words, said };
        assert_eq!(program.answer(), "open");
        program
    }

    fn tell(&mut self, word: &str) {
        writeln!(self.words, "{word}").unwrap();
    }

    fn answer(&self) -> String {
        self.said.recv_timeout(SOON).expect("an answer of the program")
    }

    fn ask(&mut self, word: &str) -> String {
        self.tell(word);
        self.answer()
    }

    fn waits(&self) -> bool {
        self.said.recv_timeout(A_WHILE) == Err(RecvTimeoutError::Timeout)
    }

    /// Kills it and waits for its end.
    fn kill9(&mut self) {
        self.child.kill().unwrap();
        wait_for("the end of a killed program", SOON, || self.child.try_wait().unwrap().is_some());
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

#[test]
fn locks_exclude_programs_of_another_mount() {
    let Some((_cell, one, two)) = two_mounts() else { return };
    for kind in KINDS {
        let mut a = Program::start(&one.path(kind), kind);
        let mut b = Program::start(&two.path(kind), kind);
        assert_eq!(
            (a.ask("try"), b.ask("try"), b.ask("try share")),
            ("ok".into(), "EAGAIN".into(), "EAGAIN".into())
        );
        assert_eq!(
            (a.ask("share"), b.ask("try share"), a.ask("try")),
            ("ok".into(), "ok".into(), "EAGAIN".into())
        );
        assert_eq!((b.ask("unlock"), a.ask("try")), ("ok".into(), "ok".into()));
        let mut same_mount = Program::start(&one.path(kind), kind);
        assert_eq!(same_mount.ask("try"), "EAGAIN");
        // A child that closes its copy takes nothing away; the last close does.
        assert_eq!((a.ask("fork"), b.ask("try")), ("ok".into(), "EAGAIN".into()), "{kind}");
        assert_eq!((a.ask("close"), b.ask("lock")), ("ok".into(), "ok".into()), "{kind}");
    }
    let mut ranges = (Program::start(&one.path("r"), "lockf"), Program::start(&two.path("r"), "lockf"));
    assert_eq!((ranges.0.ask("first 10"), ranges.1.ask("first 10")), ("ok".into(), "EAGAIN".into()));
    assert_eq!((ranges.0.ask("unlock"), ranges.1.ask("first 10")), ("ok".into(), "ok".into()));
}

#[test]
fn a_waiting_program_gets_the_lock_when_another_mount_gives_it_back() {
    let Some((_cell, one, two)) = two_mounts() else { return };
    for kind in KINDS {
        let mut a = Program::start(&one.path(kind), kind);
        let mut b = Program::start(&two.path(kind), kind);
        assert_eq!(a.ask("lock"), "ok");
        b.tell("lock");
        assert!(b.waits());
        assert_eq!(a.ask("unlock"), "ok");
        assert_eq!(b.answer(), "ok");
        a.tell("lock");
        assert!(a.waits());
        drop(b);
        assert_eq!(a.answer(), "ok", "its holder was killed");
    }
}

#[test]
fn what_was_written_under_a_lock_is_there_for_the_next() {
    let Some((_cell, one, two)) = two_mounts() else { return };
    for (kind, word, times) in
        [("flock", "count", 25), ("lockf", "count", 25), ("flock", "count by closing", 10)]
    {
        let name = format!("{kind} {word}");
        let mounts = [&one, &two, &one, &two];
        let mut programs = mounts.map(|mount| Program::start(&mount.path(&name), kind));
        programs.iter_mut().for_each(|program| program.tell(word));
        programs.iter().for_each(|program| assert_eq!(program.answer(), "ok"));
        drop(programs);
        for mount in [&one, &two] {
            assert_eq!(fs::read_to_string(mount.path(&name)).unwrap(), format!("{:08}", 4 * times), "{name}");
        }
    }
}

#[test]
fn a_killed_waiter_ends_and_leaves_nothing_behind() {
    let Some((_cell, one, two)) = two_mounts() else { return };
    for kind in KINDS {
        let mut a = Program::start(&one.path(kind), kind);
        let mut b = Program::start(&two.path(kind), kind);
        assert_eq!(a.ask("lock"), "ok");
        b.tell("lock");
        assert!(b.waits());
        b.kill9();
        assert_eq!(a.ask("unlock"), "ok");
        assert_eq!(a.ask("try"), "ok", "nobody else got it");
        assert_eq!(a.ask("unlock"), "ok");
        assert_eq!(Program::start(&two.path(kind), kind).ask("try"), "ok");
    }
}

#[test]
fn a_signal_ends_a_wait() {
    let Some((_cell, one, two)) = two_mounts() else { return };
    for kind in KINDS {
        let mut a = Program::start(&one.path(kind), kind);
        let mut b = Program::start(&two.path(kind), kind);
        assert_eq!(a.ask("lock"), "ok");
        assert_eq!(b.ask("lock for a second"), "alarm");
        assert_eq!((a.ask("unlock"), a.ask("try"), a.ask("unlock")), ("ok".into(), "ok".into(), "ok".into()));
        assert_eq!(b.ask("try"), "ok");
    }
}

#[test]
fn a_file_that_two_mounts_create_at_once_has_one_lock() {
    let Some((_cell, one, two)) = two_mounts() else { return };
    for kind in KINDS {
        // Both have the new file open, and the cell knows of neither.
        let mut a = Program::start(&one.path(kind), kind);
        let mut b = Program::start(&two.path(kind), kind);
        assert_eq!((a.ask("try"), b.ask("try")), ("ok".into(), "EAGAIN".into()));
    }
}

#[test]
fn locks_survive_a_restart_of_the_cell() {
    let Some((mut cell, one, two)) = two_mounts() else { return };
    for kind in KINDS {
        let mut a = Program::start(&one.path(kind), kind);
        let mut b = Program::start(&two.path(kind), kind);
        let mut c = Program::start(&two.path(kind), kind);
        assert_eq!(a.ask("lock"), "ok");
        b.tell("lock");
        assert!(b.waits());
        cell.kill9();
        cell.start_again();
        assert_eq!(c.ask("try"), "EAGAIN", "{kind}: the other mount may be later than this one");
        assert!(b.waits());
        assert_eq!(a.ask("unlock"), "ok");
        assert_eq!(b.answer(), "ok");
    }
}

#[test]
fn more_programs_can_wait_than_the_mount_has_threads() {
    let Some((_cell, one, two)) = two_mounts() else { return };
    let mut holder = Program::start(&one.path("busy"), "flock");
    assert_eq!(holder.ask("lock"), "ok");
    let script = r"
import fcntl, os, sys, threading
def wait():
    f = os.open(sys.argv[1], os.O_RDWR); fcntl.flock(f, fcntl.LOCK_EX); os.close(f)
threads = [threading.Thread(target=wait) for _ in range(200)]
for t in threads: t.start()
print('all wait', flush=True)
for t in threads: t.join()
";
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(two.path("busy")).stdout(Stdio::piped());
    let mut waiters = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(waiters.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "all wait\n");
    for n in 0..10 {
        fs::write(two.path(&format!("other {n}")), "not in the way").unwrap();
        fs::remove_file(two.path(&format!("other {n}"))).unwrap();
    }
    assert_eq!(holder.ask("close"), "ok");
    wait_for("everybody's turn", SOON, || waiters.try_wait().unwrap().is_some());
    assert!(waiters.wait().unwrap().success());
}
