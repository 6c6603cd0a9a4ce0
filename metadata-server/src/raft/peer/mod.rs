//! The way between the nodes of a cell: what Raft says, snapshots, and who is who.
//!
//! `gate.rs` decides who may speak to whom; `client.rs` calls and `service.rs` answers; `sending.rs` and
//! `receiving.rs` move snapshots; `meet.rs` exchanges once a second how far everybody has come.

mod client;
mod contacts;
mod gate;
mod known;
mod meet;
mod receiving;
mod sending;
mod service;
mod wire;

pub(super) use client::{Peers, describe};
pub(super) use gate::Gate;
pub(super) use known::Known;
pub(super) use meet::Meetings;
pub(super) use service::{PeerService, listen};
pub(super) use wire::Described;
