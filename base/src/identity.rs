//! Who is calling (DESIGN D36). Every handler receives an [`Identity`] from one place.

use crate::{Error, Result, SiteName, VolumeName};
use std::{fmt, str::FromStr};

/// What a caller may do. The text form is the SAN URI of its certificate.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Role {
    /// Reads one volume.
    Reader(VolumeName),
    /// Reads and writes one volume.
    Writer(VolumeName),
    /// Manages the volumes of one site.
    SiteAdmin(SiteName),
    /// Runs the cell.
    Operator,
    /// Another node of the cell.
    Node,
}

/// A caller: the cell that its certificate belongs to, and its role there.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Identity {
    cell: String,
    role: Role,
}

impl Identity {
    /// An identity proven elsewhere (by a certificate, or declared in insecure mode).
    pub fn new(cell: impl Into<String>, role: Role) -> Self {
        Self { cell: cell.into(), role }
    }

    /// The cell's name.
    pub fn cell(&self) -> &str {
        &self.cell
    }

    /// The caller's role.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// Refuses unless the caller may read `volume`.
    pub fn may_read(&self, volume: &VolumeName) -> Result<()> {
        match &self.role {
            Role::Reader(own) | Role::Writer(own) if own == volume => Ok(()),
            _ => Err(self.denied(format_args!("read {volume}"))),
        }
    }

    /// Refuses unless the caller may write `volume`.
    pub fn may_write(&self, volume: &VolumeName) -> Result<()> {
        match &self.role {
            Role::Writer(own) if own == volume => Ok(()),
            _ => Err(self.denied(format_args!("write {volume}"))),
        }
    }

    /// Refuses unless the caller may create, list and change volumes of `site`.
    pub fn may_manage(&self, site: &SiteName) -> Result<()> {
        match &self.role {
            Role::Operator => Ok(()),
            Role::SiteAdmin(own) if own == site => Ok(()),
            _ => Err(self.denied(format_args!("manage site {site}"))),
        }
    }

    /// Refuses unless the caller runs the cell.
    pub fn may_operate(&self) -> Result<()> {
        match self.role {
            Role::Operator => Ok(()),
            _ => Err(self.denied(format_args!("operate the cell"))),
        }
    }

    fn denied(&self, what: fmt::Arguments<'_>) -> Error {
        Error::denied(format!("{self} may not {what}"))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cell = &self.cell;
        match &self.role {
            Role::Reader(volume) => write!(f, "sitefs://{cell}/{volume}?role=ro"),
            Role::Writer(volume) => write!(f, "sitefs://{cell}/{volume}?role=rw"),
            Role::SiteAdmin(site) => write!(f, "sitefs://{cell}/{site}?role=site-admin"),
            Role::Operator => write!(f, "sitefs://{cell}?role=operator"),
            Role::Node => write!(f, "sitefs://{cell}?role=node"),
        }
    }
}

impl FromStr for Identity {
    type Err = Error;
    fn from_str(uri: &str) -> Result<Self> {
        let bad =
            || Error::invalid(format!("{uri:?} is not an identity such as sitefs://cell/acme/live?role=rw"));
        let rest = uri.strip_prefix("sitefs://").ok_or_else(bad)?;
        let (place, role) = rest.split_once("?role=").ok_or_else(bad)?;
        let (cell, subject) = place.split_once('/').map_or((place, None), |(cell, s)| (cell, Some(s)));
        if cell.is_empty() {
            return Err(bad());
        }
        let role = match (role, subject) {
            ("ro", Some(volume)) => Role::Reader(volume.parse()?),
            ("rw", Some(volume)) => Role::Writer(volume.parse()?),
            ("site-admin", Some(site)) => Role::SiteAdmin(site.parse()?),
            ("operator", None) => Role::Operator,
            ("node", None) => Role::Node,
            _ => return Err(bad()),
        };
        Ok(Self::new(cell, role))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uri_round_trips_for_every_role() {
        for uri in [
            "sitefs://main/acme/live?role=ro",
            "sitefs://main/acme/live?role=rw",
            "sitefs://main/acme?role=site-admin",
            "sitefs://main?role=operator",
            "sitefs://main?role=node",
        ] {
            assert_eq!(uri.parse::<Identity>().unwrap().to_string(), uri);
        }
        for bad in
            ["", "sitefs://", "sitefs://main/acme?role=rw", "sitefs://main?role=root", "http://x?role=node"]
        {
            assert!(bad.parse::<Identity>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_role_reaches_its_own_volume_only() {
        let live: VolumeName = "acme/live".parse().unwrap();
        let dev: VolumeName = "acme/dev".parse().unwrap();
        let writer = Identity::new("main", Role::Writer(live.clone()));
        assert!(writer.may_write(&live).is_ok() && writer.may_read(&live).is_ok());
        assert!(writer.may_read(&dev).is_err() && writer.may_operate().is_err());
        assert!(Identity::new("main", Role::Reader(live.clone())).may_write(&live).is_err());
        assert!(Identity::new("main", Role::Operator).may_read(&live).is_err());
        assert!(
            Identity::new("main", Role::SiteAdmin("acme".parse().unwrap())).may_manage(live.site()).is_ok()
        );
    }
}
