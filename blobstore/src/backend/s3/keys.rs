//! Where the keys to a bucket come from: the environment, or a file as all AWS tools read it.

use super::Credentials;
use aws_credential_types::provider::{error::CredentialsError, future};
use aws_sdk_s3::config::ProvideCredentials;
use sitefs_base::{Error, Result};
use std::{
    env,
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// A file of keys is small.
const FILE_MAX: u64 = 1 << 20;

/// The keys, as they are at the moment.
#[derive(Debug)]
pub(super) enum Keys {
    /// They do not change.
    Fixed(Credentials),
    /// They are read again when the file changes.
    File(KeyFile),
}

/// A file with keys, and what it said last.
#[derive(Debug)]
pub(super) struct KeyFile {
    path: PathBuf,
    profile: String,
    last: Mutex<Option<(Stamp, Credentials)>>,
}

/// Tells that a file is the one that was read.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

fn stamp(there: &Metadata) -> Stamp {
    let (dev, ino, size) = (there.dev(), there.ino(), there.size());
    (dev, ino, size, there.mtime(), there.mtime_nsec(), there.ctime(), there.ctime_nsec())
}

/// A variable that says something.
fn set(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

impl Keys {
    /// From `AWS_ACCESS_KEY_ID` and its relatives, else from the profile `AWS_PROFILE` of the file
    /// `AWS_SHARED_CREDENTIALS_FILE` or `~/.aws/credentials`.
    pub fn find() -> Result<Self> {
        let home = || set("HOME").map(|home| Path::new(&home).join(".aws/credentials"));
        let named = set("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from);
        let is_in_env = set("AWS_ACCESS_KEY_ID").is_some();
        match named.clone().or_else(home).filter(|file| named.is_some() || file.exists()) {
            Some(path) if !is_in_env => {
                let profile = set("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
                Self::in_file(path, profile)
            }
            _ => Credentials::from_env().map(Self::Fixed),
        }
    }

    /// From a profile of a file, which must have it now.
    pub fn in_file(path: PathBuf, profile: String) -> Result<Self> {
        let file = KeyFile { path, profile, last: Mutex::new(None) };
        file.keys()?;
        Ok(Self::File(file))
    }

    /// The keys now.
    pub fn keys(&self) -> Result<Credentials> {
        match self {
            Self::Fixed(keys) => Ok(keys.clone()),
            Self::File(file) => file.keys(),
        }
    }
}

impl KeyFile {
    /// What the file says, read again if it changed. While it cannot be read the last keys count.
    fn keys(&self) -> Result<Credentials> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let there = fs::metadata(&self.path).map(|there| (stamp(&there), there.size()));
        match (&*last, &there) {
            (Some((seen, keys)), Ok((now, _))) if seen == now => return Ok(keys.clone()),
            (Some((_, keys)), Err(error)) => {
                tracing::debug!(file = %self.path.display(), %error, "the file of S3 keys cannot be read");
                return Ok(keys.clone());
            }
            _ => {}
        }
        let seen = there.as_ref().ok().map(|(now, _)| *now);
        let read = there.map_err(|error| self.unreadable(error)).and_then(|(now, size)| {
            let text = if size > FILE_MAX { String::new() } else { self.text()? };
            Ok((now, parse(&text, &self.profile).ok_or_else(|| self.without_keys())?))
        });
        match (read, &mut *last) {
            (Ok((now, keys)), before) => {
                if before.is_some() {
                    tracing::info!(file = %self.path.display(), "the S3 keys were read again");
                }
                *before = Some((now, keys.clone()));
                Ok(keys)
            }
            // It is being written, or somebody has spoilt it: the store will say if the old ones are void.
            (Err(error), Some((stamp, keys))) => {
                tracing::warn!(error = error.chain(), "the S3 keys are not read again");
                // That is said once, and tried again when the file changes.
                *stamp = seen.unwrap_or(*stamp);
                Ok(keys.clone())
            }
            (Err(error), None) => Err(error),
        }
    }

    fn text(&self) -> Result<String> {
        fs::read_to_string(&self.path).map_err(|error| self.unreadable(error))
    }

    fn unreadable(&self, error: std::io::Error) -> Error {
        Error::io(format!("reading the S3 keys in {}", self.path.display()), error)
    }

    fn without_keys(&self) -> Error {
        Error::invalid(format!(
            "{} has no profile [{}] with aws_access_key_id and aws_secret_access_key: add it, or set AWS_PROFILE",
            self.path.display(),
            self.profile
        ))
    }
}

/// The keys of a profile in a file as `aws configure` writes it.
fn parse(text: &str, profile: &str) -> Option<Credentials> {
    let (mut id, mut secret, mut token) = (None, None, None);
    let mut is_ours = false;
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            is_ours = name.trim() == profile;
            continue;
        }
        let Some((name, value)) = line.split_once('=').filter(|_| is_ours) else { continue };
        let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
        match name.trim() {
            "aws_access_key_id" => id = value,
            "aws_secret_access_key" => secret = value,
            "aws_session_token" => token = value,
            _ => {}
        }
    }
    Some(Credentials { access_key_id: id?, secret_access_key: secret?, session_token: token })
}

impl ProvideCredentials for Keys {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let keys = self.keys().map(|keys| {
            let Credentials { access_key_id, secret_access_key, session_token } = keys;
            aws_sdk_s3::config::Credentials::new(
                access_key_id,
                secret_access_key,
                session_token,
                None,
                "sitefs",
            )
        });
        future::ProvideCredentials::ready(
            keys.map_err(|error| CredentialsError::provider_error(error.chain())),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# of two people\n[default]\naws_access_key_id = A\naws_secret_access_key=S\n\n\
                        [other]\naws_access_key_id=B\naws_secret_access_key = T=\naws_session_token = K\n[half]\naws_access_key_id=C\n";

    #[test]
    fn a_file_of_keys_has_profiles() {
        let of = |profile: &str| parse(TEXT, profile);
        let keys = |id: &str, secret: &str, token: Option<&str>| Credentials {
            access_key_id: id.to_owned(),
            secret_access_key: secret.to_owned(),
            session_token: token.map(str::to_owned),
        };
        assert_eq!(of("default"), Some(keys("A", "S", None)));
        assert_eq!(of("other"), Some(keys("B", "T=", Some("K"))));
        assert_eq!((of("half"), of("none")), (None, None));
    }

    #[test]
    fn a_file_of_keys_is_read_again_when_it_changes_and_not_forgotten_when_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let write = |id: &str| {
            let new = dir.path().join("new");
            fs::write(&new, format!("[x]\naws_access_key_id={id}\naws_secret_access_key=secret\n")).unwrap();
            fs::rename(new, &path).unwrap();
        };
        let open = || Keys::in_file(path.clone(), "x".to_owned());
        assert!(open().is_err());
        write("first");
        let keys = open().unwrap();
        let id = || keys.keys().unwrap().access_key_id;
        assert_eq!(id(), "first");
        write("second");
        assert_eq!(id(), "second");
        fs::write(&path, "[x]\naws_access_k").unwrap();
        assert_eq!(id(), "second", "half a file");
        fs::remove_file(&path).unwrap();
        assert_eq!(id(), "second");
        write("third");
        assert_eq!(id(), "third");
        assert!(!format!("{keys:?}").contains("secret"));
    }
}
