//! Measures a mounted directory beside a native one in the same run. It claims nothing: it shows numbers.

mod cases;
mod machine;
mod place;
mod reads;
mod report;
mod state;
mod stats;

use cases::Case;
use clap::Parser;
use machine::{FileSystem, Machine, Memory};
use place::{Place, Plan};
use report::{Comparison, Report, Side, Where};
use sitefs_base::{Error, Result};
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Debian's package puts it there: a tree as real as any.
const WORDPRESS: &str = "/usr/share/wordpress";

/// Measures a mounted directory beside a native one, in turns, and shows how many times slower it is.
///
/// Warm rows are served from the kernel's caches where the file system allows that. Cold rows need root: the
/// kernel's caches are dropped on the whole machine; what programs keep in their own memory stays. Most native
/// calls end in the page cache: a target that stores before it answers is compared with less than it does.
///
/// Works in directories of its own below the two given ones and removes them; after a kill remove
/// sitefs-bench-* by hand.
#[derive(Parser)]
#[command(name = "sitefs-bench", version, arg_required_else_help = true, after_help = list_of_cases())]
struct Arguments {
    /// The mounted directory; made if only its last part is missing.
    #[arg(long, value_name = "DIR", required_unless_present_any = ["rss", "state", "reads", "serve_bare"], requires = "native")]
    target: Option<PathBuf>,
    /// A directory on the host's own disk; made if only its last part is missing.
    #[arg(long, value_name = "DIR", requires = "target")]
    native: Option<PathBuf>,
    /// Runs these cases only.
    #[arg(long, value_name = "CASES", value_delimiter = ',', value_parser = case_names())]
    only: Vec<String>,
    /// Less of everything, for a first look.
    #[arg(long)]
    quick: bool,
    /// How often everything is repeated [default: 5, with --quick 2].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1000))]
    repetitions: Option<u16>,
    /// The tar file that is unpacked.
    #[arg(long, value_name = "FILE", conflicts_with = "tree")]
    tar: Option<PathBuf>,
    /// The directory from which a tar file is made [default: that of Debian's package wordpress, if there].
    #[arg(long, value_name = "DIR")]
    tree: Option<PathBuf>,
    /// Leaves the kernel's caches alone: no cold rows.
    #[arg(long)]
    warm_only: bool,
    /// Shows the memory of this process, also without measuring anything; may be repeated.
    #[arg(long, value_name = "PID")]
    rss: Vec<u32>,
    /// Measures what commands and questions cost a cell, beside the goals, in a new directory below this one.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Compares warm reads on these file systems, and on a bare file system with passthrough, with the first; may be
    /// repeated. The directories are made, and stay.
    #[arg(long, value_name = "NAME=DIR", value_parser = reads::side)]
    reads: Vec<(String, PathBuf)>,
    /// Serves the files of a directory at another: what --reads compares with.
    #[arg(long, value_name = "DIR=MOUNT", value_parser = reads::side, hide = true)]
    serve_bare: Option<(String, PathBuf)>,
    /// Prints everything as JSON, with the values of every repetition.
    #[arg(long)]
    json: bool,
}

fn case_names() -> Vec<&'static str> {
    cases::ALL.iter().map(|case| case.name).collect()
}

fn list_of_cases() -> String {
    let lines = cases::ALL.iter().map(|case| format!("\n  {:12} {}", case.name, case.about));
    format!("Cases:{}", lines.collect::<String>())
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {}", error.chain()));
            ExitCode::FAILURE
        }
    }
}

/// Tells the user something that is no result.
fn say(text: &str) {
    // Nobody is left to tell when stderr is closed.
    let _ = writeln!(std::io::stderr(), "sitefs-bench: {text}");
}

fn run(arguments: &Arguments) -> Result<()> {
    if let Some((dir, mount)) = &arguments.serve_bare {
        return reads::serve(Path::new(dir), mount);
    }
    if !arguments.reads.is_empty() {
        let reads = reads::measure(&arguments.reads, arguments.repetitions.map_or(15, usize::from))?;
        return print(arguments, &reads[..], reads::text);
    }
    let machine = Machine::here();
    let comparison = match (&arguments.target, &arguments.native) {
        (Some(target), Some(native)) => Some(compare(arguments, target, native)?),
        _ => None,
    };
    // Of a whole million with --quick 20,000.
    let million = if arguments.quick { 20_000 } else { 1_000_000 };
    let state = arguments.state.as_ref().map(|dir| state::measure(dir, million)).transpose()?;
    let processes = arguments.rss.iter().map(|pid| Memory::of(*pid)).collect::<Result<_>>()?;
    let report = Report {
        machine,
        debug_build: cfg!(debug_assertions),
        comparison,
        state: state.unwrap_or_default(),
        processes,
    };
    print(arguments, &report, Report::text)
}

