//! Where the blobs of a data directory are kept, and that this never changes by accident.

use sitefs_base::{Clock, Error, Kind, Result};
use sitefs_blobstore::{Backend, DirBackend, Vault};
use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where blobs are kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BackendConfig {
    /// In the data directory; blobs travel through the cell.
    Directory,
    /// In this directory, which all nodes of the cell see; blobs travel through the cell.
    Shared(PathBuf),
    /// In a bucket, with the keys of the environment (`AWS_ACCESS_KEY_ID` and so on).
    S3 {
        /// The URL of a store that is not AWS.
        endpoint: Option<String>,
        /// The bucket, which must exist.
        bucket: String,
        /// The region; needed for AWS.
        region: Option<String>,
    },
}

impl BackendConfig {
    /// What the file `backend` of a data directory says. The region only finds the bucket.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Directory => "directory\n".to_owned(),
            Self::Shared(path) => format!("shared directory\n{}\n", path.display()),
            Self::S3 { endpoint, bucket, .. } => {
                format!("s3\nendpoint {}\nbucket {bucket}\n", endpoint.as_deref().unwrap_or("aws"))
            }
        }
    }

    /// The backend of a data directory, as it was remembered.
    pub(crate) fn of(data: &Path) -> Result<Self> {
        let found = match fs::read(file(data)) {
            Ok(found) => String::from_utf8_lossy(&found).into_owned(),
            // It is remembered when a server has started.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::Directory),
            Err(error) => return Err(Error::io(format!("reading {}", file(data).display()), error)),
        };
        let lines: Vec<&str> = found.lines().collect();
        match lines[..] {
            ["directory"] => Ok(Self::Directory),
            ["shared directory", path] => Ok(Self::Shared(path.into())),
            ["s3", endpoint, bucket] => {
                let endpoint = endpoint.strip_prefix("endpoint ").filter(|endpoint| *endpoint != "aws");
                let bucket = bucket.strip_prefix("bucket ").unwrap_or_default().to_owned();
                Ok(Self::S3 { endpoint: endpoint.map(str::to_owned), bucket, region: None })
            }
            _ => Err(Error::invalid(format!(
                "{} says {:?}: use the sitefs version that wrote it",
                file(data).display(),
                one_line(&found)
            ))),
        }
    }

    /// Opens the backend without trying it: nothing is written there.
    pub(crate) fn reach(&self, data: &Path, clock: Arc<dyn Clock>) -> Result<Arc<dyn Backend>> {
        self.make(data, clock)
    }

    /// Refuses another backend than the one that the blobs of `data` are in.
    pub(crate) fn check_same(&self, data: &Path) -> Result<()> {
        let found = match fs::read(file(data)) {
            Ok(found) => String::from_utf8_lossy(&found).into_owned(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io(format!("reading {}", file(data).display()), error)),
        };
        if found == self.text() {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the blobs of {} are in {}, not in {}: configure the backend that holds them, or use another data \
             directory",
            data.display(),
            one_line(&found),
            one_line(&self.text())
        )))
    }

    /// Remembers the backend of `data`, once.
    pub(crate) fn remember(&self, data: &Path) -> Result<()> {
        let (path, new) = (file(data), data.join("backend.new"));
        if path.exists() {
            return Ok(());
        }
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(self.text().as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(data)?.sync_all()
        };
        write().map_err(|error| Error::io(format!("writing {}", path.display()), error))
    }

    /// Opens the backend and tries it. A cell that has used this store before starts without an answer from
    /// it: small files need none (DESIGN D35), and what is uploaded is read before it is believed.
    pub(crate) async fn open(&self, data: &Path, clock: Arc<dyn Clock>) -> Result<Arc<dyn Backend>> {
        let backend = self.make(data, clock)?;
        match backend.check().await {
            Err(error)
                if error.kind() == Kind::Unavailable
                    && matches!(self, Self::S3 { .. })
                    && file(data).exists() =>
            {
                tracing::warn!(
                    error = error.chain(),
                    "the object store does not answer, starting without it"
                );
            }
            checked => checked?,
        }
        Ok(backend)
    }

    /// The bucket as a place for backups; none if the blobs are in a directory.
    pub fn vault(&self, clock: Arc<dyn Clock>) -> Result<Option<Arc<dyn Vault>>> {
        match self {
            Self::Directory | Self::Shared(_) => Ok(None),
            #[cfg(feature = "s3")]
            Self::S3 { endpoint, bucket, region } => Ok(Some(bucket_of(endpoint, bucket, region, clock)?)),
            #[cfg(not(feature = "s3"))]
            Self::S3 { .. } => {
                drop(clock);
                Err(Error::invalid("this build cannot use S3: build it with the feature s3"))
            }
        }
    }

    fn make(&self, data: &Path, clock: Arc<dyn Clock>) -> Result<Arc<dyn Backend>> {
        match self {
            Self::Directory => Ok(Arc::new(DirBackend::open(data.join("blobs"))?)),
            Self::Shared(path) => Ok(Arc::new(DirBackend::open_shared(path)?)),
            #[cfg(feature = "s3")]
            Self::S3 { endpoint, bucket, region } => Ok(bucket_of(endpoint, bucket, region, clock)?),
            #[cfg(not(feature = "s3"))]
            Self::S3 { .. } => {
                drop(clock);
                Err(Error::invalid("this build cannot use S3: build it with the feature s3"))
            }
        }
    }
}

/// A bucket, with the keys of the environment.
#[cfg(feature = "s3")]
fn bucket_of(
    endpoint: &Option<String>,
    bucket: &str,
    region: &Option<String>,
    clock: Arc<dyn Clock>,
) -> Result<Arc<sitefs_blobstore::S3Backend>> {
    let config = sitefs_blobstore::S3Config {
        endpoint: endpoint.clone(),
        bucket: bucket.to_owned(),
        region: region.clone(),
        credentials: None,
    };
    Ok(Arc::new(sitefs_blobstore::S3Backend::connect(config, clock)?))
}

fn file(data: &Path) -> PathBuf {
    data.join("backend")
}

fn one_line(text: &str) -> String {
    text.trim_end().replace('\n', ", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(name: &str, region: &str) -> BackendConfig {
        BackendConfig::S3 {
            endpoint: Some("http://127.0.0.1:9000".to_owned()),
            bucket: name.to_owned(),
            region: Some(region.to_owned()),
        }
    }

    #[test]
    fn a_data_directory_keeps_its_backend() {
        let dir = tempfile::tempdir().unwrap();
        bucket("one", "a").check_same(dir.path()).unwrap();
        bucket("one", "a").remember(dir.path()).unwrap();
        bucket("one", "b").check_same(dir.path()).unwrap();
        let error = bucket("two", "a").check_same(dir.path()).unwrap_err();
        assert!(error.doing().contains("bucket one, not in s3"), "{error}");
        assert!(BackendConfig::Directory.check_same(dir.path()).is_err());
        fs::write(dir.path().join("backend"), b"\xff\xfe").unwrap();
        let error = bucket("one", "a").check_same(dir.path()).unwrap_err();
        assert_eq!(error.kind(), sitefs_base::Kind::Invalid);
    }
}
