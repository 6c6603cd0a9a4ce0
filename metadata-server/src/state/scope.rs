//! What every command has: rows to change, the time, and the group's counters.

use super::{
    Family, Read, keys,
    overlay::Overlay,
    rows::{self, CountersRow, GroupRow, Mark},
    stop::Step,
};
use serde::Serialize;
use sitefs_base::{Errno, Generation, Result, Time};

/// The surroundings of one command.
pub(super) struct Scope<'a> {
    pub rows: Overlay<'a>,
    /// The time of execution, later than that of every command before.
    pub at: Time,
    pub counters: CountersRow,
    stored: CountersRow,
    group: Option<GroupRow>,
}

impl<'a> Scope<'a> {
    pub(super) fn begin(read: &'a dyn Read, at: Time) -> Result<Self> {
        let rows = Overlay::new(read);
        let stored: CountersRow = rows::fetch(read, Family::Meta, keys::COUNTERS)?.unwrap_or_default();
        let group = rows::fetch(read, Family::Meta, keys::GROUP)?;
        let at = at.max(stored.last_at.next());
        let counters = CountersRow { last_at: at, commands: stored.commands + 1, ..stored.clone() };
        Ok(Self { rows, at, counters, stored, group })
    }

    /// Writes the counters; the command is done.
    pub(super) fn finish(&mut self) -> Result<()> {
        let counters = self.counters.clone();
        self.put(Family::Meta, keys::COUNTERS, &counters)
    }

    /// Forgets every change but that the command took place.
    pub(super) fn discard(&mut self) {
        self.rows.discard();
        self.counters =
            CountersRow { last_at: self.at, commands: self.stored.commands + 1, ..self.stored.clone() };
    }

    pub(super) fn put<T: Serialize>(&mut self, family: Family, key: &[u8], row: &T) -> Result<()> {
        self.rows.put(family, key, rows::encode(row)?);
        Ok(())
    }

    pub(super) fn group(&self) -> Option<&GroupRow> {
        self.group.as_ref()
    }

    /// The group; before it was made, commands are refused with `ENODEV`.
    pub(super) fn require_group(&self) -> Step<&GroupRow> {
        Ok(self.group.as_ref().ok_or(Errno::ENODEV)?)
    }

    /// This command, as the moment of a reference.
    pub(super) fn mark(&self) -> Step<Mark> {
        Ok(Mark { incarnation: self.require_group()?.incarnation, command: self.counters.commands })
    }

    /// A generation that was never drawn before.
    pub(super) fn draw_generation(&mut self) -> Step<Generation> {
        let incarnation = self.require_group()?.incarnation;
        self.counters.generations += 1;
        Ok(Generation { incarnation, counter: self.counters.generations })
    }
}
