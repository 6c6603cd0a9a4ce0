//! Cases of directories.

use crate::{
    machine,
    place::{Place, Plan, SHARED, failed, timed},
    stats::Sample,
};
use sitefs_base::{Error, Result};
use std::{
    fs::{self, File},
    io,
    path::Path,
    process::Command,
};

/// Unpacks the tar file and removes the tree. The first time is told apart: afterwards a store that keeps
/// equal contents once has seen all of them.
pub(crate) fn untar(place: &Place, plan: &Plan, repetition: usize) -> Result<Vec<Sample>> {
    let Some(tar) = &plan.tar else {
        return Ok(Vec::new());
    };
    // From the page cache on both sides.
    File::open(tar)
        .and_then(|mut file| io::copy(&mut file, &mut io::sink()))
        .map_err(failed("reading", tar))?;
    let scratch = place.scratch()?;
    let ((), unpacked) = timed(|| unpack(tar, scratch.path()))?;
    let path = scratch.path().to_owned();
    let ((), removed) = timed(|| scratch.close().map_err(failed("removing", &path)))?;
    let what = if repetition == 0 { "the first time" } else { "contents known" };
    Ok(vec![Sample::seconds(what, unpacked), Sample::seconds("remove the tree", removed)])
}

fn unpack(tar: &Path, directory: &Path) -> Result<()> {
    tar_command(Command::new("tar").arg("-xf").arg(tar).arg("-C").arg(directory))
}

/// Makes a tar file of a directory.
pub(crate) fn pack(directory: &Path, tar: &Path) -> Result<()> {
    tar_command(Command::new("tar").arg("-cf").arg(tar).arg("-C").arg(directory).arg("."))
}

fn tar_command(command: &mut Command) -> Result<()> {
    let output = command.output().map_err(|error| Error::io("running tar", error))?;
    if output.status.success() {
        return Ok(());
    }
    // It says the like of every file.
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("it does not say why");
    Err(Error::unavailable(format!("tar failed ({}): {said}", output.status)))
}

/// Lists a directory of 1,000 entries and stats each, after the kernel's caches were dropped, and again.
pub(crate) fn readdir(place: &Place, plan: &Plan, _: usize) -> Result<Vec<Sample>> {
    let directory = place.shared()?;
    let mut samples = Vec::new();
    if plan.cold {
        machine::drop_caches()?;
        samples.push(Sample::millis("cold", timed(|| list(directory))?.1));
    } else {
        list(directory)?;
    }
    samples.push(Sample::millis("warm", timed(|| list(directory))?.1));
    Ok(samples)
}

fn list(directory: &Path) -> Result<()> {
    let mut found = 0;
    for entry in fs::read_dir(directory).map_err(failed("listing", directory))? {
        let entry = entry.map_err(failed("listing", directory))?;
        entry.metadata().map_err(failed("looking at", &entry.path()))?;
        found += 1;
    }
    if found == SHARED {
        return Ok(());
    }
    Err(Error::corrupt(format!("{} lists {found} entries, {SHARED} were made", directory.display())))
}
