//! `sitefs cell status`: how the nodes of a cell stand, as far as the one that answers knows.

use crate::{
    Done,
    admin::{self, Admin},
    output::{Output, table},
};
use serde_json::{Value, json};
use sitefs_base::display_bytes;
use sitefs_proto::cell::{CellReply, Node, NodeReport};

/// Shows how the nodes of a cell stand. Any node answers; the leader knows best.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: admin::Target,
}

/// A node that has said nothing for so long is shown as silent.
const SILENT_MS: u64 = 5_000;

/// Runs the command.
pub(super) fn run(arguments: &Arguments, output: &Output) -> Done {
    show(&Admin::connect_any(&arguments.target)?.describe_cell()?, output)
}

/// Shows the answer of a node.
pub(super) fn show(cell: &CellReply, output: &Output) -> Done {
    output.result(&as_json(cell), || as_text(cell))
}

fn as_json(cell: &CellReply) -> Value {
    let last = last_log(cell);
    let nodes: Vec<Value> = cell.nodes.iter().map(|node| node_json(node, last)).collect();
    json!({
        "cell": cell.cell,
        "group": cell.group,
        "incarnation": cell.incarnation,
        "answered_by": cell.node,
        "made": cell.made,
        "term": cell.term,
        "leader": (cell.leader != 0).then_some(cell.leader),
        "nodes": nodes,
    })
}

fn node_json(node: &Node, last: u64) -> Value {
    let mut json = json!({
        "node": node.node,
        "role": role(node),
        "peer": node.peer,
        "sessions": node.sessions,
        "admin": node.admin,
    });
    if let Some(report) = &node.report {
        let said = json!({
            "heard_ms_ago": report.age_ms,
            "silent": report.age_ms > SILENT_MS,
            "term": report.term,
            "last_log": report.last_log,
            "applied": report.applied,
            "flushed": report.flushed,
            "lag": last.saturating_sub(report.applied),
            "log_bytes": report.log_bytes,
            "state_bytes": report.state_bytes,
            "disk_free": report.disk_free,
            "disk_total": report.disk_total,
            "version": report.version,
            "clock_ahead_ms": report.clock_ahead_ms,
        });
        if let (Some(json), Value::Object(said)) = (json.as_object_mut(), said) {
            json.extend(said);
        }
    }
    json
}

fn as_text(cell: &CellReply) -> String {
    if !cell.made {
        return format!(
            "node {} is not part of a cell yet: make one with `sitefs cell init`, or add it to one with \
             `sitefs cell add-node`",
            cell.node
        );
    }
    let leader = if cell.leader == 0 { "none".to_owned() } else { format!("node {}", cell.leader) };
    let title = format!(
        "cell {}, group {}, incarnation {}; leader: {leader}, term {} (asked: node {})\n",
        cell.cell, cell.group, cell.incarnation, cell.term, cell.node
    );
    let header = [
        "node", "role", "heard", "term", "log", "applied", "lag", "on disk", "state", "free", "clock",
        "version", "sessions", "admin",
    ];
    let header = header.map(str::to_owned).to_vec();
    let rows = cell.nodes.iter().map(|node| row(node, last_log(cell)));
    title + &table(&std::iter::once(header).chain(rows).collect::<Vec<_>>())
}

fn row(node: &Node, last: u64) -> Vec<String> {
    let mut row = vec![node.node.to_string(), role(node).to_owned()];
    match &node.report {
        Some(report) => row.extend(said(report, last)),
        None => row.extend(["never"].into_iter().chain(["-"; 9]).map(str::to_owned)),
    }
    row.extend([node.sessions.clone(), node.admin.clone()]);
    row
}

fn said(report: &NodeReport, last: u64) -> [String; 10] {
    let heard = match report.age_ms {
        0 => "now".to_owned(),
        age if age > SILENT_MS => format!("SILENT {} s", age / 1000),
        age => format!("{age} ms"),
    };
    [
        heard,
        report.term.to_string(),
        report.last_log.to_string(),
        report.applied.to_string(),
        last.saturating_sub(report.applied).to_string(),
        report.flushed.to_string(),
        display_bytes(report.state_bytes),
        display_bytes(report.disk_free),
        format!("{:+} ms", report.clock_ahead_ms),
        report.version.clone(),
    ]
}

fn role(node: &Node) -> &'static str {
    match (&node.report, node.voter) {
        (Some(report), _) if report.leads && report.age_ms <= SILENT_MS => "leader",
        (_, true) => "voter",
        (_, false) => "learner",
    }
}

/// The end of the longest log that is known.
fn last_log(cell: &CellReply) -> u64 {
    cell.nodes.iter().filter_map(|node| node.report.as_ref()).map(|report| report.last_log).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_node_is_shown_as_such_and_one_that_led_is_no_leader_then() {
        let report = NodeReport { age_ms: 9_000, leads: true, applied: 5, ..NodeReport::default() };
        let silent = Node { node: 1, voter: true, report: Some(report), ..Node::default() };
        let report = NodeReport { leads: true, last_log: 12, applied: 12, ..NodeReport::default() };
        let leader = Node { node: 2, voter: true, report: Some(report), ..Node::default() };
        let cell = CellReply {
            made: true,
            node: 2,
            leader: 2,
            nodes: vec![silent, leader, Node { node: 3, ..Node::default() }],
            ..CellReply::default()
        };
        let json = as_json(&cell);
        assert_eq!((&json["nodes"][0]["role"], &json["nodes"][0]["lag"]), (&json!("voter"), &json!(7)));
        assert_eq!(json["nodes"][1]["role"], "leader");
        assert_eq!(json["nodes"][2]["role"], "learner");
        let text = as_text(&cell);
        assert!(text.contains("SILENT 9 s") && text.contains("never"), "{text}");
    }
}
