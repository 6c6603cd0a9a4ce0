//! Whether the parents of every directory lead to the root.

use super::{
    super::{
        Family, keys,
        rows::{self, InodeRow},
    },
    Check, FindingKind as Found,
    tree::Tree,
};
use sitefs_base::{InodeId, Result};

/// Directories of one volume whose parents are remembered, 17 bytes each; of those beyond the parents are
/// read again.
const REMEMBERED: usize = 1 << 21;
/// Deeper than any path: 16 million directories in each other.
const DEPTH_MAX: u32 = 1 << 24;

/// What is known of a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Unknown,
    /// On the way that is being followed.
    Here,
    /// Leads to the root, to what awaits removal or is being copied, or has been told.
    Known,
}

/// The directories of a tree, ascending, with their parents; 0 for none.
#[derive(Default)]
pub(super) struct Dirs {
    known: Vec<(InodeId, InodeId)>,
    ways: Vec<Way>,
    /// Those that came when the memory was full.
    first_beyond: Option<InodeId>,
}

impl Dirs {
    pub fn add(&mut self, ino: InodeId, parent: Option<InodeId>) {
        if self.known.len() < REMEMBERED {
            self.known.push((ino, parent.unwrap_or(InodeId::new(0))));
            self.ways.push(Way::Unknown);
        } else {
            self.first_beyond.get_or_insert(ino);
        }
    }

    pub fn check(&mut self, tree: &Tree, check: &mut Check) -> Result<()> {
        for start in 0..self.known.len() {
            self.follow(tree, check, start)?;
        }
        if let Some(from) = self.first_beyond {
            self.beyond(tree, check, from)?;
        }
        Ok(())
    }

    /// Follows the parents of one directory until something known.
    fn follow(&mut self, tree: &Tree, check: &mut Check, start: usize) -> Result<()> {
        let (mut at, mut way) = (start, Vec::new());
        while self.ways[at] == Way::Unknown {
            self.ways[at] = Way::Here;
            way.push(at);
            let (ino, parent) = self.known[at];
            if ino == InodeId::ROOT || parent.get() == 0 {
                break;
            }
            match self.known.binary_search_by_key(&parent, |(ino, _)| *ino) {
                Ok(next) => at = next,
                // A parent that is missing is told by the names; one beyond the memory is followed by reads.
                Err(_) => {
                    if self.first_beyond.is_some_and(|first| parent >= first) {
                        self.read_up(tree, check, ino)?;
                    }
                    break;
                }
            }
            if self.ways[at] == Way::Here {
                tell(tree, check, self.known[at].0);
                break;
            }
        }
        for at in way {
            self.ways[at] = Way::Known;
        }
        Ok(())
    }

    fn beyond(&mut self, tree: &Tree, check: &mut Check, from: InodeId) -> Result<()> {
        let from = keys::inode(tree.id, from);
        let mut inodes =
            super::cursor::Cursor::from(tree.read, Family::Inode, tree.id.to_key().to_vec(), from);
        while let Some((key, value)) = inodes.next(check)? {
            let Some(ino) = keys::part(&key, 8).map(InodeId::from_key) else { continue };
            let Ok(row) = rows::decode::<InodeRow>(Family::Inode, &key, &value) else { continue };
            if row.parent.is_some() {
                self.read_up(tree, check, ino)?;
            }
        }
        Ok(())
    }

    /// Follows parents by reading them, with a second reader at twice the speed: they meet in a loop.
    fn read_up(&self, tree: &Tree, check: &mut Check, start: InodeId) -> Result<()> {
        let (mut slow, mut fast) = (Some(start), Some(start));
        for _ in 0..DEPTH_MAX {
            slow = step(tree, slow)?;
            fast = step(tree, step(tree, fast)?)?;
            match (slow, fast) {
                (Some(slow), Some(fast)) if slow == fast => {
                    // Told once, by its lowest member, which all others find too.
                    if start <= lowest(tree, slow)? {
                        tell(tree, check, start);
                    }
                    return Ok(());
                }
                (_, Some(_)) => {}
                (_, None) => return Ok(()),
            }
        }
        Ok(())
    }
}

fn step(tree: &Tree, ino: Option<InodeId>) -> Result<Option<InodeId>> {
    let Some(ino) = ino.filter(|ino| *ino != InodeId::ROOT) else { return Ok(None) };
    let key = keys::inode(tree.id, ino);
    let Some(value) = tree.read.get(Family::Inode, &key)? else { return Ok(None) };
    Ok(rows::decode::<InodeRow>(Family::Inode, &key, &value).ok().and_then(|row| row.parent))
}

fn lowest(tree: &Tree, member: InodeId) -> Result<InodeId> {
    let (mut lowest, mut at) = (member, step(tree, Some(member))?);
    while let Some(ino) = at.filter(|ino| *ino != member) {
        lowest = lowest.min(ino);
        at = step(tree, Some(ino))?;
    }
    Ok(lowest)
}

fn tell(tree: &Tree, check: &mut Check, ino: InodeId) {
    let what = format!("the parents of {ino} lead back to it, not to the root");
    check.found(tree.finding(Found::DirectoryLoop, what).ino(ino));
}
