//! Runs the binary under test.

use crate::SOON;
use serde_json::Value;
use std::{
    env,
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

/// With this variable every test runs on mounts that read all content themselves.
const PASSTHROUGH: &str = "SITEFS_TEST_PASSTHROUGH";

/// What a command gave.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; 128 and the signal if one ended it.
    pub code: i32,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Finished {
    /// Panics unless the command succeeded.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }

    /// Panics unless the command ended with `code` and said why in one line that has `words`.
    pub fn refused(&self, code: i32, words: &str) {
        assert_eq!(self.code, code, "{self:#?}");
        let lines: Vec<&str> = self.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
        let [line] = lines[..] else { panic!("not one line: {self:#?}") };
        assert!(line.starts_with("sitefs: ") && line.contains(words), "no {words:?} in {line:?}");
        assert!(!line.contains("panicked"), "{line}");
    }

    /// stdout as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(self.stdout.trim()).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// The binary under test: `SITEFS_BIN`, or the one that `cargo build` left.
pub fn binary() -> PathBuf {
    if let Some(path) = env::var_os("SITEFS_BIN") {
        return path.into();
    }
    let own = env::current_exe().expect("finding the test's own binary");
    let profile = own.ancestors().nth(2).expect("the folder of the profile");
    let path = profile.join("sitefs");
    assert!(path.exists(), "{} is not there: run `cargo build -p sitefs`, or set SITEFS_BIN", path.display());
    path
}

fn command<S: AsRef<OsStr>>(arguments: &[S]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).stdin(Stdio::null()).env_remove("SITEFS_ADMIN").env_remove("SITEFS_LOG");
    command
}

/// Runs `sitefs ARGUMENTS` to its end, at most a minute.
pub fn sitefs<S: AsRef<OsStr>>(arguments: &[S]) -> Finished {
    run(command(arguments), SOON)
}

/// Runs a command to its end, at most for `deadline`.
pub fn run(mut command: Command, deadline: Duration) -> Finished {
    let shown = format!("{command:?}");
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("running {shown}: {error}"));
    let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let status = wait(&mut child, deadline).unwrap_or_else(|| panic!("{shown} did not end in {deadline:?}"));
    let text = |channel: mpsc::Receiver<String>| channel.recv_timeout(SOON).unwrap_or_default();
    Finished { code: code(status), stdout: text(stdout), stderr: text(stderr) }
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel();
    let mut pipe = pipe.expect("the pipe was asked for");
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read until the error is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
        let _ = tell.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    told
}

/// Waits for the end; kills the process and gives `None` when it takes too long.
fn wait(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("waiting for a child") {
            return Some(status);
        }
        if start.elapsed() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A `sitefs` that runs until it is told to stop. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
    /// What it said when it was ready.
    pub ready: Value,
}

impl Running {
    /// Starts `sitefs --json ARGUMENTS` and waits for the line that says that it is ready; its
    /// stderr is added to `log`. If it ends instead, that is the error.
    pub fn start(
        arguments: &[String],
        env: &[(String, Option<String>)],
        log: &Path,
    ) -> Result<Self, Finished> {
        let errors = fs::File::options().create(true).append(true).open(log).expect("opening the log");
        let before = errors.metadata().expect("looking at the log").len();
        let mut command = command(arguments);
        let mounts = matches!(arguments.first().map(String::as_str), Some("mount" | "demo"));
        if mounts && env::var_os(PASSTHROUGH).is_some() {
            command.arg("--passthrough");
        }
        command.arg("--json").stdout(Stdio::piped()).stderr(errors).env("SITEFS_LOG", "info");
        for (name, value) in env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mut child = command.spawn().expect("starting sitefs");
        let line = first_line(&mut child);
        match line.recv_timeout(SOON) {
            Ok(line) if !line.is_empty() => {
                let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
                Ok(Self { child, log: log.to_owned(), ready })
            }
            _ => {
                let ended = wait(&mut child, Duration::from_secs(5));
                let said = fs::read(log).expect("reading the log");
                let said =
                    String::from_utf8_lossy(said.get(usize::try_from(before).unwrap_or(0)..).unwrap_or(&[]));
                let failure = said.lines().filter(|line| line.starts_with("sitefs: ")).collect::<Vec<_>>();
                Err(Finished {
                    code: ended.map_or(-1, code),
                    stdout: String::new(),
                    stderr: if failure.is_empty() { said.into_owned() } else { failure.join("\n") },
                })
            }
        }
    }

    /// A text that it said when it was ready.
    pub fn said(&self, key: &str) -> String {
        self.ready[key].as_str().unwrap_or_else(|| panic!("no {key} in {}", self.ready)).to_owned()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops it (SIGSTOP).
    pub fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn thaw(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("sending a signal");
    }

    /// Ends it the hard way.
    pub fn kill9(mut self) {
        self.child.kill().expect("killing");
        self.child.wait().expect("waiting for the killed process");
    }

    /// Sends SIGTERM and waits for its end; the exit code.
    pub fn stop(mut self) -> i32 {
        self.signal(rustix::process::Signal::TERM);
        let status =
            wait(&mut self.child, SOON).unwrap_or_else(|| panic!("no end after SIGTERM:\n{}", self.log()));
        code(status)
    }

    /// Waits for its end without telling it anything; the exit code.
    pub fn wait(mut self) -> i32 {
        code(wait(&mut self.child, SOON).unwrap_or_else(|| panic!("it does not end:\n{}", self.log())))
    }

    /// Everything it and those before it wrote to stderr.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("the end of {}:", self.log.display());
            tail.iter().rev().for_each(|line| eprintln!("  {line}"));
        }
    }
}

fn first_line(child: &mut Child) -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel();
    let stdout = child.stdout.take().expect("the pipe was asked for");
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = String::new();
        // An error reads as an empty line: the process has ended.
        let _ = reader.read_line(&mut line);
        let _ = tell.send(line);
        // Kept open and empty, so that the process never meets a closed pipe.
        let _ = std::io::copy(&mut reader, &mut std::io::sink());
    });
    told
}
