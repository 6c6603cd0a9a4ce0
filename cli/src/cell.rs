//! `sitefs cell`: the nodes of a cell. Other things that concern a whole cell are beside it in `cell/`.

mod nodes;
mod status;

use crate::{Done, output::Output};
use clap::Subcommand;

/// Shows a cell, makes one of several nodes, and changes which nodes it has.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Status(status::Arguments),
    Init(nodes::Init),
    AddNode(nodes::Add),
    RemoveNode(nodes::Remove),
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, output: &Output) -> Done {
    match &arguments.command {
        Command::Status(arguments) => status::run(arguments, output),
        Command::Init(arguments) => nodes::init(arguments, output),
        Command::AddNode(arguments) => nodes::add(arguments, output),
        Command::RemoveNode(arguments) => nodes::remove(arguments, output),
    }
}
