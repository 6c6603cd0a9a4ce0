//! Where objects are kept.

pub mod dir;
#[cfg(feature = "s3")]
pub mod s3;

use crate::ObjectKey;
use bytes::Bytes;
use sitefs_base::{Result, Time};
use std::{fmt, future::Future, pin::Pin, time::Duration};

/// A future that a trait object returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The largest object that is read into memory: a pack of 8 MiB and its index.
pub(crate) const OBJECT_MAX: u64 = 16 * 1024 * 1024;

/// A request that its holder may execute once or many times until it expires, without credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedRequest {
    /// `GET` or `PUT`.
    pub method: String,
    /// The full URL with its signature.
    pub url: String,
    /// Headers that are part of the signature and must be sent exactly so.
    pub headers: Vec<(String, String)>,
    /// Until when it is valid, by the signer's clock.
    pub expires: Time,
}

impl fmt::Debug for SignedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The signature is a secret while it is valid.
        let bare = self.url.split('?').next().unwrap_or_default();
        write!(f, "SignedRequest({} {bare}, expires {:?})", self.method, self.expires)
    }
}

/// One object of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its full key; not only blobs may be in a bucket, so this is text.
    pub key: String,
    /// Its size in bytes.
    pub len: u64,
    /// When it was written, by the store's clock.
    pub modified: Time,
}

/// Keeps objects under keys. Nothing that comes out of it is trusted: hash it with
/// [`crate::VerifiedBytes::check`].
pub trait Backend: Send + Sync + fmt::Debug {
    /// Stores `bytes` durably. The key is immutable: that it is there already is success.
    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes) -> BoxFuture<'a, Result<()>>;

    /// Reads a whole object; [`sitefs_base::Kind::NotFound`] when it is not there.
    fn get<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Bytes>>;

    /// The size of an object, if it is there.
    fn head<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Option<u64>>>;

    /// Removes an object; that it is not there is success.
    fn delete<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<()>>;

    /// A request that writes exactly `len` bytes; `None` when this backend cannot sign.
    fn presign_put<'a>(
        &'a self,
        key: &'a ObjectKey,
        len: u64,
        valid: Duration,
    ) -> BoxFuture<'a, Result<Option<SignedRequest>>>;

    /// A request that reads the object; `None` when this backend cannot sign.
    fn presign_get<'a>(
        &'a self,
        key: &'a ObjectKey,
        valid: Duration,
    ) -> BoxFuture<'a, Result<Option<SignedRequest>>>;

    /// Up to `limit` objects in key order whose keys begin with `prefix` and are greater than `after`.
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Listed>>>;

    /// Writes down whose the objects are, unless it is written already; gives what is written. A store
    /// that nobody can share is the caller's.
    fn claim<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<String>> {
        Box::pin(std::future::ready(Ok(owner.to_owned())))
    }

    /// Tries the store at start-up; an error says in one line what is wrong and what to do.
    fn check(&self) -> BoxFuture<'_, Result<()>>;

    /// True when [`Backend::check`] found that the store refuses bytes that do not have the digest
    /// in the request. If it does not, an object is unverified until the cell has hashed it (DESIGN D33).
    fn enforces_digest(&self) -> bool;

    /// True when objects fill a disk of this machine, which may be the one of the cell's state.
    fn uses_own_disk(&self) -> bool {
        false
    }
}
