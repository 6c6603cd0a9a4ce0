//! A cell of one node from the data directory of a survivor, where too many of the others are lost for good.
//!
//! Everything in its log counts, also what was not known to be committed: it may have been acknowledged.

use super::{
    data_dir::{DataDir, Recovery},
    image,
    log::GroupLog,
    machine::apply_to,
    peer::Known,
    rebirth::{NewLife, begin_life},
    start::Parts,
};
use crate::{
    state,
    store::{Image, Poison, Store, StoreOptions},
};
use sitefs_base::{Error, Incarnation, NodeId, Random, Result};
use std::path::Path;

/// Two survivors of one cell must not take the same incarnation: one of so many higher ones is drawn.
const INCARNATIONS: u64 = 1 << 16;

/// A node that does not run, and what it knows of the others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Survivor {
    /// The cell.
    pub cell: String,
    /// The node.
    pub node: NodeId,
    /// The incarnation of the cell as it was.
    pub incarnation: u32,
    /// The last entry that the rows on disk contain.
    pub applied: u64,
    /// The last entry of the log.
    pub last_log: u64,
    /// The other nodes of the cell.
    pub others: Vec<OtherNode>,
}

/// Another node of the cell, as the survivor knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OtherNode {
    /// The node.
    pub node: NodeId,
    /// Whether it votes.
    pub voter: bool,
    /// Where it listened to other nodes.
    pub address: String,
    /// An entry that it had applied when it was last heard of; none if that was not written down.
    pub applied: Option<u64>,
}

/// A new life of a cell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// The cell.
    pub cell: String,
    /// Its only node.
    pub node: NodeId,
    /// Higher than before.
    pub incarnation: u32,
    /// The last entry of the life before that the rows contain.
    pub applied: u64,
}

/// Looks at a stopped node and changes nothing; one that runs is refused. `None`: its recovery was interrupted,
/// and [`recover`] ends it.
pub fn survey(dir: &Path) -> Result<Option<Survivor>> {
    let data = DataDir::any(dir)?;
    if data.is_recovering() {
        return Ok(None);
    }
    let owner = data.owner()?;
    let stopped = image::read(data, true)?;
    if let Some(problem) = stopped.log_problem {
        return Err(problem.while_doing("reading the log of the survivor"));
    }
    let info = state::group_info(&stopped.image)?.ok_or_else(|| no_cell(dir))?;
    let known = Known::open(dir.join("peers"))?;
    let others = stopped.members.nodes().filter(|(node, _)| **node != owner.node.get());
    let others: Vec<OtherNode> = others
        .map(|(node, member)| OtherNode {
            node: NodeId::new(*node),
            voter: stopped.members.voter_ids().any(|voter| voter == *node),
            address: member.addresses.peers.clone(),
            applied: known.applied(*node, member.birth),
        })
        .collect();
    if others.is_empty() {
        return Err(Error::invalid(format!(
            "{} is the only node of cell {}: there is nothing to recover, start it",
            owner.node, owner.cell
        )));
    }
    Ok(Some(Survivor {
        cell: owner.cell,
        node: owner.node,
        incarnation: info.incarnation.get(),
        applied: stopped.image.meta().applied.map_or(0, |at| at.index),
        last_log: stopped.last.unwrap_or(0),
        others,
    }))
}

/// Makes a stopped node the only one of a new life of its cell, or ends a recovery that was interrupted. What the
/// cell acknowledged and this node does not have is lost.
pub fn recover(dir: &Path, random: &dyn Random) -> Result<Recovered> {
    let data = DataDir::any(dir)?;
    let owner = data.owner()?;
    if !Recovery::end_interrupted(&data)? {
        let recovery = Recovery::begin(&data)?;
        let poison = Poison::default();
        // With all that a start would check.
        let (rows, log) = Parts::open(&data, owner.group, &poison)?.rows_and_log();
        rows.checkpoint(&recovery.data().state())?;
        rows.end_compactions()?;
        drop(rows);
        let options = StoreOptions { poison, ..StoreOptions::default() };
        let store = Store::open(&recovery.data().state(), options)?;
        catch_up(&store, &log)?;
        let info = state::group_info(&store.reader())?.ok_or_else(|| no_cell(dir))?;
        store.flush()?;
        store.end_compactions()?;
        drop((store, log));
        let incarnation = next(info.incarnation, random)?;
        begin_life(recovery.data(), NewLife { group: owner.group, node: owner.node, incarnation })?;
        recovery.finish()?;
    }
    let image = Image::open(&data.state())?;
    let info = state::group_info(&image)?.ok_or_else(|| no_cell(dir))?;
    let applied = image.meta().applied.map_or(0, |at| at.index);
    Ok(Recovered { cell: owner.cell, node: owner.node, incarnation: info.incarnation.get(), applied })
}

fn catch_up(store: &Store, log: &GroupLog) -> Result<()> {
    let mut next = store.applied().map_or(0, |at| at.index + 1);
    loop {
        let entries = log.entries_from(next)?;
        if entries.is_empty() {
            return Ok(());
        }
        for entry in entries {
            if entry.log_id.index != next {
                let found = entry.log_id.index;
                return Err(Error::corrupt(format!("the log goes on with entry {found}, after a gap")));
            }
            apply_to(store, &entry)?;
            next += 1;
        }
    }
}

fn next(incarnation: Incarnation, random: &dyn Random) -> Result<Incarnation> {
    let drawn = u32::try_from(random.next_u64() % INCARNATIONS).unwrap_or(0);
    let next = incarnation.get().checked_add(1 + drawn);
    next.map(Incarnation::new).ok_or_else(|| Error::limit("there are no incarnations left"))
}

fn no_cell(dir: &Path) -> Error {
    Error::invalid(format!("the node of {} was never part of a cell", dir.display()))
}
