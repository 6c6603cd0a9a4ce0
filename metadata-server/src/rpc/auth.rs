//! Who is calling: decided here and nowhere else (DESIGN D36).

use sitefs_base::{Error, Identity, Result, VolumeName};

/// How callers prove who they are. Certificates are not built yet: in insecure mode the caller's
/// word counts, else nobody is let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Auth {
    insecure: bool,
}

/// What an attached caller may do with its volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// Questions only.
    Read,
    /// Mutations too.
    Write,
}

impl Auth {
    /// `insecure` must be set only for loopback listeners.
    pub fn new(insecure: bool) -> Self {
        Self { insecure }
    }

    /// The caller. A claimed identity's cell is not compared: a mount learns the name at attach.
    pub fn caller(self, claimed: &str) -> Result<Identity> {
        if !self.insecure {
            return Err(Error::denied(
                "this cell takes callers with certificates only, and this one has none",
            ));
        }
        claimed.parse().map_err(|bad: Error| {
            Error::denied(format!("the caller has not said who it is: {}", bad.doing()))
        })
    }

    /// What `caller` may do with `volume`; an error if nothing.
    pub fn access(caller: &Identity, volume: &VolumeName) -> Result<Access> {
        if caller.may_write(volume).is_ok() {
            return Ok(Access::Write);
        }
        caller.may_read(volume).map(|()| Access::Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitefs_base::Kind;

    #[test]
    fn a_claim_counts_in_insecure_mode_only() {
        let claim = "sitefs://main/acme/live?role=rw";
        assert!(Auth::new(true).caller(claim).is_ok());
        assert_eq!(Auth::new(true).caller("me").unwrap_err().kind(), Kind::Denied);
        assert_eq!(Auth::new(false).caller(claim).unwrap_err().kind(), Kind::Denied);
    }

    #[test]
    fn a_role_gives_access_to_its_own_volume() {
        let live: VolumeName = "acme/live".parse().unwrap();
        let access = |claim: &str| Auth::access(&claim.parse().unwrap(), &live);
        assert_eq!(access("sitefs://main/acme/live?role=rw").unwrap(), Access::Write);
        assert_eq!(access("sitefs://main/acme/live?role=ro").unwrap(), Access::Read);
        assert!(access("sitefs://main/acme/dev?role=rw").is_err());
        assert!(access("sitefs://main?role=operator").is_err());
    }
}
