//! Cases of one big file.

use crate::{
    machine,
    place::{Place, Plan, failed, random_bytes, timed},
    stats::Sample,
};
use sitefs_base::{Error, Result};
use std::{
    fs::File,
    io::{Read, Write},
    path::Path,
};

const BLOCK: usize = 1 << 20;

/// Writes a file and closes it; writes another one, syncs and closes it.
pub(crate) fn write(place: &Place, plan: &Plan, _: usize) -> Result<Vec<Sample>> {
    let scratch = place.scratch()?;
    let (closed, synced) = (scratch.path().join("closed"), scratch.path().join("synced"));
    let bytes = random_bytes(plan.big);
    let ((), close) = timed(|| write_blocks(&closed, &bytes).map(drop))?;
    let bytes = random_bytes(plan.big);
    let ((), sync) = timed(|| {
        let file = write_blocks(&synced, &bytes)?;
        file.sync_all().map_err(failed("syncing", &synced))
    })?;
    Ok(vec![
        Sample::throughput("write, close", plan.big, close),
        Sample::throughput("write, fsync, close", plan.big, sync),
    ])
}

/// Reads a file after the kernel's caches were dropped, and again.
pub(crate) fn read(place: &Place, plan: &Plan, _: usize) -> Result<Vec<Sample>> {
    let scratch = place.scratch()?;
    let path = scratch.path().join("big");
    write_blocks(&path, &random_bytes(plan.big))?.sync_all().map_err(failed("syncing", &path))?;
    let mut samples = Vec::new();
    if plan.cold {
        machine::drop_caches()?;
        samples.push(Sample::throughput("cold", plan.big, read_blocks(&path, plan.big)?));
    } else {
        read_blocks(&path, plan.big)?;
    }
    samples.push(Sample::throughput("warm", plan.big, read_blocks(&path, plan.big)?));
    Ok(samples)
}

fn write_blocks(path: &Path, bytes: &[u8]) -> Result<File> {
    let mut file = File::create_new(path).map_err(failed("creating", path))?;
    for block in bytes.chunks(BLOCK) {
        file.write_all(block).map_err(failed("writing", path))?;
    }
    Ok(file)
}

fn read_blocks(path: &Path, expected: usize) -> Result<std::time::Duration> {
    let mut block = vec![0; BLOCK];
    let (read, took) = timed(|| {
        let mut file = File::open(path).map_err(failed("opening", path))?;
        let mut total = 0;
        loop {
            match file.read(&mut block).map_err(failed("reading", path))? {
                0 => return Ok(total),
                more => total += more,
            }
        }
    })?;
    if read == expected {
        return Ok(took);
    }
    Err(Error::corrupt(format!("{} gave {read} bytes, {expected} were written", path.display())))
}
