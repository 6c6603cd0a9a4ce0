//! Blobs: immutable byte strings named by their SHA-512. Hashing and bytes that prove themselves,
//! the backends that hold objects, the disk cache of a mount, and the execution of presigned
//! requests.
//!
//! Nothing here knows files, inodes or gRPC.

mod backend;
mod cache;
mod hash;
mod key;
#[cfg(feature = "transfer")]
mod transfer;
mod vault;

#[cfg(feature = "s3")]
pub use backend::s3::{Credentials, S3Backend, S3Config};
pub use backend::{Backend, BoxFuture, Listed, SignedRequest, dir::DirBackend};
pub use cache::{CacheOptions, CacheStats, CachedBlob, DiskCache};
pub use hash::{Hasher, VerifiedBytes, hash};
pub use key::ObjectKey;
#[cfg(feature = "transfer")]
pub use transfer::{PutOutcome, Transfer};
pub use vault::{VAULT_PREFIX, Vault};
