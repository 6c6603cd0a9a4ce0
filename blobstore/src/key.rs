//! The name of an object in a backend.

use sitefs_base::{Digest, Error, Generation, Incarnation, Result, SiteId};
use std::{fmt, str::FromStr};

/// Names the object that holds a blob: `b/<site>/<hh>/<digest>.<incarnation>-<counter>`.
///
/// The generation makes a late PUT or DELETE of an earlier grant harmless (DESIGN D32).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectKey {
    /// The site: blobs are shared inside it, never outside.
    pub site: SiteId,
    /// The content.
    pub digest: Digest,
    /// The grant under which it was written.
    pub generation: Generation,
}

impl ObjectKey {
    /// What the keys of all objects of `site` begin with.
    pub fn site_prefix(site: SiteId) -> String {
        format!("b/{}/", site.get())
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.digest.as_bytes()[0];
        write!(f, "b/{}/{first:02x}/{}.{}", self.site.get(), self.digest, self.generation)
    }
}

impl FromStr for ObjectKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::invalid(format!("{text:?} is not the key of a blob"));
        let mut parts = text.split('/');
        let (Some("b"), Some(site), Some(_), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        let (digest, generation) = name.split_once('.').ok_or_else(bad)?;
        let (incarnation, counter) = generation.split_once('-').ok_or_else(bad)?;
        let key = Self {
            site: SiteId::new(site.parse().map_err(|_| bad())?),
            digest: digest.parse().map_err(|_| bad())?,
            generation: Generation {
                incarnation: Incarnation::new(incarnation.parse().map_err(|_| bad())?),
                counter: counter.parse().map_err(|_| bad())?,
            },
        };
        // One text form per key: leading zeros, signs and a wrong fan-out directory are refused.
        if key.to_string() == text { Ok(key) } else { Err(bad()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_text_form_round_trips(
            site: u64, low: [u8; 32], high: [u8; 32], incarnation: u32, counter: u64
        ) {
            let digest = Digest::from_slice(&[low, high].concat()).unwrap();
            let generation = Generation { incarnation: Incarnation::new(incarnation), counter };
            let key = ObjectKey { site: SiteId::new(site), digest, generation };
            prop_assert_eq!(key.to_string().parse::<ObjectKey>().unwrap(), key);
        }

        #[test]
        fn what_parses_prints_the_same(text in "b/[+0-9]{1,3}/(00|ff)/(00|ff)[0]{126}\\.[0-9]{1,2}-[0-9]{1,2}") {
            if let Ok(key) = text.parse::<ObjectKey>() {
                prop_assert_eq!(key.to_string(), text);
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = text.parse::<ObjectKey>();
        }
    }
}
