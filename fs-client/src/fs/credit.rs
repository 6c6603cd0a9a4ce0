//! Room for what is written and created: claimed before the cell hears of it (DESIGN D17).

use super::node::{Node, NodeState};
use super::{Cx, Fs, Op, lock};
use crate::meta::{Claim, Growth, Stop};
use sitefs_base::op::Credit;
use std::sync::Arc;

/// The credit for a new file, directory or link.
pub(super) const ONE_INODE: Credit = Credit { bytes: 0, inodes: 1 };

/// What is in the way of a change.
#[derive(Debug)]
pub(super) enum Obstacle {
    /// Chunks of the cell's version that are not here.
    Missing(Vec<u32>),
    /// So much credit.
    Credit(Credit),
    /// The cell is changing the file.
    Moving,
}

impl Fs {
    /// Claims credit, waiting for it if that may be waited for: `EDQUOT` if there is none.
    pub(super) fn claim(&self, cx: Cx, amount: Credit) -> Op<Claim> {
        let mut claim = self.meta.session().credits().claim();
        while let Some(more) = self.grow(&mut claim, amount) {
            self.wait_for_credit(cx, more)?;
        }
        Ok(claim)
    }

    /// Claims the credit for content that makes the file larger by `growth` bytes at the cell. If there
    /// is not enough, the claim stays as it was, and so much is short.
    pub(super) fn short_of(&self, state: &mut NodeState, growth: u64) -> Option<Credit> {
        let needed = state.needed(growth);
        let claim = state.claim.get_or_insert_with(|| self.meta.session().credits().claim());
        self.grow(claim, needed)
    }

    fn grow(&self, claim: &mut Claim, amount: Credit) -> Option<Credit> {
        match claim.grow_to(amount) {
            Growth::Fits => None,
            Growth::FitsAndAsk => {
                self.meta.session().ask_for_credit();
                None
            }
            Growth::Short => Some(amount.less(claim.amount())),
        }
    }

    /// Does what has to be done before a change is tried again.
    pub(super) fn overcome(&self, cx: Cx, node: &Arc<Node>, obstacle: Obstacle) -> Op<()> {
        match obstacle {
            Obstacle::Missing(chunks) => self.fill(cx, node, &chunks),
            Obstacle::Credit(more) => self.wait_for_credit(cx, more),
            Obstacle::Moving if cx == Cx::Fast => Err(Stop::WouldBlock),
            Obstacle::Moving => {
                drop(lock(&node.committing));
                Ok(())
            }
        }
    }

    fn wait_for_credit(&self, cx: Cx, more: Credit) -> Op<()> {
        match cx {
            Cx::Fast => Err(Stop::WouldBlock),
            Cx::Slow => Ok(self.meta.session().wait_for_credit(more)?),
        }
    }
}
