//! A bucket as a vault.

use super::S3Backend;
use crate::{BoxFuture, Listed, Vault};
use bytes::Bytes;
use sitefs_base::{Digest, Result};

impl Vault for S3Backend {
    fn put<'a>(&'a self, name: &'a str, digest: &'a Digest, bytes: Bytes) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            match self.write(name, digest, bytes).await {
                Err(meaning) if !meaning.is_present() => Err(meaning.error),
                _ => Ok(()),
            }
        })
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(self.read(name))
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { S3Backend::remove(self, name).await })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Listed>>> {
        Box::pin(self.page(prefix, after, limit))
    }

    fn place(&self) -> String {
        self.store()
    }
}
