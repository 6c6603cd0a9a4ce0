//! The sitefs command: wiring and rendering only.

mod admin;
#[cfg(all(feature = "server", feature = "mount"))]
mod demo;
mod failure;
mod fsck;
mod gc;
#[cfg(feature = "mount")]
mod helper;
#[cfg(feature = "mount")]
mod holders;
#[cfg(feature = "mount")]
mod journal;
#[cfg(any(feature = "server", feature = "mount"))]
mod metrics;
#[cfg(feature = "mount")]
mod mount;
#[cfg(feature = "mount")]
mod mountpoint;
#[cfg(any(feature = "server", feature = "mount"))]
mod open_files;
#[cfg(feature = "mount")]
mod options;
mod output;
#[cfg(any(feature = "server", feature = "mount"))]
mod places;
#[cfg(any(feature = "server", feature = "mount"))]
mod progress;
#[cfg(feature = "server")]
mod server;
#[cfg(any(feature = "server", feature = "mount"))]
mod signals;
mod snapshot;
#[cfg(feature = "mount")]
mod standing;
mod status;
#[cfg(feature = "mount")]
mod syslog;
#[cfg(any(feature = "server", feature = "mount"))]
mod systemd;
#[cfg(feature = "mount")]
mod umount;
mod volume;

use clap::{Parser, Subcommand};
use failure::Failure;
use std::{io::IsTerminal, process::ExitCode};
use tracing_subscriber::EnvFilter;

const EXIT_CODES: &str = "\
Exit codes: 0 done, 2 wrong usage, 65 invalid, 66 not found, 69 unavailable (try again later), 70 a bug,
71 the node must stop, 73 a limit or the space is used up, 74 corrupt, 75 conflict (try again),
76 exists already, 77 not permitted.

Set SITEFS_LOG=info (or debug, or sitefs_client=debug) to see more on stderr.";

/// A file system for the files of web sites: content stored once, history kept, nothing lost.
#[derive(Parser)]
#[command(name = "sitefs", version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Arguments {
    /// Prints results as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[cfg(all(feature = "server", feature = "mount"))]
    Demo(demo::Arguments),
    #[cfg(feature = "server")]
    Server(server::Arguments),
    #[cfg(feature = "mount")]
    Mount(mount::Arguments),
    #[cfg(feature = "mount")]
    Umount(umount::Arguments),
    #[cfg(feature = "mount")]
    Journal(journal::Arguments),
    Fsck(fsck::Arguments),
    Volume(volume::Arguments),
    Gc(gc::Arguments),
    Status(status::Arguments),
}

fn main() -> ExitCode {
    #[cfg(feature = "mount")]
    if let Some(helper) = std::env::args_os().next().and_then(|name| helper::Helper::called_as(&name)) {
        log_to_stderr();
        return helper.run(std::env::args_os().skip(1));
    }
    let arguments = Arguments::parse();
    match &arguments.command {
        #[cfg(feature = "mount")]
        Command::Mount(arguments) if arguments.is_detached() => log_to_syslog(),
        _ => log_to_stderr(),
    }
    let output = output::Output::new(arguments.json);
    let done = match arguments.command {
        #[cfg(all(feature = "server", feature = "mount"))]
        Command::Demo(arguments) => demo::run(&arguments, &output),
        #[cfg(feature = "server")]
        Command::Server(arguments) => server::run(&arguments, &output),
        #[cfg(feature = "mount")]
        Command::Mount(arguments) => mount::run(&arguments, &output),
        #[cfg(feature = "mount")]
        Command::Umount(arguments) => umount::run(&arguments, &output),
        #[cfg(feature = "mount")]
        Command::Journal(arguments) => journal::run(&arguments, &output),
        Command::Fsck(arguments) => fsck::run(&arguments, &output),
        Command::Volume(arguments) => volume::run(&arguments, &output),
        Command::Gc(arguments) => gc::run(&arguments, &output),
        Command::Status(arguments) => status::run(&arguments, &output),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn log_to_stderr() {
    let asked = std::env::var("SITEFS_LOG").ok();
    let colours = std::io::stderr().is_terminal();
    // Only a second subscriber could make this fail, and there is none.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter(asked.as_deref()))
        .with_ansi(colours)
        .with_writer(std::io::stderr)
        .try_init();
}

/// For a process whose stderr nobody reads.
#[cfg(feature = "mount")]
fn log_to_syslog() {
    let asked = std::env::var("SITEFS_LOG").ok();
    let lines = tracing_subscriber::fmt().with_env_filter(filter(asked.as_deref())).with_ansi(false);
    // Syslog knows the time and the level. Only a second subscriber could make this fail.
    let _ = lines.without_time().with_level(false).with_writer(syslog::Syslog::open()).try_init();
}

/// What is logged. Openraft tells every step at `info`, so it does only when it is named.
fn filter(asked: Option<&str>) -> EnvFilter {
    let asked = asked.filter(|asked| EnvFilter::try_new(asked).is_ok()).unwrap_or("warn");
    let quiet = if asked.contains("openraft") { "" } else { "openraft=warn," };
    EnvFilter::new(format!("{quiet}{asked}"))
}

/// What a command gives.
type Done = Result<(), Failure>;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn openraft_is_quiet_unless_it_is_named() {
        assert_eq!(filter(Some("info")).to_string(), "openraft=warn,info");
        assert_eq!(filter(Some("openraft=debug")).to_string(), "openraft=debug");
        assert_eq!(filter(Some("!,=")).to_string(), filter(None).to_string());
    }

    #[test]
    fn unknown_flags_are_refused() {
        for bad in [vec!["sitefs", "status", "--frobnicate"], vec!["sitefs", "fly"], vec!["sitefs", "volume"]]
        {
            assert!(Arguments::try_parse_from(&bad).is_err(), "{bad:?}");
        }
    }
}
