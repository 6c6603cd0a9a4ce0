//! Cases of many small files; every operation is timed.

use crate::{
    place::{Bytes, Place, Plan, SHARED, SMALL, failed, fill, names, timed, write_small},
    stats::{Sample, Series},
};
use sitefs_base::{Error, Result};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    thread,
};

/// How often a warm case goes over its files.
const ROUNDS: usize = 3;

/// Creates, writes and closes files, some writers at once.
pub(crate) fn create<const WRITERS: usize>(place: &Place, plan: &Plan, _: usize) -> Result<Vec<Sample>> {
    let scratch = place.scratch()?;
    let mut shares = Vec::new();
    for writer in 0..WRITERS {
        let directory = scratch.path().join(format!("writer-{writer:02}"));
        fs::create_dir(&directory).map_err(failed("making", &directory))?;
        shares.push(names(&directory, plan.files.div_ceil(WRITERS)));
    }
    let (all, wall) = timed(|| {
        thread::scope(|scope| {
            let writers: Vec<_> = shares.iter().map(|share| scope.spawn(|| create_all(share))).collect();
            writers.into_iter().map(|writer| writer.join().unwrap_or_else(|_| Err(died()))).collect()
        })
    })?;
    // An error at close is not seen there, a file that is too short is.
    shares.iter().flatten().try_for_each(|path| expect_size(path))?;
    remove(scratch)?;
    Ok(Series::side_by_side(all, wall).samples())
}

/// Creates, writes, syncs and closes files: what costs both sides a disk that has stored something.
pub(crate) fn create_synced(place: &Place, plan: &Plan, _: usize) -> Result<Vec<Sample>> {
    let scratch = place.scratch()?;
    let mut bytes = Bytes::new(SMALL);
    // Each waits for a disk: fewer are enough.
    let series = Series::run(names(scratch.path(), plan.files.div_ceil(4)), |path| {
        let written = File::create_new(&path).and_then(|mut file| {
            file.write_all(bytes.next())?;
            file.sync_all()
        });
        written.map_err(failed("creating", &path))
    })?;
    remove(scratch)?;
    Ok(series.samples())
}

fn create_all(paths: &[PathBuf]) -> Result<Series> {
    let mut bytes = Bytes::new(SMALL);
    Series::run(paths, |path| write_small(path, bytes.next()).map_err(failed("creating", path)))
}

fn died() -> Error {
    Error::internal("a writer died")
}

fn expect_size(path: &Path) -> Result<()> {
    let metadata = fs::metadata(path).map_err(failed("looking at", path))?;
    if metadata.len() == SMALL as u64 {
        return Ok(());
    }
    Err(Error::corrupt(format!("{} has {} bytes, {SMALL} were written", path.display(), metadata.len())))
}

/// Stats files that are known to the kernel.
pub(crate) fn stat(place: &Place, _: &Plan, _: usize) -> Result<Vec<Sample>> {
    let paths = names(place.shared()?, SHARED);
    warm(&paths, |path| fs::symlink_metadata(path).map(drop).map_err(failed("looking at", path)))
}

/// Stats names that are known not to be there.
pub(crate) fn absent(place: &Place, _: &Plan, _: usize) -> Result<Vec<Sample>> {
    let directory = place.shared()?;
    let paths: Vec<_> = (0..SHARED).map(|number| directory.join(format!("absent-{number}"))).collect();
    warm(&paths, |path| match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("looking for", path)(error)),
        Ok(_) => Err(Error::corrupt(format!("{} is there, nobody made it", path.display()))),
    })
}

/// Opens, reads and closes files that were just read.
pub(crate) fn open_read(place: &Place, _: &Plan, _: usize) -> Result<Vec<Sample>> {
    let paths = names(place.shared()?, SHARED);
    let mut buffer = vec![0; SMALL];
    warm(&paths, |path| {
        File::open(path).and_then(|mut file| file.read_exact(&mut buffer)).map_err(failed("reading", path))
    })
}

/// Once for the caches, then some rounds that count.
fn warm(paths: &[PathBuf], mut operation: impl FnMut(&Path) -> Result<()>) -> Result<Vec<Sample>> {
    paths.iter().try_for_each(|path| operation(path))?;
    let rounds = std::iter::repeat_n(paths, ROUNDS).flatten();
    Ok(Series::run(rounds, |path| operation(path))?.samples())
}

/// Renames files within their directory.
pub(crate) fn rename(place: &Place, plan: &Plan, _: usize) -> Result<Vec<Sample>> {
    let scratch = place.scratch()?;
    fill(scratch.path(), plan.files)?;
    let series = Series::run(names(scratch.path(), plan.files), |path| {
        fs::rename(&path, path.with_extension("renamed")).map_err(failed("renaming", &path))
    })?;
    remove(scratch)?;
    Ok(series.samples())
}

/// Unlinks files.
pub(crate) fn unlink(place: &Place, plan: &Plan, _: usize) -> Result<Vec<Sample>> {
    let scratch = place.scratch()?;
    fill(scratch.path(), plan.files)?;
    let series = Series::run(names(scratch.path(), plan.files), |path| {
        fs::remove_file(&path).map_err(failed("unlinking", &path))
    })?;
    remove(scratch)?;
    Ok(series.samples())
}

fn remove(scratch: tempfile::TempDir) -> Result<()> {
    let path = scratch.path().to_owned();
    scratch.close().map_err(failed("removing", &path))
}
