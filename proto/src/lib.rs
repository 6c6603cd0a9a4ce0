//! The wire protocol: generated messages and services, and the checked conversions between them
//! and the domain types of `sitefs-base`.
//!
//! Conversions to messages cannot fail. Conversions from messages check every bound and give an
//! error of kind `Invalid`; past them only domain types are used.

pub mod admin;
mod check;
mod convert;
pub mod manage;
pub mod snapshots;
mod status;
pub mod whole;

/// The generated messages, clients and servers.
#[allow(missing_docs, reason = "generated; proto/sitefs.proto says what each message means")]
#[allow(clippy::all, clippy::unwrap_used, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod pb {
    tonic::include_proto!("sitefs.v1");
}

pub use check::RepairAll;
/// The messages between nodes.
#[allow(missing_docs, reason = "generated; proto/peer.proto says what each message means")]
#[allow(clippy::all, clippy::unwrap_used, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod peer {
    tonic::include_proto!("sitefs.peer.v1");
}

/// The administration of nodes.
#[allow(missing_docs, reason = "generated; proto/cell.proto says what each message means")]
#[allow(clippy::all, clippy::unwrap_used, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod cell {
    tonic::include_proto!("sitefs.cell.v1");
}

pub use status::{error_from_status, status_from_error};

/// The largest message, in bytes; clients and servers set it as their limit for decoding.
/// A commit or an answer of 1,024 chunks is the largest thing that is sent.
pub const MESSAGE_MAX: usize = 16 << 20;

/// The largest message between nodes: a batch of log entries, or a chunk of a snapshot.
pub const PEER_MESSAGE_MAX: usize = 4 << 20;
