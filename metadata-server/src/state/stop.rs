//! Why an operation ends early.

use sitefs_base::{Errno, Error};

/// A refusal, which the program sees as errno, or a failure of the storage.
#[derive(Debug)]
pub(super) enum Stop {
    Refused(Errno),
    Failed(Error),
}

/// The result of a step that may refuse.
pub(super) type Step<T> = Result<T, Stop>;

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Refuses with `errno`.
pub(super) fn refuse<T>(errno: Errno) -> Step<T> {
    Err(Stop::Refused(errno))
}

/// Refuses with `errno` unless `condition` holds.
pub(super) fn require(condition: bool, errno: Errno) -> Step<()> {
    if condition { Ok(()) } else { refuse(errno) }
}
