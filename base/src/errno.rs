//! POSIX error numbers, as data: `state` refuses an operation by naming its errno.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A Linux error number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Errno(i32);

macro_rules! errnos {
    ($($name:ident)*) => {
        impl Errno {
            $(
                #[doc = concat!("`", stringify!($name), "` of errno(3).")]
                pub const $name: Self = Self(libc::$name);
            )*
        }
        const NAMES: &[(i32, &str)] = &[$((libc::$name, stringify!($name))),*];
    };
}

errnos! {
    E2BIG EACCES EAGAIN EBADF EBUSY EDEADLK EDQUOT EEXIST EFBIG EINTR EINVAL EIO EISDIR ELOOP EMFILE EMLINK ENAMETOOLONG
    ENODATA ENODEV ENFILE ENOENT ENOLCK ENOSPC ENOSYS ENOTDIR ENOTEMPTY ENOTSUP ENOTTY ENXIO EOPNOTSUPP EOVERFLOW EPERM
    ERANGE EROFS ESTALE EXDEV
}

impl Errno {
    /// Wraps a number from the wire or from the operating system; numbers outside 1..=4095,
    /// which Linux cannot return, become `EIO`.
    pub const fn new(raw: i32) -> Self {
        if raw >= 1 && raw <= 4095 { Self(raw) } else { Self::EIO }
    }
    /// The bare number.
    pub const fn get(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(raw, _)| *raw == self.0) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
