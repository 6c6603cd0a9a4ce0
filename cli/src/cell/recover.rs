//! `sitefs cell recover`: a cell of one node from a survivor, where too many of the others are lost.

use crate::{Done, failure::Failure, output::Output, places, progress::Progress};
use serde_json::{Value, json};
use sitefs_base::{Error, OsRandom};
use sitefs_metadata::raft::{OtherNode, Recovered, Survivor, recover, survey};
use std::path::{Path, PathBuf};

/// Makes one node that is left the only one of its cell, where so many others are lost for good that nothing can
/// be decided any more.
///
/// The node must be stopped. What the cell acknowledged and this node does not have is lost; of several that are
/// left take the one whose log goes furthest. The cell has a higher incarnation afterwards: mounts attach anew, and
/// keep as conflicts what does not fit any more. Without --unsafe this only shows what would be done.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The data directory of the node.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Does it: the other nodes are gone for good, and what only they have may be lost.
    #[arg(long = "unsafe")]
    really: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, output: &Output) -> Done {
    let dir = &arguments.data;
    places::on_own_disk(dir, "data directory")?;
    let plan = {
        let _progress = Progress::show("reading the node");
        survey(dir)?
    };
    if !arguments.really {
        output.result(&as_json(plan.as_ref(), None), || planned(plan.as_ref(), dir))?;
        let hint = "once the other nodes are gone for good: the same command with --unsafe";
        return Err(Failure::new(Error::denied("nothing was changed"), hint));
    }
    output.say(&planned(plan.as_ref(), dir));
    let recovered = {
        let _progress = Progress::show("recovering");
        recover(dir, &OsRandom)?
    };
    output.result(&as_json(plan.as_ref(), Some(&recovered)), || told(&recovered, dir))
}

fn as_json(plan: Option<&Survivor>, recovered: Option<&Recovered>) -> Value {
    let other = |other: &OtherNode| {
        json!({
            "node": other.node.get(),
            "voter": other.voter,
            "peers": other.address,
            "applied": other.applied,
        })
    };
    let plan = plan.map(|plan| {
        json!({
            "cell": plan.cell,
            "node": plan.node.get(),
            "incarnation": plan.incarnation,
            "applied": plan.applied,
            "last_log": plan.last_log,
            "others": plan.others.iter().map(other).collect::<Vec<_>>(),
        })
    });
    let recovered = recovered.map(|recovered| {
        json!({
            "cell": recovered.cell,
            "node": recovered.node.get(),
            "incarnation": recovered.incarnation,
            "applied": recovered.applied,
        })
    });
    json!({ "plan": plan, "recovered": recovered })
}

fn planned(plan: Option<&Survivor>, dir: &Path) -> String {
    let Some(Survivor { cell, node, incarnation, applied, last_log, others }) = plan else {
        return format!("the recovery of {} was interrupted: --unsafe ends it", dir.display());
    };
    let mut lines = vec![format!(
        "{node} becomes the only node of cell {cell}, which is of incarnation {incarnation} now and of a higher one then\n\
         {node} has the entries up to {last_log}; its rows on disk have those up to {applied}"
    )];
    lines.extend(others.iter().map(|other| line(other, *last_log)));
    lines.push("what the cell acknowledged and this node does not have is lost; all sessions end".to_owned());
    lines.join("\n")
}

fn line(other: &OtherNode, last_log: u64) -> String {
    let OtherNode { node, voter, address, applied } = other;
    let role = if *voter { "" } else { ", which only learned," };
    match applied {
        Some(applied) if *applied > last_log => format!(
            "{node} at {address}{role} had come to entry {applied}: at least {} entries are lost",
            applied - last_log
        ),
        Some(applied) => {
            format!("{node} at {address}{role} had come to entry {applied} when it was last heard of")
        }
        None => format!("{node} at {address}{role} was not heard of"),
    }
}

fn told(recovered: &Recovered, dir: &Path) -> String {
    let Recovered { cell, node, incarnation, applied } = recovered;
    format!(
        "{node} is the only node of cell {cell} now, at entry {applied}; incarnation {incarnation}\n\
         start it with the options of before: sitefs server --config … (data = {dir:?})\n\
         then start new nodes with empty directories: sitefs cell add-node NUMBER HOST:PORT\n\
         the nodes that were lost must never run again with their old directories"
    )
}