fn print<R: serde::Serialize + ?Sized>(
    arguments: &Arguments,
    report: &R,
    text: impl Fn(&R) -> String,
) -> Result<()> {
    let text = match arguments.json {
        true => serde_json::to_string(report)
            .map_err(|error| Error::internal("writing the report as JSON").because(error))?,
        false => text(report),
    };
    writeln!(std::io::stdout(), "{}", text.trim_end()).map_err(|error| Error::io("writing to stdout", error))
}

fn compare(arguments: &Arguments, target: &Path, native: &Path) -> Result<Comparison> {
    let (target, native) = (Place::new(target)?, Place::new(native)?);
    let (plan, notes) = plan(arguments, native.path())?;
    let mut comparison = Comparison::new(whereabouts(&target)?, whereabouts(&native)?, &plan, notes);
    if comparison.target.file_system == comparison.native.file_system {
        comparison.notes.push("target and native are the same file system".to_owned());
    }
    for case in cases::ALL.iter().filter(|case| wanted(arguments, case)) {
        say(&format!("{}: {}", case.name, case.about));
        for repetition in 0..plan.repetitions {
            // In turns, so that what else happens on the machine meets both, and neither is always first.
            let mut sides = [(Side::Target, &target), (Side::Native, &native)];
            sides.rotate_left(repetition % 2);
            for (side, place) in sides {
                let samples = (case.run)(place, &plan, repetition)
                    .map_err(|error| error.while_doing(format_args!("{} ({side:?})", case.name)))?;
                comparison.take(case.name, side, samples);
            }
        }
    }
    target.close()?;
    native.close()?;
    Ok(comparison)
}

fn wanted(arguments: &Arguments, case: &Case) -> bool {
    arguments.only.is_empty() || arguments.only.iter().any(|name| name == case.name)
}

fn whereabouts(place: &Place) -> Result<Where> {
    Ok(Where { path: place.path().to_owned(), file_system: FileSystem::of(place.path())? })
}

/// How much is measured, and what has to be left out.
fn plan(arguments: &Arguments, native: &Path) -> Result<(Plan, Vec<String>)> {
    let mut notes = Vec::new();
    let cold = !arguments.warm_only && machine::may_drop_caches();
    if arguments.warm_only {
        notes.push("no cold rows, as was asked for".to_owned());
    } else if !cold {
        notes.push("no cold rows: only root may drop the kernel's caches".to_owned());
    }
    let untar = cases::ALL.iter().any(|case| case.name == "untar" && wanted(arguments, case));
    let tar = if untar { tar_file(arguments, native)? } else { None };
    if untar && tar.is_none() {
        notes.push(format!("no untar: there is no {WORDPRESS}, give --tree or --tar"));
    }
    let (repetitions, files, big) = if arguments.quick { (2, 160, 16 << 20) } else { (5, 1_600, 64 << 20) };
    let repetitions = arguments.repetitions.map_or(repetitions, usize::from);
    Ok((Plan { repetitions, files, big, tar, cold }, notes))
}

/// The tar file that was given, or one made of a tree.
fn tar_file(arguments: &Arguments, native: &Path) -> Result<Option<PathBuf>> {
    if let Some(tar) = &arguments.tar {
        return Ok(Some(tar.clone()));
    }
    let tree = match &arguments.tree {
        Some(tree) => tree,
        None if Path::new(WORDPRESS).is_dir() => Path::new(WORDPRESS),
        None => return Ok(None),
    };
    let tar = native.join("tree.tar");
    cases::pack(tree, &tar)?;
    Ok(Some(tar))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_target_needs_a_native_directory_and_a_process_neither() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' ')).is_ok();
        assert!(parse("sitefs-bench --target a --native b --only stat,rename"));
        assert!(parse("sitefs-bench --rss 1 --rss 2"));
        assert!(!parse("sitefs-bench --target a"));
        assert!(!parse("sitefs-bench --quick"));
        assert!(!parse("sitefs-bench --target a --native b --only fly"));
    }

    #[test]
    fn every_case_gives_the_same_numbers_at_both_places_and_leaves_nothing_behind() {
        let outer = tempfile::tempdir().unwrap();
        let (target, native) = (outer.path().join("target"), outer.path().join("native"));
        let tree = outer.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(tree.join("index.php"), "<?php").unwrap();
        let paths = [&target, &native, &tree].map(|path| path.display().to_string());
        let line = ["--target", &paths[0], "--native", &paths[1], "--tree", &paths[2]];
        let options = ["sitefs-bench", "--quick", "--warm-only", "--repetitions", "1"];
        let arguments = Arguments::parse_from(options.into_iter().chain(line));
        let comparison = compare(&arguments, &target, &native).unwrap();
        let json = serde_json::to_value(&comparison).unwrap();
        let rows = json["results"].as_array().unwrap();
        for case in &cases::ALL {
            assert!(rows.iter().any(|row| row["case"] == case.name), "{} gave nothing", case.name);
        }
        for row in rows {
            assert_eq!(
                (row["target"].as_array().unwrap().len(), row["native"].as_array().unwrap().len()),
                (1, 1)
            );
        }
        assert!(!target.exists() && !native.exists());
    }
}
