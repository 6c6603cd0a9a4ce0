//! How fast the mounts of a volume may change it.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// How fast all mounts of a volume together may change it (DESIGN D37). What comes faster waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rates {
    /// Operations in a second.
    pub ops_per_second: u64,
    /// Bytes of content in a second that come in operations.
    pub bytes_per_second: u64,
}

impl Default for Rates {
    fn default() -> Self {
        Self { ops_per_second: 10_000, bytes_per_second: 200_000_000 }
    }
}

impl Rates {
    /// At these rates all that one mount may have under way still goes through in two seconds.
    pub const MIN: Self = Self { ops_per_second: 50, bytes_per_second: 2 << 20 };

    /// Refuses rates at which mounts would give up.
    pub fn check(&self) -> Result<()> {
        let Self { ops_per_second, bytes_per_second } = Self::MIN;
        if self.ops_per_second < ops_per_second || self.bytes_per_second < bytes_per_second {
            return Err(Error::invalid(format!(
                "a volume takes at least {ops_per_second} operations and {bytes_per_second} bytes in a second: make it \
                 read-only instead"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_that_would_stop_a_mount_are_refused() {
        assert!(Rates::default().check().is_ok() && Rates::MIN.check().is_ok());
        assert!(Rates { ops_per_second: 49, ..Rates::default() }.check().is_err());
        assert!(Rates { bytes_per_second: 0, ..Rates::default() }.check().is_err());
    }
}
