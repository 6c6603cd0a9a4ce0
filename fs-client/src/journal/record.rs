//! The record of one change that close() accepted while the cell was away: what it holds and how it
//! stands on disk (docs/FORMATS.md, "Journal directory").

use serde::{Deserialize, Serialize};
use sitefs_base::limits::{CHUNK_SIZE, FILE_MAX};
use sitefs_base::op::{Create, Place, SetAttr};
use sitefs_base::{Digest, Error, Incarnation, InodeId, OpId, Result, Seq, SessionId, Time, VolumeId};
use sitefs_blobstore::hash;

/// How a record begins.
const MAGIC: [u8; 4] = *b"SFJR";
/// The format that is written; no other one is read.
const FORMAT: u8 = 1;
/// Magic, format, and the length of the body.
const HEAD: usize = 9;
/// The SHA-512 of everything before it.
const SUM: usize = 64;

/// The volume that a record belongs to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Owner {
    /// The cell's name.
    pub cell: String,
    /// The volume's name.
    pub volume: String,
    /// Its number: another volume of the same name has other inodes.
    pub id: VolumeId,
}

/// An operation that was sent and not answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SentOp {
    /// The operation.
    pub op: OpId,
    /// Whether it carried what the record holds; if not, what the file held earlier.
    pub current: bool,
}

/// A file that the cell did not know when it was journaled.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewFile {
    /// The name that it will have.
    pub place: Place,
    /// Its owner and mode.
    pub create: Create,
    /// When it was created.
    pub created: Time,
}

/// One chunk of the content.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Piece {
    /// The chunk's number: it begins at that many times 4 MiB.
    pub chunk: u32,
    /// Its length in bytes.
    pub len: u32,
    /// The digest of its bytes; none if all of them are zero.
    pub digest: Option<Digest>,
}

impl Piece {
    /// Where it begins in the file.
    pub fn offset(&self) -> u64 {
        u64::from(self.chunk) * CHUNK_SIZE
    }
}

/// Content that stands in a file beside the record, at its own offsets.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stored {
    /// The length of the file.
    pub size: u64,
    /// Whether the pieces are all of it; if not, what lies between is as the base version has it.
    pub complete: bool,
    /// What is there, ascending.
    pub pieces: Vec<Piece>,
}

impl Stored {
    fn is_sound(&self) -> bool {
        let inside = |piece: &Piece| {
            let len = u64::from(piece.len);
            len > 0 && len <= CHUNK_SIZE && piece.offset() + len <= self.size
        };
        self.size <= FILE_MAX
            && self.pieces.iter().all(inside)
            && self.pieces.is_sorted_by(|one, next| one.chunk < next.chunk)
    }

    /// The bytes of the pieces.
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| u64::from(piece.len)).sum()
    }
}

/// A change of one file that the cell does not have yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Whose it is.
    pub owner: Owner,
    /// The incarnation of the cell's group.
    pub incarnation: Incarnation,
    /// The session that made it.
    pub session: SessionId,
    /// The operation of that session whose outcome is not known.
    pub sent: Option<SentOp>,
    /// The older record of the same file that this one holds too.
    pub replaces: Option<u64>,
    /// When it was journaled.
    pub at: Time,
    /// Where the file was, as far as it was known: for people.
    pub path: String,
    /// The inode.
    pub ino: InodeId,
    /// The content version that this one grew from; none if the cell had none.
    pub base: Option<Seq>,
    /// The file's first name, if the cell may not know it.
    pub new: Option<NewFile>,
    /// Changes of attributes.
    pub set: SetAttr,
    /// When content last changed.
    pub written: Option<Time>,
    /// When anything last changed.
    pub changed: Option<Time>,
    /// New content.
    pub content: Option<Stored>,
}

/// What bytes that should be a record are.
#[derive(Clone, PartialEq, Debug)]
pub enum Read {
    /// A record.
    Sound(Box<Record>),
    /// Whole, and of a format that this version does not know.
    Newer(u8),
    /// Not as they were written.
    Damaged(&'static str),
}

impl Record {
    /// The bytes of the record's file.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let failed = |error| Error::internal("encoding a journal record").because(error);
        let body = postcard::to_stdvec(self).map_err(failed)?;
        let len = u32::try_from(body.len()).map_err(|_| Error::internal("a journal record is too long"))?;
        let mut bytes = Vec::with_capacity(HEAD + body.len() + SUM);
        bytes.extend_from_slice(&MAGIC);
        bytes.push(FORMAT);
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(&body);
        let sum = hash(&bytes);
        bytes.extend_from_slice(sum.as_bytes());
        Ok(bytes)
    }

