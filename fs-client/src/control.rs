//! The control socket of a mount, `CACHE/control`: status and drain, also when the mount itself hangs.
//!
//! A client sends one line and gets one line of JSON. `status` gives the status. `drain SECONDS` refuses
//! opens for writing, commits what is dirty, says how many files are left, and goes on refusing until
//! the client closes the connection; the mount closes it when it ends. `cache` and `cache-drop` are for
//! `sitefs cache`; `prefetch INO OFFSET LEN` brings a part of a file into the cache.

use crate::cache::{dropped_json, prefetch_json};
use crate::fs::Fs;
use crate::status::Reporter;
use sitefs_base::{Error, Kind, Result};
use std::{
    fs::File,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    os::fd::AsRawFd,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
    sync::Semaphore,
    time::timeout,
};

/// The name of the socket.
const NAME: &str = "control";
/// Clients at a time.
const CLIENTS_MAX: usize = 16;
/// The longest request, in bytes, and how long a client has for it.
const REQUEST_MAX: u64 = 96;
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// The longest drain.
const DRAIN_MAX: Duration = Duration::from_secs(3600);
/// How long a status may take.
const STATUS_TIME: Duration = Duration::from_secs(5);
/// How long emptying a cache may take, and how long fetching a part of a file.
const DROP_TIME: Duration = Duration::from_secs(600);
const PREFETCH_TIME: Duration = Duration::from_secs(300);

/// The path of the socket. Addresses of sockets are short, so it goes through the open directory.
fn address(dir: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{NAME}", dir.as_raw_fd()))
}

fn open_dir(cache_dir: &Path) -> Result<File> {
    File::open(cache_dir).map_err(|error| Error::io(format!("opening {}", cache_dir.display()), error))
}

/// Makes the socket; the caller owns the cache directory, so one that is there is left over. Must be
/// called inside a runtime.
pub fn listen(cache_dir: &Path) -> Result<UnixListener> {
    let failed = |error| Error::io(format!("making the control socket in {}", cache_dir.display()), error);
    let dir = open_dir(cache_dir)?;
    let path = address(&dir);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed)?;
    // Nobody else may end a mount; until here the mode is the umask's, and the cache is ours alone.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Answers clients until it is dropped.
