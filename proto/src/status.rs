//! The one table between kinds of errors and gRPC status codes.

use sitefs_base::{Errno, Error, Kind};
use std::error::Error as StdError;
use tonic::{Code, Status, metadata::MetadataValue};

const ERRNO: &str = "sitefs-errno";
/// Longer messages are cut: they travel in a header.
const MESSAGE_LEN_MAX: usize = 2048;

/// The status that carries `error`: its kind as code, its chain as message, its errno in the
/// metadata.
pub fn status_from_error(error: &Error) -> Status {
    let mut message = error.chain();
    if message.len() > MESSAGE_LEN_MAX {
        let end = (0..=MESSAGE_LEN_MAX).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
    }
    let mut status = Status::new(code(error.kind()), message);
    if let Some(errno) = error.named_errno() {
        status.metadata_mut().insert(ERRNO, MetadataValue::from(errno.get()));
    }
    status
}

/// The error that `status` carries. What the transport itself reports counts as `Unavailable`.
pub fn error_from_status(status: &Status) -> Error {
    let errno = status
        .metadata()
        .get(ERRNO)
        .and_then(|value| value.to_str().ok()?.parse::<i32>().ok())
        .filter(|errno| (1..=4095).contains(errno))
        .map(Errno::new);
    let message = match status.message() {
        "" if status.code() == Code::Unimplemented => {
            "this address serves something else: mounts go to the cell's --listen address, `sitefs status` and \
             `sitefs volume` to its --admin-listen address"
                .to_owned()
        }
        "" => format!("the cell answered {:?}", status.code()),
        message => message.to_owned(),
    };
    // Only a status that was made on this side has a source.
    let kind = if StdError::source(status).is_some() { Kind::Unavailable } else { kind(status.code()) };
    match errno {
        // `refused` is the only way to an error with an errno; its kind must be the one sent.
        Some(errno) if Error::refused(errno, "").kind() == kind => Error::refused(errno, message),
        _ => Error::new(kind, message),
    }
}

fn code(kind: Kind) -> Code {
    match kind {
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::Conflict => Code::Aborted,
        Kind::Fenced => Code::FailedPrecondition,
        Kind::Unavailable => Code::Unavailable,
        Kind::Invalid => Code::InvalidArgument,
        Kind::Denied => Code::PermissionDenied,
        Kind::Corrupt => Code::DataLoss,
        Kind::Limit => Code::ResourceExhausted,
        Kind::Internal => Code::Internal,
    }
}

fn kind(code: Code) -> Kind {
    match code {
        Code::NotFound => Kind::NotFound,
        Code::AlreadyExists => Kind::AlreadyExists,
        Code::Aborted => Kind::Conflict,
        Code::FailedPrecondition => Kind::Fenced,
        Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown => Kind::Unavailable,
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => Kind::Invalid,
        Code::PermissionDenied | Code::Unauthenticated => Kind::Denied,
        Code::DataLoss => Kind::Corrupt,
        Code::ResourceExhausted => Kind::Limit,
        Code::Internal | Code::Ok => Kind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wrong_one_of_two_addresses_is_explained() {
        let error = error_from_status(&Status::unimplemented(""));
        assert!(error.doing().contains("--admin-listen"), "{error}");
    }

    #[test]
    fn every_kind_survives_the_wire() {
        for kind in Kind::ALL {
            let back = error_from_status(&status_from_error(&Error::new(kind, "what failed")));
            assert_eq!((back.kind(), back.doing(), back.named_errno()), (kind, "what failed", None));
        }
    }

    #[test]
    fn a_named_errno_and_the_chain_survive_the_wire() {
        let sent = Error::refused(Errno::ENOTEMPTY, "rmdir").because(Error::invalid("it has entries"));
        let back = error_from_status(&status_from_error(&sent));
        assert_eq!(back.named_errno(), Some(Errno::ENOTEMPTY));
        assert_eq!(back.doing(), "rmdir: it has entries");
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let status = status_from_error(&Error::internal("é".repeat(5000)));
        assert!(status.message().len() <= MESSAGE_LEN_MAX && status.message().len() > 2000);
    }

    #[test]
    fn a_bad_errno_in_the_metadata_is_ignored() {
        let mut status = Status::new(Code::NotFound, "");
        status.metadata_mut().insert(ERRNO, MetadataValue::from_static("-7"));
        let error = error_from_status(&status);
        assert_eq!((error.kind(), error.named_errno()), (Kind::NotFound, None));
    }
}
