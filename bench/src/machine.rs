//! What the numbers depend on: the machine, its file systems, the kernel's caches, the memory of a process.

use serde::Serialize;
use sitefs_base::{Error, Result, display_bytes};
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    thread::available_parallelism,
};

const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// The machine, as far as it is known.
#[derive(Serialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) processor: String,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    /// The load averages of 1, 5 and 15 minutes when the run began.
    pub(crate) load: String,
}

impl Machine {
    /// This one.
    pub(crate) fn here() -> Self {
        let load = text("/proc/loadavg");
        Self {
            cores: available_parallelism().map_or(1, usize::from),
            processor: field(&text("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
            memory_bytes: kib(&text("/proc/meminfo"), "MemTotal"),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: load.split(' ').take(3).collect::<Vec<_>>().join(" "),
        }
    }
}

/// A file system: its type, and what is mounted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct FileSystem {
    pub(crate) kind: String,
    pub(crate) source: String,
    pub(crate) mountpoint: PathBuf,
}

impl FileSystem {
    /// The one that holds `path`.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let path =
            path.canonicalize().map_err(|error| Error::io(format!("finding {}", path.display()), error))?;
        Self::in_table(&text("/proc/self/mountinfo"), &path)
            .ok_or_else(|| Error::not_found(format!("no mount holds {}", path.display())))
    }

    /// Of several mounts at one place the last hides the others.
    fn in_table(table: &str, path: &Path) -> Option<Self> {
        let holding =
            table.lines().filter_map(Self::parse).filter(|mount| path.starts_with(&mount.mountpoint));
        holding.max_by_key(|mount| mount.mountpoint.as_os_str().len())
    }

    /// A line of `mountinfo`: id parent device root MOUNTPOINT options.. - KIND SOURCE options.
    fn parse(line: &str) -> Option<Self> {
        let (place, what) = line.split_once(" - ")?;
        let mut what = what.split(' ');
        Some(Self {
            kind: what.next()?.to_owned(),
            source: what.next()?.to_owned(),
            mountpoint: place.split(' ').nth(4)?.replace("\\040", " ").into(),
        })
    }
}

/// Whether this process may drop the kernel's caches.
pub(crate) fn may_drop_caches() -> bool {
    File::options().write(true).open(DROP_CACHES).is_ok()
}

/// Writes everything out and drops the kernel's caches of contents, names and inodes.
pub(crate) fn drop_caches() -> Result<()> {
    // Dirty pages would stay.
    rustix::fs::sync();
    let mut file = File::options().write(true).open(DROP_CACHES);
    file.as_mut()
        .map_err(|error| std::io::Error::from(error.kind()))
        .and_then(|file| file.write_all(b"3"))
        .map_err(|error| Error::io("dropping the kernel's caches", error))
}

/// The memory of a process.
#[derive(Serialize)]
pub(crate) struct Memory {
    pub(crate) pid: u32,
    pub(crate) name: String,
    /// What is in memory now: `VmRSS`.
    pub(crate) resident_bytes: u64,
    /// The part that is the process's own, not the pages of its program and libraries: `RssAnon`.
    pub(crate) anonymous_bytes: u64,
    /// The most that was ever in memory: `VmHWM`.
    pub(crate) peak_bytes: u64,
    pub(crate) threads: u64,
}

impl Memory {
    /// Of the process `pid`.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let status =
            fs::read_to_string(&path).map_err(|error| Error::io(format!("reading {path}"), error))?;
        Ok(Self::parse(pid, &status))
    }

    fn parse(pid: u32, status: &str) -> Self {
        Self {
            pid,
            name: field(status, "Name").unwrap_or_default(),
            resident_bytes: kib(status, "VmRSS"),
            anonymous_bytes: kib(status, "RssAnon"),
            peak_bytes: kib(status, "VmHWM"),
            threads: number(status, "Threads"),
        }
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let Self { pid, name, threads, .. } = self;
        let [resident, anonymous, peak] =
            [self.resident_bytes, self.anonymous_bytes, self.peak_bytes].map(display_bytes);
        format!(
            "{name} (process {pid}): {resident} resident, {anonymous} of it anonymous; peak {peak}; {threads} threads"
        )
    }
}

/// What is not there is unknown, and the report shows it so.
fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The value of the first line `name: value`.
fn field(text: &str, name: &str) -> Option<String> {
    let values = text.lines().filter_map(|line| line.split_once(':'));
    values.into_iter().find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}

fn number(text: &str, name: &str) -> u64 {
    field(text, name).and_then(|value| value.split(' ').next()?.parse().ok()).unwrap_or(0)
}

fn kib(text: &str, name: &str) -> u64 {
    number(text, name) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_holds_a_path_and_the_last_one_hides_others() {
        let table = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                     40 22 0:50 / /srv/a\\040b rw shared:1 - tmpfs none rw\n\
                     41 40 0:51 / /srv/a\\040b rw - fuse.sitefs demo:acme/live rw\n";
        let kind = |path: &str| FileSystem::in_table(table, Path::new(path)).map(|found| found.kind);
        assert_eq!(kind("/srv/a b/c").as_deref(), Some("fuse.sitefs"));
        assert_eq!(kind("/srv/a bc").as_deref(), Some("ext4"));
        assert_eq!(FileSystem::in_table("", Path::new("/")), None);
    }

    #[test]
    fn memory_is_read_from_the_status_of_a_process() {
        let status =
            "Name:\tsitefs\nVmHWM:\t   30000 kB\nVmRSS:\t   20000 kB\nRssAnon:\t    5000 kB\nThreads:\t7\n";
        let memory = Memory::parse(42, status);
        assert_eq!(
            (memory.resident_bytes, memory.anonymous_bytes, memory.threads),
            (20_480_000, 5_120_000, 7)
        );
    }
}
