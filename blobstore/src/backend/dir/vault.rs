//! A directory as a vault.

use super::{DirBackend, OBJECT_MAX, sync_dir};
use crate::{BoxFuture, Listed, Vault, vault::VAULT_PREFIX};
use bytes::Bytes;
use sitefs_base::{Digest, Error, OsRandom, Random, Result};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Component, Path, PathBuf},
};

impl DirBackend {
    fn vault_path(&self, name: &str) -> Result<PathBuf> {
        let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || !name.starts_with(VAULT_PREFIX) {
            return Err(Error::invalid(format!("{name:?} is no name in a vault")));
        }
        Ok(self.root.join(name))
    }

    fn vault_put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.put_new(&self.vault_path(name)?, bytes)
    }

    /// Writes a file durably, unless there is one.
    pub(super) fn put_new(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let temp = self.root.join(super::TEMP_DIR).join(format!("{:032x}", OsRandom.next_u128()));
        let written = self.place_new(&temp, path, bytes);
        let _ = fs::remove_file(&temp);
        written.map_err(|error| Error::io(format!("writing {}", path.display()), error))
    }

    /// A link, unlike a rename, leaves alone what is there.
    fn place_new(&self, temp: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::create_new(temp)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        let parent = path.parent().unwrap_or(&self.root);
        self.make_dirs(parent)?;
        match fs::hard_link(temp, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => sync_dir(parent),
        }
    }

    fn vault_get(&self, name: &str) -> Result<Bytes> {
        let path = self.vault_path(name)?;
        let read = || {
            let mut bytes = Vec::new();
            File::open(&path)?.take(OBJECT_MAX + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|error| Error::io(format!("reading {}", path.display()), error))?;
        if bytes.len() as u64 > OBJECT_MAX {
            return Err(Error::corrupt(format!("{} is too large for a file of a backup", path.display())));
        }
        Ok(bytes.into())
    }

    fn vault_remove(&self, name: &str) -> Result<()> {
        super::remove(&self.vault_path(name)?)
    }

    fn vault_list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Listed>> {
        self.list_below(VAULT_PREFIX.trim_end_matches('/'), prefix, after, limit)
    }
}

impl Vault for DirBackend {
    fn put<'a>(&'a self, name: &'a str, _digest: &'a Digest, bytes: Bytes) -> BoxFuture<'a, Result<()>> {
        let name = name.to_owned();
        self.run(move |store| store.vault_put(&name, &bytes))
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Bytes>> {
        let name = name.to_owned();
        self.run(move |store| store.vault_get(&name))
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<()>> {
        let name = name.to_owned();
        self.run(move |store| store.vault_remove(&name))
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Listed>>> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.run(move |store| store.vault_list(&prefix, after.as_deref(), limit))
    }

    fn place(&self) -> String {
        self.root.display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitefs_base::Kind;

    #[tokio::test]
    async fn files_of_a_vault_are_kept_listed_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let vault = DirBackend::open(dir.path().join("v")).unwrap();
        let vault: &dyn Vault = &vault;
        let digest = crate::hash(b"");
        for (name, bytes) in [("backup/c/b", "two"), ("backup/c/a", "one"), ("backup/c/a", "other")] {
            vault.put(name, &digest, Bytes::from_static(bytes.as_bytes())).await.unwrap();
        }
        assert_eq!(vault.get("backup/c/a").await.unwrap(), "one");
        let names = |found: Vec<Listed>| found.into_iter().map(|file| file.key).collect::<Vec<_>>();
        assert_eq!(names(vault.list("backup/c/", None, 9).await.unwrap()), ["backup/c/a", "backup/c/b"]);
        let after = vault.list("backup/", Some("backup/c/a"), 9).await.unwrap();
        assert_eq!(names(after), ["backup/c/b"]);
        vault.remove("backup/c/a").await.unwrap();
        vault.remove("backup/c/a").await.unwrap();
        assert_eq!(vault.get("backup/c/a").await.unwrap_err().kind(), Kind::NotFound);
        for bad in ["b/1", "backup/../b", "backup//x/.."] {
            assert_eq!(vault.remove(bad).await.unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
    }
}
