//! The names that the kernel was told of with a lifetime (DESIGN D24): when nothing that it remembers
//! may be believed any more, they are taken back one by one.

use sitefs_base::op::Place;
use sitefs_base::{InodeId, Name};
use std::{collections::HashMap, time::Duration};

/// Names at most; what comes beyond gets no lifetime, so nothing has to be remembered of it.
const NAMES_MAX: usize = 131_072;
/// From so many on those that the kernel has forgotten are looked for.
const CROWDED: usize = NAMES_MAX / 8 * 7;

/// Looking through the table takes some milliseconds, and may find nothing.
const RECLAIM_EVERY: Duration = Duration::from_secs(30);

/// What is remembered of a name.
#[derive(Clone, Copy, Debug)]
struct Given {
    /// The node behind it; `None` says that the kernel believes it absent.
    node: Option<InodeId>,
    /// Second of CLOCK_BOOTTIME at which the kernel forgets it by itself.
    until: u32,
}

/// The names.
#[derive(Debug, Default)]
pub(super) struct Handed {
    dirs: HashMap<InodeId, HashMap<Name, Given>>,
    names: usize,
    /// When the table was last looked through for what the kernel has forgotten.
    reclaimed: Duration,
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

impl Handed {
    /// Notes that the kernel may believe until `until` that `place` leads to `node`, or to nothing; false
    /// if there is no room for the note.
    pub fn add(&mut self, place: &Place, node: Option<InodeId>, until: Duration) -> bool {
        let given = Given { node, until: seconds(until).saturating_add(1) };
        let room = self.names < NAMES_MAX;
        if let Some(known) = self.dirs.get_mut(&place.parent).and_then(|names| names.get_mut(&place.name)) {
            *known = given;
            return true;
        }
        if room {
            self.dirs.entry(place.parent).or_default().insert(place.name.clone(), given);
            self.names += 1;
        }
        room
    }

    /// The kernel does not believe this name any more.
    pub fn remove(&mut self, place: &Place) {
        let Some(names) = self.dirs.get_mut(&place.parent) else { return };
        if names.remove(&place.name).is_some() {
            self.names -= 1;
        }
        if names.is_empty() {
            self.dirs.remove(&place.parent);
        }
    }

    /// Whether it is time for [`Self::reclaim`].
    pub fn is_due(&self, now: Duration) -> bool {
        self.names >= CROWDED && now >= self.reclaimed + RECLAIM_EVERY
    }

    /// Drops what the kernel has forgotten by now: names of nodes that it does not know, and those
    /// whose time is over.
    pub fn reclaim(&mut self, now: Duration, is_known: impl Fn(InodeId) -> bool) {
        self.reclaimed = now;
        let now = seconds(now);
        self.dirs.retain(|dir, names| {
            let known = is_known(*dir);
            names.retain(|_, given| known && given.until > now && given.node.is_none_or(&is_known));
            names.shrink_to_fit();
            !names.is_empty()
        });
        self.names = self.dirs.values().map(HashMap::len).sum();
    }

    /// Gives all names and forgets them.
    pub fn take_all(&mut self) -> Vec<Place> {
        let dirs = std::mem::take(&mut self.dirs);
        self.names = 0;
        let places = |(parent, names): (InodeId, HashMap<Name, Given>)| {
            names.into_keys().map(move |name| Place { parent, name })
        };
        dirs.into_iter().flat_map(places).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn place(dir: u64, name: u32) -> Place {
        Place { parent: InodeId::new(dir), name: Name::new(name.to_string().into_bytes()).unwrap() }
    }

    #[test]
    fn a_full_table_takes_nothing_new_until_the_kernel_has_forgotten_something() {
        let mut handed = Handed::default();
        let names = u32::try_from(NAMES_MAX).unwrap();
        assert!((0..names).all(|name| handed.add(
            &place(1, name),
            Some(InodeId::new(u64::from(name))),
            HOUR
        )));
        assert!(handed.is_due(HOUR));
        assert!(!handed.add(&place(2, 0), None, HOUR));
        assert!(handed.add(&place(1, 7), None, HOUR), "a name that is there already needs no room");
        // The kernel has forgotten every other node.
        handed.reclaim(Duration::ZERO, |ino| ino.get() % 2 == 1);
        assert!(!handed.is_due(HOUR));
        assert!(handed.add(&place(2, 0), None, HOUR));
        let left = handed.take_all();
        assert_eq!(left.len(), NAMES_MAX / 2 + 1);
        assert!(handed.take_all().is_empty());
    }

    #[test]
    fn names_go_with_their_time_and_with_their_directory() {
        let mut handed = Handed::default();
        handed.add(&place(1, 1), None, HOUR);
        handed.add(&place(1, 2), None, 2 * HOUR);
        handed.add(&place(5, 3), None, 2 * HOUR);
        handed.reclaim(HOUR + Duration::from_secs(2), |ino| ino.get() != 5);
        assert_eq!(handed.take_all(), [place(1, 2)]);
    }

    #[test]
    fn what_was_taken_back_is_not_taken_back_again() {
        let mut handed = Handed::default();
        handed.add(&place(1, 1), None, HOUR);
        handed.remove(&place(1, 1));
        handed.remove(&place(1, 1));
        assert!(handed.take_all().is_empty());
    }
}
