//! The start-up probe: is the bucket there, do the keys work, and what does the store enforce?

use super::{S3Backend, error::Meaning};
use crate::hash;
use bytes::Bytes;
use sitefs_base::{Digest, Error, Kind, OsRandom, Random, Result};

const CONTENT: &[u8] = b"sitefs probe";

impl S3Backend {
    /// Writes, reads and deletes a small object. True when the store refuses a wrong digest.
    ///
    /// A store must have a conditional PUT or enforce the digest: without both, the holder of a
    /// grant could replace an object that others use.
    pub(super) async fn probe(&self) -> Result<bool> {
        let key = format!("probe/{:032x}", OsRandom.next_u128());
        let found = self.probe_at(&key).await;
        if found.as_ref().is_err_and(|error| error.kind() == Kind::Unavailable) {
            // Who does not answer will not delete either; a probe object left behind is harmless.
            return found;
        }
        for part in ["a", "b"] {
            if let Err(error) = self.remove(&format!("{key}{part}")).await
                && found.is_ok()
            {
                return Err(error.while_doing("the S3 keys may write but not delete: allow s3:DeleteObject"));
            }
        }
        found
    }

    async fn probe_at(&self, key: &str) -> Result<bool> {
        let (first, second) = (format!("{key}a"), format!("{key}b"));
        let put =
            async |key: &str, digest: &Digest| self.write(key, digest, Bytes::from_static(CONTENT)).await;
        put(&first, &hash(CONTENT)).await.map_err(|meaning| self.advice(meaning))?;
        if self.read(&first).await? != CONTENT {
            return Err(Error::corrupt(format!("{} gives other bytes than were put", self.store())));
        }
        let conditional = put(&first, &hash(CONTENT)).await.is_err_and(|meaning| meaning.is_present());
        let enforces = match put(&second, &hash(b"something else")).await {
            Ok(()) => false,
            Err(meaning) if meaning.status == Some(400) => true,
            Err(meaning) => return Err(self.advice(meaning)),
        };
        match (conditional, enforces) {
            (false, false) => Err(Error::invalid(format!(
                "{} ignores If-None-Match and does not check SHA-512: sitefs needs one of them, \
                 use another store or a newer version of it",
                self.store()
            ))),
            (false, true) => {
                tracing::warn!(store = %self.store(), "the store ignores If-None-Match; it checks digests, which is enough");
                Ok(enforces)
            }
            (true, _) => Ok(enforces),
        }
    }

    /// The error of the first PUT, with what to do about it in front.
    fn advice(&self, meaning: Meaning) -> Error {
        let silent = meaning.is_silent();
        let (status, kind) = (meaning.status, meaning.error.kind());
        let advice = match (kind, meaning.code.as_str()) {
            _ if silent => format!("{} cannot be reached: check the endpoint and the network", self.place),
            (_, "NoSuchBucket") => {
                format!("bucket {} does not exist at {}: create it, or name another", self.bucket, self.place)
            }
            (_, "InvalidAccessKeyId" | "XAdminUserNotFound") => {
                "the S3 access key id is unknown there: check AWS_ACCESS_KEY_ID".into()
            }
            (_, "SignatureDoesNotMatch") => "the S3 secret key is wrong: check AWS_SECRET_ACCESS_KEY".into(),
            (_, "RequestTimeTooSkewed") => "this machine's clock is wrong: set it by NTP".into(),
            (_, "ExpiredToken" | "InvalidToken") => {
                "the S3 session token is no longer valid: get new keys".into()
            }
            (Kind::Denied, _) => {
                format!(
                    "the S3 keys may not write to bucket {}: allow s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket",
                    self.bucket
                )
            }
            (_, "PermanentRedirect" | "AuthorizationHeaderMalformed" | "TemporaryRedirect") => {
                format!("bucket {} is in another region: set the region", self.bucket)
            }
            _ if status == Some(501) => format!("{} does not implement what sitefs needs", self.store()),
            _ => return meaning.error,
        };
        meaning.error.while_doing(advice)
    }
}
