//! Paths that people give: their absolute form, and where directories of sitefs must not lie.

use sitefs_base::{Error, Result};
use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt,
    path::{Component, Path, PathBuf},
};
#[cfg(feature = "mount")]
use std::{fs::File, io::Read};

/// The type of our mounts in the kernel's table.
const FS_TYPE: &[u8] = b"fuse.sitefs";
#[cfg(feature = "mount")]
/// How the file `format` of a cell's data directory begins.
const CELL_MARK: &[u8] = b"sitefs-data";

/// Refuses a path in the data directory of a cell, or that directory itself.
#[cfg(feature = "mount")]
pub(crate) fn outside_cells(path: &Path, what: &str) -> Result<()> {
    let path = absolute(path)?;
    match path.ancestors().find(|dir| is_cell(dir)) {
        None => Ok(()),
        Some(cell) => Err(Error::invalid(format!(
            "the {what} {} must not be in {}, the data directory of a cell: choose another place",
            path.display(),
            cell.display()
        ))),
    }
}

/// Refuses a path on a mount of sitefs: the mount would wait for itself, or die with another cell.
pub(crate) fn on_own_disk(path: &Path, what: &str) -> Result<()> {
    let path = absolute(path)?;
    match mount_of(&path, &mounts()?) {
        Some(mount) if mount.is_ours() => Err(Error::invalid(format!(
            "the {what} {} must not be in {}, a mount of sitefs: choose a directory on a disk of this host",
            path.display(),
            mount.at.display()
        ))),
        _ => Ok(()),
    }
}

#[cfg(feature = "mount")]
fn is_cell(dir: &Path) -> bool {
    let mut begin = [0; CELL_MARK.len()];
    // What cannot be read is not a cell that we could harm.
    File::open(dir.join("format"))
        .and_then(|mut file| file.read_exact(&mut begin))
        .is_ok_and(|()| begin == CELL_MARK)
}

/// The mount that `path` is on: the deepest one, and of several there the one on top.
pub(crate) fn mount_of<'a>(path: &Path, mounts: &'a [MountEntry]) -> Option<&'a MountEntry> {
    let holding = mounts.iter().filter(|mount| path.starts_with(&mount.at));
    holding.max_by_key(|mount| mount.at.components().count())
}

/// The absolute form of a path whose end may not exist yet, or may be a dead mount.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    let full = std::path::absolute(path)
        .map_err(|error| Error::io(format!("{:?} cannot be a path", path.as_os_str()), error))?;
    // The kernel's table has no links: what stands in it need not be touched, and may hang.
    if mounts()?.iter().any(|mount| mount.is_ours() && mount.at == full) {
        return Ok(full);
    }
    if let Ok(known) = fs::canonicalize(path) {
        return Ok(known);
    }
    if full.components().any(|part| part == Component::ParentDir) {
        return Err(Error::not_found(format!(
            "{} leads through a directory that does not exist",
            path.display()
        )));
    }
    match (full.parent(), full.file_name()) {
        (Some(parent), Some(name)) => Ok(absolute(parent)?.join(name)),
        _ => Ok(full),
    }
}

/// A row of the kernel's table.
pub(crate) struct MountEntry {
    /// Where it is.
    pub(crate) at: PathBuf,
    /// The type of the file system.
    pub(crate) kind: Vec<u8>,
    /// What is mounted; of our mounts `CELL:VOLUME`.
    #[cfg_attr(not(feature = "mount"), allow(dead_code, reason = "only mounts look at it"))]
    pub(crate) source: Vec<u8>,
}

impl MountEntry {
    /// Whether it is a mount of sitefs.
    pub(crate) fn is_ours(&self) -> bool {
        self.kind == FS_TYPE
    }
}

/// All mounts that this process sees, later ones over earlier ones.
pub(crate) fn mounts() -> Result<Vec<MountEntry>> {
    let table =
        fs::read("/proc/self/mountinfo").map_err(|error| Error::io("reading /proc/self/mountinfo", error))?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// `36 35 98:0 /root /mount/point options… - type source super-options`
fn parse(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let at = unescape(fields.by_ref().nth(4)?);
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let (kind, source) = (rest.next()?.to_vec(), unescape(rest.next()?).into_vec());
    Some(MountEntry { at: PathBuf::from(at), kind, source })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                out.push(byte);
                rest = &after[3..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read_with_its_escapes() {
        let line =
            b"36 35 0:98 / /mnt/a\\040b\\134c rw,nosuid shared:1 master:2 - fuse.sitefs cell:acme/live rw";
        let mount = parse(line).unwrap();
        assert_eq!(mount.at, Path::new("/mnt/a b\\c"));
        assert!(mount.is_ours());
        assert_eq!(mount.source, b"cell:acme/live");
        assert!(parse(b"").is_none() && parse(b"36 35 0:98 / /mnt").is_none());
    }

    #[test]
    fn the_mount_of_a_path_is_the_deepest_and_the_last() {
        let table = [("/", "ext4"), ("/srv", "fuse.sitefs"), ("/srv", "tmpfs"), ("/srv/a", "fuse.sitefs")];
        let entry =
            |(at, kind): (&str, &str)| MountEntry { at: at.into(), kind: kind.into(), source: Vec::new() };
        let table = table.map(entry);
        let kind = |path: &str| mount_of(Path::new(path), &table).unwrap().kind.clone();
        assert_eq!(kind("/srvx/a"), b"ext4");
        assert_eq!(kind("/srv/b"), b"tmpfs");
        assert_eq!(kind("/srv/a/b/c"), b"fuse.sitefs");
        on_own_disk(Path::new("/proc/none/x"), "cache").unwrap();
    }

    #[cfg(feature = "mount")]
    #[test]
    fn what_lies_in_the_data_of_a_cell_is_refused() {
        let base = std::env::temp_dir().join(format!("sitefs-places-test-{}", std::process::id()));
        fs::create_dir_all(base.join("cell/xx")).unwrap();
        fs::create_dir_all(base.join("other/xx")).unwrap();
        fs::write(base.join("cell/format"), "sitefs-data 1\ncell main\n").unwrap();
        fs::write(base.join("other/format"), "something else").unwrap();
        for inside in ["cell", "cell/xx", "cell/xx/missing"] {
            let error = outside_cells(&base.join(inside), "mount point").unwrap_err();
            assert!(error.doing().contains("data directory of a cell"), "{error}");
        }
        outside_cells(&base.join("other/xx"), "mount point").unwrap();
        outside_cells(&base, "mount point").unwrap();
        fs::remove_dir_all(&base).unwrap();
    }
}