pub async fn serve(listener: UnixListener, fs: Arc<Fs>, reporter: Arc<Reporter>) {
    let clients = Arc::new(Semaphore::new(CLIENTS_MAX));
    let tasks = sitefs_base::Tasks::new();
    loop {
        let Ok(place) = Arc::clone(&clients).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (fs, reporter) = (Arc::clone(&fs), Arc::clone(&reporter));
                tasks.spawn(async move {
                    let _place = place;
                    if let Err(error) = attend(stream, fs, reporter).await {
                        tracing::debug!(%error, "a client of the control socket went away");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the control socket does not accept");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn attend(
    mut stream: tokio::net::UnixStream,
    fs: Arc<Fs>,
    reporter: Arc<Reporter>,
) -> std::io::Result<()> {
    let mut line = String::new();
    {
        let mut reader = tokio::io::BufReader::new((&mut stream).take(REQUEST_MAX));
        timeout(REQUEST_TIME, reader.read_line(&mut line)).await??;
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let numbers: Vec<u64> = words.iter().skip(1).map_while(|word| word.parse().ok()).collect();
    let answer = match (&words[..], &numbers[..]) {
        (["status"], _) => reporter.json(),
        (["drain", _], [limit]) => return drain(stream, fs, Duration::from_secs(*limit)).await,
        (["cache"], _) => cache_json(&reporter),
        (["cache-drop"], _) => blocking(move || drop_json(&fs)).await?,
        (["prefetch", ..], &[ino, offset, len]) => {
            blocking(move || prefetch_json(&fs, ino, offset, len)).await?
        }
        _ => error_json("unknown request"),
    };
    stream.write_all(format!("{answer}\n").as_bytes()).await
}

/// What waits for a disk or for the cell does not do so in the runtime's thread.
async fn blocking(work: impl FnOnce() -> String + Send + 'static) -> std::io::Result<String> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)
}

fn error_json(text: &str) -> String {
    serde_json::json!({ "error": text }).to_string()
}

fn cache_json(reporter: &Reporter) -> String {
    let report = reporter.cache_report().and_then(|report| {
        serde_json::to_string(&report).map_err(|error| Error::internal("writing JSON").because(error))
    });
    report.unwrap_or_else(|error| error_json(&error.chain()))
}

fn drop_json(fs: &Fs) -> String {
    fs.blobs().drop_cached().map_or_else(|error| error_json(&error.chain()), dropped_json)
}

async fn drain(mut stream: tokio::net::UnixStream, fs: Arc<Fs>, limit: Duration) -> std::io::Result<()> {
    let _draining = fs.stop_opening();
    let work = tokio::task::spawn_blocking(move || fs.drain(limit.min(DRAIN_MAX)));
    let left = work.await.map_err(std::io::Error::other)?;
    stream.write_all(format!("{{\"left\":{left}}}\n").as_bytes()).await?;
    // The client unmounts now, or gives up.
    let mut rest = [0; 16];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// A connection to the control socket of a mount.
#[derive(Debug)]
pub struct Control {
    stream: UnixStream,
}

impl Control {
    /// Connects to the mount that uses `cache_dir`; `NotFound` if none does.
    pub fn connect(cache_dir: &Path) -> Result<Self> {
        let dir = open_dir(cache_dir)?;
        let stream = UnixStream::connect(address(&dir)).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                Error::not_found(format!("no mount uses the cache directory {}", cache_dir.display()))
            }
            _ => Error::io(format!("asking the mount that uses {}", cache_dir.display()), error),
        })?;
        Ok(Self { stream })
    }

    /// How the mount stands, as JSON.
    pub fn status(&mut self) -> Result<String> {
        self.ask("status", STATUS_TIME)
    }

    /// Refuses opens for writing until this is dropped, and commits what is dirty; how many files could
    /// not be committed within `limit`, as JSON.
    pub fn drain(&mut self, limit: Duration) -> Result<String> {
        // A commit that is under way may take a little longer.
        self.ask(&format!("drain {}", limit.as_secs()), limit + STATUS_TIME)
    }

    /// What its disk cache holds, as JSON.
    pub fn cache(&mut self) -> Result<String> {
        self.ask("cache", STATUS_TIME)
    }

    /// Drops what the disk cache holds and no read is using, as JSON: how much that was.
    pub fn drop_cache(&mut self) -> Result<String> {
        self.ask("cache-drop", DROP_TIME)
    }

    /// Brings `len` bytes from `offset` of the file `ino` into the disk cache; what came of it, as JSON.
    pub fn prefetch(&mut self, ino: u64, offset: u64, len: u64) -> Result<String> {
        self.ask(&format!("prefetch {ino} {offset} {len}"), PREFETCH_TIME)
    }

    /// Waits at most `limit` until the mount has ended; whether it has.
    pub fn ended(&mut self, limit: Duration) -> bool {
        let waiting = self.stream.set_read_timeout(Some(limit.max(Duration::from_millis(1))));
        waiting.is_ok() && matches!(self.stream.read(&mut [0; 16]), Ok(0))
    }

    fn ask(&mut self, request: &str, limit: Duration) -> Result<String> {
        let failed = |error: std::io::Error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                Error::unavailable(format!("the mount did not answer within {} s", limit.as_secs()))
            }
            _ => Error::new(Kind::Unavailable, "asking the mount").because(error),
        };
        self.stream.set_read_timeout(Some(limit)).map_err(failed)?;
        self.stream.write_all(format!("{request}\n").as_bytes()).map_err(failed)?;
        let mut line = String::new();
        BufReader::new(&self.stream).read_line(&mut line).map_err(failed)?;
        match line.trim_end() {
            "" => Err(Error::unavailable("the mount has ended")),
            answer => Ok(answer.to_owned()),
        }
    }
}
