//! How far reading every object again has come.

use crate::fsck::content::Cursor;
use sitefs_base::{Error, Result, Time};
use std::{fs, io::ErrorKind, path::Path};

/// How far a round is; the file `scrub`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Round {
    /// When the last whole round began.
    pub whole: Option<Time>,
    /// When the one under way began.
    pub began: Option<Time>,
    /// The last blob that it has read.
    pub at: Option<Cursor>,
}

const FORMAT: &str = "sitefs-scrub 1";

impl Round {
    fn text(&self) -> String {
        let secs = |time: Option<Time>| time.map_or("never".to_owned(), |time| time.secs().to_string());
        let at = self.at.map_or("start".to_owned(), |at| at.to_string());
        format!("{FORMAT}\nwhole {}\nbegan {}\nat {at}\n", secs(self.whole), secs(self.began))
    }

    /// What cannot be read counts as nothing: the round begins anew.
    fn parse(text: &str) -> Self {
        let of = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        let secs = |key| of(key).and_then(|secs| secs.parse().ok()).map(|secs| Time::new(secs, 0));
        if !text.starts_with(FORMAT) {
            return Self::default();
        }
        let at = of("at").and_then(|at| Cursor::parse(at).ok());
        Self { whole: secs("whole"), began: secs("began"), at }
    }

    pub fn load(path: &Path) -> Self {
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text),
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "the scrub begins anew");
                }
                Self::default()
            }
        }
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        let new = path.with_extension("new");
        let write = || fs::write(&new, self.text()).and_then(|()| fs::rename(&new, path));
        write().map_err(|error| Error::io(format!("writing {}", path.display()), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitefs_base::SiteId;

    #[test]
    fn where_a_round_stands_survives_a_restart() {
        let round = Round {
            whole: Some(Time::new(5, 0)),
            began: Some(Time::new(9, 0)),
            at: Some(Cursor(SiteId::new(3), [7; 32])),
        };
        assert_eq!(Round::parse(&round.text()), round);
        let new = Round { whole: None, began: None, at: None };
        assert_eq!(Round::parse(&new.text()), new);
        assert_eq!(Round::parse("something else"), new);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scrub");
        assert_eq!(Round::load(&path), new);
        round.save(&path).unwrap();
        assert_eq!(Round::load(&path), round);
    }
}
