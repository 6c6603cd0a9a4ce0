//! The decisions that the machine runs.

use crate::state::{Applied, Command, Read, View};
use sitefs_base::{GroupId, Incarnation, Result, Time};

/// The functions of `state` that Raft needs.
#[derive(Clone, Copy)]
pub(super) struct Logic {
    pub(super) apply: fn(&mut dyn View, &Command) -> Result<Applied>,
    pub(super) last_at: fn(&dyn Read) -> Result<Time>,
    pub(super) group_info: fn(&dyn Read) -> Result<Option<GroupInfo>>,
}

/// What a group is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupInfo {
    pub cell: String,
    pub group: GroupId,
    pub incarnation: Incarnation,
}

impl Logic {
    pub(super) const STATE: Self = Self {
        apply: |_, _| Err(sitefs_base::Error::internal("no state machine yet")),
        last_at: |_| Ok(Time::EPOCH),
        group_info: |_| Ok(None),
    };
}
