//! Tests of the state machine: rules one by one, a model, and damaged rows.

mod appends;
mod attrs;
mod blobs;
mod content;
mod damage;
mod harness;
mod history;
mod invariants;
mod model;
mod names;
mod past;
mod pins;
mod ranges;
mod reap;
mod restore;
pub(crate) mod samples;
mod sessions;
mod settings;
mod volumes;
mod xattrs;
