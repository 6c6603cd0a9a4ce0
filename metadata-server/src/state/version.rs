//! Which version of commands and behaviours the nodes of a cell have agreed on (DESIGN D9).
//!
//! A node knows several. What is new in one may be proposed only once an operator has raised the cell to
//! it, after the last node was replaced: an older node stops at what it does not know.

use super::{
    Family, Read, keys,
    rows::{self, VersionRow},
    scope::Scope,
    stop::{Step, Stop, require},
};
use sitefs_base::{Errno, Error, Result};

/// The versions that a program knows: it executes commands as any of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Versions {
    /// The lowest.
    pub min: u16,
    /// The highest.
    pub max: u16,
}

impl Versions {
    /// Those of this program. 1: commands up to kind 21. 2: all later kinds so far.
    pub const THIS: Self = Self { min: 1, max: 2 };

    fn know(self, version: u16) -> bool {
        (self.min..=self.max).contains(&version)
    }

    /// Refuses a state of another version, with what to do.
    pub fn check(self, version: u16) -> Result<()> {
        let Self { min, max } = self;
        match version {
            _ if self.know(version) => Ok(()),
            newer if newer > max => Err(Error::invalid(format!(
                "the cell is of version {version}, this program knows {min} to {max}: it is older than the other \
                 nodes; start the program that they run"
            ))),
            _ => Err(Error::invalid(format!(
                "the cell is of version {version}, this program knows {min} to {max}: start one in between first, and \
                 raise the cell with: sitefs cell upgrade --finalize"
            ))),
        }
    }
}

/// The version that the cell was raised to.
pub fn cluster_version(read: &dyn Read) -> Result<u16> {
    let row: Option<VersionRow> = rows::fetch(read, Family::Meta, keys::VERSION)?;
    Ok(row.map_or(1, |row| row.version))
}

/// Raises the cell, never back. A node that does not know the version stops (Fenced).
pub(super) fn raise(scope: &mut Scope, version: u16, known: Versions) -> Step<()> {
    scope.require_group()?;
    if version > known.max {
        return Err(Stop::Failed(Error::fenced(format!(
            "the cell was raised to version {version}, and this program knows {} to {}: start the program that the \
             other nodes run",
            known.min, known.max
        ))));
    }
    require(version >= cluster_version(&scope.rows)?, Errno::EINVAL)?;
    Ok(scope.put(Family::Meta, keys::VERSION, &VersionRow { version })?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::MemoryView;
    use sitefs_base::{Kind, Time};

    #[test]
    fn a_program_takes_what_it_knows_and_says_what_to_do_about_the_rest() {
        let known = Versions { min: 2, max: 3 };
        assert!(known.check(2).is_ok() && known.check(3).is_ok());
        assert!(known.check(4).unwrap_err().doing().contains("older than the other nodes"));
        assert!(known.check(1).unwrap_err().doing().contains("in between"));
    }

    #[test]
    fn an_unknown_version_stops_the_node_and_is_not_stored() {
        let mut view = MemoryView::new();
        let group = sitefs_base::GroupId::new(1);
        let init = super::super::CommandBody::Init {
            cell: "c".to_owned(),
            group,
            incarnation: sitefs_base::Incarnation::new(1),
        };
        super::super::apply(&mut view, &super::super::Command { at: Time::new(1, 0), body: init }).unwrap();
        let mut scope = Scope::begin(&view, Time::new(2, 0)).unwrap();
        let stopped = raise(&mut scope, 4, Versions { min: 1, max: 3 });
        assert!(matches!(stopped, Err(Stop::Failed(error)) if error.kind() == Kind::Fenced));
        assert!(raise(&mut scope, 3, Versions { min: 1, max: 3 }).is_ok());
        assert!(matches!(raise(&mut scope, 2, Versions::THIS), Err(Stop::Refused(Errno::EINVAL))));
        assert_eq!(cluster_version(&scope.rows).unwrap(), 3);
    }
}
