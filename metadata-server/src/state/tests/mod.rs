//! Tests of the state machine: rules one by one, a model, and damaged rows.

mod appends;
mod attrs;
mod bad_input;
mod blobs;
mod checks;
mod content;
mod damage;
mod fuzz;
mod gc;
mod gc_model;
mod harness;
mod history;
mod invariants;
mod names;
mod past;
mod pins;
mod ranges;
mod reap;
pub(crate) mod reference;
mod restore;
pub(crate) mod samples;
mod sessions;
mod settings;
mod shorten;
pub(crate) mod slices;
mod volumes;
mod xattrs;
