//! `sitefs cell init|add-node|remove-node`.

use super::status::show;
use crate::{
    Done,
    admin::{self, Admin, operator},
    output::Output,
    progress::Progress,
};
use sitefs_proto::cell as pb;
use std::net::SocketAddr;

/// Makes a cell of the nodes in the configuration of the asked one. All of them must run and be new.
#[derive(clap::Args)]
pub(crate) struct Init {
    #[command(flatten)]
    target: admin::Target,
}

/// Takes a node into the cell: it learns what the others have, then it votes.
#[derive(clap::Args)]
pub(crate) struct Add {
    /// Its number, as its configuration says.
    node: u64,
    /// Where it listens to other nodes; it must run, with an empty data directory.
    peer: SocketAddr,
    #[command(flatten)]
    target: admin::Target,
}

/// Takes a node out of the cell. Its data directory is of no use after that.
#[derive(clap::Args)]
pub(crate) struct Remove {
    /// Its number.
    node: u64,
    #[command(flatten)]
    target: admin::Target,
}

pub(super) fn init(arguments: &Init, output: &Output) -> Done {
    let mut admin = Admin::connect_any(&arguments.target)?;
    let _progress = Progress::show("making the cell");
    show(&admin.init_cell(pb::InitRequest { claimed_identity: operator() })?, output)
}

pub(super) fn add(arguments: &Add, output: &Output) -> Done {
    let mut admin = Admin::connect(&arguments.target)?;
    let _progress = Progress::show("the node learns what the others have");
    let (node, peer) = (arguments.node, arguments.peer.to_string());
    show(&admin.add_node(pb::AddNodeRequest { claimed_identity: operator(), node, peer })?, output)
}

pub(super) fn remove(arguments: &Remove, output: &Output) -> Done {
    let mut admin = Admin::connect(&arguments.target)?;
    let _progress = Progress::show("removing the node");
    let request = pb::RemoveNodeRequest { claimed_identity: operator(), node: arguments.node };
    show(&admin.remove_node(request)?, output)
}
