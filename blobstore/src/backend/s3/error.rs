//! What an error of the SDK means for the caller.

use super::S3Backend;
use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use sitefs_base::{Error, Kind};
use std::error::Error as StdError;

/// The HTTP status, the store's own error code, and our error.
#[derive(Debug)]
pub struct Meaning {
    pub status: Option<u16>,
    pub code: String,
    pub error: Error,
}

impl Meaning {
    /// True when a conditional PUT found the object.
    pub fn is_present(&self) -> bool {
        self.status == Some(412)
    }

    /// True when no answer came at all.
    pub fn is_silent(&self) -> bool {
        self.status.is_none() && self.error.kind() == Kind::Unavailable
    }
}

impl S3Backend {
    pub(super) fn meaning<E>(&self, verb: &str, key: &str, error: SdkError<E, HttpResponse>) -> Meaning
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let status = error.raw_response().map(|answer| answer.status().as_u16());
        let code = error.code().unwrap_or_default().to_owned();
        let kind = match &error {
            SdkError::ConstructionFailure(_) => Kind::Internal,
            _ => status.map_or(Kind::Unavailable, |status| kind_of(status, &code)),
        };
        let what = match (status, code.as_str()) {
            (None, _) => "no answer".to_owned(),
            (Some(status), "") => format!("status {status}"),
            (Some(status), code) => format!("status {status}, {code}"),
        };
        let ours = Error::new(kind, format!("{verb} {key} in {}: {what}", self.store()));
        // With an answer, status and code say all.
        let error = if status.is_none() { ours.because(error) } else { ours };
        Meaning { status, code, error }
    }
}

fn kind_of(status: u16, code: &str) -> Kind {
    match (status, code) {
        (_, "NoSuchBucket") => Kind::Invalid,
        // Some stores say 404 to an unknown key id: that must not look like an absent object.
        (_, "InvalidAccessKeyId" | "XAdminUserNotFound") => Kind::Denied,
        (_, "NoSuchKey") | (404, "" | "NotFound") => Kind::NotFound,
        (301 | 307 | 400, "PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed") => {
            Kind::Invalid
        }
        (401 | 403, _) => Kind::Denied,
        (408 | 409 | 429, _) | (400, "RequestTimeout" | "IncompleteBody") => Kind::Unavailable,
        (412, _) => Kind::AlreadyExists,
        (507, _) => Kind::Limit,
        (500.., _) => Kind::Unavailable,
        _ => Kind::Invalid,
    }
}
