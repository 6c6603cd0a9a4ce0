//! The record of one change that close() accepted while the cell was away: what it holds and how it
//! stands on disk (docs/FORMATS.md, "Journal directory").

use serde::{Deserialize, Serialize};
use sitefs_base::limits::{CHUNK_SIZE, FILE_MAX, HOT_MAX};
use sitefs_base::op::{Create, Place, SetAttr};
use sitefs_base::{Digest, Error, Incarnation, InodeId, OpId, Result, Seq, SessionId, Time, VolumeId};
use sitefs_blobstore::hash;

/// How a record begins.
const MAGIC: [u8; 4] = *b"SFJR";
/// The format that is written.
const FORMAT: u8 = 2;
/// The oldest format that is read: its body ends before `appends`.
const FORMAT_MIN: u8 = 1;
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

/// What one append of a record adds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Append {
    /// Its length in bytes.
    pub len: u32,
    /// When the last of them were written.
    pub written: Time,
    /// Whether the writer may not keep set-id bits.
    pub kill_setid: bool,
}

/// Content that is to be added at the end of the file, by one operation after the other.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Appends {
    /// The operations, in order; together they carry the content. None if the content stands at offsets.
    pub all: Vec<Append>,
    /// So many of them the cell has.
    pub landed: u32,
}

impl Appends {
    /// Whether the content stands at offsets, or there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// How many the cell may not have.
    pub fn left(&self) -> &[Append] {
        usize::try_from(self.landed).ok().and_then(|landed| self.all.get(landed..)).unwrap_or_default()
    }

    /// Where in the content the first begins that the cell may not have.
    pub fn landed_bytes(&self) -> u64 {
        let len = |appends: &[Append]| appends.iter().map(|append| u64::from(append.len)).sum::<u64>();
        len(&self.all) - len(self.left())
    }

    fn is_sound(&self, content: Option<&Stored>) -> bool {
        let is_sound = |append: &Append| (1..=HOT_MAX).contains(&(append.len as usize));
        let len: u64 = self.all.iter().map(|append| u64::from(append.len)).sum();
        let is_whole = |stored: &Stored| stored.size == len && stored.bytes() == len;
        let fits = self.is_empty() || content.is_some_and(is_whole);
        fits && self.landed as usize <= self.all.len() && self.all.iter().all(is_sound)
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
    /// The operation of that session whose outcome is not known: the first append that the cell may not
    /// have, else a commit.
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
    /// What of it is appended: all or nothing.
    pub appends: Appends,
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
        if begin[4] > FORMAT {
            return Read::Newer(begin[4]);
        }
        if begin[4] < FORMAT_MIN {
            return Read::Damaged("it has no format");
        }
        if begin[5..] != u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes() {
            return Read::Damaged("its length is wrong");
        }
        // A body of format 1 goes on with no appends, of which none have landed.
        let longer = if begin[4] == FORMAT { Vec::new() } else { [body, &[0, 0]].concat() };
        match postcard::take_from_bytes::<Self>(if longer.is_empty() { body } else { &longer }) {
            Ok((record, [])) if record.is_sound() => Read::Sound(Box::new(record)),
            Ok((_, [])) => Read::Damaged("its content makes no file"),
            Ok(_) => Read::Damaged("it is longer than what it says"),
            Err(_) => Read::Damaged("it cannot be read"),
        }
    }

    /// Appends go on in whichever incarnation of the cell they are sent to; versions of another one mean
    /// nothing.
    pub fn of_incarnation(&mut self, now: Option<Incarnation>) {
        if let Some(now) = now.filter(|now| *now != self.incarnation && !self.appends.is_empty()) {
            (self.incarnation, self.base) = (now, None);
        }
    }

    fn is_sound(&self) -> bool {
        self.content.as_ref().is_none_or(Stored::is_sound) && self.appends.is_sound(self.content.as_ref())
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
            appends: Appends::default(),
        }
    }

    /// `bytes` of [`sample`] as a record of another format.
    pub fn reformat(mut bytes: Vec<u8>, format: u8, body: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let body = body(&bytes[HEAD..bytes.len() - SUM]);
        bytes.truncate(4);
        bytes.push(format);
        bytes.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(&body);
        let sum = hash(&bytes);
        bytes.extend_from_slice(sum.as_bytes());
        bytes
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let record = sample(7);
        assert_eq!(Record::decode(&record.encode().unwrap()), Read::Sound(Box::new(record)));
    }

    #[test]
    fn a_record_of_a_later_version_is_told_from_a_damaged_one() {
        let mut bytes = sample(7).encode().unwrap();
        bytes[4] = 3;
        assert_eq!(Record::decode(&bytes), Read::Damaged("its checksum is wrong"));
        assert_eq!(Record::decode(&reformat(bytes, 3, <[u8]>::to_vec)), Read::Newer(3));
    }

    #[test]
    fn a_record_of_the_first_version_is_read() {
        let first = |body: &[u8]| body[..body.len() - 2].to_vec();
        let bytes = reformat(sample(7).encode().unwrap(), 1, first);
        assert_eq!(Record::decode(&bytes), Read::Sound(Box::new(sample(7))));
    }

    #[test]
    fn appends_make_up_the_content_or_there_are_none() {
        let append = |len| Append { len, written: Time::new(1, 0), kill_setid: false };
        let with = |lens: &[u32], landed| {
            let appends = Appends { all: lens.iter().copied().map(append).collect(), landed };
            Record { appends, ..sample(7) }
        };
        let sound = with(&[2, 3], 1);
        assert_eq!((sound.appends.left().len(), sound.appends.landed_bytes()), (1, 2));
        assert_eq!(Record::decode(&sound.encode().unwrap()), Read::Sound(Box::new(sound)));
        for damaged in [with(&[2, 2], 0), with(&[2, 3], 3), with(&[5, 0], 0), with(&[], 1)] {
            assert!(matches!(Record::decode(&damaged.encode().unwrap()), Read::Damaged(_)), "{damaged:?}");
        }
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
