//! `sitefs cell`: what concerns a cell as a whole.

mod backup;
#[cfg(feature = "server")]
mod restore;
mod set;
mod upgrade;

use crate::{Done, output::Output};
use clap::Subcommand;

/// Backs up and restores a cell, and changes what holds for all of it.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Backup(backup::Arguments),
    #[cfg(feature = "server")]
    Restore(restore::Arguments),
    Set(set::Arguments),
    Upgrade(upgrade::Arguments),
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, output: &Output) -> Done {
    match &arguments.command {
        Command::Backup(arguments) => backup::run(arguments, output),
        #[cfg(feature = "server")]
        Command::Restore(arguments) => restore::run(arguments, output),
        Command::Set(arguments) => set::run(arguments, output),
        Command::Upgrade(arguments) => upgrade::run(arguments, output),
    }
}