    /// Reads the bytes of a record's file; never half of them.
    pub fn decode(bytes: &[u8]) -> Read {
        let Some((head, sum)) = bytes.len().checked_sub(SUM).map(|end| bytes.split_at(end)) else {
            return Read::Damaged("it is cut off");
        };
        if hash(head).as_bytes().as_slice() != sum {
            return Read::Damaged("its checksum is wrong");
        }
        let Some((begin, body)) = head.split_at_checked(HEAD) else {
            return Read::Damaged("it is too short");
        };
        if begin[..4] != MAGIC {
            return Read::Damaged("it is no journal record");
        }
        if begin[4] != FORMAT {
            return Read::Newer(begin[4]);
        }
        if begin[5..] != u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes() {
            return Read::Damaged("its length is wrong");
        }
        match postcard::take_from_bytes::<Self>(body) {
            Ok((record, [])) if record.content.as_ref().is_none_or(Stored::is_sound) => {
                Read::Sound(Box::new(record))
            }
            Ok((_, [])) => Read::Damaged("its content makes no file"),
            Ok(_) => Read::Damaged("it is longer than what it says"),
            Err(_) => Read::Damaged("it cannot be read"),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use sitefs_base::Name;

    pub fn sample(ino: u64) -> Record {
        Record {
            owner: Owner { cell: "main".to_owned(), volume: "acme/live".to_owned(), id: VolumeId::new(3) },
            incarnation: Incarnation::new(1),
            session: SessionId::new(77),
            sent: Some(SentOp { op: OpId::new(9), current: true }),
            replaces: None,
            at: Time::new(1_700_000_000, 5),
            path: "/wp-content/a.css".to_owned(),
            ino: InodeId::new(ino),
            base: None,
            new: Some(NewFile {
                place: Place { parent: InodeId::ROOT, name: Name::new(&b"a.css"[..]).unwrap() },
                create: Create { mode: 0o644, umask: 0, uid: 33, gid: 33 },
                created: Time::new(1_700_000_000, 1),
            }),
            set: SetAttr::default(),
            written: Some(Time::new(1_700_000_000, 2)),
            changed: None,
            content: Some(Stored {
                size: 5,
                complete: true,
                pieces: vec![Piece { chunk: 0, len: 5, digest: Some(hash(b"hello")) }],
            }),
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let record = sample(7);
        assert_eq!(Record::decode(&record.encode().unwrap()), Read::Sound(Box::new(record)));
    }

    #[test]
    fn a_record_of_a_later_version_is_told_from_a_damaged_one() {
        let mut bytes = sample(7).encode().unwrap();
        let end = bytes.len() - SUM;
        bytes[4] = 2;
        assert_eq!(Record::decode(&bytes), Read::Damaged("its checksum is wrong"));
        let sum = hash(&bytes[..end]);
        bytes[end..].copy_from_slice(sum.as_bytes());
        assert_eq!(Record::decode(&bytes), Read::Newer(2));
    }

    proptest! {
        #[test]
        fn no_changed_byte_and_no_cut_goes_unnoticed(at in any::<prop::sample::Index>(), flip in 1u8..=255, cut in any::<bool>()) {
            let mut bytes = sample(7).encode().unwrap();
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= flip }
            prop_assert!(matches!(Record::decode(&bytes), Read::Damaged(_)));
        }

        #[test]
        fn arbitrary_bytes_are_no_record(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(matches!(Record::decode(&bytes), Read::Damaged(_)));
        }

        #[test]
        fn a_body_of_arbitrary_bytes_never_panics(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = MAGIC.to_vec();
            bytes.push(FORMAT);
            bytes.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(&body);
            let sum = hash(&bytes);
            bytes.extend_from_slice(sum.as_bytes());
            if let Read::Sound(record) = Record::decode(&bytes) {
                prop_assert!(record.encode().is_ok());
            }
        }
    }
}
