//! The object that says whose bucket it is.

use super::S3Backend;
use bytes::Bytes;
use sitefs_base::{Error, Result};

const OWNER: &str = "owner";

impl S3Backend {
    /// Writes `owner` unless somebody has written before; gives what is there.
    pub(super) async fn own(&self, owner: &str) -> Result<String> {
        let bytes = Bytes::copy_from_slice(owner.as_bytes());
        let digest = crate::hash(&bytes);
        match self.write(OWNER, &digest, bytes).await {
            Err(meaning) if !meaning.is_present() => return Err(meaning.error),
            _ => {}
        }
        let found = self.read(OWNER).await?;
        String::from_utf8(found.into()).map_err(|error| {
            Error::corrupt(format!("the object {OWNER} of the bucket is not text")).because(error)
        })
    }
}
