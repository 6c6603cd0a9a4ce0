//! `sitefs cell`: the nodes of a cell, and what concerns it as a whole.

mod backup;
mod nodes;
#[cfg(feature = "server")]
mod recover;
#[cfg(feature = "server")]
mod restore;
mod set;
mod status;
mod upgrade;

use crate::{Done, output::Output};
use clap::Subcommand;

/// Shows a cell, makes one of several nodes, changes which nodes it has, backs it up and restores it.
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
    Backup(backup::Arguments),
    #[cfg(feature = "server")]
    Restore(restore::Arguments),
    #[cfg(feature = "server")]
    Recover(recover::Arguments),
    Set(set::Arguments),
    Upgrade(upgrade::Arguments),
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, output: &Output) -> Done {
    match &arguments.command {
        Command::Status(arguments) => status::run(arguments, output),
        Command::Init(arguments) => nodes::init(arguments, output),
        Command::AddNode(arguments) => nodes::add(arguments, output),
        Command::RemoveNode(arguments) => nodes::remove(arguments, output),
        Command::Backup(arguments) => backup::run(arguments, output),
        #[cfg(feature = "server")]
        Command::Restore(arguments) => restore::run(arguments, output),
        #[cfg(feature = "server")]
        Command::Recover(arguments) => recover::run(arguments, output),
        Command::Set(arguments) => set::run(arguments, output),
        Command::Upgrade(arguments) => upgrade::run(arguments, output),
    }
}
