//! What is measured: a case is run once per repetition and place, and gives some numbers.

mod big;
mod small;
mod tree;

pub(crate) use tree::pack;

use crate::{
    place::{Place, Plan},
    stats::Sample,
};
use sitefs_base::Result;

/// Something that is measured.
pub(crate) struct Case {
    /// Its name, for `--only`.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) about: &'static str,
    /// Runs it once; the number is that of the repetition.
    pub(crate) run: fn(&Place, &Plan, usize) -> Result<Vec<Sample>>,
}

/// All cases, in the order in which they run.
pub(crate) const ALL: [Case; 13] = [
    Case { name: "untar", about: "tar unpacks a tree; then it is removed", run: tree::untar },
    Case { name: "create-1", about: "create, write 8 KiB, close; 1 writer", run: small::create::<1> },
    Case { name: "create-4", about: "the same; 4 writers, each in its directory", run: small::create::<4> },
    Case {
        name: "create-16",
        about: "the same; 16 writers, each in its directory",
        run: small::create::<16>,
    },
    Case {
        name: "create-fsync",
        about: "create, write 8 KiB, fsync, close; 1 writer",
        run: small::create_synced,
    },
    Case { name: "stat", about: "stat of files, warm", run: small::stat },
    Case { name: "absent", about: "stat of names that are not there, warm", run: small::absent },
    Case { name: "open-read", about: "open, read 8 KiB, close; warm", run: small::open_read },
    Case { name: "write", about: "write a big file in blocks of 1 MiB", run: big::write },
    Case { name: "read", about: "read a big file in blocks of 1 MiB", run: big::read },
    Case { name: "readdir", about: "list a directory and stat every entry", run: tree::readdir },
    Case { name: "rename", about: "rename files within a directory", run: small::rename },
    Case { name: "unlink", about: "unlink files", run: small::unlink },
];
