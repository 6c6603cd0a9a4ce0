//! What people do with a journal, whether a mount uses it or not.

use super::content::read_piece;
use super::dir::{Dir, Entry, Part, State};
use super::record::Record;
use sitefs_base::{Error, Result};
use std::{
    fs::{File, OpenOptions},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

/// The entries of a journal, ascending. Changes nothing; a mount may use it meanwhile.
pub fn list(path: &Path) -> Result<Vec<Entry>> {
    let dir = Dir::look(path)?;
    let mut entries = Vec::new();
    for (number, parts) in dir.parts()? {
        entries.extend(dir.entry(number, &parts)?);
    }
    Ok(entries)
}

/// Writes the content of an entry into `to`, which must not exist; gives its length. Of appends it has
/// those that the cell may not have. Bytes that are
/// not as they were written are an error, and `to` is removed again.
pub fn export(path: &Path, number: u64, record: &Record, to: &Path) -> Result<u64> {
    let doing = |error| Error::io(format!("writing {}", to.display()), error);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(doing)?;
    let size = record.content.as_ref().map_or(0, |stored| stored.size - record.appends.landed_bytes());
    let copied = file.set_len(size).map_err(doing).and_then(|()| {
        read_all(path, number, record, |offset, bytes| file.write_all_at(bytes, offset).map_err(doing))?;
        file.sync_all().map_err(doing)
    });
    if copied.is_err() {
        // Half a file would look like a whole one.
        let _ = std::fs::remove_file(to);
    }
    copied.map(|()| size)
}

/// Gives the pieces of an entry's content and where they stand in it, each compared with its digest.
/// What was appended already counts as not there.
pub fn read_all(
    path: &Path,
    number: u64,
    record: &Record,
    mut each: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let Some(stored) = &record.content else { return Ok(()) };
    let content: File = Dir::look(path)?.open_data(number)?;
    let landed = record.appends.landed_bytes();
    for piece in &stored.pieces {
        let bytes = read_piece(&content, piece)?;
        let from = usize::try_from(landed.saturating_sub(piece.offset())).unwrap_or(usize::MAX);
        if let Some(left) = bytes.get(from..) {
            each(piece.offset().saturating_sub(landed), left)?;
        }
    }
    Ok(())
}

/// Removes an entry for good. A record that waits for the cell only goes while no mount uses the
/// journal.
pub fn discard(path: &Path, entry: &Entry) -> Result<()> {
    let dir = match entry.state {
        State::Waiting(_) | State::Newer(_) => Dir::lock(path)?,
        State::Conflict(_) | State::Damaged(_) => Dir::look(path)?,
    };
    let parts = match entry.state {
        State::Waiting(_) | State::Newer(_) => vec![Part::Record],
        State::Conflict(_) => vec![Part::Conflict],
        // What only looks damaged from outside may be being written.
        State::Damaged(_) => vec![Part::Damaged],
    };
    for part in parts {
        if !dir.path(entry.number, part).exists() {
            return Err(Error::not_found(format!(
                "entry {} is not there any more, or a mount has not set it aside yet",
                entry.number
            )));
        }
        dir.remove(entry.number, part)?;
    }
    dir.remove(entry.number, Part::Data)?;
    dir.sync()
}
