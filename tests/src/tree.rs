//! Compares trees, and makes content that can be told apart.

use sitefs_base::{Random, SeededRandom};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

/// `len` bytes that `seed` determines and that do not compress.
pub fn content(seed: u64, len: usize) -> Vec<u8> {
    let random = SeededRandom::new(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next_u64().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Every path below `root` with what makes it what it is, content included.
pub fn snapshot(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("reading {}: {error}", dir.display())) {
            let path = entry.expect("reading an entry").path();
            let meta = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            if meta.is_dir() {
                todo.push(path.clone());
            }
            let relative = path.strip_prefix(root).expect("it is below").to_owned();
            found.insert(relative, describe(&path, &meta));
        }
    }
    found
}

fn describe(path: &Path, meta: &fs::Metadata) -> String {
    let kind = meta.file_type();
    let what = if kind.is_symlink() {
        format!("-> {:?}", fs::read_link(path).expect("reading a link"))
    } else if kind.is_file() {
        let bytes = fs::read(path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()));
        format!("{} bytes, sum {:016x}", bytes.len(), checksum(&bytes))
    } else if kind.is_fifo() || kind.is_socket() {
        "special".to_owned()
    } else {
        String::new()
    };
    // A link has no useful time and mode of its own.
    let time = if kind.is_symlink() { 0 } else { meta.mtime() };
    format!("{:o} {}:{} {time} {what}", meta.mode(), meta.uid(), meta.gid())
}

/// FNV-1a: enough to tell accidents apart.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What differs between two trees, at most twenty lines.
pub fn differences(one: &Path, two: &Path) -> Vec<String> {
    let (one, two) = (snapshot(one), snapshot(two));
    let mut lines = Vec::new();
    for (path, what) in &one {
        match two.get(path) {
            Some(other) if other == what => {}
            other => lines.push(format!("{}: {what} / {other:?}", path.display())),
        }
    }
    let added = two.keys().filter(|path| !one.contains_key(*path));
    lines.extend(added.map(|path| format!("{}: only in the second", path.display())));
    lines.truncate(20);
    lines
}

/// The regular files of `len` bytes below `root`.
pub fn files_of_size(root: &Path, len: u64) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => todo.push(entry.path()),
                Ok(meta) if meta.is_file() && meta.len() == len => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found
}
