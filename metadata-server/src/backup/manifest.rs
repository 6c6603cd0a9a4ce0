//! What a backup consists of: JSON, and a last line with its SHA-512.

use serde::{Deserialize, Serialize};
use sitefs_base::{Digest, Error, GroupId, Result, Time};
use sitefs_blobstore::{Vault, hash};

const FORMAT: u32 = 1;
const CHECKSUM: &str = "sha512 ";

/// A backup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub format: u32,
    pub id: String,
    pub cell: String,
    pub group: u32,
    pub incarnation: u32,
    /// The last log entry that its rows contain.
    pub index: u64,
    pub term: u64,
    /// When it was begun; the state is at least as new.
    #[serde(with = "text")]
    pub at: Time,
    /// The program that made it.
    pub version: String,
    /// What the file `backend` of the data directory says.
    pub backend: String,
    /// The files of the state database.
    pub files: Vec<Stored>,
    /// The keys of the blobs, one a line, where the backup has copies of them.
    pub objects: Option<Stored>,
}

/// A file, in parts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stored {
    pub name: String,
    pub size: u64,
    #[serde(with = "text")]
    pub sha512: Digest,
    pub parts: Vec<Part>,
}

/// A piece of a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    pub size: u64,
    #[serde(with = "text")]
    pub sha512: Digest,
    /// The backup that sent it.
    pub from: String,
}

impl Manifest {
    pub(super) fn new(id: String, cell: String, group: GroupId) -> Self {
        Self {
            format: FORMAT,
            id,
            cell,
            group: group.get(),
            incarnation: 0,
            index: 0,
            term: 0,
            at: Time::EPOCH,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            backend: String::new(),
            files: Vec::new(),
            objects: None,
        }
    }

    /// All parts that it names.
    pub(super) fn parts(&self) -> impl Iterator<Item = &Part> {
        self.files.iter().chain(&self.objects).flat_map(|file| &file.parts)
    }

    /// Bytes of all its files.
    pub(super) fn size(&self) -> u64 {
        self.files.iter().chain(&self.objects).map(|file| file.size).sum()
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::internal("encoding a manifest").because(error))?;
        bytes.push(b'\n');
        let checksum = hash(&bytes);
        bytes.extend(format!("{CHECKSUM}{checksum}\n").into_bytes());
        Ok(bytes)
    }

    fn decode(name: &str, bytes: &[u8]) -> Result<Self> {
        let bad = |why: &str| Error::corrupt(format!("the manifest {name} {why}"));
        let text = std::str::from_utf8(bytes).map_err(|_| bad("is no text"))?;
        let (body, checksum) = text
            .trim_end_matches('\n')
            .rsplit_once('\n')
            .and_then(|(body, last)| Some((body, last.strip_prefix(CHECKSUM)?)))
            .ok_or_else(|| bad("is cut short"))?;
        let body = &bytes[..=body.len()];
        if hash(body).to_string() != checksum {
            return Err(bad("is damaged: its checksum is another one"));
        }
        let format = serde_json::from_slice::<serde_json::Value>(body);
        let format = format.map_err(|error| bad("is not JSON").because(error))?["format"].as_u64();
        if format != Some(u64::from(FORMAT)) {
            return Err(Error::invalid(format!(
                "the manifest {name} has format {format:?}, this version knows {FORMAT}: use the version that wrote it"
            )));
        }
        serde_json::from_slice(body).map_err(|error| bad("has an unknown form").because(error))
    }

    /// Reads one.
    pub(super) async fn read(vault: &dyn Vault, name: &str) -> Result<Self> {
        Self::decode(name, &vault.get(name).await?)
    }
}

/// A value in the form in which people read it.
mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::{fmt::Display, str::FromStr};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitefs_base::Kind;

    fn manifest() -> Manifest {
        let part = Part { size: 3, sha512: hash(b"abc"), from: "x".to_owned() };
        let file = Stored { name: "1.sst".to_owned(), size: 3, sha512: hash(b"abc"), parts: vec![part] };
        let mut manifest = Manifest::new("id".to_owned(), "main".to_owned(), GroupId::new(1));
        manifest.files.push(file);
        manifest
    }

    #[test]
    fn a_manifest_comes_back_and_a_changed_byte_is_seen() {
        let bytes = manifest().encode().unwrap();
        assert_eq!(Manifest::decode("m", &bytes).unwrap(), manifest());
        for place in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[place] ^= 1;
            assert!(Manifest::decode("m", &damaged).is_err(), "byte {place}");
            assert!(Manifest::decode("m", &bytes[..place]).is_err() || place + 1 == bytes.len());
        }
    }

    #[test]
    fn a_later_format_is_told_from_damage() {
        let later = Manifest { format: 2, ..manifest() }.encode().unwrap();
        assert_eq!(Manifest::decode("m", &later).unwrap_err().kind(), Kind::Invalid);
    }
}
