//! The error of every sitefs crate: its kind says what the caller should do.

use crate::Errno;
use std::{borrow::Cow, error::Error as StdError, fmt};

/// The result of sitefs functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller should do about an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Kind {
    /// The named thing is not there.
    NotFound,
    /// The named thing is there already.
    AlreadyExists,
    /// Somebody else was first: read again, then retry.
    Conflict,
    /// This process must stop: continuing could do harm.
    Fenced,
    /// Back off and try again later.
    Unavailable,
    /// The call is wrong: fix it.
    Invalid,
    /// The caller may not do this.
    Denied,
    /// Stored bytes are not what they must be: drop the copy, fetch again, alert.
    Corrupt,
    /// A limit or the space is used up.
    Limit,
    /// A bug in sitefs.
    Internal,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::NotFound,
        Self::AlreadyExists,
        Self::Conflict,
        Self::Fenced,
        Self::Unavailable,
        Self::Invalid,
        Self::Denied,
        Self::Corrupt,
        Self::Limit,
        Self::Internal,
    ];
}

/// An error: its kind, what was being done, and the cause.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    doing: Cow<'static, str>,
    errno: Option<Errno>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

macro_rules! constructors {
    ($($make:ident $kind:ident),* $(,)?) => {
        $(
            #[doc = concat!("An error of kind [`Kind::", stringify!($kind), "`].")]
            pub fn $make(doing: impl Into<Cow<'static, str>>) -> Self {
                Self::new(Kind::$kind, doing)
            }
        )*
    };
}

impl Error {
    /// An error of `kind`; `doing` says in one line what failed and, where it helps, what to do.
    pub fn new(kind: Kind, doing: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, doing: doing.into(), errno: None, source: None }
    }

    constructors! {
        not_found NotFound, already_exists AlreadyExists, conflict Conflict, fenced Fenced,
        unavailable Unavailable, invalid Invalid, denied Denied, corrupt Corrupt, limit Limit,
        internal Internal,
    }

    /// A POSIX refusal: the operation was understood and is answered by this errno.
    pub fn refused(errno: Errno, doing: impl Into<Cow<'static, str>>) -> Self {
        let kind = match errno {
            Errno::ENOENT | Errno::ENODATA => Kind::NotFound,
            Errno::EEXIST => Kind::AlreadyExists,
            Errno::ESTALE => Kind::Conflict,
            Errno::ENOSPC | Errno::EDQUOT | Errno::EMLINK | Errno::EMFILE | Errno::ENFILE => Kind::Limit,
            Errno::EACCES | Errno::EPERM | Errno::EROFS => Kind::Denied,
            _ => Kind::Invalid,
        };
        Self { errno: Some(errno), ..Self::new(kind, doing) }
    }

    /// An operating-system error met while `doing`; its kind follows from the errno.
    pub fn io(doing: impl Into<Cow<'static, str>>, source: std::io::Error) -> Self {
        let kind = match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => Kind::NotFound,
            Some(libc::EEXIST) => Kind::AlreadyExists,
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => Kind::Denied,
            Some(libc::ENOSPC | libc::EDQUOT | libc::EMFILE | libc::ENFILE | libc::ENOMEM) => Kind::Limit,
            Some(libc::EINVAL | libc::EISDIR | libc::ENOTEMPTY) => Kind::Invalid,
            _ => Kind::Unavailable,
        };
        let errno = source.raw_os_error().map(Errno::new);
        Self { errno, ..Self::new(kind, doing).because(source) }
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { source: Some(source.into()), ..self }
    }

    /// Puts what was being done in front, keeping kind, errno and cause.
    #[must_use]
    pub fn while_doing(self, doing: impl fmt::Display) -> Self {
        Self { doing: format!("{doing}: {}", self.doing).into(), ..self }
    }

    /// What the caller should do.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What was being done, without the causes.
    pub fn doing(&self) -> &str {
        &self.doing
    }

    /// The errno that `state` or the operating system named, if one did.
    pub fn named_errno(&self) -> Option<Errno> {
        self.errno
    }

    /// The errno that a program sees: the named one, else by kind.
    pub fn errno(&self) -> Errno {
        self.errno.unwrap_or(match self.kind {
            Kind::NotFound => Errno::ENOENT,
            Kind::AlreadyExists => Errno::EEXIST,
            Kind::Conflict => Errno::ESTALE,
            Kind::Fenced => Errno::EIO,
            Kind::Unavailable => Errno::EIO,
            Kind::Invalid => Errno::EINVAL,
            Kind::Denied => Errno::EACCES,
            Kind::Corrupt => Errno::EIO,
            Kind::Limit => Errno::ENOSPC,
            Kind::Internal => Errno::EIO,
        })
    }

    /// The whole chain on one line: `doing: cause: cause of the cause`.
    pub fn chain(&self) -> String {
        let mut line = self.doing.to_string();
        let mut cause: Option<&(dyn StdError + 'static)> = self.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !line.ends_with(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            cause = error.source();
        }
        line.replace('\n', " ")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_an_errno() {
        let table = [
            (Kind::NotFound, Errno::ENOENT),
            (Kind::AlreadyExists, Errno::EEXIST),
            (Kind::Conflict, Errno::ESTALE),
            (Kind::Fenced, Errno::EIO),
            (Kind::Unavailable, Errno::EIO),
            (Kind::Invalid, Errno::EINVAL),
            (Kind::Denied, Errno::EACCES),
            (Kind::Corrupt, Errno::EIO),
            (Kind::Limit, Errno::ENOSPC),
            (Kind::Internal, Errno::EIO),
        ];
        for (kind, errno) in table {
            assert_eq!(Error::new(kind, "x").errno(), errno, "{kind:?}");
        }
    }

    #[test]
    fn too_many_open_files_are_no_full_disk() {
        for errno in [Errno::EMFILE, Errno::ENFILE] {
            let error = Error::io("opening a blob", std::io::Error::from_raw_os_error(errno.get()));
            assert_eq!((error.kind(), error.errno()), (Kind::Limit, errno));
            // As it comes back over the wire.
            assert_eq!(Error::refused(errno, "opening a blob").kind(), error.kind());
        }
    }

    #[test]
    fn a_named_errno_wins_and_the_chain_is_one_line() {
        let os = std::io::Error::from_raw_os_error(libc::ENOSPC);
        let error = Error::io("writing the log", os).while_doing("committing");
        assert_eq!((error.kind(), error.errno()), (Kind::Limit, Errno::ENOSPC));
        assert!(error.chain().starts_with("committing: writing the log: No space left"), "{}", error.chain());
    }
}
