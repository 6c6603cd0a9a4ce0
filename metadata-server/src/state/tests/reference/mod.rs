//! A reference model of the state machine, written from what POSIX and `docs/SEMANTICS.md` say, that
//! keeps every tree that there ever was; and random histories in which both must agree.

mod acl;
mod blobs;
mod collecting;
mod compare;
mod content;
mod histories;
mod leader;
mod merges;
mod model;
mod moments;
mod ranges;
mod reach;
mod reaping;
mod regressions;
mod restores;
mod rules;
mod settings;
mod steps;
mod tree;

pub(crate) use histories::{Budget, cell_slices, random_cell};
