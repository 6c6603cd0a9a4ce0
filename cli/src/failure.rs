//! How a command ends when it could not do its work: one line, a hint, an exit code by kind.

use sitefs_base::{Error, Kind};
use std::{io::Write, process::ExitCode};

/// An error and what the user can do about it.
#[derive(Debug)]
pub(crate) struct Failure {
    error: Error,
    hint: Option<String>,
    /// Instead of that of the error's kind.
    code: Option<u8>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, hint: None, code: None }
    }
}

/// Adds a hint to an error.
pub(crate) trait Hint<T> {
    /// The hint says what to do next.
    fn hint(self, hint: impl Into<String>) -> Result<T, Failure>;
}

impl<T> Hint<T> for Result<T, Error> {
    fn hint(self, hint: impl Into<String>) -> Result<T, Failure> {
        self.map_err(|error| Failure { error, hint: Some(hint.into()), code: None })
    }
}

impl Failure {
    /// An error with a hint.
    pub(crate) fn new(error: Error, hint: impl Into<String>) -> Self {
        Self { error, hint: Some(hint.into()), code: None }
    }

    /// The same with an exit code of its own.
    pub(crate) fn with_code(self, code: u8) -> Self {
        Self { code: Some(code), ..self }
    }

    /// The line for people.
    pub(crate) fn line(&self) -> String {
        let chain = self.error.chain();
        match &self.hint {
            Some(hint) => format!("sitefs: {chain} ({hint})"),
            None => format!("sitefs: {chain}"),
        }
    }

    /// What kind of error it is.
    #[cfg(feature = "mount")]
    pub(crate) fn kind(&self) -> Kind {
        self.error.kind()
    }

    /// Reports it and ends the process at once.
    #[cfg(feature = "mount")]
    pub(crate) fn exit(&self) -> ! {
        let _ = self.report();
        std::process::exit(i32::from(exit_code(self.error.kind())))
    }

    /// Writes the line to stderr and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        // Nobody is left to tell when stderr is closed.
        let _ = writeln!(std::io::stderr(), "{}", self.line());
        ExitCode::from(self.code.unwrap_or(exit_code(self.error.kind())))
    }
}

/// The stable table of exit codes; `sitefs --help` shows it.
fn exit_code(kind: Kind) -> u8 {
    match kind {
        Kind::Invalid => 65,
        Kind::NotFound => 66,
        Kind::Unavailable => 69,
        Kind::Internal => 70,
        Kind::Fenced => 71,
        Kind::Limit => 73,
        Kind::Corrupt => 74,
        Kind::Conflict => 75,
        Kind::AlreadyExists => 76,
        Kind::Denied => 77,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_code_that_the_help_shows() {
        let mut seen = std::collections::HashSet::new();
        for kind in Kind::ALL {
            let code = exit_code(kind);
            assert!(seen.insert(code), "{kind:?} shares {code}");
            assert!(crate::EXIT_CODES.contains(&format!("{code} ")), "{kind:?}");
        }
    }

    #[test]
    fn the_line_has_the_chain_and_the_hint() {
        let failure = Failure::new(Error::not_found("opening x").because(Error::invalid("y")), "try z");
        assert_eq!(failure.line(), "sitefs: opening x: y (try z)");
    }
}
