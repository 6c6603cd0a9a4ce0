//! What a mount counts while it works: relaxed atomics, no allocation. [`crate::status`] reads them
//! and gives them their names.

use sitefs_base::Errno;
use sitefs_base::metrics::{Counter, Histogram, LATENCY_US};
use std::time::Instant;

macro_rules! calls {
    ($($variant:ident $name:literal)*) => {
        /// A request of the kernel.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[allow(missing_docs, reason = "the names are those of FUSE")]
        pub enum Call { $($variant),* }
        const CALLS: &[(Call, &str)] = &[$((Call::$variant, $name)),*];
    };
}

calls! {
    Lookup "lookup"
    Getattr "getattr"
    Setattr "setattr"
    Readlink "readlink"
    Mknod "mknod"
    Mkdir "mkdir"
    Symlink "symlink"
    Link "link"
    Unlink "unlink"
    Rmdir "rmdir"
    Rename "rename"
    Create "create"
    Open "open"
    Read "read"
    Write "write"
    Flush "flush"
    Release "release"
    Fsync "fsync"
    Readdir "readdir"
    Setxattr "setxattr"
    Getxattr "getxattr"
    Listxattr "listxattr"
    Removexattr "removexattr"
    Getlk "getlk"
    Setlk "setlk"
    Setlkw "setlkw"
    Fallocate "fallocate"
    Lseek "lseek"
    CopyRange "copy_file_range"
}

/// The errors that say that something is wrong, and not with the program.
const TROUBLE: [(Errno, &str); 7] = [
    (Errno::EIO, "EIO"),
    (Errno::ESTALE, "ESTALE"),
    (Errno::ENOSPC, "ENOSPC"),
    (Errno::EDQUOT, "EDQUOT"),
    (Errno::EROFS, "EROFS"),
    (Errno::ENOLCK, "ENOLCK"),
    (Errno::EFBIG, "EFBIG"),
];

/// A request that is being answered.
#[derive(Clone, Copy, Debug)]
pub struct Timer {
    call: Call,
    began: Instant,
}

impl Timer {
    /// It begins now.
    pub fn start(call: Call) -> Self {
        Self { call, began: Instant::now() }
    }
}

/// The requests that were answered.
#[derive(Debug)]
pub struct Calls {
    seconds: Vec<Histogram>,
    errors: Vec<Counter>,
    trouble: [Counter; TROUBLE.len()],
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            seconds: CALLS.iter().map(|_| Histogram::of_time(LATENCY_US)).collect(),
            errors: CALLS.iter().map(|_| Counter::default()).collect(),
            trouble: Default::default(),
        }
    }
}

impl Calls {
    /// A request is answered.
    pub fn done(&self, timer: Timer, error: Option<Errno>) {
        let slot = timer.call as usize;
        if let Some(seconds) = self.seconds.get(slot) {
            seconds.took(timer.began.elapsed());
        }
        let Some(error) = error else { return };
        if let Some(errors) = self.errors.get(slot) {
            errors.inc();
        }
        if let Some(at) = TROUBLE.iter().position(|(known, _)| *known == error) {
            self.trouble[at].inc();
        }
    }

    /// How long they took, by request.
    pub fn seconds(&self) -> impl Iterator<Item = (&'static str, &Histogram)> {
        CALLS.iter().map(|(_, name)| *name).zip(&self.seconds)
    }

    /// How many ended with an error, by request.
    pub fn errors(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CALLS.iter().map(|(_, name)| *name).zip(self.errors.iter().map(Counter::get))
    }

    /// How many ended with an error that is worth an alarm, by error.
    pub fn trouble(&self) -> impl Iterator<Item = (&'static str, u64)> {
        TROUBLE.iter().map(|(_, name)| *name).zip(self.trouble.iter().map(Counter::get))
    }
}

/// What the session counts.
#[derive(Debug, Default)]
pub struct SessionCounters {
    /// Mutations sent.
    pub operations: Counter,
    /// Questions asked.
    pub questions: Counter,
    /// Mutations and questions without an answer in time.
    pub unanswered: Counter,
    /// Streams attached.
    pub attached: Counter,
}

/// What transfers of blobs count.
#[derive(Debug, Default)]
pub struct TransferCounters {
    /// Blobs fetched.
    pub fetches: Counter,
    /// Their bytes.
    pub fetched_bytes: Counter,
    /// Blobs uploaded.
    pub uploads: Counter,
    /// Their bytes.
    pub uploaded_bytes: Counter,
    /// Transfers that failed.
    pub failed: Counter,
}

/// What the file operations count.
#[derive(Debug, Default)]
pub struct FsMetrics {
    /// Requests.
    pub calls: Calls,
    /// Times that everything remembered was dropped.
    pub resyncs: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_its_row() {
        let calls = Calls::default();
        for (at, (call, name)) in CALLS.iter().enumerate() {
            assert_eq!(*call as usize, at, "{name}");
        }
        calls.done(Timer::start(Call::CopyRange), Some(Errno::EIO));
        calls.done(Timer::start(Call::CopyRange), Some(Errno::EXDEV));
        calls.done(Timer::start(Call::Lookup), None);
        assert_eq!(calls.errors().last(), Some(("copy_file_range", 2)));
        assert_eq!(calls.trouble().next(), Some(("EIO", 1)));
        assert_eq!(calls.seconds().map(|(_, seconds)| seconds.count()).sum::<u64>(), 3);
    }
}
