//! A data directory of a new life of a group: the rows of a backup under a log that begins behind them.

use super::{
    data_dir::DataDir,
    log::{GroupLog, LogDb},
    snapshots::Snapshots,
    types::{Membership, encode_membership, log_id},
};
use crate::{
    state::{self, LifeStep, Versions},
    store::{LogPosition, Poison, Store, StoreOptions},
};
use openraft::{BasicNode, LogId, StoredMembership};
use sitefs_base::{Error, GroupId, Incarnation, NodeId, Result};
use std::collections::BTreeMap;
use tokio::sync::mpsc;

/// Whose life begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewLife {
    /// The group.
    pub group: GroupId,
    /// Its first node, alone at first.
    pub node: NodeId,
    /// Higher than in every life before.
    pub incarnation: Incarnation,
}

/// Makes the state in `data`, which a backup held, the state of a new life: the log begins behind it, so
/// that a node that joins later is sent a snapshot. The directory has neither a log nor snapshots.
pub(crate) fn begin_life(data: &DataDir, life: NewLife) -> Result<()> {
    let poison = Poison::default();
    let db = LogDb::open(&data.log(), poison.clone())?;
    let (holder, _held) = mpsc::channel(1);
    let log = GroupLog::new(db.clone(), life.group, holder)?;
    let options = StoreOptions { poison, ..StoreOptions::default() };
    let store = Store::open(&data.state(), options)?;
    let applied = store.applied().ok_or_else(|| Error::corrupt("the state has no position in the log"))?;
    change_rows(&store, life, applied)?;
    store.flush()?;
    log.begin_behind(log_id(applied))?;
    Snapshots::open(data.snapshots(), data.state())?.build(&store)?;
    store.end_compactions()?;
    data.mark_log(db.begin()?)
}

fn change_rows(store: &Store, life: NewLife, applied: LogPosition) -> Result<()> {
    Versions::THIS.check(state::cluster_version(&store.reader())?)?;
    let membership = encode_membership(&alone(life.node, log_id(applied)))?;
    store.transact(|txn| {
        txn.set_membership(membership);
        state::begin_life(txn, life.incarnation)
    })?;
    let mut step = LifeStep::Sessions;
    while step != LifeStep::Done {
        step = store.transact(|txn| state::life_step(txn, step))?;
    }
    store.forget_feed()
}

fn alone(node: NodeId, since: LogId<u64>) -> Membership {
    let nodes = BTreeMap::from([(node.get(), BasicNode::default())]);
    let voters = std::collections::BTreeSet::from([node.get()]);
    StoredMembership::new(Some(since), openraft::Membership::new(vec![voters], nodes))
}
