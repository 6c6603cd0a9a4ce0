//! Where backups are kept: named files beside the blobs of a bucket, or in a directory.

use crate::{BoxFuture, Listed};
use bytes::Bytes;
use sitefs_base::{Digest, Result};
use std::fmt;

/// What all names in a vault begin with; no key of a blob does.
pub const VAULT_PREFIX: &str = "backup/";

/// Keeps small files under names that begin with [`VAULT_PREFIX`]. Names are never reused. Nothing that
/// comes out of it is trusted.
pub trait Vault: Send + Sync + fmt::Debug {
    /// Stores `bytes`, whose digest is `digest`, durably. A file of that name stays as it is.
    fn put<'a>(&'a self, name: &'a str, digest: &'a Digest, bytes: Bytes) -> BoxFuture<'a, Result<()>>;

    /// Reads a whole file; [`sitefs_base::Kind::NotFound`] when it is not there.
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Bytes>>;

    /// Removes a file; that it is not there is success.
    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Up to `limit` files in the order of their names that begin with `prefix` and are greater than
    /// `after`. A file is listed from the return of its `put` to its removal.
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Listed>>>;

    /// The place, for people and to tell it from others.
    fn place(&self) -> String;
}
