//! What garbage collection costs: reading which blobs the rows name, and comparing the blobs with that.

use super::{Measured, cell::Cell, cpu, micros, note};
use rustix::time::ClockId::ThreadCPUTime;
use sitefs_base::{Digest, Result, SiteId};
use sitefs_metadata::{
    state::{self, Why},
    store::Reader,
};
use std::collections::HashMap;

const SITE: SiteId = SiteId::new(1);
/// Rows that the collector reads at a time.
const PAGE: usize = 10_000;

type Named = HashMap<[u8; 15], Why>;

pub(super) fn measure(found: &mut Vec<Measured>, cell: &Cell) -> Result<()> {
    let reader = cell.store.reader();
    let ((rows, named), took) = cpu(ThreadCPUTime, || mark(&reader))?;
    let what = format!("garbage collection: a row of {rows} that may name blobs, {} do", named.len());
    note(found, what, "µs", micros(took, rows.max(1)), 5.0);
    let ((blobs, unnamed), took) = cpu(ThreadCPUTime, || sweep(&reader, &named))?;
    let what = format!("garbage collection: a blob of {blobs}, {unnamed} of them garbage");
    note(found, what, "µs", micros(took, blobs.max(1)), None);
    Ok(())
}

fn part(digest: &Digest) -> [u8; 15] {
    let mut part = [0; 15];
    part.copy_from_slice(&digest.as_bytes()[..15]);
    part
}

fn mark(reader: &Reader) -> Result<(u64, Named)> {
    let (mut rows, mut named) = (0, Named::new());
    for kept in state::volumes_by_site(reader)?.remove(&SITE).unwrap_or_default() {
        for family in state::NAMING {
            let mut from = None;
            loop {
                let page = state::named(reader, &kept, family, from.as_deref(), PAGE, &mut |digest, why| {
                    let found = named.entry(part(digest)).or_insert(why);
                    *found = why.min(*found);
                })?;
                rows += page.rows as u64;
                from = page.next;
                if from.is_none() {
                    break;
                }
            }
        }
    }
    Ok((rows, named))
}

fn sweep(reader: &Reader, named: &Named) -> Result<(u64, u64)> {
    let (mut blobs, mut unnamed, mut from) = (0, 0, None);
    loop {
        let page = state::site_blobs(reader, SITE, from.as_deref(), state::GC_SLICE, &mut |info| {
            blobs += 1;
            unnamed += u64::from(!named.contains_key(&part(&info.blob.digest)));
        })?;
        from = page.next;
        if from.is_none() {
            return Ok((blobs, unnamed));
        }
    }
}
